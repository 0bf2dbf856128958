//! H: HTTP/2 towards clients and upstreams; E: local replies, in the gRPC form
//! too.

use h2::Reason;

use super::{Case, alone, case};
use crate::http2::{self, Act, Upstream};
use crate::probe::{Probe, announced};
use crate::upstream::{self, ok};

const GRPC: &str = "/inference.GRPCInferenceService/ModelInfer";
const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

pub fn cases() -> Vec<Case> {
    let mut cases = clients();
    cases.extend(malformed());
    cases.extend(upstreams());
    cases.extend(replies());
    cases
}

/// A call by HTTP/2; notes the reply.
fn call(
    p: &mut Probe<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> http2::Reply {
    let headers: Vec<(String, String)> =
        headers.iter().map(|(n, v)| ((*n).to_owned(), p.fill(v))).collect();
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let reply = http2::call(p.side.ports.http, method, &p.fill(path), &headers, body);
    for line in reply.lines() {
        p.note("reply", line);
    }
    reply
}

/// A gRPC call of the case's model.
fn grpc(p: &mut Probe<'_>) -> http2::Reply {
    grpc_with(p, Some(MESSAGE))
}

/// Without a body no reply overtakes it.
fn grpc_with(p: &mut Probe<'_>, body: Option<&[u8]>) -> http2::Reply {
    let headers = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("seldon-model", "{m}"),
        ("x-request-id", "{id}"),
    ];
    call(p, "POST", GRPC, &headers, body)
}

fn grpc_upstream(p: &mut Probe<'_>, acts: Vec<Act>) -> Upstream {
    let upstream = Upstream::start(acts);
    p.name_port(upstream.port, "grpc");
    p.model(&[upstream.port]);
    upstream
}

fn note_calls(p: &mut Probe<'_>, upstream: &Upstream) {
    p.note("calls", upstream.received().len());
    for received in upstream.received() {
        for line in received.lines {
            p.note("upstream", line);
        }
    }
}

fn fine() -> Vec<Act> {
    vec![
        Act::Body,
        Act::Head(200, vec![("content-type", "application/grpc"), ("a", "1")], false),
        Act::Data(MESSAGE.to_vec(), false),
        Act::Trailers(vec![("grpc-status", "0"), ("x-t", "2")]),
    ]
}

fn clients() -> Vec<Case> {
    vec![
        case("L01/h2", |p| {
            let upstream = p.serve(ok());
            let reply = call(p, "GET", "/v2/models/{m}/x", &[("a", "b")], None);
            p.expect(reply.status == 200, "answer 200");
            p.note_received(&upstream);
        }),
        case("H06", |p| {
            let upstream = p.serve(ok());
            call(
                p,
                "POST",
                "/v2/models/{m}/x",
                &[("cookie", "a=1"), ("cookie", "b=2")],
                Some(b"{}"),
            );
            p.note_received(&upstream);
        }),
        case("H06/length", |p| {
            let upstream = p.serve(ok());
            call(p, "POST", "/v2/models/{m}/x", &[("content-length", "2")], Some(b"{}"));
            p.note_received(&upstream);
        }),
        case("H06/empty", |p| {
            let upstream = p.serve(ok());
            call(
                p,
                "POST",
                "/v2/models/{m}/x",
                &[("accept", "a"), ("accept", "b"), ("x-forwarded-proto", "https")],
                None,
            );
            p.note_received(&upstream);
        }),
        case("H07", |p| {
            let upstream = grpc_upstream(p, fine());
            let reply = grpc(p);
            p.expect(reply.trailers.is_some(), "pass trailers");
            note_calls(p, &upstream);
        }),
        case("H08", |p| {
            let upstream = grpc_upstream(p, fine());
            let reply = p.ask(&format!("POST {GRPC} HTTP/1.1\r\nhost: h\r\nseldon-model: {{m}}\r\ncontent-type: application/grpc\r\ncontent-length: 2\r\n\r\nhi"));
            p.expect(reply.status() == 200, "answer 200");
            note_calls(p, &upstream);
        }),
        case("H08/get", |p| {
            let upstream = grpc_upstream(
                p,
                vec![
                    Act::Head(200, vec![("content-length", "2")], false),
                    Act::Data(b"ok".to_vec(), true),
                ],
            );
            p.get(GRPC, "seldon-model: {m}\r\ncookie: a=1\r\ncookie: b=2\r\nte: trailers\r\nconnection: keep-alive\r\n");
            note_calls(p, &upstream);
        }),
        case("H09", |p| {
            let _upstream = grpc_upstream(
                p,
                vec![
                    Act::Body,
                    Act::Head(200, vec![], false),
                    Act::Data(b"a".to_vec(), false),
                    Act::Reset(Reason::INTERNAL_ERROR),
                ],
            );
            let reply = grpc(p);
            p.expect(reply.error.is_some(), "reset the client's stream");
            p.note_log("all", 1);
        }),
        case("E05/404", |p| {
            for kind in [
                "application/grpc+proto",
                "application/grpc-web",
                "application/grpc;x",
                "application/grpcx",
            ] {
                call(p, "POST", "/nowhere", &[("content-type", kind)], None);
            }
        }),
    ]
}

/// What comes back, but for the greeting, and whether the model got it.
fn note_frames(p: &mut Probe<'_>, fields: &[(&str, &str)]) {
    let upstream = p.serve(ok());
    let model = p.id.clone();
    let fields = [fields, &[("seldon-model", model.as_str())]].concat();
    for line in http2::raw(p.side.ports.http, &fields) {
        if !line.starts_with("SETTINGS") && !line.starts_with("WINDOW") {
            p.note("frame", line);
        }
    }
    p.note_received(&upstream);
}

/// Header blocks that no client library would send.
fn malformed() -> Vec<Case> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/v2/x"), (":authority", "h")];
    let with = |extra: &[(&'static str, &'static str)]| [&usual[..], extra].concat();
    let frames = |id: &'static str, fields: Vec<(&'static str, &'static str)>| {
        case(id, move |p| note_frames(p, &fields))
    };
    let many: Vec<(&'static str, &'static str)> = (0..98).map(|_| ("x-a", "b")).collect();
    vec![
        frames("H02/usual", usual.to_vec()),
        case("H01", move |p| {
            let seen = http2::raw(p.side.ports.http, &usual);
            for line in seen.iter().filter(|l| l.starts_with("SETTINGS") || l.starts_with("WINDOW"))
            {
                p.note("frame", line);
            }
        }),
        frames("H02", vec![usual[0], usual[1], usual[2], ("host", "h")]),
        frames("H03", usual[..3].to_vec()),
        frames("H04/upper", with(&[("X-A", "b")])),
        frames("H04/connection", with(&[("connection", "close")])),
        frames("H04/te", with(&[("te", "gzip")])),
        frames("H04/path", vec![usual[0], usual[1], (":path", "nowhere"), usual[3]]),
        frames("H04/no-path", vec![usual[0], usual[1], usual[3]]),
        frames("H04/no-scheme", vec![usual[0], usual[2], usual[3]]),
        frames("H04/no-method", usual[1..].to_vec()),
        frames("H04/late-pseudo", vec![usual[0], usual[1], usual[2], ("a", "b"), usual[3]]),
        frames("H04/twice", with(&[(":path", "/b")])),
        frames("H04/unknown-pseudo", with(&[(":a", "/b")])),
        frames("H04/protocol", with(&[(":protocol", "websocket")])),
        frames("H04/nul", with(&[("a", "b\0c")])),
        frames("H04/newline", with(&[("a", "b\nc")])),
        frames("H04/name", with(&[("a b", "c")])),
        frames("H04/empty-name", with(&[("", "c")])),
        frames("H04/transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        frames("H04/upgrade", with(&[("upgrade", "a")])),
        frames("H04/fragment", vec![usual[0], usual[1], (":path", "/a#b"), usual[3]]),
        frames("H04/blank", vec![usual[0], usual[1], (":path", "/a b"), usual[3]]),
        frames("H04/length", with(&[("content-length", "5")])),
        frames("H04/host-too", with(&[("host", "g")])),
        frames("H05/pass", with(&many[..95])),
        frames("H05/over", with(&many[..96])),
        case("H05/large", |p| {
            let big = "b".repeat(62_000);
            let fields = [
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/v2/x"),
                (":authority", "h"),
                ("a", big.as_str()),
            ];
            note_frames(p, &fields);
        }),
    ]
}

/// How gRPC calls fail upstream.
fn failing(id: &'static str, calls: usize, acts: Vec<Act>) -> Case {
    case(id, move |p| {
        let upstream = grpc_upstream(p, acts.clone());
        grpc(p);
        let seen = upstream.received().len();
        p.expect(seen == calls, format!("{calls} calls, but {seen}"));
        note_calls(p, &upstream);
        p.note_log("all", 1);
        p.note_log("errors", 0);
    })
}

fn upstreams() -> Vec<Case> {
    let status = |code: &'static str| {
        vec![("content-type", "application/grpc"), ("grpc-status", code), ("grpc-message", "m%20m")]
    };
    vec![
        failing("R31", 1, vec![Act::Body, Act::Head(200, status("14"), true)]),
        failing("R32", 6, vec![Act::Body, Act::Head(503, status("14"), true)]),
        failing(
            "F23",
            1,
            vec![
                Act::Body,
                Act::Head(200, vec![("content-type", "application/grpc")], false),
                Act::Data(MESSAGE.to_vec(), false),
                Act::Trailers(vec![("grpc-status", "3"), ("grpc-message", "bad")]),
            ],
        ),
        failing("F23/fine", 1, fine()),
        failing("C15", 6, vec![Act::Body, Act::Reset(Reason::REFUSED_STREAM)]),
        failing("C17/internal", 6, vec![Act::Body, Act::Reset(Reason::INTERNAL_ERROR)]),
        failing("C17/cancel", 6, vec![Act::Body, Act::Reset(Reason::CANCEL)]),
        failing("C17/no-error", 6, vec![Act::Body, Act::Reset(Reason::NO_ERROR)]),
        failing("C17/protocol", 6, vec![Act::Body, Act::Reset(Reason::PROTOCOL_ERROR)]),
        case("C23", |p| {
            let upstream = grpc_upstream(p, fine());
            grpc(p);
            p.get(GRPC, "seldon-model: {m}\r\nX-Case: a\r\nx-a: 1\r\nx-a: 2\r\n");
            note_calls(p, &upstream);
        }),
        case("R43", |p| {
            let upstream = grpc_upstream(p, fine());
            let headers = [
                ("content-type", "application/grpc"),
                ("seldon-model", "{m}"),
                ("grpc-timeout", "1n"),
            ];
            let reply = call(p, "POST", GRPC, &headers, Some(MESSAGE));
            p.expect(reply.status == 200 && reply.trailers.is_some(), "ignore it");
            note_calls(p, &upstream);
        }),
        case("R25", |p| {
            let (main, copy) = (Upstream::start(fine()), Upstream::start(fine()));
            p.name_port(main.port, "main");
            p.name_port(copy.port, "copy");
            let (name, mirror) = (format!("{}a", p.id), format!("{}b", p.id));
            p.side.ensure_mirror_clusters();
            p.mesh(&radiant::seldon::Mesh {
                models: vec![
                    crate::probe::model(&name, &[main.port]),
                    crate::probe::model(&mirror, &[copy.port]),
                ],
                experiments: vec![radiant::seldon::Experiment {
                    name: p.id.clone(),
                    candidates: vec![(name, 100)],
                    mirror: Some((mirror, 100)),
                    ..Default::default()
                }],
                ..Default::default()
            });
            let headers = [
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("seldon-model", "{m}.experiment"),
            ];
            call(p, "POST", GRPC, &headers, Some(MESSAGE));
            p.expect(copy.wait_body(), "send a copy with its body");
            note_calls(p, &main);
            for line in copy.received().remove(0).lines {
                let own = if line.contains("x-forwarded-for") {
                    "> x-forwarded-for: *".to_owned()
                } else {
                    line
                };
                p.note("copy", own);
            }
        }),
    ]
}

/// The three ways to meet a local reply: HTTP/1, gRPC over HTTP/2, gRPC over
/// HTTP/1; `world` prepares the case's model.
fn local(
    id: &'static str,
    code: u16,
    grpc_code: &'static str,
    world: impl Fn(&mut Probe<'_>) + Send + Sync + 'static,
) -> Case {
    case(id, move |p| {
        world(p);
        let reply = p.infer("x-request-id: {id}\r\n");
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        let reply = grpc_with(p, None);
        p.expect(
            reply.header("grpc-status") == Some(grpc_code),
            format!("say {grpc_code}: {reply:?}"),
        );
        let reply = p.ask(&format!("POST {GRPC} HTTP/1.1\r\nhost: h\r\nx-request-id: {{id}}\r\nseldon-model: {{m}}\r\ncontent-type: application/grpc\r\ncontent-length: 2\r\n\r\nhi"));
        p.expect(reply.status() == 200, "answer 200 in the gRPC form");
        call(p, "POST", "/v2/models/{m}/infer", &[("x-request-id", "{id}")], None);
        call(p, "HEAD", "/v2/models/{m}/infer", &[], None);
        p.ask("HEAD /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\n\r\n");
        p.note_log("all", 4);
        p.note_log("errors", 1);
    })
}

fn replies() -> Vec<Case> {
    vec![
        local("E01", 404, "12", |_| {}),
        local("E02", 503, "14", |p| {
            let id = p.id.clone();
            let mesh = radiant::seldon::Mesh {
                models: vec![crate::probe::model(&id, &[1])],
                ..Default::default()
            };
            p.mesh(&mesh);
            let names = [format!("{id}_1_http"), format!("{id}_1_grpc")];
            p.side.remove_clusters(&names);
        }),
        local("E03", 503, "14", |p| p.model(&[])),
        local("E04", 503, "14", |p| p.model(&[1])),
        case("E07", |p| {
            let reply = p.get("/nowhere", "");
            p.expect(reply.header("content-type").is_none(), "have no content-type");
            p.note("announced", announced(&reply));
        }),
        alone("H10", |p| {
            let _upstream = p.serve(ok());
            p.side.admin("POST", "/healthcheck/fail");
            let mut client = p.connect();
            client.send(p.fill("GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\n\r\n"));
            let reply = client.reply(false);
            p.note_reply(reply.as_ref());
            p.expect(reply.is_some_and(|r| announced(&r)), "announce the close");
            p.side.admin("POST", "/healthcheck/ok");
            p.infer("");
        }),
        alone("H11", |p| {
            let _upstream = p.serve(ok());
            let model = p.id.clone();
            let path = p.fill("/v2/models/{m}/x");
            let fields = [
                (":method", "GET"),
                (":scheme", "http"),
                (":path", path.as_str()),
                (":authority", "h"),
                ("seldon-model", model.as_str()),
            ];
            let limit = std::time::Duration::from_secs(10);
            let mut client = http2::Raw::connect(p.side.ports.http);
            client.request(1, &fields);
            p.note("before", client.until("HEADERS", limit).join(", "));
            p.side.admin("POST", "/healthcheck/fail");
            client.request(3, &fields);
            p.note("failed", client.until("HEADERS", limit).join(", "));
            let told = std::time::Instant::now();
            client.request(5, &fields);
            p.note("served", client.until("HEADERS", limit).join(", "));
            p.note("goodbye", client.until("GOAWAY", limit).join(", "));
            let after = told.elapsed().as_secs_f64();
            p.expect((4.0..6.5).contains(&after), format!("wait 5 s, but waited {after:.1} s"));
            p.note("end", client.until("nothing", limit).join(", "));
            p.side.admin("POST", "/healthcheck/ok");
        }),
        case("C01/log", |p| {
            p.model(&[]);
            p.infer("x-request-id: {id}\r\n");
            p.note_log("all", 1);
            p.note_log("errors", 1);
        }),
        case("C20", |p| {
            let upstream = p
                .serve(upstream::always(format!("{}extra bytes", upstream::status(200, "", "ok"))));
            let reply = p.infer("");
            p.expect(reply.status() == 200, "answer 200");
            p.infer("");
            p.note_received(&upstream);
        }),
    ]
}
