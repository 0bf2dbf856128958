//! Decisions apart from I/O: everything here takes its inputs (time and
//! randomness included) as arguments and knows no sockets.

pub mod ads;
pub mod balancer;
pub mod format;
pub mod header_filter;
pub mod index;
pub mod matching;
pub mod mutation;
pub mod retry;
pub mod rewrite;
pub mod weighted;
