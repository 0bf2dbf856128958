//! The one integration-test binary; every file beside this one is a story.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod demo;
mod draining;
mod failures;
mod golden_scheduler;
mod http1;
mod http2;
mod mirrors;
mod pressure;
mod scheduler_away;
mod support;
mod updates;
