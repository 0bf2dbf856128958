//! Every statistic under Envoy's names, read from the shards at request time.
//!
//! A statistic has a full name (`cluster.iris.upstream_rq_2xx`, for `/stats`)
//! and a key, the name without its variable parts (`cluster.upstream_rq_xx`,
//! for Prometheus), with the parts as labels. Statistics of clusters are read
//! one family or one cluster at a time ([`cluster`]), because there may be
//! twenty thousand; the rest is a short list ([`fixed`]).

pub(super) mod cluster;
pub(super) mod fixed;
pub(super) mod json;
pub(super) mod prometheus;
pub(super) mod text;

use regex::Regex;

use super::query::Query;
use crate::stats::{BUCKETS_MS, Histogram};

/// Kind of a statistic, in the order of Envoy's Prometheus text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// All kinds in order.
    pub(super) const ALL: [Self; 3] = [Self::Counter, Self::Gauge, Self::Histogram];

    /// As on a `# TYPE` line.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A value read from all shards.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(u64),
    Histogram(Box<Buckets>),
}

impl Value {
    /// False for what was never written, as far as one can tell.
    pub(super) fn is_used(&self) -> bool {
        match self {
            Self::Number(n) => *n != 0,
            Self::Histogram(buckets) => buckets.count() != 0,
        }
    }
}

/// A histogram added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets {
    /// Not cumulative; the last is above every bound.
    pub(super) counts: [u64; BUCKETS_MS.len() + 1],
    /// Milliseconds.
    pub(super) sum: f64,
}

impl Buckets {
    /// Adds up the shards of a histogram.
    pub(super) fn of<'a>(shards: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut all = Self::default();
        for shard in shards {
            let (counts, sum) = shard.read();
            all.counts.iter_mut().zip(counts).for_each(|(a, b)| *a = a.wrapping_add(b));
            all.sum += sum;
        }
        all
    }

    /// Number of recorded values.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().fold(0, |a, b| a.wrapping_add(*b))
    }

    /// Per bound, how many values lie below it, or, if `disjoint`, between it and the
    /// bound before. Envoy does not tell those above the last one.
    pub(super) fn by_bound(&self, disjoint: bool) -> impl Iterator<Item = (f64, u64)> {
        let mut below: u64 = 0;
        BUCKETS_MS.into_iter().zip(self.counts).map(move |(bound, n)| {
            below = if disjoint { n } else { below.wrapping_add(n) };
            (bound, below)
        })
    }

    /// The buckets that have values: lower bound, width, count.
    pub(super) fn filled(&self) -> impl Iterator<Item = (f64, f64, u64)> {
        let bounds = [&[0.0], &BUCKETS_MS[..]].concat();
        let widths: Vec<f64> = bounds.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let widths = widths.into_iter().chain([0.0]);
        let all = bounds.into_iter().zip(widths).zip(self.counts);
        all.map(|((lower, width), n)| (lower, width, n)).filter(|(_, _, n)| *n > 0)
    }

    /// The value below which a share `q` (0 to 1) of the records lies,
    /// interpolated in its bucket; none without records.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss)]
        let wanted = q * count as f64;
        let mut below = 0.0;
        let mut lower = 0.0;
        for (i, n) in self.counts.iter().enumerate() {
            let upper = BUCKETS_MS.get(i).copied().unwrap_or(lower);
            #[allow(clippy::cast_precision_loss)]
            let n = *n as f64;
            if n > 0.0 && below + n >= wanted {
                return Some(lower + (upper - lower) * ((wanted - below) / n).clamp(0.0, 1.0));
            }
            below += n;
            lower = upper;
        }
        Some(lower)
    }
}

/// `?histogram_buckets=`: how histograms are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistogramForm {
    /// Quantiles.
    Summary,
    /// How many values lie below each bound.
    Cumulative,
    /// How many values lie between each bound and the one before.
    Disjoint,
    /// The buckets that have values, and quantiles.
    Detailed,
}

impl HistogramForm {
    /// What the query asks for; none: the format's own choice.
    ///
    /// # Errors
    ///
    /// The text of a 400.
    pub(super) fn from_query(query: &Query) -> Result<Option<Self>, String> {
        Ok(Some(match query.first("histogram_buckets") {
            None | Some("" | "none" | "prometheusnative") => return Ok(None),
            Some("summary") => Self::Summary,
            Some("cumulative") => Self::Cumulative,
            Some("disjoint") => Self::Disjoint,
            Some("detailed") => Self::Detailed,
            Some(_) => return Err(USAGE.to_owned()),
        }))
    }
}

const USAGE: &str =
    "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";

/// The quantiles of `/stats`, in percent.
pub(super) const QUANTILES: [f64; 10] =
    [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Which statistics a request asks for.
#[derive(Debug, Default)]
pub(super) struct Selection {
    used_only: bool,
    filter: Option<Regex>,
    invert: bool,
    kinds: Option<Wanted>,
}

/// `?type=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Kind(Kind),
    Texts,
}

impl Selection {
    /// From `usedonly`, `filter`, `invert_filter` and `type`.
    ///
    /// # Errors
    ///
    /// The text of a 400.
    pub(super) fn from_query(query: &Query) -> Result<Self, String> {
        let filter = match query.first("filter") {
            None | Some("") => None,
            Some(filter) => Some(Regex::new(filter).map_err(|e| bad_regex(&e))?),
        };
        let kinds = match query.first("type") {
            None | Some("" | "All") => None,
            Some("Counters") => Some(Wanted::Kind(Kind::Counter)),
            Some("Gauges") => Some(Wanted::Kind(Kind::Gauge)),
            Some("Histograms") => Some(Wanted::Kind(Kind::Histogram)),
            Some("TextReadouts") => Some(Wanted::Texts),
            Some(_) => return Err("invalid &type= param".to_owned()),
        };
        let used_only = query.has("usedonly");
        Ok(Self { used_only, filter, invert: query.has("invert_filter"), kinds })
    }

    /// True if the statistic of this full name, kind and value is asked for.
    /// Gauges count as used: one that went back to zero must not vanish.
    pub(super) fn takes(&self, name: impl FnOnce() -> String, kind: Kind, value: &Value) -> bool {
        if self.kinds.is_some_and(|wanted| wanted != Wanted::Kind(kind)) {
            return false;
        }
        if self.used_only && kind != Kind::Gauge && !value.is_used() {
            return false;
        }
        self.filter.as_ref().is_none_or(|filter| filter.is_match(&name()) != self.invert)
    }

    /// True if a text readout of this name is asked for.
    pub(super) fn takes_text(&self, name: &str, value: &str) -> bool {
        self.kinds.is_none_or(|wanted| wanted == Wanted::Texts)
            && !(self.used_only && value.is_empty())
            && self.filter.as_ref().is_none_or(|filter| filter.is_match(name) != self.invert)
    }
}

/// Envoy's words around the parser's last line.
pub(super) fn bad_regex(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("Invalid re2 regex: {}", last.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_in_their_bucket() {
        let histogram = Histogram::default();
        assert_eq!(Buckets::of([&histogram].into_iter()).quantile(0.5), None);
        for ms in [0, 7, 7, 9_999_999] {
            histogram.record_ms(ms);
        }
        let buckets = Buckets::of([&histogram].into_iter());
        assert_eq!(buckets.count(), 4);
        assert_eq!(buckets.quantile(0.0), Some(0.0));
        assert_eq!(buckets.quantile(0.25), Some(0.5));
        assert_eq!(buckets.quantile(0.5), Some(7.5));
        assert_eq!(buckets.quantile(1.0), Some(3_600_000.0));
    }

    #[test]
    fn buckets_are_told_by_bound_or_as_filled() {
        let histogram = Histogram::default();
        for ms in [0, 7, 8, 9_999_999] {
            histogram.record_ms(ms);
        }
        let buckets = Buckets::of([&histogram].into_iter());
        let counts =
            |disjoint| -> Vec<u64> { buckets.by_bound(disjoint).map(|(_, n)| n).take(5).collect() };
        assert_eq!(counts(false), [1, 1, 1, 3, 3]);
        assert_eq!(counts(true), [1, 0, 0, 2, 0]);
        assert_eq!(buckets.by_bound(false).last(), Some((3_600_000.0, 3)));
        let filled: Vec<_> = buckets.filled().collect();
        assert_eq!(filled, [(0.0, 0.5, 1), (5.0, 5.0, 2), (3_600_000.0, 0.0, 1)]);
    }

    #[test]
    fn selection_follows_the_parameters() {
        let select = |query: &str| Selection::from_query(&Query::parse(query));
        let takes = |query: &str, name: &str, kind, n| {
            select(query).unwrap().takes(|| name.to_owned(), kind, &Value::Number(n))
        };
        assert!(takes("", "a", Kind::Counter, 0));
        assert!(!takes("usedonly", "a", Kind::Counter, 0));
        assert!(takes("usedonly", "a", Kind::Gauge, 0));
        assert!(takes("filter=^a", "ab", Kind::Gauge, 0));
        assert!(!takes("filter=^a&invert_filter", "ab", Kind::Gauge, 0));
        assert!(!takes("type=Counters", "ab", Kind::Gauge, 0));
        assert!(!select("type=Gauges").unwrap().takes_text("a", "b"));
        assert_eq!(select("type=x").unwrap_err(), "invalid &type= param");
        assert!(select("filter=(").unwrap_err().starts_with("Invalid re2 regex: unclosed"));
    }
}
