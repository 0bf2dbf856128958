//! `/stats/prometheus`: Prometheus text format as Envoy writes it.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::cluster::{Family, View};
use super::fixed::{self, Stat};
use super::{Buckets, Kind, QUANTILES, Selection, Value, cluster};
use crate::admin::reply::PIECE_BYTES;
use crate::model::ClusterSlot;
use crate::plane::Plane;
use crate::seldon_stats::{SeldonFamily, SeldonMetrics, SeldonSeries, escape_label};
use crate::stats::BUCKETS_MS;

/// The exposition, one piece at a time.
pub(in crate::admin) struct Exposition {
    selection: Selection,
    /// Histograms as quantiles, not as buckets.
    summaries: bool,
    clusters: Vec<Arc<ClusterSlot>>,
    /// `envoy_cluster_name="..."` of each cluster.
    cluster_labels: Vec<String>,
    families: Vec<Family>,
    stats: Vec<Stat>,
    series: Vec<Arc<SeldonSeries>>,
    steps: std::vec::IntoIter<Step>,
    /// The family being written: step, next item, whether its TYPE line is out.
    current: Option<(Step, usize, bool)>,
}

#[derive(Clone)]
enum Step {
    Cluster(usize),
    /// Statistics of one key.
    Fixed(Range<usize>),
    Seldon(SeldonFamily),
}

impl Exposition {
    /// Takes the list of what there is; values are read while it is written.
    pub(in crate::admin) fn new(
        plane: &Plane,
        seldon: &SeldonMetrics,
        by: Selection,
        summaries: bool,
    ) -> Self {
        let families = Family::all();
        let stats = fixed::all(plane);
        let mut steps = Vec::new();
        for kind in Kind::ALL {
            // "cluster." sorts before every other key.
            steps.extend(
                (0..families.len()).filter(|i| families[*i].kind == kind).map(Step::Cluster),
            );
            steps.extend(ranges(&stats, kind).map(Step::Fixed));
        }
        steps.extend(SeldonFamily::ALL.map(Step::Seldon));
        let clusters = cluster::sorted(plane);
        let cluster_labels = clusters.iter().map(|slot| {
            let mut label = String::from("envoy_cluster_name=\"");
            escape_label(slot.name.as_str(), &mut label);
            label.push('"');
            label
        });
        Self {
            selection: by,
            summaries,
            cluster_labels: cluster_labels.collect(),
            clusters,
            families,
            stats,
            series: seldon.used(),
            steps: steps.into_iter(),
            current: None,
        }
    }

    /// Writes one item (cluster, statistic, series) of the current family.
    /// False if the family has no more.
    fn write_item(&self, step: &Step, item: usize, typed: &mut bool, out: &mut String) -> bool {
        match step {
            Step::Cluster(family) => {
                let Some(slot) = self.clusters.get(item) else { return false };
                if let Some(view) = View::of(slot) {
                    let family = &self.families[*family];
                    self.write_cluster(family, &view, &self.cluster_labels[item], typed, out);
                }
            }
            Step::Fixed(range) => {
                let Some(stat) = self.stats[range.clone()].get(item) else { return false };
                if self.selection.takes(|| stat.name.clone(), stat.kind, &stat.value) {
                    self.write_keyed(
                        &[&stat.key],
                        stat.kind,
                        &stat.labels,
                        &stat.value,
                        typed,
                        out,
                    );
                }
            }
            Step::Seldon(family) => {
                let Some(series) = self.series.get(item) else { return false };
                let (name, kind) = family.header();
                let of_kind = if kind == "counter" { Kind::Counter } else { Kind::Histogram };
                if self.selection.takes(|| name.to_owned(), of_kind, &Value::Number(1)) {
                    if !std::mem::replace(typed, true) {
                        let _ = writeln!(out, "# TYPE {name} {kind}");
                    }
                    family.write(series, out);
                }
            }
        }
        true
    }

    fn write_cluster(
        &self,
        family: &Family,
        view: &View,
        label: &str,
        typed: &mut bool,
        out: &mut String,
    ) {
        family.read(view, &mut |sample| {
            let name = || format!("cluster.{}.{}", view.name(), sample.name);
            if !self.selection.takes(name, family.kind, &sample.value) {
                return;
            }
            let key = ["cluster.", &family.key];
            match sample.label {
                None => self.write_keyed(&key, family.kind, label, &sample.value, typed, out),
                Some((own, value)) => {
                    let labels = format!("{own}=\"{value}\",{label}");
                    self.write_keyed(&key, family.kind, &labels, &sample.value, typed, out);
                }
            }
        });
    }

    /// One statistic, with the family's TYPE line if it is the first.
    fn write_keyed(
        &self,
        key: &[&str],
        kind: Kind,
        labels: &str,
        value: &Value,
        typed: &mut bool,
        out: &mut String,
    ) {
        let name = &metric_name(key);
        if !std::mem::replace(typed, true) {
            let summary = kind == Kind::Histogram && self.summaries;
            let kind = if summary { "summary" } else { kind.as_str() };
            let _ = writeln!(out, "# TYPE {name} {kind}");
        }
        match value {
            Value::Number(n) => {
                let _ = writeln!(out, "{name}{{{labels}}} {n}");
            }
            Value::Histogram(buckets) if self.summaries => {
                write_summary(name, labels, buckets, out);
            }
            Value::Histogram(buckets) => write_histogram(name, labels, buckets, out),
        }
    }
}

impl Iterator for Exposition {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::with_capacity(PIECE_BYTES + 4096);
        while out.len() < PIECE_BYTES {
            let Some((step, item, mut typed)) =
                self.current.take().or_else(|| self.steps.next().map(|step| (step, 0, false)))
            else {
                break;
            };
            if self.write_item(&step, item, &mut typed, &mut out) {
                self.current = Some((step, item + 1, typed));
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

/// Runs of the same key, of one kind.
fn ranges(stats: &[Stat], kind: Kind) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    stats
        .chunk_by(|a, b| (a.kind, &a.key) == (b.kind, &b.key))
        .map(move |run| {
            let range = start..start + run.len();
            start = range.end;
            (run[0].kind, range)
        })
        .filter(move |(of, _)| *of == kind)
        .map(|(_, range)| range)
}

/// `envoy_` and the key, other characters than letters, digits and `_`
/// replaced. What Envoy does not have keeps its own prefix.
fn metric_name(key: &[&str]) -> String {
    let own = key.first().is_some_and(|first| first.starts_with("radiant."));
    let mut name = String::from(if own { "" } else { "envoy_" });
    for part in key {
        name.extend(part.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    }
    name
}

fn write_histogram(name: &str, labels: &str, buckets: &Buckets, out: &mut String) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut below: u64 = 0;
    for (bound, n) in BUCKETS_MS.iter().zip(buckets.counts) {
        below = below.wrapping_add(n);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
    }
    let (count, sum) = (buckets.count(), buckets.sum);
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}

fn write_summary(name: &str, labels: &str, buckets: &Buckets, out: &mut String) {
    let comma = if labels.is_empty() { "" } else { "," };
    for q in QUANTILES.map(|q| (q * 10.0).round() / 1000.0) {
        let value = buckets.quantile(q).unwrap_or_default();
        let _ = writeln!(out, "{name}{{{labels}{comma}quantile=\"{q}\"}} {value}");
    }
    let (count, sum) = (buckets.count(), buckets.sum);
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_letters_digits_and_underscores() {
        assert_eq!(metric_name(&["cluster.", "upstream_rq"]), "envoy_cluster_upstream_rq");
        assert_eq!(metric_name(&["a-b.c"]), "envoy_a_b_c");
        assert_eq!(metric_name(&["radiant.config_stale"]), "radiant_config_stale");
    }
}
