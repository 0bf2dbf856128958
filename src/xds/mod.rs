//! The control side: resources in, [`crate::model::Snapshot`]s out.
//!
//! [`stream`] talks to the scheduler: messages ([`wire`]) over gRPC, what to say
//! from [`session`] (the protocol machine of [`crate::logic::ads`] joined to the
//! store), by TLS if asked to ([`tls`]). File mode and the saved snapshot feed
//! the same [`store`]. [`decode`] turns one protobuf resource into the model, or
//! says which field it cannot honour.

pub mod decode;
mod rpc;
pub mod scan;
pub mod session;
pub mod store;
pub mod stream;
pub mod tls;
pub mod update;
pub mod wire;

pub use store::{SharedStore, Store, StoreOptions};
pub use update::{Outcome, Rejected, Resource, Update};
