//! What the data plane serves, as plain data: listeners, route tables,
//! clusters, endpoints. Knows no sockets and no control plane.
//!
//! A request loads one [`Snapshot`] and keeps it. Routes hold their clusters by
//! [`ClusterSlot`], a named place whose content the control side replaces:
//! a cluster that changes costs one pointer swap, not a new table, and a
//! cluster that is removed leaves when the last table that names it has left.

mod cluster;
mod listener;
mod raw_table;
mod resources;
mod route;
mod text;

use std::sync::Arc;

pub use cluster::{
    Cluster, ClusterName, ClusterSlot, Clusters, EndpointAddress, EndpointSet, Host, Limits,
    NamedSlot, UpstreamProtocol, Usage,
};
pub use listener::{
    AccessLog, AccessLogFormat, AccessLogSink, JsonFormat, Listener, ListenerConfig, ListenerKind,
    LogFilter, LogFilterHeader, StatusOp, Tap,
};
pub use raw_table::RawTable;
pub(crate) use raw_table::{NAME, ROUTES, RawHost, VIRTUAL_HOSTS};
pub use resources::{RawResource, RawValue, ResourceSet, Resources};
pub use route::{
    Action, AppendAction, DirectResponse, Forward, HeaderAdd, HeaderMatch, HeaderMatcher,
    HeaderMutations, HeaderValue, Mirror, PathMatch, RetryOn, RetryPolicy, Route, RouteMatch,
    RouteTable, StringMatch, Unusual, VirtualHost, WeightedTarget,
};
pub use text::Text;

/// Everything that a worker needs to serve, immutable, published as one pointer.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts publications from 1; 0 is the empty snapshot before the first.
    pub version: u64,
    /// Active listeners, the utility listener included.
    pub listeners: Vec<Arc<Listener>>,
}

impl Snapshot {
    /// The listener with this name, if it is active.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|l| l.config.name == name)
    }
}
