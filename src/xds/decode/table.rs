//! Route tables, compiled incrementally.
//!
//! The control plane sends the whole table at every change. Its raw bytes are
//! walked, each route is fingerprinted, and a route whose bytes were in the
//! previous table keeps its compiled object: one changed route of 40,000 costs
//! one compilation.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3 as pb;
use hashbrown::{HashMap, HashSet, HashTable};
use prost::Message;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::Invalid;
use super::error::{At, Unset, overlook, refuse};
use super::header::mutations;
use super::retry::retry_policy;
use super::walk::split;
use crate::logic::index::{IndexEditor, Listed, RouteIndex};
use crate::model::{ClusterSlot, Clusters, NamedSlot, RetryPolicy, Route, RouteTable, VirtualHost};

/// Field numbers that the walk looks for.
const VIRTUAL_HOSTS: u64 = 2;
const ROUTES: u64 = 3;

/// What is kept of the last accepted table of a name: its routes by the
/// fingerprint of their bytes.
#[derive(Debug, Default)]
pub struct RouteCache {
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
}

/// Routes of a virtual host.
#[derive(Debug, Default)]
struct HostCache {
    editor: IndexEditor,
    /// By the editor's route id.
    fingerprints: Vec<u128>,
    /// Route ids by fingerprint.
    ids: HashTable<u32>,
}

impl HostCache {
    fn find(&self, fingerprint: u128) -> Option<u32> {
        let same = |id: &u32| self.fingerprints[*id as usize] == fingerprint;
        self.ids.find(hash(fingerprint), same).copied()
    }

    /// Takes over what was planned.
    fn commit(&mut self, plan: Plan) -> RouteIndex {
        let edited = self.editor.edit(plan.listed);
        for id in edited.removed {
            let place = hash(self.fingerprints[id as usize]);
            if let Ok(found) = self.ids.find_entry(place, |held| *held == id) {
                found.remove();
            }
        }
        for (id, fingerprint) in edited.added.into_iter().zip(plan.fingerprints) {
            let at = id as usize;
            self.fingerprints.resize(self.fingerprints.len().max(at + 1), 0);
            self.fingerprints[at] = fingerprint;
            let fingerprints = &self.fingerprints;
            let rehash = |id: &u32| hash(fingerprints[*id as usize]);
            self.ids.insert_unique(hash(fingerprint), id, rehash);
        }
        edited.index
    }
}

/// A fingerprint is as good a hash as any.
#[expect(clippy::cast_possible_truncation, reason = "half of it is enough")]
fn hash(fingerprint: u128) -> u64 {
    fingerprint as u64
}

/// A virtual host's routes, compiled and not yet in force.
#[derive(Debug, Default)]
struct Plan {
    listed: Vec<Listed>,
    /// Fingerprints of the new ones, in order.
    fingerprints: Vec<u128>,
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
    message: &Bytes,
    cx: &RouteContext<'_>,
    cache: &mut RouteCache,
) -> Result<Arc<RouteTable>, Invalid> {
    let parts = split(message, VIRTUAL_HOSTS)?;
    let config = pb::RouteConfiguration::decode(&*parts.rest).map_err(malformed)?;
    refuse!(config; vhds, internal_only_headers, most_specific_header_mutations_wins,
        cluster_specifier_plugins, ignore_port_in_host_matching, vhost_header,
        ignore_path_parameters_in_path_matching, typed_per_filter_config, route_specifiers);
    overlook!(config, "RouteConfiguration"; max_direct_response_body_size_bytes, metadata);
    if config.validate_clusters.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("validate_clusters"));
    }
    let mut session = Session::new(cx);
    let mut virtual_hosts = Vec::with_capacity(parts.parts.len());
    let mut plans = Vec::with_capacity(parts.parts.len());
    let unknown = HostCache::default();
    for (i, host) in parts.parts.iter().enumerate() {
        session.inherited = Inherited::default();
        session.inherited.mirrors.clone_from(&config.request_mirror_policies);
        let held = cache.hosts.get(i).unwrap_or(&unknown);
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
    cache.hosts.resize_with(plans.len(), HostCache::default);
    cache.compiled.clear();
    for ((host, held), plan) in virtual_hosts.iter_mut().zip(&mut cache.hosts).zip(plans) {
        let new = plan.listed.iter().filter_map(|listed| match listed {
            Listed::New(route) => Some(Arc::clone(route)),
            Listed::Held(_) => None,
        });
        cache.compiled.extend(new);
        host.routes = held.commit(plan);
    }
    let table = RouteTable { name: config.name, virtual_hosts, request_headers, response_headers };
    Ok(Arc::new(table))
}

/// A virtual host, still without its routes, and what is to become of them.
fn virtual_host(
    message: &[u8],
    held: &HostCache,
    session: &mut Session<'_>,
) -> Result<(VirtualHost, Plan), Invalid> {
    let parts = split(message, ROUTES)?;
    let host = pb::VirtualHost::decode(&*parts.rest).map_err(malformed)?;
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
    let seed = session.inherit(&host)?;
    let plan = routes(&parts.parts, held, seed, session)?;
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

/// Compiles those routes that are not `held`; `seed` stands for what they
/// inherit.
fn routes(
    parts: &[&[u8]],
    held: &HostCache,
    seed: u64,
    session: &Session<'_>,
) -> Result<Plan, Invalid> {
    let mut plan = Plan { listed: Vec::with_capacity(parts.len()), fingerprints: Vec::new() };
    if u32::try_from(parts.len()).is_err() {
        return Err(Invalid::new("2^32 routes or more").at("routes"));
    }
    for (at, bytes) in parts.iter().enumerate() {
        let fingerprint = xxh3_128_with_seed(bytes, seed);
        plan.listed.push(match held.find(fingerprint) {
            Some(id) => Listed::Held(id),
            None => {
                plan.fingerprints.push(fingerprint);
                Listed::New(compile(bytes, session).at_index("routes", at)?)
            }
        });
    }
    Ok(plan)
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

    /// Takes over what routes inherit; the seed tells compiled routes apart
    /// that inherit something else.
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
