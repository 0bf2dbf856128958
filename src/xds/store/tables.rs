//! Route tables between acceptance and publication.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashSet;

use super::Store;
use super::clusters::ClusterStates;
use crate::logic::ads::ResourceType;
use crate::model::{Action, ClusterSlot, RouteTable};
use crate::xds::decode::{self, RouteCache, RouteContext};
use crate::xds::update::Resource;

#[derive(Debug, Default)]
struct TableState {
    /// Compiled routes of the last accepted table by fingerprint.
    cache: RouteCache,
    /// In force.
    active: Option<Arc<RouteTable>>,
    /// Accepted, waits for clusters until the deadline. A newer table replaces
    /// it and inherits the deadline.
    waiting: Option<(Arc<RouteTable>, Instant)>,
}

/// Route tables by name.
#[derive(Debug, Default)]
pub(super) struct Tables {
    by_name: BTreeMap<String, TableState>,
}

impl Tables {
    pub(super) fn active(&self, name: &str) -> Option<&Arc<RouteTable>> {
        self.by_name.get(name)?.active.as_ref()
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.by_name.values().filter(|t| t.waiting.is_some()).count()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_name.values().filter_map(|t| Some(t.waiting.as_ref()?.1)).min()
    }

    /// Puts tables into force whose clusters are there or whose deadline has
    /// passed; true if there were any.
    pub(super) fn release(&mut self, clusters: &ClusterStates, now: Instant) -> bool {
        let mut changed = false;
        let mut missing = None;
        for state in self.by_name.values_mut() {
            let Some((table, deadline)) = &state.waiting else { continue };
            let missing = missing.get_or_insert_with(|| clusters.not_routable());
            if now < *deadline && names_any(table, missing) {
                continue;
            }
            if let Some((table, _)) = state.waiting.take() {
                state.active = Some(table);
                changed = true;
            }
        }
        changed
    }
}

impl Store {
    pub(super) fn take_table(&mut self, resource: Resource, now: Instant) -> Result<(), String> {
        if !self.is_held(ResourceType::Route, &resource) {
            let state = self.tables.by_name.entry(resource.name.clone()).or_default();
            let cx = RouteContext { clusters: &self.plane.clusters, rewrite: self.options.rewrite };
            let decoded = decode::table(&resource.value, &cx, &state.cache);
            let (table, cache) = decoded.map_err(|e| e.to_string())?;
            if table.name != resource.name {
                return Err(format!("the message's name is '{}' [name]", table.name));
            }
            state.cache = cache;
            let deadline = match &state.waiting {
                Some((_, deadline)) => *deadline,
                None => now + self.options.route_wait,
            };
            state.waiting = Some((Arc::new(table), deadline));
        }
        self.keep_raw(ResourceType::Route, resource);
        Ok(())
    }

    /// Forgets tables to which no listener refers any more.
    pub(super) fn forget_tables(&mut self) {
        let wanted = self.listeners.route_names();
        for name in self.wanted_tables.difference(&wanted) {
            self.tables.by_name.remove(name);
            self.forget_raw(ResourceType::Route, name);
        }
        self.wanted_tables = wanted;
    }
}

fn names_any(table: &RouteTable, slots: &HashSet<*const ClusterSlot>) -> bool {
    if slots.is_empty() {
        return false;
    }
    let routes = table.virtual_hosts.iter().flat_map(|v| &v.routes);
    routes.into_iter().any(|route| match &route.action {
        Action::Forward(forward) => {
            forward.targets.iter().any(|t| slots.contains(&Arc::as_ptr(&t.cluster)))
                || forward.mirrors.iter().any(|m| slots.contains(&Arc::as_ptr(&m.cluster)))
        }
        Action::Direct(_) => false,
    })
}
