//! What the admin listener needs from the rest of the process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::LogControl;
use crate::plane::Plane;
use crate::seldon_stats::SeldonMetrics;

/// `POST /drain_listeners`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainRequest {
    /// `?graceful`: connections drain first, listeners stop after the drain
    /// time.
    pub graceful: bool,
    /// `?skip_exit`: connections drain, listeners never stop.
    pub skip_exit: bool,
}

/// Turns a protobuf message into proto3 JSON: type name without
/// `type.googleapis.com/`, message bytes. The error is shown in the dump.
pub type ToJson = Arc<dyn Fn(&str, &[u8]) -> Result<Value, String> + Send + Sync>;

/// Hooks of the admin listener. [`AdminOps::new`] gives each a default that
/// needs only the plane; assign the fields that have a better owner.
#[allow(clippy::type_complexity)]
pub struct AdminOps {
    /// For `/config_dump`.
    pub to_json: ToJson,
    /// For `/logging`.
    pub logging: LogControl,
    /// `seldon_*` metrics.
    pub seldon: Arc<SeldonMetrics>,
    /// `/reopen_logs`: access logs are opened anew. Default: nothing.
    pub reopen_logs: Box<dyn Fn() + Send + Sync>,
    /// `/drain_listeners`. Default: by the plane; graceful needs a runtime.
    pub drain_listeners: Box<dyn Fn(DrainRequest) + Send + Sync>,
    /// `/quitquitquit`. Default: [`Plane::begin_exit`].
    pub quit: Box<dyn Fn() + Send + Sync>,
    /// Names of clusters that are known and not routable yet. Default: none.
    pub warming: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// `command_line_options` of `/server_info`.
    pub command_line_options: Value,
    /// `version` of `/server_info`.
    pub version: String,
}

impl std::fmt::Debug for AdminOps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminOps").field("version", &self.version).finish_non_exhaustive()
    }
}

impl AdminOps {
    /// Defaults over `plane`. `drain_time` is `--drain-time-s`.
    #[must_use]
    pub fn new(
        plane: &Arc<Plane>,
        logging: LogControl,
        seldon: Arc<SeldonMetrics>,
        to_json: ToJson,
        drain_time: Duration,
    ) -> Self {
        let (draining, quitting) = (Arc::clone(plane), Arc::clone(plane));
        Self {
            to_json,
            logging,
            seldon,
            reopen_logs: Box::new(|| {}),
            drain_listeners: Box::new(move |request| drain(&draining, request, drain_time)),
            quit: Box::new(move || quitting.begin_exit()),
            warming: Box::new(Vec::new),
            command_line_options: json!({
                "concurrency": plane.stats.shards.saturating_sub(1),
                "drain_time": format!("{}s", drain_time.as_secs()),
                "mode": "Serve",
            }),
            version: format!("radiant/{}/Clean/RELEASE/rustls", env!("CARGO_PKG_VERSION")),
        }
    }
}

fn drain(plane: &Arc<Plane>, request: DrainRequest, drain_time: Duration) {
    if request.graceful || request.skip_exit {
        plane.drain_connections();
    }
    if request.skip_exit {
        return;
    }
    if !request.graceful {
        return plane.drain_listeners();
    }
    let plane = Arc::clone(plane);
    tokio::spawn(async move {
        tokio::time::sleep(drain_time).await;
        plane.drain_listeners();
    });
}
