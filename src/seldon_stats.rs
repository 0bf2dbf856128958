//! Metrics that Seldon's users chart and that nothing else in the mesh emits:
//! requests and latency per (experiment, model).
//!
//! Contract with the hot path: a target's first request asks
//! [`SeldonMetrics::handle`] and keeps the handle in the compiled route; from
//! then on a request does `series.shard(shard).record(ok, elapsed)`, three plain
//! stores. Cells have
//! one writing thread each, as in [`crate::stats`].
//!
//! The names `seldon_model_infer_*` and `seldon_model_aggregate_*` belong to
//! the agent and are never used here.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;

use crate::stats::{Counter, PerShard, Shard};

/// Upper bounds of the latency buckets, in seconds. 0.05 is a bound because
/// alerts are written on it.
pub const BOUNDS_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const BOUNDS_US: [u64; BOUNDS_SECONDS.len()] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// One worker's part of a series.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct SeldonShard {
    ok: Counter,
    error: Counter,
    sum_us: Counter,
    buckets: [Counter; BOUNDS_US.len() + 1],
}

impl SeldonShard {
    /// Counts one finished request. `ok`: HTTP status below 400 and, for gRPC,
    /// `grpc-status` 0. `elapsed` is from the request's first byte to the end
    /// of its answer.
    pub fn record(&self, ok: bool, elapsed: Duration) {
        if ok {
            self.ok.inc()
        } else {
            self.error.inc()
        }
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.add(us);
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].inc();
    }
}

/// The requests of one model as part of one experiment. It is made at the first
/// request, so that a model nobody calls costs a pointer.
#[repr(C)]
#[derive(Debug)]
pub struct SeldonSeries {
    /// The first worker's part: in a small pod the only one.
    first: SeldonShard,
    others: PerShard<SeldonShard>,
    experiment: Box<str>,
    model: Box<str>,
}

impl SeldonSeries {
    /// The calling thread's shard.
    pub fn shard(&self, shard: Shard) -> &SeldonShard {
        if shard.index == 1 { &self.first } else { self.others.of(shard) }
    }

    /// Reads the first worker's shard, so that it is in the cache when the
    /// request's end needs it.
    pub fn touch(&self) {
        std::hint::black_box(self.first.ok.value());
    }

    fn shards(&self) -> impl Iterator<Item = &SeldonShard> {
        std::iter::once(&self.first).chain(self.others.used())
    }

    fn total(&self, cell: impl Fn(&SeldonShard) -> &Counter) -> u64 {
        self.shards().map(|c| cell(c).value()).fold(0, u64::wrapping_add)
    }

    fn is_used(&self) -> bool {
        self.total(|c| &c.ok).wrapping_add(self.total(|c| &c.error)) > 0
    }

    fn labels(&self) -> String {
        let mut labels = String::from("experiment_name=\"");
        escape_label(&self.experiment, &mut labels);
        labels.push_str("\",model_name=\"");
        escape_label(&self.model, &mut labels);
        labels.push('"');
        labels
    }
}

/// Escapes a label value for the Prometheus text format.
pub(crate) fn escape_label(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

type Key = (String, String);

/// All series.
#[derive(Debug, Default)]
pub struct SeldonMetrics {
    series: Mutex<HashMap<Key, Arc<SeldonSeries>>>,
}

impl SeldonMetrics {
    /// No series yet.
    #[must_use]
    pub fn new() -> Self {
        Self { series: Mutex::default() }
    }

    /// The series of `model` (its name without version) as an arm of
    /// `experiment` (without `.experiment`; empty when it is called directly).
    /// For publication, not for requests: it locks and hashes.
    pub fn handle(&self, experiment: &str, model: &str) -> Arc<SeldonSeries> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (experiment.to_owned(), model.to_owned());
        let entry = series.entry(key).or_insert_with(|| {
            Arc::new(SeldonSeries {
                first: SeldonShard::default(),
                others: PerShard::default(),
                experiment: experiment.into(),
                model: model.into(),
            })
        });
        Arc::clone(entry)
    }

    /// Forgets the series that no route holds any more, so that model churn
    /// does not grow the exposition for ever. Call it after old tables are
    /// gone.
    pub fn sweep(&self) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|_, s| Arc::strong_count(s) > 1);
    }

    /// The series that saw traffic, sorted by experiment and model.
    #[must_use]
    pub fn used(&self) -> Vec<Arc<SeldonSeries>> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used: Vec<_> = series.values().filter(|s| s.is_used()).map(Arc::clone).collect();
        drop(series);
        used.sort_by(|a, b| (&a.experiment, &a.model).cmp(&(&b.experiment, &b.model)));
        used
    }
}

/// A metric family of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeldonFamily {
    Requests,
    ModelRequests,
    ModelSuccesses,
    Duration,
}

impl SeldonFamily {
    /// In the order of exposition.
    pub(crate) const ALL: [Self; 4] =
        [Self::Requests, Self::ModelRequests, Self::ModelSuccesses, Self::Duration];

    /// Name and Prometheus type.
    pub(crate) fn header(self) -> (&'static str, &'static str) {
        match self {
            Self::Requests => ("seldon_request_total", "counter"),
            Self::ModelRequests => ("seldon_model_requests_total", "counter"),
            Self::ModelSuccesses => ("seldon_model_requests_success_total", "counter"),
            Self::Duration => ("seldon_request_duration_seconds", "histogram"),
        }
    }

    /// Appends the lines of one series.
    pub(crate) fn write(self, series: &SeldonSeries, out: &mut String) {
        let (name, _) = self.header();
        let labels = series.labels();
        let ok = series.total(|c| &c.ok);
        let error = series.total(|c| &c.error);
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Requests => write!(
                out,
                "{name}{{{labels},status=\"OK\"}} {ok}\n{name}{{{labels},status=\"ERROR\"}} {error}\n"
            ),
            Self::ModelRequests => {
                writeln!(out, "{name}{{{labels}}} {}", ok.wrapping_add(error))
            }
            Self::ModelSuccesses => writeln!(out, "{name}{{{labels}}} {ok}"),
            Self::Duration => write_duration(name, &labels, series, out),
        };
    }
}

fn write_duration(
    name: &str,
    labels: &str,
    series: &SeldonSeries,
    out: &mut String,
) -> std::fmt::Result {
    let mut below: u64 = 0;
    for (i, bound) in BOUNDS_SECONDS.iter().enumerate() {
        below = below.wrapping_add(series.total(|c| &c.buckets[i]));
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
    }
    below = below.wrapping_add(series.total(|c| &c.buckets[BOUNDS_US.len()]));
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {below}")?;
    #[allow(clippy::cast_precision_loss)]
    let sum = series.total(|c| &c.sum_us) as f64 / 1e6;
    writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {below}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Shard = Shard { index: 1, of: 2 };

    fn text(metrics: &SeldonMetrics) -> String {
        let mut out = String::new();
        for family in SeldonFamily::ALL {
            for series in metrics.used() {
                family.write(&series, &mut out);
            }
        }
        out
    }

    #[test]
    fn a_request_shows_in_every_family() {
        let metrics = SeldonMetrics::new();
        let series = metrics.handle("ab-test", "baseline");
        series.shard(SHARD).record(true, Duration::from_millis(50));
        series.shard(SHARD).record(false, Duration::from_secs(100));
        let text = text(&metrics);
        let labels = "experiment_name=\"ab-test\",model_name=\"baseline\"";
        for line in [
            format!("seldon_request_total{{{labels},status=\"OK\"}} 1\n"),
            format!("seldon_request_total{{{labels},status=\"ERROR\"}} 1\n"),
            format!("seldon_model_requests_total{{{labels}}} 2\n"),
            format!("seldon_model_requests_success_total{{{labels}}} 1\n"),
            format!("seldon_request_duration_seconds_bucket{{{labels},le=\"0.025\"}} 0\n"),
            format!("seldon_request_duration_seconds_bucket{{{labels},le=\"0.05\"}} 1\n"),
            format!("seldon_request_duration_seconds_bucket{{{labels},le=\"60\"}} 1\n"),
            format!("seldon_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2\n"),
            format!("seldon_request_duration_seconds_sum{{{labels}}} 100.05\n"),
            format!("seldon_request_duration_seconds_count{{{labels}}} 2\n"),
        ] {
            assert!(text.contains(&line), "{line} not in {text}");
        }
    }

    #[test]
    fn the_same_names_share_a_series_and_unheld_series_leave() {
        let metrics = SeldonMetrics::new();
        let series = metrics.handle("", "iris");
        assert!(Arc::ptr_eq(&series, &metrics.handle("", "iris")));
        assert!(metrics.used().is_empty());
        series.shard(SHARD).record(true, Duration::ZERO);
        metrics.sweep();
        assert_eq!(metrics.used().len(), 1);
        drop(series);
        metrics.sweep();
        assert!(metrics.used().is_empty());
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        escape_label("a\"b\\c\nd", &mut out);
        assert_eq!(out, "a\\\"b\\\\c\\nd");
    }
}
