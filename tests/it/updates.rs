//! Updates while clients are at work: versions, weights, clusters, endpoints
//! and listeners change, and no request is lost over it.

use std::net::{SocketAddr, TcpStream};

use radiant::demo::scheduler::cache::{CLUSTER, LISTENER};
use radiant::demo::scheduler::{ModelSpec, Operation, Push, Scheduler, SchedulerOptions};
use radiant::run::{Hooks, Proxy};
use radiant::seldon::{Backend, Experiment, ListenerOptions};

use crate::support::{
    DEADLINE, Load, Ports, Upstream, World, ads, eventually, quiet_settings, version,
};

const INFER: &str = "/v2/models/iris/infer";

fn get(model: &str) -> String {
    format!("GET /v2/models/x/infer HTTP/1.1\r\nhost: h\r\nseldon-model: {model}\r\n\r\n")
}

fn replica(addr: SocketAddr) -> Backend {
    Backend::new(addr.ip().to_string(), addr.port(), addr.port())
}

fn load(name: &str, replicas: &[SocketAddr]) -> Operation {
    Operation::LoadModel(ModelSpec {
        name: name.to_owned(),
        backends: replicas.iter().copied().map(replica).collect(),
        log_payloads: false,
    })
}

/// The scheduler itself, with its own order of pushes, in front of a proxy.
struct Mesh {
    proxy: Proxy,
    scheduler: Scheduler,
    ports: Ports,
}

impl Mesh {
    fn start(operations: Vec<Operation>) -> Self {
        let ports = Ports::reserve();
        let options = SchedulerOptions {
            addr: ports.addr(2),
            batch: std::time::Duration::from_millis(20),
            listeners: ListenerOptions {
                http_host: "127.0.0.1".to_owned(),
                http_port: ports.first,
                mirror_host: "127.0.0.1".to_owned(),
                mirror_port: ports.first + 1,
                access_log: None,
                tap_path_prefix: None,
            },
            ..SchedulerOptions::default()
        };
        let scheduler = Scheduler::start_with(&options, operations).unwrap();
        let mut settings = quiet_settings();
        settings.source = ads(scheduler.addr());
        let proxy = Proxy::start(settings, Hooks::default()).unwrap();
        eventually("the proxy serves", || TcpStream::connect(ports.addr(0)).is_ok());
        assert!(scheduler.handle().wait_settled(DEADLINE));
        Self { proxy, scheduler, ports }
    }

    fn apply(&self, operation: Operation) {
        self.scheduler.handle().apply(operation);
        assert!(self.scheduler.handle().wait_settled(DEADLINE), "the proxy answers");
    }
}

#[test]
fn a_version_roll_of_an_arm_of_three_experiments_fails_no_request() {
    let (first, second) = (Upstream::ok(), Upstream::ok());
    let experiment = |n: usize| {
        Operation::StartExperiment(Experiment {
            name: format!("e{n}"),
            default: (n == 0).then(|| "a".to_owned()),
            candidates: vec![("a".to_owned(), 60), ("b".to_owned(), 40)],
            ..Experiment::default()
        })
    };
    let mut operations = vec![load("a", &[first.addr]), load("b", &[second.addr])];
    operations.extend((0..50).map(|n| load(&format!("other-{n}"), &[second.addr])));
    operations.extend((0..3).map(experiment));
    let mesh = Mesh::start(operations);
    let names = ["a", "b", "e0.experiment", "e1.experiment", "e2.experiment", "other-7"];
    let clients = Load::start(4, mesh.ports.addr(0), &names.map(get));
    clients.more(100);
    for roll in 0..20 {
        // One replica, two, one, two.
        let both = [first.addr, second.addr];
        mesh.apply(load("a", &both[..1 + roll % 2]));
        clients.more(20);
    }
    clients.take_arms();
    clients.more(100);
    assert!(clients.take_arms().contains_key(":a_21:"), "the last version serves");
    clients.finish_without_failure();
    assert_eq!(mesh.scheduler.handle().nacks(), Vec::<String>::new());
    eventually("the old versions are gone", || {
        (1..21).all(|n| mesh.proxy.plane().clusters.find(&format!("a_{n}_http")).is_none())
    });
}

#[test]
fn models_come_and_go_beside_others() {
    let upstream = Upstream::ok();
    let mesh = Mesh::start(vec![load("stays", &[upstream.addr])]);
    let clients = Load::start(2, mesh.ports.addr(0), &[get("stays")]);
    for _ in 0..5 {
        mesh.apply(load("guest", &[upstream.addr]));
        let mut client = crate::support::Client::connect(mesh.ports.addr(0));
        assert_eq!(client.send(get("guest")).answer().status, 200);
        mesh.apply(Operation::UnloadModel("guest".to_owned()));
        assert_eq!(client.send(get("guest")).answer().status, 404);
    }
    clients.more(10);
    clients.finish_without_failure();
}

#[test]
fn a_removed_cluster_serves_while_the_table_names_it() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    world.push(vec![Push::Remove(CLUSTER, vec!["iris_1_http".to_owned()])]);
    assert_eq!(world.client().get(INFER).status, 200);
}

#[test]
fn without_grace_a_removed_cluster_is_gone_at_once() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr)
        .settings(|settings| settings.removed_cluster_grace = std::time::Duration::ZERO)
        .start();
    let mut client = world.client();
    assert_eq!(client.get(INFER).status, 200);
    world.push(vec![Push::Remove(CLUSTER, vec!["iris_1_http".to_owned()])]);
    let answer = client.get(INFER);
    assert_eq!((answer.status, answer.all("x-seldon-route")), (503, vec![":iris_1:"]));
}

#[test]
fn endpoints_in_another_order_keep_their_connections() {
    let (first, second) = (Upstream::ok(), Upstream::ok());
    let mut world =
        World::of("other", first.addr).model("iris", &[first.addr, second.addr]).start();
    let mut client = world.client();
    let ask = |client: &mut crate::support::Client| {
        for _ in 0..40 {
            assert_eq!(client.get(INFER).status, 200);
        }
    };
    ask(&mut client);
    let accepted = [first.accepted(), second.accepted()];
    assert_eq!(accepted, [1, 1]);
    let before = world.proxy.plane().clusters.find("iris_1_http").unwrap().load().unwrap();
    world.update(|mesh| mesh.models[1].latest.backends.reverse());
    ask(&mut client);
    assert_eq!([first.accepted(), second.accepted()], accepted);
    let after = world.proxy.plane().clusters.find("iris_1_http").unwrap().load().unwrap();
    assert!(std::sync::Arc::ptr_eq(&before, &after), "it is the same cluster");
}

#[test]
fn a_model_that_moves_is_asked_at_its_new_place() {
    let (old, new) = (Upstream::ok(), Upstream::ok());
    let mut world = World::of("iris", old.addr).start();
    let clients = Load::start(2, world.addr(), &[get("iris")]);
    clients.more(20);
    world.update(|mesh| mesh.models[0] = version("iris", 1, &[new.addr]).into());
    clients.more(20);
    clients.finish_without_failure();
    assert!(new.accepted() > 0);
    eventually("idle connections to the old place are closed", || old.open() == 0);
}

#[test]
fn a_request_in_progress_survives_the_removal_of_its_model() {
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::new(move |peer| {
        peer.request();
        tell.send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let other = Upstream::ok();
    let mesh = Mesh::start(vec![load("iris", &[upstream.addr]), load("other", &[other.addr])]);
    let mut client = crate::support::Client::connect(mesh.ports.addr(0));
    client.send(get("iris"));
    told.recv().unwrap();
    mesh.apply(Operation::UnloadModel("iris".to_owned()));
    let mut second = crate::support::Client::connect(mesh.ports.addr(0));
    assert_eq!(second.send(get("iris")).answer().status, 404);
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.status, answer.all("x-seldon-route")), (200, vec![":iris_1:"]));
}

#[test]
fn a_listener_that_is_removed_closes_its_port() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    let addr = world.addr();
    assert_eq!(world.client().get(INFER).status, 200);
    world.push(vec![Push::Remove(LISTENER, vec!["seldon_http".to_owned()])]);
    eventually("the port closes", || TcpStream::connect(addr).is_err());
    assert!(TcpStream::connect(world.ports.addr(1)).is_ok(), "the other listener stays");
}

#[test]
fn a_listener_that_changes_in_place_keeps_its_port_and_its_connections() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let upstream = Upstream::new(|peer| {
        while peer.request().is_some_and(|request| !request.contains("x-hang")) {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
        peer.closed();
    });
    let short = Arc::new(AtomicBool::new(false));
    let mut world = World::of("iris", upstream.addr)
        .managers({
            let short = Arc::clone(&short);
            move |manager| {
                let nanos = 100_000_000;
                let limit = envoy_types::pb::google::protobuf::Duration { seconds: 0, nanos };
                manager.stream_idle_timeout = short.load(Ordering::SeqCst).then_some(limit);
            }
        })
        .start();
    let clients = Load::start(2, world.addr(), &[get("iris")]);
    let mut client = world.client();
    assert_eq!(client.get(INFER).status, 200);
    clients.more(10);
    short.store(true, Ordering::SeqCst);
    world.update(|_| {});
    // The next request on the same connection sees the new limit.
    let answer = client.post(INFER, "x-hang: 1\r\n", b"");
    assert_eq!((answer.status, answer.text()), (504, "stream timeout"));
    clients.more(10);
    clients.finish_without_failure();
}
