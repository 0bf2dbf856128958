//! The discovery protocol of the embedded scheduler, stream by stream, without
//! a socket: what the control-plane library behind the real scheduler does.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use envoy_types::pb::google::rpc::Status;
use radiant::demo::scheduler::cache::{CLUSTER, Caches, LISTENER, ROUTE, SECRET};
use radiant::demo::scheduler::stream::{DeltaStream, SotwStream};
use radiant::demo::scheduler::{Push, Resource};

const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

fn resource(name: &str, content: &str) -> Arc<Resource> {
    Resource::new(name.to_owned(), content.as_bytes().to_vec())
}

/// Two clusters and two tables for node `test-id`.
fn caches() -> Caches {
    let mut caches = Caches::new("test-id".to_owned());
    caches.apply(Push::Upsert(CLUSTER, vec![resource("a", "1"), resource("b", "1")]));
    caches.apply(Push::Routes(vec![resource("listener_0", "1"), resource("listener_1", "1")]));
    caches
}

fn subscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: "test-id".to_owned(), ..Node::default() }),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

#[test]
fn the_first_answer_to_a_wildcard_comes_even_if_empty() {
    let (caches, mut stream) = (caches(), DeltaStream::default());
    let response = stream.request(subscribe(LISTENER, &[]), &caches).unwrap().unwrap();
    assert_eq!((names(&response), response.nonce.as_str()), (vec![], "1"));
    assert_eq!(stream.request(ack(&response), &caches).unwrap(), None);
}

#[test]
fn what_does_not_exist_is_never_answered() {
    let (mut caches, mut stream) = (caches(), DeltaStream::default());
    assert_eq!(stream.request(subscribe(RUNTIME, &["runtime-0"]), &caches).unwrap(), None);
    assert_eq!(stream.request(subscribe(SECRET, &["nobody"]), &caches).unwrap(), None);
    caches.apply(Push::Upsert(SECRET, vec![resource("somebody", "1")]));
    assert!(stream.changed(&caches).is_empty());
}

#[test]
fn tables_are_for_one_node_only() {
    let (caches, mut stream) = (caches(), DeltaStream::default());
    let mut request = subscribe(ROUTE, &["listener_0"]);
    request.node.as_mut().unwrap().id = "other".to_owned();
    assert_eq!(stream.request(request, &caches).unwrap(), None);
    let clusters =
        stream.request(DeltaDiscoveryRequest { node: None, ..subscribe(CLUSTER, &[]) }, &caches);
    assert_eq!(names(&clusters.unwrap().unwrap()), ["a", "b"]);
}

#[test]
fn the_acknowledgement_is_the_flow_control() {
    let (mut caches, mut stream) = (caches(), DeltaStream::default());
    let first = stream.request(subscribe(CLUSTER, &[]), &caches).unwrap().unwrap();
    caches.apply(Push::Upsert(CLUSTER, vec![resource("a", "2"), resource("c", "1")]));
    caches.apply(Push::Remove(CLUSTER, vec!["b".to_owned()]));
    assert!(stream.changed(&caches).is_empty(), "the first response is not answered for");
    let mut refusal = ack(&first);
    refusal.error_detail = Some(Status { code: 13, ..Status::default() });
    let second = stream.request(refusal, &caches).unwrap().expect("a NACK opens it as an ACK does");
    assert_eq!(
        (names(&second), &second.removed_resources[..]),
        (vec!["a", "c"], &["b".to_owned()][..])
    );
    assert_eq!(second.nonce, "2");
    assert!(!stream.is_settled(&caches));
    assert_eq!(stream.request(ack(&second), &caches).unwrap(), None);
    assert!(stream.is_settled(&caches), "what was refused is not sent again");
}

#[test]
fn nonces_count_over_all_types() {
    let (caches, mut stream) = (caches(), DeltaStream::default());
    let clusters = stream.request(subscribe(CLUSTER, &[]), &caches).unwrap().unwrap();
    let routes = stream.request(subscribe(ROUTE, &["listener_0"]), &caches).unwrap().unwrap();
    assert_eq!((clusters.nonce.as_str(), routes.nonce.as_str()), ("1", "2"));
    assert_eq!(names(&routes), ["listener_0"]);
}

#[test]
fn a_new_stream_gets_differences_only() {
    let (mut caches, mut before) = (caches(), DeltaStream::default());
    let response = before.request(subscribe(CLUSTER, &[]), &caches).unwrap().unwrap();
    let versions: HashMap<String, String> =
        response.resources.into_iter().map(|r| (r.name, r.version)).collect();
    caches.apply(Push::Remove(CLUSTER, vec!["b".to_owned()]));
    let mut request = subscribe(CLUSTER, &[]);
    request.initial_resource_versions = versions;
    let mut after = DeltaStream::default();
    let response = after.request(request, &caches).unwrap().unwrap();
    assert!(names(&response).is_empty());
    assert_eq!(response.removed_resources, ["b"]);
}

#[test]
fn names_come_and_go_while_subscribed() {
    let (mut caches, mut stream) = (caches(), DeltaStream::default());
    let first = stream.request(subscribe(ROUTE, &["listener_0", "listener_9"]), &caches);
    assert_eq!(names(&first.unwrap().unwrap()), ["listener_0"]);
    let added = stream.request(subscribe(ROUTE, &["listener_1"]), &caches).unwrap().unwrap();
    assert_eq!(names(&added), ["listener_1"]);
    let mut request = ack(&added);
    request.resource_names_unsubscribe = vec!["listener_0".to_owned()];
    assert_eq!(stream.request(request, &caches).unwrap(), None);
    caches.apply(Push::Routes(vec![resource("listener_0", "2"), resource("listener_1", "2")]));
    let changed = stream.changed(&caches);
    assert_eq!(names(&changed[0]), ["listener_1"]);
}

#[test]
fn a_request_without_a_type_ends_the_stream() {
    let caches = caches();
    assert!(DeltaStream::default().request(subscribe("", &[]), &caches).is_err());
    assert!(SotwStream::default().request(DiscoveryRequest::default(), &caches).is_err());
}

fn sotw(type_url: &str, names: &[&str], version: &str, nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "test-id".to_owned(), ..Node::default() }),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
        version_info: version.to_owned(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

#[test]
fn the_state_of_the_world_comes_whole_and_once() {
    let (mut caches, mut stream) = (caches(), SotwStream::default());
    let first = stream.request(sotw(CLUSTER, &[], "", ""), &caches).unwrap().unwrap();
    assert_eq!((first.resources.len(), first.version_info.as_str()), (2, "1"));
    let stale = stream.request(sotw(CLUSTER, &[], "1", "7"), &caches).unwrap();
    assert_eq!(stale, None, "another nonce is ignored");
    assert_eq!(stream.request(sotw(CLUSTER, &[], "1", "1"), &caches).unwrap(), None);
    caches.apply(Push::Upsert(CLUSTER, vec![resource("c", "1")]));
    let second = stream.changed(&caches).pop().unwrap();
    assert_eq!((second.resources.len(), second.version_info.as_str()), (3, "2"));
    assert!(!stream.is_settled(&caches));
    assert_eq!(stream.request(sotw(CLUSTER, &[], "2", "2"), &caches).unwrap(), None);
    assert!(stream.is_settled(&caches));
}

#[test]
fn tables_are_answered_to_those_who_ask_for_all_of_them() {
    let (caches, mut stream) = (caches(), SotwStream::default());
    assert_eq!(stream.request(sotw(ROUTE, &["listener_0"], "", ""), &caches).unwrap(), None);
    let both = sotw(ROUTE, &["listener_1", "listener_0"], "", "");
    let response = stream.request(both, &caches).unwrap().unwrap();
    assert_eq!(response.resources.len(), 2);
}
