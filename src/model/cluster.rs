//! Clusters, endpoints and hosts (Envoy: `config.cluster.v3.Cluster`).

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use hashbrown::HashMap;
use tokio::sync::Notify;

use crate::stats::ClusterStats;

/// Name of a cluster; never a model's, never a route's.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ClusterName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named place for a cluster. Routes keep the place ([`NamedSlot`]); the
/// control side puts clusters in and takes them out.
// What every request touches stands in one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct ClusterSlot {
    current: ArcSwapOption<Cluster>,
    /// What its circuit breakers count, of all workers.
    pub usage: Usage,
    /// Counters, kept when the cluster is replaced (as Envoy's by name).
    pub stats: ClusterStats,
    /// Wakes requests that wait for a connection.
    waiters: OnceLock<Box<Notify>>,
    /// Handles ([`NamedSlot`]).
    named: AtomicUsize,
    /// The cluster's name.
    pub name: ClusterName,
    /// Changes of membership, less those of the current cluster's endpoints.
    membership_base: AtomicU32,
}

/// Resources in use, for circuit breakers (Envoy: `ResourceManager`, priority
/// DEFAULT).
#[derive(Debug, Default)]
pub struct Usage {
    /// HTTP/1 requests that hold a connection.
    pub connections: AtomicU32,
    /// Requests that wait for a connection.
    pub pending: AtomicU32,
    /// HTTP/2 requests in progress.
    pub requests: AtomicU32,
    /// Retries, from the start of their back-off to their end.
    pub retries: AtomicU32,
}

/// A handle that keeps a slot in the directory, a table's above all. Connections
/// hold slots too, for their statistics, and keep none there.
#[derive(Debug)]
pub struct NamedSlot(Arc<ClusterSlot>);

impl NamedSlot {
    /// A handle of its own.
    #[must_use]
    pub fn new(slot: Arc<ClusterSlot>) -> Self {
        slot.named.fetch_add(1, Ordering::Relaxed);
        Self(slot)
    }

    /// The slot, for those who do not name it.
    #[must_use]
    pub fn slot(&self) -> &Arc<ClusterSlot> {
        &self.0
    }
}

impl std::ops::Deref for NamedSlot {
    type Target = ClusterSlot;

    fn deref(&self) -> &ClusterSlot {
        &self.0
    }
}

impl Drop for NamedSlot {
    fn drop(&mut self) {
        self.0.named.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ClusterSlot {
    /// The routable cluster; none if it is unknown, removed or still warming.
    #[must_use]
    pub fn load(&self) -> Option<Arc<Cluster>> {
        self.current.load_full()
    }

    /// True if there is a routable cluster.
    #[must_use]
    pub fn is_routable(&self) -> bool {
        self.current.load().is_some()
    }

    /// Makes `cluster` routable, or (none) takes the cluster out.
    pub fn store(&self, cluster: Option<Arc<Cluster>>) {
        let changes = |c: &Cluster| c.endpoints.changes.load(Ordering::Relaxed);
        let before = self.membership_changes();
        // The first hosts of a cluster are a change.
        let base = cluster.as_deref().map_or(before, |new| {
            let first = u32::from(!new.endpoints.hosts().is_empty());
            before.wrapping_add(first).wrapping_sub(changes(new))
        });
        self.current.store(cluster);
        self.membership_base.store(base, Ordering::Relaxed);
    }

    /// How often the hosts changed (Envoy: `membership_change`), over all
    /// clusters that had this place.
    #[must_use]
    pub fn membership_changes(&self) -> u32 {
        let base = self.membership_base.load(Ordering::Relaxed);
        let current = self.current.load();
        current
            .as_ref()
            .map_or(base, |c| base.wrapping_add(c.endpoints.changes.load(Ordering::Relaxed)))
    }

    /// True if a table names this slot: if there are [`NamedSlot`]s besides
    /// `held` ones of the caller.
    #[must_use]
    pub fn is_named(&self, held: usize) -> bool {
        self.named.load(Ordering::Relaxed) > held
    }

    /// The queue of requests that wait for a connection.
    pub fn waiters(&self) -> &Notify {
        self.waiters.get_or_init(Box::default)
    }

    /// Wakes one waiting request, if any waits.
    pub fn wake_one(&self) {
        if self.usage.pending.load(Ordering::SeqCst) > 0
            && let Some(waiters) = self.waiters.get()
        {
            waiters.notify_one();
        }
    }
}

/// All slots by name. A slot exists as long as somebody names it.
#[derive(Debug, Default)]
pub struct Clusters {
    slots: Mutex<HashMap<ClusterName, Arc<ClusterSlot>>>,
    /// Clusters in use, by the address of their endpoint set.
    shared: Mutex<HashMap<usize, Vec<Weak<Cluster>>>>,
}

impl Clusters {
    /// The slot of this name, made if need be.
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let name = ClusterName::from(name);
        let slot = slots.entry(name).or_insert_with_key(|name| {
            Arc::new(ClusterSlot {
                current: ArcSwapOption::empty(),
                usage: Usage::default(),
                stats: ClusterStats::default(),
                waiters: OnceLock::new(),
                membership_base: AtomicU32::new(0),
                named: AtomicUsize::new(0),
                name: name.clone(),
            })
        });
        Arc::clone(slot)
    }

    /// The slot of this name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&ClusterName::from(name)).cloned()
    }

    /// All slots that hold a cluster, sorted by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ClusterSlot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> =
            slots.values().filter(|s| s.current.load().is_some()).map(Arc::clone).collect();
        drop(slots);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// One object for equal clusters: ten thousand models on the same pods differ
    /// in their names only, which their slots keep.
    pub fn share(&self, cluster: Cluster) -> Arc<Cluster> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let alike = shared.entry(Arc::as_ptr(&cluster.endpoints).addr()).or_default();
        let held = alike.iter().filter_map(Weak::upgrade).find(|held| held.is_same(&cluster));
        held.unwrap_or_else(|| {
            let cluster = Arc::new(cluster);
            alike.retain(|held| held.strong_count() > 0);
            alike.push(Arc::downgrade(&cluster));
            cluster
        })
    }

    /// Forgets the slots that hold no cluster and that nobody names.
    pub fn sweep(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, s| s.is_named(0) || s.current.load().is_some());
        drop(slots);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, alike| alike.iter().any(|held| held.strong_count() > 0));
    }
}

/// A routable cluster, immutable but for its hosts; its name is its slot's
/// ([`Clusters::share`]).
#[derive(Debug)]
pub struct Cluster {
    /// Protocol spoken to its hosts.
    pub protocol: UpstreamProtocol,
    /// Its hosts, shared by all clusters with the same endpoints.
    pub endpoints: Arc<EndpointSet>,
    /// TLS towards the hosts, if any (shared by clusters with the same
    /// settings, and so are its connections).
    pub tls: Option<Arc<crate::tls::UpstreamTls>>,
    /// Envoy: `connect_timeout` (default 5 s).
    pub connect_timeout: Duration,
    /// Circuit breakers of the default priority.
    pub limits: Limits,
    /// True if it came from the control plane, false from the bootstrap.
    pub added_via_api: bool,
}

impl Cluster {
    /// True if replacing one by the other would change nothing but the object.
    /// Endpoint sets are interned, so that their order does not matter.
    fn is_same(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && self.tls.as_ref().map(Arc::as_ptr) == other.tls.as_ref().map(Arc::as_ptr)
            && self.connect_timeout == other.connect_timeout
            && self.limits == other.limits
            && self.added_via_api == other.added_via_api
    }
}

/// Protocol towards a host. Envoy: `explicit_http_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    Http1,
    /// Prior knowledge without TLS, ALPN `h2` with it.
    Http2,
}

/// Envoy: `CircuitBreakers.Thresholds`, priority DEFAULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Default 1024.
    pub max_connections: u32,
    /// Default 1024.
    pub max_pending_requests: u32,
    /// Default 1024.
    pub max_requests: u32,
    /// Default 3; the scheduler sends 5.
    pub max_retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
        }
    }
}

/// An endpoint as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// IP literal: needs no lookup.
    Socket(SocketAddr),
    /// Host name (A records) and port.
    Name(Arc<str>, u16),
}

/// The hosts behind a list of endpoints; the same list in any order is the same
/// set (`crate::dns::Endpoints` interns them).
#[derive(Debug)]
pub struct EndpointSet {
    /// Sorted, without duplicates.
    pub endpoints: Box<[EndpointAddress]>,
    hosts: ArcSwap<Box<[Arc<Host>]>>,
    /// How often they became others; wraps.
    changes: AtomicU32,
    resolved: AtomicBool,
}

impl EndpointSet {
    /// A set whose hosts are not known yet. `endpoints` is sorted and its
    /// duplicates are dropped.
    #[must_use]
    pub fn new(mut endpoints: Vec<EndpointAddress>) -> Self {
        endpoints.sort();
        endpoints.dedup();
        Self {
            endpoints: endpoints.into(),
            hosts: ArcSwap::from_pointee(Box::default()),
            changes: AtomicU32::new(0),
            resolved: AtomicBool::new(false),
        }
    }

    /// Hosts to choose from, possibly none. One load per attempt.
    #[must_use]
    pub fn hosts(&self) -> arc_swap::Guard<Arc<Box<[Arc<Host>]>>> {
        self.hosts.load()
    }

    /// Replaces the hosts and marks the set as resolved.
    pub fn publish(&self, hosts: Box<[Arc<Host>]>) {
        let before = self.hosts.swap(Arc::new(hosts));
        if !before.iter().map(|h| h.address).eq(self.hosts().iter().map(|h| h.address)) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.resolved.store(true, Ordering::Release);
    }

    /// True once every host name was looked up, with success or not.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.resolved.load(Ordering::Acquire)
    }

    /// Marks the set as resolved without hosts changing (failed lookup).
    pub fn mark_resolved(&self) {
        self.resolved.store(true, Ordering::Release);
    }
}

/// An upstream address. One object per address for the whole process, whatever
/// the number of clusters that point there.
#[derive(Debug)]
pub struct Host {
    /// Where to connect.
    pub address: SocketAddr,
    /// Requests in flight on this address, of all workers and clusters.
    pub active: AtomicU32,
}
