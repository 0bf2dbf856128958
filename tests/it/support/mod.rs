//! What the stories are told with: a proxy in process, an embedded scheduler,
//! and peers of which every byte is scripted.
//!
//! Nothing here sleeps for an effect: whoever waits, waits for a condition, and
//! at most [`DEADLINE`].

#[allow(dead_code)] // the conformance suite has it too
mod certificates;
mod client;
mod h2;
mod load;
mod ports;
#[allow(dead_code)] // the conformance suite has it too
mod terminator;
pub(crate) mod tls;
mod upstream;
mod world;

use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Client};
pub(crate) use h2::{H2Client, H2Stream, H2Upstream, read};
pub(crate) use load::Load;
pub(crate) use ports::Ports;
pub(crate) use upstream::{Peer, Upstream};
pub(crate) use world::{Setup, World, ads, quiet_settings, version};

/// Longest wait for anything; far more than a busy machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; panics, naming `what`, after [`DEADLINE`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs an asynchronous story, which must end within [`DEADLINE`].
pub(crate) async fn within<T>(story: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, story).await.expect("the story takes too long")
}
