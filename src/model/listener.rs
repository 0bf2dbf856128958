//! Listeners (Envoy: `config.listener.v3.Listener` with one HTTP connection
//! manager).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::route::{RouteTable, StringMatch};
use crate::logic::format::Format;

/// A listener with its resolved route table.
#[derive(Debug)]
pub struct Listener {
    /// Settings.
    pub config: Arc<ListenerConfig>,
    /// The table in force.
    pub routes: Arc<RouteTable>,
}

/// What a listener is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// Proxies by a route table of this name.
    Data {
        /// Envoy: `Rds.route_config_name`, or the inline table's name.
        route_config: String,
    },
    /// The utility listener (:9003): health check and statistics.
    Utility,
}

/// Settings of a listener.
#[derive(Debug)]
pub struct ListenerConfig {
    /// Resource name (`seldon_http`).
    pub name: String,
    /// Address to listen on.
    pub address: SocketAddr,
    /// What it is for.
    pub kind: ListenerKind,
    /// Envoy: `HttpConnectionManager.stat_prefix`.
    pub stat_prefix: String,
    /// The header filter (Lua in the scheduler's listener) runs.
    pub header_filter: bool,
    /// Tap filter, if any.
    pub tap: Option<Tap>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
    /// Downstream TLS, if any.
    pub tls: Option<Arc<crate::tls::DownstreamTls>>,
    /// Downstream connection without active stream; default 1 h.
    pub idle_timeout: Duration,
    /// Envoy: `stream_idle_timeout`; default 5 min.
    pub stream_idle_timeout: Duration,
    /// Envoy: `drain_timeout`, between the two GOAWAYs; default 5 s.
    pub drain_timeout: Duration,
    /// Envoy: `delayed_close_timeout`; default 1 s.
    pub delayed_close: Duration,
    /// Request head limit in bytes; default 60 KiB.
    pub max_head_bytes: usize,
    /// Request head limit in fields, host included; default 100.
    pub max_head_fields: usize,
    /// True if it came from the control plane, false from the bootstrap.
    pub added_via_api: bool,
}

impl ListenerConfig {
    /// A data listener with Envoy's default settings.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr, route_config: &str) -> Self {
        Self {
            name: name.to_owned(),
            address,
            kind: ListenerKind::Data { route_config: route_config.to_owned() },
            stat_prefix: name.to_owned(),
            header_filter: false,
            tap: None,
            access_logs: Vec::new(),
            tls: None,
            idle_timeout: Duration::from_secs(3600),
            stream_idle_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(5),
            delayed_close: Duration::from_secs(1),
            max_head_bytes: 60 * 1024,
            max_head_fields: 100,
            added_via_api: true,
        }
    }
}

/// Tap filter: a file per request that carries, or whose response carries, the
/// header (Envoy: `filters.http.tap.v3.Tap` with `file_per_tap`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Envoy: `FilePerTapSink.path_prefix`.
    pub path_prefix: String,
    /// Lower-case request header whose presence taps.
    pub request_header: Option<String>,
    /// Lower-case response header whose presence taps.
    pub response_header: Option<String>,
}

/// One access log.
#[derive(Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: AccessLogSink,
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Which requests are logged; none: all.
    pub filter: Option<LogFilter>,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogSink {
    File(String),
    Stdout,
    Stderr,
}

/// How an access log line looks.
#[derive(Debug)]
pub enum AccessLogFormat {
    /// Envoy's command operators.
    Text(Format),
    /// One JSON object a line.
    Json(JsonFormat),
}

/// A JSON value made for each request.
#[derive(Debug)]
pub enum JsonFormat {
    /// In this order.
    Object(Vec<(String, JsonFormat)>),
    List(Vec<JsonFormat>),
    /// Command operators: a number, `null` or a string.
    Text(Format),
    /// The same in every line, as JSON.
    Constant(String),
}

/// Envoy: `AccessLogFilter`.
#[derive(Debug)]
pub enum LogFilter {
    /// Envoy: `status_code_filter`.
    Status(StatusOp, u32),
    /// Envoy: `header_filter`.
    Header(LogFilterHeader),
    /// Envoy: `grpc_status_filter`; true: excluded.
    GrpcStatus(Vec<u32>, bool),
    And(Vec<LogFilter>),
    Or(Vec<LogFilter>),
    /// Envoy: `not_health_check_filter` and others that are always true here.
    Always,
}

/// Envoy: `HeaderFilter`, on a request header.
#[derive(Debug)]
pub struct LogFilterHeader {
    /// Lower-case name.
    pub name: String,
    /// None: presence.
    pub value: Option<StringMatch>,
    /// Envoy: `invert_match`.
    pub invert: bool,
}

/// Envoy: `ComparisonFilter.Op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusOp {
    Eq,
    Ge,
    Le,
    Ne,
}
