//! S10: what is counted of connections that nobody accepts.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use envoy_types::pb::google::protobuf;
use radiant::seldon::{Mesh, model_clusters};
use socket2::{Domain, Socket, Type};

use super::stats::count;
use super::{Case, alone};
use crate::oracle::LOOPBACK;
use crate::probe::{Probe, model, set_cluster, version};

/// How long the proxies wait for a connection here.
const CONNECT_TIMEOUT: protobuf::Duration = protobuf::Duration { seconds: 0, nanos: 150_000_000 };

pub fn cases() -> Vec<Case> {
    vec![
        alone("S10/timeout", |p| timed_out(p, "http")),
        alone("S10/http2-timeout", |p| timed_out(p, "grpc")),
    ]
}

/// A server that listens and takes no connection: its queue is full.
struct Full {
    port: u16,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl Full {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::new(LOOPBACK, 0).into()).expect("a free port");
        listener.listen(0).expect("a bound socket");
        let address = listener.local_addr().ok().and_then(|a| a.as_socket());
        let address = address.expect("an address");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        Self { port: address.port(), _listener: listener, _waiting: waiting }
    }
}

fn timed_out(p: &mut Probe<'_>, kind: &str) {
    let full = Full::new();
    p.name_port(full.port, "full");
    let mesh = Mesh { models: vec![model(&p.id, &[full.port])], ..Mesh::default() };
    let cluster = format!("{}_1_{kind}", p.id);
    p.mesh_with(&mesh, |route| set_cluster(route, &cluster));
    let clusters = model_clusters(&version(&p.id, 1, &[full.port])).map(|mut cluster| {
        cluster.connect_timeout = Some(CONNECT_TIMEOUT);
        cluster
    });
    p.side.push_clusters(&clusters);
    let prefix = format!("cluster.{cluster}.");
    let before = p.stats(&prefix);
    count(p, |p| {
        let reply = p.infer("x-request-id: {id}\r\n");
        p.expect(reply.status() == 503, format!("answer 503, but {}", reply.line));
    });
    p.note_changes(&prefix, &before);
    let line = p.note_log("all", 1).concat();
    p.expect(line.contains("URX,UF"), "say both");
    p.note_log("errors", 1);
}
