//! Clusters: STRICT_DNS, least request, endpoints inline; `_grpc` ones speak
//! HTTP/2.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, circuit_breakers};
use envoy_types::pb::envoy::config::core::v3::{
    Address, Http2ProtocolOptions, SocketAddress, address, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    },
};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use envoy_types::util::pack_any;

use super::{Backend, ModelVersion, Pipeline};

/// Cluster for copies of REST calls: the proxy's own mirror listener.
pub const MIRROR_HTTP: &str = "mirror_http";
/// Cluster for copies of gRPC calls: the proxy's own mirror listener.
pub const MIRROR_GRPC: &str = "mirror_grpc";

const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What a cluster's endpoints speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 by prior knowledge.
    Grpc,
}

/// The two clusters of a model version, HTTP first.
#[must_use]
pub fn model_clusters(version: &ModelVersion) -> [Cluster; 2] {
    pair(&version.label, &version.backends)
}

/// The two clusters of a pipeline, HTTP first.
#[must_use]
pub fn pipeline_clusters(pipeline: &Pipeline) -> [Cluster; 2] {
    pair(&format!("{}_pipeline", pipeline.name), &pipeline.gateways)
}

/// The two clusters that lead back to the mirror listener, HTTP first.
#[must_use]
pub fn mirror_clusters(host: &str, port: u16) -> [Cluster; 2] {
    [
        cluster(MIRROR_HTTP.to_owned(), Protocol::Http, [(host, port)]),
        cluster(MIRROR_GRPC.to_owned(), Protocol::Grpc, [(host, port)]),
    ]
}

fn pair(prefix: &str, backends: &[Backend]) -> [Cluster; 2] {
    let http = backends.iter().filter_map(|b| Some((b.host.as_str(), b.http_port?)));
    let grpc = backends.iter().filter_map(|b| Some((b.host.as_str(), b.grpc_port?)));
    [
        cluster(format!("{prefix}_http"), Protocol::Http, http),
        cluster(format!("{prefix}_grpc"), Protocol::Grpc, grpc),
    ]
}

/// A cluster in the scheduler's shape with these endpoints (host, port).
#[allow(deprecated)] // `dns_refresh_rate` is what the scheduler sends
pub fn cluster<'a>(
    name: String,
    protocol: Protocol,
    endpoints: impl IntoIterator<Item = (&'a str, u16)>,
) -> Cluster {
    let lb_endpoints = endpoints.into_iter().map(|(host, port)| lb_endpoint(host, port)).collect();
    Cluster {
        connect_timeout: Some(Duration { seconds: 5, nanos: 0 }),
        lb_policy: LbPolicy::LeastRequest.into(),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
            ..Default::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![circuit_breakers::Thresholds {
                max_retries: Some(UInt32Value { value: 5 }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        typed_extension_protocol_options: match protocol {
            Protocol::Http => HashMap::new(),
            Protocol::Grpc => {
                HashMap::from([(PROTOCOL_OPTIONS.to_owned(), pack_any(http2_options()))])
            }
        },
        dns_refresh_rate: Some(Duration { seconds: 2, nanos: 0 }),
        dns_lookup_family: DnsLookupFamily::V4Only.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())),
        name,
        ..Default::default()
    }
}

fn http2_options() -> HttpProtocolOptions {
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                    Http2ProtocolOptions::default(),
                )),
            },
        )),
        ..Default::default()
    }
}

fn lb_endpoint(host: &str, port: u16) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: Some(socket_address(host, port)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

pub(crate) fn socket_address(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}
