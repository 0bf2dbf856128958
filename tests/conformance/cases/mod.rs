//! The cases, named after the statements that they are about.

mod clusters;
mod dns;
mod drain;
mod extra;
mod http1;
mod http2;
mod logs;
mod routing;
mod stats;
mod tls;
mod xds;

use std::sync::Arc;

use crate::probe::Probe;

/// One comparison.
pub struct Case {
    /// Statement id, and a variant after a slash.
    pub id: String,
    /// Needs the proxies for itself: counts shared things.
    pub alone: bool,
    pub run: Arc<dyn Fn(&mut Probe<'_>) + Send + Sync>,
}

pub fn all() -> Vec<Case> {
    let all = [
        clusters::cases(),
        dns::cases(),
        drain::cases(),
        http1::cases(),
        http2::cases(),
        logs::cases(),
        routing::cases(),
        stats::cases(),
        tls::cases(),
        xds::cases(),
    ];
    all.into_iter().flatten().collect()
}

fn case(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    Case { id: id.to_owned(), alone: false, run: Arc::new(run) }
}

/// A case that counts what others would count, too.
fn alone(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    Case { alone: true, ..case(id, run) }
}
