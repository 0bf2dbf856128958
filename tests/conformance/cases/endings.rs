//! S09, S10: what is counted of requests that end before their time.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, route};
use envoy_types::pb::google::protobuf;
use h2::Reason;
use radiant::seldon::Mesh;

use super::clusters::limit;
use super::stats::count;
use super::{Case, alone};
use crate::http2::{self, Act as H2};
use crate::probe::{Probe, model, set_cluster};
use crate::upstream::{Act, acts, always, status};

const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok";

pub fn cases() -> Vec<Case> {
    let silent = || vec![Act::Hang];
    let half = || vec![Act::Body, Act::Send(HALF.into()), Act::Hang];
    vec![
        http1("S09/timed-out", silent(), timeout, Client::Waits),
        http1("S09/timed-out-in-body", half(), timeout, Client::Waits),
        alone("S09/timed-out-waiting", |p| {
            let upstream = p.upstream(acts(vec![Act::Body, Act::Hang]));
            let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
            p.mesh_with(&mesh, timeout);
            limit(p, upstream.port);
            // Its body never ends, so that its own timeout does not run.
            let mut first = p.connect();
            first.send(
                p.fill("POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\n{}"),
            );
            p.expect(upstream.wait(|r| r.len() == 1), "pass the first on");
            count(p, |p| {
                let mut client = ask(p);
                let reply = client.reply(false);
                p.note_reply(reply.as_ref());
            });
        }),
        http1("S09/idle", silent(), idle, Client::Waits),
        http1("S09/idle-in-body", half(), idle, Client::Waits),
        http1("S09/left", silent(), |_| {}, Client::Leaves),
        http1("S09/left-in-body", half(), |_| {}, Client::LeavesInBody),
        http1(
            "S09/cut-in-body",
            vec![Act::Body, Act::Send(HALF.into()), Act::Close],
            |_| {},
            Client::Waits,
        ),
        http1(
            "S09/reset-in-body",
            vec![Act::Body, Act::Send(HALF.into()), Act::Reset],
            |_| {},
            Client::Waits,
        ),
        http1(
            "S09/half-a-head",
            vec![Act::Body, Act::Send("HTTP/1.1 200".into()), Act::Close],
            |_| {},
            Client::Waits,
        ),
        alone("S09/timed-out-between", |p| {
            let upstream = p.upstream(always(status(503, "", "")));
            let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
            p.mesh_with(&mesh, |route| {
                timeout(route);
                let policy = action(route).and_then(|action| action.retry_policy.as_mut());
                if let Some(back_off) = policy.and_then(|policy| policy.retry_back_off.as_mut()) {
                    back_off.base_interval = Some(protobuf::Duration { seconds: 1000, nanos: 0 });
                    back_off.max_interval = None;
                }
            });
            count(p, |p| {
                p.infer("");
            });
        }),
        both2(
            "S09/http2-both-cut-in-body",
            vec![
                H2::Body,
                H2::Head(200, vec![], false),
                H2::Data(b"ok".to_vec(), false),
                H2::Reset(Reason::INTERNAL_ERROR),
            ],
            |_| {},
        ),
        both2(
            "S09/http2-both-idle-in-body",
            vec![
                H2::Body,
                H2::Head(200, vec![], false),
                H2::Data(b"ok".to_vec(), false),
                H2::Wait(Duration::from_secs(2)),
            ],
            idle,
        ),
        both2(
            "S09/http2-both-retried",
            vec![H2::Body, H2::Head(503, vec![], false), H2::Data(b"no".to_vec(), true)],
            |_| {},
        ),
        over2("S09/http2-reset", vec![H2::Body, H2::Reset(Reason::INTERNAL_ERROR)], |_| {}),
        alone("S10/http2", |p| {
            let mesh = Mesh { models: vec![model(&p.id, &[1])], ..Mesh::default() };
            let cluster = format!("{}_1_grpc", p.id);
            p.mesh_with(&mesh, |route| set_cluster(route, &cluster));
            count(p, |p| {
                p.infer("");
            });
        }),
        over2("S09/http2-refused", vec![H2::Body, H2::Reset(Reason::REFUSED_STREAM)], |_| {}),
        over2("S09/http2-cancelled", vec![H2::Body, H2::Reset(Reason::CANCEL)], |_| {}),
        over2(
            "S09/http2-reset-in-body",
            vec![
                H2::Body,
                H2::Head(200, vec![], false),
                H2::Data(b"ok".to_vec(), false),
                H2::Reset(Reason::INTERNAL_ERROR),
            ],
            |_| {},
        ),
        over2(
            "S09/http2-odd",
            vec![H2::Body, H2::Head(204, vec![("content-length", "5")], true)],
            |_| {},
        ),
        over2("S09/http2-timed-out", vec![H2::Body, H2::Wait(Duration::from_secs(2))], timeout),
        over2("S09/http2-idle", vec![H2::Body, H2::Wait(Duration::from_secs(2))], idle),
        over2(
            "S09/http2-timed-out-in-body",
            vec![
                H2::Body,
                H2::Head(200, vec![], false),
                H2::Data(b"ok".to_vec(), false),
                H2::Wait(Duration::from_secs(2)),
            ],
            timeout,
        ),
    ]
}

/// What the client does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Waits,
    Leaves,
    LeavesInBody,
}

fn http1(id: &'static str, script: Vec<Act>, edit: fn(&mut Route), what: Client) -> Case {
    alone(id, move |p| {
        let upstream = p.upstream(acts(script.clone()));
        let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
        p.mesh_with(&mesh, edit);
        count(p, |p| {
            let mut client = ask(p);
            match what {
                Client::Waits => note_end(p, &mut client),
                Client::Leaves => p.expect(upstream.wait(|r| r.len() == 1), "pass it on"),
                Client::LeavesInBody => {
                    client.rest(Duration::from_millis(300));
                }
            }
        });
    })
}

fn ask(p: &Probe<'_>) -> crate::client::Client {
    let mut client = p.connect();
    client.send(p.fill("POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"));
    client
}

/// Notes the first line of what comes, and whether the connection ends.
fn note_end(p: &mut Probe<'_>, client: &mut crate::client::Client) {
    let (bytes, end) = client.rest(Duration::from_secs(2));
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    p.note("answer", crate::client::show(line));
    p.note("closed", end.is_some());
}

fn over2(id: &'static str, script: Vec<H2>, edit: fn(&mut Route)) -> Case {
    alone(id, move |p| {
        let upstream = http2::Upstream::start(script.clone());
        let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
        let cluster = format!("{}_1_grpc", p.id);
        p.mesh_with(&mesh, |route| {
            set_cluster(route, &cluster);
            edit(route);
        });
        count(p, |p| {
            let mut client = ask(p);
            note_end(p, &mut client);
        });
    })
}

fn both2(id: &'static str, script: Vec<H2>, edit: fn(&mut Route)) -> Case {
    alone(id, move |p| {
        let upstream = http2::Upstream::start(script.clone());
        let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
        let cluster = format!("{}_1_grpc", p.id);
        p.mesh_with(&mesh, |route| {
            set_cluster(route, &cluster);
            edit(route);
        });
        count(p, |p| {
            let path = p.fill("/v2/models/{m}/x");
            let reply = http2::call(p.side.ports.http, "POST", &path, &[], Some(b"hi"));
            for line in reply.lines() {
                p.note("reply", line);
            }
        });
    })
}

fn action(route: &mut Route) -> Option<&mut RouteAction> {
    match &mut route.action {
        Some(route::Action::Route(action)) => Some(action),
        _ => None,
    }
}

const SHORT: protobuf::Duration = protobuf::Duration { seconds: 0, nanos: 300_000_000 };

fn timeout(route: &mut Route) {
    if let Some(action) = action(route) {
        action.timeout = Some(SHORT);
    }
}

fn idle(route: &mut Route) {
    if let Some(action) = action(route) {
        action.idle_timeout = Some(SHORT);
    }
}
