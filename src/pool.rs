//! Upstream connections of one worker, by address: ten thousand models on the
//! same pods share the same few connections.
//!
//! HTTP/1: most recently used first, one request at a time. HTTP/2: as few
//! connections as the peer's stream limit allows. Limits and statistics stay
//! with the cluster whose request makes or uses the connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use hashbrown::HashMap;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::io::Io;
use crate::local_reply::UpstreamError;
use crate::model::{Cluster, ClusterSlot, Host, UpstreamProtocol};
use crate::stats::{ClusterShard, ClusterStats, Shard};
use crate::upstream::Http1;

/// Envoy: upstream `idle_timeout`, 1 h.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// HTTP/2 windows towards upstreams (Envoy 1.40's defaults).
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;
/// What small DATA frames (below 256 bytes) that nobody has read yet may cost
/// before `h2` ends the connection: each counts as what it lacks to 256 bytes.
/// The crate's default, half the connection's window, lets one client that is
/// slow to read a stream of tokens end all other streams to its upstream at
/// 50,000 tokens; Envoy has no such limit.
const SMALL_FRAME_BUDGET: usize = 64 * 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    protocol: UpstreamProtocol,
    /// The TLS context; 0 without.
    tls: u64,
}

/// All connections of a worker.
pub(crate) struct Pools {
    shard: Shard,
    by_key: RefCell<HashMap<Key, Rc<HostPool>>>,
}

/// Connections to one address.
struct HostPool {
    host: Weak<Host>,
    idle: RefCell<Vec<Idle>>,
    multiplexed: RefCell<Vec<Rc<Multiplexed>>>,
    /// An HTTP/2 connection is being made; others wait for it.
    connecting: Cell<bool>,
    /// Why the last making failed, for those who waited for it.
    failed: Cell<Option<UpstreamError>>,
    connected: Notify,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
}

/// An HTTP/2 connection.
pub(crate) struct Multiplexed {
    sender: RefCell<SendRequest<Bytes>>,
    /// Streams in progress.
    active: Cell<usize>,
    /// No new streams: closed, or GOAWAY received.
    closed: Cell<bool>,
}

/// A place on an HTTP/2 connection; given back on drop.
pub(crate) struct StreamPlace(Rc<Multiplexed>);

impl StreamPlace {
    /// The connection's handle for one new stream.
    pub(crate) fn sender(&self) -> SendRequest<Bytes> {
        self.0.sender.borrow().clone()
    }

    /// No new streams on this connection.
    pub(crate) fn retire(&self) {
        self.0.closed.set(true);
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

impl Multiplexed {
    fn has_room(&self) -> bool {
        self.active.get() < self.sender.borrow().current_max_send_streams().max(1)
    }

    /// False once no stream can be opened any more: closed, stream ids used up,
    /// or GOAWAY received while earlier streams go on.
    fn is_open(&self) -> bool {
        if !self.closed.get() {
            let mut cx = Context::from_waker(Waker::noop());
            let ready = self.sender.borrow_mut().poll_ready(&mut cx);
            self.closed.set(matches!(ready, Poll::Ready(Err(_))));
        }
        !self.closed.get()
    }
}

/// Whom a connection is for: where its events are counted.
pub(crate) struct Purpose<'a> {
    pub(crate) slot: &'a Arc<ClusterSlot>,
    pub(crate) cluster: &'a Cluster,
    pub(crate) host: &'a Arc<Host>,
}

impl Pools {
    /// No connections yet.
    pub(crate) fn new(shard: Shard) -> Self {
        Self { shard, by_key: RefCell::default() }
    }

    fn host(&self, purpose: &Purpose<'_>) -> Rc<HostPool> {
        let key = Key {
            address: purpose.host.address,
            protocol: purpose.cluster.protocol,
            tls: purpose.cluster.tls.as_ref().map_or(0, |tls| tls.id),
        };
        let mut pools = self.by_key.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Rc::new(HostPool {
                host: Arc::downgrade(purpose.host),
                idle: RefCell::default(),
                multiplexed: RefCell::default(),
                connecting: Cell::new(false),
                failed: Cell::new(None),
                connected: Notify::new(),
            })
        });
        if pool.host.strong_count() == 0 {
            // The address left and came back: its host object is another one.
            *pool = Rc::new(HostPool {
                host: Arc::downgrade(purpose.host),
                idle: RefCell::default(),
                multiplexed: RefCell::new(pool.multiplexed.take()),
                connecting: Cell::new(false),
                failed: Cell::new(None),
                connected: Notify::new(),
            });
        }
        Rc::clone(pool)
    }

    /// An HTTP/1 connection to this host, idle or new.
    ///
    /// # Errors
    /// Refused, timed out, or failed in the TLS handshake.
    pub(crate) async fn http1(&self, purpose: &Purpose<'_>) -> Result<Box<Http1>, UpstreamError> {
        let pool = self.host(purpose);
        loop {
            let idle = pool.idle.borrow_mut().pop();
            let Some(mut idle) = idle else { break };
            if idle.connection.is_reusable() {
                return Ok(idle.connection);
            }
            idle.connection.lost();
        }
        let stats = purpose.slot.stats.shard(self.shard);
        stats.upstream_rq_pending_total.inc();
        // Also those that fail to open, as in Envoy.
        stats.upstream_cx_http1_total.inc();
        let io = connect(purpose, stats).await?;
        Ok(Box::new(Http1::new(io, Open::new(Arc::clone(&purpose.slot.stats), self.shard))))
    }

    /// Takes a connection back whose exchange ended cleanly.
    pub(crate) fn give_back(&self, purpose: &Purpose<'_>, mut connection: Box<Http1>) {
        connection.relax();
        let pool = self.host(purpose);
        pool.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
    }

    /// A place for a stream on an HTTP/2 connection to this host.
    ///
    /// # Errors
    /// Refused, timed out, or failed in a handshake.
    pub(crate) async fn http2(&self, purpose: &Purpose<'_>) -> Result<StreamPlace, UpstreamError> {
        let pool = self.host(purpose);
        loop {
            if let Some(place) = pool.place() {
                return Ok(place);
            }
            if pool.connecting.get() {
                pool.connected.notified().await;
                match pool.failed.get() {
                    Some(e) if !pool.connecting.get() => return Err(e),
                    _ => continue,
                }
            }
            pool.connecting.set(true);
            pool.failed.set(None);
            let guard = Connecting(&pool);
            let made = self.connect_http2(purpose, &pool).await;
            pool.failed.set(made.err());
            drop(guard);
            made?;
        }
    }

    async fn connect_http2(
        &self,
        purpose: &Purpose<'_>,
        pool: &Rc<HostPool>,
    ) -> Result<(), UpstreamError> {
        let stats = purpose.slot.stats.shard(self.shard);
        stats.upstream_rq_pending_total.inc();
        stats.upstream_cx_http2_total.inc();
        let io = connect(purpose, stats).await?;
        let open = Open::new(Arc::clone(&purpose.slot.stats), self.shard);
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .max_concurrent_streams(1024)
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|_| UpstreamError::ConnectionTermination)?;
        let multiplexed = Rc::new(Multiplexed {
            sender: RefCell::new(sender),
            active: Cell::new(0),
            closed: Cell::new(false),
        });
        pool.multiplexed.borrow_mut().push(Rc::clone(&multiplexed));
        let pool = Rc::downgrade(pool);
        tokio::task::spawn_local(async move {
            if let Err(e) = connection.await {
                tracing::debug!("upstream HTTP/2 connection ended: {e}");
            }
            // It ends when the peer closes it, or after the last handle is gone.
            open.ends(!multiplexed.closed.get(), multiplexed.active.get() > 0);
            multiplexed.closed.set(true);
            drop(open);
            if let Some(pool) = pool.upgrade() {
                pool.multiplexed.borrow_mut().retain(|other| !Rc::ptr_eq(other, &multiplexed));
            }
        });
        Ok(())
    }

    /// Drops idle connections that their peers closed, that were idle for too
    /// long, or whose host has left every cluster.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.by_key.borrow_mut().retain(|_, pool| {
            let gone = pool.host.strong_count() == 0;
            pool.idle.borrow_mut().retain_mut(|idle| {
                let alive = idle.connection.is_reusable();
                if !alive {
                    idle.connection.lost();
                }
                !gone && alive && now.duration_since(idle.since) < IDLE_TIMEOUT
            });
            if gone {
                // Streams in progress keep their connection until they end.
                pool.multiplexed.borrow_mut().clear();
            }
            !gone || Rc::strong_count(pool) > 1
        });
    }
}

impl HostPool {
    fn place(self: &Rc<Self>) -> Option<StreamPlace> {
        let mut connections = self.multiplexed.borrow_mut();
        connections.retain(|connection| connection.is_open());
        let connection = connections.iter().find(|connection| connection.has_room())?;
        connection.active.set(connection.active.get() + 1);
        Some(StreamPlace(Rc::clone(connection)))
    }
}

/// Wakes those who wait for a connection, however its making ends.
struct Connecting<'a>(&'a HostPool);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}

/// Counts an open upstream connection of a cluster.
#[derive(Debug)]
pub(crate) struct Open {
    stats: Arc<ClusterStats>,
    shard: Shard,
    since: Instant,
    /// The peer closed it.
    remote: Cell<bool>,
    /// A request was in progress at its end.
    active: Cell<bool>,
}

impl Open {
    fn new(stats: Arc<ClusterStats>, shard: Shard) -> Self {
        stats.shard(shard).upstream_cx_active.inc();
        let since = Instant::now();
        Self { stats, shard, since, remote: Cell::new(false), active: Cell::new(false) }
    }

    /// Notes how the connection ends, for its accounts: by the peer or by the
    /// proxy, with or without a request in progress.
    pub(crate) fn ends(&self, remote: bool, active: bool) {
        self.remote.set(remote);
        self.active.set(active);
    }

    /// The statistics this connection belongs to.
    pub(crate) fn stats(&self) -> &ClusterShard {
        self.stats.shard(self.shard)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let stats = self.stats.shard(self.shard);
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let (side, side_active) = if self.remote.get() {
            (&stats.upstream_cx_destroy_remote, &stats.upstream_cx_destroy_remote_with_active_rq)
        } else {
            (&stats.upstream_cx_destroy_local, &stats.upstream_cx_destroy_local_with_active_rq)
        };
        side.inc();
        if self.active.get() {
            stats.upstream_cx_destroy_with_active_rq.inc();
            side_active.inc();
        }
        stats.connections.make().upstream_cx_length_ms.record(self.since.elapsed());
    }
}

/// Connects, with TLS if the cluster asks for it, within `connect_timeout`.
async fn connect(purpose: &Purpose<'_>, stats: &ClusterShard) -> Result<Io, UpstreamError> {
    stats.upstream_cx_total.inc();
    let started = Instant::now();
    let made = tokio::time::timeout(purpose.cluster.connect_timeout, async {
        let stream = TcpStream::connect(purpose.host.address).await?;
        stream.set_nodelay(true)?;
        match &purpose.cluster.tls {
            None => Ok(Io::Tcp(stream)),
            Some(tls) => {
                let shaken = tls.connect(stream, purpose.host.address).await;
                stats.connections.make().tls.make().shaken(&shaken);
                shaken
            }
        }
    })
    .await;
    match made {
        Ok(Ok(io)) => {
            stats.connections.make().upstream_cx_connect_ms.record(started.elapsed());
            Ok(io)
        }
        Ok(Err(e)) => {
            tracing::debug!(address = %purpose.host.address, "connect: {e}");
            stats.upstream_cx_connect_fail.inc();
            Err(UpstreamError::ConnectFailure)
        }
        Err(_) => {
            stats.upstream_cx_connect_fail.inc();
            stats.upstream_cx_connect_timeout.inc();
            Err(UpstreamError::ConnectTimeout)
        }
    }
}
