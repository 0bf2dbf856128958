//! Messages of the discovery service as they travel.
//!
//! Responses of the delta variant are taken apart while they come in ([`super::scan`]);
//! those of the other are declared here with `Bytes` for the resources, so that a
//! table of several megabytes is not copied once more. Requests are the generated ones.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{
    BuildVersion, Node as NodeMessage, node::UserAgentVersionType,
};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::rpc::Status;

use super::decode::first_string;
use super::update::{Rejected, Resource, Update};
use crate::logic::ads::{NACK_CODE, Request, ResourceType};
use crate::plane::Node;

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateResponse {
    #[prost(string, tag = "1")]
    pub(crate) version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<Any>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
}

/// A response of either variant, taken apart.
#[derive(Clone, Debug)]
pub struct Response {
    /// To be answered with.
    pub nonce: String,
    /// What it changes.
    pub update: Update,
    /// Resources that are not what the response says they are.
    pub rejected: Vec<Rejected>,
}

/// Resources below this size are copied, so that one of them does not keep the
/// buffer of a response alive that held thousands.
const COPY_BELOW: usize = 64 * 1024;

impl StateResponse {
    /// What the response changes; none if its type is not one of ours.
    #[must_use]
    pub fn take_apart(self) -> Option<Response> {
        /// `name` has this number in all four types.
        const NAME: u64 = 1;
        let kind = ResourceType::of(&self.type_url)?;
        let mut update = Update::complete(kind, Vec::with_capacity(self.resources.len()));
        let mut rejected = Vec::new();
        for any in self.resources {
            let name = first_string(&any.value, NAME).unwrap_or_default().to_owned();
            let version = self.version_info.clone();
            match value(any, kind) {
                Ok(value) => update.resources.push(Resource { name, version, value }),
                Err(reason) => rejected.push(Rejected { name, reason }),
            }
        }
        update.version_info = self.version_info;
        Some(Response { nonce: self.nonce, update, rejected })
    }
}

/// Says what is wrong with a resource of this type in a response of that one.
pub(crate) fn check_type(url: &str, kind: ResourceType) -> Result<(), String> {
    if url == kind.url() {
        return Ok(());
    }
    Err(format!("type URL {url} does not match the response's {}", kind.url()))
}

fn value(any: Any, kind: ResourceType) -> Result<Bytes, String> {
    check_type(&any.type_url, kind)?;
    if any.value.len() < COPY_BELOW {
        Ok(Bytes::copy_from_slice(&any.value))
    } else {
        Ok(any.value)
    }
}

/// A request of the delta variant.
pub(crate) fn delta_request(request: Request, node: &Node) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: request.node.then(|| node_message(node)),
        type_url: request.kind.url().to_owned(),
        resource_names_subscribe: request.subscribe,
        resource_names_unsubscribe: request.unsubscribe,
        initial_resource_versions: request.initial_versions.into_iter().collect(),
        response_nonce: request.nonce,
        error_detail: request.error.map(error_detail),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A request of the state-of-the-world variant.
pub(crate) fn state_request(request: Request, node: &Node) -> DiscoveryRequest {
    DiscoveryRequest {
        node: request.node.then(|| node_message(node)),
        type_url: request.kind.url().to_owned(),
        resource_names: request.names,
        version_info: request.version_info,
        response_nonce: request.nonce,
        error_detail: request.error.map(error_detail),
        ..DiscoveryRequest::default()
    }
}

fn error_detail(message: String) -> Status {
    Status { code: NACK_CODE, message, details: Vec::new() }
}

fn node_message(node: &Node) -> NodeMessage {
    let number = |text: &str| text.parse().unwrap_or_default();
    let version = SemanticVersion {
        major_number: number(env!("CARGO_PKG_VERSION_MAJOR")),
        minor_number: number(env!("CARGO_PKG_VERSION_MINOR")),
        patch: number(env!("CARGO_PKG_VERSION_PATCH")),
    };
    NodeMessage {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        user_agent_name: "radiant".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version: Some(version),
            metadata: None,
        })),
        ..NodeMessage::default()
    }
}
