//! Route tables between acceptance and publication.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Store;
use super::clusters::ClusterStates;
use crate::logic::ads::ResourceType;
use crate::model::{Action, ClusterSlot, RawValue, Route, RouteTable};
use crate::xds::decode::{self, KnownTable, RouteCache, RouteContext, TableScan};
use crate::xds::update::{Resource, Table};

/// How long a table waits whose new routes name clusters that nobody has told
/// of. The scheduler sends clusters first, but each type has its own flow
/// control: a table may overtake its clusters by one answer.
const UNKNOWN_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct TableState {
    /// The last accepted table.
    cache: RouteCache,
    /// In force.
    active: Option<Arc<RouteTable>>,
    waiting: Option<Waiting>,
    /// The last table of this name was refused.
    refused: bool,
}

/// An accepted table that waits for clusters.
#[derive(Debug)]
struct Waiting {
    table: Arc<RouteTable>,
    /// Clusters without which requests would fail that succeed now.
    missing: Vec<Arc<ClusterSlot>>,
    /// Until when it waits for clusters that are warming. A newer table that
    /// replaces this one inherits it.
    until: Instant,
    /// Until when it waits for clusters that nobody has told of.
    until_known: Instant,
}

impl Waiting {
    /// When it is published at the latest; none: now.
    fn deadline(&self, clusters: &ClusterStates) -> Option<Instant> {
        let missing = self.missing.iter().filter(|slot| !slot.is_routable());
        missing
            .map(|slot| if clusters.is_warming(slot) { self.until } else { self.until_known })
            .max()
    }
}

/// Route tables by name.
#[derive(Debug, Default)]
pub(super) struct Tables {
    by_name: BTreeMap<String, TableState>,
    /// Replaced tables that a worker may still use. The last one to let go frees
    /// thousands of routes: that had better be this thread.
    retired: Vec<Arc<RouteTable>>,
}

impl Tables {
    pub(super) fn active(&self, name: &str) -> Option<&Arc<RouteTable>> {
        self.by_name.get(name)?.active.as_ref()
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.by_name.values().filter(|t| t.waiting.is_some()).count()
    }

    pub(super) fn next_deadline(&self, clusters: &ClusterStates) -> Option<Instant> {
        self.by_name.values().filter_map(|t| t.waiting.as_ref()?.deadline(clusters)).min()
    }

    /// A table that was refused and has no predecessor must not hold up the
    /// others: its listener opens with no routes, as in Envoy (a mirror of 0 %
    /// makes `listener_1` such a table). But only while another table has
    /// routes: a proxy that would answer 404 to everything had better not be
    /// ready. True if there was one.
    pub(super) fn open_refused(&mut self) -> bool {
        let serving =
            self.by_name.values().any(|t| t.active.as_ref().is_some_and(|a| !a.is_empty()));
        let mut opened = false;
        for (name, state) in &mut self.by_name {
            if serving && state.refused && state.active.is_none() && state.waiting.is_none() {
                tracing::error!(table = name, "refused, and there is no earlier one: no routes");
                let empty = RouteTable { name: name.clone(), ..RouteTable::default() };
                state.active = Some(Arc::new(empty));
                opened = true;
            }
        }
        opened
    }

    /// Frees replaced tables that nobody else uses any more; true if some are
    /// left.
    pub(super) fn free_retired(&mut self) -> bool {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
        !self.retired.is_empty()
    }

    /// Puts tables into force whose clusters are there or whose deadline has
    /// passed; true if there were any.
    pub(super) fn release(&mut self, clusters: &ClusterStates, now: Instant) -> bool {
        let mut changed = false;
        for state in self.by_name.values_mut() {
            let deadline = state.waiting.as_ref().and_then(|w| w.deadline(clusters));
            if deadline.is_some_and(|at| now < at) {
                continue;
            }
            if let Some(waiting) = state.waiting.take() {
                self.retired.extend(state.active.replace(waiting.table));
                changed = true;
            }
        }
        changed
    }
}

impl Store {
    /// The last accepted table of a name, to compare the next one with.
    pub(super) fn known_table(&self, name: &str) -> Option<KnownTable> {
        self.tables.by_name.get(name).map(|state| Arc::clone(state.cache.raw()))
    }

    pub(super) fn take_whole_table(
        &mut self,
        resource: Resource,
        now: Instant,
    ) -> Result<(), String> {
        let Resource { name, version, value } = resource;
        let scan = TableScan::whole(&value, self.known_table(&name));
        self.take_table(Table { name, version, scan }, now)
    }

    pub(super) fn take_table(&mut self, table: Table, now: Instant) -> Result<(), String> {
        let name = table.name.clone();
        let taken = self.compile_table(table, now);
        self.tables.by_name.entry(name).or_default().refused = taken.is_err();
        taken
    }

    fn compile_table(&mut self, table: Table, now: Instant) -> Result<(), String> {
        let Table { name, version, scan } = table;
        if !scan.is_malformed() && scan.name() != name {
            return Err(format!("the message's name is '{}' [name]", scan.name()));
        }
        let state = self.tables.by_name.entry(name.clone()).or_default();
        if !scan.is_unchanged(state.cache.raw()) {
            // Nobody reads it meanwhile, so that it can change where it is.
            let mut resources =
                self.plane.resources.write().unwrap_or_else(PoisonError::into_inner);
            let mut shown = resources.routes.by_name.get_mut(&name);
            if let Some(shown) = &mut shown {
                shown.value = RawValue::Message(Bytes::new());
            }
            let cx = RouteContext { clusters: &self.plane.clusters, rewrite: self.options.rewrite };
            let decoded = decode::scanned_table(scan, &cx, &mut state.cache);
            if let Some(shown) = shown {
                shown.value = RawValue::Table(Arc::clone(state.cache.raw()));
            }
            drop(resources);
            let table = decoded.map_err(|e| e.to_string())?;
            // Routes that were in force already do not get worse by a cluster
            // that nobody has told of; only new ones wait for such.
            let mut missing = not_routable(state.cache.take_compiled().iter());
            let replaced = state.waiting.take();
            if replaced.is_some() || self.clusters.is_any_new() {
                let held = replaced.as_ref().map_or(&[][..], |w| &*w.missing);
                let is_held = |slot: &Arc<ClusterSlot>| held.iter().any(|h| Arc::ptr_eq(h, slot));
                let all = table.virtual_hosts.iter().flat_map(|v| not_routable(v.routes.iter()));
                missing.extend(all.filter(|s| self.clusters.is_warming(s) || is_held(s)));
            }
            let replaced = replaced.as_ref();
            let until = replaced.map_or(now + self.options.route_wait, |w| w.until);
            // Before the first table there is nothing to keep in force.
            let moment = if state.active.is_some() { UNKNOWN_WAIT } else { Duration::ZERO };
            let until_known = replaced.map_or(now + moment, |w| w.until_known).min(until);
            state.waiting = Some(Waiting { table, missing, until, until_known });
        }
        let raw = RawValue::Table(Arc::clone(state.cache.raw()));
        self.keep(ResourceType::Route, name, version, raw);
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

/// Slots without a cluster to which these routes would send requests.
fn not_routable<'a>(routes: impl Iterator<Item = &'a Arc<Route>>) -> Vec<Arc<ClusterSlot>> {
    let targets = routes.flat_map(|route| match &route.action {
        Action::Forward(forward) => &*forward.targets,
        Action::Direct(_) => &[],
    });
    let chosen = targets.filter(|t| t.weight > 0 && !t.cluster.is_routable());
    chosen.map(|t| Arc::clone(t.cluster.slot())).collect()
}
