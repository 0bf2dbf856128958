//! R, X: what happens when nothing happens: idle streams, silent schedulers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::route::v3::{Route, route};
use envoy_types::pb::google::protobuf;
use radiant::seldon::{self, Mesh};

use super::discovery::mesh_of;
use super::{Case, case, own};
use crate::client::Client;
use crate::discovery::LIMIT;
use crate::lab::{Lab, eventually, listener};
use crate::oracle::{self, LOOPBACK};
use crate::probe::{Probe, model};
use crate::upstream::{Act, Script, acts, ok};

const PING_EVERY: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    let mut cases = streams();
    cases.extend(scheduler());
    cases
}

/// A request of the case's model, whose streams may be idle for 300 ms.
fn idle(id: &'static str, code: u16, script: Script, raw: &'static str) -> Case {
    case(id, move |p| {
        let upstream = p.upstream(script.clone());
        let models = vec![model(&p.id, &[upstream.port])];
        p.mesh_with(&Mesh { models, ..Mesh::default() }, impatient);
        let reply = p.ask(raw);
        p.expect(reply.status() == code, format!("answer {code}, but {}", reply.line));
        let over = upstream.wait(|all| all.iter().all(|request| request.ended.is_some()));
        p.expect(over, "end the request to the upstream");
        p.note_received(&upstream);
        p.note_log("all", 1);
    })
}

fn impatient(route: &mut Route) {
    if let Some(route::Action::Route(action)) = &mut route.action {
        action.idle_timeout = Some(protobuf::Duration { seconds: 0, nanos: 300_000_000 });
    }
}

fn streams() -> Vec<Case> {
    let silent = || acts(vec![Act::Body, Act::Hang]);
    vec![
        idle(
            "R41",
            504,
            silent(),
            "POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-type: a\r\ncontent-length: 2\r\n\r\n{}",
        ),
        idle(
            "R41/get",
            504,
            silent(),
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\n\r\n",
        ),
        idle(
            "R41/incomplete",
            408,
            silent(),
            "POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-length: 9\r\n\r\n{}",
        ),
        idle(
            "R41/incomplete-chunked",
            408,
            silent(),
            "POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        ),
        idle(
            "R41/grpc",
            200,
            silent(),
            "POST /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\ncontent-type: application/grpc\r\ncontent-length: 2\r\n\r\n{}",
        ),
        idle(
            "R42/idle",
            200,
            acts(vec![
                Act::Body,
                Act::Send(
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n".to_vec(),
                ),
                Act::Hang,
            ]),
            "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\nx-request-id: {id}\r\n\r\n",
        ),
        own("R41/head", |p| {
            let upstream = p.upstream(ok());
            let lab = Lab::of(p, &mesh_of(&[upstream.port]));
            lab.wait_open();
            let mut changed = seldon::listeners(&lab.options).remove(0);
            oracle::edit_manager(&mut changed, |manager| {
                let time = protobuf::Duration { seconds: 0, nanos: 300_000_000 };
                manager.stream_idle_timeout = Some(time);
            });
            assert!(lab.server().wait_settled(LIMIT), "answers come");
            lab.push(vec![listener(&changed)]);
            for raw in ["GET / HTTP/1.1\r\nhost: h\r\n", "GET /v2/models/m/x HTT", "G"] {
                let mut client = Client::connect(lab.ports.http);
                client.send(raw);
                let reply = client.reply_within(false, Duration::from_secs(3));
                p.note_reply(reply.as_ref());
            }
        }),
    ]
}

fn scheduler() -> Vec<Case> {
    vec![own("X36", keepalive), own("X37", back_off)]
}

/// A relay between proxy and scheduler that notes the proxy's HTTP/2 PINGs and
/// keeps the first one to itself.
fn keepalive(p: &mut Probe<'_>) {
    let upstream = p.upstream(ok());
    let mut lab = Lab::new(p);
    let pushes = lab.pushes(&mesh_of(&[upstream.port]));
    let relay = Relay::start(lab.ports.scheduler, lab.ports.control);
    lab.ports.scheduler = lab.ports.control;
    lab.serve(pushes, &[]);
    lab.ports.scheduler = relay.port;
    lab.start(p.side.kind);
    lab.wait_open();
    let pinged = || relay.seen.lock().unwrap().pings.first().copied();
    p.expect(eventually(PING_EVERY + LIMIT, || pinged().is_some()), "ping");
    let began = relay.seen.lock().unwrap().connections[0];
    let ping = pinged().expect("seen");
    let after = ping - began;
    p.expect(after > PING_EVERY, format!("not ping before 60 s: {after:?}"));
    p.note("within 60 s and 15 %", after < PING_EVERY.mul_f64(1.15) + Duration::from_secs(1));
    let again = || relay.seen.lock().unwrap().connections.len() > 1;
    p.expect(eventually(LIMIT * 2, again), "connect again");
    let reconnected = relay.seen.lock().unwrap().connections[1] - ping;
    p.expect(reconnected > Duration::from_secs(2), "give the answer two seconds");
    p.expect(lab.get("m").status() == 200, "serve on");
}

struct Relay {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: Vec<Instant>,
    pings: Vec<Instant>,
}

impl Relay {
    fn start(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind((LOOPBACK, port)).expect("the port is free");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(client), Ok(server)) = (stream, TcpStream::connect((LOOPBACK, to))) else {
                    continue;
                };
                shared.lock().unwrap().connections.push(Instant::now());
                let (mut from, mut back) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut back);
                    let _ = back.shutdown(Shutdown::Both);
                });
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = forward(client, server, &seen);
                });
            }
        });
        Self { port, seen }
    }
}

/// Passes frames on until the first PING, and then nothing any more.
fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    const PREFACE: usize = 24;
    const PING: u8 = 6;
    let mut preface = [0; PREFACE];
    client.read_exact(&mut preface)?;
    server.write_all(&preface)?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload)?;
        let is_ack = head[4] & 1 == 1;
        if head[3] == PING && !is_ack {
            seen.lock().unwrap().pings.push(Instant::now());
            // Until the proxy gives up.
            let _ = std::io::copy(&mut client, &mut std::io::sink());
            let _ = server.shutdown(Shutdown::Both);
            return Ok(());
        }
        server.write_all(&head)?;
        server.write_all(&payload)?;
    }
}

/// A scheduler that hangs up on everybody: when the proxy comes back.
fn back_off(p: &mut Probe<'_>) {
    let mut lab = Lab::new(p);
    let listener = TcpListener::bind((LOOPBACK, lab.ports.scheduler)).expect("the port is free");
    let came = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&came);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            shared.lock().unwrap().push(Instant::now());
            drop(stream);
        }
    });
    lab.start(p.side.kind);
    std::thread::sleep(LIMIT);
    let came = came.lock().unwrap().clone();
    let pauses: Vec<Duration> = came.windows(2).map(|w| w[1] - w[0]).collect();
    p.expect(pauses.len() >= 3, format!("come back: {pauses:?}"));
    // A jittered wait doubles at most; a connection takes a second at most.
    let slack = Duration::from_secs(1);
    let mut cap = Duration::from_millis(500);
    for pause in &pauses {
        p.expect(*pause < cap + slack, format!("wait no longer than {cap:?}: {pauses:?}"));
        cap = (cap * 2).min(Duration::from_secs(30));
    }
    let mut different = pauses;
    different.dedup_by_key(|pause| pause.as_millis() / 5);
    p.expect(different.len() > 1, "not wait the same time each time");
}
