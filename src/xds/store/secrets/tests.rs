//! What waits for secrets, for how long, and what a changed one changes.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::util::pack_any;
use prost::Message;

use super::super::tests::{Bench, cluster, listener, table};
use super::super::{Outcome, StoreOptions, Update};
use super::*;
use crate::plane::ServerState;

fn common(name: &str) -> pb::CommonTlsContext {
    let config = pb::SdsSecretConfig { name: name.to_owned(), sds_config: None };
    pb::CommonTlsContext { tls_certificate_sds_secret_configs: vec![config], ..Default::default() }
}

fn socket(context: envoy_types::pb::google::protobuf::Any) -> Option<core::TransportSocket> {
    Some(core::TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(context)),
    })
}

fn tls_cluster(name: &str, secret: &str) -> Resource {
    let mut message = PbCluster::decode(&*cluster(name, &["10.0.0.1"]).value).unwrap();
    let context =
        pb::UpstreamTlsContext { common_tls_context: Some(common(secret)), ..Default::default() };
    message.transport_socket = socket(pack_any(context));
    Resource::encode(name, &message)
}

fn tls_listener(secret: &str) -> Resource {
    let mut message = PbListener::decode(&*listener("l", 9000, "t").value).unwrap();
    let context =
        pb::DownstreamTlsContext { common_tls_context: Some(common(secret)), ..Default::default() };
    message.filter_chains[0].transport_socket = socket(pack_any(context));
    Resource::encode("l", &message)
}

fn file(name: &str) -> Option<core::DataSource> {
    let path = format!("{}/tests/data/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let specifier = Some(core::data_source::Specifier::Filename(path));
    Some(core::DataSource { specifier, watched_directory: None })
}

fn secret(name: &str, chain: &str, key: &str) -> Update {
    let certificate = pb::TlsCertificate {
        certificate_chain: file(chain),
        private_key: file(key),
        ..Default::default()
    };
    let message = pb::Secret {
        name: name.to_owned(),
        r#type: Some(pb::secret::Type::TlsCertificate(certificate)),
    };
    Update::new(ResourceType::Secret, vec![Resource::encode(name, &message)])
}

fn apply(bench: &mut Bench, update: Update) -> Outcome {
    bench.store.apply(update, bench.now)
}

#[test]
fn a_cluster_is_warm_once_its_secret_is_there() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![tls_cluster("a", "client")]);
    assert_eq!(bench.store.progress().secrets, ["client".to_owned()].into());
    assert!(!bench.store.progress().clusters_warm && !bench.is_routable("a"));
    apply(&mut bench, secret("another", "proxy.pem", "proxy.key"));
    assert!(!bench.is_routable("a"));
    apply(&mut bench, secret("client", "proxy.pem", "proxy.key"));
    assert!(bench.store.progress().clusters_warm && bench.is_routable("a"));
    // Nobody needs it any more.
    bench.remove(ResourceType::Cluster, &["a"]);
    bench.after(Duration::from_secs(1));
    assert_eq!(bench.store.progress().secrets, BTreeSet::new());
}

#[test]
fn a_secret_is_waited_for_fifteen_seconds() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![tls_cluster("a", "client")]);
    let due = bench.after(Duration::ZERO).unwrap();
    assert_eq!(due, bench.now + SECRET_WAIT);
    bench.after(SECRET_WAIT - Duration::from_millis(1));
    assert!(!bench.is_routable("a"));
    bench.after(Duration::from_millis(1));
    assert!(bench.is_routable("a"));
}

#[test]
fn a_changed_cluster_serves_in_its_old_version_until_its_secret_is_there() {
    let mut bench = Bench::live(StoreOptions::default());
    let before = bench.plane.clusters.find("a").unwrap().load().unwrap();
    bench.clusters(vec![tls_cluster("a", "client")]);
    let now = |bench: &Bench| bench.plane.clusters.find("a").unwrap().load().unwrap();
    assert!(Arc::ptr_eq(&now(&bench), &before));
    apply(&mut bench, secret("client", "proxy.pem", "proxy.key"));
    assert!(now(&bench).tls.is_some());
}

#[test]
fn a_listener_serves_once_its_table_and_its_secret_are_there() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![cluster("a", &["10.0.0.1"])]);
    bench.listeners(vec![tls_listener("server")]);
    bench.routes(vec![table("t", &[("a", 1)])]);
    assert_eq!(bench.plane.snapshot.load().listeners.len(), 0);
    assert_ne!(bench.plane.state(), ServerState::Live);
    apply(&mut bench, secret("server", "proxy.pem", "proxy.key"));
    assert_eq!(bench.plane.snapshot.load().listeners.len(), 1);
    assert_eq!(bench.plane.state(), ServerState::Live);
}

#[test]
fn a_secret_whose_key_is_anothers_is_refused_and_the_last_good_one_stays() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![tls_cluster("a", "client")]);
    apply(&mut bench, secret("client", "proxy.pem", "proxy.key"));
    let outcome = apply(&mut bench, secret("client", "proxy.pem", "scheduler.key"));
    let reason = outcome.error(ResourceType::Secret).unwrap();
    assert!(reason.starts_with("Failed to load private key from "), "{reason}");
    assert!(bench.is_routable("a"));
    bench.clusters(vec![tls_cluster("b", "client")]);
    assert!(bench.is_routable("b"), "the good one is there for others too");
}

#[test]
fn saved_secrets_come_before_what_needs_them() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![tls_cluster("a", "client")]);
    apply(&mut bench, secret("client", "proxy.pem", "proxy.key"));
    let saved = bench.plane.resources.read().unwrap().clone();
    let mut bench = Bench::new(StoreOptions::default());
    assert_eq!(bench.store.restore(saved, bench.now), []);
    assert!(bench.is_routable("a"));
}

#[test]
fn equal_settings_share_a_context() {
    let mut bench = Bench::new(StoreOptions::default());
    bench.clusters(vec![
        tls_cluster("a", "client"),
        tls_cluster("b", "client"),
        tls_cluster("c", "another"),
    ]);
    apply(&mut bench, secret("client", "proxy.pem", "proxy.key"));
    apply(&mut bench, secret("another", "proxy.pem", "proxy.key"));
    let context = |name: &str| {
        let cluster = bench.plane.clusters.find(name).unwrap().load().unwrap();
        Arc::as_ptr(cluster.tls.as_ref().unwrap())
    };
    assert_eq!(context("a"), context("b"));
    assert_ne!(context("a"), context("c"));
}
