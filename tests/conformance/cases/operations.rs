//! F, S, E, R: taps, logs, gRPC errors over HTTP/1, operators' requests.

use std::io::Write as _;
use std::net::TcpStream;

use envoy_types::pb::envoy::config::route::v3::{Route, route};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use radiant::seldon::{ExperimentKind, Mesh};

use super::clusters::note_tap;
use super::discovery::living;
use super::routing::{mirrored, mirrored_with, pipeline, post_experiment};
use super::{Case, alone, case, own};
use crate::discovery::LIMIT;
use crate::lab::{Lab, eventually};
use crate::oracle::LOOPBACK;
use crate::probe::{Probe, set_cluster};
use crate::upstream::{Act, acts, always, ok, status};

pub fn cases() -> Vec<Case> {
    let mut cases = filters();
    cases.extend(grpc_errors());
    cases.extend(mirrors());
    cases.extend(operators());
    cases
}

fn filters() -> Vec<Case> {
    vec![
        case("F17", |p| {
            let _upstream = p.serve(always("HTTP/1.1 204 No Content\r\n\r\n"));
            p.get("/v2/models/{m}/x", "x-request-id: {id}\r\nseldon-logging: a\r\n");
            let text = note_tap(p, 1);
            let tap: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            for way in ["request", "response"] {
                let part = &tap["http_buffered_trace"][way];
                p.expect(part["trailers"].is_array(), format!("{way}: have trailers"));
                p.expect(part.get("body").is_none(), format!("{way}: have no body"));
                let header = &part["headers"][0];
                p.expect(header["key"].is_string() && header["raw_value"] == "", "have headers");
            }
        }),
        case("F17/trailers", |p| {
            let chunked = "transfer-encoding: chunked\r\ntrailer: x-t\r\n";
            let _upstream = p.serve(always(format!(
                "HTTP/1.1 200 OK\r\n{chunked}\r\n2\r\nab\r\n0\r\nx-t: 1\r\n\r\n"
            )));
            p.ask(&format!(
                "POST /v2/models/{{m}}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {{id}}\r\nseldon-logging: a\r\n{chunked}\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"
            ));
            note_tap(p, 1);
        }),
        case("F18", |p| {
            let upstream = p.upstream(ok());
            let pipelines = vec![pipeline(&p.id, upstream.port)];
            p.mesh(&Mesh { pipelines, ..Mesh::default() });
            p.get(
                "/v2/pipelines/{m}/infer",
                "x-request-id: {id}\r\nseldon-logging: a\r\nseldon-internal-model: mine\r\n",
            );
            let text = note_tap(p, 1);
            p.expect(text.contains("\"key\": \"seldon-model\""), "show what Lua added");
            let added = format!("\"value\": \"{}.pipeline\"", p.id);
            p.expect(text.matches(&added).count() == 2, "show what the route added");
        }),
        case("F26", |p| {
            let _upstream = p.serve(always(status(503, "", "down")));
            p.infer("x-request-id: {id}\r\n");
            let line = p.note_log("all", 1).concat();
            p.expect(line.contains(" 503 - URX "), "say URX");
        }),
        case("F26/closed", |p| {
            let _upstream = p.serve(acts(vec![Act::Body, Act::Close]));
            p.infer("x-request-id: {id}\r\n");
            let line = p.note_log("all", 1).concat();
            p.expect(line.contains("URX") && line.contains("UC"), "say both");
        }),
        case("F26/refused", |p| {
            p.model(&[1]);
            p.infer("x-request-id: {id}\r\n");
            let line = p.note_log("all", 1).concat();
            p.expect(line.contains("URX") && line.contains("UF"), "say both");
        }),
    ]
}

/// gRPC over HTTP/1: replies that the proxy makes.
fn grpc_errors() -> Vec<Case> {
    let call = |p: &mut Probe<'_>, path: &str, code: &str| {
        let reply = p.ask(&format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\nx-request-id: {{id}}\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n"
        ));
        p.expect(reply.status() == 200, "answer 200");
        p.expect(reply.header("grpc-status") == Some(code), format!("say {code}"));
        p.expect(reply.header("content-length") == Some("0"), "have no body");
        p.note_log("all", 1);
    };
    vec![
        case("E06", move |p| call(p, "/nowhere", "12")),
        case("E06/no-cluster", move |p| {
            let upstream = p.upstream(ok());
            let models = vec![crate::probe::model(&p.id, &[upstream.port])];
            p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| set_cluster(route, "nobody"));
            call(p, "/v2/models/{m}/x", "14");
        }),
        case("E06/no-host", move |p| {
            p.model(&[]);
            call(p, "/v2/models/{m}/x", "14");
        }),
        case("E06/refused", move |p| {
            p.model(&[1]);
            call(p, "/v2/models/{m}/x", "14");
        }),
        case("E06/protocol-error", move |p| {
            let _upstream = p.serve(always("nonsense\r\n\r\n"));
            call(p, "/v2/models/{m}/x", "14");
        }),
    ]
}

fn mirrors() -> Vec<Case> {
    vec![
        case("R21", |p| {
            let (main, copy) = mirrored_with(p, 100, ExperimentKind::Model, never_mirror);
            for _ in 0..5 {
                post_experiment(p, "", "{}");
            }
            p.expect(main.received().len() == 5, "serve");
            let copied = copy.wait_within(std::time::Duration::from_millis(300), |r| !r.is_empty());
            p.expect(!copied, "not copy");
            p.note("copies", copy.received().len());
        }),
        alone("S19", |p| {
            let (_main, copy) = mirrored(p, 100, ExperimentKind::Model);
            let names = [
                "internal.upstream_rq_completed",
                "internal.upstream_rq_200",
                "external.upstream_rq_completed",
                "external.upstream_rq_200",
                "upstream_rq_completed",
                "upstream_rq_total",
            ];
            // The copy is internal on its way to the mirror listener.
            let clusters = [format!("{}a_1_http", p.id), "mirror_http".to_owned()];
            let prefixes = clusters.map(|name| format!("cluster.{name}."));
            let before: Vec<_> = prefixes.iter().map(|prefix| p.stats(prefix)).collect();
            for _ in 0..3 {
                post_experiment(p, "", "{}");
            }
            p.expect(copy.wait(|r| r.len() >= 3), "copy");
            let changes: Vec<_> = prefixes
                .iter()
                .zip(&before)
                .map(|(prefix, before)| p.note_stats(prefix, before, &names))
                .collect();
            p.expect(changes[0]["external.upstream_rq_completed"] == 3, "count external ones");
            p.expect(changes[1]["internal.upstream_rq_completed"] == 3, "count internal ones");
        }),
    ]
}

/// The mirror policy's share becomes zero.
fn never_mirror(route: &mut Route) {
    if let Some(route::Action::Route(action)) = &mut route.action {
        for policy in &mut action.request_mirror_policies {
            if let Some(fraction) = &mut policy.runtime_fraction {
                fraction.default_value = Some(FractionalPercent {
                    numerator: 0,
                    denominator: DenominatorType::Hundred.into(),
                });
            }
        }
    }
}

fn operators() -> Vec<Case> {
    vec![
        own("S15", |p| {
            let (lab, _upstream) = living(p);
            let mut hasty = TcpStream::connect((LOOPBACK, lab.ports.admin)).expect("it is open");
            let sent = hasty.write_all(b"POST /healthcheck/fail HTTP/1.1\r\nhost: h\r\n\r\n");
            p.expect(sent.is_ok(), "take the request");
            drop(hasty);
            let failed = || lab.admin("GET", "/ready").0.starts_with("HTTP/1.1 503");
            p.expect(eventually(LIMIT, failed), "fail the health check");
            p.note("body", lab.admin("GET", "/ready").1);
        }),
        own("S18", |p| {
            let (lab, _upstream) = living(p);
            let first = |lab: &Lab, method: &str, target: &str| {
                let (head, body) = lab.admin(method, target);
                let lines = [head.lines().next(), body.lines().next()];
                lines.map(|line| line.unwrap_or_default().to_owned()).join(" | ")
            };
            for target in ["/logging", "/logging?level=debug", "/logging?level=nonsense"] {
                p.note(target, first(&lab, "POST", target));
            }
            // Only the case before the last changed something.
            let (_, loggers) = lab.admin("POST", "/logging");
            for logger in ["admin", "config", "http", "pool", "router", "upstream"] {
                let line = format!("  {logger}: debug");
                let is_at_debug = loggers.lines().any(|l| l == line);
                p.expect(is_at_debug, format!("have {logger} at debug"));
                p.note(logger, is_at_debug);
            }
            p.note("get", first(&lab, "GET", "/logging?level=debug"));
            lab.admin("POST", "/logging?level=warning");
        }),
    ]
}
