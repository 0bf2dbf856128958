//! What an update costs at 10,000 models, in time and memory:
//!
//!     cargo run --release --example update_cost

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use radiant::demo::scheduler::state::State;
use radiant::demo::scheduler::{ModelSpec, Operation, Push};
use radiant::logic::ads::ResourceType;
use radiant::plane::{Node, Plane, ServerState};
use radiant::seldon::{Backend, ListenerOptions};
use radiant::xds::{Resource, Store, StoreOptions, Update};

const MODELS: usize = 10_000;

fn updates(pushes: Vec<Push>) -> Vec<Update> {
    pushes
        .into_iter()
        .map(|push| {
            let (url, resources, removed) = match push {
                Push::Upsert(url, resources) => (url, resources, Vec::new()),
                Push::Remove(url, names) => (url, Vec::new(), names),
                Push::Routes(resources) => (ResourceType::Route.url(), resources, Vec::new()),
            };
            let kind = ResourceType::of(url).expect("a type that the store knows");
            let resources = resources.iter().map(|r| Resource {
                name: r.name.clone(),
                version: r.version.clone(),
                value: Bytes::from(r.to_any(url).value),
            });
            Update { removed, ..Update::new(kind, resources.collect()) }
        })
        .collect()
}

fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() / 256
}

fn load(name: String) -> Operation {
    let backends = (0..3).map(|i| Backend::new(format!("10.0.0.{i}"), 9000, 9500)).collect();
    Operation::LoadModel(ModelSpec { name, backends, log_payloads: false })
}

fn apply(store: &mut Store, what: &str, pushes: Vec<Push>) {
    let mut total = Duration::ZERO;
    for update in updates(pushes) {
        let (kind, count) = (update.kind, update.resources.len());
        let started = Instant::now();
        let outcome = store.apply(update, Instant::now());
        let took = started.elapsed();
        assert_eq!(outcome.rejected, []);
        println!("{what}: {count} of {kind:?} in {took:?}");
        total += took;
    }
    println!("{what}: {total:?} in all, {} MiB resident", resident_mib());
}

fn main() {
    let (mut state, mut pushes) = State::new(&ListenerOptions::default());
    for i in 0..MODELS {
        pushes.extend(state.apply(load(format!("some-model-{i:05}"))));
    }
    pushes.extend(state.flush());
    let plane = Plane::new(2, Node::default());
    let mut store = Store::new(Arc::clone(&plane), StoreOptions::default());
    println!("before: {} MiB resident", resident_mib());
    apply(&mut store, "first load", pushes);
    assert_eq!(plane.state(), ServerState::Live);
    state.flush();

    state.apply(load("one-more".to_owned()));
    let pushes = state.flush();
    apply(&mut store, "one more model", pushes);
    state.flush();

    state.apply(load("some-model-00042".to_owned()));
    let pushes = state.flush();
    apply(&mut store, "a version roll", pushes);
    let pushes = state.flush();
    apply(&mut store, "the old version leaves", pushes);

    let mut took = Vec::new();
    for _ in 0..40 {
        state.apply(load("some-model-00042".to_owned()));
        let mut pushes = state.flush();
        pushes.extend(state.flush());
        for update in updates(pushes) {
            let kind = update.kind;
            let started = Instant::now();
            store.apply(update, Instant::now());
            if kind == ResourceType::Route {
                took.push(started.elapsed());
            }
        }
    }
    took.sort();
    println!("a table with one changed model: median {:?}", took[took.len() / 2]);
    let started = Instant::now();
    store.poll(Instant::now() + Duration::from_secs(1));
    println!("poll: {:?}", started.elapsed());
}
