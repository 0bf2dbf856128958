//! R, H: what each does alone is known; together: retries, mirrors, sticky routes;
//! requests and answers that end one before the other.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, Route, route};
use envoy_types::pb::google::protobuf::UInt32Value;
use radiant::seldon::{Experiment, Mesh};

use super::routing::post_experiment;
use super::stats::count;
use super::{Case, alone, case};
use crate::http2::{self, Act as H2};
use crate::probe::{Probe, model, set_cluster};
use crate::upstream::{Act, Received, Script, Upstream, acts, always, answer, ok, status};

/// How long nothing more is to happen.
const QUIET: Duration = Duration::from_millis(300);

pub fn cases() -> Vec<Case> {
    let mut cases = routes();
    cases.extend(halves());
    cases
}

/// An experiment of the models `<id>a` and, if it has a weight, `<id>b`, mirrored
/// to `<id>c`; each route changed by `edit`.
fn experiment(
    p: &mut Probe<'_>,
    scripts: [Script; 2],
    both: bool,
    edit: impl Fn(&mut Route),
) -> [Upstream; 3] {
    let [one, two] = scripts.map(|script| p.upstream(script));
    let copy = p.upstream(ok());
    let name = |p: &Probe<'_>, arm: &str| format!("{}{arm}", p.id);
    let (a, b, c) = (name(p, "a"), name(p, "b"), name(p, "c"));
    let models = vec![model(&a, &[one.port]), model(&b, &[two.port]), model(&c, &[copy.port])];
    let mut candidates = vec![(a, 50)];
    if both {
        candidates.push((b, 50));
    }
    let experiments = vec![Experiment {
        name: p.id.clone(),
        candidates,
        mirror: Some((c, 100)),
        ..Experiment::default()
    }];
    p.side.ensure_mirror_clusters();
    p.mesh_with(&Mesh { models, experiments, ..Mesh::default() }, edit);
    [one, two, copy]
}

/// Fails once, then answers.
fn second_time() -> Script {
    Arc::new(|_, number| {
        answer(if number == 0 { status(503, "", "down") } else { status(200, "", "ok") })
    })
}

fn has_body(received: &[Received]) -> bool {
    received.iter().any(|request| request.raw_body == b"{}")
}

/// Waits until it was mirrored, and notes how often.
fn note_copies(p: &mut Probe<'_>, copy: &Upstream) {
    p.expect(copy.wait(has_body), "send a copy with its body");
    let more = copy.wait_within(QUIET, |received| received.len() > 1);
    p.note("copied again", more);
    for request in copy.received() {
        for name in
            ["x-envoy-attempt-count", "x-seldon-route", "x-request-id", "seldon-internal-model"]
        {
            p.note("copy", format!("{name}: {:?}", request.all(name)));
        }
    }
}

/// Retries on 5xx, whatever the scheduler says.
fn retry(route: &mut Route) {
    if let Some(route::Action::Route(action)) = &mut route.action {
        action.retry_policy.get_or_insert_with(|| RetryPolicy {
            retry_on: "5xx".to_owned(),
            num_retries: Some(UInt32Value { value: 3 }),
            ..RetryPolicy::default()
        });
    }
    crate::probe::hasten(route);
}

fn routes() -> Vec<Case> {
    let sticky = "x-request-id: {id}\r\nx-seldon-route: :{m}a_1:\r\n";
    vec![
        case("R20/retried", |p| {
            let [main, _, copy] = experiment(p, [second_time(), ok()], false, retry);
            let reply = post_experiment(p, "x-request-id: {id}\r\n", "{}");
            p.expect(reply.status() == 200, "answer in the end");
            p.note_received(&main);
            note_copies(p, &copy);
        }),
        case("R20/retried-in-vain", |p| {
            let fails = always(status(503, "", "down"));
            let [main, _, copy] = experiment(p, [fails, ok()], false, retry);
            post_experiment(p, "x-request-id: {id}\r\n", "{}");
            p.note_received(&main);
            note_copies(p, &copy);
        }),
        case("R10/retried", move |p| {
            let [one, two, copy] = experiment(p, [second_time(), ok()], true, retry);
            let reply = post_experiment(p, sticky, "{}");
            p.expect(reply.status() == 200, "answer in the end");
            let route = format!(":{}a_1:", p.id);
            p.expect(reply.all("x-seldon-route") == [route.as_str()], "say the route once");
            p.note_received(&one);
            p.note_received(&two);
            p.note("copies", copy.received().len());
            p.note_log("all", 1);
        }),
        case("R10/mirrored", move |p| {
            let [one, two, copy] = experiment(p, [ok(), ok()], true, |_| {});
            post_experiment(p, sticky, "{}");
            p.note_received(&one);
            p.note_received(&two);
            let copied = copy.wait_within(QUIET, |received| !received.is_empty());
            p.note("copied", copied);
        }),
        case("R17/retried", |p| {
            // Whichever arm is drawn, the retry stays with it.
            let fails = always(status(503, "", "down"));
            let [one, two, copy] = experiment(p, [fails.clone(), fails], true, retry);
            let mut client = p.connect();
            client.send(p.fill("POST /v2/x HTTP/1.1\r\nhost: h\r\nseldon-model: {m}.experiment\r\ncontent-length: 2\r\n\r\n{}"));
            let reply = client.reply(false).unwrap_or_default();
            p.note("answer", &reply.line);
            p.note("said", reply.all("x-seldon-route").len());
            let mut counts = [one.received().len(), two.received().len()];
            counts.sort_unstable();
            p.expect(counts[0] == 0, "try one arm only");
            p.note("attempts", format!("{counts:?}"));
            p.expect(copy.wait(has_body), "send a copy with its body");
        }),
    ]
}

/// By HTTP/2, on an upstream of either protocol.
fn halves() -> Vec<Case> {
    let served = |p: &mut Probe<'_>, script: Vec<H2>| {
        let upstream = http2::Upstream::start(script);
        p.name_port(upstream.port, "http2");
        let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
        let cluster = format!("{}_1_grpc", p.id);
        p.mesh_with(&mesh, |route| set_cluster(route, &cluster));
        upstream
    };
    let stream = || {
        vec![
            H2::Head(200, vec![("content-type", "application/grpc")], false),
            H2::Data(b"one".to_vec(), false),
            H2::Data(b"two".to_vec(), false),
            H2::Trailers(vec![("grpc-status", "0")]),
        ]
    };
    let turns = || {
        vec![
            H2::Head(200, vec![("content-type", "application/grpc")], false),
            H2::Piece,
            H2::Data(b"one ".to_vec(), false),
            H2::Piece,
            H2::Data(b"two ".to_vec(), false),
            H2::Body,
            H2::Data(b"three ".to_vec(), false),
            H2::Trailers(vec![("grpc-status", "0")]),
        ]
    };
    let by_turns = |p: &mut Probe<'_>| {
        count(p, |p| {
            let path = p.fill("/v2/models/{m}/x");
            let headers = [("x-request-id", p.id.as_str())];
            let pieces = ["a", "b", "c"];
            let reply = http2::call_by_turns(p.side.ports.http, &path, &headers, &pieces);
            p.expect(!reply.body.is_empty(), "answer");
            for line in reply.lines() {
                p.note("reply", line);
            }
        });
        p.note_log("all", 1);
    };
    vec![
        alone("H07/http2-streamed", move |p| {
            let upstream = served(p, stream());
            count(p, |p| {
                let path = p.fill("/v2/models/{m}/x");
                let headers = [("x-request-id", p.id.as_str())];
                let reply = http2::call(p.side.ports.http, "POST", &path, &headers, None);
                p.expect(reply.body == b"onetwo", "stream it");
                for line in reply.lines() {
                    p.note("reply", line);
                }
            });
            for line in upstream.received().remove(0).lines {
                p.note("upstream", line);
            }
            p.note_log("all", 1);
        }),
        alone("H07/http2-by-turns", move |p| {
            let upstream = served(p, turns());
            by_turns(p);
            for line in upstream.received().remove(0).lines {
                p.note("upstream", line);
            }
        }),
        alone("H07/by-turns", move |p| {
            let upstream = p.serve(acts(vec![
                Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
                Act::Take(b"1\r\na\r\n".len()),
                Act::Send(b"4\r\none \r\n".to_vec()),
                Act::Take(b"1\r\nb\r\n".len()),
                Act::Send(b"4\r\ntwo \r\n".to_vec()),
                Act::Take(b"1\r\nc\r\n0\r\n\r\n".len()),
                Act::Send(b"5\r\nthree\r\n0\r\n\r\n".to_vec()),
            ]));
            by_turns(p);
            p.note_received(&upstream);
        }),
    ]
}
