//! The scheduler goes, comes back, comes back poorer, or is not there at the
//! start: what clients see.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use radiant::config::Settings;
use radiant::demo::scheduler::{ModelSpec, Operation, Scheduler, SchedulerOptions};
use radiant::plane::ServerState;
use radiant::run::{Hooks, Proxy};
use radiant::seldon::{Backend, ListenerOptions};

use crate::support::{Client, DEADLINE, Load, Ports, Upstream, ads, eventually, quiet_settings};

fn get(model: &str) -> String {
    format!("GET /v2/models/{model}/infer HTTP/1.1\r\nhost: h\r\n\r\n")
}

/// Models, ports, and whoever runs on them.
struct Mesh {
    upstream: Upstream,
    ports: Ports,
}

impl Mesh {
    fn new() -> Self {
        Self { upstream: Upstream::ok(), ports: Ports::reserve() }
    }

    /// A scheduler that has recovered these models.
    fn scheduler(&self, models: &[&str]) -> Scheduler {
        let addr = self.upstream.addr;
        let load = |name: &&str| {
            Operation::LoadModel(ModelSpec {
                name: (*name).to_owned(),
                backends: vec![Backend::new("127.0.0.1", addr.port(), addr.port())],
                log_payloads: false,
            })
        };
        let options = SchedulerOptions {
            addr: self.ports.addr(2),
            batch: Duration::from_millis(20),
            listeners: ListenerOptions {
                http_host: "127.0.0.1".to_owned(),
                http_port: self.ports.first,
                mirror_host: "127.0.0.1".to_owned(),
                mirror_port: self.ports.first + 1,
                access_log: None,
                tap_path_prefix: None,
            },
            ..SchedulerOptions::default()
        };
        Scheduler::start_with(&options, models.iter().map(load).collect()).unwrap()
    }

    fn proxy(&self) -> Proxy {
        self.proxy_with(None)
    }

    fn proxy_with(&self, saved_snapshot: Option<PathBuf>) -> Proxy {
        let source = ads(self.ports.addr(2));
        let settings = Settings { source, saved_snapshot, ..quiet_settings() };
        Proxy::start(settings, Hooks::default()).unwrap()
    }

    fn wait_serving(&self) {
        eventually("the proxy serves", || TcpStream::connect(self.ports.addr(0)).is_ok());
    }

    fn status(&self, model: &str) -> u16 {
        Client::connect(self.ports.addr(0)).send(get(model)).answer().status
    }
}

#[test]
fn traffic_goes_on_while_the_scheduler_is_away_and_when_it_is_back() {
    let mesh = Mesh::new();
    let scheduler = mesh.scheduler(&["iris", "cars"]);
    let _proxy = mesh.proxy();
    mesh.wait_serving();
    let clients = Load::start(2, mesh.ports.addr(0), &["iris", "cars"].map(get));
    clients.more(20);
    drop(scheduler);
    clients.more(200);
    assert_eq!(mesh.status("none"), 404);
    let scheduler = mesh.scheduler(&["iris", "cars"]);
    assert!(scheduler.handle().wait_streams(1, DEADLINE), "the proxy is back");
    assert!(scheduler.handle().wait_settled(DEADLINE));
    clients.more(20);
    clients.finish_without_failure();
    assert_eq!(scheduler.handle().nacks(), Vec::<String>::new());
}

#[test]
fn a_scheduler_that_comes_back_poorer_takes_only_what_it_lost() {
    let mesh = Mesh::new();
    let scheduler = mesh.scheduler(&["iris", "cars", "lost"]);
    let _proxy = mesh.proxy();
    mesh.wait_serving();
    let clients = Load::start(2, mesh.ports.addr(0), &["iris", "cars"].map(get));
    assert_eq!(mesh.status("lost"), 200);
    drop(scheduler);
    clients.more(20);
    assert_eq!(mesh.status("lost"), 200);
    let scheduler = mesh.scheduler(&["iris", "cars"]);
    eventually("the lost model is unknown", || mesh.status("lost") == 404);
    assert!(scheduler.handle().wait_settled(DEADLINE));
    clients.more(20);
    clients.finish_without_failure();
}

#[test]
fn without_a_scheduler_nothing_is_served_until_there_is_one() {
    let mesh = Mesh::new();
    let proxy = mesh.proxy();
    assert_ne!(proxy.plane().state(), ServerState::Live);
    assert!(TcpStream::connect(mesh.ports.addr(0)).is_err(), "the port is closed");
    let _scheduler = mesh.scheduler(&["iris"]);
    mesh.wait_serving();
    assert_eq!(mesh.status("iris"), 200);
    // It is told once the listeners are open.
    eventually("the proxy is live", || proxy.plane().state() == ServerState::Live);
}

#[test]
fn a_saved_snapshot_serves_until_the_scheduler_answers() {
    let mesh = Mesh::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    let scheduler = mesh.scheduler(&["iris", "cars", "lost"]);
    let proxy = mesh.proxy_with(Some(path.clone()));
    mesh.wait_serving();
    assert_eq!(mesh.status("lost"), 200);
    eventually("it is saved", || path.exists());
    drop((scheduler, proxy));
    assert!(TcpStream::connect(mesh.ports.addr(0)).is_err());

    let proxy = mesh.proxy_with(Some(path));
    mesh.wait_serving();
    eventually("the proxy is live", || proxy.plane().state() == ServerState::Live);
    assert_eq!(proxy.plane().stats.control.config_stale.value(), 1);
    let clients = Load::start(2, mesh.ports.addr(0), &["iris", "cars"].map(get));
    assert_eq!(mesh.status("lost"), 200);
    assert_eq!(mesh.status("none"), 404);
    clients.more(20);
    let scheduler = mesh.scheduler(&["iris", "cars"]);
    eventually("the lost model is unknown", || mesh.status("lost") == 404);
    assert!(scheduler.handle().wait_settled(DEADLINE));
    assert_eq!(proxy.plane().stats.control.config_stale.value(), 0);
    clients.more(20);
    clients.finish_without_failure();
}

#[test]
fn a_saved_snapshot_that_is_broken_is_as_good_as_none() {
    let mesh = Mesh::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    std::fs::write(&path, "no snapshot").unwrap();
    let proxy = mesh.proxy_with(Some(path));
    assert_ne!(proxy.plane().state(), ServerState::Live);
    let _scheduler = mesh.scheduler(&["iris"]);
    mesh.wait_serving();
    assert_eq!(mesh.status("iris"), 200);
}
