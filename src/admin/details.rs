//! `/ready?details` and `/init_dump`: what is served, and what is waited for.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::AdminOps;
use crate::model::{Action, Clusters, ListenerKind, RouteTable};
use crate::plane::Plane;

/// Most names in a list; the rest is counted.
const SHOWN: usize = 20;

/// What stands between the plane and serving everything it was told to.
struct Waiting {
    /// Data listeners whose table has no route.
    without_table: Vec<String>,
    /// Known, not routable yet.
    warming: Vec<String>,
    /// Routable, some host name never looked up.
    unresolved: Vec<String>,
    /// Routable, no host: 503 `no healthy upstream`.
    without_host: Vec<String>,
    /// Named by a route, not routable: 503, flag NC.
    missing: Vec<String>,
}

impl Waiting {
    fn of(plane: &Plane, ops: &AdminOps) -> Self {
        let mut all = Self {
            without_table: Vec::new(),
            warming: (ops.warming)(),
            unresolved: Vec::new(),
            without_host: Vec::new(),
            missing: Vec::new(),
        };
        all.warming.sort();
        for listener in &plane.snapshot.load().listeners {
            if matches!(listener.config.kind, ListenerKind::Data { .. })
                && listener.routes.is_empty()
            {
                all.without_table.push(listener.config.name.clone());
            }
        }
        for slot in plane.clusters.all() {
            let Some(cluster) = slot.load() else { continue };
            if !cluster.endpoints.is_resolved() {
                all.unresolved.push(slot.name.to_string());
            } else if cluster.endpoints.hosts().is_empty() {
                all.without_host.push(slot.name.to_string());
            }
        }
        let tables = plane.snapshot.load();
        let missing: BTreeSet<String> =
            tables.listeners.iter().flat_map(|l| missing(&l.routes, &plane.clusters)).collect();
        all.missing = missing.into_iter().collect();
        all
    }
}

/// Clusters that a table names and that are not routable.
fn missing(table: &RouteTable, clusters: &Clusters) -> Vec<String> {
    let mut names = Vec::new();
    for route in table.virtual_hosts.iter().flat_map(|host| host.routes.iter()) {
        let Action::Forward(forward) = &route.action else { continue };
        let targets = forward.targets.iter().map(|t| &t.cluster);
        for slot in targets.chain(forward.mirrors.iter().map(|m| &m.cluster)) {
            let routable = slot.load().is_some()
                || clusters.find(slot.name.as_str()).is_some_and(|s| s.load().is_some());
            if !routable {
                names.push(slot.name.to_string());
            }
        }
    }
    names
}

/// Lines for people, below the state.
pub(super) fn text(plane: &Plane, ops: &AdminOps) -> String {
    let control = &plane.stats.control;
    let drain = plane.drain();
    let snapshot = plane.snapshot.load();
    let yes_no = |on: bool| if on { "yes" } else { "no" };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "healthcheck failed by request: {}", yes_no(plane.healthcheck_failed()));
    let _ = writeln!(
        out,
        "draining: connections {}, listeners {}, exiting {}",
        yes_no(drain.connections),
        yes_no(drain.listeners),
        yes_no(drain.exit)
    );
    let connected = control.connected_state.value() != 0;
    let _ = writeln!(out, "control plane connected: {}", yes_no(connected));
    let stale = control.config_stale.value() != 0;
    let _ = writeln!(out, "configuration stale (saved snapshot serves): {}", yes_no(stale));
    let _ = writeln!(out, "snapshot: {}", snapshot.version);
    for listener in &snapshot.listeners {
        let config = &listener.config;
        let routes = match &config.kind {
            ListenerKind::Data { route_config } => {
                format!("{} routes of {route_config}", listener.routes.len())
            }
            ListenerKind::Utility => "utility".to_owned(),
        };
        let _ = writeln!(out, "listener {} on {}: {routes}", config.name, config.address);
    }
    let _ = writeln!(out, "clusters routable: {}", plane.clusters.all().len());
    let waiting = Waiting::of(plane, ops);
    for (what, names) in [
        ("listeners without routes", &waiting.without_table),
        ("clusters warming", &waiting.warming),
        ("clusters never resolved", &waiting.unresolved),
        ("clusters without host (503 UH)", &waiting.without_host),
        ("clusters named by routes and missing (503 NC)", &waiting.missing),
    ] {
        let _ = writeln!(out, "{what}: {}", list(names));
    }
    out
}

fn list(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        n if n > SHOWN => format!("{n}: {shown}, ..."),
        n => format!("{n}: {shown}"),
    }
}

/// Envoy: `admin.v3.UnreadyTargetsDumps`; `{}` when nothing is waited for.
pub(super) fn init_dump(plane: &Plane, ops: &AdminOps) -> Value {
    let waiting = Waiting::of(plane, ops);
    let dumps: Vec<_> = [
        ("init manager listeners", waiting.without_table),
        ("init manager clusters", [waiting.warming, waiting.unresolved].concat()),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(name, names)| json!({"name": name, "target_names": names}))
    .collect();
    if dumps.is_empty() { json!({}) } else { json!({"unready_targets_dumps": dumps}) }
}
