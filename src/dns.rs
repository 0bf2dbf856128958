//! Endpoint sets and the one resolver cache of the process.

use std::sync::Arc;

use crate::model::{EndpointAddress, EndpointSet};

/// Directory of endpoint sets.
#[derive(Debug, Default)]
pub struct Endpoints {
    changed: tokio::sync::watch::Sender<u64>,
}

impl Endpoints {
    /// Notified when a set was resolved.
    #[must_use]
    pub fn changed(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The set of these endpoints, in any order; made if need be.
    pub fn intern(&self, endpoints: Vec<EndpointAddress>) -> Arc<EndpointSet> {
        Arc::new(EndpointSet::new(endpoints))
    }
}
