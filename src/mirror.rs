//! Mirrors: a copy of a request goes its own way, its answer is dropped.
//!
//! The copy is sent in a task of its own, its body streamed beside the main
//! request's, which never waits for it: a copy that falls behind by more than
//! [`TEE_LIMIT`] is given up.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::attempt::{Attempt, Ended, Ends, Verdict};
use crate::clock;
use crate::exchange::{Body, Downstream, DownstreamError, Failure};
use crate::headers::{HeaderId, RequestHead, ResponseHead};
use crate::http2::Trailers;
use crate::model::ClusterSlot;
use crate::pipes::{Carrier, Piece};
use crate::request_body::RequestBody;
use crate::timer::IdleTimer;
use crate::worker::Worker;

/// Bytes of body that a mirror may be behind the main request: 4 MiB. Envoy's
/// mirrors are bounded by the connection buffers of both sides.
const TEE_LIMIT: usize = 4 * 1024 * 1024;

enum Part {
    Data(Bytes),
    End(Option<Trailers>),
}

/// The main request's end of a copy.
#[derive(Debug)]
pub(crate) struct Tee {
    pieces: Option<UnboundedSender<Part>>,
    behind: Rc<Cell<usize>>,
}

/// The copy's end: a request whose client is the main request.
pub(crate) struct Copy {
    pieces: UnboundedReceiver<Part>,
    behind: Rc<Cell<usize>>,
    trailers: Option<Trailers>,
    ended: bool,
}

/// A copy and its two ends.
pub(crate) fn tee() -> (Tee, Copy) {
    let (sender, pieces) = unbounded_channel();
    let behind = Rc::new(Cell::new(0));
    let tee = Tee { pieces: Some(sender), behind: Rc::clone(&behind) };
    (tee, Copy { pieces, behind, trailers: None, ended: false })
}

impl Tee {
    /// Passes a piece on, or gives the copy up if it is too far behind.
    pub(crate) fn data(&mut self, data: &Bytes) {
        let behind = self.behind.get() + data.len();
        if behind > TEE_LIMIT {
            self.pieces = None;
        }
        if let Some(pieces) = &self.pieces {
            self.behind.set(behind);
            let _ = pieces.send(Part::Data(data.clone()));
        }
    }

    /// The body's end.
    pub(crate) fn end(&mut self, trailers: Option<Trailers>) {
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.send(Part::End(trailers));
        }
    }
}

/// Sends a copy of a request to a cluster; what becomes of it only shows in the
/// cluster's statistics.
///
/// The copy has the main request's headers after its route's mutations, the
/// host with `-shadow`, and the proxy's own address at the end of
/// `x-forwarded-for` (Envoy: `Router::Filter::maybeDoShadowing`).
pub(crate) fn start(
    worker: &Rc<Worker>,
    slot: Arc<ClusterSlot>,
    head: &RequestHead,
    copy: Copy,
    main: &RequestBody,
    idle: Duration,
) {
    let (complete, upgrade) = (main.complete, main.upgrade);
    let mut head = head.clone();
    let shadow = [head.authority(), b"-shadow"].concat();
    head.set_authority(&shadow);
    let own = worker.own_address.to_string();
    let forwarded = match head.headers.first(HeaderId::XForwardedFor) {
        Some(before) => [before, b",", own.as_bytes()].concat(),
        None => own.into_bytes(),
    };
    head.headers.set_named(b"x-forwarded-for", &forwarded);
    let worker = Rc::clone(worker);
    clock::spawn(async move { send(&worker, &slot, &head, copy, (complete, upgrade), idle).await });
}

async fn send(
    worker: &Rc<Worker>,
    slot: &Arc<ClusterSlot>,
    head: &RequestHead,
    mut copy: Copy,
    (complete, upgrade): (bool, bool),
    idle: Duration,
) {
    let Some(cluster) = slot.load() else { return };
    let stats = slot.stats.shard(worker.shard);
    let attempt =
        Attempt { worker, slot, cluster: &cluster, head, answers: |stats| stats.internal.make() };
    let Some(host) = attempt.pick() else {
        return stats.upstream_cx_none_healthy.inc();
    };
    copy.ended = complete;
    let mut body = RequestBody::new(complete);
    body.upgrade = upgrade;
    let mut answer = worker.take_answer();
    let mut status = 0;
    let mut ends = Ends {
        down: &mut copy,
        body: &mut body,
        answer: &mut answer,
        idle: &mut IdleTimer::new(idle),
    };
    let ended = attempt
        .run(&host, &mut ends, |_, _, answer, _| {
            status = answer.status;
            Ok(Verdict::Forward)
        })
        .await;
    if let Ended::Failed { failure: Failure::Upstream(e), started: false, .. } = ended
        && !body.begun
    {
        status = e.status();
    }
    if status != 0 {
        let elapsed = body.completed.map(clock::since);
        stats.internal.make().record(status, elapsed);
    }
    worker.put_answer(answer);
}

impl Downstream for Copy {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        _by: Carrier,
    ) -> Poll<Option<Result<Piece, DownstreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Part::Data(data)) => {
                self.behind.set(self.behind.get() - data.len());
                Some(Ok(Piece::Memory(data)))
            }
            Some(Part::End(trailers)) => {
                self.ended = true;
                self.trailers = trailers;
                None
            }
            None => Some(Err(DownstreamError::Gone)),
        })
    }

    fn take_trailers(&mut self) -> Option<Trailers> {
        self.trailers.take()
    }

    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<DownstreamError> {
        Poll::Pending
    }

    fn send_head(
        &mut self,
        _head: &mut ResponseHead,
        _body: Body,
        _close: bool,
    ) -> Result<(), DownstreamError> {
        Ok(())
    }

    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn send_data(&mut self, _data: Piece) {}

    fn finish(&mut self, _trailers: Option<Trailers>) {}

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {}
}
