//! The client's stream to a scheduler that comes, goes and comes back changed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use radiant::demo::scheduler::{
    ModelSpec, Operation, Push, Resource as PushedResource, Scheduler, SchedulerOptions, cache,
};
use radiant::headers::RequestHead;
use radiant::logic::ads::{ResourceType, Variant};
use radiant::model::{Action, Resources};
use radiant::plane::{Node, Plane, ServerState};
use radiant::seldon::Backend;
use radiant::xds::stream::{self, StreamOptions};
use radiant::xds::{SharedStore, Store, StoreOptions};

/// Longer than the longest wait between attempts.
const LIMIT: Duration = Duration::from_secs(20);

/// A client without workers: what it would serve is read from its tables.
struct Client {
    plane: Arc<Plane>,
    store: SharedStore,
    /// Stands for the control thread.
    _runtime: tokio::runtime::Runtime,
}

impl Client {
    fn start(scheduler: SocketAddr) -> Self {
        Self::start_with(scheduler, Node::default(), Variant::Delta, None)
    }

    fn start_with(
        scheduler: SocketAddr,
        node: Node,
        variant: Variant,
        saved: Option<Resources>,
    ) -> Self {
        let plane = Plane::new(1, node);
        let store = SharedStore::new(Store::new(Arc::clone(&plane), StoreOptions::default()));
        if let Some(saved) = saved {
            assert_eq!(store.restore(saved), []);
        }
        let mut options = StreamOptions::new(&scheduler.ip().to_string(), scheduler.port());
        options.variant = variant;
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(store.clone().run());
        runtime.spawn(stream::run(store.clone(), options));
        Self { plane, store, _runtime: runtime }
    }

    /// Name of the cluster that a call of this model goes to, if it is served.
    fn route(&self, model: &str) -> Option<String> {
        let mut head = RequestHead::default();
        head.set_path(format!("/v2/models/{model}/infer").as_bytes());
        head.set_authority(b"mesh");
        head.headers.push(b"seldon-model", model.as_bytes());
        let snapshot = self.plane.snapshot.load();
        let (_, route) = snapshot.listener("seldon_http")?.routes.find(&head, 0)?;
        let Action::Forward(forward) = &route.action else { return None };
        let slot = &forward.targets.first()?.cluster;
        slot.is_routable().then(|| slot.name.to_string())
    }

    fn is_connected(&self) -> bool {
        self.plane.stats.control.connected_state.value() == 1
    }

    fn is_stale(&self) -> bool {
        self.plane.stats.control.config_stale.value() == 1
    }

    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < deadline, "never {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn model(name: &str) -> Operation {
    Operation::LoadModel(ModelSpec {
        name: name.to_owned(),
        backends: vec![Backend::new("10.0.0.1", 9000, 9500)],
        log_payloads: false,
    })
}

fn options(addr: SocketAddr) -> SchedulerOptions {
    SchedulerOptions { addr, batch: Duration::from_millis(5), ..SchedulerOptions::default() }
}

fn scheduler(addr: SocketAddr, models: &[&str]) -> Scheduler {
    let operations = models.iter().map(|m| model(m)).collect();
    Scheduler::start_with(&options(addr), operations).unwrap()
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_killed_scheduler_leaves_everything_serving_and_may_come_back_as_it_was() {
    let first = scheduler(any_port(), &["iris", "wine"]);
    let addr = first.addr();
    let client = Client::start(addr);
    client.until("live", |c| c.plane.state() == ServerState::Live);
    assert_eq!(client.route("iris").as_deref(), Some("iris_1_http"));
    let cluster = client.plane.clusters.slot("iris_1_http").load().unwrap();
    drop(first);
    client.until("disconnected", |c| !c.is_connected());
    assert_eq!(client.route("iris").as_deref(), Some("iris_1_http"));
    let version = client.plane.snapshot.load().version;

    let second = scheduler(addr, &["iris", "wine"]);
    client.until("connected", Client::is_connected);
    assert!(second.handle().wait_streams(1, LIMIT));
    second.handle().apply(model("late"));
    client.until("told of a new model", |c| c.route("late").is_some());
    // Nothing that had not changed was touched.
    let held = client.plane.clusters.slot("iris_1_http").load().unwrap();
    assert!(Arc::ptr_eq(&cluster, &held));
    assert!(client.plane.snapshot.load().version <= version + 2);
    assert_eq!(client.plane.stats.control.cluster_modified.value(), 0);
    assert_eq!(second.handle().nacks(), [] as [String; 0]);
}

#[test]
fn a_scheduler_that_comes_back_with_fewer_models_takes_the_others_out() {
    let first = scheduler(any_port(), &["iris", "wine"]);
    let addr = first.addr();
    let client = Client::start(addr);
    client.until("serving", |c| c.route("wine").is_some());
    drop(first);
    let _second = scheduler(addr, &["iris"]);
    client.until("without wine", |c| c.route("wine").is_none());
    client.until("rid of its clusters", |c| c.plane.clusters.find("wine_1_http").is_none());
    assert_eq!(client.route("iris").as_deref(), Some("iris_1_http"));
    let versions = client.store.lock().versions(ResourceType::Cluster);
    assert!(!versions.contains_key("wine_1_grpc") && versions.contains_key("iris_1_grpc"));
}

#[test]
fn without_a_scheduler_nothing_is_served_until_it_comes() {
    // A port that was free a moment ago.
    let addr = scheduler(any_port(), &[]).addr();
    let client = Client::start(addr);
    let failed = |c: &Client| c.plane.stats.control.cds.update_failure.value() > 0;
    client.until("refused", failed);
    assert_eq!(client.plane.state(), ServerState::PreInitializing);
    assert!(client.plane.snapshot.load().listeners.is_empty());
    let _scheduler = scheduler(addr, &["iris"]);
    client.until("live", |c| c.plane.state() == ServerState::Live);
    assert!(client.route("iris").is_some());
}

#[test]
fn a_saved_snapshot_serves_stale_until_the_scheduler_answers() {
    let first = scheduler(any_port(), &["iris", "wine"]);
    let addr = first.addr();
    let client = Client::start(addr);
    client.until("serving", |c| c.route("wine").is_some());
    let saved = client.plane.resources.read().unwrap().clone();
    drop(client);
    drop(first);

    let client = Client::start_with(addr, Node::default(), Variant::Delta, Some(saved));
    client.until("live", |c| c.plane.state() == ServerState::Live);
    assert!(client.is_stale() && client.route("wine").is_some());
    let _second = scheduler(addr, &["iris"]);
    client.until("without wine", |c| c.route("wine").is_none());
    assert!(!client.is_stale() && client.route("iris").is_some());
}

#[test]
fn the_state_of_the_world_variant_follows_as_well() {
    let first = scheduler(any_port(), &["iris"]);
    let addr = first.addr();
    let client = Client::start_with(addr, Node::default(), Variant::StateOfTheWorld, None);
    client.until("serving", |c| c.route("iris").is_some());
    first.handle().apply(model("wine"));
    client.until("told of wine", |c| c.route("wine").is_some());
    first.handle().apply(Operation::UnloadModel("iris".to_owned()));
    client.until("without iris", |c| c.route("iris").is_none());
    drop(first);
    let _second = scheduler(addr, &["late"]);
    client.until("told of late", |c| c.route("late").is_some());
    client.until("without wine", |c| c.route("wine").is_none());
}

#[test]
fn another_node_id_gets_no_tables_and_opens_no_listener() {
    let scheduler = scheduler(any_port(), &["iris"]);
    let node = Node { id: "other".to_owned(), cluster: "test-cluster".to_owned() };
    let client = Client::start_with(scheduler.addr(), node, Variant::Delta, None);
    client.until("told of listeners", |c| !c.store.lock().progress().routes.is_empty());
    assert_eq!(client.plane.state(), ServerState::Initializing);
    assert!(client.plane.snapshot.load().listeners.is_empty());
}

#[test]
fn a_bad_cluster_is_named_to_the_scheduler_and_its_neighbours_serve() {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use prost::Message;
    let scheduler = scheduler(any_port(), &["iris"]);
    let client = Client::start(scheduler.addr());
    client.until("serving", |c| c.route("iris").is_some());
    let good = client.plane.resources.read().unwrap().clusters.by_name["mirror_http"].clone();
    let make = |name: &str, edit: fn(&mut Cluster)| {
        let mut cluster = Cluster::decode(good.value.message()).unwrap();
        name.clone_into(&mut cluster.name);
        edit(&mut cluster);
        PushedResource::new(name.to_owned(), cluster.encode_to_vec())
    };
    let bad = make("bad", |c| {
        c.connect_timeout =
            Some(envoy_types::pb::google::protobuf::Duration { seconds: -1, nanos: 0 });
    });
    scheduler.handle().push(Push::Upsert(cache::CLUSTER, vec![bad, make("fine", |_| {})]));
    client.until("told of fine", |c| c.plane.clusters.find("fine").is_some());
    client.until("counted", |c| c.plane.stats.control.cds.update_rejected.value() == 1);
    assert!(scheduler.handle().wait_settled(LIMIT));
    let nacks = scheduler.handle().nacks();
    let words = "Error adding/updating cluster(s) bad: Expected positive duration";
    assert!(nacks.len() == 1 && nacks[0].contains(words), "{nacks:?}");
    assert!(nacks[0].contains("[connect_timeout]"), "{nacks:?}");
    assert_eq!(client.route("iris").as_deref(), Some("iris_1_http"));
}
