//! L45: what interim answers of an upstream change beside being swallowed.

use envoy_types::pb::envoy::config::route::v3::{Route, route};
use envoy_types::pb::google::protobuf;
use radiant::seldon::{Experiment, Mesh};

use super::{Case, case};
use crate::http2;
use crate::probe::{Probe, model, set_cluster};
use crate::upstream::{Act, Upstream, acts, always, ok, status};

const EARLY: &str = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";

const COUNTED: &[&str] = &[
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_100",
    "upstream_rq_102",
    "upstream_rq_103",
    "upstream_rq_104",
    "upstream_rq_110",
    "upstream_rq_200",
    "upstream_rq_502",
    "upstream_rq_503",
    "upstream_rq_504",
    "upstream_rq_1xx",
    "upstream_rq_2xx",
    "upstream_rq_5xx",
    "external.upstream_rq_completed",
    "external.upstream_rq_103",
    "external.upstream_rq_1xx",
    "internal.upstream_rq_completed",
    "internal.upstream_rq_103",
    "internal.upstream_rq_1xx",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_timeout",
    "upstream_rq_cancelled",
    "upstream_cx_protocol_error",
    "retry_or_shadow_abandoned",
];

pub fn cases() -> Vec<Case> {
    let fine = || status(200, "", "ok");
    let mut cases = vec![
        http1("L45/counted", format!("{EARLY}{}", fine()), false),
        http1("L45/counted-100", format!("HTTP/1.1 100 Continue\r\n\r\n{}", fine()), false),
        http1("L45/counted-102", format!("HTTP/1.1 102 P\r\n\r\n{}", fine()), false),
        http1("L45/counted-104", format!("HTTP/1.1 104 U\r\n\r\n{}", fine()), false),
        http1("L45/counted-110", format!("HTTP/1.1 110 U\r\n\r\n{}", fine()), false),
        http1("L45/several", format!("{EARLY}HTTP/1.1 100 C\r\n\r\n{EARLY}{}", fine()), false),
        http1("L45/not-retried", format!("{EARLY}{}", status(503, "", "no")), false),
        http1("L45/then-closed", EARLY.to_owned(), true),
        http1("L45/then-half", format!("{EARLY}HTTP/1.1 200 OK\r\n"), true),
        http1("L45/then-nonsense", format!("{EARLY}nonsense\r\n\r\n"), false),
        http1(
            "L45/then-two-lengths",
            format!("{EARLY}HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"),
            false,
        ),
        case("L45/retried-before", |p| {
            let script = std::sync::Arc::new(move |_: &_, number: usize| {
                let text = match number {
                    0 => status(503, "", "no"),
                    _ => format!("{EARLY}{}", status(503, "", "no")),
                };
                vec![Act::Body, Act::Send(text.into_bytes())]
            });
            let upstream = p.serve(script);
            counted(p, "http", |p| {
                p.infer("x-request-id: {id}\r\n");
                p.note_log("all", 1);
            });
            p.note("attempts", upstream.received().len());
        }),
        case("L45/then-silence", |p| {
            let upstream = p.upstream(acts(vec![Act::Send(EARLY.into()), Act::Hang]));
            let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
            p.mesh_with(&mesh, hurry);
            counted(p, "http", |p| {
                p.infer("x-request-id: {id}\r\n");
                p.note_log("all", 1);
            });
        }),
        case("L45/only-silence", |p| {
            let upstream = p.upstream(acts(vec![Act::Hang]));
            let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
            p.mesh_with(&mesh, hurry);
            counted(p, "http", |p| {
                p.infer("x-request-id: {id}\r\n");
                p.note_log("all", 1);
            });
        }),
        case("L45/mirror", |p| {
            let main = p.upstream(ok());
            let copy = p.upstream(always(format!("{EARLY}{}", status(200, "", "ok"))));
            let (name, mirror) = (format!("{}a", p.id), format!("{}b", p.id));
            p.side.ensure_mirror_clusters();
            p.mesh(&Mesh {
                models: vec![model(&name, &[main.port]), model(&mirror, &[copy.port])],
                experiments: vec![Experiment {
                    name: p.id.clone(),
                    candidates: vec![(name, 100)],
                    mirror: Some((mirror.clone(), 100)),
                    ..Experiment::default()
                }],
                ..Mesh::default()
            });
            let scope = format!("cluster.{mirror}_1_http.");
            let before = p.stats(&scope);
            super::routing::post_experiment(p, "", "{}");
            p.expect(copy.wait(|received| received.len() == 1), "send a copy");
            p.note_stats(&scope, &before, COUNTED);
        }),
    ];
    let head = |status, end| http2::Act::Head(status, vec![("x-a", "1")], end);
    let interim = http2::Act::Interim;
    cases.extend([
        http2("L45/http2", vec![interim(103), head(200, true)]),
        http2("L45/http2-100", vec![interim(100), interim(100), http2::Act::Body, head(200, true)]),
        http2(
            "L47/http2-odd-length",
            vec![http2::Act::Head(204, vec![("content-length", "00")], true)],
        ),
        http2("L45/http2-110", vec![interim(110), head(200, true)]),
        http2("L45/http2-not-retried", vec![interim(103), http2::Act::Body, head(503, true)]),
        http2(
            "L45/http2-reset",
            vec![interim(103), http2::Act::Body, http2::Act::Reset(h2::Reason::INTERNAL_ERROR)],
        ),
        http2(
            "L45/http2-refused",
            vec![interim(103), http2::Act::Body, http2::Act::Reset(h2::Reason::REFUSED_STREAM)],
        ),
    ]);
    cases
}

/// Shortens a route's timeout.
fn hurry(route: &mut Route) {
    if let Some(route::Action::Route(action)) = &mut route.action {
        action.timeout = Some(protobuf::Duration { seconds: 0, nanos: 300_000_000 });
    }
}

/// What the case's cluster counts.
fn counted(p: &mut Probe<'_>, kind: &str, run: impl FnOnce(&mut Probe<'_>)) {
    let scope = format!("cluster.{}_1_{kind}.", p.id);
    let before = p.stats(&scope);
    run(p);
    p.note_stats(&scope, &before, COUNTED);
}

fn http1(id: &'static str, answer: String, closes: bool) -> Case {
    case(id, move |p| {
        let mut script = vec![Act::Body, Act::Send(answer.clone().into_bytes())];
        script.extend(closes.then_some(Act::Close));
        let upstream: Upstream = p.serve(acts(script));
        counted(p, "http", |p| {
            p.infer("x-request-id: {id}\r\n");
            p.note_log("all", 1);
        });
        p.note("attempts", upstream.received().len());
    })
}

fn http2(id: &'static str, script: Vec<http2::Act>) -> Case {
    case(id, move |p| {
        let upstream = http2::Upstream::start(script.clone());
        p.name_port(upstream.port, "upstream0");
        let models = vec![model(&p.id, &[upstream.port])];
        let cluster = format!("{}_1_grpc", p.id);
        p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| set_cluster(route, &cluster));
        counted(p, "grpc", |p| {
            p.infer("x-request-id: {id}\r\n");
            p.note_log("all", 1);
        });
        p.note("attempts", upstream.received().len());
    })
}
