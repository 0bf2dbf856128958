//! The conformance suite: the real Envoy and Radiant side by side, each
//! programmed by its own copy of the embedded scheduler, the same traffic for
//! both, and every difference told. `tests/conformance/run` runs it.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed case
#![allow(unreachable_pub)] // a binary of many files has no public API

mod cases;
#[path = "../it/support/certificates.rs"]
#[allow(dead_code)] // the in-process tests need more of it
mod certificates;
mod client;
mod corpus;
mod discovery;
mod http2;
mod lab;
mod nameserver;
mod oracle;
mod probe;
mod random;
mod recorder;
mod report;
#[path = "../data/http1/table.rs"]
mod table;
#[path = "../it/support/terminator.rs"]
#[allow(dead_code)]
mod terminator;
mod tls;
mod upstream;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cases::{Case, With};
use oracle::{Kind, Side};
use report::{Outcome, Report};

/// Cases that run at the same time.
const PARALLEL: usize = 6;
/// Cases with proxies of their own that run at the same time; most of them wait.
const PARALLEL_OWN: usize = 4;
/// Random cases of a normal run.
const RANDOM: usize = 1000;

const USAGE: &str = "\
usage: tests/conformance/run [OPTIONS] [CASE...]
  CASE            only cases whose name starts so (R, R27, R44/regex,
                  corpus/smuggling)
  --report        write docs/conformance.md
  --verbose       show the transcripts of what ran
  --list          name the cases and end
  --random N      random cases (default: 1000, none if CASE is given)
  --seed N        of the random cases (default: 1)
";

struct Options {
    only: Vec<String>,
    report: bool,
    verbose: bool,
    list: bool,
    random: Option<usize>,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        only: Vec::new(),
        report: false,
        verbose: false,
        list: false,
        random: None,
        seed: 1,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            value.ok_or_else(|| format!("{argument}: a number is missing\n{USAGE}"))
        };
        match argument.as_str() {
            "--random" => options.random = Some(number()? as usize),
            "--seed" => options.seed = number()?,
            "--report" => options.report = true,
            "--verbose" => options.verbose = true,
            "--list" => options.list = true,
            "--help" | "-h" => return Err(USAGE.to_owned()),
            flag if flag.starts_with('-') => return Err(format!("{flag}: unknown\n{USAGE}")),
            case => options.only.push(case.to_owned()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| conform(&options).map_err(|e| e.to_string())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// True if nothing is unexplained.
fn conform(options: &Options) -> std::io::Result<bool> {
    let is_wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    let cases: Vec<Case> = cases::all().into_iter().filter(|case| is_wanted(&case.id)).collect();
    if options.list {
        for case in &cases {
            println!("{}", case.id);
        }
        return Ok(true);
    }
    // Broken-off cases are told in the report.
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/conformance/run");
    let (envoy, radiant) = start(&dir)?;
    let outcomes = run_all(&cases, &envoy, &radiant);
    let _ = std::panic::take_hook();
    let random = options.random.unwrap_or(if options.only.is_empty() { RANDOM } else { 0 });
    let random = (random > 0).then(|| random::run(&envoy, &radiant, options.seed, random));
    let corpus = options.only.is_empty() || options.only.iter().any(|o| o.starts_with("corpus"));
    let corpus = corpus.then(|| corpus::run(&envoy, &radiant, is_wanted));
    let mut report =
        Report::new(outcomes, random, corpus, began.elapsed(), options.only.is_empty())?;
    report.alive(&envoy, &radiant);
    report.print(options.verbose);
    if options.report {
        report.write()?;
    }
    Ok(report.is_good())
}

fn start(dir: &Path) -> std::io::Result<(Side, Side)> {
    let envoy = Side::start(Kind::Envoy, dir)?;
    let radiant = Side::start(Kind::Radiant, dir)?;
    envoy.wait_live()?;
    radiant.wait_live()?;
    Ok((envoy, radiant))
}

/// First those that mind nobody, several at a time; then those that want the
/// suite's proxies for themselves. Cases with proxies of their own run beside.
fn run_all(cases: &[Case], envoy: &Side, radiant: &Side) -> Vec<Outcome> {
    let of = |with: With| -> Vec<&Case> { cases.iter().filter(|c| c.with == with).collect() };
    let (together, alone, own) = (of(With::Shared), of(With::Alone), of(With::Own));
    let outcomes = Mutex::new(Vec::new());
    let work = |list: &[&Case], next: &AtomicUsize| {
        while envoy.is_alive()
            && radiant.is_alive()
            && let Some(case) = list.get(next.fetch_add(1, Ordering::SeqCst))
        {
            let outcome = run_one(case, envoy, radiant);
            outcomes.lock().unwrap().push(outcome);
        }
    };
    let next_own = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_OWN {
            scope.spawn(|| work(&own, &next_own));
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| work(&together, &next));
            }
        });
        work(&alone, &AtomicUsize::new(0));
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by(|a, b| a.id.cmp(&b.id));
    outcomes
}

fn run_one(case: &Case, envoy: &Side, radiant: &Side) -> Outcome {
    let began = Instant::now();
    let (envoy, radiant) = std::thread::scope(|scope| {
        let envoy = scope.spawn(|| probe::run(envoy, &case.id, &case.run));
        let radiant = probe::run(radiant, &case.id, &case.run);
        (envoy.join().expect("a case's panic is caught"), radiant)
    });
    Outcome { id: case.id.clone(), envoy, radiant, took: began.elapsed() }
}
