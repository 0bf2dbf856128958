//! R: routing, sticky routes, weights, mirrors, retries.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route, route};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf;
use radiant::seldon::{Backend, Experiment, ExperimentKind, Mesh, Pipeline};

use super::{Case, case};
use crate::client::Client;
use crate::probe::{Probe, model, version};
use crate::upstream::{Act, Gate, Script, Upstream, acts, always, answer, echo, ok, status};

pub fn cases() -> Vec<Case> {
    let mut cases = matching();
    cases.extend(sticky());
    cases.extend(weights());
    cases.extend(mirrors());
    cases.extend(retries());
    cases.extend(matchers());
    cases.extend(additions());
    cases
}

/// One request of the case's model whose upstream view is compared.
fn seen(id: &'static str, code: u16, path: &'static str, headers: &'static str) -> Case {
    case(id, move |p| {
        let upstream = p.serve(ok());
        let reply = p.get(path, headers);
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        p.note_received(&upstream);
    })
}

fn matching() -> Vec<Case> {
    vec![
        seen("R01", 200, "/v2/x", "seldon-model:   {m} \t\r\n"),
        seen("R01/case", 404, "/v2/x", "seldon-model: R01-CASE\r\n"),
        seen("R01/name-case", 200, "/v2/x", "Seldon-Model: {m}\r\n"),
        seen("R02", 200, "/v2/x", "seldon-model: foo\r\nseldon-model: {m}\r\n"),
        seen("R03", 404, "/v2/x", "seldon-model: foo,{m}\r\n"),
        seen("R04", 200, "/v2xyz", "seldon-model: {m}\r\n"),
        seen("R04/query", 200, "/v2?x", "seldon-model: {m}\r\n"),
        seen("R04/upper", 404, "/V2", "seldon-model: {m}\r\n"),
        seen("R04/v1", 404, "/v1/models/{m}", "seldon-model: {m}\r\n"),
        seen("R05", 404, "/v2/x", "seldon-model: {m}\r\nx-seldon-route: a\r\n"),
        seen("R05/empty", 404, "/v2/x", "seldon-model: {m}\r\nx-seldon-route:\r\n"),
        seen(
            "R06",
            200,
            "/v2/models/{m}/x",
            "seldon-internal-model: mine\r\nseldon-internal-model: too\r\n",
        ),
        seen("R08", 200, "/v2/models/{m}/x", ""),
        case("R07", |p| {
            let upstream = p.upstream(ok());
            let port = upstream.port;
            let pipelines = vec![pipeline(&p.id, port)];
            p.mesh(&Mesh { pipelines, ..Mesh::default() });
            let reply = p.get("/v2/pipelines/{m}/infer", "seldon-internal-model: mine\r\n");
            p.expect(reply.status() == 200, "route to the pipeline");
            p.note_received(&upstream);
        }),
        case("R09", |p| {
            let _upstream = p.serve(always(status(200, "x-seldon-route: :other:\r\na: b\r\n", "")));
            let reply = p.infer("");
            p.expect(reply.all("x-seldon-route") == [":other:", ":r09_1:"], "keep both in order");
        }),
        case("R48", |p| {
            let gate = Gate::default();
            let upstream = p.serve(gated(&gate));
            let mut client = infer(p);
            p.expect(upstream.wait(|r| r.len() == 1), "reach the upstream");
            p.side.push_routes(&p.id, Vec::new(), Vec::new());
            gate.open();
            let reply = client.reply(false);
            p.note_reply(reply.as_ref());
            p.expect(reply.is_some_and(|r| r.status() == 200), "finish the request");
            let next = p.infer("");
            p.expect(next.status() == 404, "not route the next one");
        }),
    ]
}

pub fn pipeline(name: &str, port: u16) -> Pipeline {
    Pipeline { name: name.to_owned(), gateways: vec![Backend::new("127.0.0.1", port, port)] }
}

/// Body, then an answer once the gate is open.
pub fn gated(gate: &Gate) -> Script {
    acts(vec![Act::Body, Act::Gate(gate.clone()), Act::Send(status(200, "", "late").into_bytes())])
}

/// Sends an inference of the case's model and does not wait.
pub fn infer(p: &Probe<'_>) -> Client {
    let mut client = p.connect();
    client.send(p.fill(
        "POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h.example\r\nx-request-id: {id}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    ));
    client
}

/// An experiment `<id>.experiment` of the models `<id>a` and `<id>b`.
fn experiment(p: &mut Probe<'_>, weights: (u32, u32), log: bool) -> (Upstream, Upstream) {
    let (a, b) = (p.upstream(ok()), p.upstream(ok()));
    let (name_a, name_b) = (format!("{}a", p.id), format!("{}b", p.id));
    let mut models = vec![model(&name_a, &[a.port]), model(&name_b, &[b.port])];
    models[0].latest.log_payloads = log;
    let candidates = vec![(name_a, weights.0), (name_b, weights.1)];
    let experiments = vec![Experiment { name: p.id.clone(), candidates, ..Experiment::default() }];
    p.mesh(&Mesh { models, experiments, ..Mesh::default() });
    (a, b)
}

fn stuck(id: &'static str, code: u16, headers: &'static str) -> Case {
    case(id, move |p| {
        let (a, b) = experiment(p, (50, 50), false);
        let reply = p.get("/v2/x", &format!("seldon-model: {{m}}.experiment\r\n{headers}"));
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        p.note_received(&a);
        p.note_received(&b);
    })
}

fn sticky() -> Vec<Case> {
    vec![
        stuck("R10", 200, "x-seldon-route: :{m}b_1:\r\n"),
        stuck("R11", 200, "x-seldon-route: :{m}b_1::{m}a_1:\r\n"),
        stuck("R12", 200, "x-seldon-route: :x:\r\nx-seldon-route: :{m}b_1:\r\n"),
        stuck("R13", 404, "x-seldon-route: :nobody_1:\r\n"),
        stuck("R14", 200, "x-seldon-route: :{m}a_1:\r\nseldon-internal-model: mine\r\n"),
        case("R15", |p| {
            let (a, _b) = experiment(p, (50, 50), true);
            let reply =
                p.get("/v2/x", "seldon-model: {m}.experiment\r\nx-seldon-route: :{m}a_1:\r\n");
            p.expect(reply.header("seldon-logging").is_some(), "say Seldon-Logging");
            p.note_received(&a);
        }),
        case("R16", |p| {
            let upstream = p.upstream(ok());
            let (one, two) = (format!("{}a", p.id), format!("{}b", p.id));
            let pipelines = vec![pipeline(&one, upstream.port), pipeline(&two, upstream.port)];
            let experiments = vec![Experiment {
                name: p.id.clone(),
                kind: ExperimentKind::Pipeline,
                candidates: vec![(one, 0), (two, 50)],
                ..Experiment::default()
            }];
            p.mesh(&Mesh { pipelines, experiments, ..Mesh::default() });
            let reply = p.get("/v2/x", "x-request-id: {id}\r\nseldon-model: {m}.experiment\r\nx-seldon-route: :{m}b.pipeline:\r\n");
            p.expect(reply.status() == 503, "not find the cluster");
            p.note_log("all", 1);
            let plain =
                p.get("/v2/x", "seldon-model: {m}.experiment\r\nseldon-internal-model: mine\r\n");
            p.expect(plain.status() == 200, "serve without the sticky header");
            p.note_received(&upstream);
        }),
        case("R40", |p| {
            let bad = p.upstream(always(status(503, "", "")));
            let (one, two) = (format!("{}a", p.id), format!("{}b", p.id));
            let models = vec![model(&one, &[bad.port]), model(&two, &[bad.port])];
            let candidates = vec![(one, 50), (two, 50)];
            let experiments =
                vec![Experiment { name: p.id.clone(), candidates, ..Experiment::default() }];
            p.mesh(&Mesh { models, experiments, ..Mesh::default() });
            p.get("/v2/x", "seldon-model: {m}.experiment\r\nx-seldon-route: :{m}a_1:\r\n");
            p.expect(bad.received().len() == 1, "not retry");
            p.note_received(&bad);
        }),
    ]
}

/// Over one connection, `count` times: how often each label answered.
fn shares(p: &Probe<'_>, count: usize) -> BTreeMap<String, usize> {
    let mut client = p.connect();
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        client
            .send(p.fill("GET /v2/x HTTP/1.1\r\nhost: h\r\nseldon-model: {m}.experiment\r\n\r\n"));
        let reply = client.reply(false).expect("an answer");
        let label = reply.header("x-seldon-route").unwrap_or("none").to_owned();
        *shares.entry(label).or_default() += 1;
    }
    shares
}

/// The first arm gets `weights.0` of the sum, within four sigma of `count`.
fn split(id: &'static str, weights: (u32, u32), count: usize) -> Case {
    case(id, move |p| {
        let _upstreams = experiment(p, weights, false);
        let shares = shares(p, count);
        let first = shares.get(&format!(":{}a_1:", p.id)).copied().unwrap_or(0);
        let second = shares.get(&format!(":{}b_1:", p.id)).copied().unwrap_or(0);
        let (n, part) = (count as f64, f64::from(weights.0) / f64::from(weights.0 + weights.1));
        let sigma = (n * part * (1.0 - part)).sqrt();
        let off = (first as f64 - n * part).abs();
        p.expect(first + second == count, format!("only known labels: {shares:?}"));
        p.expect(off <= 4.0 * sigma, format!("{first} of {count} to the first of {weights:?}"));
        let within = off <= 4.0 * sigma;
        p.note("within four sigma", within);
    })
}

fn weights() -> Vec<Case> {
    vec![
        split("R17", (30, 70), 400),
        split("R18", (1, 2), 400),
        split("R18/large", (3_000_000, 1_000_000), 400),
        split("R19", (0, 7), 60),
        split("R19/second", (7, 0), 60),
    ]
}

/// Models `<id>a`, `<id>b`, `<id>` being an experiment of the first with the
/// second as its mirror.
pub fn mirrored(p: &mut Probe<'_>, percent: u32, kind: ExperimentKind) -> (Upstream, Upstream) {
    mirrored_with(p, percent, kind, |_| {})
}

/// The same, each route changed by `edit`.
pub fn mirrored_with(
    p: &mut Probe<'_>,
    percent: u32,
    kind: ExperimentKind,
    edit: impl Fn(&mut Route),
) -> (Upstream, Upstream) {
    let (main, copy) = (p.upstream(ok()), p.upstream(ok()));
    let (name, mirror) = (format!("{}a", p.id), format!("{}b", p.id));
    let mut mesh = Mesh::default();
    match kind {
        ExperimentKind::Model => {
            mesh.models = vec![model(&name, &[main.port]), model(&mirror, &[copy.port])];
        }
        ExperimentKind::Pipeline => {
            mesh.pipelines = vec![pipeline(&name, main.port), pipeline(&mirror, copy.port)];
        }
    }
    mesh.experiments = vec![Experiment {
        name: p.id.clone(),
        kind,
        candidates: vec![(name, 100)],
        mirror: Some((mirror, percent)),
        ..Experiment::default()
    }];
    p.side.ensure_mirror_clusters();
    p.mesh_with(&mesh, edit);
    (main, copy)
}

pub fn post_experiment(p: &mut Probe<'_>, headers: &str, body: &str) -> crate::client::Reply {
    p.ask(&format!(
        "POST /v2/x HTTP/1.1\r\nhost: h.example\r\nseldon-model: {{m}}.experiment\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn mirrors() -> Vec<Case> {
    let copied = |id: &'static str, kind, headers: &'static str| {
        case(id, move |p| {
            let (main, copy) = mirrored(p, 100, kind);
            post_experiment(p, headers, "{}");
            p.expect(copy.wait(|r| r.iter().any(|r| r.raw_body == b"{}")), "send a copy");
            p.note_received(&main);
            for request in copy.received() {
                for line in request.lines() {
                    let own = request.header("x-forwarded-for").unwrap_or_default();
                    let own = own.rsplit(',').next().unwrap_or_default().to_owned();
                    let line =
                        if own.is_empty() { line } else { line.replace(&own, "{own address}") };
                    p.note("copy", line);
                }
            }
        })
    };
    vec![
        copied("R20", ExperimentKind::Model, ""),
        copied("R20/forwarded-for", ExperimentKind::Model, "x-forwarded-for: 1.2.3.4\r\n"),
        copied("R22", ExperimentKind::Model, "seldon-internal-model: mine\r\n"),
        copied("R23", ExperimentKind::Pipeline, ""),
        copied("R23/injected", ExperimentKind::Pipeline, "seldon-internal-model: mine\r\n"),
        case("R24", |p| {
            let (main, copy) = mirrored(p, 100, ExperimentKind::Model);
            let body = "0123456789".repeat(110_000);
            post_experiment(p, "", &body);
            let whole =
                |r: &[crate::upstream::Received]| r.iter().any(|r| r.raw_body.len() == 1_100_000);
            p.expect(main.wait(whole), "send it all");
            p.expect(copy.wait(whole), "copy it all");
            let same = main.received()[0].raw_body == copy.received()[0].raw_body;
            p.note("same body", same);
        }),
        case("R26", |p| {
            let (main, copy) = (p.upstream(ok()), p.upstream(acts(vec![Act::Reset])));
            let (name, mirror) = (format!("{}a", p.id), format!("{}b", p.id));
            let models = vec![model(&name, &[main.port]), model(&mirror, &[copy.port])];
            let experiments = vec![Experiment {
                name: p.id.clone(),
                candidates: vec![(name, 100)],
                mirror: Some((mirror, 100)),
                ..Experiment::default()
            }];
            p.side.ensure_mirror_clusters();
            p.mesh(&Mesh { models, experiments, ..Mesh::default() });
            let reply = post_experiment(p, "", "{}");
            p.expect(reply.status() == 200, "answer as if there were no mirror");
        }),
    ]
}

/// The case's model on an upstream; the number of attempts is compared.
fn attempts(id: &'static str, count: usize, script: Script) -> Case {
    case(id, move |p| {
        let upstream = p.serve(script.clone());
        let before = p.stats(&format!("cluster.{}_1_http.", p.id));
        p.infer("x-request-id: {id}\r\n");
        let seen = upstream.received().len();
        p.expect(seen == count, format!("{count} attempts, but {seen}"));
        p.note_received(&upstream);
        p.note_log("all", 1);
        p.note_log("errors", 0);
        let prefix = format!("cluster.{}_1_http.", p.id);
        p.note_stats(&prefix, &before, super::stats::CLUSTER);
    })
}

fn retries() -> Vec<Case> {
    let raw = |text: &str| always(text);
    let first = |one: &str| -> Script {
        let one = one.to_owned();
        std::sync::Arc::new(move |_, n| {
            answer(if n == 0 { one.clone() } else { status(200, "", "ok") })
        })
    };
    vec![
        attempts("R27", 6, always(status(503, "a: b\r\n", "down"))),
        attempts("R27/once", 2, first(&status(503, "a: b\r\n", "down"))),
        attempts("R28/500", 6, always(status(500, "", "e"))),
        attempts("R28/502", 6, always(status(502, "", "e"))),
        attempts("R28/504", 6, always(status(504, "", "e"))),
        attempts("R28/599", 6, always(status(599, "", "e"))),
        attempts("R28/429", 1, always(status(429, "", "e"))),
        attempts("R28/404", 1, always(status(404, "", "e"))),
        attempts("R29", 6, acts(vec![Act::Body, Act::Close])),
        attempts("R29/reset", 6, acts(vec![Act::Body, Act::Reset])),
        attempts("R29/at-head", 6, acts(vec![Act::Close])),
        attempts("R30", 6, raw("nonsense\r\n\r\n")),
        attempts(
            "R30/half",
            6,
            acts(vec![Act::Body, Act::Send(b"HTTP/1.1 200 OK\r\na: ".to_vec()), Act::Close]),
        ),
        attempts("R37", 1, always(status(503, "x-envoy-ratelimited: true\r\n", "e"))),
        attempts("R37/overloaded", 6, always(status(503, "x-envoy-overloaded: true\r\n", "e"))),
        attempts(
            "R38",
            1,
            acts(vec![
                Act::Body,
                Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec()),
                Act::Close,
            ]),
        ),
        attempts(
            "R38/chunked",
            1,
            acts(vec![
                Act::Body,
                Act::Send(
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n".to_vec(),
                ),
                Act::Close,
            ]),
        ),
        case("R39", |p| {
            let upstream = p.serve(always(status(503, "", "")));
            p.infer("x-envoy-max-retries: 1\r\nx-envoy-retry-on: gateway-error\r\n");
            p.expect(upstream.received().len() == 6, "try six times");
            p.note_received(&upstream);
        }),
        large("R33", 900_000, 6),
        large("R34", 1_200_000, 1),
        case("R35", crowd),
        case("R36", back_off),
        case("R44/echo", |p| {
            let _upstream = p.serve(echo());
            p.infer("x-%41: %25\r\n");
        }),
        case("R27/rolled", |p| {
            // The retry goes to a host anew; here the second version's.
            let upstream = p.upstream(ok());
            let models = vec![radiant::seldon::Model {
                latest: version(&p.id, 2, &[upstream.port]),
                previous: Some(version(&p.id, 1, &[upstream.port])),
            }];
            p.mesh(&Mesh { models, ..Mesh::default() });
            let reply = p.get("/v2/x", "seldon-model: {m}\r\nx-seldon-route: :{m}_2:\r\n");
            p.expect(reply.status() == 200, "stick to the version");
            p.note_received(&upstream);
        }),
        case("R22/none", |p| {
            let (main, copy) = mirrored(p, 50, ExperimentKind::Model);
            // A sticky request is not mirrored; with one arm there is no such route.
            let reply =
                p.get("/v2/x", "seldon-model: {m}.experiment\r\nx-seldon-route: :{m}a_1:\r\n");
            p.expect(reply.status() == 404, "have no sticky route");
            p.note_received(&main);
            p.expect(!copy.wait_within(Duration::from_millis(200), |r| !r.is_empty()), "no copy");
        }),
    ]
}

/// A body of this size is sent that often to an upstream that says 503.
fn large(id: &'static str, size: usize, count: usize) -> Case {
    case(id, move |p| {
        let upstream = p.serve(always(status(503, "", "down")));
        let before = p.stats(&format!("cluster.{}_1_http.", p.id));
        let body = "0123456789".repeat(size / 10);
        p.ask(&format!(
            "POST /v2/models/{{m}}/infer HTTP/1.1\r\nhost: h\r\ncontent-length: {size}\r\n\r\n{body}"
        ));
        let received = upstream.received();
        p.expect(received.len() == count, format!("{count} attempts, but {}", received.len()));
        let whole = received.iter().all(|r| r.raw_body == body.as_bytes());
        p.expect(whole, "send the whole body each time");
        p.note("whole", whole);
        p.note("attempts", received.len());
        let prefix = format!("cluster.{}_1_http.", p.id);
        p.note_stats(&prefix, &before, super::stats::CLUSTER);
    })
}

/// Nine failing requests at once, with the scheduler's long back-off: five wait
/// for their retry, the others are answered at once.
fn crowd(p: &mut Probe<'_>) {
    let upstream = p.upstream(always(status(503, "", "down")));
    let models = vec![model(&p.id, &[upstream.port])];
    p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| wait_between(route, 250));
    let before = p.stats(&format!("cluster.{}_1_http.", p.id));
    let mut clients: Vec<Client> = (0..9).map(|_| infer(p)).collect();
    p.expect(upstream.wait(|r| r.len() >= 9), "reach the upstream");
    let statuses: Vec<u16> =
        clients.iter_mut().map(|c| c.reply(false).map_or(0, |r| r.status())).collect();
    p.note("statuses", format!("{statuses:?}"));
    let prefix = format!("cluster.{}_1_http.", p.id);
    let after = p.stats(&prefix);
    let name = format!("{prefix}upstream_rq_retry_overflow");
    let overflown =
        after.get(&name).copied().unwrap_or(0) - before.get(&name).copied().unwrap_or(0);
    // How many of the five come back early is chance.
    p.expect((1..=4).contains(&overflown), format!("refuse some: {overflown}"));
    p.note("some were refused", (1..=4).contains(&overflown));
}

/// The scheduler's own back-off: no pause is longer than its cap.
fn back_off(p: &mut Probe<'_>) {
    let upstream = p.upstream(always(status(503, "", "down")));
    let models = vec![model(&p.id, &[upstream.port])];
    p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| wait_between(route, 500));
    p.infer("");
    let at: Vec<_> = upstream.received().iter().filter_map(|r| r.at).collect();
    let pauses: Vec<Duration> = at.windows(2).map(|w| w[1] - w[0]).collect();
    let caps = [500, 1000, 2000, 4000, 5000].map(Duration::from_millis);
    let slack = Duration::from_millis(200);
    let within = pauses.len() == 5 && pauses.iter().zip(caps).all(|(p, cap)| *p < cap + slack);
    p.expect(within, format!("wait no longer than the caps: {pauses:?}"));
    p.note("within the caps", within);
}

/// Sets the base of the back-off, in milliseconds.
fn wait_between(route: &mut Route, milliseconds: i32) {
    if let Some(route::Action::Route(action)) = &mut route.action
        && let Some(back_off) =
            action.retry_policy.as_mut().and_then(|policy| policy.retry_back_off.as_mut())
    {
        let interval = protobuf::Duration { seconds: 0, nanos: milliseconds.min(999) * 1_000_000 };
        back_off.base_interval = Some(interval);
    }
}

/// The case's routes with these header matchers; which of the given values match
/// is compared.
fn matched(
    id: &'static str,
    matcher: HeaderMatcher,
    expected: &'static [(&'static str, bool)],
) -> Case {
    case(id, move |p| {
        let upstream = p.upstream(ok());
        let models = vec![model(&p.id, &[upstream.port])];
        p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| {
            if let Some(m) = &mut route.r#match {
                m.headers.push(matcher.clone());
            }
        });
        for (headers, routed) in expected {
            let reply = p.get("/v2/x", &format!("seldon-model: {{m}}\r\n{headers}"));
            let code = if *routed { 200 } else { 404 };
            p.expect(reply.status() == code, format!("{headers:?}: {}", reply.line));
        }
    })
}

fn matchers() -> Vec<Case> {
    let on_x = |specifier| HeaderMatcher {
        name: "x-a".to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    };
    let text = |pattern, ignore_case| {
        HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case,
            match_pattern: Some(pattern),
        })
    };
    let inverted = |matcher| HeaderMatcher { invert_match: true, ..matcher };
    let regex = RegexMatcher { regex: "a.c".to_owned(), ..Default::default() };
    vec![
        matched(
            "R44/prefix",
            on_x(text(MatchPattern::Prefix("ab".into()), false)),
            &[("x-a: abc\r\n", true), ("x-a: Abc\r\n", false), ("", false)],
        ),
        matched(
            "R44/suffix",
            on_x(text(MatchPattern::Suffix("bc".into()), false)),
            &[("x-a: abc\r\n", true), ("x-a: bcd\r\n", false)],
        ),
        matched(
            "R44/contains",
            on_x(text(MatchPattern::Contains("b".into()), true)),
            &[("x-a: aBc\r\n", true), ("x-a: ac\r\n", false)],
        ),
        matched(
            "R44/exact",
            on_x(text(MatchPattern::Exact("aBc".into()), true)),
            &[("x-a: AbC\r\n", true), ("x-a: abcd\r\n", false)],
        ),
        matched(
            "R44/regex",
            on_x(text(MatchPattern::SafeRegex(regex), false)),
            &[("x-a: abc\r\n", true), ("x-a: xabc\r\n", false), ("x-a: abcx\r\n", false)],
        ),
        matched(
            "R44/range",
            on_x(HeaderMatchSpecifier::RangeMatch(Int64Range { start: 3, end: 5 })),
            &[
                ("x-a: 3\r\n", true),
                ("x-a: 5\r\n", false),
                ("x-a: 04\r\n", true),
                ("x-a: 4x\r\n", false),
                ("x-a: +4\r\n", true),
                ("", false),
            ],
        ),
        matched(
            "R44/present",
            on_x(HeaderMatchSpecifier::PresentMatch(true)),
            &[("x-a:\r\n", true), ("", false)],
        ),
        matched(
            "R44/not-present",
            inverted(on_x(HeaderMatchSpecifier::PresentMatch(true))),
            &[("x-a:\r\n", false), ("", true)],
        ),
        matched(
            "R45",
            inverted(on_x(text(MatchPattern::Exact("a".into()), false))),
            &[("x-a: b\r\n", true), ("x-a: a\r\n", false), ("", false)],
        ),
    ]
}

/// The case's routes with these additions to requests and replies.
fn added(
    id: &'static str,
    additions: &'static [(&'static str, &'static str, HeaderAppendAction)],
) -> Case {
    case(id, move |p| {
        let upstream = p.upstream(always(status(200, "x-a: up\r\n", "")));
        let models = vec![model(&p.id, &[upstream.port])];
        p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| {
            let list = additions.iter().map(|(key, value, action)| HeaderValueOption {
                header: Some(HeaderValue {
                    key: (*key).to_owned(),
                    value: (*value).to_owned(),
                    ..Default::default()
                }),
                append_action: (*action).into(),
                ..Default::default()
            });
            route.request_headers_to_add = list.collect();
            route.response_headers_to_add.clone_from(&route.request_headers_to_add);
        });
        let reply = p.infer("x-a: client\r\n");
        p.expect(reply.status() == 200, "answer 200");
        p.note_received(&upstream);
    })
}

fn additions() -> Vec<Case> {
    use HeaderAppendAction::{
        AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd,
    };
    vec![
        added(
            "R46",
            &[
                ("x-b", "50 %% of %%", AppendIfExistsOrAdd),
                ("x-c", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %PROTOCOL%", AppendIfExistsOrAdd),
            ],
        ),
        added(
            "R47/append",
            &[("x-a", "one", AppendIfExistsOrAdd), ("x-b", "", AppendIfExistsOrAdd)],
        ),
        added(
            "R47/overwrite",
            &[("x-a", "one", OverwriteIfExistsOrAdd), ("x-b", "two", OverwriteIfExistsOrAdd)],
        ),
        added(
            "R47/overwrite-existing",
            &[("x-a", "one", OverwriteIfExists), ("x-b", "two", OverwriteIfExists)],
        ),
        added("R47/absent", &[("x-a", "one", AddIfAbsent), ("x-b", "two", AddIfAbsent)]),
        added(
            "R47/mixed",
            &[
                ("x-a", "one", AppendIfExistsOrAdd),
                ("x-a", "two", OverwriteIfExists),
                ("accept", "x", AppendIfExistsOrAdd),
                ("accept", "y", AppendIfExistsOrAdd),
            ],
        ),
    ]
}
