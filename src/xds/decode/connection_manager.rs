//! The HTTP connection manager of a listener.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::http_connection_manager::{CodecType, RouteSpecifier};
use prost::Message;

use super::access_log::access_log;
use super::error::{At, Unset, overlook, refuse, warn_once};
use super::filter::http_filters;
use super::scalar::{duration_or, wrapped};
use super::{Invalid, RouteSource};
use crate::model::{ListenerConfig, ListenerKind};

/// Sets what the manager says about the listener; returns where its table is.
pub(super) fn apply(
    m: &pb::HttpConnectionManager,
    config: &mut ListenerConfig,
) -> Result<RouteSource, Invalid> {
    refuse_what_changes_traffic(m)?;
    overlook!(m, "HttpConnectionManager"; tracing, http1_safe_max_connection_duration,
        http_protocol_options, http2_protocol_options, http3_protocol_options,
        stream_flush_timeout, drain_timeout_jitter, access_log_flush_interval,
        flush_access_log_on_new_request, access_log_options, internal_address_config,
        preserve_external_request_id, stream_error_on_invalid_http_message,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, request_id_extension,
        set_current_client_cert_details, forward_client_cert_matcher,
        path_normalization_options, typed_header_validation_config,
        add_proxy_protocol_connection_state);
    match CodecType::try_from(m.codec_type) {
        Ok(CodecType::Auto) => {}
        Ok(CodecType::Http1 | CodecType::Http2) => {
            warn_once("HttpConnectionManager.codec_type", "is taken as AUTO");
        }
        _ => return Err(Invalid::unsupported("codec_type")),
    }
    if m.generate_request_id.is_none_or(|v| v.value) {
        warn_once("HttpConnectionManager.generate_request_id", "is taken as false");
    }
    if m.stat_prefix.is_unset() {
        return Err(Invalid::new("value length must be at least 1 characters").at("stat_prefix"));
    }
    m.stat_prefix.clone_into(&mut config.stat_prefix);
    if let Some(common) = &m.common_http_protocol_options {
        common_options(common, config).at("common_http_protocol_options")?;
    }
    config.max_head_bytes =
        usize::try_from(wrapped(m.max_request_headers_kb, 60)).unwrap_or(60) * 1024;
    let time = |d: Option<_>, field: &str, default: Duration| duration_or(d, field, default);
    config.stream_idle_timeout =
        time(m.stream_idle_timeout.as_ref(), "stream_idle_timeout", config.stream_idle_timeout)?;
    config.drain_timeout = time(m.drain_timeout.as_ref(), "drain_timeout", config.drain_timeout)?;
    config.delayed_close =
        time(m.delayed_close_timeout.as_ref(), "delayed_close_timeout", config.delayed_close)?;
    for (i, log) in m.access_log.iter().enumerate() {
        config.access_logs.push(access_log(log).at_index("access_log", i)?);
    }
    http_filters(&m.http_filters, config)?;
    route_source(m, config)
}

fn refuse_what_changes_traffic(m: &pb::HttpConnectionManager) -> Result<(), Invalid> {
    refuse!(m; server_header_transformation, scheme_header_transformation, xff_num_trusted_hops,
        original_ip_detection_extensions, early_header_mutation_extensions, via,
        always_set_request_id_in_response, forward_client_cert_details, proxy_100_continue,
        upgrade_configs, merge_slashes, local_reply_config, strip_matching_host_port,
        strip_trailing_host_dot, proxy_status_config, append_x_forwarded_port,
        append_local_overload, forward_proto_config, strip_port_mode);
    for (field, on) in [
        ("add_user_agent", m.add_user_agent),
        ("use_remote_address", m.use_remote_address),
        ("normalize_path", m.normalize_path),
    ] {
        if on.is_some_and(|v| v.value) {
            return Err(Invalid::unsupported(field));
        }
    }
    // 1 is KEEP_UNCHANGED, the default.
    if m.path_with_escaped_slashes_action > 1 {
        return Err(Invalid::unsupported("path_with_escaped_slashes_action"));
    }
    if !matches!(&*m.server_name, "" | "envoy") {
        return Err(Invalid::unsupported("server_name"));
    }
    let limit = |d: Option<_>, field: &str| {
        if duration_or(d, field, Duration::ZERO)?.is_zero() {
            Ok(())
        } else {
            Err(Invalid::unsupported(field))
        }
    };
    limit(m.request_timeout.as_ref(), "request_timeout")?;
    limit(m.request_headers_timeout.as_ref(), "request_headers_timeout")
}

fn common_options(o: &HttpProtocolOptions, config: &mut ListenerConfig) -> Result<(), Invalid> {
    refuse!(o; max_connection_duration, max_stream_duration, headers_with_underscores_action,
        max_requests_per_connection);
    overlook!(o, "HttpProtocolOptions"; max_connection_duration_jitter, max_response_headers_kb);
    config.idle_timeout =
        duration_or(o.idle_timeout.as_ref(), "idle_timeout", config.idle_timeout)?;
    let fields = wrapped(o.max_headers_count, 100);
    config.max_head_fields = usize::try_from(fields).unwrap_or(usize::MAX);
    Ok(())
}

fn route_source(
    m: &pb::HttpConnectionManager,
    config: &mut ListenerConfig,
) -> Result<RouteSource, Invalid> {
    let (name, source) = match &m.route_specifier {
        Some(RouteSpecifier::Rds(rds)) if rds.route_config_name.is_empty() => {
            return Err(Invalid::new("value length must be at least 1 characters")
                .at("rds.route_config_name"));
        }
        Some(RouteSpecifier::Rds(rds)) => {
            (&rds.route_config_name, RouteSource::Named(rds.route_config_name.clone()))
        }
        Some(RouteSpecifier::RouteConfig(table)) => {
            (&table.name, RouteSource::Inline(Bytes::from(table.encode_to_vec())))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            return Err(Invalid::unsupported("scoped_routes"));
        }
        None => return Err(Invalid::new("value is required").at("route_specifier")),
    };
    config.kind = ListenerKind::Data { route_config: name.clone() };
    Ok(source)
}
