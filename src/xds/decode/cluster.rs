//! Clusters.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, RoutingPriority};
use envoy_types::pb::envoy::config::endpoint::v3 as ep;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as up;
use prost::Message;

use super::Invalid;
use super::error::{At, Unset, overlook, refuse, warn_once};
use super::scalar::{duration_or, socket_address, unpack, wrapped};
use crate::model::{EndpointAddress, Limits, UpstreamProtocol};
use crate::tls::spec::UpstreamSpec;

/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Envoy's default of `dns_refresh_rate`. The scheduler sends 2 s.
const REFRESH: Duration = Duration::from_secs(5);

/// Key of the only protocol options that are known.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster before its endpoints are interned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedCluster {
    /// Resource name.
    pub name: String,
    /// Protocol towards hosts.
    pub protocol: UpstreamProtocol,
    /// TLS towards hosts; none: plain text.
    pub tls: Option<UpstreamSpec>,
    /// As configured, in the order given.
    pub endpoints: Vec<EndpointAddress>,
    /// Envoy: `dns_refresh_rate`.
    pub refresh: Duration,
    /// Envoy: `connect_timeout`.
    pub connect_timeout: Duration,
    /// Circuit breakers of the default priority.
    pub limits: Limits,
}

/// Decodes a `config.cluster.v3.Cluster`.
///
/// # Errors
///
/// The first field that is wrong or not supported.
pub fn cluster(message: &Bytes) -> Result<DecodedCluster, Invalid> {
    let c = pb::Cluster::decode(&**message)
        .map_err(|e| Invalid::new(format!("malformed protobuf message: {e}")))?;
    refuse!(c; transport_socket_matches, transport_socket_matcher, eds_cluster_config,
        health_checks, outlier_detection, dns_resolvers, dns_resolution_config,
        typed_dns_resolver_config, upstream_bind_config, lb_subset_config, filters,
        load_balancing_policy, upstream_config, connection_pool_per_downstream_connection);
    overlook!(c, "Cluster"; alt_stat_name, stats_matcher, per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout, max_requests_per_connection,
        upstream_http_protocol_options, common_http_protocol_options, http_protocol_options,
        dns_jitter, dns_failure_refresh_rate, respect_dns_ttl, use_tcp_for_dns_lookups,
        cleanup_interval, common_lb_config, metadata, protocol_selection,
        upstream_connection_options, close_connections_on_host_health_failure,
        ignore_health_on_host_removal, lrs_server, lrs_report_endpoint_metrics,
        track_timeout_budgets, track_cluster_stats, preconnect_policy, queuing_policies);
    if c.name.is_unset() {
        return Err(Invalid::new("value length must be at least 1 characters").at("name"));
    }
    balancing(&c)?;
    let connect_timeout =
        duration_or(c.connect_timeout.as_ref(), "connect_timeout", CONNECT_TIMEOUT)?;
    if connect_timeout.is_zero() {
        return Err(Invalid::new("value must be greater than 0s").at("connect_timeout"));
    }
    let refresh = duration_or(c.dns_refresh_rate.as_ref(), "dns_refresh_rate", REFRESH)?;
    if refresh < Duration::from_millis(1) {
        return Err(Invalid::new("value must be greater than 1ms").at("dns_refresh_rate"));
    }
    let protocol = protocol(&c)?;
    let tls = super::tls::upstream(c.transport_socket.as_ref(), protocol);
    Ok(DecodedCluster {
        refresh,
        protocol,
        tls: tls.at("transport_socket")?,
        endpoints: endpoints(&c)?,
        connect_timeout,
        limits: c.circuit_breakers.as_ref().map(limits).unwrap_or_default(),
        name: c.name,
    })
}

fn balancing(c: &pb::Cluster) -> Result<(), Invalid> {
    use pb::cluster::{DnsLookupFamily, LbPolicy};
    match LbPolicy::try_from(c.lb_policy) {
        Ok(LbPolicy::LeastRequest) => {}
        Ok(LbPolicy::RoundRobin | LbPolicy::Random) => {
            warn_once("Cluster.lb_policy", "other than LEAST_REQUEST is balanced as LEAST_REQUEST");
        }
        _ => return Err(Invalid::unsupported("lb_policy")),
    }
    if c.lb_config.is_some() {
        warn_once("Cluster.lb_config", "has no effect here");
    }
    match DnsLookupFamily::try_from(c.dns_lookup_family) {
        Ok(DnsLookupFamily::V4Only) => Ok(()),
        Ok(DnsLookupFamily::V6Only) => Err(Invalid::unsupported("dns_lookup_family")),
        _ if discovery(c) == Ok(pb::cluster::DiscoveryType::Static) => Ok(()),
        _ => {
            warn_once("Cluster.dns_lookup_family", "other than V4_ONLY asks for IPv4 only");
            Ok(())
        }
    }
}

fn discovery(c: &pb::Cluster) -> Result<pb::cluster::DiscoveryType, Invalid> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    match c.cluster_discovery_type {
        None => Ok(DiscoveryType::Static),
        Some(ClusterDiscoveryType::Type(t)) => match DiscoveryType::try_from(t) {
            Ok(
                t @ (DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns),
            ) => Ok(t),
            _ => Err(Invalid::unsupported("type")),
        },
        Some(ClusterDiscoveryType::ClusterType(_)) => Err(Invalid::unsupported("cluster_type")),
    }
}

fn protocol(c: &pb::Cluster) -> Result<UpstreamProtocol, Invalid> {
    use up::http_protocol_options::UpstreamProtocolOptions;
    use up::http_protocol_options::explicit_http_config::ProtocolConfig;

    const FIELD: &str = "typed_extension_protocol_options";
    if let Some(other) = c.typed_extension_protocol_options.keys().find(|k| *k != HTTP_OPTIONS) {
        return Err(Invalid::unsupported(&format!("{FIELD}[{other}]")));
    }
    let Some(any) = c.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        let http2 = c.http2_protocol_options.is_some();
        return Ok(if http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 });
    };
    let options: up::HttpProtocolOptions = unpack(any).at(FIELD)?;
    let refuse = || -> Result<(), Invalid> {
        refuse!(options; http_filters, header_validation_config, outlier_detection,
            request_mirror_policies, retry_policy);
        Ok(())
    };
    refuse().at(FIELD)?;
    overlook!(options, "HttpProtocolOptions"; common_http_protocol_options,
        upstream_http_protocol_options, hash_policy);
    let explicit = match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => explicit.protocol_config,
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => {
            return Err(Invalid::unsupported("use_downstream_protocol_config").at(FIELD));
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            return Err(Invalid::unsupported("auto_config").at(FIELD));
        }
        None => None,
    };
    match explicit {
        Some(ProtocolConfig::HttpProtocolOptions(_)) => Ok(UpstreamProtocol::Http1),
        Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(UpstreamProtocol::Http2),
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            Err(Invalid::unsupported("http3_protocol_options").at(FIELD))
        }
        None => Err(Invalid::new("value is required").at("upstream_protocol_options").at(FIELD)),
    }
}

fn limits(breakers: &pb::CircuitBreakers) -> Limits {
    overlook!(breakers, "CircuitBreakers"; per_host_thresholds);
    let defaults = Limits::default();
    let priority = RoutingPriority::Default as i32;
    let Some(t) = breakers.thresholds.iter().find(|t| t.priority == priority) else {
        return defaults;
    };
    overlook!(t, "CircuitBreakers.Thresholds"; retry_budget, max_connection_pools);
    Limits {
        max_connections: wrapped(t.max_connections, defaults.max_connections),
        max_pending_requests: wrapped(t.max_pending_requests, defaults.max_pending_requests),
        max_requests: wrapped(t.max_requests, defaults.max_requests),
        max_retries: wrapped(t.max_retries, defaults.max_retries),
    }
}

fn endpoints(c: &pb::Cluster) -> Result<Vec<EndpointAddress>, Invalid> {
    use pb::cluster::DiscoveryType;
    let discovery = discovery(c)?;
    let Some(assignment) = &c.load_assignment else {
        return Err(Invalid::new("value is required").at("load_assignment"));
    };
    let (endpoints, weights): (Vec<_>, Vec<_>) =
        weighted_endpoints(assignment, discovery).at("load_assignment")?.into_iter().unzip();
    if weights.windows(2).any(|w| w[0] != w[1]) {
        return Err(Invalid::new("different endpoint weights are not supported")
            .at("load_assignment.endpoints.lb_endpoints.load_balancing_weight"));
    }
    if discovery == DiscoveryType::LogicalDns && endpoints.len() != 1 {
        return Err(Invalid::new(
            "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint",
        ));
    }
    Ok(endpoints)
}

fn weighted_endpoints(
    assignment: &ep::ClusterLoadAssignment,
    discovery: pb::cluster::DiscoveryType,
) -> Result<Vec<(EndpointAddress, u32)>, Invalid> {
    refuse!(assignment; named_endpoints);
    overlook!(assignment, "ClusterLoadAssignment"; policy);
    let mut out = Vec::new();
    for (i, locality) in assignment.endpoints.iter().enumerate() {
        check_locality(locality).at_index("endpoints", i)?;
        for (j, e) in locality.lb_endpoints.iter().enumerate() {
            let address = endpoint(e, discovery);
            let address = address.at_index("lb_endpoints", j).at_index("endpoints", i)?;
            out.push((address, wrapped(e.load_balancing_weight, 1)));
        }
    }
    Ok(out)
}

fn check_locality(locality: &ep::LocalityLbEndpoints) -> Result<(), Invalid> {
    refuse!(locality; priority, lb_config);
    overlook!(locality, "LocalityLbEndpoints"; load_balancing_weight, proximity);
    Ok(())
}

fn endpoint(
    e: &ep::LbEndpoint,
    discovery: pb::cluster::DiscoveryType,
) -> Result<EndpointAddress, Invalid> {
    use ep::lb_endpoint::HostIdentifier;
    let endpoint = match &e.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => return Err(Invalid::unsupported("endpoint_name")),
        None => return Err(Invalid::new("value is required").at("host_identifier")),
    };
    match e.health_status() {
        HealthStatus::Unknown | HealthStatus::Healthy => {}
        _ => return Err(Invalid::unsupported("health_status")),
    }
    refuse!(endpoint; additional_addresses);
    overlook!(endpoint, "Endpoint"; health_check_config, hostname, observability_name);
    let (text, port) = socket_address(endpoint.address.as_ref()).at("endpoint.address")?;
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(EndpointAddress::Socket((ip, port).into())),
        Err(_) if discovery == pb::cluster::DiscoveryType::Static => Err(Invalid::new(format!(
            "malformed IP address: {text}. Consider setting resolver_name or setting cluster \
             type to 'STRICT_DNS' or 'LOGICAL_DNS'"
        ))),
        Err(_) => Ok(EndpointAddress::Name(text.into(), port)),
    }
}
