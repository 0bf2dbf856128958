//! L: listeners and the HTTP/1 edge.

use std::time::Duration;

use super::{Case, case};
use crate::client::End;
use crate::probe::Probe;
use crate::upstream::{Act, Gate, acts, always, answer, ok, status};

const JSON: &str = "content-type: application/json\r\n";

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = requests().into_iter().map(request).collect();
    cases.extend(replies().into_iter().map(reply));
    cases.extend(longer());
    cases
}

/// A request, what Envoy answers, and whether the upstream sees it.
struct Raw {
    id: &'static str,
    raw: String,
    status: u16,
}

fn raw(id: &'static str, status: u16, raw: impl Into<String>) -> Raw {
    Raw { id, raw: raw.into(), status }
}

/// A GET of the case's model with these header lines.
fn get(id: &'static str, headers: &str) -> Raw {
    raw(id, 200, format!("GET /v2/models/{{m}}/x HTTP/1.1\r\nhost: h.example\r\n{headers}\r\n"))
}

/// A body-less request of the case's model.
fn method(id: &'static str, method: &str) -> Raw {
    raw(id, 200, format!("{method} /v2/models/{{m}}/x HTTP/1.1\r\nhost: h.example\r\n\r\n"))
}

/// A POST of the case's model with these header lines and body.
fn post(id: &'static str, status: u16, headers: &str, body: &str) -> Raw {
    raw(
        id,
        status,
        format!(
            "POST /v2/models/{{m}}/infer HTTP/1.1\r\nhost: h.example\r\n{JSON}{headers}\r\n{body}"
        ),
    )
}

/// A request line and nothing unusual else.
fn line(id: &'static str, status: u16, line: &str) -> Raw {
    raw(id, status, format!("{line}\r\nhost: h.example\r\nseldon-model: {{m}}\r\n\r\n"))
}

fn request(raw: Raw) -> Case {
    let Raw { id, raw, status } = raw;
    case(id, move |p| {
        let upstream = p.serve(ok());
        let reply = p.ask(&raw);
        p.expect(reply.status() == status, format!("answer {status}, but {}", reply.line));
        p.note_received(&upstream);
    })
}

fn requests() -> Vec<Raw> {
    let mut all = framing();
    all.extend(heads());
    all.extend(forwarding());
    all
}

/// Request lines, hosts, framing.
fn framing() -> Vec<Raw> {
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        get("L01/http1", ""),
        get(
            "L02",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        ),
        line("L03/1.0", 426, "GET /v2/models/{m}/x HTTP/1.0"),
        line("L03/1.2", 426, "GET /v2/models/{m}/x HTTP/1.2"),
        line("L03/keep-alive", 426, "GET /v2/models/{m}/x HTTP/1.0\r\nconnection: keep-alive"),
        raw("L04", 400, "GET /v2/models/{m}/x HTTP/1.1\r\na: b\r\n\r\n"),
        raw("L04/empty-host", 200, "GET /v2/models/{m}/x HTTP/1.1\r\nhost:\r\n\r\n"),
        line("L05", 400, "GET /v2/models/{m}/x#f HTTP/1.1"),
        raw("L06", 400, "hello there\r\n\r\n"),
        raw("L06/binary", 400, "\u{1}\u{2}\u{3}\u{4}\r\n\r\n"),
        raw("L06/tls", 400, "\u{16}\u{3}\u{1}\u{1}\u{0}\u{1}\r\n\r\n"),
        line("L06/lower", 400, "GET /v2/models/{m}/x http/1.1"),
        line("L03/no-version", 426, "GET /v2/models/{m}/x"),
        line("L06/pri", 400, "PRI * HTTP/1.1"),
        line("L07", 400, "FOO /v2/models/{m}/x HTTP/1.1"),
        line("L07/lower", 400, "get /v2/models/{m}/x HTTP/1.1"),
        line("L07/query", 400, "QUERY /v2/models/{m}/x HTTP/1.1"),
        line("L07/propfind", 200, "PROPFIND /v2/models/{m}/x HTTP/1.1"),
        post("L08", 400, "content-length: 2\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
        post(
            "L08/reversed",
            400,
            "transfer-encoding: chunked\r\ncontent-length: 2\r\n",
            "0\r\n\r\n",
        ),
        post("L09/equal", 400, "content-length: 2\r\ncontent-length: 2\r\n", "{}"),
        post("L09/unequal", 400, "content-length: 2\r\ncontent-length: 3\r\n", "{} "),
        post("L09/list", 400, "content-length: 2, 2\r\n", "{}"),
        post("L09/sign", 400, "content-length: +2\r\n", "{}"),
        post("L09/hex", 400, "content-length: 0x2\r\n", "{}"),
        post("L09/empty", 400, "content-length:\r\n", "{}"),
        post("L10/gzip", 501, "transfer-encoding: gzip\r\n", ""),
        post("L10/identity", 501, "transfer-encoding: identity\r\n", ""),
        post("L10/both", 501, "transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("L11", 200, "transfer-encoding: Chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        post("L12/letters", 400, chunked, "zz\r\n{}\r\n0\r\n\r\n"),
        post("L12/no-crlf", 400, chunked, "2\r\n{}0\r\n\r\n"),
        post("L12/extension", 200, chunked, "2;a=b\r\n{}\r\n0\r\n\r\n"),
        post("L12/leading-zeros", 200, chunked, "0002\r\n{}\r\n0\r\n\r\n"),
        raw("L55", 200, "\r\n\r\nGET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\n\r\n"),
        raw("L15", 200, "GET /v2/models/{m}/x HTTP/1.1\nhost: h\na: b\n\n"),
        line("L16/space", 400, "GET /v2/models/{m}/a b HTTP/1.1"),
        line("L16/tab", 400, "GET /v2/models/{m}/a\tb HTTP/1.1"),
        line("L19", 404, "CONNECT h:80 HTTP/1.1"),
        line("L54", 404, "OPTIONS * HTTP/1.1"),
    ]
}

/// Header fields.
fn heads() -> Vec<Raw> {
    let many = |n: usize| (0..n).map(|i| format!("x-{i}: v\r\n")).collect::<String>();
    vec![
        raw("L13/name-space", 400, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\na b: c\r\n\r\n"),
        raw("L13/space-colon", 400, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\na : c\r\n\r\n"),
        raw("L13/nul", 400, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\na: b\0c\r\n\r\n"),
        raw("L13/no-colon", 400, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nabc\r\n\r\n"),
        raw("L13/empty-name", 400, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\n: b\r\n\r\n"),
        get("L13/obs-text", "a: caf\u{e9}\r\n"),
        get("L14", "a: b\r\n  c\r\n\td\r\n"),
        get("L18/pass", &many(98 + 1)),
        raw(
            "L18/over",
            431,
            format!("GET /v2/models/{{m}}/x HTTP/1.1\r\nhost: h\r\n{}\r\n", many(100)),
        ),
        raw(
            "L20",
            200,
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ),
        raw(
            "L20/unrouted",
            404,
            "GET /nowhere HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ),
        raw(
            "L20/browser",
            403,
            "GET /v2/x HTTP/1.1\r\nHost: h\r\nseldon-model: {m}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ),
        raw(
            "L20/other",
            403,
            "GET /v2/x HTTP/1.1\r\nhost: h\r\nseldon-model: {m}\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n",
        ),
        raw(
            "L20/post",
            403,
            "POST /v2/x HTTP/1.1\r\nhost: h\r\nseldon-model: {m}\r\nconnection: upgrade\r\nupgrade: other\r\ncontent-length: 2\r\n\r\n{}",
        ),
        raw(
            "L20/bare",
            200,
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n\r\n",
        ),
        get("L25", "connection: close\r\n"),
        get("L25/keep-alive", "connection: keep-alive\r\n"),
        raw(
            "L27",
            200,
            "GET http://other.example:81/v2/models/{m}/x?y HTTP/1.1\r\nhost: h.example\r\n\r\n",
        ),
        raw(
            "L27/https",
            200,
            "GET https://other.example/v2/models/{m}/x HTTP/1.1\r\nhost: h.example\r\n\r\n",
        ),
        raw("L27/no-path", 404, "GET http://other.example HTTP/1.1\r\nhost: h.example\r\n\r\n"),
        raw("L28", 200, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nhost: g\r\n\r\n"),
        get("L29", "under_score: 1\r\n"),
        get("L30", "X-MiXed-CaSe: VaLue\r\n"),
        get("L31", ""),
        get("L31/kept", "x-forwarded-proto: https\r\n"),
        get("L31/odd", "x-forwarded-proto: gopher\r\n"),
        get("L32", "x-forwarded-for: 1.2.3.4\r\n"),
        get("L32/two", "x-forwarded-for: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\n"),
        get("L33", "x-request-id: abc\r\n"),
        get("L41", "accept: x\r\naccept: y\r\nx-a: 1\r\nx-a: 2\r\ncookie: a=1\r\ncookie: b=2\r\n"),
        get(
            "L41/others",
            "cache-control: a\r\nx-q: 1\r\ncache-control: b\r\nuser-agent: u\r\nuser-agent: v\r\nvia: 1\r\nvia: 2\r\nte: trailers\r\ncontent-type: a/b\r\ncontent-type: c/d\r\nauthorization: k\r\nauthorization: l\r\nreferer: r\r\nreferer: s\r\norigin: o\r\norigin: p\r\n",
        ),
        get(
            "L41/more",
            "accept-encoding: a\r\naccept-encoding: b\r\nx-forwarded-host: a\r\nx-forwarded-host: b\r\nx-forwarded-port: 1\r\nx-forwarded-port: 2\r\nforwarded: for=a\r\nforwarded: for=b\r\npragma: a\r\npragma: b\r\nif-match: a\r\nif-match: b\r\nx-request-id: a\r\nx-request-id: b\r\nx-forwarded-proto: http\r\nx-forwarded-proto: https\r\ngrpc-timeout: 1S\r\ngrpc-timeout: 2S\r\n",
        ),
    ]
}

/// What is forwarded and what is not.
fn forwarding() -> Vec<Raw> {
    let envoys = "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 1\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-upstream-rq-per-try-timeout-ms: 1\r\nx-envoy-expected-rq-timeout-ms: 1\r\nx-envoy-internal: true\r\nx-envoy-retry-grpc-on: cancelled\r\nx-envoy-retriable-status-codes: 200\r\nx-envoy-retriable-header-names: a\r\nx-envoy-hedge-on-per-try-timeout: true\r\nx-envoy-upstream-alt-stat-name: a\r\nx-envoy-force-trace: 1\r\nx-envoy-ip-tags: a\r\nx-envoy-original-url: u\r\n";
    let passed = "x-envoy-original-path: /o\r\nx-envoy-attempt-count: 3\r\nx-envoy-decorator-operation: d\r\nx-envoy-downstream-service-node: n\r\nx-envoy-downstream-service-cluster: c\r\nx-envoy-external-address: 1.1.1.1\r\n";
    vec![
        raw(
            "L26/dots",
            200,
            "GET /v2/models/{m}/a/../b//c%2Fd%2e%2E/./;x?q=/../%00&r HTTP/1.1\r\nhost: h\r\n\r\n",
        ),
        raw("L26/escapes", 200, "GET /v2/models/{m}/%zz%?a%b HTTP/1.1\r\nhost: h\r\n\r\n"),
        raw(
            "L26/marks",
            200,
            "GET /v2/models/{m}/\"<>\\^`{|}[]!$&'()*+,;=:@ HTTP/1.1\r\nhost: h\r\n\r\n",
        ),
        get("L34", envoys),
        get("L34/internal", &format!("x-forwarded-for: 10.0.0.1\r\n{envoys}")),
        get("L35", passed),
        get(
            "L36",
            "connection: x-a, keep-alive\r\nx-a: 1\r\nkeep-alive: 5\r\nproxy-connection: close\r\nx-b: 2\r\n",
        ),
        get("L36/close", "connection: close, x-a\r\nx-a: 1\r\n"),
        get("L36/te", "connection: te\r\nte: trailers\r\n"),
        get("L36/model", "connection: seldon-model\r\nseldon-model: other\r\n"),
        get("L37/trailers", "te: trailers\r\n"),
        get("L37/gzip", "te: gzip\r\n"),
        get("L37/both", "te: trailers, gzip\r\n"),
        method("L38/post", "POST"),
        method("L38/put", "PUT"),
        method("L38/patch", "PATCH"),
        method("L38/options", "OPTIONS"),
        method("L38/get", "GET"),
        method("L38/delete", "DELETE"),
        method("L38/trace", "TRACE"),
        post("L39", 200, "transfer-encoding: chunked\r\n", "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
        post(
            "L39/trailers",
            200,
            "transfer-encoding: chunked\r\ntrailer: t\r\n",
            "2\r\n{}\r\n0\r\nt: 1\r\n\r\n",
        ),
        raw("L40", 200, "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"),
        raw(
            "L40/delete",
            200,
            "DELETE /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        raw(
            "L40/empty",
            200,
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
        ),
        raw(
            "L40/empty-chunked",
            200,
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        raw("L48", 200, "HEAD /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\n\r\n"),
        raw("L53", 404, "GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n"),
        raw("L53/head", 404, "HEAD /nowhere HTTP/1.1\r\nhost: h\r\n\r\n"),
        raw(
            "L53/empty-post",
            404,
            "POST /nowhere HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
        ),
    ]
}

/// An upstream's reply and what the client gets of it.
fn reply((id, method, upstream, code): (&'static str, &'static str, String, u16)) -> Case {
    case(id, move |p| {
        let closes = !upstream.contains("ength:")
            && !upstream.contains("hunked")
            && code != 204
            && code != 304;
        let mut steps = vec![Act::Body, Act::Send(upstream.clone().into_bytes())];
        steps.extend(closes.then_some(Act::Close));
        let server = p.serve(acts(steps));
        let reply = p.ask(&format!("{method} /v2/models/{{m}}/x HTTP/1.1\r\nhost: h\r\n\r\n"));
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        let requests = server.received().len();
        p.note("attempts", requests);
    })
}

fn replies() -> Vec<(&'static str, &'static str, String, u16)> {
    let ok = |headers: &str| status(200, headers, "ok");
    vec![
        ("L42", "GET", ok("server: other\r\n"), 200),
        ("L42/in-place", "GET", ok("a: 1\r\nserver: other\r\nb: 2\r\n"), 200),
        ("L43", "GET", ok("date: Mon, 01 Jan 2001 00:00:00 GMT\r\na: b\r\n"), 200),
        ("L43/absent", "GET", ok("a: b\r\n"), 200),
        ("L44", "GET", ok("a: 1\r\nx-envoy-upstream-service-time: 77777\r\nb: 2\r\n"), 200),
        ("L45/103", "GET", format!("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n{}", ok("")), 200),
        ("L45/100", "GET", format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("")), 200),
        ("L45/102", "GET", format!("HTTP/1.1 102 Processing\r\n\r\n{}", ok("")), 200),
        ("L46", "GET", "HTTP/1.1 299 Mine\r\ncontent-length: 0\r\n\r\n".into(), 299),
        ("L46/200", "GET", "HTTP/1.1 200 Very Well\r\ncontent-length: 0\r\n\r\n".into(), 200),
        ("L46/none", "GET", "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".into(), 200),
        ("L46/418", "GET", "HTTP/1.1 418 T\r\ncontent-length: 0\r\n\r\n".into(), 418),
        ("L47/304", "GET", "HTTP/1.1 304 N\r\ncontent-length: 5\r\netag: a\r\n\r\n".into(), 304),
        ("L47/204", "GET", "HTTP/1.1 204 N\r\na: b\r\n\r\n".into(), 204),
        ("L48/length", "HEAD", "HTTP/1.1 200 K\r\ncontent-length: 10\r\n\r\n".into(), 200),
        ("L48/chunked", "HEAD", "HTTP/1.1 200 K\r\ntransfer-encoding: chunked\r\n\r\n".into(), 200),
        ("L49", "GET", "HTTP/1.0 200 K\r\na: b\r\n\r\nuntil the end".into(), 200),
        ("L49/1.1", "GET", "HTTP/1.1 200 K\r\na: b\r\n\r\nuntil the end".into(), 200),
        ("L49/length", "GET", "HTTP/1.0 200 K\r\ncontent-length: 2\r\n\r\nok".into(), 200),
        (
            "L49/chunked",
            "GET",
            "HTTP/1.1 200 K\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nt: 1\r\n\r\n"
                .into(),
            200,
        ),
        (
            "L50/hop",
            "GET",
            ok(
                "connection: keep-alive, x-a\r\nkeep-alive: 5\r\nx-a: 1\r\nproxy-connection: x\r\nupgrade: z\r\n",
            ),
            200,
        ),
        (
            "L41/replies",
            "GET",
            ok(
                "cache-control: a\r\ncache-control: b\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nvary: a\r\nvary: b\r\nx-a: 1\r\nx-a: 2\r\ncontent-type: a\r\ncontent-type: b\r\nvia: 1\r\nvia: 2\r\netag: 1\r\netag: 2\r\nlocation: a\r\nlocation: b\r\n",
            ),
            200,
        ),
        (
            "L45/101",
            "GET",
            "HTTP/1.1 101 Switching\r\nupgrade: z\r\ncontent-length: 0\r\n\r\n".into(),
            101,
        ),
    ]
}

/// Stories of more than one step.
fn longer() -> Vec<Case> {
    vec![
        case("L20/tunnel", tunnel),
        case("L17/pass", |p| head_of(p, 61_440, 200)),
        case("L17/over", |p| head_of(p, 61_441, 431)),
        case("L16/non-ascii", |p| {
            let upstream = p.serve(ok());
            let raw = p.fill("GET /v2/models/{m}/\u{e9} HTTP/1.1\r\nhost: h\r\n\r\n");
            let latin: Vec<u8> = raw.chars().map(|c| c as u8).collect();
            let reply = p.ask_bytes(&latin);
            p.expect(reply.status() == 400, "answer 400");
            p.note_received(&upstream);
        }),
        case("L21", expect_continue),
        case("L22", pipelined),
        case("L23", half_close),
        case("L24", |p| {
            let mut client = p.connect();
            client.send("garbage\r\n\r\n");
            let reply = client.reply(false);
            p.note_reply(reply.as_ref());
            let (rest, end) = client.rest(Duration::from_secs(4));
            p.note("end", format!("{end:?} {}", rest.len()));
            p.expect(end == Some(End::Fin), "end with FIN");
        }),
        case("L50", |p| {
            let upstream = p.serve(acts(vec![
                Act::Body,
                Act::Send(status(200, "connection: close\r\n", "ok").into_bytes()),
                Act::Close,
            ]));
            let reply = p.infer("");
            p.expect(reply.header("connection").is_none(), "not propagate the close");
            p.infer("");
            let connections: Vec<usize> =
                upstream.received().iter().map(|r| r.connection).collect();
            p.expect(connections == [0, 1], "use a new upstream connection");
            p.note("connections", format!("{connections:?}"));
        }),
        case("L51", |p| {
            let upstream =
                p.serve(acts(vec![Act::Send(status(200, "", "early").into_bytes()), Act::Hang]));
            let reply = p.ask(
                "POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\npart",
            );
            p.expect(reply.header("connection") == Some("close"), "announce the close");
            p.expect(upstream.wait(|r| r.iter().any(|r| r.ended.is_some())), "close upstream");
        }),
        case("L52", |p| {
            let mut client = p.connect();
            client.send("POST /nowhere HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\n");
            let reply = client.reply(false);
            p.note_reply(reply.as_ref());
            client.send("12345GET /fate HTTP/1.1\r\nhost: h\r\n\r\n");
            let fate = client.fate(true);
            p.note("connection", fate);
        }),
        case("L52/whole", |p| {
            p.ask("POST /nowhere HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\n12345");
        }),
        case("L12/later", |p| {
            let _upstream = p.serve(ok());
            let mut client = p.connect();
            client.send(p.fill("POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"));
            std::thread::sleep(Duration::from_millis(200));
            client.send("nonsense\r\n");
            let reply = client.reply(false);
            p.note_reply(reply.as_ref());
            let fate = client.fate(true);
            p.note("connection", fate);
        }),
        case("L22/two-models", |p| {
            let _upstream = p.serve(always(status(404, "", "of the model")));
            let reply = p.infer("");
            p.expect(reply.status() == 404, "pass 404 on");
        }),
    ]
}

/// A head of exactly `size` bytes.
fn head_of(p: &mut Probe<'_>, size: usize, code: u16) {
    let upstream = p.serve(ok());
    let start = p.fill("GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-big: ");
    let fill = "b".repeat(size - start.len() - 4);
    let reply = p.ask(&format!("{start}{fill}\r\n\r\n"));
    p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
    p.note_received(&upstream);
}

fn expect_continue(p: &mut Probe<'_>) {
    let upstream = p.serve(ok());
    let mut client = p.connect();
    client.send(p.fill("POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"));
    let first = client.reply(false);
    p.note_reply(first.as_ref());
    p.expect(first.is_some_and(|r| r.status() == 100), "say 100");
    client.send("{}");
    let second = client.reply(false);
    p.note_reply(second.as_ref());
    let fate = client.fate(false);
    p.note("connection", fate);
    p.note_received(&upstream);
}

fn pipelined(p: &mut Probe<'_>) {
    let upstream = p.serve(std::sync::Arc::new(|request, _| {
        crate::upstream::answer(status(200, "", request.head.split(' ').nth(1).unwrap_or("")))
    }));
    let mut client = p.connect();
    let one = |n: u8| {
        format!("POST /v2/models/{{m}}/{n} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{{}}")
    };
    client.send(p.fill(&format!("{}{}", one(1), one(2))));
    for _ in 0..2 {
        let reply = client.reply(false);
        p.note_reply(reply.as_ref());
    }
    let fate = client.fate(false);
    p.note("connection", fate);
    p.note_received(&upstream);
}

fn half_close(p: &mut Probe<'_>) {
    let gate = Gate::default();
    let upstream = p.serve(acts(vec![Act::Body, Act::Hang]));
    let mut client = p.connect();
    client.send(p.fill("POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-length: 2\r\n\r\n{}"));
    p.expect(upstream.wait(|r| r.iter().any(|r| !r.raw_body.is_empty())), "reach the upstream");
    client.fin();
    let (rest, end) = client.rest(Duration::from_secs(4));
    p.note("rest", format!("{} {}", rest.len(), end.is_some()));
    p.expect(upstream.wait(|r| r.iter().any(|r| r.ended.is_some())), "cancel upstream");
    gate.open();
    p.note_log("all", 1);
}

/// An upgrade that the model server takes: whatever follows goes there as it is.
fn tunnel(p: &mut Probe<'_>) {
    let upstream = p.serve(std::sync::Arc::new(|_, number| match number {
        0 => vec![Act::Send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                .to_vec(),
        )],
        _ => answer(status(200, "", "")),
    }));
    let mut client = p.connect();
    client.send(p.fill(
        "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ));
    let reply = client.reply(false);
    p.note_reply(reply.as_ref());
    client.send("POST /smuggled HTTP/1.1\r\nhost: h\r\nseldon-internal-model: any\r\ncontent-length: 2\r\n\r\n{}");
    // Its answer shows that the upstream has recorded it.
    let reply = client.reply(false);
    p.note_reply(reply.as_ref());
    p.note_received(&upstream);
}
