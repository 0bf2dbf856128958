//! Endpoint sets and the one resolver cache of the process.

use std::sync::Arc;

use crate::model::{EndpointAddress, EndpointSet};

/// Directory of endpoint sets.
#[derive(Debug, Default)]
pub struct Endpoints {}

impl Endpoints {
    /// The set of these endpoints, in any order; made if need be.
    pub fn intern(&self, endpoints: Vec<EndpointAddress>) -> Arc<EndpointSet> {
        Arc::new(EndpointSet::new(endpoints))
    }
}
