//! A store on the control thread, shared by the sources that feed it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::{Progress, Store};
use crate::model::Resources;
use crate::xds::decode::KnownTable;
use crate::xds::update::{Outcome, Rejected, Update};

/// Handle on a [`Store`]. Clones share the store.
#[derive(Clone)]
pub struct SharedStore {
    store: Arc<Mutex<Store>>,
    kick: Arc<Notify>,
    progress: watch::Sender<Progress>,
}

impl SharedStore {
    /// Shares `store`. [`SharedStore::run`] must run for waiting tables and
    /// removed clusters to move on.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let progress = watch::Sender::new(store.progress());
        Self { store: Arc::new(Mutex::new(store)), kick: Arc::default(), progress }
    }

    /// See [`Store::apply`].
    pub fn apply(&self, update: Update) -> Outcome {
        let mut store = self.lock();
        let outcome = store.apply(update, Instant::now());
        self.report(&store);
        outcome
    }

    /// See [`Store::restore`].
    pub fn restore(&self, saved: Resources) -> Vec<Rejected> {
        let mut store = self.lock();
        let rejected = store.restore(saved, Instant::now());
        self.report(&store);
        rejected
    }

    /// The last accepted table of a name, to compare the next one with.
    #[must_use]
    pub fn known_table(&self, name: &str) -> Option<KnownTable> {
        self.lock().known_table(name)
    }

    /// The store itself, for a moment. Not to be held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notified when clusters got warm or when other tables are wanted.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Moves the store on as look-ups finish and deadlines pass; does not
    /// return as long as the plane lives.
    pub async fn run(self) {
        let mut resolved = self.lock().plane().endpoints.changed();
        loop {
            let deadline = {
                let mut store = self.lock();
                let deadline = store.poll(Instant::now());
                self.progress_of(&store);
                deadline
            };
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.kick.notified() => {}
                changed = resolved.changed() => {
                    // The sender lives as long as the plane that the store holds.
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn report(&self, store: &Store) {
        self.progress_of(store);
        self.kick.notify_one();
    }

    fn progress_of(&self, store: &Store) {
        let progress = store.progress();
        self.progress.send_if_modified(|held| {
            let changed = *held != progress;
            *held = progress;
            changed
        });
    }
}
