//! Judges what the sides did, and tells it: to the terminal and, if asked, as
//! `docs/conformance.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::corpus::Corpus;
use crate::oracle::{Kind, Side, plain_http};
use crate::probe::Transcript;
use crate::random;

const STATEMENTS: &str = include_str!("statements.tsv");
const DEVIATIONS: &str = include_str!("deviations.yaml");
/// Common lines that are shown around a difference.
const CONTEXT: usize = 1;
/// A difference is shown with at most this many lines.
const SHOWN: usize = 160;

/// What came of a case.
pub struct Outcome {
    pub id: String,
    pub envoy: Transcript,
    pub radiant: Transcript,
    pub took: Duration,
}

/// A case in which Radiant is known to differ.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deviation {
    case: String,
    kind: DeviationKind,
    reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum DeviationKind {
    /// Meant to be so.
    Choice,
    /// To be mended.
    Bug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Deviates,
    /// Differs and nobody said why.
    Different,
    /// Said to deviate, and does not.
    Stale,
    /// Envoy itself did not do what the case is about.
    Broken,
}

pub struct Report {
    outcomes: Vec<Outcome>,
    random: Option<random::Outcome>,
    corpus: Option<Corpus>,
    deviations: Vec<Deviation>,
    took: Duration,
    whole: bool,
    dead: Vec<&'static str>,
}

impl Report {
    /// `whole`: all cases ran.
    pub fn new(
        outcomes: Vec<Outcome>,
        random: Option<random::Outcome>,
        corpus: Option<Corpus>,
        took: Duration,
        whole: bool,
    ) -> io::Result<Self> {
        let deviations: Option<Vec<Deviation>> = serde_yaml_ng::from_str(DEVIATIONS)
            .map_err(|e| io::Error::other(format!("deviations.yaml: {e}")))?;
        let deviations = deviations.unwrap_or_default();
        let report = Self { outcomes, random, corpus, deviations, took, whole, dead: Vec::new() };
        if whole {
            for deviation in &report.deviations {
                if !report.all().any(|o| o.id == deviation.case) {
                    let message = format!("deviations.yaml: no case {}", deviation.case);
                    return Err(io::Error::other(message));
                }
            }
        }
        Ok(report)
    }

    /// Notes sides that did not survive.
    pub fn alive(&mut self, envoy: &Side, radiant: &Side) {
        for side in [envoy, radiant] {
            if plain_http(side.ports.admin, "GET", "/ready").is_err() {
                self.dead.push(match side.kind {
                    Kind::Envoy => "Envoy died",
                    Kind::Radiant => "Radiant died",
                });
            }
        }
    }

    pub fn is_good(&self) -> bool {
        let fine = |o| matches!(self.verdict(o), Verdict::Same | Verdict::Deviates);
        let random = self.random.as_ref().is_none_or(|r| r.differences.is_empty());
        // No deviation excuses a request that Envoy would not have sent.
        let safe = self.corpus.as_ref().is_none_or(|c| c.more.is_empty());
        let ran = self.all().next().is_some() || self.random.is_some();
        self.dead.is_empty() && ran && random && safe && self.all().all(fine)
    }

    /// Cases and messages of the corpus.
    fn all(&self) -> impl Iterator<Item = &Outcome> {
        let corpus = self.corpus.iter().flat_map(|corpus| &corpus.outcomes);
        self.outcomes.iter().chain(corpus)
    }

    fn deviation(&self, id: &str) -> Option<&Deviation> {
        self.deviations.iter().find(|d| d.case == id)
    }

    fn verdict(&self, outcome: &Outcome) -> Verdict {
        if !outcome.envoy.unmet.is_empty() {
            return Verdict::Broken;
        }
        let same = outcome.envoy == outcome.radiant;
        match (same, self.deviation(&outcome.id).is_some()) {
            (true, false) => Verdict::Same,
            (true, true) => Verdict::Stale,
            (false, true) => Verdict::Deviates,
            (false, false) => Verdict::Different,
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|o| self.verdict(o) == verdict).count()
    }

    pub fn print(&self, verbose: bool) {
        for outcome in self.all() {
            let verdict = self.verdict(outcome);
            match verdict {
                Verdict::Same => {}
                Verdict::Deviates => println!("{}: deviates, as known", outcome.id),
                Verdict::Stale => {
                    println!("{}: deviations.yaml has it, but there is no difference", outcome.id);
                }
                Verdict::Different | Verdict::Broken => {
                    println!("{}: {verdict:?} ({})", outcome.id, statement(&outcome.id));
                    print_difference(outcome);
                }
            }
            if verbose {
                println!("{} ({:?})", outcome.id, outcome.took);
                for line in &outcome.radiant.lines {
                    println!("    {line}");
                }
            }
        }
        if let Some(random) = &self.random {
            for difference in &random.differences {
                println!("random, seed {}: {difference}", random.seed);
            }
            println!("{}", random_summary(random));
        }
        if let Some(corpus) = &self.corpus {
            for name in &corpus.more {
                println!("{name}: Radiant forwards what Envoy does not");
            }
            println!("{}", self.corpus_summary(corpus));
        }
        for dead in &self.dead {
            println!("{dead}");
        }
        println!("{}", self.summary());
    }

    fn summary(&self) -> String {
        let mut slowest: Vec<_> = self.outcomes.iter().map(|o| (o.took, o.id.as_str())).collect();
        slowest.sort_unstable();
        let slowest =
            slowest.last().map_or(String::new(), |(took, id)| format!(", longest {id} {took:.1?}"));
        format!(
            "{} cases in {:.0?}{slowest}: {} the same, {} known deviations, {} different, {} stale, {} broken",
            self.outcomes.len(),
            self.took,
            self.count(Verdict::Same),
            self.count(Verdict::Deviates),
            self.count(Verdict::Different),
            self.count(Verdict::Stale),
            self.count(Verdict::Broken),
        )
    }

    fn corpus_summary(&self, corpus: &Corpus) -> String {
        let known = corpus.outcomes.iter().filter(|o| self.verdict(o) == Verdict::Deviates);
        format!(
            "{} raw HTTP/1 messages in {:.0?}, {} of them requests that Envoy does not answer \
             with 200: the upstream saw the same for {}, less for {}, more or other for {}; {} \
             known deviations",
            corpus.outcomes.len(),
            corpus.took,
            corpus.refused,
            corpus.outcomes.len() - corpus.less.len() - corpus.more.len(),
            corpus.less.len(),
            corpus.more.len(),
            known.count(),
        )
    }

    /// Writes `docs/conformance.md`.
    pub fn write(&self) -> io::Result<()> {
        if !self.whole {
            return Err(io::Error::other("--report needs a run of all cases"));
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
        std::fs::write(path, self.markdown())
    }

    fn markdown(&self) -> String {
        let mut text = String::from(
            "# Conformance\n\nGenerated by `tests/conformance/run --report`; not to be edited. \
             Each case sends the same traffic to the real Envoy 1.40.0 and to Radiant, both \
             programmed by the same scheduler, and compares replies, connections, what the \
             upstream received, logs and statistics. `date` and durations are not compared.\n\n",
        );
        let all = statements();
        let seen: Vec<_> = all.iter().filter(|s| s.mark.contains('V')).collect();
        let ran: BTreeSet<&str> = self.outcomes.iter().map(|o| statement_id(&o.id)).collect();
        let covered = seen.iter().filter(|s| ran.contains(s.id) || s.shown_by().is_some()).count();
        let excused = seen.iter().filter(|s| !ran.contains(s.id) && s.reason().is_some()).count();
        let _ = writeln!(
            text,
            "{} cases: {} the same, {} deviate. {covered} of {} statements seen on the real Envoy are covered, {excused} are not for the reason given.\n",
            self.outcomes.len(),
            self.count(Verdict::Same),
            self.count(Verdict::Deviates),
            seen.len(),
        );
        if let Some(random) = &self.random {
            let _ = writeln!(
                text,
                "{} random requests against random route tables (seed {}): {} differ.\n",
                random.cases,
                random.seed,
                random.differences.len(),
            );
        }
        if let Some(corpus) = &self.corpus {
            let _ = writeln!(
                text,
                "{} raw HTTP/1 messages, {} of them malformed or ambiguous requests that Envoy \
                 does not answer with 200: the upstream saw the same as with Envoy for {}, less \
                 for {}, more for {}. The client saw the same but for the deviations below.\n",
                corpus.outcomes.len(),
                corpus.refused,
                corpus.outcomes.len() - corpus.less.len() - corpus.more.len(),
                corpus.less.len(),
                corpus.more.len(),
            );
        }
        for (kind, title) in [
            (DeviationKind::Choice, "Deviations by choice"),
            (DeviationKind::Bug, "Deviations to be mended"),
        ] {
            let _ = writeln!(text, "## {title}\n");
            let list: Vec<_> = self.deviations.iter().filter(|d| d.kind == kind).collect();
            if list.is_empty() {
                text.push_str("None.\n\n");
                continue;
            }
            text.push_str("| case | statement | reason |\n|---|---|---|\n");
            for d in list {
                let _ = writeln!(text, "| {} | {} | {} |", d.case, statement(&d.case), d.reason);
            }
            text.push('\n');
        }
        text.push_str("## Statements\n\n| statement | cases | |\n|---|---|---|\n");
        let mut cases: BTreeMap<&str, usize> = BTreeMap::new();
        for outcome in &self.outcomes {
            *cases.entry(statement_id(&outcome.id)).or_default() += 1;
        }
        for s in &all {
            let count = match (cases.get(s.id), s.shown_by(), s.reason()) {
                (Some(count), ..) => count.to_string(),
                (None, Some(case), _) => format!("with {case}"),
                (None, None, Some(reason)) => format!("none: {reason}"),
                (None, None, None) => "none".to_owned(),
            };
            let _ = writeln!(text, "| {} | {count} | {} |", s.id, s.text.replace('|', "\\|"));
        }
        text
    }
}

fn random_summary(random: &random::Outcome) -> String {
    format!(
        "{} random cases (seed {}) in {:.0?}: {} different; statuses {:?}",
        random.cases,
        random.seed,
        random.took,
        random.differences.len(),
        random.statuses,
    )
}

struct Statement {
    id: &'static str,
    mark: &'static str,
    text: &'static str,
    /// `with CASE`, or why there is no case.
    note: Option<&'static str>,
}

impl Statement {
    /// The case of another statement that shows this one, too.
    fn shown_by(&self) -> Option<&'static str> {
        self.note?.strip_prefix("with ")
    }

    /// Why it cannot be shown by running.
    fn reason(&self) -> Option<&'static str> {
        self.note.filter(|note| !note.starts_with("with "))
    }
}

fn statements() -> Vec<Statement> {
    let each = STATEMENTS.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let (id, mark, text) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Statement { id, mark, text, note: fields.next() })
    });
    each.collect()
}

/// `R44/regex` is about statement `R44`.
fn statement_id(case: &str) -> &str {
    case.split('/').next().unwrap_or(case)
}

fn statement(case: &str) -> &'static str {
    let all = statements();
    all.iter().find(|s| s.id == statement_id(case)).map_or("no statement", |s| s.text)
}

fn print_difference(outcome: &Outcome) {
    for (name, side) in [("envoy", &outcome.envoy), ("radiant", &outcome.radiant)] {
        for unmet in &side.unmet {
            println!("    {name} does not: {unmet}");
        }
    }
    let lines = near(&difference(&outcome.envoy.lines, &outcome.radiant.lines));
    for line in lines.iter().take(SHOWN) {
        println!("    {line}");
    }
    if lines.len() > SHOWN {
        println!("    ... {} more", lines.len() - SHOWN);
    }
}

/// The differing lines with a little of what is around them.
fn near(lines: &[String]) -> Vec<String> {
    let differs = |line: &String| !line.starts_with(' ');
    let shown = |n: usize| {
        let around = n.saturating_sub(CONTEXT)..(n + CONTEXT + 1).min(lines.len());
        lines[around].iter().any(differs)
    };
    (0..lines.len()).filter(|n| shown(*n)).map(|n| lines[n].clone()).collect()
}

/// Both in one text: common lines, lines of Envoy (`envoy`), lines of Radiant.
pub fn difference(envoy: &[String], radiant: &[String]) -> Vec<String> {
    // The longest common subsequence, quadratic: transcripts are short.
    let (n, m) = (envoy.len(), radiant.len());
    let mut longest = vec![vec![0u32; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            longest[i][j] = if envoy[i] == radiant[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < n || j < m {
        if i < n && j < m && envoy[i] == radiant[j] {
            lines.push(format!("          {}", envoy[i]));
            i += 1;
            j += 1;
        } else if i < n && (j == m || longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(format!("envoy   | {}", envoy[i]));
            i += 1;
        } else {
            lines.push(format!("radiant | {}", radiant[j]));
            j += 1;
        }
    }
    lines
}
