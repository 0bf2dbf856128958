//! The cases, named after the statements that they are about.

mod http1;
mod routing;

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
    [http1::cases(), routing::cases()].into_iter().flatten().collect()
}

fn case(id: &str, run: impl Fn(&mut Probe<'_>) + Send + Sync + 'static) -> Case {
    Case { id: id.to_owned(), alone: false, run: Arc::new(run) }
}
