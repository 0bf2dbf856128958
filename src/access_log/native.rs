//! Radiant's own access log (`--json-access-log`): one JSON object a line, made
//! for questions about models rather than about connections.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::headers::{HeaderId, Headers, RequestHead};
use crate::logic::format::{LogContext, grpc_status};

/// Envoy's response header with the upstream's time, in milliseconds.
const UPSTREAM_TIME: &[u8] = b"x-envoy-upstream-service-time";

/// The fields of a line, in their order. What is not known is `null`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    /// What was asked for: the request's `seldon-model`, which the path may
    /// have given it.
    model: Option<Cow<'a, str>>,
    /// Name of the route that matched.
    route: Option<&'a str>,
    /// The arm that was drawn: the model version's label.
    arm: Option<&'a str>,
    cluster: Option<&'a str>,
    /// Attempts made, the first included; 0: none.
    attempts: u32,
    /// Envoy's short response flags.
    flags: Vec<&'a str>,
    /// 0: no answer.
    status: u16,
    grpc_status: Option<u32>,
    details: Option<&'a str>,
    method: Option<Cow<'a, str>>,
    path: Option<Cow<'a, str>>,
    protocol: Option<&'a str>,
    authority: Option<Cow<'a, str>>,
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: Option<u64>,
    upstream_ms: Option<u64>,
    upstream: Option<std::net::SocketAddr>,
    client: Option<std::net::SocketAddr>,
    request_id: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
}

/// Appends the line of a request.
pub(super) fn render(c: &LogContext<'_>, out: &mut Vec<u8>) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, &Line::of(c)).is_err() {
        // Writing into memory cannot fail; half a line would be worse than none.
        out.truncate(before);
        return;
    }
    let _ = out.write_all(b"\n");
}

impl<'a> Line<'a> {
    fn of(c: &LogContext<'a>) -> Self {
        let request = c.request.filter(|head| !head.method().is_empty());
        let header = |name: &[u8]| request.and_then(|head| first(&head.headers, name));
        let part = |of: fn(&'a RequestHead) -> &'a [u8]| request.map(|head| lossy(of(head)));
        let upstream_ms = c.response.and_then(|head| first(&head.headers, UPSTREAM_TIME));
        Self {
            time: time(c.start),
            model: header(b"seldon-model").filter(|model| !model.is_empty()),
            route: c.route_name.filter(|name| !name.is_empty()),
            arm: c.upstream_cluster.map(label),
            cluster: c.upstream_cluster,
            attempts: c.attempts,
            flags: c.flags.split(',').filter(|flag| !flag.is_empty()).collect(),
            status: c.status,
            grpc_status: grpc_status(c),
            details: c.details.filter(|details| !details.is_empty()),
            method: part(RequestHead::method),
            path: part(RequestHead::path),
            protocol: c.protocol,
            authority: part(RequestHead::authority).filter(|_| !c.nameless),
            bytes_received: c.bytes_received,
            bytes_sent: c.bytes_sent,
            duration_ms: c.duration.map(millis),
            upstream_ms: upstream_ms.and_then(|ms| ms.parse().ok()),
            upstream: c.upstream_host,
            client: c.downstream_remote,
            request_id: header(b"x-request-id"),
            user_agent: header(b"user-agent"),
        }
    }
}

/// A cluster's name without what it speaks: `iris_1_grpc` is the arm `iris_1`.
fn label(cluster: &str) -> &str {
    let bare = cluster.strip_suffix("_http").or_else(|| cluster.strip_suffix("_grpc"));
    bare.unwrap_or(cluster)
}

fn first<'a>(headers: &'a Headers, name: &[u8]) -> Option<Cow<'a, str>> {
    let id = HeaderId::of(name);
    headers.iter().find(|f| f.id == id && f.name == name).map(|f| lossy(f.value))
}

fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC, with milliseconds.
fn time(at: SystemTime) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}
