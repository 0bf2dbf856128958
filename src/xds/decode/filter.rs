//! HTTP filters: tap, the header filter (Lua), router.

use envoy_types::pb::envoy::config::common::matcher::v3 as matcher;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::tap::v3 as tap;
use envoy_types::pb::envoy::extensions::common::tap::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::tap::v3::Tap as TapFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::Any;
use sha2::{Digest, Sha256};

use super::Invalid;
use super::error::{At, overlook, refuse, warn_once};
use super::listener::type_name;
use super::matcher::{header_rule, lower};
use super::scalar::unpack;
use crate::model::{HeaderMatch, ListenerConfig, Tap};

const TAP: &str = "envoy.extensions.filters.http.tap.v3.Tap";
const LUA: &str = "envoy.extensions.filters.http.lua.v3.Lua";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// SHA-256 of the scripts known to be the header filter: the scheduler's of
/// January 2026, and the equivalent in the recorded conversation.
const HEADER_FILTERS: [&str; 2] = [
    "1c79f521159ca11128be4ea975730e108d43d91f9906ad563841723bb6e4ca58",
    "1ce9648c0aed49b953b09cfd59fdba86e999653941b3bb2053c3ae4b08a1f2c9",
];

/// Most bytes of a body that a tap keeps, in each direction (Envoy's default).
const TAP_BODY: u32 = 1024;

pub(super) fn http_filters(
    filters: &[hcm::HttpFilter],
    config: &mut ListenerConfig,
) -> Result<(), Invalid> {
    use hcm::http_filter::ConfigType;
    let mut terminal = false;
    for (i, filter) in filters.iter().enumerate() {
        if terminal {
            return Err(Invalid::new(format!(
                "terminal filter named {0} of type {0} must be the last filter in a http filter chain.",
                filters[i - 1].name
            ))
            .at_index("http_filters", i));
        }
        if filter.disabled {
            return Err(Invalid::unsupported("disabled").at_index("http_filters", i));
        }
        let taken = match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => http_filter(any, config).at("typed_config"),
            Some(ConfigType::ConfigDiscovery(_)) => Err(Invalid::unsupported("config_discovery")),
            None => Err(Invalid::new("value is required").at("typed_config")),
        };
        terminal = match taken {
            Ok(terminal) => terminal,
            Err(e) if filter.is_optional => {
                warn_once(&format!("optional HTTP filter '{}': {e};", filter.name), "left out");
                false
            }
            Err(e) => return Err(e.at_index("http_filters", i)),
        };
    }
    match filters.last() {
        _ if terminal => Ok(()),
        None => Err(Invalid::new("no http filters").at("http_filters")),
        Some(last) => Err(Invalid::new(format!(
            "Error: non-terminal filter named {0} of type {0} is the last filter in a http filter chain.",
            last.name
        ))
        .at("http_filters")),
    }
}

/// Takes one filter over; true if it is the one that ends the chain.
fn http_filter(any: &Any, config: &mut ListenerConfig) -> Result<bool, Invalid> {
    match type_name(any) {
        ROUTER => {
            router(&unpack(any)?)?;
            return Ok(true);
        }
        LUA => {
            header_filter(&unpack(any)?)?;
            config.header_filter = true;
        }
        TAP => config.tap = Some(tap_filter(&unpack(any)?)?),
        other => return Err(Invalid::new(format!("HTTP filter '{other}' is not supported"))),
    }
    Ok(false)
}

fn router(r: &Router) -> Result<(), Invalid> {
    refuse!(r; suppress_envoy_headers, strict_check_headers, respect_expected_rq_timeout,
        upstream_http_filters);
    overlook!(r, "Router"; dynamic_stats, start_child_span, upstream_log, upstream_log_options,
        suppress_grpc_request_failure_code_stats, reject_connect_request_early_data);
    Ok(())
}

/// A Lua filter in this place is the header filter, whatever its text; a text
/// that is not known is named, since another effect would not be honoured.
fn header_filter(lua: &Lua) -> Result<(), Invalid> {
    refuse!(lua; source_codes, filter_context, package_paths, package_cpaths);
    overlook!(lua, "Lua"; stat_prefix);
    if lua.clear_route_cache.is_some_and(|v| !v.value) {
        return Err(Invalid::unsupported("clear_route_cache"));
    }
    let script = match &lua.default_source_code {
        Some(source) => match &source.specifier {
            Some(Specifier::InlineString(s)) => s.as_bytes(),
            Some(Specifier::InlineBytes(b)) => b,
            _ => return Err(Invalid::unsupported("default_source_code")),
        },
        None => lua.inline_code.as_bytes(),
    };
    let digest: String = Sha256::digest(script).iter().map(|b| format!("{b:02x}")).collect();
    if !HEADER_FILTERS.contains(&&*digest) {
        let what = format!("Lua filter with SHA-256 {digest}");
        warn_once(&what, "is not known; it is taken to be the scheduler's header filter");
    }
    Ok(())
}

fn tap_filter(filter: &TapFilter) -> Result<Tap, Invalid> {
    refuse!(filter; record_headers_received_time, record_downstream_connection,
        record_upstream_connection);
    let config = filter.common_config.as_ref().and_then(|c| c.config_type.as_ref());
    let config = match config {
        Some(common::common_extension_config::ConfigType::StaticConfig(config)) => config,
        _ => return Err(Invalid::new("static_config is required").at("common_config")),
    };
    let place = |e: Invalid| e.at("common_config.static_config");
    let mut tap = Tap {
        path_prefix: tap_path(config).map_err(place)?,
        request_header: None,
        response_header: None,
    };
    let rule = config.r#match.as_ref().and_then(|m| m.rule.as_ref());
    tap_rule(rule, &mut tap, true).at("match").map_err(place)?;
    Ok(tap)
}

fn tap_path(config: &tap::TapConfig) -> Result<String, Invalid> {
    use tap::output_sink::{Format, OutputSinkType};
    refuse!(config; match_config, tap_enabled);
    let required = || Invalid::new("value is required").at("output_config");
    let output = config.output_config.as_ref().ok_or_else(required)?;
    refuse!(output; streaming, min_streamed_sent_bytes);
    let other = |v: Option<_>| super::scalar::wrapped(v, TAP_BODY) != TAP_BODY;
    if other(output.max_buffered_rx_bytes) || other(output.max_buffered_tx_bytes) {
        return Err(Invalid::new("only the default of 1024 is supported")
            .at("output_config.max_buffered_rx_bytes"));
    }
    let [sink] = &*output.sinks else {
        return Err(Invalid::new("exactly one sink is required").at("output_config.sinks"));
    };
    if sink.format() != Format::JsonBodyAsBytes {
        return Err(Invalid::unsupported("output_config.sinks[0].format"));
    }
    match &sink.output_sink_type {
        Some(OutputSinkType::FilePerTap(file)) => Ok(file.path_prefix.clone()),
        _ => Err(Invalid::new("file_per_tap is required").at("output_config.sinks[0]")),
    }
}

/// Presence of a request header, of a response header, or of either.
fn tap_rule(
    rule: Option<&matcher::match_predicate::Rule>,
    tap: &mut Tap,
    outer: bool,
) -> Result<(), Invalid> {
    use matcher::match_predicate::Rule;
    match rule {
        Some(Rule::OrMatch(set)) if outer => {
            for (i, rule) in set.rules.iter().enumerate() {
                tap_rule(rule.rule.as_ref(), tap, false).at_index("or_match.rules", i)?;
            }
            Ok(())
        }
        Some(Rule::HttpRequestHeadersMatch(m)) if tap.request_header.is_none() => {
            tap.request_header = Some(present(m).at("http_request_headers_match")?);
            Ok(())
        }
        Some(Rule::HttpResponseHeadersMatch(m)) if tap.response_header.is_none() => {
            tap.response_header = Some(present(m).at("http_response_headers_match")?);
            Ok(())
        }
        _ => Err(Invalid::new("only the presence of a request or a response header is supported")),
    }
}

fn present(m: &matcher::HttpHeadersMatch) -> Result<String, Invalid> {
    let [header] = &*m.headers else {
        return Err(Invalid::new("exactly one header is supported").at("headers"));
    };
    match header_rule(header).at_index("headers", 0)? {
        HeaderMatch::Present(true) if !header.invert_match => Ok(lower(&header.name).to_string()),
        _ => Err(Invalid::new("only present_match is supported").at_index("headers", 0)),
    }
}
