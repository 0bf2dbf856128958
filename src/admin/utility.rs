//! The utility listener (:9003): readiness for the kubelet, metrics for
//! Prometheus, nothing else.
//!
//! In the scheduler's bootstrap it is a connection manager with a health check
//! filter and one route to the admin port; here the admin's answer is made in
//! process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use tokio::net::TcpListener;

use super::reply::ReplyBody;
use super::server::{self, Request, local_reply};
use super::{AdminOps, paths};
use crate::plane::{Plane, ServerState};

const CHECKED_CLUSTER: &str = "x-envoy-upstream-healthchecked-cluster";
const IMMEDIATE_FAIL: &str = "x-envoy-immediate-health-check-fail";
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// Waits until the plane is live, then binds `address`: before, connections
/// are refused, so a probe cannot take a proxy without routes for a ready one.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn bind_when_live(plane: &Plane, address: SocketAddr) -> std::io::Result<TcpListener> {
    let mut states = plane.state_changes();
    // An error means that the plane is gone; binding is harmless then.
    let _ = states.wait_for(|state| *state == ServerState::Live).await;
    TcpListener::bind(address).await
}

/// Serves the utility paths on `listener` for as long as the future is polled.
/// `stat_prefix` is the listener's (`util_endpoint_http`). Must run inside a
/// tokio runtime.
pub async fn serve(
    listener: TcpListener,
    stat_prefix: &str,
    plane: Arc<Plane>,
    ops: Arc<AdminOps>,
) {
    let address = listener.local_addr().unwrap_or_else(|_| ([0, 0, 0, 0], 9003).into());
    let stats = plane.stats.listener(stat_prefix, address);
    let answer = move |request: &Request| answer(&plane, &ops, request);
    server::serve(listener, stats, Arc::new(answer)).await;
}

fn answer(plane: &Plane, ops: &AdminOps, request: &Request) -> Response<ReplyBody> {
    let failing = plane.healthcheck_failed() || plane.state() != ServerState::Live;
    let mut response = if request.path == "/ready" && !request.has_query {
        ready(plane, failing)
    } else if request.path.starts_with("/stats") {
        admin_answer(plane, ops, request, failing)
    } else if request.path == "/metrics" {
        let request = Request { path: "/stats/prometheus".to_owned(), ..request.clone() };
        admin_answer(plane, ops, &request, failing)
    } else {
        local_reply(StatusCode::NOT_FOUND, failing.then(immediate_fail))
    };
    if failing || plane.drain().connections {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Envoy: `filters.http.health_check` without pass-through.
fn ready(plane: &Plane, failing: bool) -> Response<ReplyBody> {
    let cluster =
        HeaderValue::from_str(&plane.node.cluster).unwrap_or_else(|_| HeaderValue::from_static(""));
    let status = if failing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let headers = std::iter::once((CHECKED_CLUSTER, cluster));
    local_reply(status, headers.chain(failing.then(immediate_fail)))
}

fn immediate_fail() -> (&'static str, HeaderValue) {
    (IMMEDIATE_FAIL, HeaderValue::from_static("true"))
}

/// The admin's answer, as if it had been proxied.
fn admin_answer(
    plane: &Plane,
    ops: &AdminOps,
    request: &Request,
    failing: bool,
) -> Response<ReplyBody> {
    let started = Instant::now();
    let mut response = paths::answer(plane, ops, request).into_response();
    let elapsed = HeaderValue::from(u64::try_from(started.elapsed().as_millis()).unwrap_or(0));
    response.headers_mut().insert(HeaderName::from_static(SERVICE_TIME), elapsed);
    if failing {
        let (name, value) = immediate_fail();
        response.headers_mut().insert(name, value);
    }
    response
}
