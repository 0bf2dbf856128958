//! An embedded scheduler: the control plane of a mesh in one process, for the
//! demo, for tests and for benchmarks.
//!
//! It keeps the real scheduler's resources, names, order of pushes and flow
//! control: [`state`] turns operations into pushes, [`cache`] holds what they
//! leave, [`stream`] is the discovery protocol, and [`service`] puts the three
//! behind a gRPC port.

pub mod cache;
mod hub;
pub mod service;
pub mod state;
pub mod stream;

pub use cache::{Push, Resource};
pub use service::{Scheduler, SchedulerHandle, SchedulerOptions};
pub use state::{ModelSpec, Operation};
