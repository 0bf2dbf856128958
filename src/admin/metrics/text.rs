//! `/stats`: one line per statistic, sorted by kind and name.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::cluster::{Family, View};
use super::fixed::{self, Stat};
use super::{Buckets, HistogramForm, Kind, QUANTILES, Selection, Value, cluster};
use crate::admin::reply::PIECE_BYTES;
use crate::model::ClusterSlot;
use crate::plane::Plane;

/// A walk over all statistics in the order of `/stats`: texts, then counters
/// and gauges by name, then histograms by name.
pub(in crate::admin) struct Walk {
    selection: Selection,
    texts: std::vec::IntoIter<(String, String)>,
    clusters: Vec<Arc<ClusterSlot>>,
    families: Vec<Family>,
    numbers: Vec<Stat>,
    histograms: Vec<Stat>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Texts,
    ClusterNumbers(usize),
    Numbers,
    ClusterHistograms(usize),
    Histograms,
    End,
}

/// A statistic as `/stats` shows it.
pub(in crate::admin) enum Line {
    Text(String, String),
    Stat(String, Value),
}

impl Walk {
    /// Takes the list of what there is; values are read while it goes.
    pub(in crate::admin) fn new(plane: &Plane, by: Selection) -> Self {
        let (mut histograms, mut numbers): (Vec<_>, Vec<_>) =
            fixed::all(plane).into_iter().partition(|s| s.kind == Kind::Histogram);
        numbers.sort_by(|a, b| a.name.cmp(&b.name));
        histograms.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            selection: by,
            texts: fixed::texts(plane).into_iter(),
            clusters: cluster::sorted(plane),
            families: Family::all(),
            numbers,
            histograms,
            stage: Stage::Texts,
        }
    }

    /// The lines of the next group (all texts, one cluster, the rest); none at
    /// the end.
    pub(in crate::admin) fn next_group(&mut self) -> Option<Vec<Line>> {
        let mut lines = Vec::new();
        self.stage = match self.stage {
            Stage::Texts => {
                let Self { texts, selection, .. } = self;
                let taken = texts.filter(|(name, value)| selection.takes_text(name, value));
                lines.extend(taken.map(|(name, value)| Line::Text(name, value)));
                Stage::ClusterNumbers(0)
            }
            Stage::ClusterNumbers(i) if i < self.clusters.len() => {
                self.read_cluster(i, &mut lines, |kind| kind != Kind::Histogram);
                Stage::ClusterNumbers(i + 1)
            }
            Stage::ClusterNumbers(_) => Stage::Numbers,
            Stage::Numbers => {
                let stats = std::mem::take(&mut self.numbers);
                self.take(stats, &mut lines);
                Stage::ClusterHistograms(0)
            }
            Stage::ClusterHistograms(i) if i < self.clusters.len() => {
                self.read_cluster(i, &mut lines, |kind| kind == Kind::Histogram);
                Stage::ClusterHistograms(i + 1)
            }
            Stage::ClusterHistograms(_) => Stage::Histograms,
            Stage::Histograms => {
                let stats = std::mem::take(&mut self.histograms);
                self.take(stats, &mut lines);
                Stage::End
            }
            Stage::End => return None,
        };
        Some(lines)
    }

    fn take(&self, stats: Vec<Stat>, lines: &mut Vec<Line>) {
        for stat in stats {
            if self.selection.takes(|| stat.name.clone(), stat.kind, &stat.value) {
                lines.push(Line::Stat(stat.name, stat.value));
            }
        }
    }

    fn read_cluster(&self, i: usize, lines: &mut Vec<Line>, wanted: impl Fn(Kind) -> bool) {
        let Some(view) = View::of(&self.clusters[i]) else { return };
        let mut found = Vec::new();
        for family in self.families.iter().filter(|f| wanted(f.kind)) {
            family.read(&view, &mut |sample| {
                let name = format!("cluster.{}.{}", view.name(), sample.name);
                if self.selection.takes(|| name.clone(), family.kind, &sample.value) {
                    found.push((name, sample.value));
                }
            });
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        lines.extend(found.into_iter().map(|(name, value)| Line::Stat(name, value)));
    }
}

/// `/stats` as text.
pub(in crate::admin) struct Text {
    pub(in crate::admin) walk: Walk,
    pub(in crate::admin) form: HistogramForm,
}

impl Iterator for Text {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        while out.len() < PIECE_BYTES {
            let Some(lines) = self.walk.next_group() else { break };
            lines.iter().for_each(|line| write_line(line, self.form, &mut out));
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

fn write_line(line: &Line, form: HistogramForm, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = match line {
        Line::Text(name, value) => writeln!(out, "{name}: \"{value}\""),
        Line::Stat(name, Value::Number(n)) => writeln!(out, "{name}: {n}"),
        Line::Stat(name, Value::Histogram(buckets)) => {
            let _ = write!(out, "{name}:");
            if buckets.count() == 0 {
                out.push_str(" No recorded values");
            } else {
                write_histogram(buckets, form, out);
            }
            writeln!(out)
        }
    };
}

/// Envoy's pairs are (last interval, since start); there are no intervals here.
fn write_histogram(buckets: &Buckets, form: HistogramForm, out: &mut String) {
    match form {
        HistogramForm::Summary => {
            out.push(' ');
            write_quantiles(buckets, out);
        }
        HistogramForm::Cumulative | HistogramForm::Disjoint => {
            for (bound, n) in buckets.by_bound(form == HistogramForm::Disjoint) {
                let _ = write!(out, " B{}(0,{n})", short(bound));
            }
        }
        HistogramForm::Detailed => {
            let filled = buckets.filled().map(|(lower, width, n)| format!("{lower},{width}:{n}"));
            let filled = filled.collect::<Vec<_>>().join(", ");
            let _ = write!(out, "\n  totals={filled}\n  intervals=\n  summary=");
            write_quantiles(buckets, out);
        }
    }
}

fn write_quantiles(buckets: &Buckets, out: &mut String) {
    let pairs = QUANTILES.map(|q| {
        let value = buckets.quantile(q / 100.0).unwrap_or(f64::NAN);
        format!("P{q}(nan,{value})")
    });
    out.push_str(&pairs.join(" "));
}

/// Six digits, as C++ streams print.
fn short(bound: f64) -> String {
    if bound >= 1e6 {
        let digits = format!("{bound:e}");
        return digits.replace('e', "e+0");
    }
    bound.to_string()
}
