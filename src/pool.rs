//! Upstream connections of one worker, by address: ten thousand models on the
//! same pods share the same few connections.
//!
//! HTTP/1: most recently used first, one request at a time. HTTP/2: as few
//! connections as the peer's stream limit allows. Limits and statistics stay
//! with the cluster whose request makes or uses the connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::clock;
use crate::http1::HeadLimits;
use crate::http2::{Closed, Connection, Driver, ListLimits, Role, Shared};
use crate::io::{Io, Reader};
use crate::local_reply::UpstreamError;
use crate::model::{Cluster, ClusterSlot, Host, UpstreamProtocol};
use crate::stats::{ClusterShard, Counter, Shard};
use crate::transport::TransportFailure;
use crate::upstream::Http1;

/// Envoy: upstream `idle_timeout`, 1 h.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
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
    /// Of answers over HTTP/1.
    limits: HeadLimits,
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
struct Multiplexed {
    shared: Shared,
    /// Streams in progress, and those about to begin.
    active: Cell<usize>,
    /// No new streams: closed, or GOAWAY received.
    retired: Cell<bool>,
}

/// A place on an HTTP/2 connection; given back on drop.
pub(crate) struct StreamPlace(Rc<Multiplexed>);

impl StreamPlace {
    /// The connection, for one new stream.
    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// No new streams on this connection.
    pub(crate) fn retire(&self) {
        self.0.retire();
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let left = self.0.active.get() - 1;
        self.0.active.set(left);
        if left == 0 && self.0.retired.get() {
            self.0.shared.borrow_mut().kick();
        }
    }
}

impl Multiplexed {
    fn has_room(&self) -> bool {
        self.active.get() < self.shared.borrow().stream_limit()
    }

    /// False once no stream can be opened any more: closed, stream ids used up,
    /// or GOAWAY received while earlier streams go on.
    fn is_open(&self) -> bool {
        if !self.shared.borrow().takes_streams() {
            self.retire();
        }
        !self.retired.get()
    }

    /// No new streams; it closes after the last one.
    fn retire(&self) {
        self.retired.set(true);
        if self.active.get() == 0 {
            self.shared.borrow_mut().kick();
        }
    }

    fn is_finished(&self) -> bool {
        let retired = self.retired.get() || !self.shared.borrow().takes_streams();
        retired && self.active.get() == 0
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
    pub(crate) fn new(shard: Shard, refuse_ambiguous: bool) -> Self {
        let limits = HeadLimits { refuse_ambiguous, ..HeadLimits::RESPONSE };
        Self { shard, limits, by_key: RefCell::default() }
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

    /// An HTTP/1 connection to this host, idle or new; `waited`: the request counts
    /// as waiting already.
    ///
    /// # Errors
    /// Refused, timed out, or failed in the TLS handshake.
    pub(crate) async fn http1(
        &self,
        purpose: &Purpose<'_>,
        waited: bool,
    ) -> Result<Box<Http1>, UpstreamError> {
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
        if !waited {
            stats.upstream_rq_pending_total.inc();
        }
        // Also those that fail to open, as in Envoy.
        stats.upstream_cx_http1_total.inc();
        let io = Box::pin(connect(purpose, stats)).await?;
        Ok(Box::new(Http1::new(io, Open::new(Arc::clone(purpose.slot), self.shard), self.limits)))
    }

    /// Takes a connection back whose exchange ended cleanly.
    pub(crate) fn give_back(&self, purpose: &Purpose<'_>, mut connection: Box<Http1>) {
        connection.relax();
        let pool = self.host(purpose);
        pool.idle.borrow_mut().push(Idle { connection, since: clock::now() });
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
                    Some(e) if !pool.connecting.get() => {
                        let stats = purpose.slot.stats.shard(self.shard);
                        stats.upstream_rq_pending_failure_eject.inc();
                        return Err(e);
                    }
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
        let io = Box::pin(connect(purpose, stats)).await?;
        let open = Open::new(Arc::clone(purpose.slot), self.shard);
        let limits = ListLimits {
            fields: HeadLimits::RESPONSE.max_fields,
            bytes: HeadLimits::RESPONSE.max_bytes,
        };
        let connection = Connection::new(Role::Client, limits, clock::now());
        let multiplexed = Rc::new(Multiplexed {
            shared: Rc::new(RefCell::new(connection)),
            active: Cell::new(0),
            retired: Cell::new(false),
        });
        pool.multiplexed.borrow_mut().push(Rc::clone(&multiplexed));
        clock::spawn(run(Rc::downgrade(pool), multiplexed, io, open));
        Ok(())
    }

    /// Drops idle connections that their peers closed, that were idle for too
    /// long, or whose host has left every cluster.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
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
                pool.multiplexed.borrow_mut().drain(..).for_each(|connection| connection.retire());
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

/// Moves an HTTP/2 connection's bytes until it has ended.
async fn run(pool: std::rc::Weak<HostPool>, multiplexed: Rc<Multiplexed>, io: Io, open: Open) {
    let shared = Rc::clone(&multiplexed.shared);
    let mut driver = Driver::new(io, Reader::default(), shared);
    let mut counted = (0, 0);
    let closed = poll_fn(|cx| {
        let closed = driver.poll(cx);
        let now = driver.moved();
        let stats = open.stats();
        stats.upstream_cx_rx_bytes_total.add(now.0 - counted.0);
        stats.upstream_cx_tx_bytes_total.add(now.1 - counted.1);
        counted = now;
        match closed {
            Poll::Ready(closed) => Poll::Ready(Some(closed)),
            Poll::Pending if multiplexed.is_finished() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    if let Some(Closed::Error(e)) = closed {
        tracing::debug!("upstream HTTP/2 connection ended: {e}");
        open.stats().upstream_cx_protocol_error.inc();
        // What is to be said; if it does not leave at once, nobody will miss it.
        let _ = poll_fn(|cx| Poll::Ready(driver.poll_rest(cx))).await;
    }
    if matches!(closed, Some(Closed::Refused(_))) {
        open.stats().upstream_cx_connect_fail.inc();
    }
    open.ends(
        matches!(closed, Some(Closed::Gone | Closed::Refused(_))),
        multiplexed.active.get() > 0,
    );
    multiplexed.retired.set(true);
    drop(open);
    if let Some(pool) = pool.upgrade() {
        pool.multiplexed.borrow_mut().retain(|other| !Rc::ptr_eq(other, &multiplexed));
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
    slot: Arc<ClusterSlot>,
    shard: Shard,
    since: Instant,
    /// The peer closed it.
    remote: Cell<bool>,
    /// A request was in progress at its end.
    active: Cell<bool>,
}

impl Open {
    fn new(slot: Arc<ClusterSlot>, shard: Shard) -> Self {
        slot.stats.shard(shard).upstream_cx_active.inc();
        let since = clock::now();
        Self { slot, shard, since, remote: Cell::new(false), active: Cell::new(false) }
    }

    /// Notes how the connection ends, for its accounts: by the peer or by the
    /// proxy, with or without a request in progress.
    pub(crate) fn ends(&self, remote: bool, active: bool) {
        self.remote.set(remote);
        self.active.set(active);
    }

    /// The statistics this connection belongs to.
    pub(crate) fn stats(&self) -> &ClusterShard {
        self.slot.stats.shard(self.shard)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let stats = self.slot.stats.shard(self.shard);
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
        stats.connections.make().upstream_cx_length_ms.record(clock::since(self.since));
    }
}

/// Counts a connection that was not made, and the request that waited for it.
#[cold]
fn count_unmade(stats: &ClusterShard, side: &Counter) {
    stats.upstream_cx_connect_fail.inc();
    stats.upstream_cx_destroy.inc();
    side.inc();
    stats.upstream_rq_pending_failure_eject.inc();
}

/// Connects, with TLS if the cluster asks for it, within `connect_timeout`.
async fn connect(purpose: &Purpose<'_>, stats: &ClusterShard) -> Result<Io, UpstreamError> {
    stats.upstream_cx_total.inc();
    let started = clock::now();
    let made = tokio::time::timeout(purpose.cluster.connect_timeout, async {
        let connected = TcpStream::connect(purpose.host.address).await;
        let stream = connected.map_err(|e| (TransportFailure::of_connect(&e), e))?;
        stream.set_nodelay(true).map_err(|e| (TransportFailure::of_connect(&e), e))?;
        match &purpose.cluster.tls {
            None => Ok(Io::Tcp(stream)),
            Some(tls) => {
                let shaken = tls.connect(stream, purpose.host.address).await;
                stats.connections.make().tls.make().shaken(&shaken);
                shaken.map_err(|e| (TransportFailure::of_handshake(&e), e))
            }
        }
    })
    .await;
    match made {
        Ok(Ok(io)) => {
            stats.connections.make().upstream_cx_connect_ms.record(clock::since(started));
            Ok(io)
        }
        Ok(Err((failure, e))) => {
            tracing::debug!(address = %purpose.host.address, "connect: {e}");
            count_unmade(stats, &stats.upstream_cx_destroy_remote);
            Err(UpstreamError::ConnectFailure(failure))
        }
        Err(_) => {
            count_unmade(stats, &stats.upstream_cx_destroy_local);
            stats.upstream_cx_connect_timeout.inc();
            Err(UpstreamError::ConnectTimeout)
        }
    }
}
