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
mod http2;
mod nameserver;
mod oracle;
mod probe;
mod random;
mod report;
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

use cases::Case;
use oracle::{Kind, Side};
use report::{Outcome, Report};

/// Cases that run at the same time.
const PARALLEL: usize = 6;
/// Random cases of a normal run.
const RANDOM: usize = 1000;

const USAGE: &str = "\
usage: tests/conformance/run [OPTIONS] [CASE...]
  CASE            only cases whose name starts so (R, R27, R44/regex)
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
    let wanted = |case: &Case| {
        options.only.is_empty()
            || options.only.iter().any(|only| case.id.starts_with(only.as_str()))
    };
    let cases: Vec<Case> = cases::all().into_iter().filter(wanted).collect();
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
    let random = options.random.unwrap_or(if options.only.is_empty() { RANDOM } else { 0 });
    let random = (random > 0).then(|| random::run(&envoy, &radiant, options.seed, random));
    let mut report = Report::new(outcomes, random, began.elapsed(), options.only.is_empty())?;
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

/// First those that mind nobody, several at a time; then the others.
fn run_all(cases: &[Case], envoy: &Side, radiant: &Side) -> Vec<Outcome> {
    let (alone, together): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| case.alone);
    let outcomes = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while envoy.is_alive()
                    && radiant.is_alive()
                    && let Some(case) = together.get(next.fetch_add(1, Ordering::SeqCst))
                {
                    let outcome = run_one(case, envoy, radiant);
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.extend(alone.iter().map(|case| run_one(case, envoy, radiant)));
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
