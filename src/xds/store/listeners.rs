//! Listeners between acceptance and removal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Store;
use super::tables::Tables;
use crate::logic::ads::ResourceType;
use crate::model::{Listener, ListenerConfig, RouteTable};
use crate::stats::ControlStats;
use crate::tls::Context;
use crate::xds::decode::{self, RouteCache, RouteContext};
use crate::xds::update::Resource;

/// Where a listener's table comes from.
#[derive(Clone, Debug)]
enum TableSource {
    Named(String),
    Inline(Arc<RouteTable>),
}

impl TableSource {
    fn table<'a>(&'a self, tables: &'a Tables) -> Option<&'a Arc<RouteTable>> {
        match self {
            Self::Named(name) => tables.active(name),
            Self::Inline(table) => Some(table),
        }
    }
}

#[derive(Clone, Debug)]
struct Version {
    config: Arc<ListenerConfig>,
    source: TableSource,
}

impl Version {
    /// True if its table and its secrets are there.
    fn is_ready(&self, tables: &Tables) -> bool {
        self.source.table(tables).is_some()
            && self.config.tls.as_ref().is_none_or(|tls| tls.is_settled())
    }
}

#[derive(Debug, Default)]
struct ListenerState {
    /// Serves.
    active: Option<Version>,
    /// Waits for its table or secrets; `active` serves meanwhile.
    warming: Option<Version>,
    /// What `active` replaced; serves again if `active` cannot open its socket.
    previous: Option<Version>,
    /// As last published.
    published: Option<Arc<Listener>>,
}

impl ListenerState {
    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.active.iter().chain(&self.warming)
    }
}

/// Listeners of the control plane by name.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    by_name: BTreeMap<String, ListenerState>,
}

impl Listeners {
    /// Tables that listeners refer to by name.
    pub(super) fn route_names(&self) -> BTreeSet<String> {
        let versions = self.by_name.values().flat_map(ListenerState::versions);
        versions
            .filter_map(|v| match &v.source {
                TableSource::Named(name) => Some(name.clone()),
                TableSource::Inline(_) => None,
            })
            .collect()
    }

    pub(super) fn all_serving(&self) -> bool {
        self.by_name.values().all(|l| l.warming.is_none())
    }

    /// Activates listeners whose table and secrets have arrived; true if there were any.
    pub(super) fn promote(&mut self, tables: &Tables, stats: &ControlStats) -> bool {
        let mut changed = false;
        let (mut active, mut warming) = (0, 0);
        for state in self.by_name.values_mut() {
            if state.warming.as_ref().is_some_and(|v| v.is_ready(tables)) {
                state.previous = std::mem::replace(&mut state.active, state.warming.take());
                changed = true;
            }
            active += u64::from(state.active.is_some());
            warming += u64::from(state.warming.is_some());
        }
        stats.listeners_active.set(active);
        stats.listeners_warming.set(warming);
        changed
    }

    /// Active listeners with their tables; objects of unchanged ones are kept.
    pub(super) fn serving(&mut self, tables: &Tables) -> Vec<Arc<Listener>> {
        let mut serving = Vec::new();
        for state in self.by_name.values_mut() {
            let Some(version) = &state.active else { continue };
            let Some(routes) = version.source.table(tables) else { continue };
            let held = state.published.take().filter(|held| {
                Arc::ptr_eq(&held.config, &version.config) && Arc::ptr_eq(&held.routes, routes)
            });
            let listener = held.unwrap_or_else(|| {
                let (config, routes) = (Arc::clone(&version.config), Arc::clone(routes));
                Arc::new(Listener { config, routes })
            });
            state.published = Some(Arc::clone(&listener));
            serving.push(listener);
        }
        serving
    }

    fn with_address(&self, address: SocketAddr) -> Option<&str> {
        let mut holders = self.by_name.iter();
        let holder = holders.find(|(_, l)| l.versions().any(|v| v.config.address == address));
        holder.map(|(name, _)| &**name)
    }
}

impl Store {
    pub(super) fn take_listener(&mut self, resource: Resource, now: Instant) -> Result<(), String> {
        if !self.is_held(ResourceType::Listener, &resource) {
            let version = self.decode_listener(&resource, now)?;
            let stats = &self.plane.stats.control;
            if self.listeners.by_name.contains_key(&resource.name) {
                stats.listener_modified.inc();
            } else {
                stats.listener_added.inc();
            }
            let state = self.listeners.by_name.entry(resource.name.clone()).or_default();
            state.warming = Some(version);
        }
        self.keep_raw(ResourceType::Listener, resource);
        Ok(())
    }

    fn decode_listener(&mut self, resource: &Resource, now: Instant) -> Result<Version, String> {
        let mut decoded = decode::listener(&resource.value).map_err(|e| e.to_string())?;
        let name = &decoded.config.name;
        if *name != resource.name {
            return Err(format!("the message's name is '{name}' [name]"));
        }
        let address = decoded.config.address;
        let fixed = self.options.static_listeners.iter();
        let taken = fixed.filter(|l| l.config.address == address).map(|l| &*l.config.name).next();
        if taken.or(self.listeners.with_address(address)).is_some_and(|holder| holder != name) {
            return Err(format!(
                "error adding listener: '{name}' has duplicate address '{address}' as existing \
                 listener, to check if the listener has duplicated addresses with other listeners \
                 or 'enable_reuse_port' is set to 'false' for the listener"
            ));
        }
        let source = match decoded.routes {
            decode::RouteSource::Named(name) => TableSource::Named(name),
            decode::RouteSource::Inline(table) => {
                let cx =
                    RouteContext { clusters: &self.plane.clusters, rewrite: self.options.rewrite };
                let table = decode::table(&table, &cx, &mut RouteCache::default())
                    .map_err(|e| e.at("route_config").to_string())?;
                TableSource::Inline(table)
            }
        };
        let tls = decoded.tls.map(|spec| self.secrets.downstream(spec, now));
        decoded.config.tls = tls.transpose()?;
        Ok(Version { config: Arc::new(decoded.config), source })
    }

    pub(super) fn remove_listener(&mut self, name: &str) {
        self.forget_raw(ResourceType::Listener, name);
        if self.listeners.by_name.remove(name).is_some() {
            self.plane.stats.control.listener_removed.inc();
            self.changed = true;
        }
    }

    /// Takes a version out of service that cannot open its socket; the one
    /// before it serves on. False if there is nothing to take out.
    pub(super) fn drop_listener(&mut self, name: &str) -> bool {
        let Some(state) = self.listeners.by_name.get_mut(name) else { return false };
        self.plane.stats.control.listener_create_failure.inc();
        let dropped = std::mem::replace(&mut state.active, state.previous.take()).is_some();
        // Sent again, it is tried again.
        self.forget_raw(ResourceType::Listener, name);
        dropped
    }
}
