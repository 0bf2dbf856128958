//! Route tables, compiled incrementally.
//!
//! The control plane sends the whole table at every change. While it comes in each
//! route is fingerprinted ([`super::table_scan`]), and one whose bytes were in the
//! last table keeps its compiled object: one changed route of 40,000 costs one
//! compilation.

use std::cell::RefCell;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as pb;
use hashbrown::{HashMap, HashSet};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::Invalid;
use super::error::{At, Unset, overlook, refuse};
use super::header::mutations;
use super::retry::retry_policy;
use super::table_scan::{HostScan, KnownTable, NewRoute, TableScan};
use crate::logic::index::{IndexEditor, NEW, RouteIndex};
use crate::model::{
    ClusterSlot, Clusters, NamedSlot, RawHost, RetryPolicy, Route, RouteTable, VirtualHost,
};

/// What is kept of the last accepted table of a name.
#[derive(Debug, Default)]
pub struct RouteCache {
    raw: KnownTable,
    /// By position of the virtual host.
    hosts: Vec<HostCache>,
    compiled: Vec<Arc<Route>>,
}

impl RouteCache {
    /// The routes that were not in the table before and had to be compiled.
    /// Asked once: the cache forgets them.
    pub fn take_compiled(&mut self) -> Vec<Arc<Route>> {
        std::mem::take(&mut self.compiled)
    }

    /// The bytes of the last accepted table, to compare the next one with.
    #[must_use]
    pub fn raw(&self) -> &KnownTable {
        &self.raw
    }
}

/// A virtual host of the last accepted table.
#[derive(Debug, Default)]
struct HostCache {
    editor: IndexEditor,
    /// Stands for what its routes inherited.
    inherited: u64,
}

/// A virtual host's routes, compiled and not yet in force.
#[derive(Debug, Default)]
struct Plan {
    inherited: u64,
    /// Ids of the last table, or [`NEW`].
    listed: Vec<u32>,
    /// The new ones, and their bytes.
    routes: Vec<Arc<Route>>,
    new: Vec<NewRoute>,
    bytes: Vec<u8>,
    rest: Vec<u8>,
}

impl Plan {
    /// Puts it into force.
    fn commit(self, held: &mut HostCache, raw: &mut RawHost) -> RouteIndex {
        let edited = held.editor.edit(self.listed, self.routes);
        held.inherited = self.inherited;
        for id in edited.removed {
            raw.remove(id);
        }
        let new = edited.added.into_iter().zip(self.new);
        let new: Vec<_> = new.map(|(id, new)| (id, new.fingerprint, new.len)).collect();
        raw.insert(&new, self.bytes);
        raw.list(edited.ids);
        raw.rest = self.rest;
        edited.index
    }
}

/// What compiling a table needs besides the table.
#[derive(Clone, Copy, Debug)]
pub struct RouteContext<'a> {
    /// Slots that routes point to.
    pub clusters: &'a Clusters,
    /// Derive `rewrite_model` from `seldon-internal-model`.
    pub rewrite: bool,
}

/// Compiles a `RouteConfiguration`; `cache` holds what the last accepted table
/// of this name gave, and then what this one does.
///
/// # Errors
///
/// The first thing that is wrong, with its path. Nothing is kept of a refused
/// table but slots without a cluster, which nobody names.
pub fn table(
    message: &[u8],
    cx: &RouteContext<'_>,
    cache: &mut RouteCache,
) -> Result<Arc<RouteTable>, Invalid> {
    scanned_table(TableScan::whole(message, Some(Arc::clone(&cache.raw))), cx, cache)
}

/// [`table`] for one that was compared with the last one while it came in.
///
/// # Errors
///
/// As for [`table`]; also if another table of this name was accepted meanwhile.
pub fn scanned_table(
    mut scan: TableScan,
    cx: &RouteContext<'_>,
    cache: &mut RouteCache,
) -> Result<Arc<RouteTable>, Invalid> {
    if scan.is_malformed() {
        return Err(Invalid::new("malformed protobuf message"));
    }
    if !scan.is_of(&cache.raw) {
        return Err(Invalid::new("another table of this name was accepted while it came in"));
    }
    scan.forget_known();
    let config = pb::RouteConfiguration::decode(&*scan.rest).map_err(malformed)?;
    refuse!(config; vhds, internal_only_headers, most_specific_header_mutations_wins,
        cluster_specifier_plugins, ignore_port_in_host_matching, vhost_header,
        ignore_path_parameters_in_path_matching, typed_per_filter_config, route_specifiers);
    overlook!(config, "RouteConfiguration"; max_direct_response_body_size_bytes, metadata);
    if config.validate_clusters.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("validate_clusters"));
    }
    let mut session = Session::new(cx);
    let mut virtual_hosts = Vec::with_capacity(scan.hosts.len());
    let mut plans = Vec::with_capacity(scan.hosts.len());
    for (i, host) in scan.hosts.into_iter().enumerate() {
        session.inherited = Inherited::default();
        session.inherited.mirrors.clone_from(&config.request_mirror_policies);
        let held = cache.hosts.get(i).zip(cache.raw.hosts.get(i));
        let host = virtual_host(host, held, &mut session).at_index("virtual_hosts", i)?;
        virtual_hosts.push(host.0);
        plans.push(host.1);
    }
    check_domains(&virtual_hosts)?;
    let (request_headers, response_headers) = (
        mutations(
            ("request_headers_to_add", &config.request_headers_to_add),
            ("request_headers_to_remove", &config.request_headers_to_remove),
            &session,
        )?,
        mutations(
            ("response_headers_to_add", &config.response_headers_to_add),
            ("response_headers_to_remove", &config.response_headers_to_remove),
            &session,
        )?,
    );
    // From here on nothing can go wrong.
    cache.compiled = plans.iter().flat_map(|plan| plan.routes.iter().cloned()).collect();
    // Changes where it is, if nobody else shows or compares it.
    let raw = Arc::make_mut(&mut cache.raw);
    raw.rest = scan.rest;
    raw.hosts.resize_with(plans.len(), RawHost::default);
    cache.hosts.resize_with(plans.len(), HostCache::default);
    let held = cache.hosts.iter_mut().zip(&mut raw.hosts);
    for ((host, (held, raw)), plan) in virtual_hosts.iter_mut().zip(held).zip(plans) {
        host.routes = plan.commit(held, raw);
    }
    let table = RouteTable { name: config.name, virtual_hosts, request_headers, response_headers };
    Ok(Arc::new(table))
}

/// A virtual host, still without its routes, and what is to become of them.
fn virtual_host(
    scan: HostScan,
    held: Option<(&HostCache, &RawHost)>,
    session: &mut Session<'_>,
) -> Result<(VirtualHost, Plan), Invalid> {
    let host = pb::VirtualHost::decode(&*scan.rest).map_err(malformed)?;
    refuse!(host; matcher, require_tls, typed_per_filter_config, include_request_attempt_count,
        include_attempt_count_in_response, retry_policy_typed_config, hedge_policy,
        include_is_timeout_retry_header, route_specifiers);
    overlook!(host, "VirtualHost"; virtual_clusters, rate_limits, cors, metadata,
        per_request_buffer_limit_bytes, request_body_buffer_limit);
    if host.name.is_unset() {
        return Err(Invalid::new("value length must be at least 1 characters").at("name"));
    }
    if host.domains.is_empty() {
        return Err(Invalid::new("value must contain at least 1 item(s)").at("domains"));
    }
    let inherited = session.inherit(&host)?;
    let plan = plan(scan, held, inherited, session)?;
    let host = VirtualHost {
        routes: RouteIndex::default(),
        request_headers: mutations(
            ("request_headers_to_add", &host.request_headers_to_add),
            ("request_headers_to_remove", &host.request_headers_to_remove),
            session,
        )?,
        response_headers: mutations(
            ("response_headers_to_add", &host.response_headers_to_add),
            ("response_headers_to_remove", &host.response_headers_to_remove),
            session,
        )?,
        name: host.name,
        domains: host.domains,
    };
    Ok((host, plan))
}

/// Compiles the new routes; all of them if they inherit something else now.
fn plan(
    mut scan: HostScan,
    held: Option<(&HostCache, &RawHost)>,
    inherited: u64,
    session: &Session<'_>,
) -> Result<Plan, Invalid> {
    if u32::try_from(scan.listed.len()).is_err() {
        return Err(Invalid::new("2^32 routes or more").at("routes"));
    }
    if let Some((cache, raw)) = held
        && cache.inherited != inherited
    {
        scan.renew(raw);
    }
    let places = scan.listed.iter().enumerate().filter_map(|(at, id)| (*id == NEW).then_some(at));
    let compiled = places
        .zip(scan.new_routes())
        .map(|(at, bytes)| compile(bytes, session).at_index("routes", at))
        .collect::<Result<_, _>>()?;
    let HostScan { rest, listed, new, bytes, .. } = scan;
    Ok(Plan { inherited, listed, routes: compiled, new, bytes, rest })
}

fn compile(bytes: &[u8], session: &Session<'_>) -> Result<Arc<Route>, Invalid> {
    let message = pb::Route::decode(bytes).map_err(malformed)?;
    Ok(Arc::new(super::route::route(&message, session)?))
}

/// What routes take over from their virtual host and table.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) retry: Option<Arc<RetryPolicy>>,
    pub(super) mirrors: Vec<pb::route_action::RequestMirrorPolicy>,
}

/// One compilation: shares what many routes have in common.
pub(super) struct Session<'a> {
    clusters: Option<&'a Clusters>,
    pub(super) rewrite: bool,
    pub(super) inherited: Inherited,
    names: RefCell<HashSet<Arc<str>>>,
    name_lists: RefCell<Vec<Arc<[Arc<str>]>>>,
    slots: RefCell<HashMap<Box<str>, Arc<ClusterSlot>>>,
    retries: RefCell<Vec<Arc<RetryPolicy>>>,
}

impl<'a> Session<'a> {
    fn new(cx: &RouteContext<'a>) -> Self {
        Self { clusters: Some(cx.clusters), rewrite: cx.rewrite, ..Self::detached() }
    }

    /// A session for things that are not routes.
    pub(super) fn detached() -> Self {
        Self {
            clusters: None,
            rewrite: false,
            inherited: Inherited::default(),
            names: RefCell::default(),
            name_lists: RefCell::default(),
            slots: RefCell::default(),
            retries: RefCell::default(),
        }
    }

    /// One object for equal names.
    pub(super) fn name(&self, name: &str) -> Arc<str> {
        let mut names = self.names.borrow_mut();
        Arc::clone(names.get_or_insert_with(name, |name| Arc::from(name)))
    }

    /// One object for equal lists of names; none for an empty one.
    pub(super) fn names(&self, names: Vec<Arc<str>>) -> Option<Arc<[Arc<str>]>> {
        if names.is_empty() {
            return None;
        }
        let mut lists = self.name_lists.borrow_mut();
        if let Some(held) = lists.iter().find(|held| ***held == *names) {
            return Some(Arc::clone(held));
        }
        let names: Arc<[_]> = names.into();
        // Tables use a handful of lists; one that does not is not worth a search.
        if lists.len() < 64 {
            lists.push(Arc::clone(&names));
        }
        Some(names)
    }

    /// The slot of a cluster, named.
    pub(super) fn slot(&self, name: &str) -> NamedSlot {
        let mut slots = self.slots.borrow_mut();
        let make = || match self.clusters {
            Some(clusters) => clusters.slot(name),
            None => Clusters::default().slot(name),
        };
        NamedSlot::new(Arc::clone(slots.entry_ref(name).or_insert_with(make)))
    }

    /// One object for equal policies.
    pub(super) fn retry(&self, policy: &pb::RetryPolicy) -> Result<Arc<RetryPolicy>, Invalid> {
        let policy = retry_policy(policy)?;
        let mut retries = self.retries.borrow_mut();
        if let Some(held) = retries.iter().find(|held| ***held == policy) {
            return Ok(Arc::clone(held));
        }
        let policy = Arc::new(policy);
        retries.push(Arc::clone(&policy));
        Ok(policy)
    }

    /// Takes over what routes inherit; the number tells apart what is
    /// inherited.
    fn inherit(&mut self, host: &pb::VirtualHost) -> Result<u64, Invalid> {
        let mut inherited = Vec::new();
        if let Some(policy) = &host.retry_policy {
            self.inherited.retry = Some(self.retry(policy).at("retry_policy")?);
            inherited.push(b'r');
            inherited.extend(policy.encode_length_delimited_to_vec());
        }
        if !host.request_mirror_policies.is_empty() {
            self.inherited.mirrors.clone_from(&host.request_mirror_policies);
        }
        for mirror in &self.inherited.mirrors {
            inherited.push(b'm');
            inherited.extend(mirror.encode_length_delimited_to_vec());
        }
        Ok(if inherited.is_empty() { 0 } else { xxh3_64(&inherited) })
    }
}

fn check_domains(hosts: &[VirtualHost]) -> Result<(), Invalid> {
    let mut seen = HashSet::new();
    for (i, domain) in
        hosts.iter().enumerate().flat_map(|(i, h)| h.domains.iter().map(move |d| (i, d)))
    {
        if !seen.insert(domain.to_ascii_lowercase()) {
            let reason = if domain == "*" {
                "Only a single wildcard domain is permitted".to_owned()
            } else {
                format!(
                    "Only unique values for domains are permitted. Duplicate entry of domain {domain}"
                )
            };
            return Err(Invalid::new(reason).at("domains").at_index("virtual_hosts", i));
        }
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value)]
fn malformed(e: prost::DecodeError) -> Invalid {
    Invalid::new(format!("malformed protobuf message: {e}"))
}
