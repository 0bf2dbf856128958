//! A plane like the one that Envoy was asked about, and a client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::admin::{AdminOps, Level, LogControl, serve, utility};
use crate::logic::index::RouteIndex;
use smallvec::SmallVec;

use crate::model::{
    Action, Cluster, EndpointAddress, EndpointSet, Forward, HeaderMutations, Host, Limits,
    Listener, ListenerConfig, ListenerKind, NamedSlot, PathMatch, Route, RouteMatch, RouteTable,
    Snapshot, UpstreamProtocol, VirtualHost, WeightedTarget,
};
use crate::plane::{Node, Plane, ServerState};
use crate::seldon_stats::SeldonMetrics;
use crate::stats::Shard;

pub(super) const WORKER: Shard = Shard { index: 1, of: 3 };

/// Both listeners over one plane of two workers.
pub(super) struct World {
    pub(super) plane: Arc<Plane>,
    pub(super) ops: Arc<AdminOps>,
    pub(super) admin: SocketAddr,
    pub(super) utility: SocketAddr,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with(Arc::new(|name, _| Ok(json!({"name": name})))).await
    }

    pub(super) async fn with(to_json: crate::admin::ToJson) -> Self {
        let plane = Plane::new(2, Node::default());
        cluster(&plane, "iris_1_http", 28080, Limits { max_retries: 5, ..Limits::default() });
        cluster(&plane, "unused_1_http", 28081, Limits::default());
        publish(&plane);
        plane.set_state(ServerState::Live);
        let control = &plane.stats.control;
        control.active_clusters.set(2);
        control.connected_state.set(1);
        control.cds.update_success.inc();
        let seldon = Arc::new(SeldonMetrics::new());
        let logging = LogControl::detached(Level::Info);
        let drain_time = Duration::from_secs(600);
        let ops = Arc::new(AdminOps::new(&plane, logging, seldon, to_json, drain_time));
        let (admin, utility) = (bind().await, bind().await);
        let world = Self {
            admin: admin.local_addr().unwrap(),
            utility: utility.local_addr().unwrap(),
            plane: Arc::clone(&plane),
            ops: Arc::clone(&ops),
        };
        tokio::spawn(serve(admin, Arc::clone(&plane), Arc::clone(&ops)));
        tokio::spawn(utility::serve(utility, "util_endpoint_http", plane, ops));
        world
    }

    /// Three requests through `iris_1_http`, one that no route matched.
    pub(super) fn traffic(&self) {
        let iris = self.plane.clusters.slot("iris_1_http");
        let shard = iris.stats.shard(WORKER);
        let http = self.plane.stats.listener("seldon_http", ([0, 0, 0, 0], 29000).into());
        let http = http.shard(WORKER);
        shard.upstream_cx_total.add(2);
        shard.upstream_cx_active.set(2);
        for _ in 0..3 {
            shard.upstream_rq_total.inc();
            shard.external.record(200, Some(Duration::from_millis(2)));
            http.downstream_rq_total.inc();
            http.downstream_rq_time.record_ms(2);
            http.replied(200);
        }
        http.downstream_rq_total.inc();
        http.no_route.inc();
        http.replied(404);
    }

    /// Head without carriage returns, dates blotted out; blank line; body.
    pub(super) async fn admin(&self, request: &str) -> String {
        exchange(self.admin, &format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n")).await
    }

    pub(super) async fn utility(&self, request: &str) -> String {
        exchange(self.utility, &format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n")).await
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

/// A routable cluster of one resolved host.
pub(super) fn cluster(plane: &Plane, name: &str, port: u16, limits: Limits) {
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let endpoints = EndpointSet::new(vec![EndpointAddress::Socket(address)]);
    endpoints.publish(Box::new([Arc::new(Host { address, active: 0.into() })]));
    store(plane, name, endpoints, limits);
}

fn store(plane: &Plane, name: &str, endpoints: EndpointSet, limits: Limits) {
    plane.clusters.slot(name).store(Some(Arc::new(Cluster {
        protocol: UpstreamProtocol::Http1,
        endpoints: Arc::new(endpoints),
        tls: None,
        connect_timeout: Duration::from_secs(5),
        limits,
        added_via_api: true,
    })));
}

/// Listeners as in Envoy's configuration; the route names a cluster that is
/// gone.
fn publish(plane: &Plane) {
    let config = ListenerConfig::new("seldon_http", ([0, 0, 0, 0], 29000).into(), "listener_0");
    let stats = plane.stats.listener("seldon_http", config.address);
    assert_eq!(stats.address, "0.0.0.0_29000");
    let targets = ["iris_1_http", "gone_1_http"].map(|name| WeightedTarget {
        cluster: NamedSlot::new(plane.clusters.slot(name)),
        weight: 1,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        rewrite_model: None,
        series: Default::default(),
    });
    let forward = Forward {
        targets: targets.into_iter().collect(),
        total_weight: 2,
        timeout: None,
        retry: None,
        mirrors: Box::default(),
        unusual: None,
    };
    let route = Route {
        name: "".into(),
        matcher: RouteMatch {
            path: PathMatch::Prefix(b"/".as_slice().into()),
            case_sensitive: true,
            headers: SmallVec::new(),
            grpc_only: false,
            fraction: None,
        },
        action: Action::Forward(forward),
        request_headers: None,
        response_headers: None,
    };
    let host = VirtualHost {
        domains: vec!["*".to_owned()],
        routes: RouteIndex::build([Arc::new(route)]),
        ..VirtualHost::default()
    };
    let table = RouteTable {
        name: "listener_0".to_owned(),
        virtual_hosts: vec![host],
        ..RouteTable::default()
    };
    let mut utility = ListenerConfig::new("util_endpoint_http", ([0, 0, 0, 0], 29003).into(), "");
    utility.kind = ListenerKind::Utility;
    utility.added_via_api = false;
    let listener = |config, routes| Arc::new(Listener { config: Arc::new(config), routes });
    plane.snapshot.store(Arc::new(Snapshot {
        version: 7,
        listeners: vec![listener(utility, Arc::default()), listener(config, Arc::new(table))],
    }));
    let unresolved = EndpointSet::new(vec![EndpointAddress::Name("cold".into(), 9000)]);
    store(plane, "cold_1_http", unresolved, Limits::default());
}

/// One of Envoy's recorded answers.
pub(super) fn sample(name: &str) -> String {
    let path = format!("{}/tests/data/admin/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// Head and body of a recorded answer.
pub(super) fn sample_json(name: &str) -> Value {
    let text = sample(name);
    serde_json::from_str(text.split_once("\n\n").unwrap().1).unwrap()
}

pub(super) async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange_on(&mut stream, request).await
}

pub(super) async fn exchange_on(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let reading = tokio::time::timeout(Duration::from_secs(10), read_response(stream));
    let (head, body) = reading.await.unwrap();
    format!("{}\n\n{body}", blot(&head))
}

/// Reads up to the blank line and no further.
pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap().replace('\r', "")
}

async fn read_response(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let chunked = head.contains("transfer-encoding: chunked");
            let body = &bytes[end + 4..];
            if chunked && body.ends_with(b"0\r\n\r\n") {
                return (head, dechunk(body));
            }
            let length = head
                .split_once("content-length: ")
                .map(|(_, rest)| rest.lines().next().unwrap().trim().parse::<usize>().unwrap());
            if length.is_some_and(|length| body.len() == length) {
                return (head, String::from_utf8(body.to_vec()).unwrap());
            }
        }
        let n = stream.read_buf(&mut bytes).await.unwrap();
        assert_ne!(n, 0, "closed: {}", String::from_utf8_lossy(&bytes));
    }
}

fn dechunk(mut chunks: &[u8]) -> String {
    let mut body = Vec::new();
    loop {
        let line = chunks.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = std::str::from_utf8(&chunks[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return String::from_utf8(body).unwrap();
        }
        body.extend_from_slice(&chunks[line + 2..line + 2 + size]);
        chunks = &chunks[line + 4 + size..];
    }
}

fn blot(head: &str) -> String {
    let lines = head.lines().map(|line| match line.split_once(": ") {
        Some((name @ ("date" | "x-envoy-upstream-service-time"), value)) => {
            assert!(!value.is_empty());
            format!("{name}: -")
        }
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
