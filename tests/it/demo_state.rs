//! The embedded scheduler's pushes: their order, and that whatever an operator
//! does, they leave what a mesh built at once would have.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use proptest::prelude::*;
use prost::Message;
use radiant::demo::scheduler::cache::{CLUSTER, Caches, ROUTE};
use radiant::demo::scheduler::state::State;
use radiant::demo::scheduler::{ModelSpec, Operation, Push};
use radiant::seldon::{Backend, Experiment, ListenerOptions, MIRROR_TABLE, Mesh, ROUTE_TABLE};

fn load(name: &str, replicas: u16) -> Operation {
    let backends = (0..replicas).map(|n| Backend::new("127.0.0.1", 9100 + n, 9500 + n)).collect();
    Operation::LoadModel(ModelSpec { name: name.to_owned(), backends, log_payloads: false })
}

fn experiment(name: &str, default: Option<&str>, arms: &[(&str, u32)]) -> Operation {
    Operation::StartExperiment(Experiment {
        name: name.to_owned(),
        default: default.map(str::to_owned),
        candidates: arms.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
        ..Experiment::default()
    })
}

fn started(operations: Vec<Operation>) -> State {
    let (mut state, _) = State::new(&ListenerOptions::default());
    for operation in operations {
        state.apply(operation);
    }
    while state.is_waiting() {
        state.flush();
    }
    state
}

/// Pushes in short: what they do to which clusters.
fn steps(pushes: &[Push]) -> Vec<String> {
    let step = |push: &Push| match push {
        Push::Upsert(_, resources) => {
            let names: Vec<_> = resources.iter().map(|r| r.name.as_str()).collect();
            format!("+{}", names.join(","))
        }
        Push::Remove(_, names) => format!("-{}", names.join(",")),
        Push::Routes(_) => "routes".to_owned(),
    };
    pushes.iter().map(step).collect()
}

#[test]
fn a_roll_outside_of_experiments_is_one_batch() {
    let mut state = started(vec![load("a", 1)]);
    assert!(state.apply(load("a", 1)).is_empty());
    let expected = ["+a_2_http,a_2_grpc", "routes", "-a_1_http,a_1_grpc"];
    assert_eq!(steps(&state.flush()), expected);
    assert!(!state.is_waiting());
}

#[test]
fn a_roll_of_an_arm_removes_clusters_before_the_tables_of_its_experiments() {
    let arms = [("a", 50), ("b", 50)];
    let mut state = started(vec![
        load("a", 1),
        load("b", 1),
        experiment("x", None, &arms),
        experiment("y", None, &arms),
        experiment("z", None, &arms),
    ]);
    let begun = state.apply(load("a", 1));
    assert_eq!(steps(&begun), ["+a_2_http,a_2_grpc", "routes", "routes", "routes"]);
    let ended = state.flush();
    let expected =
        ["+a_2_http,a_2_grpc", "routes", "-a_1_http,a_1_grpc", "routes", "routes", "routes"];
    assert_eq!(steps(&ended), expected);
}

#[test]
fn a_model_that_comes_back_gets_its_clusters_and_its_arm_back() {
    let mut state = started(vec![load("a", 1), load("b", 1)]);
    state.apply(experiment("x", None, &[("a", 1), ("b", 1)]));
    state.apply(Operation::UnloadModel("a".to_owned()));
    let pushes = [state.apply(load("a", 1)), state.flush()].concat();
    let steps = steps(&pushes);
    let gone = steps.iter().position(|s| s == "-a_1_http,a_1_grpc").unwrap();
    let back = steps.iter().position(|s| s == "+a_1_http,a_1_grpc").unwrap();
    assert!(gone < back, "{steps:?}");
}

fn operation() -> impl Strategy<Value = Option<Operation>> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let exp = prop::sample::select(vec!["x", "y"]);
    prop_oneof![
        (name.clone(), 1_u16..4).prop_map(|(name, replicas)| Some(load(name, replicas))),
        name.clone().prop_map(|name| Some(Operation::UnloadModel(name.to_owned()))),
        (exp.clone(), name.clone(), any::<bool>(), any::<bool>(), 0_u32..100).prop_map(
            |(exp, first, default, mirror, weight)| {
                // Only one of them has a default: two would be one too many.
                let default = (exp == "x" && default).then(|| first.to_owned());
                let candidates = vec![(first.to_owned(), weight), ("b".to_owned(), 7)];
                let mirror = mirror.then(|| ("c".to_owned(), 20));
                let name = exp.to_owned();
                Some(Operation::StartExperiment(Experiment {
                    name,
                    default,
                    candidates,
                    mirror,
                    ..Experiment::default()
                }))
            }
        ),
        exp.prop_map(|exp| Some(Operation::StopExperiment(exp.to_owned()))),
        Just(None), // the end of a batch window
    ]
}

/// Clusters with their endpoints in order, by name.
fn clusters(clusters: impl IntoIterator<Item = Cluster>) -> BTreeMap<String, Cluster> {
    let sorted = clusters.into_iter().map(|mut cluster| {
        for locality in &mut cluster.load_assignment.as_mut().unwrap().endpoints {
            locality.lb_endpoints.sort_by_key(|endpoint| format!("{endpoint:?}"));
        }
        (cluster.name.clone(), cluster)
    });
    sorted.collect()
}

proptest! {
    #[test]
    fn what_the_pushes_leave_is_what_the_mesh_is(
        operations in prop::collection::vec(operation(), 0..40)
    ) {
        let options = ListenerOptions::default();
        let (mut state, pushes) = State::new(&options);
        let mut caches = Caches::new("test-id".to_owned());
        let apply = |caches: &mut Caches, pushes: Vec<Push>| {
            pushes.into_iter().for_each(|push| caches.apply(push));
        };
        apply(&mut caches, pushes);
        for operation in operations {
            let pushes = match operation {
                Some(operation) => state.apply(operation),
                None => state.flush(),
            };
            apply(&mut caches, pushes);
        }
        while state.is_waiting() {
            apply(&mut caches, state.flush());
        }
        let mesh = Mesh {
            models: state.models().map(|(model, _)| model.clone()).collect(),
            experiments: state.experiments().to_vec(),
            pipelines: Vec::new(),
        };
        let wanted = mesh.resources(&options);
        let has = caches.collection(CLUSTER, "test-id").unwrap().resources().values();
        let has = has.map(|r| Cluster::decode(&r.to_any(CLUSTER).value[..]).unwrap());
        prop_assert_eq!(clusters(has), clusters(wanted.clusters));
        let tables = caches.collection(ROUTE, "test-id").unwrap().resources();
        // The order of names is no part of it.
        let by_name = |mut table: RouteConfiguration| {
            table.virtual_hosts.iter_mut().for_each(|h| h.routes.sort_by_key(|r| r.name.clone()));
            table
        };
        for (name, table) in [(ROUTE_TABLE, wanted.routes), (MIRROR_TABLE, wanted.mirrors)] {
            let has = RouteConfiguration::decode(&tables[name].to_any(ROUTE).value[..]).unwrap();
            prop_assert_eq!(by_name(has), by_name(table));
        }
    }
}
