//! Statistics of clusters: `cluster.<name>.*`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixed::EXPIRATION;
use super::{Buckets, Kind, Value};
use crate::model::{Cluster, ClusterSlot};
use crate::plane::Plane;
use crate::stats::{ClusterShard, ConnectionTimes, Counter, Gauge, Histogram, ResponseGroup};
use crate::tls::accounts::{Agreed, TlsStats};

/// Counters and gauges that dashboards divide and sum: an idle cluster prints
/// them as zeros, and its `membership_*`. What else it would print (Envoy
/// prints 170 lines for each) is left out: 280 MB a scrape for twenty thousand
/// models.
const ALWAYS: [&str; 6] = [
    "upstream_cx_active",
    "upstream_cx_connect_timeout",
    "upstream_cx_destroy",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_total",
];

/// The parts of a shard that a group of answers is the sum of.
type Group = fn(&ClusterShard) -> [Option<&ResponseGroup>; 2];

/// Groups of answers, with the prefix of their names.
const GROUPS: [(&str, Group); 4] = [
    ("", |s| [Some(&s.external), s.internal.get()]),
    ("external.", |s| [Some(&s.external), None]),
    ("internal.", |s| [s.internal.get(), None]),
    ("retry.", |s| [s.retry.get(), None]),
];

/// All answers, and those that were retried.
pub(in crate::admin) const ALL: Group = GROUPS[0].1;
pub(in crate::admin) const RETRIED: Group = GROUPS[3].1;

/// One family of cluster statistics.
pub(in crate::admin) struct Family {
    /// Key behind `cluster.`.
    pub(in crate::admin) key: String,
    pub(in crate::admin) kind: Kind,
    read: Read,
}

enum Read {
    Counter(fn(&ClusterShard) -> &Counter, bool),
    Gauge(fn(&ClusterShard) -> &Gauge, bool),
    Histogram(fn(&ConnectionTimes) -> &Histogram),
    Derived(fn(&View) -> u64, bool),
    /// `upstream_rq_completed`
    Completed(Group),
    /// `upstream_rq_<n>xx`
    Class(Group),
    /// `upstream_rq_<code>`
    Code(Group),
    /// `upstream_rq_time`
    Time(Group),
    /// `ssl.*`, if there was a handshake.
    Tls(fn(&TlsStats) -> &Counter),
    Agreed(Agreed),
    /// `ssl.certificate.<secret>.*`
    Expiration,
}

/// A cluster while its statistics are read.
pub(in crate::admin) struct View {
    pub(in crate::admin) slot: Arc<ClusterSlot>,
    pub(in crate::admin) cluster: Arc<Cluster>,
}

impl View {
    /// None if the cluster has just left.
    pub(in crate::admin) fn of(slot: &Arc<ClusterSlot>) -> Option<Self> {
        Some(Self { slot: Arc::clone(slot), cluster: slot.load()? })
    }

    /// Name of the cluster.
    pub(in crate::admin) fn name(&self) -> &str {
        self.slot.name.as_str()
    }

    /// A counter added up.
    pub(in crate::admin) fn count(&self, cell: impl Fn(&ClusterShard) -> &Counter) -> u64 {
        self.slot.stats.shards().map(|s| cell(s).value()).fold(0, u64::wrapping_add)
    }

    /// A gauge added up.
    pub(in crate::admin) fn gauge(&self, cell: impl Fn(&ClusterShard) -> &Gauge) -> u64 {
        self.slot.stats.shards().map(|s| cell(s).value()).fold(0, u64::wrapping_add)
    }

    /// A counter of a group added up.
    pub(in crate::admin) fn count_group(
        &self,
        group: Group,
        cell: impl Fn(&ResponseGroup) -> &Counter,
    ) -> u64 {
        self.groups(group).map(|g| cell(g).value()).fold(0, u64::wrapping_add)
    }

    fn groups(&self, group: Group) -> impl Iterator<Item = &ResponseGroup> {
        self.slot.stats.shards().flat_map(move |s| group(s).into_iter().flatten())
    }

    fn times(&self, cell: fn(&ConnectionTimes) -> &Histogram) -> Value {
        let times = self.slot.stats.shards().filter_map(|s| s.connections.get());
        Value::Histogram(Box::new(Buckets::of(times.map(cell))))
    }

    fn tls(&self) -> impl Iterator<Item = &TlsStats> {
        self.slot.stats.shards().filter_map(|s| s.connections.get()?.tls.get())
    }

    fn hosts(&self) -> u64 {
        self.cluster.endpoints.hosts().len() as u64
    }
}

/// One statistic of a cluster.
pub(in crate::admin) struct Sample<'a> {
    /// Behind `cluster.<name>.`.
    pub(in crate::admin) name: &'a str,
    /// Label and value that come before `envoy_cluster_name`.
    pub(in crate::admin) label: Option<(&'static str, &'a str)>,
    pub(in crate::admin) value: Value,
}

impl Family {
    /// All families, sorted by kind and key.
    pub(in crate::admin) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |key: String, kind, read| all.push(Self { key, kind, read });
        for (name, cell) in ClusterShard::COUNTERS {
            add((*name).to_owned(), Kind::Counter, Read::Counter(*cell, ALWAYS.contains(name)));
        }
        for (name, cell) in ClusterShard::GAUGES {
            add((*name).to_owned(), Kind::Gauge, Read::Gauge(*cell, ALWAYS.contains(name)));
        }
        for (name, cell) in ConnectionTimes::HISTOGRAMS {
            add((*name).to_owned(), Kind::Histogram, Read::Histogram(*cell));
        }
        for (name, cell) in TlsStats::COUNTERS {
            add(format!("ssl.{name}"), Kind::Counter, Read::Tls(*cell));
        }
        for which in Agreed::ALL {
            add(which.group().to_owned(), Kind::Counter, Read::Agreed(which));
        }
        add(format!("ssl.certificate.{EXPIRATION}"), Kind::Gauge, Read::Expiration);
        for (prefix, group) in GROUPS {
            let key = |name: &str| format!("{prefix}{name}");
            add(key("upstream_rq"), Kind::Counter, Read::Code(group));
            add(key("upstream_rq_completed"), Kind::Counter, Read::Completed(group));
            add(key("upstream_rq_xx"), Kind::Counter, Read::Class(group));
            add(key("upstream_rq_time"), Kind::Histogram, Read::Time(group));
        }
        for (name, read) in DERIVED {
            let always = name.starts_with("membership_") && *name != "membership_excluded";
            add((*name).to_owned(), Kind::Gauge, Read::Derived(*read, always));
        }
        let changes: fn(&View) -> u64 = |v| u64::from(v.slot.membership_changes());
        add("membership_change".to_owned(), Kind::Counter, Read::Derived(changes, false));
        all.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
        all
    }

    /// Calls `visit` with the statistics of this family that the cluster has.
    pub(in crate::admin) fn read(&self, view: &View, visit: &mut dyn FnMut(Sample<'_>)) {
        let idle = view.slot.stats.is_idle();
        let mut plain = |value| visit(Sample { name: &self.key, label: None, value });
        match self.read {
            Read::Counter(_, false) | Read::Gauge(_, false) | Read::Derived(_, false) if idle => {}
            Read::Counter(cell, _) => plain(Value::Number(view.count(cell))),
            Read::Gauge(cell, _) => plain(Value::Number(view.gauge(cell))),
            Read::Derived(read, _) => plain(Value::Number(read(view))),
            _ if idle => {}
            Read::Histogram(cell) => plain(view.times(cell)),
            Read::Time(group) => {
                let times = view.groups(group).map(|g| &g.upstream_rq_time);
                let value = Value::Histogram(Box::new(Buckets::of(times)));
                if value.is_used() {
                    plain(value);
                }
            }
            Read::Completed(group) => {
                let n = view.count_group(group, |g| &g.upstream_rq_completed);
                if n != 0 {
                    plain(Value::Number(n));
                }
            }
            Read::Tls(cell) => {
                if view.tls().next().is_some() {
                    let sum = view.tls().map(|s| cell(s).value()).fold(0, u64::wrapping_add);
                    plain(Value::Number(sum));
                }
            }
            Read::Agreed(which) => read_agreed(view, which, visit),
            Read::Expiration => read_expirations(view, visit),
            Read::Class(group) => self.read_classes(view, group, visit),
            Read::Code(group) => self.read_codes(view, group, visit),
        }
    }

    /// Classes seen: as in Envoy, the others do not exist.
    fn read_classes(&self, view: &View, group: Group, visit: &mut dyn FnMut(Sample<'_>)) {
        let prefix = self.key.trim_end_matches("xx");
        for (class, cell) in CLASSES {
            let n = view.count_group(group, cell);
            if n != 0 {
                let name = format!("{prefix}{class}xx");
                let label = Some(("envoy_response_code_class", class));
                visit(Sample { name: &name, label, value: Value::Number(n) });
            }
        }
    }

    fn read_codes(&self, view: &View, group: Group, visit: &mut dyn FnMut(Sample<'_>)) {
        let mut codes = BTreeMap::<u16, u64>::new();
        for answers in view.groups(group) {
            answers.upstream_rq.each(&mut |code, n| *codes.entry(code).or_default() += n);
        }
        for (code, n) in codes.into_iter().filter(|(_, n)| *n != 0) {
            let mut digits = itoa::Buffer::new();
            let code = digits.format(code);
            let name = format!("{}_{code}", self.key);
            let label = Some(("envoy_response_code", code));
            visit(Sample { name: &name, label, value: Value::Number(n) });
        }
    }
}

fn read_agreed(view: &View, which: Agreed, visit: &mut dyn FnMut(Sample<'_>)) {
    let mut counts = BTreeMap::<&str, u64>::new();
    view.tls().for_each(|s| s.agreed(which, &mut |name, n| *counts.entry(name).or_default() += n));
    for (agreed, n) in counts {
        let name = format!("{}.{agreed}", which.group());
        let label = Some((which.label(true), agreed));
        visit(Sample { name: &name, label, value: Value::Number(n) });
    }
}

fn read_expirations(view: &View, visit: &mut dyn FnMut(Sample<'_>)) {
    let Some(tls) = view.cluster.tls.as_ref().filter(|_| view.tls().next().is_some()) else {
        return;
    };
    for (secret, at) in tls.in_use().expirations() {
        let name = format!("ssl.certificate.{secret}.{EXPIRATION}");
        let label = Some(("envoy_tls_certificate", secret));
        visit(Sample { name: &name, label, value: Value::Number(at) });
    }
}

type Class = (&'static str, fn(&ResponseGroup) -> &Counter);

const CLASSES: [Class; 5] = [
    ("1", |g| &g.upstream_rq_1xx),
    ("2", |g| &g.upstream_rq_2xx),
    ("3", |g| &g.upstream_rq_3xx),
    ("4", |g| &g.upstream_rq_4xx),
    ("5", |g| &g.upstream_rq_5xx),
];

type Derived = (&'static str, fn(&View) -> u64);

/// Gauges that follow from the cluster's state. Circuit breakers are of the
/// default priority: nothing here uses the high one.
const DERIVED: &[Derived] = &[
    ("membership_total", View::hosts),
    ("membership_healthy", View::hosts),
    ("membership_degraded", |_| 0),
    ("membership_excluded", |_| 0),
    ("warming_state", |_| 0),
    ("circuit_breakers.default.cx_open", |v| {
        open(v.gauge(|s| &s.upstream_cx_active), v.cluster.limits.max_connections)
    }),
    ("circuit_breakers.default.rq_open", |v| {
        open(v.gauge(|s| &s.upstream_rq_active), v.cluster.limits.max_requests)
    }),
    ("circuit_breakers.default.rq_pending_open", |v| {
        open(v.gauge(|s| &s.upstream_rq_pending_active), v.cluster.limits.max_pending_requests)
    }),
];

fn open(used: u64, limit: u32) -> u64 {
    u64::from(used >= u64::from(limit))
}

/// All clusters that are there, in the order of their statistics' names.
pub(in crate::admin) fn sorted(plane: &Plane) -> Vec<Arc<ClusterSlot>> {
    let mut slots = plane.clusters.all();
    slots.sort_by(|a, b| scope_order(a.name.as_str(), b.name.as_str()));
    slots
}

/// Order of `cluster.<a>.x` and `cluster.<b>.x`.
fn scope_order(a: &str, b: &str) -> Ordering {
    let dotted = |name: &str| name.bytes().chain(std::iter::once(b'.')).collect::<Vec<_>>();
    if a.len() != b.len() && (a.starts_with(b) || b.starts_with(a)) {
        return dotted(a).cmp(&dotted(b));
    }
    a.cmp(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_sort_like_their_statistics() {
        assert_eq!(scope_order("a", "a-b"), Ordering::Greater);
        assert_eq!(scope_order("a", "a1"), Ordering::Less);
        assert_eq!(scope_order("b", "a1"), Ordering::Greater);
        assert_eq!(scope_order("a", "a"), Ordering::Equal);
    }

    #[test]
    fn families_are_sorted_and_unique() {
        let families = Family::all();
        assert!(families.is_sorted_by(|a, b| (a.kind, &a.key) < (b.kind, &b.key)));
    }
}
