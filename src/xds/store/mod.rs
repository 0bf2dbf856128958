//! Holds the accepted resources and publishes what workers serve.
//!
//! Contract:
//!
//! * **Per resource, not per response**: a good resource is applied whatever its
//!   neighbours are; a bad one leaves its previous version in force and is named.
//! * **Make before break**: a new cluster is routable once its host names were
//!   looked up (with success or not) and its secrets are there, a listener once
//!   its table and its secrets are; a changed one serves in its old version
//!   until then. A table that names a cluster which is still warming waits for
//!   it, at most [`StoreOptions::route_wait`]; one whose new routes name a
//!   cluster that nobody has told of waits a moment, in case it overtook it.
//! * **A removed cluster serves on** while a table names it, at most
//!   [`StoreOptions::removed_cluster_grace`].
//! * The last good configuration serves for ever; removals of tables and
//!   secrets are ignored.
//! * What did not change disturbs nothing: the same bytes, or the same endpoints
//!   in another order, keep their objects and therefore their connections.
//!
//! [`Store`] decides and publishes without waiting for anything: it is told the
//! time and says when it wants to be asked again ([`Store::poll`]).
//! [`SharedStore`] runs it on the control thread.

mod clusters;
mod listeners;
mod secrets;
mod shared;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::logic::ads::ResourceType;
use crate::model::{Listener, RawResource, RawValue, ResourceSet, Resources, Snapshot};
use crate::plane::{Plane, ServerState};
use crate::stats::SubscriptionStats;

pub use shared::SharedStore;

use super::update::{Outcome, Rejected, Resource, Update};

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Longest time that a removed cluster serves on because a table names it.
    /// Zero: removed at once, as in Envoy. Default 30 s.
    pub removed_cluster_grace: Duration,
    /// Longest time that a table waits for warming clusters. Default 5 s: the
    /// time in which a look-up that gets no answer fails.
    pub route_wait: Duration,
    /// Put the chosen arm's model name into the REST path
    /// (`WeightedTarget::rewrite_model` from `seldon-internal-model`). Routes
    /// with `radiant.rewrite` metadata are rewritten either way.
    pub rewrite: bool,
    /// Listeners of the bootstrap, part of every snapshot.
    pub static_listeners: Vec<Arc<Listener>>,
    /// Clusters of the bootstrap that are not objects here (the scheduler's,
    /// admin's): Envoy counts them, too.
    pub static_clusters: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            removed_cluster_grace: Duration::from_secs(30),
            route_wait: Duration::from_secs(5),
            rewrite: false,
            static_listeners: Vec::new(),
            static_clusters: 0,
        }
    }
}

/// Called with each new snapshot, after it was published to workers; opens and
/// closes sockets.
///
/// # Errors
///
/// Listener name and reason of each listener that cannot open its socket. Such
/// a listener leaves the snapshot and, if an update caused it, is refused.
pub type Publish = Box<dyn FnMut(&Arc<Snapshot>) -> Result<(), Vec<(String, String)>> + Send>;

/// Called some time after the accepted resources changed, to save them.
pub type Save = Box<dyn FnMut(&Resources) + Send>;

/// Changes of a moment are saved together.
const SAVE_DELAY: Duration = Duration::from_secs(1);

/// How often removed clusters and replaced tables are looked at: workers let go of the previous
/// snapshot at their next request.
const LEAVING_CHECK: Duration = Duration::from_millis(250);

/// What the ADS client needs to know about the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The clusters of the first update are warm.
    pub clusters_warm: bool,
    /// Tables that listeners refer to.
    pub routes: BTreeSet<String>,
    /// Secrets that clusters and listeners refer to.
    pub secrets: BTreeSet<String>,
}

/// Accepted state. See the module's contract.
pub struct Store {
    plane: Arc<Plane>,
    options: StoreOptions,
    publish: Option<Publish>,
    save: Option<Save>,
    clusters: clusters::ClusterStates,
    tables: tables::Tables,
    listeners: listeners::Listeners,
    secrets: secrets::Secrets,
    seen: [bool; 4],
    wanted_tables: BTreeSet<String>,
    clusters_warm: bool,
    changed: bool,
    save_at: Option<Instant>,
    /// Replaced tables may have been the last to name a slot.
    unswept: bool,
    /// Replaced tables are still in use.
    retired: bool,
    stale: bool,
}

impl Store {
    /// A store that publishes to `plane`. Nothing is published before the first
    /// update or [`Store::publish`].
    #[must_use]
    pub fn new(plane: Arc<Plane>, options: StoreOptions) -> Self {
        plane.stats.control.cluster_added.add(options.static_clusters);
        Self {
            plane,
            options,
            publish: None,
            save: None,
            clusters: clusters::ClusterStates::default(),
            tables: tables::Tables::default(),
            listeners: listeners::Listeners::default(),
            secrets: secrets::Secrets::default(),
            seen: [false; 4],
            wanted_tables: BTreeSet::new(),
            clusters_warm: false,
            changed: false,
            save_at: None,
            unswept: false,
            retired: false,
            stale: false,
        }
    }

    /// Sets the hook that opens sockets.
    pub fn on_publish(&mut self, hook: Publish) {
        self.publish = Some(hook);
    }

    /// Sets the hook that saves accepted resources.
    pub fn on_save(&mut self, hook: Save) {
        self.save = Some(hook);
    }

    /// Takes over an update as far as its resources are good.
    pub fn apply(&mut self, update: Update, now: Instant) -> Outcome {
        if self.stale && update.kind == ResourceType::Cluster {
            self.stale = false;
            self.plane.stats.control.config_stale.set(0);
            tracing::info!("the control plane answered: the saved configuration is confirmed");
        }
        let kind = update.kind;
        let started = Instant::now();
        // Envoy counts it for tables, in the state-of-the-world variant.
        let is_empty = update.complete && update.resources.is_empty();
        let mut outcome = self.take_over(update, now);
        let failed = self.advance(now);
        if kind == ResourceType::Listener {
            outcome.rejected.extend(failed);
        }
        outcome.warming = self.clusters.warming_count() + self.tables.waiting_count();
        let stats = self.subscription(kind);
        stats.update_empty.add(u64::from(is_empty));
        stats.update_duration.record(started.elapsed());
        stats.update_time_ms.set(unix_ms());
        if outcome.rejected.is_empty() {
            stats.update_success.inc();
        } else {
            stats.update_rejected.inc();
            tracing::warn!(kind = ?kind, error = outcome.error(kind), "resources refused");
        }
        outcome
    }

    /// Applies saved resources and marks the configuration stale until a
    /// control plane answers. Returns what is no longer understood.
    pub fn restore(&mut self, saved: Resources, now: Instant) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let sets = [
            (ResourceType::Secret, saved.secrets),
            (ResourceType::Cluster, saved.clusters),
            (ResourceType::Listener, saved.listeners),
            (ResourceType::Route, saved.routes),
        ];
        for (kind, set) in sets {
            let each = set.by_name.into_iter();
            let resources = each.map(|(name, raw)| Resource::accepted(name, &raw)).collect();
            let update = Update { version_info: set.version_info, ..Update::new(kind, resources) };
            rejected.extend(self.take_over(update, now).rejected);
        }
        self.stale = true;
        self.plane.stats.control.config_stale.set(1);
        for (name, reason) in self.advance(now).into_iter().map(|r| (r.name, r.reason)) {
            tracing::warn!(name, reason, "saved listener not opened");
        }
        rejected
    }

    /// Moves on whatever was waiting: warm clusters become routable, waiting
    /// tables are published, removed clusters leave, changes are saved. Returns
    /// when to call again even if no look-up finished.
    pub fn poll(&mut self, now: Instant) -> Option<Instant> {
        for failed in self.advance(now) {
            tracing::error!(listener = failed.name, error = failed.reason, "listener not opened");
        }
        self.next_deadline(now)
    }

    /// Publishes the current state again (for example the static listeners
    /// before anything came).
    pub fn publish(&mut self) -> Vec<Rejected> {
        self.publish_snapshot()
    }

    /// What the ADS client should subscribe to.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            clusters_warm: self.clusters_warm,
            routes: self.listeners.route_names(),
            secrets: self.secrets.names(),
        }
    }

    /// Names and versions of the accepted resources of a type
    /// (`initial_resource_versions`).
    #[must_use]
    pub fn versions(&self, kind: ResourceType) -> std::collections::BTreeMap<String, String> {
        let resources = self.plane.resources.read().unwrap_or_else(PoisonError::into_inner);
        let set = resource_set(&resources, kind);
        set.by_name.iter().map(|(name, raw)| (name.clone(), raw.version.clone())).collect()
    }

    /// The plane that this store publishes to.
    #[must_use]
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Control statistics of a type.
    #[must_use]
    pub fn subscription(&self, kind: ResourceType) -> &SubscriptionStats {
        let control = &self.plane.stats.control;
        match kind {
            ResourceType::Cluster => &control.cds,
            ResourceType::Listener => &control.lds,
            ResourceType::Route => &control.rds,
            ResourceType::Secret => &control.sds,
        }
    }

    fn take_over(&mut self, mut update: Update, now: Instant) -> Outcome {
        let kind = update.kind;
        let version_info = std::mem::take(&mut update.version_info);
        if update.complete && kind.is_wildcard() {
            let listed: BTreeSet<&str> = update.resources.iter().map(|r| &*r.name).collect();
            let held = self.versions(kind).into_keys();
            update.removed = held.filter(|name| !listed.contains(&**name)).collect();
        }
        let mut outcome = Outcome::default();
        for table in update.tables {
            let name = table.name.clone();
            match self.take_table(table, now) {
                Ok(()) => outcome.accepted += 1,
                Err(reason) => outcome.rejected.push(Rejected { name, reason }),
            }
        }
        for resource in update.resources {
            let name = resource.name.clone();
            let taken = match kind {
                ResourceType::Cluster => self.take_cluster(resource, now),
                ResourceType::Listener => self.take_listener(resource, now),
                ResourceType::Route => self.take_whole_table(resource, now),
                ResourceType::Secret => self.take_secret(resource),
            };
            match taken {
                Ok(()) => outcome.accepted += 1,
                Err(reason) => outcome.rejected.push(Rejected { name, reason }),
            }
        }
        // Additions before removals, as in Envoy.
        for name in update.removed {
            match kind {
                ResourceType::Cluster => self.remove_cluster(&name, now),
                ResourceType::Listener => self.remove_listener(&name),
                ResourceType::Route | ResourceType::Secret => {
                    tracing::debug!(kind = ?kind, name, "removal ignored, the last version serves");
                }
            }
        }
        if outcome.rejected.is_empty() {
            self.edit_resources(kind, |set| set.version_info = version_info);
        }
        self.seen[kind as usize] = true;
        self.save_at = self.save_at.or(Some(now + SAVE_DELAY));
        outcome
    }

    fn advance(&mut self, now: Instant) -> Vec<Rejected> {
        self.secrets.advance(now);
        self.warm_clusters();
        if self.seen[ResourceType::Cluster as usize] && self.clusters.all_warm() {
            self.clusters_warm = true;
        }
        self.changed |= self.tables.release(&self.clusters, now);
        self.changed |= self.tables.open_refused();
        self.changed |= self.listeners.promote(&self.tables, &self.plane.stats.control);
        self.forget_tables();
        let failed = if self.changed { self.publish_snapshot() } else { Vec::new() };
        self.retired = self.tables.free_retired();
        if self.unswept && !self.retired {
            self.plane.clusters.sweep();
            self.unswept = false;
        }
        self.release_clusters(now);
        self.update_state();
        if let (Some(at), Some(save)) = (self.save_at, &mut self.save)
            && at <= now
        {
            save(&self.plane.resources.read().unwrap_or_else(PoisonError::into_inner));
            self.save_at = None;
        }
        failed
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let used = self.retired || self.clusters.is_any_leaving();
        let leaving = used.then(|| now + LEAVING_CHECK);
        let save = self.save_at.filter(|_| self.save.is_some());
        let waits = [self.tables.next_deadline(&self.clusters), self.secrets.next_deadline()];
        [leaving, save].into_iter().chain(waits).flatten().min()
    }

    /// Publishes listeners with their tables; a listener that cannot open its
    /// socket is taken out again.
    fn publish_snapshot(&mut self) -> Vec<Rejected> {
        self.changed = false;
        let mut failed = Vec::new();
        loop {
            let mut listeners = self.options.static_listeners.clone();
            listeners.extend(self.listeners.serving(&self.tables));
            let version = self.plane.snapshot.load().version + 1;
            let snapshot = Arc::new(Snapshot { version, listeners });
            self.plane.publish(Arc::clone(&snapshot));
            let Some(hook) = &mut self.publish else { break };
            let Err(errors) = hook(&snapshot) else { break };
            let mut dropped = false;
            for (name, reason) in errors {
                dropped |= self.drop_listener(&name);
                failed.push(Rejected { name, reason });
            }
            // Without progress another round would fail in the same way.
            if !dropped {
                break;
            }
        }
        self.unswept = true;
        failed
    }

    fn update_state(&mut self) {
        let listeners_ready =
            self.seen[ResourceType::Listener as usize] && self.listeners.all_serving();
        let state = match self.plane.state() {
            ServerState::Live => return,
            _ if self.clusters_warm && listeners_ready => ServerState::Live,
            _ if self.clusters_warm => ServerState::Initializing,
            _ => ServerState::PreInitializing,
        };
        if state != self.plane.state() {
            tracing::info!(?state, "server state");
            self.plane.set_state(state);
        }
    }

    fn edit_resources(&self, kind: ResourceType, edit: impl FnOnce(&mut ResourceSet)) {
        let mut resources = self.plane.resources.write().unwrap_or_else(PoisonError::into_inner);
        edit(match kind {
            ResourceType::Cluster => &mut resources.clusters,
            ResourceType::Listener => &mut resources.listeners,
            ResourceType::Route => &mut resources.routes,
            ResourceType::Secret => &mut resources.secrets,
        });
    }

    /// True if exactly these bytes were accepted under this name.
    fn is_held(&self, kind: ResourceType, resource: &Resource) -> bool {
        let resources = self.plane.resources.read().unwrap_or_else(PoisonError::into_inner);
        let held = resource_set(&resources, kind).by_name.get(&resource.name);
        held.is_some_and(|held| matches!(&held.value, RawValue::Message(m) if *m == resource.value))
    }

    fn keep_raw(&self, kind: ResourceType, resource: Resource) {
        let Resource { name, version, value } = resource;
        self.keep(kind, name, version, RawValue::Message(value));
    }

    fn keep(&self, kind: ResourceType, name: String, version: String, value: RawValue) {
        let raw = RawResource { version, value, updated: SystemTime::now() };
        self.edit_resources(kind, |set| {
            set.by_name.insert(name, raw);
        });
    }

    fn forget_raw(&self, kind: ResourceType, name: &str) {
        self.edit_resources(kind, |set| {
            set.by_name.remove(name);
        });
    }
}

fn resource_set(resources: &Resources, kind: ResourceType) -> &ResourceSet {
    match kind {
        ResourceType::Cluster => &resources.clusters,
        ResourceType::Listener => &resources.listeners,
        ResourceType::Route => &resources.routes,
        ResourceType::Secret => &resources.secrets,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
