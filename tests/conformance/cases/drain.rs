//! H12 to H14, H25, H26: draining and changes of listeners; C10, C16: upstreams
//! that are not there, or are leaving.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route;
use envoy_types::pb::google::protobuf;
use radiant::seldon::Mesh;
use rustix::process::Signal;

use super::extra::{
    eventually, free_port, fresh, is_open, listener, move_listener, open_listener, push_listener,
    remove_listener,
};
use super::routing::gated;
use super::{Case, case};
use crate::client::Client;
use crate::oracle::{LOOPBACK, Launch, edit_manager};
use crate::probe::{Probe, model};
use crate::upstream::{Gate, ok};

const LIMIT: Duration = Duration::from_secs(10);
const FATE: &str = "GET /fate HTTP/1.1\r\nhost: fate\r\n\r\n";

pub fn cases() -> Vec<Case> {
    let mut cases = draining();
    cases.extend(listeners());
    cases.extend(upstreams());
    cases
}

fn alone_on_a_side(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    case(id, move |p| fresh(p, &Launch::default(), &run))
}

fn draining() -> Vec<Case> {
    let mut cases = vec![
        alone_on_a_side("H12", |p| {
            let _upstream = p.serve(ok());
            let mut before = p.connect();
            before.send(FATE);
            p.note("before", before.reply(false).unwrap_or_default().line);
            p.side.admin("POST", "/healthcheck/fail");
            p.infer("");
            before.send(FATE);
            let reply = before.reply(false);
            p.note_reply(reply.as_ref());
            note_ports(p);
            p.side.admin("POST", "/healthcheck/ok");
            p.infer("");
        }),
        alone_on_a_side("H14", |p| {
            let gate = Gate::default();
            let upstream = p.serve(gated(&gate));
            let mut client = super::routing::infer(p);
            p.expect(upstream.wait(|r| r.len() == 1), "reach the upstream");
            let pid = rustix::process::Pid::from_raw(p.side.pid().cast_signed());
            let sent = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
            p.expect(sent.is_some_and(|sent| sent.is_ok()), "take the signal");
            std::thread::sleep(Duration::from_millis(300));
            gate.open();
            p.note("in flight", client.reply_within(false, LIMIT).map_or("cut", |_| "answered"));
            let ended = eventually(LIMIT, || !is_open(p.side.ports.admin));
            p.expect(ended, "end");
        }),
    ];
    for (id, path) in [
        ("H13", "/drain_listeners"),
        ("H13/inbound", "/drain_listeners?inboundonly"),
        ("H13/graceful", "/drain_listeners?graceful"),
        ("H13/skip-exit", "/drain_listeners?graceful&skip_exit"),
    ] {
        cases.push(alone_on_a_side(id, move |p| {
            let _upstream = p.serve(ok());
            let mut before = p.connect();
            before.send(FATE);
            p.note("before", before.reply(false).unwrap_or_default().line);
            let (head, body) = p.side.admin("POST", path);
            p.note("said", format!("{} {body:?}", head.lines().next().unwrap_or_default()));
            std::thread::sleep(Duration::from_millis(500));
            note_ports(p);
            let ready = p.side.admin("GET", "/ready");
            p.note("ready", ready.1);
            before.send(FATE);
            let reply = before.reply(false);
            p.note_reply(reply.as_ref());
        }));
    }
    cases
}

fn note_ports(p: &mut Probe<'_>) {
    let ports = p.side.ports;
    for (name, port) in [("http", ports.http), ("mirrors", ports.mirrors), ("admin", ports.admin)] {
        p.note(name, if is_open(port) { "open" } else { "closed" });
    }
}

/// A listener with a request in flight, a connection that waits, and what
/// becomes of both when `change` happens.
fn changed(
    id: &str,
    change: impl Fn(&mut Probe<'_>, &Listener, u16) + Send + Sync + 'static,
) -> Case {
    case(id, move |p| {
        let gate = Gate::default();
        let upstream = p.serve(gated(&gate));
        let (listener, port) = listener(p);
        open_listener(p, &listener, port);
        let mut idle = Client::connect(port);
        idle.send(FATE);
        p.note("idle before", idle.reply(false).unwrap_or_default().line);
        let mut busy = Client::connect(port);
        busy.send(
            p.fill("POST /v2/models/{m}/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"),
        );
        p.expect(upstream.wait(|r| r.len() == 1), "reach the upstream");
        change(p, &listener, port);
        gate.open();
        let reply = busy.reply(false);
        p.note_reply(reply.as_ref());
        p.expect(reply.is_some_and(|r| r.status() == 200), "finish the request");
        idle.send(FATE);
        let reply = idle.reply_within(false, Duration::from_secs(3));
        p.note("idle after", reply.map_or("closed".to_owned(), |r| r.line));
        p.note("port", if is_open(port) { "open" } else { "closed" });
        remove_listener(p);
    })
}

fn listeners() -> Vec<Case> {
    vec![
        changed("H25", |p, listener, port| {
            let mut other = listener.clone();
            edit_manager(&mut other, |manager| {
                manager.stream_idle_timeout = Some(protobuf::Duration { seconds: 100, nanos: 0 });
            });
            push_listener(p, &other);
            let mut new = Client::connect(port);
            new.send(FATE);
            p.note("new", new.reply(false).unwrap_or_default().line);
            let refused = p.side.refused("type.googleapis.com/envoy.config.listener");
            p.note("refused", format!("{refused:?}"));
        }),
        changed("H25/address", |p, listener, old| {
            let port = free_port();
            let mut other = listener.clone();
            move_listener(&mut other, port);
            open_listener(p, &other, port);
            let closed = eventually(LIMIT, || !is_open(old));
            p.note("old port", if closed { "closed" } else { "open" });
            let mut new = Client::connect(port);
            new.send(FATE);
            p.note("new", new.reply(false).unwrap_or_default().line);
        }),
        changed("H26", |p, _, port| {
            remove_listener(p);
            p.expect(eventually(LIMIT, || !is_open(port)), "close the port");
        }),
        changed("H26/again", |p, listener, port| {
            remove_listener(p);
            p.expect(eventually(LIMIT, || !is_open(port)), "close the port");
            open_listener(p, listener, port);
            let mut new = Client::connect(port);
            new.send(FATE);
            p.note("new", new.reply(false).unwrap_or_default().line);
        }),
    ]
}

fn upstreams() -> Vec<Case> {
    vec![
        case("C10", |p| {
            let hole = Hole::new();
            p.name_port(hole.port, "hole");
            let models = vec![model(&p.id, &[hole.port])];
            p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| {
                if let Some(route::Action::Route(action)) = &mut route.action {
                    action.retry_policy = None;
                }
            });
            let began = Instant::now();
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.status() == 503, format!("answer 503: {}", reply.line));
            let took = began.elapsed();
            p.note(
                "after 5 s",
                took > Duration::from_millis(4900) && took < Duration::from_secs(8),
            );
            p.note_log("all", 1);
            let name = format!("cluster.{}_1_http.", p.id);
            let before = std::collections::BTreeMap::new();
            p.note_stats(
                &name,
                &before,
                &["upstream_cx_connect_timeout", "upstream_cx_connect_fail"],
            );
        }),
        case("C09/no-retry", |p| {
            let models = vec![model(&p.id, &[1])];
            p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| {
                if let Some(route::Action::Route(action)) = &mut route.action {
                    action.retry_policy = None;
                }
            });
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.status() == 503, "answer 503");
            p.note_log("all", 1);
        }),
        case("C16", |p| {
            let port = leaving();
            p.name_port(port, "leaving");
            p.model(&[port]);
            for _ in 0..2 {
                let model = p.id.clone();
                let headers = [("content-type", "application/grpc"), ("seldon-model", &*model)];
                let path = "/inference.GRPCInferenceService/ModelInfer";
                let port = p.side.ports.http;
                let reply = crate::http2::call(port, "POST", path, &headers, Some(b"\0\0\0\0\0"));
                p.expect(reply.status == 200, "let the stream finish");
                for line in reply.lines() {
                    p.note("reply", line);
                }
            }
        }),
    ]
}

/// A port at which a connection is neither accepted nor refused: its queue is
/// full.
struct Hole {
    port: u16,
    _listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl Hole {
    fn new() -> Self {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address = std::net::SocketAddr::from((LOOPBACK, 0));
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queued.push(stream);
            assert!(queued.len() < 10, "the queue never fills");
        }
        Self { port: address.port(), _listener: listener, _queued: queued }
    }
}

/// An HTTP/2 server that says with each first stream that it leaves, and then
/// answers it.
fn leaving() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || leave(stream));
        }
    });
    port
}

fn leave(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(LIMIT));
    let mut preface = [0; 24];
    let _ = stream.read_exact(&mut preface);
    let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        match (head[3], head[4] & 1) {
            (4, 0) => drop(stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])),
            (0, 1) => {
                // GOAWAY with last stream 1; a moment later the answer.
                let _ = stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
                std::thread::sleep(Duration::from_millis(200));
                let _ = stream.write_all(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]);
                let _ = stream.write_all(&[0, 0, 2, 0, 1, 0, 0, 0, 1, b'o', b'k']);
            }
            _ => {}
        }
    }
}
