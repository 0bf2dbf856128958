//! The one integration-test binary; every file beside this one is a story.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod cli;
mod demo;
mod demo_models;
mod demo_scheduler;
mod demo_state;
mod demo_stream;
mod draining;
mod failures;
mod golden_client;
mod golden_scheduler;
mod http1;
mod http2;
mod large_bodies;
mod mirrors;
mod pressure;
mod reasons;
mod reconnect;
mod rolls;
mod scheduler_away;
mod scheduler_tls;
mod support;
mod tls;
mod updates;
mod upgrades;
