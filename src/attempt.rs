//! One attempt at a cluster: a host, a connection, an exchange.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use crate::exchange::{Body, Downstream, DownstreamError, Exchange, Failure, Upstream};
use crate::headers::{HeaderId, RequestHead, ResponseHead};
use crate::local_reply::UpstreamError;
use crate::logic::balancer;
use crate::model::{Cluster, ClusterSlot, Host, UpstreamProtocol};
use crate::pool::Purpose;
use crate::request_body::RequestBody;
use crate::stats::{ClusterShard, ResponseGroup};
use crate::timer::IdleTimer;
use crate::upstream::Http2;
use crate::worker::Worker;

/// What to do with an answer's head.
pub(crate) enum Verdict {
    /// It has been sent to the client; the body follows.
    Forward,
    /// Drop the answer and try again.
    Retry,
    /// Drop the answer's body: the head is answered by the proxy itself.
    Decline,
}

/// How an attempt ended.
pub(crate) enum Ended {
    /// The answer has left, with so many body bytes; `whole` if the request had
    /// come in full by then.
    Complete { sent: u64, whole: bool },
    /// The verdict was to retry; `whole` if nothing was to come or to go any more.
    Retry { whole: bool },
    /// The verdict was to decline.
    Declined,
    /// It failed; `started` if the answer's head had been forwarded, with so
    /// many body bytes sent.
    Failed { failure: Failure, started: bool, sent: u64 },
}

impl From<UpstreamError> for Ended {
    fn from(e: UpstreamError) -> Self {
        Self::Failed { failure: Failure::Upstream(e), started: false, sent: 0 }
    }
}

/// An attempt's fixed parts.
pub(crate) struct Attempt<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) slot: &'a Arc<ClusterSlot>,
    pub(crate) cluster: &'a Cluster,
    pub(crate) head: &'a RequestHead,
    /// Where the cluster counts its answers.
    pub(crate) answers: fn(&ClusterShard) -> &ResponseGroup,
}

/// An attempt's moving parts.
pub(crate) struct Ends<'a, D> {
    pub(crate) down: &'a mut D,
    pub(crate) body: &'a mut RequestBody,
    pub(crate) answer: &'a mut ResponseHead,
    pub(crate) idle: &'a mut IdleTimer,
}

impl Attempt<'_> {
    /// Chooses a host, least request of two.
    pub(crate) fn pick(&self) -> Option<Arc<Host>> {
        let hosts = self.cluster.endpoints.hosts();
        self.worker.with_rng(|rng| balancer::pick(&hosts, rng).map(Arc::clone))
    }

    /// Runs the attempt on a host. `on_head` sees the answer's final head and
    /// forwards it, or asks for a retry.
    pub(crate) async fn run<D: Downstream>(
        &self,
        host: &Arc<Host>,
        ends: &mut Ends<'_, D>,
        on_head: impl FnOnce(&mut D, &RequestBody, &mut ResponseHead, Body) -> Head,
    ) -> Ended {
        let _load = Count::new(&host.active);
        let purpose = Purpose { slot: self.slot, cluster: self.cluster, host };
        let stats = self.slot.stats.shard(self.worker.shard);
        // As it is now: while a connection is made, more of the body comes.
        let kind = self.request_body(ends.body);
        match self.cluster.protocol {
            UpstreamProtocol::Http1 => self.http1(&purpose, stats, ends, kind, on_head).await,
            UpstreamProtocol::Http2 => self.http2(&purpose, stats, ends, kind, on_head).await,
        }
    }

    async fn http1<D: Downstream>(
        &self,
        purpose: &Purpose<'_>,
        stats: &ClusterShard,
        ends: &mut Ends<'_, D>,
        kind: Body,
        on_head: impl FnOnce(&mut D, &RequestBody, &mut ResponseHead, Body) -> Head,
    ) -> Ended {
        let permit = match self.connection_permit(stats, ends).await {
            Ok(permit) => permit,
            Err(ended) => return ended,
        };
        let mut up =
            match present(ends, stats, self.worker.pools.http1(purpose, permit.waited)).await {
                Ok(up) => up,
                Err(ended) => return ended,
            };
        let _active = Running::new(stats);
        let asks_upgrade = kind == Body::Tunnel;
        let ended = self.exchange(&mut *up, ends, kind, on_head).await;
        match ended {
            Ended::Complete { .. } | Ended::Retry { .. } if up.is_reusable() => {
                self.worker.pools.give_back(purpose, up);
            }
            Ended::Complete { whole: true, .. } if !asks_upgrade => {}
            _ => up.cut(),
        }
        drop(permit);
        ended
    }

    async fn http2<D: Downstream>(
        &self,
        purpose: &Purpose<'_>,
        stats: &ClusterShard,
        ends: &mut Ends<'_, D>,
        kind: Body,
        on_head: impl FnOnce(&mut D, &RequestBody, &mut ResponseHead, Body) -> Head,
    ) -> Ended {
        let usage = &self.slot.usage;
        if usage.requests.load(Ordering::Relaxed) >= self.cluster.limits.max_requests {
            stats.upstream_rq_pending_overflow.inc();
            return UpstreamError::Overflow.into();
        }
        let _count = Count::new(&usage.requests);
        let place = self.worker.pools.http2(purpose);
        let mut up = match present(ends, stats, place).await {
            Ok(place) => Http2::new(place),
            Err(ended) => return ended,
        };
        let _active = Running::new(stats);
        let ended = self.exchange(&mut up, ends, kind, on_head).await;
        if !matches!(ended, Ended::Complete { whole: true, .. }) {
            count_reset(stats, &ended);
        }
        ended
    }

    /// The right to hold an HTTP/1 connection of this cluster; waits in the
    /// cluster's bounded queue if all are taken.
    async fn connection_permit<D: Downstream>(
        &self,
        stats: &ClusterShard,
        ends: &mut Ends<'_, D>,
    ) -> Result<Permit<'_>, Ended> {
        let (usage, limits) = (&self.slot.usage, &self.cluster.limits);
        if let Some(permit) = Permit::take(self.slot, limits.max_connections) {
            return Ok(permit);
        }
        stats.upstream_cx_overflow.inc();
        if usage.pending.load(Ordering::Relaxed) >= limits.max_pending_requests {
            stats.upstream_rq_pending_overflow.inc();
            return Err(UpstreamError::Overflow.into());
        }
        let _pending = Count::new(&usage.pending);
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        let permit = present(ends, stats, async {
            loop {
                let woken = self.slot.waiters().notified();
                if let Some(mut permit) = Permit::take(self.slot, limits.max_connections) {
                    permit.waited = true;
                    return Ok(permit);
                }
                woken.await;
            }
        })
        .await;
        stats.upstream_rq_pending_active.dec();
        permit
    }

    async fn exchange<D: Downstream, U: Upstream>(
        &self,
        up: &mut U,
        ends: &mut Ends<'_, D>,
        kind: Body,
        on_head: impl FnOnce(&mut D, &RequestBody, &mut ResponseHead, Body) -> Head,
    ) -> Ended {
        if let Err(e) = up.send_head(self.head, kind) {
            return e.into();
        }
        let mut exchange = Exchange::new(kind);
        let Ends { down, body, answer, idle } = ends;
        let on_interim = |status| {
            let stats = self.slot.stats.shard(self.worker.shard);
            (self.answers)(stats).record(status, None);
        };
        let found = match exchange.head(*down, up, body, answer, idle, on_interim).await {
            Ok(found) => found,
            Err(failure) => return Ended::Failed { failure, started: false, sent: 0 },
        };
        match on_head(down, body, answer, found) {
            Ok(Verdict::Forward) => {}
            Ok(Verdict::Retry) => {
                let whole = found == Body::Empty && exchange.request_sent();
                return Ended::Retry { whole };
            }
            Ok(Verdict::Decline) => return Ended::Declined,
            Err(e) => {
                let failure = Failure::Downstream(e);
                return Ended::Failed { failure, started: true, sent: 0 };
            }
        }
        if found == Body::Tunnel && answer.status == 101 {
            exchange.open_tunnel(body);
        }
        let ended = exchange.body(*down, up, body, idle).await;
        let sent = exchange.sent;
        match ended {
            Ok(()) => Ended::Complete { sent, whole: exchange.request_sent() || body.complete },
            Err(failure) => Ended::Failed { failure, started: true, sent },
        }
    }

    fn request_body(&self, body: &RequestBody) -> Body {
        if body.upgrade {
            return Body::Tunnel;
        }
        if body.is_empty() {
            return Body::Empty;
        }
        let declared = self.head.headers.first(HeaderId::ContentLength);
        declared
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
            .map_or(Body::Unknown, Body::Length)
    }
}

/// Counts what ended a stream of HTTP/2 (Envoy: `onStreamReset` of its client).
#[cold]
fn count_reset(stats: &ClusterShard, ended: &Ended) {
    match ended {
        Ended::Failed { failure: Failure::Upstream(UpstreamError::RemoteReset), .. } => {
            stats.upstream_rq_rx_reset.inc();
        }
        Ended::Failed { failure: Failure::Upstream(UpstreamError::ProtocolError), .. }
        | Ended::Retry { whole: false }
        | Ended::Complete { whole: false, .. } => stats.upstream_rq_tx_reset.inc(),
        Ended::Failed { failure: Failure::Upstream(_), .. } => {}
        Ended::Failed { .. } => stats.upstream_rq_tx_reset.inc(),
        Ended::Complete { .. } | Ended::Retry { .. } | Ended::Declined => {}
    }
}

/// What [`Attempt::run`]'s callback says.
pub(crate) type Head = Result<Verdict, DownstreamError>;

/// Waits for something of the upstream's while the client is still there, at
/// most for the stream idle timeout and the route's. Meanwhile the body is read as far as it has
/// come (Envoy: the connection's buffer): whether the request is complete
/// decides what becomes of its connection should the upstream not be reached.
async fn present<D: Downstream, T>(
    ends: &mut Ends<'_, D>,
    stats: &ClusterShard,
    wanted: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, Ended> {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        match wanted.as_mut().poll(cx) {
            Poll::Ready(Ok(got)) => return Poll::Ready(Ok(got)),
            Poll::Ready(Err(e)) => {
                // The upstream's failure comes first, whatever the client does.
                let _ = ends.body.poll_idle(ends.down, cx);
                return Poll::Ready(Err(e.into()));
            }
            Poll::Pending => {}
        }
        let failure = if let Poll::Ready(e) = ends.body.poll_idle(ends.down, cx) {
            Failure::Downstream(e)
        } else if ends.idle.poll_expired(cx).is_ready() {
            Failure::Idle
        } else if ends.body.timeout.poll_expired(ends.body.completed, cx).is_ready() {
            Failure::Timeout
        } else {
            return Poll::Pending;
        };
        stats.upstream_rq_cancelled.inc();
        Poll::Ready(Err(Ended::Failed { failure, started: false, sent: 0 }))
    })
    .await
}

/// One more while it lives.
struct Count<'a>(&'a AtomicU32);

impl<'a> Count<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The right to hold a connection of a cluster.
struct Permit<'a> {
    slot: &'a ClusterSlot,
    /// It came out of the cluster's queue.
    waited: bool,
}

impl<'a> Permit<'a> {
    fn take(slot: &'a ClusterSlot, limit: u32) -> Option<Self> {
        let held = slot.usage.connections.fetch_add(1, Ordering::SeqCst);
        if held < limit {
            return Some(Self { slot, waited: false });
        }
        slot.usage.connections.fetch_sub(1, Ordering::SeqCst);
        None
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.slot.usage.connections.fetch_sub(1, Ordering::SeqCst);
        self.slot.wake_one();
    }
}

/// A request in progress on a connection.
struct Running<'a>(&'a ClusterShard);

impl<'a> Running<'a> {
    fn new(stats: &'a ClusterShard) -> Self {
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        Self(stats)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.upstream_rq_active.dec();
    }
}
