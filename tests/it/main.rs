//! The one integration-test binary; every file beside this one is a story.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod cli;
mod golden_client;
mod golden_scheduler;
mod reconnect;
