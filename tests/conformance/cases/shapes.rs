//! S17: admin outputs as people's tools read them: keys and kinds of values.

use std::time::Duration;

use serde_json::Value;

use super::extra::eventually;
use super::{Case, alone, case};
use crate::probe::Probe;
use crate::upstream::ok;

pub fn cases() -> Vec<Case> {
    vec![
        // Without those of other cases.
        alone("S17/listeners-json", |p| {
            let value = json(p, "/listeners?format=json");
            note_shape(p, &value);
        }),
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
        buckets("S17/buckets-cumulative", "cumulative"),
        buckets("S17/buckets-disjoint", "disjoint"),
        buckets("S17/buckets-detailed", "detailed"),
        buckets("S17/buckets-summary", "summary"),
        buckets("S17/buckets-none", "none"),
        buckets("S17/buckets-empty", ""),
        buckets("S17/buckets-nonsense", "nonsense"),
        buckets("S17/buckets-json-cumulative", "cumulative&format=json"),
        buckets("S17/buckets-json-disjoint", "disjoint&format=json"),
        buckets("S17/buckets-json-detailed", "detailed&format=json"),
        buckets("S17/buckets-json-summary", "summary&format=json"),
        buckets("S17/buckets-json-none", "none&format=json"),
        buckets("S17/buckets-json-nonsense", "nonsense&format=json"),
        buckets("S17/buckets-prometheus", "cumulative&format=prometheus"),
        buckets("S17/buckets-prometheus-summary", "summary&format=prometheus"),
        buckets("S17/buckets-prometheus-disjoint", "disjoint&format=prometheus"),
        buckets("S17/buckets-prometheus-nonsense", "nonsense&format=prometheus"),
        // The parser's words differ: known.
        refused(
            "S17/bad-regex",
            &[
                "/stats?filter=(",
                "/stats?format=json&filter=(",
                "/stats/prometheus?filter=(",
                "/config_dump?name_regex=(",
            ],
        ),
        refused("S17/clusters-bad-regex", &["/clusters?filter=("]),
        refused(
            "S17/dump-bad-mask",
            &[
                "/config_dump?mask=nonsense",
                "/config_dump?mask=bootstrap,nonsense",
                "/config_dump?mask=bootstrap.nonsense",
                "/config_dump?mask=bootstrap.node.nonsense",
                "/config_dump?mask=bootstrap,static_clusters",
                "/config_dump?mask=static_clusters.cluster",
            ],
        ),
        refused(
            "S17/dump-resource-bad-mask",
            &[
                "/config_dump?resource=static_listeners&mask=nonsense",
                "/config_dump?resource=static_listeners&mask=last_updated.nonsense",
                "/config_dump?resource=static_listeners&mask=last_updated,listener.nonsense",
                "/config_dump?resource=dynamic_warming_clusters&mask=nonsense",
            ],
        ),
        refused(
            "S17/dump-resource-refused",
            &["/config_dump?resource=bootstrap", "/config_dump?resource=nonsense"],
        ),
        // Where Envoy says a header twice: known.
        case("S17/dump-refused-twice", |p| {
            let (head, _) = p.side.admin("GET", "/config_dump?resource=nonsense");
            p.note("nosniff", head.matches("x-content-type-options: nosniff").count());
        }),
        dumped("S17/dump-mask-deep", "/config_dump?mask=bootstrap.node.id,last_updated"),
        dumped("S17/dump-mask-version", "/config_dump?mask=version_info"),
        dumped("S17/dump-mask-empty", "/config_dump?mask=dynamic_scoped_route_configs"),
        refused("S17/listeners-bad-format", &["/listeners?format=nonsense"]),
        case("S17/options", |p| {
            let value = json(p, "/server_info");
            let options = value["command_line_options"].as_object().cloned().unwrap_or_default();
            p.expect(!options.is_empty(), "tell its options");
            for (name, value) in options {
                p.note("option", format!("{name}: {}", kind(&value)));
            }
        }),
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

/// The histograms of a cluster after one request, one of which has values; numbers
/// of a run masked.
fn buckets(id: &'static str, how: &'static str) -> Case {
    case(id, move |p| {
        let _upstream = p.serve(ok());
        p.infer("");
        let filter = p.fill(
            "filter=cluster\\.{m}_1_http\\.(upstream_rq_time|upstream_rq_total|upstream_cx_length)",
        );
        // Envoy adds its threads' values up every five seconds.
        let told = eventually(Duration::from_secs(15), || {
            let (_, body) = p.side.admin("GET", &format!("/stats?{filter}"));
            body.lines().any(|line| line.contains("upstream_rq_time: P"))
        });
        p.expect(told, "have a value");
        let target = format!("/stats?histogram_buckets={how}&{filter}");
        let (head, body) = p.side.admin("GET", &p.fill(&target));
        p.note("head", head.lines().next().unwrap_or_default());
        let kind = head.lines().find(|line| line.to_lowercase().starts_with("content-type"));
        p.note("kind", kind.unwrap_or("none"));
        if let Ok(mut value) = serde_json::from_str::<Value>(&body) {
            mask_values(&mut value);
            p.note("body", value);
            return;
        }
        for line in body.lines() {
            p.note("body", shape_of(line));
        }
    })
}

/// Masks what differs from run to run in statistics as JSON.
fn mask_values(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "cumulative" | "interval" | "count" | "lower_bound" | "width" => {
                        *value = Value::String("#".to_owned());
                    }
                    "intervals" => *value = Value::Array(Vec::new()),
                    // Not as one of them, and then the other, writes it.
                    "upper_bound" => *value = value.as_f64().map(|bound| bound.to_string()).into(),
                    _ => mask_values(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_values),
        _ => {}
    }
}

/// The digits that differ from run to run as `#`: those of times and counts, not of
/// names, bounds and quantiles. In Envoy, there are some of an interval, too, if a
/// value came in it.
fn shape_of(line: &str) -> String {
    for name in ["  totals=", "  intervals="] {
        if line.starts_with(name) {
            return name.to_owned();
        }
    }
    let value = |line: &str| line.rsplit_once("} ").map(|(name, _)| format!("{name}}} #"));
    if line.contains("quantile=") || line.contains("_bucket{") || line.contains("_sum{") {
        return value(line).unwrap_or_default();
    }
    let line = line.replace("nan", "0");
    let mut out = String::new();
    let mut inside = 0;
    for c in line.chars() {
        inside += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        match c {
            '0'..='9' | '.' if inside > 0 && out.ends_with('#') => {}
            '0'..='9' if inside > 0 => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

/// What is refused, and how it is said.
fn refused(id: &'static str, targets: &'static [&'static str]) -> Case {
    alone(id, move |p| {
        for target in targets {
            let (head, body) = p.side.admin("GET", target);
            let mut seen = Vec::new();
            for line in head.lines().filter(|line| !line.to_lowercase().starts_with("date")) {
                // S17/dump-refused-twice
                if line != "x-content-type-options: nosniff" {
                    seen.push(line);
                }
            }
            p.note(target, seen.join(" | "));
            // protobuf begins its text format with a remark that varies.
            let words = body.split_whitespace().filter(|word| !word.starts_with("goo.gle/"));
            let words: Vec<&str> = words.collect();
            p.note("body", if body.starts_with('{') { "(JSON)".into() } else { words.join(" ") });
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

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "object",
        Value::Array(_) => "list",
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
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
