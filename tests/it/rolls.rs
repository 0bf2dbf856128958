//! Version rolls of a model that is an arm of experiments, in the scheduler's
//! order of pushes: clusters gone before the table that stops naming them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use radiant::demo::scheduler::{ModelSpec, Operation, Scheduler, SchedulerOptions};
use radiant::model::Action;
use radiant::plane::{Node, Plane};
use radiant::seldon::{Backend, Experiment, ExperimentKind};
use radiant::xds::stream::{self, StreamOptions};
use radiant::xds::{SharedStore, Store, StoreOptions};

const LIMIT: Duration = Duration::from_secs(20);

fn load(name: &str) -> Operation {
    Operation::LoadModel(ModelSpec {
        name: name.to_owned(),
        backends: vec![Backend::new("10.0.0.1", 9000, 9500)],
        log_payloads: false,
    })
}

fn experiment(name: &str) -> Operation {
    Operation::StartExperiment(Experiment {
        name: name.to_owned(),
        kind: ExperimentKind::Model,
        default: None,
        candidates: vec![("rolled".to_owned(), 50), ("steady".to_owned(), 50)],
        mirror: None,
    })
}

/// Clusters that the published tables would send requests to and that are not
/// routable, and how many were looked at.
fn unroutable(plane: &Plane) -> (Vec<String>, usize) {
    let snapshot = plane.snapshot.load();
    let tables = snapshot.listeners.iter().map(|l| &l.routes);
    let routes = tables.flat_map(|t| &t.virtual_hosts).flat_map(|v| v.routes.iter());
    let targets = routes.flat_map(|r| match &r.action {
        Action::Forward(forward) => &*forward.targets,
        Action::Direct(_) => &[],
    });
    let targets: Vec<_> = targets.filter(|t| t.weight > 0).map(|t| &t.cluster).collect();
    let lost = targets.iter().filter(|slot| slot.load().is_none());
    (lost.map(|slot| slot.name.to_string()).collect(), targets.len())
}

fn names(plane: &Plane, cluster: &str) -> bool {
    plane.clusters.find(cluster).is_some_and(|slot| slot.load().is_some())
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn no_request_of_a_roll_meets_a_missing_cluster() {
    let options =
        SchedulerOptions { batch: Duration::from_millis(3), ..SchedulerOptions::default() };
    let mut loaded = vec![load("rolled"), load("steady")];
    loaded.extend(["one", "two", "three"].map(experiment));
    let scheduler = Scheduler::start_with(&options, loaded).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let plane = Plane::new(1, Node::default());
    let store = SharedStore::new(Store::new(Arc::clone(&plane), StoreOptions::default()));
    let address = scheduler.addr();
    runtime.spawn(store.clone().run());
    runtime
        .spawn(stream::run(store, StreamOptions::new(&address.ip().to_string(), address.port())));
    until("serving", || unroutable(&plane).1 > 0);

    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (plane, done) = (Arc::clone(&plane), Arc::clone(&done));
        move || {
            let (mut lost, mut looks) = (Vec::new(), 0_usize);
            while !done.load(Ordering::Relaxed) {
                lost.extend(unroutable(&plane).0);
                looks += 1;
            }
            (lost, looks)
        }
    });
    for version in 2..30 {
        scheduler.handle().apply(load("rolled"));
        let (new, old) = (format!("rolled_{version}_http"), format!("rolled_{}_http", version - 1));
        until("rolled", || names(&plane, &new));
        until("rid of the old version", || !names(&plane, &old));
    }
    done.store(true, Ordering::Relaxed);
    let (lost, looks) = watcher.join().unwrap();
    assert_eq!(lost, [] as [String; 0], "of {looks} looks");
    assert!(looks > 100);
    assert_eq!(scheduler.handle().nacks(), [] as [String; 0]);
}
