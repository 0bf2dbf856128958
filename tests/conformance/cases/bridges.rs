//! L and H: what changes between the protocols of both ends, and at the edges of
//! messages.

use std::time::Duration;

use radiant::seldon::{ExperimentKind, Mesh};

use super::{Case, case};
use crate::client::show;
use crate::http2::{self, Act as H2};
use crate::probe::{model, set_cluster};
use crate::upstream::{self, Act, acts, echo, ok, status};

pub fn cases() -> Vec<Case> {
    let mut cases = down2_up1();
    cases.extend(up2());
    cases.extend(edges());
    cases
}

/// HTTP/2 towards the client, HTTP/1 towards the upstream.
fn down2_up1() -> Vec<Case> {
    let call = |id: &'static str,
                method: &'static str,
                fields: &'static [(&str, &str)],
                body: Option<&'static [u8]>,
                answer: String| {
        case(id, move |p| {
            let upstream = p.serve(upstream::always(&answer));
            let path = p.fill("/v2/models/{m}/x?a=b%20c");
            let id = p.id.clone();
            let mut all = vec![("x-request-id", id.as_str())];
            all.extend_from_slice(fields);
            let reply = http2::call(p.side.ports.http, method, &path, &all, body);
            for line in reply.lines() {
                p.note("reply", line);
            }
            p.note_received(&upstream);
            p.note_log("all", 1);
        })
    };
    let fine = || status(200, "", "ok");
    vec![
        call(
            "H08/cookies",
            "GET",
            &[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3; d=4")],
            None,
            fine(),
        ),
        call("H08/te", "GET", &[("te", "trailers")], None, fine()),
        call("H08/host", "GET", &[("host", "other")], None, fine()),
        call("H08/underscores", "GET", &[("x_a", "1"), ("seldon_model", "other")], None, fine()),
        call("H08/models", "GET", &[("seldon-model", "a"), ("seldon-model", "b")], None, fine()),
        call("H08/expect", "POST", &[("expect", "100-continue")], Some(b"hi"), fine()),
        call("H08/length", "POST", &[("content-length", "2")], Some(b"hi"), fine()),
        call("H08/no-length", "POST", &[], Some(b"hi"), fine()),
        call("H08/empty-data", "POST", &[], Some(b""), fine()),
        call("H08/get-body", "GET", &[], Some(b"hi"), fine()),
        call("H08/delete", "DELETE", &[], None, fine()),
        call("H08/head", "HEAD", &[], None, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".into()),
        call(
            "H08/head-chunked",
            "HEAD",
            &[],
            None,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".into(),
        ),
        call("H08/204", "GET", &[], None, "HTTP/1.1 204 N\r\nx-a: 1\r\n\r\n".into()),
        call("H08/304", "GET", &[], None, "HTTP/1.1 304 N\r\ncontent-length: 7\r\n\r\n".into()),
        call(
            "H08/chunked",
            "GET",
            &[],
            None,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n"
                .into(),
        ),
        call(
            "H08/empty-chunked",
            "GET",
            &[],
            None,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        call(
            "H08/hop",
            "GET",
            &[],
            None,
            status(
                200,
                "connection: close, x-a\r\nkeep-alive: 1\r\nproxy-connection: a\r\nupgrade: h2c\r\nX-A: 1\r\nset-cookie: a\r\nset-cookie: b\r\n",
                "ok",
            ),
        ),
        call(
            "H08/interim",
            "GET",
            &[],
            None,
            format!("HTTP/1.1 103 E\r\nlink: a\r\n\r\n{}", fine()),
        ),
        call("H08/205", "GET", &[], None, "HTTP/1.1 205 R\r\ncontent-length: 0\r\n\r\n".into()),
    ]
}

/// HTTP/1 towards the client, HTTP/2 towards the upstream.
fn up2() -> Vec<Case> {
    let ask = |id: &'static str, request: &'static str, script: Vec<H2>| {
        case(id, move |p| {
            let upstream = http2::Upstream::start(script.clone());
            p.name_port(upstream.port, "upstream0");
            let models = vec![model(&p.id, &[upstream.port])];
            let cluster = format!("{}_1_grpc", p.id);
            p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| set_cluster(route, &cluster));
            p.ask(&request.replace("HOST", "host: h\r\nx-request-id: {id}"));
            for received in upstream.received() {
                for line in received.lines {
                    p.note("upstream", line);
                }
            }
            p.note_log("all", 1);
        })
    };
    let head = |status, fields: &[(&'static str, &'static str)], end| {
        H2::Head(status, fields.to_vec(), end)
    };
    let fine = || vec![H2::Body, head(200, &[("x-a", "1")], false), H2::Data(b"ok".to_vec(), true)];
    const GET: &str = "GET /v2/models/{m}/x HTTP/1.1\r\nHOST\r\n\r\n";
    const HEAD: &str = "HEAD /v2/models/{m}/x HTTP/1.1\r\nHOST\r\n\r\n";
    vec![
        ask(
            "L39/http2-trailers",
            "POST /v2/models/{m}/x HTTP/1.1\r\nHOST\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\nte: trailers\r\n\r\n2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n",
            fine(),
        ),
        ask(
            "L41/http2-cookies",
            "GET /v2/models/{m}/x HTTP/1.1\r\nHOST\r\ncookie: a=1\r\ncookie: b=2; c=3\r\naccept: x\r\naccept: y\r\n\r\n",
            fine(),
        ),
        ask(
            "L36/http2",
            "GET /v2/models/{m}/x HTTP/1.1\r\nHOST\r\nconnection: keep-alive, x-a\r\nx-a: 1\r\nkeep-alive: 1\r\nproxy-connection: a\r\nte: gzip\r\nX_B: 1\r\n\r\n",
            fine(),
        ),
        ask("L38/http2", "POST /v2/models/{m}/x HTTP/1.1\r\nHOST\r\n\r\n", fine()),
        ask(
            "L38/http2-zero",
            "POST /v2/models/{m}/x HTTP/1.1\r\nHOST\r\ncontent-length: 0\r\n\r\n",
            fine(),
        ),
        ask(
            "L40/http2",
            "GET /v2/models/{m}/x HTTP/1.1\r\nHOST\r\ncontent-length: 2\r\n\r\nhi",
            fine(),
        ),
        ask(
            "L25/http2",
            "POST /v2/models/{m}/x HTTP/1.1\r\nHOST\r\nconnection: close\r\nexpect: x\r\ncontent-length: 2\r\n\r\nhi",
            fine(),
        ),
        ask("L48/http2", HEAD, vec![head(200, &[("content-length", "10")], true)]),
        ask("L48/http2-none", HEAD, vec![head(200, &[], true)]),
        ask("L48/http2-data", HEAD, vec![head(200, &[], false), H2::Data(b"ok".to_vec(), true)]),
        ask(
            "L48/http2-empty-data",
            HEAD,
            vec![head(200, &[("content-length", "10")], false), H2::Data(Vec::new(), true)],
        ),
        ask("L47/http2-204", GET, vec![head(204, &[], true)]),
        ask("L47/http2-204-zero", GET, vec![head(204, &[("content-length", "0")], true)]),
        ask("L47/http2-204-length", GET, vec![head(204, &[("content-length", "5")], true)]),
        ask("L47/http2-204-data", GET, vec![head(204, &[], false), H2::Data(b"ok".to_vec(), true)]),
        ask("L47/http2-304", GET, vec![head(304, &[("content-length", "5")], true)]),
        ask("L47/http2-304-data", GET, vec![head(304, &[], false), H2::Data(b"ok".to_vec(), true)]),
        ask("L47/http2-none", GET, vec![head(200, &[], true)]),
        ask(
            "L47/http2-trailers",
            GET,
            vec![
                head(200, &[], false),
                H2::Data(b"ok".to_vec(), false),
                H2::Trailers(vec![("x-t", "1")]),
            ],
        ),
        ask(
            "L47/http2-only-trailers",
            GET,
            vec![head(200, &[], false), H2::Trailers(vec![("x-t", "1")])],
        ),
        ask(
            "L47/http2-short",
            GET,
            vec![head(200, &[("content-length", "5")], false), H2::Data(b"ok".to_vec(), true)],
        ),
        ask(
            "L50/http2-hop",
            GET,
            vec![head(
                200,
                &[
                    ("set-cookie", "a"),
                    ("server", "s"),
                    ("x_a", "1"),
                    ("set-cookie", "b"),
                    ("date", "d"),
                    ("x-envoy-upstream-service-time", "9"),
                    ("vary", "a"),
                    ("vary", "b"),
                ],
                true,
            )],
        ),
        ask(
            "L50/http2-grpc",
            "POST /x.Y/z HTTP/1.1\r\nHOST\r\nseldon-model: {m}\r\ncontent-type: application/grpc\r\ncontent-length: 2\r\n\r\nhi",
            vec![
                H2::Body,
                head(200, &[("content-type", "application/grpc"), ("grpc-status", "14")], true),
            ],
        ),
    ]
}

/// The edges of messages: half a request, early answers, sizes, odd lines.
fn edges() -> Vec<Case> {
    let early = |id: &'static str, request: &'static str, answer: String, then: &'static str| {
        case(id, move |p| {
            let upstream = p.serve(acts(vec![
                Act::Send(answer.clone().into_bytes()),
                Act::Wait(Duration::from_millis(100)),
            ]));
            let mut client = p.connect();
            client.send(p.fill(request));
            for _ in 0..2 {
                let reply = client.reply(false);
                p.note_reply(reply.as_ref());
                if reply.is_none_or(|reply| reply.status() != 100) {
                    break;
                }
            }
            client.send(then);
            let (rest, end) = client.rest(Duration::from_secs(3));
            p.note("rest", show(&rest));
            p.note("closed", end.is_some());
            p.note("requests", upstream.received().len());
            p.note_log("all", 1);
        })
    };
    let echoed = |id: &'static str, fields: &'static str| {
        case(id, move |p| {
            let upstream = p.serve(echo());
            p.get("/v2/models/{m}/x", fields);
            p.note_received(&upstream);
        })
    };
    let long = |id: &'static str, path: usize, field: usize| {
        case(id, move |p| {
            let upstream = p.serve(ok());
            let field =
                if field > 0 { format!("x-a: {}\r\n", "b".repeat(field)) } else { String::new() };
            let reply = p.get(&format!("/v2/models/{{m}}/{}", "a".repeat(path)), &field);
            p.note("answer", reply.line);
            p.note(
                "sizes",
                format!(
                    "{:?}",
                    upstream.received().iter().map(|r| r.head.len()).collect::<Vec<_>>()
                ),
            );
        })
    };
    const EXPECT: &str = "POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    vec![
        early("L24/early-417", EXPECT, status(417, "", "no"), "hello"),
        early("L24/early-200", EXPECT, status(200, "", "ok"), "hello"),
        early("L24/early-never", EXPECT, status(200, "", "ok"), ""),
        early("L24/early-503", EXPECT, status(503, "", "no"), ""),
        early("L24/early-close", EXPECT, status(413, "connection: close\r\n", "no"), "hello"),
        case("L52/half-closed", |p| {
            let upstream = p.serve(acts(vec![
                Act::Wait(Duration::from_millis(300)),
                Act::Send(status(200, "", "ok").into_bytes()),
            ]));
            let mut client = p.connect();
            client.send(
                p.fill("GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\n\r\n"),
            );
            p.expect(upstream.wait(|received| received.len() == 1), "pass it on");
            client.fin();
            let (rest, end) = client.rest(Duration::from_secs(2));
            p.note("rest", format!("{} {end:?}", show(&rest)));
            p.note_log("all", 1);
        }),
        case("L52/half-closed-body", |p| {
            let upstream = p.serve(upstream::ok());
            let mut client = p.connect();
            client.send(p.fill("POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-length: 5\r\n\r\nhe"));
            p.expect(upstream.wait(|received| received.len() == 1), "pass it on");
            client.fin();
            let (rest, end) = client.rest(Duration::from_secs(2));
            p.note("rest", format!("{} {end:?}", show(&rest)));
            p.note_log("all", 1);
        }),
        echoed("L30/underscores", "X_A: 1\r\nseldon_model: other\r\nx_seldon_route: a\r\n"),
        echoed("L22/model-lines", "seldon-model: a\r\nseldon-model: b\r\nSeldon-Model: c\r\n"),
        echoed("L22/internal-lines", "seldon-internal-model: a\r\nseldon-internal-model: b\r\n"),
        echoed(
            "F11/several",
            "seldon-model: {m}\r\nx-seldon-route: :a_1:\r\nx-seldon-route: :b_1:\r\n",
        ),
        echoed("F11/list", "seldon-model: {m}\r\nx-seldon-route: :a_1::b_1:, :c_1:\r\n"),
        long("L18/path", 50_000, 0),
        long("L18/path-limit", 61_200, 0),
        long("L18/path-over", 61_500, 0),
        long("L18/field", 10, 50_000),
        long("L18/both", 30_000, 30_000),
        case("R26/sticky", |p| {
            let (main, copy) = super::routing::mirrored(p, 100, ExperimentKind::Model);
            super::routing::post_experiment(
                p,
                "x-request-id: {id}\r\nx-seldon-route: :{m}a_1:\r\n",
                "{}",
            );
            std::thread::sleep(Duration::from_millis(100));
            p.note_received(&main);
            p.note("copies", copy.received().len());
        }),
        case("R26/route-of-reply", |p| {
            let _upstream = p.serve(upstream::always(status(
                200,
                "x-seldon-route: :theirs:\r\nX-Seldon-Route: :more:\r\n",
                "ok",
            )));
            p.get("/v2/models/{m}/x", "x-seldon-route: :mine:\r\n");
        }),
        case("R26/retried-once", |p| {
            let (main, copy) = super::routing::mirrored(p, 100, ExperimentKind::Model);
            drop(main);
            let reply = super::routing::post_experiment(p, "x-request-id: {id}\r\n", "{}");
            p.note("answer", reply.line);
            p.expect(copy.wait(|received| received.len() == 1), "send a copy");
            std::thread::sleep(Duration::from_millis(100));
            p.note("copies", copy.received().len());
        }),
    ]
}
