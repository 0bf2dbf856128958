//! S17: admin outputs as people's tools read them: keys and kinds of values.

use serde_json::Value;

use super::{Case, alone, case};
use crate::probe::Probe;
use crate::upstream::ok;

pub fn cases() -> Vec<Case> {
    vec![
        whole("S17/listeners-json", "/listeners?format=json"),
        whole("S17/server-info", "/server_info"),
        case("S17/clusters-json", |p| {
            let _upstream = p.serve(ok());
            p.infer("");
            let value = json(p, "/clusters?format=json");
            let name = format!("{}_1_http", p.id);
            let clusters = value["cluster_statuses"].as_array();
            let found = clusters.into_iter().flatten().find(|c| c["name"] == name.as_str());
            p.expect(found.is_some(), "name the cluster");
            note_shape(p, found.unwrap_or(&Value::Null));
        }),
        case("S17/clusters", |p| {
            let _upstream = p.serve(ok());
            p.infer("");
            let (_, body) = p.side.admin("GET", "/clusters");
            let own = format!("{}_1_http::", p.id);
            let body: Vec<&str> = body.lines().filter(|line| line.starts_with(&own)).collect();
            for line in body {
                p.note("text", line);
            }
        }),
        stats("S17/stats-filter", "/stats?filter=cluster\\.{m}_1_http\\.upstream_rq_(2|to)"),
        stats("S17/stats-used", "/stats?usedonly&filter=cluster\\.{m}_1_http\\.upstream_rq_to"),
        stats("S17/stats-gauges", "/stats?type=Gauges&filter=cluster\\.{m}_1_http\\.upstream_rq"),
        stats(
            "S17/stats-counters",
            "/stats?type=Counters&filter=cluster\\.{m}_1_http\\.upstream_rq_2",
        ),
        stats(
            "S17/stats-json",
            "/stats?format=json&filter=cluster\\.{m}_1_http\\.upstream_rq_(2|to)",
        ),
        stats(
            "S17/stats-json-type",
            "/stats?format=json&type=Gauges&filter=cluster\\.{m}_1_http\\.upstream_rq",
        ),
        stats("S17/stats-json-none", "/stats?format=json&filter=cluster\\.{m}-nothing"),
        stats(
            "S17/stats-prometheus",
            "/stats?format=prometheus&filter=cluster\\.{m}_1_http\\.upstream_rq_total",
        ),
        stats("S17/stats-bad-format", "/stats?format=nonsense"),
        stats("S17/stats-bad-type", "/stats?type=nonsense"),
        dumped("S17/dump-clusters", "/config_dump?resource=dynamic_active_clusters"),
        dumped("S17/dump-routes", "/config_dump?resource=dynamic_route_configs"),
        // Without those of other cases, which Envoy drains for minutes.
        dumped(
            "S17/dump-listeners",
            "/config_dump?resource=dynamic_listeners&name_regex=seldon_.*",
        ),
        dumped("S17/dump-static", "/config_dump?resource=static_listeners"),
        dumped("S17/dump-bootstrap", "/config_dump?resource=bootstrap"),
        dumped("S17/dump-warming", "/config_dump?resource=dynamic_warming_clusters"),
        dumped("S17/dump-nonsense", "/config_dump?resource=nonsense"),
        dumped("S17/dump-mask", "/config_dump?resource=dynamic_active_clusters&mask=cluster.name"),
        dumped(
            "S17/dump-name",
            "/config_dump?resource=dynamic_active_clusters&name_regex={m}_1_.*",
        ),
    ]
}

/// An output that is the same whatever other cases do.
fn whole(id: &'static str, target: &'static str) -> Case {
    case(id, move |p| {
        let value = json(p, target);
        note_shape(p, &value);
    })
}

fn json(p: &mut Probe<'_>, target: &str) -> Value {
    let target = p.fill(target);
    let (head, body) = p.side.admin("GET", &target);
    p.note("head", head.lines().next().unwrap_or_default());
    let kind = head.lines().find(|line| line.to_lowercase().starts_with("content-type"));
    p.note("kind", kind.unwrap_or("none"));
    serde_json::from_str(&body).unwrap_or(Value::String(body))
}

/// A query for statistics after one request.
fn stats(id: &'static str, target: &'static str) -> Case {
    case(id, move |p| {
        let _upstream = p.serve(ok());
        p.infer("");
        let id = p.id.clone();
        p.stats(&id);
        let (head, body) = p.side.admin("GET", &p.fill(target));
        p.note("head", head.lines().next().unwrap_or_default());
        for line in body.lines() {
            p.note("body", line);
        }
    })
}

fn dumped(id: &'static str, target: &'static str) -> Case {
    alone(id, move |p| {
        let _upstream = p.serve(ok());
        let value = json(p, target);
        if !value.is_string() {
            return note_shape(p, &value);
        }
        p.note("text", value);
    })
}

/// Every key with its kind of value; text and flags that mean something as they
/// are.
fn note_shape(p: &mut Probe<'_>, value: &Value) {
    let mut lines = Vec::new();
    walk("", value, &mut lines);
    lines.sort();
    lines.dedup();
    for line in lines {
        p.note("shape", line);
    }
}

fn walk(path: &str, value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                // What Envoy was built with, and its own options.
                if matches!(
                    key.as_str(),
                    "extensions"
                        | "client_features"
                        | "command_line_options"
                        | "metadata"
                        | "listening_addresses"
                ) {
                    continue;
                }
                walk(&format!("{path}.{key}"), value, lines);
            }
        }
        Value::Array(list) => {
            lines.push(format!("{path}: list"));
            for value in list {
                walk(&format!("{path}[]"), value, lines);
            }
        }
        Value::String(text) if path.ends_with("@type") || path.ends_with(".name") => {
            lines.push(format!("{path} = {text}"));
        }
        Value::String(text) if text.parse::<u64>().is_ok() => lines.push(format!("{path}: \"0\"")),
        Value::String(_) => lines.push(format!("{path}: text")),
        Value::Number(_) => lines.push(format!("{path}: number")),
        Value::Bool(_) => lines.push(format!("{path}: bool")),
        Value::Null => lines.push(format!("{path}: null")),
    }
}
