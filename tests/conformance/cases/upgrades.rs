//! L20: upgrades whose route is found only after the header filter.

use std::time::Duration;

use super::{Case, case};
use radiant::seldon::ExperimentKind;

use crate::client::show;
use crate::http2;
use crate::probe::{Probe, set_cluster};
use crate::upstream::{Act, acts};

const WEBSOCKET: &str = "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const OTHER: &str = "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
const GRANTED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
/// Long enough for bytes that come at all.
const PATIENCE: Duration = Duration::from_millis(300);

const CLUSTER: &[&str] = &[
    "upstream_rq_total",
    "upstream_rq_retry",
    "upstream_rq_completed",
    "upstream_rq_101",
    "upstream_rq_103",
    "upstream_rq_1xx",
    "upstream_rq_2xx",
    "upstream_rq_4xx",
    "upstream_cx_total",
    "upstream_cx_destroy",
    "upstream_cx_destroy_local",
    "upstream_cx_destroy_local_with_active_rq",
    "upstream_cx_destroy_remote",
    "upstream_cx_destroy_remote_with_active_rq",
    "upstream_cx_active",
    "upstream_rq_active",
    "upstream_cx_rx_bytes_total",
    "upstream_cx_tx_bytes_total",
];

/// Who ends the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Client,
    Upstream,
}

pub fn cases() -> Vec<Case> {
    let text = |text: &str| Act::Send(text.as_bytes().to_vec());
    let h2 = |id: &str, request: &str, script: Vec<http2::Act>| {
        let request = request.to_owned();
        case(id, move |p| over_http2(p, &request, script.clone()))
    };
    let post = |fields: &str, body: &str| {
        format!(
            "POST /v2/models/{{m}}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {{id}}\r\nconnection: upgrade\r\nupgrade: other\r\n{fields}\r\n{body}"
        )
    };
    let tunnel = |id: &str, request: &str, early: &str| {
        let expected = early.len() + "to the server".len();
        exchange(
            id,
            &format!("{request}{early}"),
            vec![text(GRANTED), text("to the client"), Act::Take(expected), text("and again")],
            Leaves::Client,
        )
    };
    let answered = |id: &str, request: &str, head: &str, body: &str| {
        exchange(
            id,
            request,
            vec![text(&format!("HTTP/1.1 {head}\r\n\r\n{body}")), Act::Hang],
            Leaves::Client,
        )
    };
    vec![
        h2(
            "L20/http2",
            WEBSOCKET,
            vec![
                http2::Act::Head(200, vec![("x-a", "1")], false),
                http2::Act::Piece,
                http2::Act::Data(b"to the client".to_vec(), true),
            ],
        ),
        h2("L20/http2-404", OTHER, vec![http2::Act::Head(404, vec![("x-a", "1")], true)]),
        h2(
            "L20/http2-length",
            &post("content-length: 2\r\n", "{}"),
            vec![http2::Act::Head(200, vec![], false), http2::Act::Piece],
        ),
        case("L20/mirror", mirrored),
        tunnel("L20/both-ways", WEBSOCKET, ""),
        tunnel("L20/both-ways-other", OTHER, ""),
        tunnel("L20/early", WEBSOCKET, "early"),
        tunnel("L20/length", &post("content-length: 2\r\n", ""), "{}"),
        tunnel("L20/length-none", &post("content-length: 0\r\n", ""), ""),
        tunnel("L20/chunks", &post("transfer-encoding: chunked\r\n", ""), "2\r\n{}\r\n0\r\n\r\n"),
        tunnel("L20/no-length", &post("", ""), ""),
        tunnel("L20/grpc", &post("content-type: application/grpc\r\n", ""), ""),
        tunnel(
            "L20/fields",
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\nconnection: keep-alive, x-hop, Upgrade, close\r\nx-hop: 1\r\nkeep-alive: 5\r\nproxy-connection: a\r\nte: gzip\r\nupgrade: a\r\nupgrade: b\r\nexpect: 100-continue\r\n\r\n",
            "",
        ),
        tunnel("L20/head", &WEBSOCKET.replace("GET", "HEAD"), ""),
        exchange(
            "L20/upstream-leaves",
            WEBSOCKET,
            vec![text(GRANTED), text("bye"), Act::Close],
            Leaves::Upstream,
        ),
        exchange(
            "L20/interim",
            WEBSOCKET,
            vec![text("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"), text(GRANTED), Act::Take(13)],
            Leaves::Client,
        ),
        answered("L20/bare-101", WEBSOCKET, "101 Switching Protocols", ""),
        answered(
            "L20/odd-101",
            OTHER,
            "101 Switching Protocols\r\nx-a: 1\r\nkeep-alive: 1\r\nconnection: x-a, close, Upgrade\r\nupgrade: Zeug\r\ndate: d\r\nserver: s",
            "abc",
        ),
        answered("L20/200", OTHER, "200 OK\r\nx-a: 1\r\ncontent-length: 2", "ok"),
        answered("L20/200-early", &format!("{OTHER}early"), "200 OK\r\ncontent-length: 2", "ok"),
        answered(
            "L20/200-chunked",
            OTHER,
            "200 OK\r\ntransfer-encoding: chunked",
            "2\r\nok\r\n0\r\n\r\n",
        ),
        answered("L20/404", WEBSOCKET, "404 Not Found\r\ncontent-length: 2", "no"),
        answered(
            "L20/404-raw",
            WEBSOCKET,
            "404 Not Found\r\nconnection: upgrade\r\nupgrade: foo\r\ncontent-length: 2",
            "no and more",
        ),
        answered(
            "L20/404-raw-chunked",
            OTHER,
            "404 Not Found\r\nconnection: upgrade\r\nupgrade: foo\r\ntransfer-encoding: chunked",
            "2\r\nno\r\n0\r\n\r\n",
        ),
        answered(
            "L20/426",
            WEBSOCKET,
            "426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: foo\r\ncontent-length: 0",
            "",
        ),
        answered("L20/204-raw", OTHER, "204 No Content\r\nconnection: upgrade\r\nupgrade: foo", ""),
        answered("L20/declined", WEBSOCKET, "200 OK\r\nx-a: 1\r\ncontent-length: 2", "ok"),
        answered(
            "L20/declined-302",
            WEBSOCKET,
            "302 Found\r\nlocation: z\r\nkeep-alive: 1\r\nproxy-connection: b\r\ncontent-type: text/x\r\ndate: d\r\nserver: s\r\ntransfer-encoding: chunked",
            "0\r\n\r\n",
        ),
        answered(
            "L20/declined-raw",
            WEBSOCKET,
            "200 OK\r\nconnection: upgrade\r\nupgrade: foo\r\ncontent-length: 2",
            "ok",
        ),
        answered(
            "L20/wrong-101",
            OTHER,
            "101 S\r\nconnection: upgrade\r\nupgrade: a\r\ncontent-length: 2",
            "ok",
        ),
    ]
}

/// A request for an upgrade, what the upstream does, and what the client says
/// after the answer's head.
fn exchange(id: &str, request: &str, script: Vec<Act>, leaves: Leaves) -> Case {
    let request = request.to_owned();
    case(id, move |p| run(p, &request, script.clone(), leaves))
}

/// The copy asks for the upgrade, too, and the listener for mirrors refuses it.
fn mirrored(p: &mut Probe<'_>) {
    let (main, copy) = super::routing::mirrored(p, 100, ExperimentKind::Model);
    let mut client = p.connect();
    let request = OTHER.replace("{m}", "{m}.experiment");
    client.send(p.fill(&request));
    let reply = client.reply(false);
    p.note_reply(reply.as_ref());
    // One for the request, one for the copy, in any order.
    let lines = p.side.log_lines("all", &format!("\"{}\"", p.id), 2);
    let refused = lines.iter().filter(|line| line.contains("\" 403 ") && line.contains("-shadow"));
    p.note("refused copies", refused.count());
    p.note_received(&main);
    p.note("copies", copy.received().len());
}

/// The same towards an HTTP/2 cluster, where Envoy makes a CONNECT of it.
fn over_http2(p: &mut Probe<'_>, request: &str, script: Vec<http2::Act>) {
    // Else the upstream leaves, and what is said then may or may not arrive.
    let script_waits = matches!(script.last(), Some(http2::Act::Data(..)));
    let upstream = http2::Upstream::start(script);
    p.name_port(upstream.port, "upstream0");
    let models = vec![crate::probe::model(&p.id, &[upstream.port])];
    let cluster = format!("{}_1_grpc", p.id);
    let mesh = radiant::seldon::Mesh { models, ..Default::default() };
    p.mesh_with(&mesh, |route| set_cluster(route, &cluster));
    let mut client = p.connect();
    client.send(p.fill(request));
    let reply = client.reply_within(false, Duration::from_secs(20));
    p.note_reply(reply.as_ref());
    if script_waits {
        client.send("to the server");
    }
    let (rest, end) = client.rest(Duration::from_secs(20));
    p.note("raw", show(&rest));
    p.note("closed", end.is_some());
    drop(client);
    p.note_log("all", 1);
    for received in upstream.received() {
        for line in received.lines {
            p.note("upstream", line);
        }
    }
}

fn run(p: &mut Probe<'_>, request: &str, script: Vec<Act>, leaves: Leaves) {
    let upstream = p.upstream(acts(script));
    let models = vec![crate::probe::model(&p.id, &[upstream.port])];
    let mesh = radiant::seldon::Mesh { models, ..Default::default() };
    p.mesh_with(&mesh, |route| {
        use envoy_types::pb::envoy::config::route::v3::route;
        if let Some(route::Action::Route(action)) = &mut route.action {
            action.retry_policy = None;
        }
    });
    let cluster = format!("cluster.{}_1_http.", p.id);
    let before = p.stats(&cluster);
    let mut client = p.connect();
    client.send(p.fill(request));
    let Some(first) = client.reply(false) else {
        return p.note("<", "no reply");
    };
    p.note_reply(Some(&first));
    let last = if first.status() == 100 { client.reply(false) } else { None };
    if last.is_some() {
        p.note_reply(last.as_ref());
    }
    if leaves == Leaves::Client {
        client.send("to the server");
    }
    let patience = if leaves == Leaves::Client { PATIENCE } else { Duration::from_secs(20) };
    let (rest, end) = client.rest(patience);
    p.note("raw", show(&rest));
    if leaves == Leaves::Upstream {
        p.note("closed", end.is_some());
    }
    drop(client);
    p.note_log("all", 1);
    p.note_received(&upstream);
    for received in upstream.received() {
        p.note("upstream raw", show(&received.raw_body));
    }
    p.note_stats(&cluster, &before, CLUSTER);
}
