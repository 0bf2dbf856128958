//! The two listeners: one connection manager each with the filters tap, Lua
//! and router.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, AndFilter, ComparisonFilter, GrpcStatusFilter, HeaderFilter,
    OrFilter, StatusCodeFilter, access_log, access_log_filter::FilterSpecifier, comparison_filter,
    grpc_status_filter,
};
use envoy_types::pb::envoy::config::common::matcher::v3::{
    HttpHeadersMatch, MatchPredicate, match_predicate,
};
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, RuntimeUInt32,
    SubstitutionFormatString, config_source::ConfigSourceSpecifier, data_source,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::tap::v3::{
    FilePerTapSink, OutputConfig, OutputSink, TapConfig, output_sink::OutputSinkType,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use envoy_types::pb::envoy::extensions::common::tap::v3::{
    CommonExtensionConfig, common_extension_config,
};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::tap::v3::Tap;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use envoy_types::util::pack_any;

use super::cluster::socket_address;
use super::{MIRROR_TABLE, ROUTE_TABLE};

/// Name of the listener for requests.
pub const HTTP_LISTENER: &str = "seldon_http";
/// Name of the listener for copies of requests.
pub const MIRROR_LISTENER: &str = "seldon_mirrors";

/// Script that derives `seldon-model` from the path. The same effect as the
/// scheduler's own.
pub const HEADER_FILTER_SCRIPT: &str = include_str!("header_filter.lua");

/// Format of the lines of the access log.
pub const ACCESS_LOG_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %GRPC_STATUS_NUMBER% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% ",
    "%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" ",
    "\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n",
);

/// What may differ between two installations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Address of listener `seldon_http`; the scheduler: 0.0.0.0.
    pub http_host: String,
    /// Port of listener `seldon_http`; the scheduler: 9000.
    pub http_port: u16,
    /// Address of listener `seldon_mirrors`, and where its clusters lead; the
    /// scheduler: 0.0.0.0.
    pub mirror_host: String,
    /// Port of listener `seldon_mirrors`; the scheduler: 9001.
    pub mirror_port: u16,
    /// Access log, if any.
    pub access_log: Option<AccessLogOptions>,
    /// Path prefix of the files of the tap filter; the scheduler:
    /// `/tmp/request-log`. None: no tap filter.
    pub tap_path_prefix: Option<String>,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            http_host: "0.0.0.0".to_owned(),
            http_port: 9000,
            mirror_host: "0.0.0.0".to_owned(),
            mirror_port: 9001,
            access_log: Some(AccessLogOptions::default()),
            tap_path_prefix: Some("/tmp/request-log".to_owned()),
        }
    }
}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogOptions {
    /// File; the scheduler: `/tmp/envoy-accesslog.txt`.
    pub path: String,
    /// Log requests that went well too; the scheduler: false.
    pub successes: bool,
}

impl Default for AccessLogOptions {
    fn default() -> Self {
        Self { path: "/tmp/envoy-accesslog.txt".to_owned(), successes: false }
    }
}

/// `seldon_http` and `seldon_mirrors`.
#[must_use]
pub fn listeners(options: &ListenerOptions) -> Vec<Listener> {
    let ListenerOptions { http_host, http_port, mirror_host, mirror_port, .. } = options;
    vec![
        listener(HTTP_LISTENER, http_host, *http_port, ROUTE_TABLE, options),
        listener(MIRROR_LISTENER, mirror_host, *mirror_port, MIRROR_TABLE, options),
    ]
}

fn listener(name: &str, host: &str, port: u16, table: &str, options: &ListenerOptions) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: http_filters(options),
        access_log: options.access_log.iter().map(access_log).collect(),
        generate_request_id: Some(BoolValue { value: false }),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ConfigSource {
                resource_api_version: ApiVersion::V3.into(),
                config_source_specifier: Some(ConfigSourceSpecifier::Ads(
                    AggregatedConfigSource::default(),
                )),
                ..Default::default()
            }),
            route_config_name: table.to_owned(),
        })),
        ..Default::default()
    };
    Listener {
        name: name.to_owned(),
        address: Some(socket_address(host, port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn http_filters(options: &ListenerOptions) -> Vec<HttpFilter> {
    let filter = |name: &str, config: Any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let lua = Lua {
        default_source_code: Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(HEADER_FILTER_SCRIPT.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let tap = options.tap_path_prefix.as_deref();
    let tap = tap.map(|prefix| filter("envoy.filters.http.tap", pack_any(tap_filter(prefix))));
    tap.into_iter()
        .chain([
            filter("envoy.filters.http.lua", pack_any(lua)),
            filter("envoy.filters.http.router", pack_any(Router::default())),
        ])
        .collect()
}

fn tap_filter(path_prefix: &str) -> Tap {
    let logged = || HttpHeadersMatch {
        headers: vec![HeaderMatcher {
            name: "Seldon-Logging".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        }],
    };
    let rules = [
        match_predicate::Rule::HttpResponseHeadersMatch(logged()),
        match_predicate::Rule::HttpRequestHeadersMatch(logged()),
    ];
    let rules = rules.map(|rule| MatchPredicate { rule: Some(rule) }).into();
    let config = TapConfig {
        r#match: Some(MatchPredicate {
            rule: Some(match_predicate::Rule::OrMatch(match_predicate::MatchSet { rules })),
        }),
        output_config: Some(OutputConfig {
            sinks: vec![OutputSink {
                output_sink_type: Some(OutputSinkType::FilePerTap(FilePerTapSink {
                    path_prefix: path_prefix.to_owned(),
                })),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    Tap {
        common_config: Some(CommonExtensionConfig {
            config_type: Some(common_extension_config::ConfigType::StaticConfig(config)),
        }),
        ..Default::default()
    }
}

fn access_log(options: &AccessLogOptions) -> AccessLog {
    let file = FileAccessLog {
        path: options.path.clone(),
        access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(ACCESS_LOG_FORMAT.to_owned())),
                ..Default::default()
            })),
            ..Default::default()
        })),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: (!options.successes).then(failures_only),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(file))),
    }
}

/// HTTP errors of requests with a content type other than gRPC's, and gRPC
/// calls whose status is not OK.
fn failures_only() -> AccessLogFilter {
    let filter = |specifier| AccessLogFilter { filter_specifier: Some(specifier) };
    let grpc_content = |invert_match| {
        filter(FilterSpecifier::HeaderFilter(HeaderFilter {
            header: Some(HeaderMatcher {
                name: "content-type".to_owned(),
                invert_match,
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    ignore_case: true,
                    match_pattern: Some(MatchPattern::Prefix("application/grpc".to_owned())),
                })),
                ..Default::default()
            }),
        }))
    };
    let http_error = filter(FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Ge.into(),
            value: Some(RuntimeUInt32 {
                default_value: 400,
                runtime_key: "status_code".to_owned(),
            }),
        }),
    }));
    let grpc_error = filter(FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter {
        statuses: vec![grpc_status_filter::Status::Ok.into()],
        exclude: true,
    }));
    let and = |filters| filter(FilterSpecifier::AndFilter(AndFilter { filters }));
    filter(FilterSpecifier::OrFilter(OrFilter {
        filters: vec![
            and(vec![http_error, grpc_content(true)]),
            and(vec![grpc_error, grpc_content(false)]),
        ],
    }))
}
