//! What the threads of the process share: the published snapshot, the
//! directories of clusters and endpoints, statistics and the server's state.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::dns::Endpoints;
use crate::give_way::Urgency;
use crate::model::{Clusters, Resources, Snapshot};
use crate::seldon_stats::SeldonMetrics;
use crate::stats::Stats;

/// Lifecycle as Envoy names it on `/ready` and `/server_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Waiting for the first clusters.
    PreInitializing,
    /// Waiting for listeners and routes.
    Initializing,
    /// Serving.
    Live,
}

/// Identity towards the scheduler (Envoy: `node`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Must be the scheduler's `-nodeID`, `test-id` by default.
    pub id: String,
    /// `test-cluster` by default; shown on `/ready`.
    pub cluster: String,
}

impl Default for Node {
    fn default() -> Self {
        Self { id: "test-id".to_owned(), cluster: "test-cluster".to_owned() }
    }
}

/// Shared state of the process.
#[derive(Debug)]
pub struct Plane {
    /// What is served now. Loaded once per request.
    pub snapshot: ArcSwap<Snapshot>,
    /// Clusters by name.
    pub clusters: Clusters,
    /// Endpoint sets and the resolver behind them.
    pub endpoints: Endpoints,
    /// Statistics.
    pub stats: Stats,
    /// `seldon_*` metrics.
    pub seldon: Arc<SeldonMetrics>,
    /// Accepted resources as they came.
    pub resources: RwLock<Resources>,
    /// The bootstrap in proto3 JSON, for `/config_dump`.
    pub bootstrap: RwLock<serde_json::Value>,
    /// The utility listener, which is not part of snapshots: name and address.
    pub utility: OnceLock<(String, SocketAddr)>,
    /// Identity.
    pub node: Node,
    /// When the process started.
    pub started: Instant,
    /// When the process started, wall clock.
    pub started_at: SystemTime,
    /// Whether a response of the scheduler waits for a worker's core.
    pub(crate) urgency: Urgency,
    /// Version of `snapshot`, so that a connection sees with one load that
    /// nothing changed.
    version: AtomicU64,
    state: watch::Sender<ServerState>,
    healthcheck_failed: AtomicBool,
    /// `Drain` as bits, for the hot path.
    drain_bits: AtomicU8,
    /// Bumped when draining starts or stops, so that connections notice.
    drain: watch::Sender<Drain>,
}

/// What draining asks of connections and listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Since `/healthcheck/fail` or SIGTERM: replies close their connections,
    /// HTTP/2 sends GOAWAY.
    pub connections: bool,
    /// Since `/drain_listeners` or SIGTERM: data listeners stop accepting.
    pub listeners: bool,
    /// Since SIGTERM or `/quitquitquit`: the process ends.
    pub exit: bool,
}

impl Plane {
    /// A plane for `workers` worker threads with nothing to serve yet.
    #[must_use]
    pub fn new(workers: usize, node: Node) -> Arc<Self> {
        Arc::new(Self {
            snapshot: ArcSwap::default(),
            clusters: Clusters::default(),
            endpoints: Endpoints::default(),
            stats: Stats::new(workers),
            seldon: Arc::new(SeldonMetrics::new()),
            resources: RwLock::default(),
            bootstrap: RwLock::default(),
            utility: OnceLock::new(),
            node,
            started: Instant::now(),
            started_at: SystemTime::now(),
            urgency: Urgency::default(),
            version: AtomicU64::new(0),
            drain_bits: AtomicU8::new(0),
            state: watch::Sender::new(ServerState::PreInitializing),
            healthcheck_failed: AtomicBool::new(false),
            drain: watch::Sender::new(Drain::default()),
        })
    }

    /// Makes a snapshot visible to all workers.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Changes with every publication.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The lifecycle state.
    #[must_use]
    pub fn state(&self) -> ServerState {
        *self.state.borrow()
    }

    /// Notified when the lifecycle state changes.
    #[must_use]
    pub fn state_changes(&self) -> watch::Receiver<ServerState> {
        self.state.subscribe()
    }

    /// Moves to a lifecycle state.
    pub fn set_state(&self, state: ServerState) {
        self.state.send_replace(state);
    }

    /// True after `/healthcheck/fail`, until `/healthcheck/ok`.
    #[must_use]
    pub fn healthcheck_failed(&self) -> bool {
        self.healthcheck_failed.load(Ordering::Acquire)
    }

    /// `/healthcheck/fail` (true) and `/healthcheck/ok` (false): readiness and
    /// connection draining.
    pub fn set_healthcheck_failed(&self, failed: bool) {
        self.healthcheck_failed.store(failed, Ordering::Release);
        self.change_drain(|d| d.connections = failed || d.exit);
    }

    /// Draining as it is now; cheap, for every reply.
    #[must_use]
    pub fn drain(&self) -> Drain {
        let bits = self.drain_bits.load(Ordering::Acquire);
        Drain { connections: bits & 1 != 0, listeners: bits & 2 != 0, exit: bits & 4 != 0 }
    }

    fn change_drain(&self, change: impl FnOnce(&mut Drain)) {
        self.drain.send_modify(|d| {
            change(d);
            let bits = u8::from(d.connections) | u8::from(d.listeners) << 1 | u8::from(d.exit) << 2;
            self.drain_bits.store(bits, Ordering::Release);
        });
    }

    /// Notified when draining changes.
    #[must_use]
    pub fn drain_changes(&self) -> watch::Receiver<Drain> {
        self.drain.subscribe()
    }

    /// Connections drain, listeners go on accepting
    /// (`/drain_listeners?graceful`).
    pub fn drain_connections(&self) {
        self.change_drain(|d| d.connections = true);
    }

    /// Data listeners stop accepting (`/drain_listeners`).
    pub fn drain_listeners(&self) {
        self.change_drain(|d| d.listeners = true);
    }

    /// The process ends after draining (SIGTERM, `/quitquitquit`).
    pub fn begin_exit(&self) {
        self.change_drain(|d| *d = Drain { connections: true, listeners: true, exit: true });
    }
}
