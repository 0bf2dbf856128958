//! Clusters between acceptance and removal.

use std::sync::Arc;
use std::time::Instant;

use hashbrown::{HashMap, HashSet};

use super::Store;
use crate::logic::ads::ResourceType;
use crate::model::{Cluster, ClusterName, ClusterSlot, NamedSlot};
use crate::tls::Context;
use crate::xds::decode;
use crate::xds::update::Resource;

#[derive(Debug)]
struct ClusterState {
    slot: NamedSlot,
    /// What the slot holds.
    active: Option<Arc<Cluster>>,
    /// What replaces it once it is warm.
    warming: Option<Arc<Cluster>>,
}

/// Clusters of the control plane by name.
#[derive(Debug, Default)]
pub(super) struct ClusterStates {
    by_name: HashMap<ClusterName, ClusterState>,
    /// Names with a warming version.
    warming: HashSet<ClusterName>,
    /// Removed by the control plane, still serving, since when.
    leaving: HashMap<ClusterName, Instant>,
}

impl ClusterStates {
    pub(super) fn all_warm(&self) -> bool {
        self.warming.is_empty()
    }

    pub(super) fn warming_count(&self) -> usize {
        self.warming.len()
    }

    pub(super) fn is_any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// True if some cluster is warming for the first time.
    pub(super) fn is_any_new(&self) -> bool {
        self.new_count() > 0
    }

    /// True if the slot's cluster is known and not there yet.
    pub(super) fn is_warming(&self, slot: &ClusterSlot) -> bool {
        self.warming.contains(&slot.name)
    }

    /// Clusters that are warming and have no old version that serves meanwhile.
    fn new_count(&self) -> usize {
        let states = self.warming.iter().filter_map(|name| self.by_name.get(name));
        states.filter(|s| s.active.is_none()).count()
    }
}

impl Store {
    pub(super) fn take_cluster(&mut self, resource: Resource, now: Instant) -> Result<(), String> {
        let name = ClusterName::from(&*resource.name);
        if !self.is_held(ResourceType::Cluster, &resource) {
            let decoded = decode::cluster(&resource.value).map_err(|e| e.to_string())?;
            if decoded.name != resource.name {
                return Err(format!("the message's name is '{}' [name]", decoded.name));
            }
            let tls = decoded.tls.map(|spec| self.secrets.upstream(spec, now)).transpose()?;
            let cluster = self.plane.clusters.share(Cluster {
                protocol: decoded.protocol,
                endpoints: self
                    .plane
                    .endpoints
                    .intern_refreshed(decoded.endpoints, decoded.refresh),
                tls,
                connect_timeout: decoded.connect_timeout,
                limits: decoded.limits,
                added_via_api: true,
            });
            self.place(name.clone(), cluster);
        }
        self.clusters.leaving.remove(&name);
        self.keep_raw(ResourceType::Cluster, resource);
        Ok(())
    }

    fn place(&mut self, name: ClusterName, cluster: Arc<Cluster>) {
        let stats = &self.plane.stats.control;
        let slots = &self.plane.clusters;
        let state = self.clusters.by_name.entry(name.clone()).or_insert_with_key(|name| {
            stats.cluster_added.inc();
            let slot = NamedSlot::new(slots.slot(name.as_str()));
            ClusterState { slot, active: None, warming: None }
        });
        let is_new = state.active.is_none() && state.warming.is_none();
        if state.active.as_ref().is_some_and(|held| Arc::ptr_eq(held, &cluster)) {
            // Back to what serves, or the same endpoints in another order.
            state.warming = None;
            self.clusters.warming.remove(&name);
            return;
        }
        if state.warming.as_ref().is_some_and(|held| Arc::ptr_eq(held, &cluster)) {
            return;
        }
        if !is_new {
            stats.cluster_modified.inc();
        }
        state.warming = Some(cluster);
        self.clusters.warming.insert(name);
    }

    /// Puts the clusters that are warm into their slots.
    pub(super) fn warm_clusters(&mut self) {
        let states = &mut self.clusters;
        let by_name = &mut states.by_name;
        states.warming.retain(|name| {
            let Some(state) = by_name.get_mut(name) else { return false };
            match &state.warming {
                Some(cluster) if is_warm(cluster) => {
                    state.slot.store(Some(Arc::clone(cluster)));
                    state.active = state.warming.take();
                    false
                }
                Some(_) => true,
                None => false,
            }
        });
        self.count_clusters();
    }

    pub(super) fn remove_cluster(&mut self, name: &str, now: Instant) {
        let name = ClusterName::from(name);
        self.forget_raw(ResourceType::Cluster, name.as_str());
        if self.clusters.by_name.contains_key(&name) {
            self.clusters.leaving.entry(name).or_insert(now);
        }
    }

    /// Takes removed clusters out of service that no table names any more, or
    /// whose grace is over.
    pub(super) fn release_clusters(&mut self, now: Instant) {
        let grace = self.options.removed_cluster_grace;
        let states = &mut self.clusters;
        let (by_name, warming) = (&mut states.by_name, &mut states.warming);
        let stats = &self.plane.stats.control;
        let before = states.leaving.len();
        states.leaving.retain(|name, since| {
            let Some(state) = by_name.get(name) else { return false };
            let over = now.saturating_duration_since(*since) >= grace;
            if !over && state.slot.is_named(1) {
                return true;
            }
            state.slot.store(None);
            by_name.remove(name);
            warming.remove(name);
            stats.cluster_removed.inc();
            false
        });
        if states.leaving.len() != before {
            self.plane.clusters.sweep();
            self.count_clusters();
        }
    }

    fn count_clusters(&self) {
        let stats = &self.plane.stats.control;
        let warming = self.clusters.warming.len();
        let first_time = self.clusters.new_count();
        let active = self.clusters.by_name.len() - first_time;
        let active = u64::try_from(active).unwrap_or(u64::MAX);
        stats.active_clusters.set(active.saturating_add(self.options.static_clusters));
        stats.warming_clusters.set(u64::try_from(warming).unwrap_or(u64::MAX));
    }
}

/// True if its host names were looked up and its secrets are there.
fn is_warm(cluster: &Cluster) -> bool {
    cluster.endpoints.is_resolved() && cluster.tls.as_ref().is_none_or(|tls| tls.is_settled())
}
