//! C: clusters; F: filters and logs.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, circuit_breakers};
use envoy_types::pb::google::protobuf::UInt32Value;
use radiant::seldon::{Mesh, ModelVersion, model_clusters};

use super::routing::{gated, infer, pipeline};
use super::{Case, case};
use crate::probe::{Probe, model, version};
use crate::upstream::{Act, Gate, acts, always, ok, status};

pub fn cases() -> Vec<Case> {
    let mut cases = failures();
    cases.extend(changes());
    cases.extend(filters());
    cases
}

/// The case's model on an upstream with this answer: reply and log compared.
fn odd(id: &'static str, code: u16, answer: String) -> Case {
    case(id, move |p| {
        let upstream = p.serve(always(&answer));
        let reply = p.infer("x-request-id: {id}\r\n");
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        let requests = upstream.received().len();
        p.note("attempts", requests);
        p.note_log("all", 1);
    })
}

fn failures() -> Vec<Case> {
    let many: String = (0..101).map(|n| format!("x-{n}: v\r\n")).collect();
    vec![
        case("C01", |p| {
            p.model(&[]);
            let reply = p.infer("");
            p.expect(reply.body == b"no healthy upstream", "say so");
        }),
        case("C09", |p| {
            p.model(&[1]);
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.status() == 503, "answer 503");
            p.note_log("all", 1);
        }),
        case("C11", overflow),
        odd("C18", 502, status(200, &many, "")),
        odd("C18/large", 200, status(200, &format!("a: {}\r\n", "b".repeat(62_000)), "")),
        odd("C18/59k", 200, status(200, &format!("a: {}\r\n", "b".repeat(59_000)), "")),
        odd("C19", 502, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into()),
        odd("C19/204", 502, "HTTP/1.1 204 N\r\ncontent-length: 2\r\n\r\nok".into()),
        odd("C19/204-zero", 204, "HTTP/1.1 204 N\r\ncontent-length: 0\r\n\r\n".into()),
        odd("C19/two-lengths", 502, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok".into()),
        odd("C19/gzip", 502, "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok".into()),
        odd("C19/version", 200, "HTTP/3.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()),
        odd("C19/status", 2000, "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n".into()),
        odd("C19/name", 502, "HTTP/1.1 200 OK\r\na b: c\r\ncontent-length: 0\r\n\r\n".into()),
        odd("C19/lf", 200, "HTTP/1.1 200 OK\na: b\ncontent-length: 2\n\nok".into()),
        odd("C19/fold", 200, "HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n".into()),
        case("C21", |p| {
            let _upstream = p.serve(acts(vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec()), Act::Wait(Duration::from_millis(100)), Act::Close]));
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.cut, "cut the reply");
            p.note_log("all", 1);
        }),
        case("C22", |p| {
            let upstream = p.upstream(ok());
            p.model(&[1, upstream.port]);
            // One in 64 picks the dead host six times.
            let lucky = (0..4).any(|_| {
                let mut client = infer(p);
                client.reply(false).is_some_and(|reply| reply.status() == 200)
            });
            p.expect(lucky, "reach the other host");
            p.note("reached", lucky);
        }),
        case("R42", |p| {
            let _upstream = p.serve(acts(vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n".to_vec()), Act::Wait(Duration::from_millis(100)), Act::Reset]));
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.cut, "cut the reply");
            p.note_log("all", 1);
        }),
    ]
}

/// One connection and one waiting request for the clusters of the case's model.
pub(super) fn limit(p: &mut Probe<'_>, port: u16) {
    let limited = |mut cluster: Cluster| {
        cluster.circuit_breakers.as_mut().unwrap().thresholds[0] = circuit_breakers::Thresholds {
            max_connections: Some(UInt32Value { value: 1 }),
            max_pending_requests: Some(UInt32Value { value: 1 }),
            max_requests: Some(UInt32Value { value: 1 }),
            ..Default::default()
        };
        cluster
    };
    let clusters = model_clusters(&version(&p.id, 1, &[port])).map(limited);
    p.side.push_clusters(&clusters);
}

/// A cluster of one connection and one waiting request.
fn overflow(p: &mut Probe<'_>) {
    let gate = Gate::default();
    let upstream = p.upstream(gated(&gate));
    p.model(&[upstream.port]);
    limit(p, upstream.port);
    let mut first = infer(p);
    p.expect(upstream.wait(|r| r.len() == 1), "reach the upstream");
    let mut second = infer(p);
    std::thread::sleep(Duration::from_millis(200));
    let reply = p.infer("x-request-id: {id}-third\r\n");
    p.expect(reply.header("x-envoy-overloaded").is_some(), "refuse the third");
    gate.open();
    for client in [&mut first, &mut second] {
        let reply = client.reply(false);
        p.note_reply(reply.as_ref());
    }
}

/// What happens while a request is under way.
fn in_flight(
    id: &'static str,
    after: u16,
    change: impl Fn(&mut Probe<'_>, u16) + Send + Sync + 'static,
) -> Case {
    case(id, move |p| {
        let gate = Gate::default();
        let upstream = p.serve(gated(&gate));
        let mut client = infer(p);
        p.expect(upstream.wait(|r| r.len() == 1), "reach the upstream");
        change(p, upstream.port);
        gate.open();
        let reply = client.reply(false);
        p.note_reply(reply.as_ref());
        p.expect(reply.is_some_and(|r| r.status() == 200), "finish the request");
        let next = p.infer("");
        p.expect(next.status() == after, format!("answer the next with {after}: {}", next.line));
    })
}

fn changes() -> Vec<Case> {
    let clusters = |version: &ModelVersion| model_clusters(version).to_vec();
    vec![
        in_flight("C12", 503, move |p, _| p.side.push_clusters(&clusters(&version(&p.id, 1, &[])))),
        in_flight("C13", 503, move |p, _| {
            p.side.push_clusters(&clusters(&version(&p.id, 1, &[1])))
        }),
        in_flight("C14", 503, |p, _| {
            let names = [format!("{}_1_http", p.id), format!("{}_1_grpc", p.id)];
            p.side.remove_clusters(&names);
        }),
        case("X17", |p| {
            let upstream = p.serve(ok());
            let reply = p.infer("");
            p.expect(reply.status() == 200, "serve at once");
            p.note_received(&upstream);
        }),
        case("X34", |p| {
            let upstream = p.upstream(ok());
            let pipelines = vec![pipeline(&p.id, upstream.port)];
            let experiments = vec![radiant::seldon::Experiment {
                name: p.id.clone(),
                kind: radiant::seldon::ExperimentKind::Pipeline,
                candidates: vec![(p.id.clone(), 1)],
                ..Default::default()
            }];
            p.mesh(&Mesh { pipelines, experiments, ..Mesh::default() });
            let reply = p.get("/v2/x", "seldon-model: {m}.experiment\r\n");
            p.expect(reply.status() == 200, "accept nameless entries");
            p.note_received(&upstream);
        }),
    ]
}

/// A request by path and headers whose upstream view is compared.
fn path(id: &'static str, code: u16, path: &'static str, headers: &'static str) -> Case {
    case(id, move |p| {
        let upstream = p.upstream(ok());
        let mesh = Mesh {
            models: vec![model(&p.id, &[upstream.port])],
            pipelines: vec![pipeline(&p.id, upstream.port)],
            ..Mesh::default()
        };
        p.mesh(&mesh);
        let reply = p.get(path, &format!("x-request-id: {{id}}\r\n{headers}"));
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        p.note_received(&upstream);
        p.note_log("all", 1);
        p.note_log("errors", 0);
    })
}

fn filters() -> Vec<Case> {
    vec![
        path("F01", 200, "/v2/models/{m}/infer", ""),
        path("F02", 200, "/v2/models/{m}", ""),
        path("F03", 404, "/v2/models/{m}?x=1", ""),
        path("F03/slash", 404, "/v2/models/{m}?x=/y", ""),
        path("F03/none", 404, "/v2/models/", ""),
        path("F03/empty", 404, "/v2/models//infer", ""),
        path("F04", 200, "/v2/pipelines/{m}/infer", ""),
        path("F05", 404, "/v2/pipelines/{m}", ""),
        path("F06", 404, "/v2/models/%66{m}/infer", ""),
        path("F07", 404, "/x/v2/models/{m}/infer", ""),
        path("F08", 200, "/v2/models/other/infer", "seldon-model: {m}\r\n"),
        path("F08/not", 404, "/v2/models/{m}/infer", "seldon-model: other\r\n"),
        path("F09", 200, "/v2/models/{m}/infer", "seldon-model:\r\n"),
        path("F10", 404, "/v2/models/{m}/infer", "x-seldon-route:\r\n"),
        path("F11", 404, "/v2/models/{m}/infer", "x-seldon-route: a\r\n"),
        path("F20", 404, "/nowhere", ""),
        path("F21", 404, "/nowhere", "content-type: application/json\r\n"),
        path("F22", 200, "/nowhere", "content-type: application/grpc\r\n"),
        path("F24", 404, "/nowhere", "content-type: application/grpc-web\r\n"),
        path("F24/upper", 404, "/nowhere", "content-type: APPLICATION/GRPC\r\n"),
        path(
            "F25",
            200,
            "/v2/models/{m}/x?q",
            "x-envoy-original-path: /other\r\nx-forwarded-for: 1.2.3.4\r\nuser-agent: a \"b\" c\r\n",
        ),
        tapped("F12", 200, "Seldon-Logging: anything\r\n", "", "/v2/models/{m}/infer"),
        tapped("F14", 200, "", "Seldon-Logging: up\r\n", "/v2/models/{m}/infer"),
        tapped("F15", 404, "Seldon-Logging: a\r\n", "", "/nowhere"),
        case("F13", |p| {
            let upstream = p.upstream(ok());
            let mut models = vec![model(&p.id, &[upstream.port])];
            models[0].latest.log_payloads = true;
            p.mesh(&Mesh { models, ..Mesh::default() });
            p.infer("x-request-id: {id}\r\n");
            note_tap(p, 1);
        }),
        case("F16", |p| {
            let _upstream = p.serve(always(status(200, "", &"0123456789".repeat(200))));
            let body = "abcdefghij".repeat(150);
            p.ask(&format!("POST /v2/models/{{m}}/infer HTTP/1.1\r\nhost: h\r\nseldon-logging: a\r\nx-request-id: {{id}}\r\ncontent-length: 1500\r\n\r\n{body}"));
            note_tap(p, 1);
        }),
        case("F19", |p| {
            let _upstream = p.serve(ok());
            p.infer("x-request-id: {id}\r\n");
            std::thread::sleep(Duration::from_millis(200));
            note_tap(p, 0);
        }),
    ]
}

fn tapped(
    id: &'static str,
    code: u16,
    request: &'static str,
    reply: &'static str,
    path: &'static str,
) -> Case {
    case(id, move |p| {
        let _upstream = p.serve(always(status(200, reply, "ok")));
        let answer = p.get(path, &format!("x-request-id: {{id}}\r\n{request}"));
        p.expect(answer.status() == code, format!("answer {code}, but {}", answer.line));
        note_tap(p, 1);
    })
}

/// The tap files that carry the case's id, once there are `count`; their text.
pub fn note_tap(p: &mut Probe<'_>, count: usize) -> String {
    let needle = format!("\"value\": \"{}\"", p.id);
    let deadline = std::time::Instant::now() + Duration::from_secs(4);
    let found = loop {
        let files = std::fs::read_dir(&p.side.dir).unwrap();
        let found: Vec<String> = files
            .filter_map(|f| Some(f.ok()?.path()))
            .filter(|f| f.extension().is_some_and(|e| e == "json"))
            .filter_map(|f| std::fs::read_to_string(f).ok())
            .filter(|text| text.contains(&needle) && text.trim_end().ends_with('}'))
            .collect();
        if found.len() >= count || std::time::Instant::now() > deadline {
            break found;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    p.expect(found.len() == count, format!("write {count} tap files, but {}", found.len()));
    for text in &found {
        let mut masked = false;
        for line in text.lines() {
            let hide = masked && line.contains("\"value\"");
            masked = line.contains("\"key\": \"date\"") || line.contains("service-time\"");
            p.note("tap", if hide { "   \"value\": *" } else { line });
        }
    }
    found.concat()
}
