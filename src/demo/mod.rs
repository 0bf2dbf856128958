//! The demo: a whole mesh in one process.

pub mod scheduler;
