//! The cases, named after the statements that they are about.

mod bridges;
mod clusters;
mod combined;
mod connecting;
mod discovery;
mod dns;
mod drain;
mod early;
mod endings;
mod extra;
mod http1;
mod http2;
mod interim;
mod listeners;
mod logs;
mod operations;
mod pending;
mod routing;
mod shapes;
mod stats;
mod timeouts;
mod tls;
mod upgrades;
mod xds;

use std::sync::Arc;

use crate::probe::Probe;

/// One comparison.
pub struct Case {
    /// Statement id, and a variant after a slash.
    pub id: String,
    /// Which proxies it works with.
    pub with: With,
    pub run: Arc<dyn Fn(&mut Probe<'_>) + Send + Sync>,
}

/// Which proxies a case works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Those of the suite, beside other cases.
    Shared,
    /// Those of the suite, for itself: it counts what others would count, too.
    Alone,
    /// Its own.
    Own,
}

pub fn all() -> Vec<Case> {
    let all = [
        // The longest of those with proxies of their own begin first.
        timeouts::cases(),
        bridges::cases(),
        clusters::cases(),
        combined::cases(),
        connecting::cases(),
        discovery::cases(),
        dns::cases(),
        early::cases(),
        endings::cases(),
        drain::cases(),
        http1::cases(),
        http2::cases(),
        interim::cases(),
        listeners::cases(),
        logs::cases(),
        operations::cases(),
        routing::cases(),
        stats::cases(),
        tls::cases(),
        upgrades::cases(),
        shapes::cases(),
        xds::cases(),
    ];
    all.into_iter().flatten().collect()
}

fn case(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    Case { id: id.to_owned(), with: With::Shared, run: Arc::new(run) }
}

/// A case that counts what others would count, too.
fn alone(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    Case { with: With::Alone, ..case(id, run) }
}

/// A case that starts proxies for itself.
fn own(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    Case { with: With::Own, ..case(id, run) }
}
