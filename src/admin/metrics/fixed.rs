//! Statistics that are not of clusters: listeners, control plane, server.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Buckets, Kind, Value};
use crate::admin::{ADMIN_PREFIX, process};
use crate::model::ListenerKind;
use crate::plane::{Plane, ServerState};
use crate::seldon_stats::escape_label;
use crate::stats::{Counter, ListenerShard, ListenerStats, SubscriptionStats};
use crate::tls::accounts::{Agreed, TlsStats};

/// Last part of the names of certificates' gauges.
pub(super) const EXPIRATION: &str = "expiration_unix_time_seconds";

/// One statistic.
#[derive(Debug)]
pub(in crate::admin) struct Stat {
    /// Full name.
    pub(in crate::admin) name: String,
    /// Name without its variable parts.
    pub(in crate::admin) key: String,
    /// Rendered labels without braces, possibly empty.
    pub(in crate::admin) labels: String,
    pub(in crate::admin) kind: Kind,
    pub(in crate::admin) value: Value,
}

/// Text readouts: name and value.
pub(in crate::admin) fn texts(plane: &Plane) -> Vec<(String, String)> {
    let resources = plane.resources.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut texts = vec![
        ("cluster_manager.cds.version_text".to_owned(), resources.clusters.version_info.clone()),
        ("listener_manager.lds.version_text".to_owned(), resources.listeners.version_info.clone()),
    ];
    for (prefix, table) in route_subscriptions(plane) {
        let name = format!("http.{prefix}.rds.{table}.version_text");
        texts.push((name, resources.routes.version_info.clone()));
    }
    texts.sort();
    texts
}

/// All statistics but those of clusters, sorted by kind, key and name.
pub(in crate::admin) fn all(plane: &Plane) -> Vec<Stat> {
    let mut all = Collector::default();
    for listener in plane.stats.listeners() {
        listener_stats(&mut all, &listener);
        tls_stats(&mut all, plane, &listener);
    }
    for (prefix, table) in route_subscriptions(plane) {
        let labels = labels(&[
            ("envoy_rds_route_config", &table),
            ("envoy_http_conn_manager_prefix", &prefix),
        ]);
        let scope = Scope { name: format!("http.{prefix}.rds.{table}."), key: "http.rds.", labels };
        subscription(&mut all, &scope, &plane.stats.control.rds);
    }
    control_stats(&mut all, plane);
    server_stats(&mut all, plane);
    all.stats.sort_by(|a, b| (a.kind, &a.key, &a.name).cmp(&(b.kind, &b.key, &b.name)));
    all.stats
}

/// Connection manager prefix and route configuration of every listener that
/// takes its table from the control plane.
fn route_subscriptions(plane: &Plane) -> Vec<(String, String)> {
    let snapshot = plane.snapshot.load();
    let data = snapshot.listeners.iter().filter(|l| l.config.added_via_api);
    data.filter_map(|l| match &l.config.kind {
        ListenerKind::Data { route_config } => {
            Some((l.config.stat_prefix.clone(), route_config.clone()))
        }
        ListenerKind::Utility => None,
    })
    .collect()
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (i, (name, value)) in pairs.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{name}=\"");
        escape_label(value, &mut out);
        out.push('"');
    }
    out
}

/// A group of statistics with a common prefix.
struct Scope {
    /// Prefix of full names, with its dot.
    name: String,
    /// Prefix of keys, with its dot.
    key: &'static str,
    labels: String,
}

#[derive(Default)]
struct Collector {
    stats: Vec<Stat>,
}

impl Collector {
    fn add(&mut self, scope: &Scope, name: &str, kind: Kind, value: Value) {
        self.stats.push(Stat {
            name: format!("{}{name}", scope.name),
            key: format!("{}{name}", scope.key),
            labels: scope.labels.clone(),
            kind,
            value,
        });
    }

    /// A statistic of which a part of the name (name and key as given) is a
    /// label.
    fn add_labelled(
        &mut self,
        scope: &Scope,
        (name, key): (&str, &str),
        kind: Kind,
        label: (&str, &str),
        value: u64,
    ) {
        self.stats.push(Stat {
            name: format!("{}{name}", scope.name),
            key: format!("{}{key}", scope.key),
            labels: format!("{},{}", labels(&[label]), scope.labels),
            kind,
            value: Value::Number(value),
        });
    }

    /// A counter of a response class: `<prefix><class>xx`.
    fn add_class(&mut self, scope: &Scope, prefix: &str, class: char, value: u64) {
        let mut labels = format!("envoy_response_code_class=\"{class}\"");
        if !scope.labels.is_empty() {
            let _ = write!(labels, ",{}", scope.labels);
        }
        self.stats.push(Stat {
            name: format!("{}{prefix}{class}xx", scope.name),
            key: format!("{}{prefix}xx", scope.key),
            labels,
            kind: Kind::Counter,
            value: Value::Number(value),
        });
    }

    /// A statistic without variable parts.
    fn plain(&mut self, name: &str, kind: Kind, value: u64) {
        self.stats.push(Stat {
            name: name.to_owned(),
            key: name.to_owned(),
            labels: String::new(),
            kind,
            value: Value::Number(value),
        });
    }
}

/// `http.<prefix>.*` and `listener.<address>.*` of one connection manager.
fn listener_stats(all: &mut Collector, listener: &ListenerStats) {
    let http = Scope {
        name: format!("http.{}.", listener.prefix),
        key: "http.",
        labels: labels(&[("envoy_http_conn_manager_prefix", &listener.prefix)]),
    };
    let sum = |cell: &dyn Fn(&ListenerShard) -> u64| {
        listener.shards().iter().map(cell).fold(0, u64::wrapping_add)
    };
    let (socket, socket_http) = listener_scopes(listener);
    let routes = listener.prefix != ADMIN_PREFIX;
    let fields = ListenerShard::COUNTERS.iter();
    for (field, cell) in fields.filter(|(f, _)| routes || f.starts_with("downstream_")) {
        let value = sum(&|s| cell(s).value());
        if let Some(class) = response_class(field) {
            all.add_class(&http, "downstream_rq_", class, value);
            all.add_class(&socket_http, "downstream_rq_", class, value);
            continue;
        }
        all.add(&http, dotted(field), Kind::Counter, Value::Number(value));
        if *field == "downstream_rq_completed" {
            all.add(&socket_http, field, Kind::Counter, Value::Number(value));
        }
        if matches!(*field, "downstream_cx_total" | "downstream_cx_destroy") {
            all.add(&socket, field, Kind::Counter, Value::Number(value));
        }
    }
    for (field, cell) in ListenerShard::GAUGES {
        let value = Value::Number(sum(&|s| cell(s).value()));
        if *field == "downstream_cx_active" {
            all.add(&socket, field, Kind::Gauge, value.clone());
        }
        all.add(&http, field, Kind::Gauge, value);
    }
    for (field, cell) in ListenerShard::HISTOGRAMS {
        let buckets = Buckets::of(listener.shards().iter().map(cell));
        let value = Value::Histogram(Box::new(buckets));
        if *field == "downstream_cx_length_ms" {
            all.add(&socket, field, Kind::Histogram, value.clone());
        }
        all.add(&http, field, Kind::Histogram, value);
    }
}

/// `listener.<address>.ssl.*` of a listener that has shaken hands.
fn tls_stats(all: &mut Collector, plane: &Plane, listener: &ListenerStats) {
    let shards = || listener.shards().iter().filter_map(|shard| shard.tls.get());
    if shards().next().is_none() {
        return;
    }
    let (socket, _) = listener_scopes(listener);
    for (field, cell) in TlsStats::COUNTERS {
        let value = shards().map(|s| cell(s).value()).fold(0, u64::wrapping_add);
        all.add(&socket, &format!("ssl.{field}"), Kind::Counter, Value::Number(value));
    }
    for which in Agreed::ALL {
        let mut counts = BTreeMap::<&str, u64>::new();
        shards()
            .for_each(|s| s.agreed(which, &mut |name, n| *counts.entry(name).or_default() += n));
        for (value, n) in counts {
            let name = format!("{}.{value}", which.group());
            let label = (which.label(false), value);
            all.add_labelled(&socket, (&name, which.group()), Kind::Counter, label, n);
        }
    }
    let snapshot = plane.snapshot.load();
    let current = snapshot.listeners.iter().find(|l| l.config.stat_prefix == listener.prefix);
    if let Some(tls) = current.and_then(|listener| listener.config.tls.as_ref()) {
        for (secret, at) in tls.in_use().expirations() {
            let name = format!("ssl.certificate.{secret}.{EXPIRATION}");
            let key = format!("ssl.certificate.{EXPIRATION}");
            let label = ("envoy_tls_certificate", secret);
            all.add_labelled(&socket, (&name, &key), Kind::Gauge, label, at);
        }
    }
}

/// `listener.<address>.` and `listener.<address>.http.<prefix>.`; the admin
/// listener's have a name instead of an address.
fn listener_scopes(listener: &ListenerStats) -> (Scope, Scope) {
    let prefix = &listener.prefix;
    if prefix == ADMIN_PREFIX {
        let labels = labels(&[("envoy_http_conn_manager_prefix", prefix)]);
        return (
            Scope {
                name: "listener.admin.".to_owned(),
                key: "listener.admin.",
                labels: String::new(),
            },
            Scope {
                name: format!("listener.admin.http.{prefix}."),
                key: "listener.admin.http.",
                labels,
            },
        );
    }
    let address = &listener.address;
    let both =
        labels(&[("envoy_http_conn_manager_prefix", prefix), ("envoy_listener_address", address)]);
    (
        Scope {
            name: format!("listener.{address}."),
            key: "listener.",
            labels: labels(&[("envoy_listener_address", address)]),
        },
        Scope {
            name: format!("listener.{address}.http.{prefix}."),
            key: "listener.http.",
            labels: both,
        },
    )
}

/// The class digit of `downstream_rq_<n>xx`.
fn response_class(field: &str) -> Option<char> {
    field.strip_prefix("downstream_rq_")?.strip_suffix("xx")?.chars().next()
}

/// Filters have a scope of their own.
fn dotted(field: &'static str) -> &'static str {
    match field {
        "lua_errors" => "lua.errors",
        "tap_rq_tapped" => "tap.rq_tapped",
        field => field,
    }
}

/// Counters, histogram and gauge of one subscription type.
fn subscription(all: &mut Collector, scope: &Scope, stats: &SubscriptionStats) {
    for (name, counter) in subscription_counters(stats) {
        all.add(scope, name, Kind::Counter, Value::Number(counter.value()));
    }
    all.add(scope, "update_time", Kind::Gauge, Value::Number(stats.update_time_ms.value()));
    let buckets = Buckets::of(std::iter::once(&stats.update_duration));
    all.add(scope, "update_duration", Kind::Histogram, Value::Histogram(Box::new(buckets)));
}

/// Counters of one subscription type.
pub(in crate::admin) fn subscription_counters(
    stats: &SubscriptionStats,
) -> [(&'static str, &Counter); 5] {
    [
        ("update_attempt", &stats.update_attempt),
        ("update_success", &stats.update_success),
        ("update_failure", &stats.update_failure),
        ("update_rejected", &stats.update_rejected),
        ("init_fetch_timeout", &stats.init_fetch_timeout),
    ]
}

/// Counters of the control thread outside subscriptions.
pub(in crate::admin) fn control_counters(plane: &Plane) -> [(&'static str, &Counter); 12] {
    let control = &plane.stats.control;
    [
        ("cluster_manager.cluster_added", &control.cluster_added),
        ("cluster_manager.cluster_modified", &control.cluster_modified),
        ("cluster_manager.cluster_removed", &control.cluster_removed),
        ("listener_manager.listener_added", &control.listener_added),
        ("listener_manager.listener_modified", &control.listener_modified),
        ("listener_manager.listener_removed", &control.listener_removed),
        ("listener_manager.listener_in_place_updated", &control.listener_in_place_updated),
        ("listener_manager.listener_create_failure", &control.listener_create_failure),
        ("dns.cares.resolve_total", &control.dns_update_attempt),
        ("dns.cares.get_addr_failure", &control.dns_update_failure),
        ("dns.cares.not_found", &control.dns_update_empty),
        ("radiant.dns_resolve_success", &control.dns_update_success),
    ]
}

fn control_stats(all: &mut Collector, plane: &Plane) {
    let control = &plane.stats.control;
    for (key, stats) in [
        ("cluster_manager.cds.", &control.cds),
        ("listener_manager.lds.", &control.lds),
        ("radiant.sds.", &control.sds),
    ] {
        let scope = Scope { name: key.to_owned(), key, labels: String::new() };
        subscription(all, &scope, stats);
    }
    for (name, counter) in control_counters(plane) {
        all.plain(name, Kind::Counter, counter.value());
    }
    for (name, value) in [
        ("cluster_manager.active_clusters", control.active_clusters.value()),
        ("cluster_manager.warming_clusters", control.warming_clusters.value()),
        ("listener_manager.total_listeners_active", control.listeners_active.value()),
        ("listener_manager.total_listeners_warming", control.listeners_warming.value()),
        ("listener_manager.total_listeners_draining", control.listeners_draining.value()),
        ("listener_manager.workers_started", u64::from(plane.state() == ServerState::Live)),
        ("control_plane.connected_state", control.connected_state.value()),
        ("radiant.config_stale", control.config_stale.value()),
        ("radiant.snapshot_version", plane.snapshot.load().version),
    ] {
        all.plain(name, Kind::Gauge, value);
    }
}

fn server_stats(all: &mut Collector, plane: &Plane) {
    let memory = process::memory();
    let draining = plane.healthcheck_failed();
    let live = plane.state() == ServerState::Live && !draining;
    // Envoy: `admin.v3.ServerInfo.State`.
    let state = match plane.state() {
        ServerState::Live if draining => 1,
        ServerState::Live => 0,
        ServerState::PreInitializing => 2,
        ServerState::Initializing => 3,
    };
    let connections = plane.stats.listeners().iter().fold(0, |sum: u64, listener| {
        let shards = listener.shards().iter();
        sum.wrapping_add(shards.map(|s| s.downstream_cx_active.value()).fold(0, u64::wrapping_add))
    });
    for (name, value) in [
        ("server.concurrency", plane.stats.shards.saturating_sub(1) as u64),
        ("server.hot_restart_epoch", 0),
        ("server.live", u64::from(live)),
        ("server.memory_allocated", memory.heap),
        ("server.memory_heap_size", memory.heap),
        ("server.memory_physical_size", memory.resident),
        ("server.parent_connections", 0),
        ("server.state", state),
        ("server.total_connections", connections),
        ("server.uptime", plane.started.elapsed().as_secs()),
    ] {
        all.plain(name, Kind::Gauge, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_classes_are_recognised() {
        assert_eq!(response_class("downstream_rq_2xx"), Some('2'));
        assert_eq!(response_class("downstream_rq_total"), None);
        assert_eq!(response_class("no_route"), None);
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("a", "x\"y"), ("b", "")]), "a=\"x\\\"y\",b=\"\"");
    }
}
