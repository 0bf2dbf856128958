//! Listeners.

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::Invalid;
use super::error::{At, Unset, overlook, refuse, warn_once};
use super::scalar::{ip_address, limit, unpack};
use crate::model::ListenerConfig;
use crate::tls::spec::{DownstreamSpec, HANDSHAKE_TIMEOUT};

const CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// A listener and where its table comes from.
#[derive(Debug)]
pub struct DecodedListener {
    /// Settings.
    pub config: ListenerConfig,
    /// The table.
    pub routes: RouteSource,
    /// TLS towards clients; none: plain text. Not yet in `config`.
    pub tls: Option<DownstreamSpec>,
}

/// Where a listener's table comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// Envoy: `Rds.route_config_name`.
    Named(String),
    /// Envoy: `HttpConnectionManager.route_config`, encoded.
    Inline(Bytes),
}

/// Decodes a `config.listener.v3.Listener` with one HTTP connection manager.
///
/// # Errors
///
/// The first field that is wrong or not supported.
pub fn listener(message: &Bytes) -> Result<DecodedListener, Invalid> {
    let l = pb::Listener::decode(&**message)
        .map_err(|e| Invalid::new(format!("malformed protobuf message: {e}")))?;
    refuse!(l; additional_addresses, fcds_config, filter_chain_matcher, default_filter_chain,
        udp_listener_config, api_listener, listener_specifier);
    overlook!(l, "Listener"; stat_prefix, stats_matcher, per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout, metadata, drain_type, freebind,
        listener_filters_timeout, continue_on_listener_filters_timeout, socket_options,
        tcp_fast_open_queue_length, traffic_direction, connection_balance_config, reuse_port,
        access_log, tcp_backlog_size, max_connections_to_accept_per_socket_event, enable_mptcp,
        ignore_global_conn_limit, bypass_overload_manager, tcp_keepalive);
    if l.name.is_unset() {
        return Err(Invalid::new("value length must be at least 1 characters").at("name"));
    }
    if l.use_original_dst.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("use_original_dst"));
    }
    if l.transparent.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("transparent"));
    }
    let old = l.deprecated_v1.as_ref().and_then(|d| d.bind_to_port);
    if [l.bind_to_port, old].into_iter().flatten().any(|v| !v.value) {
        return Err(Invalid::unsupported("bind_to_port"));
    }
    for (i, filter) in l.listener_filters.iter().enumerate() {
        match &*filter.name {
            // Both kinds are told apart here without being asked.
            "envoy.filters.listener.tls_inspector" | "envoy.filters.listener.http_inspector" => {}
            other => {
                let reason = format!("listener filter '{other}' is not supported");
                return Err(Invalid::new(reason).at_index("listener_filters", i));
            }
        }
    }
    let address = ip_address(l.address.as_ref()).at("address")?;
    let [chain] = &*l.filter_chains else {
        let reason = format!(
            "error adding listener '{address}': exactly one filter chain is supported, not {}",
            l.filter_chains.len()
        );
        return Err(Invalid::new(reason).at("filter_chains"));
    };
    let mut config = ListenerConfig::new(&l.name, address, "");
    let routes = filter_chain(chain, &mut config).at_index("filter_chains", 0)?;
    let tls = tls(chain).at_index("filter_chains", 0)?;
    Ok(DecodedListener { config, routes, tls })
}

fn filter_chain(
    chain: &pb::FilterChain,
    config: &mut ListenerConfig,
) -> Result<RouteSource, Invalid> {
    if chain.filter_chain_match.as_ref().is_some_and(|m| *m != pb::FilterChainMatch::default()) {
        return Err(Invalid::unsupported("filter_chain_match"));
    }
    if chain.use_proxy_proto.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("use_proxy_proto"));
    }
    overlook!(chain, "FilterChain"; metadata);
    let [filter] = &*chain.filters else {
        return Err(Invalid::new("exactly one network filter is supported").at("filters"));
    };
    let manager = connection_manager(filter).at_index("filters", 0)?;
    super::connection_manager::apply(&manager, config).at("typed_config").at_index("filters", 0)
}

fn tls(chain: &pb::FilterChain) -> Result<Option<DownstreamSpec>, Invalid> {
    let timeout =
        limit(chain.transport_socket_connect_timeout.as_ref(), "transport_socket_connect_timeout")?;
    let timeout = timeout.unwrap_or(HANDSHAKE_TIMEOUT);
    super::tls::downstream(chain.transport_socket.as_ref(), timeout).at("transport_socket")
}

fn connection_manager(filter: &pb::Filter) -> Result<HttpConnectionManager, Invalid> {
    use pb::filter::ConfigType;
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) if type_name(any) == CONNECTION_MANAGER => {
            unpack(any).at("typed_config")
        }
        Some(ConfigType::ConfigDiscovery(_)) => Err(Invalid::unsupported("config_discovery")),
        _ => {
            warn_once(&format!("network filter '{}'", filter.name), "is not known");
            Err(Invalid::new(format!("network filter '{}' is not supported", filter.name)))
        }
    }
}

/// The message type in an `Any`'s URL.
pub(super) fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}
