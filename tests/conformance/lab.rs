//! A proxy that a case has for itself, with a discovery server that keeps a
//! diary: for what needs a fresh start, a lost scheduler or unusual responses.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::Route;
use prost::Message;
use radiant::demo::DemoPorts;
use radiant::demo::scheduler::cache::{CLUSTER, LISTENER};
use radiant::demo::scheduler::{Push, Resource};
use radiant::seldon::{ListenerOptions, MIRROR_TABLE, Mesh, ROUTE_TABLE, route_table};

use crate::client::{Client, Reply};
use crate::discovery::{Discovery, Entry, LIMIT};
use crate::oracle::{self, Kind, LOOPBACK, plain_http};
use crate::probe::{Probe, hasten};

/// Below the ports that connections get by themselves.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;
/// Held while a port is tried and while a process is started: until it runs its
/// program, a child has copies of all sockets, and a copied listener keeps its port.
pub static FORKING: Mutex<()> = Mutex::new(());

/// A proxy and its discovery server. Dropped, both end.
pub struct Lab {
    pub ports: DemoPorts,
    pub dir: PathBuf,
    pub options: ListenerOptions,
    pub discovery: Option<Discovery>,
    child: Option<Child>,
}

impl Lab {
    /// Ports, and a directory; nothing runs yet.
    pub fn new(p: &mut Probe<'_>) -> Self {
        let dir = p.side.dir.join(&p.id);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("the directory of the run is writable");
        let ports = ports();
        for (port, name) in [
            (ports.http, "own-http"),
            (ports.mirrors, "own-mirrors"),
            (ports.scheduler, "own-scheduler"),
            (ports.utility, "own-utility"),
            (ports.control, "own-control"),
            (ports.admin, "own-admin"),
        ] {
            p.name_port(port, name);
        }
        let options = oracle::listener_options(&ports, &dir);
        Self { ports, dir, options, discovery: None, child: None }
    }

    /// The same, started with this mesh.
    pub fn of(p: &mut Probe<'_>, mesh: &Mesh) -> Self {
        let mut lab = Self::new(p);
        let pushes = lab.pushes(mesh);
        lab.serve(pushes, &[]);
        lab.start(p.side.kind);
        lab
    }

    /// The discovery server begins.
    pub fn serve(&mut self, pushes: Vec<Push>, withheld: &[&'static str]) {
        let server = Discovery::start(self.ports.scheduler, pushes, withheld);
        self.discovery = Some(server.expect("the port is free"));
    }

    /// The discovery server is gone.
    pub fn unserve(&mut self) {
        self.discovery = None;
    }

    /// The proxy begins, with the suite's bootstrap.
    pub fn start(&mut self, kind: Kind) {
        self.start_with(kind, &oracle::bootstrap(&self.ports));
    }

    pub fn start_with(&mut self, kind: Kind, bootstrap: &str) {
        // What is removed has drained after a second.
        let child = oracle::spawn(kind, &self.dir, bootstrap, &[], &["--drain-time-s", "1"]);
        self.child = Some(child.expect("the proxy starts"));
    }

    pub fn server(&self) -> &Discovery {
        self.discovery.as_ref().expect("the case has started it")
    }

    /// What a scheduler would send for this mesh: listeners, clusters, tables.
    pub fn pushes(&self, mesh: &Mesh) -> Vec<Push> {
        let mut resources = mesh.resources(&self.options);
        let tables = [&mut resources.routes, &mut resources.mirrors];
        tables.into_iter().flat_map(|t| &mut t.virtual_hosts[0].routes).for_each(hasten);
        let listeners = oracle::listeners(&self.options, &self.dir);
        vec![
            Push::Upsert(LISTENER, listeners),
            clusters(&resources.clusters),
            self.tables(
                resources.routes.virtual_hosts.remove(0).routes,
                resources.mirrors.virtual_hosts.remove(0).routes,
            ),
        ]
    }

    pub fn tables(&self, routes: Vec<Route>, mirrors: Vec<Route>) -> Push {
        Push::Routes(vec![
            oracle::table(&route_table(ROUTE_TABLE, routes)),
            oracle::table(&route_table(MIRROR_TABLE, mirrors)),
        ])
    }

    /// Pushes and waits for the answers.
    pub fn push(&self, pushes: Vec<Push>) {
        self.server().push(pushes);
        assert!(self.server().wait_settled(LIMIT), "answers come");
    }

    pub fn is_open(port: u16) -> bool {
        TcpStream::connect((LOOPBACK, port)).is_ok()
    }

    /// Waits until the listener for requests is open.
    pub fn wait_open(&self) {
        assert!(eventually(LIMIT * 3, || Self::is_open(self.ports.http)), "the port opens");
    }

    pub fn admin(&self, method: &str, target: &str) -> (String, String) {
        plain_http(self.ports.admin, method, target).unwrap_or_default()
    }

    /// A request of `model`, on a connection of its own.
    pub fn get(&self, model: &str) -> Reply {
        let mut client = Client::connect(self.ports.http);
        client.send(format!("GET /v2/models/{model}/x HTTP/1.1\r\nhost: h\r\n\r\n"));
        client.reply(false).expect("an answer")
    }

    /// Waits until a request of `model` gets this status.
    pub fn wait_status(&self, model: &str, status: u16) -> bool {
        eventually(LIMIT, || self.get(model).status() == status)
    }

    /// Counters and gauges by name.
    pub fn stat(&self, name: &str) -> Option<u64> {
        let (_, body) = self.admin("GET", "/stats");
        let line = body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok())
    }

    /// Nonces of the responses of a type, in order.
    pub fn nonces(&self, kind: &str) -> Vec<String> {
        let responses = self.server().diary().into_iter().filter_map(|entry| match entry {
            Entry::Response(told) if told.kind == kind => Some(told.nonce),
            _ => None,
        });
        responses.collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn clusters(clusters: &[Cluster]) -> Push {
    let each = clusters.iter().map(|c| Resource::new(c.name.clone(), c.encode_to_vec()));
    Push::Upsert(CLUSTER, each.collect())
}

pub fn listener(listener: &Listener) -> Push {
    let resource = Resource::new(listener.name.clone(), listener.encode_to_vec());
    Push::Upsert(LISTENER, vec![resource])
}

/// Waits for a condition; false if it does not come.
pub fn eventually(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Ports that nobody has, that no other side was given (Envoy would share them) and
/// that no connection takes by chance.
pub fn ports() -> DemoPorts {
    let [http, mirrors, scheduler, utility, control, admin] = std::array::from_fn(|_| free_port());
    DemoPorts { http, mirrors, scheduler, utility, control, admin }
}

/// One of them.
pub fn free_port() -> u16 {
    // Two runs on one machine begin at different ports.
    let offset = (std::process::id() % 100) as u16 * 100;
    loop {
        let next = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + (offset + next) % PORTS;
        let _alone = FORKING.lock().unwrap();
        if TcpListener::bind((LOOPBACK, port)).is_ok() {
            return port;
        }
    }
}
