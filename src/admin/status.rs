//! `/clusters`, `/listeners`, `/memory`, `/server_info`.

use std::fmt::Write;
use std::net::SocketAddr;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::metrics::cluster::{self, View};
use super::process;
use super::reply::{JSON, Reply, TEXT, pieces, pretty_at};
use crate::admin::AdminOps;
use crate::model::{EndpointAddress, Host, Limits};
use crate::plane::{Plane, ServerState};
use crate::stats::Counter;

/// `/clusters`: clusters by name, those that match only.
pub(super) fn clusters(plane: &Plane, filter: Option<Regex>, as_json: bool) -> Reply {
    let slots = cluster::sorted(plane).into_iter();
    let views = slots
        .filter(move |s| filter.as_ref().is_none_or(|f| f.is_match(s.name.as_str())))
        .filter_map(|slot| View::of(&slot));
    if !as_json {
        return Reply::streamed(TEXT, pieces(views.map(|view| cluster_text(&view))));
    }
    let mut first = true;
    let entries = views.map(move |view| {
        let comma = if std::mem::take(&mut first) { "" } else { "," };
        format!("{comma}\n  {}", pretty_at(2, &cluster_json(&view)))
    });
    let open = std::iter::once("{\n \"cluster_statuses\": [".to_owned());
    let close = std::iter::once("\n ]\n}\n".to_owned());
    Reply::streamed(JSON, pieces(open.chain(entries).chain(close)))
}

/// Limits of both priorities as `/clusters` names them; nothing here uses the
/// high one.
fn limits(view: &View) -> [(&'static str, Limits); 2] {
    [("default_priority", view.cluster.limits), ("high_priority", Limits::default())]
}

fn cluster_text(view: &View) -> String {
    let name = view.name();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name}::observability_name::{name}");
    for (priority, l) in limits(view) {
        let _ = writeln!(out, "{name}::{priority}::max_connections::{}", l.max_connections);
        let _ =
            writeln!(out, "{name}::{priority}::max_pending_requests::{}", l.max_pending_requests);
        let _ = writeln!(out, "{name}::{priority}::max_requests::{}", l.max_requests);
        let _ = writeln!(out, "{name}::{priority}::max_retries::{}", l.max_retries);
    }
    let _ = writeln!(out, "{name}::added_via_api::{}", view.cluster.added_via_api);
    let hosts = view.cluster.endpoints.hosts();
    for host in hosts.iter() {
        let address = host.address;
        let counts = host_counts(view, host, hosts.len());
        let mut lines: Vec<_> = counts.iter().map(|c| (c.name, c.value)).collect();
        lines.sort_unstable();
        for (key, value) in lines {
            let _ = writeln!(out, "{name}::{address}::{key}::{value}");
        }
        for (key, value) in [
            ("hostname", hostname(view, address).as_str()),
            ("health_flags", "healthy"),
            ("weight", "1"),
            ("region", ""),
            ("zone", ""),
            ("sub_zone", ""),
            ("canary", "false"),
            ("priority", "0"),
            ("success_rate", "-1"),
            ("local_origin_success_rate", "-1"),
        ] {
            let _ = writeln!(out, "{name}::{address}::{key}::{value}");
        }
    }
    out
}

struct HostCount {
    name: &'static str,
    gauge: bool,
    value: u64,
}

/// Numbers of a host in a cluster. They are kept per cluster: with one host
/// they are its own, with several only what the address itself knows is shown.
fn host_counts(view: &View, host: &Host, hosts: usize) -> Vec<HostCount> {
    let active = u64::from(host.active.load(std::sync::atomic::Ordering::Relaxed));
    if hosts != 1 {
        return vec![HostCount { name: "rq_active", gauge: true, value: active }];
    }
    let counter = |name, cell: fn(&crate::stats::ClusterShard) -> &Counter| HostCount {
        name,
        gauge: false,
        value: view.count(cell),
    };
    let gauge = |name, value| HostCount { name, gauge: true, value };
    let answers = |group, classes: std::ops::RangeInclusive<u16>| {
        view.count_group(group, |g| classes.clone().map(|class| g.class(class)).sum())
    };
    let success = answers(cluster::ALL, 1..=4);
    let error = answers(cluster::ALL, 5..=5) + answers(cluster::RETRIED, 5..=5);
    vec![
        counter("cx_connect_fail", |s| &s.upstream_cx_connect_fail),
        counter("cx_total", |s| &s.upstream_cx_total),
        HostCount { name: "rq_error", gauge: false, value: error },
        HostCount { name: "rq_success", gauge: false, value: success },
        counter("rq_timeout", |s| &s.upstream_rq_timeout),
        counter("rq_total", |s| &s.upstream_rq_total),
        gauge("cx_active", view.gauge(|s| &s.upstream_cx_active)),
        gauge("rq_active", view.gauge(|s| &s.upstream_rq_active)),
        gauge("rq_pending_active", view.gauge(|s| &s.upstream_rq_pending_active)),
    ]
}

/// The configured name behind an address, if there is only one it can be.
fn hostname(view: &View, address: SocketAddr) -> String {
    let endpoints = &view.cluster.endpoints.endpoints;
    if endpoints.contains(&EndpointAddress::Socket(address)) {
        return address.ip().to_string();
    }
    let mut names = endpoints.iter().filter_map(|e| match e {
        EndpointAddress::Name(name, port) if *port == address.port() => Some(name),
        _ => None,
    });
    match (names.next(), names.next()) {
        (Some(name), None) => name.to_string(),
        _ => String::new(),
    }
}

/// Envoy: `admin.v3.ClusterStatus`.
fn cluster_json(view: &View) -> Value {
    let mut status = Map::new();
    status.insert("name".to_owned(), view.name().into());
    if view.cluster.added_via_api {
        status.insert("added_via_api".to_owned(), true.into());
    }
    let hosts = view.cluster.endpoints.hosts();
    let host_statuses: Vec<_> =
        hosts.iter().map(|host| host_json(view, host, hosts.len())).collect();
    if !host_statuses.is_empty() {
        status.insert("host_statuses".to_owned(), host_statuses.into());
    }
    let thresholds = limits(view).map(|(priority, l)| {
        let mut entry = Map::new();
        if priority == "high_priority" {
            entry.insert("priority".to_owned(), "HIGH".into());
        }
        entry.insert("max_connections".to_owned(), l.max_connections.into());
        entry.insert("max_pending_requests".to_owned(), l.max_pending_requests.into());
        entry.insert("max_requests".to_owned(), l.max_requests.into());
        entry.insert("max_retries".to_owned(), l.max_retries.into());
        Value::Object(entry)
    });
    status.insert("circuit_breakers".to_owned(), json!({"thresholds": thresholds}));
    status.insert("observability_name".to_owned(), view.name().into());
    Value::Object(status)
}

/// Envoy: `admin.v3.HostStatus`; proto3 JSON leaves zeros out.
fn host_json(view: &View, host: &Host, hosts: usize) -> Value {
    let stats = host_counts(view, host, hosts).into_iter().map(|count| {
        let mut entry = Map::new();
        if count.gauge {
            entry.insert("type".to_owned(), "GAUGE".into());
        }
        if count.value != 0 {
            entry.insert("value".to_owned(), count.value.to_string().into());
        }
        entry.insert("name".to_owned(), count.name.into());
        Value::Object(entry)
    });
    let mut status = Map::new();
    status.insert("address".to_owned(), address_json(host.address));
    status.insert("stats".to_owned(), stats.collect::<Vec<_>>().into());
    status.insert("health_status".to_owned(), json!({"eds_health_status": "HEALTHY"}));
    status.insert("weight".to_owned(), 1.into());
    let hostname = hostname(view, host.address);
    if !hostname.is_empty() {
        status.insert("hostname".to_owned(), hostname.into());
    }
    status.insert("locality".to_owned(), json!({}));
    Value::Object(status)
}

fn address_json(address: SocketAddr) -> Value {
    json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }})
}

/// `/listeners`
pub(super) fn listeners(plane: &Plane, as_json: bool) -> Reply {
    let snapshot = plane.snapshot.load();
    let utility = plane.utility.get().map(|(name, address)| (name, *address));
    let data = snapshot.listeners.iter().map(|l| (&l.config.name, l.config.address));
    let all = utility.into_iter().chain(data);
    if !as_json {
        return Reply::text(all.map(|(name, at)| format!("{name}::{at}\n")).collect::<String>());
    }
    let statuses: Vec<_> =
        all.map(|(name, at)| json!({"name": name, "local_address": address_json(at)})).collect();
    Reply::json(&if statuses.is_empty() {
        json!({})
    } else {
        json!({"listener_statuses": statuses})
    })
}

/// `/memory`: what the kernel says; the allocator keeps no such accounts.
pub(super) fn memory() -> Reply {
    let memory = process::memory();
    Reply::json(&json!({
        "allocated": memory.heap.to_string(),
        "heap_size": memory.heap.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.resident.to_string(),
    }))
}

/// `/server_info`
pub(super) fn server_info(plane: &Plane, ops: &AdminOps) -> Reply {
    let state = match plane.state() {
        ServerState::Live if plane.healthcheck_failed() => "DRAINING",
        ServerState::Live => "LIVE",
        ServerState::PreInitializing => "PRE_INITIALIZING",
        ServerState::Initializing => "INITIALIZING",
    };
    let uptime = format!("{}s", plane.started.elapsed().as_secs());
    let number = |part: &str| part.parse::<u32>().unwrap_or(0);
    Reply::json(&json!({
        "version": ops.version,
        "state": state,
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "hot_restart_initializing": false,
        "command_line_options": ops.command_line_options,
        "node": {
            "id": plane.node.id,
            "cluster": plane.node.cluster,
            "user_agent_name": "radiant",
            "user_agent_build_version": {
                "version": {
                    "major_number": number(env!("CARGO_PKG_VERSION_MAJOR")),
                    "minor_number": number(env!("CARGO_PKG_VERSION_MINOR")),
                    "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
                },
            },
        },
    }))
}
