//! What is served while resources come, warm, change and go.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::{Cluster as PbCluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{
    Address, SocketAddress, address::Address as Kind, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, filter};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use prost::Message;

use super::*;
use crate::plane::Node;

fn address(host: &str, port: u32) -> Address {
    Address {
        address: Some(Kind::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

pub(super) fn cluster(name: &str, hosts: &[&str]) -> Resource {
    let endpoint = |host: &&str| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(host, 9000)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: hosts.iter().map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    let message = PbCluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::StrictDns as i32,
        )),
        lb_policy: cluster::LbPolicy::LeastRequest as i32,
        dns_lookup_family: cluster::DnsLookupFamily::V4Only as i32,
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        }),
        ..PbCluster::default()
    };
    Resource::encode(name, &message)
}

fn bad_cluster(name: &str) -> Resource {
    let mut message = PbCluster::decode(&*cluster(name, &["not-an-ip"]).value).unwrap();
    message.cluster_discovery_type = None;
    Resource::encode(name, &message)
}

pub(super) fn table(name: &str, clusters: &[(&str, u32)]) -> Resource {
    let routes = clusters.iter().map(|(cluster, weight)| route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..route::RouteMatch::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::WeightedClusters(
                route::WeightedCluster {
                    clusters: vec![route::weighted_cluster::ClusterWeight {
                        name: (*cluster).to_owned(),
                        weight: Some(UInt32Value { value: *weight }),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
            )),
            ..Default::default()
        })),
        ..route::Route::default()
    });
    let message = route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: "v".to_owned(),
            domains: vec!["*".to_owned()],
            routes: routes.collect(),
            ..route::VirtualHost::default()
        }],
        ..route::RouteConfiguration::default()
    };
    Resource::encode(name, &message)
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/envoy.extensions.filters.{name}"),
        value: message.encode_to_vec(),
    }
}

pub(super) fn listener(name: &str, port: u32, routes: &str) -> Resource {
    let router = hcm::HttpFilter {
        name: "router".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(
            "http.router.v3.Router",
            &Router::default(),
        ))),
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: vec![router],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            route_config_name: routes.to_owned(),
            config_source: None,
        })),
        ..Default::default()
    };
    let manager = any("network.http_connection_manager.v3.HttpConnectionManager", &manager);
    let message = envoy_types::pb::envoy::config::listener::v3::Listener {
        name: name.to_owned(),
        address: Some(address("127.0.0.1", port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "hcm".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(manager)),
            }],
            ..FilterChain::default()
        }],
        ..Default::default()
    };
    Resource::encode(name, &message)
}

fn update(kind: ResourceType, resources: Vec<Resource>) -> Update {
    Update::new(kind, resources)
}

fn removal(kind: ResourceType, names: &[&str]) -> Update {
    let mut update = Update::new(kind, Vec::new());
    update.removed = names.iter().map(|n| (*n).to_owned()).collect();
    update
}

pub(super) struct Bench {
    pub(super) plane: Arc<Plane>,
    pub(super) store: Store,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn new(options: StoreOptions) -> Self {
        let plane = Plane::new(1, Node::default());
        let store = Store::new(Arc::clone(&plane), options);
        Self { plane, store, now: Instant::now() }
    }

    pub(super) fn clusters(&mut self, resources: Vec<Resource>) -> Outcome {
        self.store.apply(update(ResourceType::Cluster, resources), self.now)
    }

    pub(super) fn listeners(&mut self, resources: Vec<Resource>) -> Outcome {
        self.store.apply(update(ResourceType::Listener, resources), self.now)
    }

    pub(super) fn routes(&mut self, resources: Vec<Resource>) -> Outcome {
        self.store.apply(update(ResourceType::Route, resources), self.now)
    }

    pub(super) fn remove(&mut self, kind: ResourceType, names: &[&str]) -> Outcome {
        self.store.apply(removal(kind, names), self.now)
    }

    pub(super) fn after(&mut self, time: Duration) -> Option<Instant> {
        self.now += time;
        self.store.poll(self.now)
    }

    /// Serves `listener` on table `t` with `a` behind it.
    pub(super) fn live(options: StoreOptions) -> Self {
        let mut bench = Self::new(options);
        bench.clusters(vec![cluster("a", &["10.0.0.1"])]);
        bench.listeners(vec![listener("l", 9000, "t")]);
        bench.routes(vec![table("t", &[("a", 1)])]);
        assert_eq!(bench.plane.state(), ServerState::Live);
        bench
    }

    pub(super) fn is_routable(&self, name: &str) -> bool {
        self.plane.clusters.find(name).is_some_and(|slot| slot.load().is_some())
    }

    /// Clusters that the published table of `l` names.
    fn targets(&self) -> Vec<String> {
        let snapshot = self.plane.snapshot.load();
        let Some(listener) = snapshot.listener("l") else { return Vec::new() };
        let routes = &listener.routes.virtual_hosts[0].routes;
        routes
            .in_order()
            .into_iter()
            .map(|r| match &r.action {
                crate::model::Action::Forward(f) => f.targets[0].cluster.name.to_string(),
                crate::model::Action::Direct(_) => String::new(),
            })
            .collect()
    }
}

fn resolve(bench: &Bench, name: &str) {
    let answer = crate::dns::Answer::Addresses(vec![[10, 0, 0, 9].into()]);
    bench.plane.endpoints.on_answer(name, answer, bench.now.into());
}

#[test]
fn nothing_is_served_before_clusters_listeners_and_tables_are_there() {
    let mut bench = Bench::new(StoreOptions::default());
    assert_eq!(bench.plane.state(), ServerState::PreInitializing);
    bench.clusters(vec![cluster("a", &["pod-a"])]);
    assert_eq!(bench.plane.state(), ServerState::PreInitializing);
    assert!(!bench.store.progress().clusters_warm);
    resolve(&bench, "pod-a");
    bench.after(Duration::ZERO);
    assert!(bench.store.progress().clusters_warm);
    assert_eq!(bench.plane.state(), ServerState::Initializing);
    bench.listeners(vec![listener("l", 9000, "t")]);
    assert_eq!(bench.plane.snapshot.load().listeners.len(), 0);
    assert_eq!(bench.store.progress().routes, ["t".to_owned()].into());
    bench.routes(vec![table("t", &[("a", 1)])]);
    assert_eq!(bench.plane.state(), ServerState::Live);
    assert_eq!(bench.targets(), ["a"]);
}

#[test]
fn a_table_waits_for_clusters_that_came_with_it() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.clusters(vec![cluster("b", &["pod-b"])]);
    bench.routes(vec![table("t", &[("b", 1)])]);
    assert_eq!(bench.targets(), ["a"]);
    resolve(&bench, "pod-b");
    bench.after(Duration::from_millis(5));
    assert_eq!(bench.targets(), ["b"]);
    assert!(bench.is_routable("b"));
}

#[test]
fn an_unknown_cluster_holds_a_table_up_for_a_moment_and_once() {
    let mut bench = Bench::live(StoreOptions::default());
    let outcome = bench.routes(vec![table("t", &[("a", 1), ("never", 1)])]);
    assert_eq!((outcome.rejected.len(), outcome.warming), (0, 1));
    assert_eq!(bench.targets(), ["a"]);
    bench.after(Duration::from_millis(100));
    assert_eq!(bench.targets(), ["a", "never"]);
    bench.routes(vec![table("t", &[("never", 1), ("a", 1)])]);
    assert_eq!(bench.targets(), ["never", "a"]);
}

#[test]
fn a_table_that_overtook_its_clusters_is_published_with_them() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.routes(vec![table("t", &[("b", 1)])]);
    assert_eq!(bench.targets(), ["a"]);
    bench.clusters(vec![cluster("b", &["10.0.0.2"])]);
    assert_eq!(bench.targets(), ["b"]);
    // Also if they take their time to get warm.
    bench.routes(vec![table("t", &[("c", 1)])]);
    bench.clusters(vec![cluster("c", &["pod-c"])]);
    bench.after(Duration::from_secs(4));
    assert_eq!(bench.targets(), ["b"]);
    resolve(&bench, "pod-c");
    bench.after(Duration::ZERO);
    assert_eq!(bench.targets(), ["c"]);
}

#[test]
fn a_table_waits_no_longer_than_its_bound_even_if_replaced_meanwhile() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.clusters(vec![cluster("b", &["pod-b"]), cluster("c", &["pod-c"])]);
    bench.routes(vec![table("t", &[("b", 1)])]);
    let deadline = bench.after(Duration::from_secs(3));
    assert_eq!(deadline, Some(bench.now + Duration::from_secs(2)));
    bench.routes(vec![table("t", &[("c", 1)])]);
    assert_eq!(bench.targets(), ["a"]);
    bench.after(Duration::from_secs(2));
    assert_eq!(bench.targets(), ["c"]);
    assert!(!bench.is_routable("c"));
}

#[test]
fn a_changed_cluster_serves_in_its_old_version_until_the_new_one_is_warm() {
    let mut bench = Bench::live(StoreOptions::default());
    let old = bench.plane.clusters.slot("a").load().unwrap();
    bench.clusters(vec![cluster("a", &["pod-a"])]);
    let held = bench.plane.clusters.slot("a").load().unwrap();
    assert!(Arc::ptr_eq(&old, &held));
    // Nor does a table wait for it.
    bench.routes(vec![table("t", &[("a", 1), ("a", 2)])]);
    assert_eq!(bench.targets(), ["a", "a"]);
    resolve(&bench, "pod-a");
    bench.after(Duration::ZERO);
    assert!(!Arc::ptr_eq(&old, &bench.plane.clusters.slot("a").load().unwrap()));
}

#[test]
fn endpoints_in_another_order_change_nothing() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.clusters(vec![cluster("a", &["10.0.0.1", "10.0.0.2"])]);
    let before = bench.plane.clusters.slot("a").load().unwrap();
    let modified = bench.plane.stats.control.cluster_modified.value();
    let outcome = bench.clusters(vec![cluster("a", &["10.0.0.2", "10.0.0.1"])]);
    assert_eq!((outcome.accepted, outcome.rejected.len()), (1, 0));
    assert!(Arc::ptr_eq(&before, &bench.plane.clusters.slot("a").load().unwrap()));
    assert_eq!(bench.plane.stats.control.cluster_modified.value(), modified);
}

#[test]
fn a_removed_cluster_serves_while_a_table_names_it() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.clusters(vec![cluster("b", &["10.0.0.2"])]);
    bench.remove(ResourceType::Cluster, &["a"]);
    assert!(bench.is_routable("a"));
    assert!(!bench.store.versions(ResourceType::Cluster).contains_key("a"));
    bench.routes(vec![table("t", &[("b", 1)])]);
    bench.after(Duration::from_millis(250));
    assert!(!bench.is_routable("a"));
    assert!(bench.plane.clusters.find("a").is_none());
    assert_eq!(bench.plane.stats.control.active_clusters.value(), 1);
}

#[test]
fn a_removed_cluster_leaves_when_its_grace_is_over() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.remove(ResourceType::Cluster, &["a"]);
    bench.after(Duration::from_secs(29));
    assert!(bench.is_routable("a"));
    bench.after(Duration::from_secs(1));
    assert!(!bench.is_routable("a"));
    // As Envoy, with a grace of zero.
    let options = StoreOptions { removed_cluster_grace: Duration::ZERO, ..StoreOptions::default() };
    let mut bench = Bench::live(options);
    bench.remove(ResourceType::Cluster, &["a"]);
    assert!(!bench.is_routable("a"));
}

#[test]
fn a_cluster_that_comes_back_stays() {
    let mut bench = Bench::live(StoreOptions::default());
    let before = bench.plane.clusters.slot("a").load().unwrap();
    bench.remove(ResourceType::Cluster, &["a"]);
    bench.clusters(vec![cluster("a", &["10.0.0.1"])]);
    bench.after(Duration::from_secs(60));
    assert!(Arc::ptr_eq(&before, &bench.plane.clusters.slot("a").load().unwrap()));
    assert!(bench.store.versions(ResourceType::Cluster).contains_key("a"));
}

#[test]
fn a_cluster_that_nobody_names_leaves_at_once() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.clusters(vec![cluster("b", &["10.0.0.2"])]);
    assert!(bench.is_routable("b"));
    bench.remove(ResourceType::Cluster, &["b"]);
    assert!(!bench.is_routable("b"));
}

#[test]
fn one_bad_cluster_is_named_and_the_others_applied() {
    let mut bench = Bench::live(StoreOptions::default());
    let outcome = bench.clusters(vec![cluster("b", &["10.0.0.2"]), bad_cluster("bad")]);
    assert!(bench.is_routable("b"));
    let error = outcome.error(ResourceType::Cluster).unwrap();
    assert!(
        error.starts_with("Error adding/updating cluster(s) bad: malformed IP address: "),
        "{error}"
    );
    assert!(!bench.store.versions(ResourceType::Cluster).contains_key("bad"));
}

#[test]
fn a_table_of_zero_weight_is_refused_in_envoys_words() {
    let mut bench = Bench::live(StoreOptions::default());
    let outcome = bench.routes(vec![table("t", &[("a", 0)])]);
    let error = outcome.error(ResourceType::Route).unwrap();
    let words = "Sum of weights in the weighted_cluster must be greater than 0.";
    assert!(error.starts_with(words), "{error}");
    assert!(error.contains("virtual_hosts[0].routes[0].route.weighted_clusters"), "{error}");
    assert!(error.contains("(t)"), "{error}");
    assert_eq!(bench.targets(), ["a"]);
}

#[test]
fn a_refused_mirror_table_does_not_hold_up_a_fresh_proxy() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![cluster("a", &["10.0.0.1"])]);
    bench.listeners(vec![listener("l", 9000, "t"), listener("mirrors", 9001, "m")]);
    bench.routes(vec![table("m", &[("a", 0)])]);
    // Nothing has routes yet: a proxy that answers 404 to everything is not ready.
    assert_eq!(bench.plane.state(), ServerState::Initializing);
    bench.routes(vec![table("t", &[("a", 1)])]);
    assert_eq!(bench.plane.state(), ServerState::Live);
    let snapshot = bench.plane.snapshot.load();
    assert!(snapshot.listener("mirrors").unwrap().routes.is_empty());
    drop(snapshot);
    bench.routes(vec![table("m", &[("a", 5)])]);
    let snapshot = bench.plane.snapshot.load();
    assert!(!snapshot.listener("mirrors").unwrap().routes.is_empty());
}

#[test]
fn a_refused_first_table_alone_leaves_the_proxy_not_ready() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![cluster("a", &["10.0.0.1"])]);
    bench.listeners(vec![listener("l", 9000, "t")]);
    bench.routes(vec![table("t", &[("a", 0)])]);
    assert_eq!(bench.plane.state(), ServerState::Initializing);
    assert!(bench.plane.snapshot.load().listeners.is_empty());
}

#[test]
fn removals_of_tables_are_ignored() {
    let mut bench = Bench::live(StoreOptions::default());
    let outcome = bench.remove(ResourceType::Route, &["t"]);
    assert_eq!(outcome.error(ResourceType::Route), None);
    assert_eq!(bench.targets(), ["a"]);
}

#[test]
fn a_removed_listener_leaves_with_its_table_and_may_come_back() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.remove(ResourceType::Listener, &["l"]);
    assert!(bench.plane.snapshot.load().listener("l").is_none());
    assert!(bench.store.progress().routes.is_empty());
    assert!(bench.store.versions(ResourceType::Route).is_empty());
    bench.listeners(vec![listener("l", 9000, "t")]);
    assert!(bench.plane.snapshot.load().listener("l").is_none());
    bench.routes(vec![table("t", &[("a", 1)])]);
    assert_eq!(bench.targets(), ["a"]);
}

#[test]
fn a_listener_on_a_taken_address_is_refused_and_the_old_one_serves() {
    let mut bench = Bench::live(StoreOptions::default());
    let outcome = bench.listeners(vec![listener("m", 9000, "t"), listener("n", 9001, "t")]);
    let error = outcome.error(ResourceType::Listener).unwrap();
    let words = "Error adding/updating listener(s) m: error adding listener: 'm' has duplicate \
                 address '127.0.0.1:9000' as existing listener";
    assert!(error.starts_with(words), "{error}");
    let snapshot = bench.plane.snapshot.load();
    let names: Vec<_> = snapshot.listeners.iter().map(|l| &*l.config.name).collect();
    assert_eq!(names, ["l", "n"]);
}

#[test]
fn a_listener_that_cannot_open_its_socket_is_refused_and_its_old_version_serves() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.store.on_publish(Box::new(|snapshot| {
        let refused = snapshot.listeners.iter().filter(|l| l.config.address.port() == 1);
        let refused: Vec<_> =
            refused.map(|l| (l.config.name.clone(), "cannot bind".to_owned())).collect();
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }));
    let outcome = bench.listeners(vec![listener("l", 1, "t"), listener("m", 1234, "t")]);
    let error = outcome.error(ResourceType::Listener).unwrap();
    assert_eq!(error, "Error adding/updating listener(s) l: cannot bind\n");
    let snapshot = bench.plane.snapshot.load();
    let ports: Vec<_> = snapshot.listeners.iter().map(|l| l.config.address.port()).collect();
    assert_eq!(ports, [9000, 1234]);
}

#[test]
fn what_does_not_change_keeps_its_objects() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.listeners(vec![listener("m", 9001, "u")]);
    bench.routes(vec![table("u", &[("a", 1)])]);
    let before = Arc::clone(&bench.plane.snapshot.load());
    bench.routes(vec![table("u", &[("a", 2)])]);
    let after = Arc::clone(&bench.plane.snapshot.load());
    assert!(Arc::ptr_eq(before.listener("l").unwrap(), after.listener("l").unwrap()));
    assert!(!Arc::ptr_eq(before.listener("m").unwrap(), after.listener("m").unwrap()));
    assert_eq!(after.version, before.version + 1);
    // The same bytes publish nothing.
    bench.routes(vec![table("u", &[("a", 2)])]);
    bench.clusters(vec![cluster("a", &["10.0.0.1"])]);
    bench.listeners(vec![listener("m", 9001, "u")]);
    assert_eq!(bench.plane.snapshot.load().version, after.version);
}

#[test]
fn a_complete_update_removes_what_it_does_not_list() {
    let mut bench = Bench::live(StoreOptions::default());
    bench.clusters(vec![cluster("b", &["10.0.0.2"])]);
    bench.store.apply(
        Update::complete(ResourceType::Cluster, vec![cluster("a", &["10.0.0.1"])]),
        bench.now,
    );
    assert!(bench.is_routable("a") && !bench.is_routable("b"));
}

#[test]
fn saved_resources_serve_and_are_stale_until_the_control_plane_answers() {
    let saved = {
        let bench = Bench::live(StoreOptions::default());
        bench.plane.resources.read().unwrap().clone()
    };
    let mut bench = Bench::new(StoreOptions::default());
    assert_eq!(bench.store.restore(saved, bench.now), []);
    assert_eq!(bench.targets(), ["a"]);
    assert_eq!(bench.plane.state(), ServerState::Live);
    let stale = |bench: &Bench| bench.plane.stats.control.config_stale.value();
    assert_eq!(stale(&bench), 1);
    assert_eq!(bench.store.versions(ResourceType::Route).len(), 1);
    bench.clusters(Vec::new());
    assert_eq!(stale(&bench), 0);
}

#[test]
fn changes_are_saved_together_after_a_moment() {
    let mut bench = Bench::live(StoreOptions::default());
    let saved = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&saved);
    bench.store.on_save(Box::new(move |resources| {
        log.lock().unwrap().push(resources.clusters.by_name.len());
    }));
    bench.clusters(vec![cluster("b", &["10.0.0.2"])]);
    bench.clusters(vec![cluster("c", &["10.0.0.3"])]);
    assert_eq!(*saved.lock().unwrap(), [] as [usize; 0]);
    bench.after(SAVE_DELAY);
    assert_eq!(*saved.lock().unwrap(), [3]);
    bench.after(SAVE_DELAY);
    assert_eq!(*saved.lock().unwrap(), [3]);
}

mod whatever_the_order {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Cluster(u8, u8),
        Remove(u8),
        Table(Vec<u8>),
        Resolve(u8),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..5_u8, 0..4_u8).prop_map(|(c, h)| Step::Cluster(c, h)),
            2 => (0..5_u8).prop_map(Step::Remove),
            3 => prop::collection::vec(0..5_u8, 1..4).prop_map(Step::Table),
            2 => (0..4_u8).prop_map(Step::Resolve),
            1 => (0..900_u16).prop_map(Step::Wait),
        ]
    }

    fn take(bench: &mut Bench, step: &Step) {
        let name = |c: u8| format!("c{c}");
        match step {
            Step::Cluster(c, h) => {
                bench.clusters(vec![cluster(&name(*c), &[&format!("host-{h}")])]);
            }
            Step::Remove(c) => {
                bench.remove(ResourceType::Cluster, &[&name(*c)]);
            }
            Step::Table(targets) => {
                let names: Vec<_> = targets.iter().map(|c| name(*c)).collect();
                let targets: Vec<_> = names.iter().map(|n| (&**n, 1)).collect();
                bench.routes(vec![table("t", &targets)]);
            }
            Step::Resolve(h) => {
                resolve(bench, &format!("host-{h}"));
                bench.after(Duration::ZERO);
            }
            Step::Wait(ms) => {
                bench.after(Duration::from_millis((*ms).into()));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// As long as nothing exceeds its bound (a table's wait, a removed
        /// cluster's grace), a target that was routable stays routable while
        /// its table is in force, and a target that a new table brings is
        /// routable if the control plane had told of it. (One that was in force
        /// without its cluster does not get worse and holds nothing up.)
        #[test]
        fn a_published_target_stays_routable(steps in prop::collection::vec(step(), 1..60)) {
            let ages = Duration::from_secs(3600);
            let mut bench = Bench::live(StoreOptions {
                route_wait: ages,
                removed_cluster_grace: ages,
                ..StoreOptions::default()
            });
            let mut routable = std::collections::BTreeSet::new();
            let mut version = 0;
            for step in &steps {
                let known = bench.store.versions(ResourceType::Cluster);
                let before = bench.targets();
                take(&mut bench, step);
                let published = bench.plane.snapshot.load().version;
                for target in bench.targets() {
                    let is_routable = bench.is_routable(&target);
                    if published != version && matches!(step, Step::Table(_) | Step::Resolve(_)) {
                        let excused = !known.contains_key(&target) || before.contains(&target);
                        prop_assert!(is_routable || excused, "{target} at {step:?}");
                    }
                    prop_assert!(is_routable || !routable.contains(&target), "{target} lost at {step:?}");
                }
                version = published;
                routable = bench.targets().into_iter().filter(|t| bench.is_routable(t)).collect();
            }
        }
    }
}

#[test]
fn an_update_copies_no_table_and_a_refused_one_changes_none() {
    let mut bench = Bench::live(StoreOptions::default());
    let shown = |bench: &Bench| {
        let resources = bench.plane.resources.read().unwrap();
        match &resources.routes.by_name["t"].value {
            RawValue::Table(table) => (Arc::as_ptr(table), table.message()),
            RawValue::Message(_) => panic!("not taken apart"),
        }
    };
    let (place, _) = shown(&bench);
    let next = table("t", &[("a", 2), ("a", 1)]);
    bench.routes(vec![next.clone()]);
    assert_eq!(shown(&bench), (place, next.value.to_vec()));
    let mut wrong = table("u", &[("a", 3)]);
    wrong.name = "t".to_owned();
    let mut cut = next.clone();
    cut.value.truncate(next.value.len() - 1);
    for refused in [wrong, cut] {
        assert_eq!(bench.routes(vec![refused]).rejected.len(), 1);
        assert_eq!(shown(&bench), (place, next.value.to_vec()));
    }
    // Who reads it meanwhile keeps what it was.
    let held = bench.plane.resources.read().unwrap().routes.by_name["t"].value.clone();
    bench.routes(vec![table("t", &[("a", 4)])]);
    assert_eq!(held.message(), next.value);
    assert_ne!(shown(&bench).0, place);
}
