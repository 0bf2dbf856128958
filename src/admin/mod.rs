//! The admin listener (:9901) and the utility listener (:9003).
//!
//! Both run on the control thread. Paths, texts, headers and their order are
//! Envoy's, so that probes, preStop hooks, scrapes and scripts written for it
//! go on working; `tests/data/admin/` holds what the real one answered.
//!
//! A request takes effect when its head has been read: a preStop hook that
//! writes to `/dev/tcp` and leaves without reading is served like any other.

mod certs;
mod config_dump;
mod details;
pub mod logging;
mod metrics;
mod ops;
mod paths;
mod process;
mod query;
mod reply;
mod server;
mod status;
pub mod utility;

use std::sync::Arc;

use tokio::net::TcpListener;

pub use logging::{Level, LogControl, init_logging};
pub use ops::{AdminOps, DrainRequest, ToJson};

use crate::plane::Plane;

/// Envoy: the admin listener's `stat_prefix`.
pub(crate) const ADMIN_PREFIX: &str = "admin";

/// Serves the admin paths on `listener` for as long as the future is polled.
/// Must run inside a tokio runtime; connections are tasks of it.
pub async fn serve(listener: TcpListener, plane: Arc<Plane>, ops: Arc<AdminOps>) {
    let address = listener.local_addr().unwrap_or_else(|_| ([127, 0, 0, 1], 9901).into());
    let stats = plane.stats.listener(ADMIN_PREFIX, address);
    let answer =
        move |request: &server::Request| paths::answer(&plane, &ops, request).into_response();
    server::serve(listener, stats, Arc::new(answer)).await;
}

#[cfg(test)]
mod tests;
