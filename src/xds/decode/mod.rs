//! Protobuf resources to the model.
//!
//! A field that cannot be honoured and that would change what clients see is an
//! error naming it; harmless ones are named in a warning, once per process.
//! Nothing here waits, looks up names or opens files.

// Old spellings are honoured or refused like new ones.
#![allow(deprecated)]

mod access_log;
mod cluster;
mod connection_manager;
mod descent;
mod error;
mod filter;
mod header;
mod listener;
mod matcher;
mod retry;
mod route;
mod scalar;
mod table;
mod table_scan;
#[cfg(test)]
mod tests;
mod tls;
mod walk;

pub use cluster::{DecodedCluster, cluster};
pub use descent::Malformed;
pub(crate) use descent::{Descent, Field, Visit};
pub use error::Invalid;
pub use listener::{DecodedListener, RouteSource, listener};
pub use table::{RouteCache, RouteContext, scanned_table, table};
pub(crate) use table_scan::Part;
pub use table_scan::{KnownTable, TableScan};
pub use tls::secret;
pub(crate) use walk::first_string;
