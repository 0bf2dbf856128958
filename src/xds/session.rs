//! Joins the protocol machine and the store; knows no sockets.

use super::store::{Progress, SharedStore};
use super::wire::Response;
use crate::logic::ads::{Machine, Request, ResourceType, Variant, Verdict};

/// The ADS client between the stream and the store.
pub struct Session {
    machine: Machine,
    store: SharedStore,
}

impl Session {
    /// A client without a stream.
    #[must_use]
    pub fn new(store: SharedStore, variant: Variant) -> Self {
        Self { machine: Machine::new(variant), store }
    }

    /// A stream is open: what to send first.
    pub fn opened(&mut self) -> Vec<Request> {
        // What is wanted is told before the stream counts as open, so that all
        // subscriptions go out in one burst.
        self.machine.lost();
        self.progressed();
        let store = self.store.lock();
        let out = self.machine.opened(|kind| store.versions(kind));
        count_attempts(&store, &out);
        out
    }

    /// The stream ended.
    pub fn lost(&mut self) {
        self.machine.lost();
        let store = self.store.lock();
        store.plane().stats.control.connected_state.set(0);
        let progress = store.progress();
        for (kind, is_subscribed) in [
            (ResourceType::Cluster, true),
            (ResourceType::Listener, progress.clusters_warm),
            (ResourceType::Route, !progress.routes.is_empty()),
            (ResourceType::Secret, !progress.secrets.is_empty()),
        ] {
            if is_subscribed {
                store.subscription(kind).update_failure.inc();
            }
        }
    }

    /// Applies a response; returns new subscriptions and the answer, in the
    /// order in which Envoy sends them.
    pub fn received(&mut self, response: Response) -> Vec<Request> {
        let Response { nonce, update, rejected } = response;
        let kind = update.kind;
        self.machine.received(kind, &nonce, &update.version_info);
        let mut outcome = self.store.apply(update);
        outcome.rejected.extend(rejected);
        let verdict = match outcome.error(kind) {
            None => Verdict::Accepted,
            Some(message) => Verdict::Rejected(message),
        };
        let mut out = self.progressed();
        out.extend(self.machine.answer(kind, &nonce, verdict));
        count_attempts(&self.store.lock(), &out);
        out
    }

    /// Clusters may have become warm, listeners may want other tables.
    pub fn progressed(&mut self) -> Vec<Request> {
        let progress = self.store.lock().progress();
        self.follow(progress)
    }

    fn follow(&mut self, progress: Progress) -> Vec<Request> {
        let mut out = Vec::new();
        if progress.clusters_warm {
            out.extend(self.machine.clusters_warm());
        }
        out.extend(self.machine.want(ResourceType::Route, progress.routes));
        out.extend(self.machine.want(ResourceType::Secret, progress.secrets));
        out
    }
}

fn count_attempts(store: &super::Store, requests: &[Request]) {
    for request in requests {
        store.subscription(request.kind).update_attempt.inc();
    }
}
