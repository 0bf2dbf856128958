//! S09: answers that come before their request is complete, and such that come
//! before it has left.

use bytes::Bytes;
use h2::Reason;
use radiant::seldon::Mesh;

use super::stats::count;
use super::{Case, alone};
use crate::http2::{self, Act as H2};
use crate::probe::{Probe, model, set_cluster};
use crate::upstream::{Act, Gate, acts, status};

/// More than an HTTP/2 server takes that does not read.
const LARGE: usize = 200_000;

pub fn cases() -> Vec<Case> {
    let bare = |code| vec![H2::Head(code, vec![], true), H2::Body];
    let body = |end: Vec<H2>| {
        let begin = vec![H2::Head(200, vec![], false), H2::Data(b"early".to_vec(), false)];
        [begin, end].concat()
    };
    let trailers = vec![H2::Trailers(vec![("grpc-status", "0")]), H2::Body];
    let http1 = |code| vec![Act::Send(status(code, "", "early").into_bytes()), Act::Hang];
    vec![
        // The client goes on to send.
        unfinished("S09/http2-both-early", Upstream::Http2(bare(200))),
        unfinished("S09/http2-both-early-body", Upstream::Http2(body(trailers))),
        unfinished("S09/http2-both-early-error", Upstream::Http2(bare(503))),
        unfinished(
            "S09/http2-both-early-reset",
            Upstream::Http2(body(vec![H2::Reset(Reason::NO_ERROR)])),
        ),
        unfinished("S09/early-of-stream", Upstream::Http1(http1(200))),
        unfinished("S09/early-of-stream-error", Upstream::Http1(http1(503))),
        cut("S09/http2-early", Upstream::Http2(bare(200))),
        cut("S09/http2-early-error", Upstream::Http2(bare(503))),
        cut(
            "S09/early-cut",
            Upstream::Http1(vec![
                Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nea".into()),
                Act::Close,
            ]),
        ),
        unfinished(
            "S09/early-of-stream-cut",
            Upstream::Http1(vec![
                Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nea".into()),
                Act::Close,
            ]),
        ),
        cut(
            "S09/early-close",
            Upstream::Http1(vec![
                Act::Send(status(200, "connection: close\r\n", "early").into_bytes()),
                Act::Hang,
            ]),
        ),
        cut("S09/early", Upstream::Http1(http1(200))),
        cut("S09/early-error", Upstream::Http1(http1(503))),
        alone("S08/unfinished-stream", |p| {
            count(p, |p| {
                let (reply, end) = http2::call_unfinished(p.side.ports.http, "/nowhere", &[]);
                note(p, &reply, &end);
            });
        }),
        // The client has sent everything.
        alone("S09/http2-both-complete", |p| {
            let _upstream = serve(p, &Upstream::Http2(vec![H2::Head(200, vec![], true)]));
            count(p, |p| {
                let path = p.fill("/v2/models/{m}/x");
                let headers = [("x-request-id", p.id.as_str())];
                let port = p.side.ports.http;
                let reply = http2::call(port, "POST", &path, &headers, None);
                note(p, &reply, "with its answer");
            });
            p.note_log("all", 1);
        }),
        alone("S09/http2-both-unread", |p| {
            let gate = Gate::default();
            let script = vec![H2::Gate(gate.clone()), H2::Head(200, vec![], true), H2::Body];
            let _upstream = serve(p, &Upstream::Http2(script));
            count(p, |p| {
                let path = p.fill("/v2/models/{m}/x");
                let headers = [("x-request-id", p.id.as_str())];
                let body = Bytes::from(vec![b'a'; LARGE]);
                let port = p.side.ports.http;
                let reply = http2::call_whole(port, &path, &headers, body, || gate.open());
                note(p, &reply, "with its answer");
            });
            p.note_log("all", 1);
        }),
    ]
}

/// What is upstream, and how it answers.
enum Upstream {
    Http1(Vec<Act>),
    Http2(Vec<H2>),
}

/// Either kind while it runs.
enum Running {
    Http1(#[allow(dead_code)] crate::upstream::Upstream),
    Http2(#[allow(dead_code)] http2::Upstream),
}

/// The case's model on such an upstream.
fn serve(p: &mut Probe<'_>, upstream: &Upstream) -> Running {
    let (running, port) = match upstream {
        Upstream::Http1(script) => {
            let upstream = p.upstream(acts(script.clone()));
            let port = upstream.port;
            (Running::Http1(upstream), port)
        }
        Upstream::Http2(script) => {
            let upstream = http2::Upstream::start(script.clone());
            let port = upstream.port;
            p.name_port(port, "http2");
            (Running::Http2(upstream), port)
        }
    };
    let cluster = match running {
        Running::Http1(_) => format!("{}_1_http", p.id),
        Running::Http2(_) => format!("{}_1_grpc", p.id),
    };
    let mesh = Mesh { models: vec![model(&p.id, &[port])], ..Mesh::default() };
    p.mesh_with(&mesh, |route| set_cluster(route, &cluster));
    running
}

fn note(p: &mut Probe<'_>, reply: &http2::Reply, end: &str) {
    for line in reply.lines() {
        p.note("reply", line);
    }
    p.note("its stream ends", end);
}

/// An HTTP/2 client that sends a head and no end.
fn unfinished(id: &'static str, upstream: Upstream) -> Case {
    alone(id, move |p| {
        let _upstream = serve(p, &upstream);
        count(p, |p| {
            let path = p.fill("/v2/models/{m}/x");
            let headers = [("x-request-id", p.id.as_str())];
            let (reply, end) = http2::call_unfinished(p.side.ports.http, &path, &headers);
            note(p, &reply, &end);
        });
        p.note_log("all", 1);
    })
}

/// An HTTP/1 client that sends a part of its body.
fn cut(id: &'static str, upstream: Upstream) -> Case {
    alone(id, move |p| {
        let _upstream = serve(p, &upstream);
        count(p, |p| {
            p.ask("POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-length: 9\r\n\r\n{}");
        });
        p.note_log("all", 1);
    })
}
