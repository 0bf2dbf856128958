//! One attempt: a request's body on its way up, the answer on its way down,
//! both at once, with back-pressure from the slower end.
//!
//! The two ends are [`Downstream`] and [`Upstream`], each HTTP/1 or HTTP/2. An
//! exchange is polled by one task and owns nothing but its progress, so an
//! attempt costs no task, no channel and no allocation.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;

use crate::buffers;
use crate::flags::ResponseFlag;
use crate::headers::{HeaderId, Headers, RequestHead, ResponseHead};
use crate::http1::ChunkError;
use crate::http2::Trailers;
use crate::local_reply::UpstreamError;
use crate::logic::rewrite::GrpcRename;
use crate::mirror::Tee;
use crate::tap::TapBodies;
use crate::timer::{IdleTimer, RouteTimeout};

/// Why a request could not be read to its end, or an answer not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownstreamError {
    /// The client closed the connection.
    Gone,
    /// The client reset the stream (HTTP/2).
    Reset,
    /// The client broke the protocol, and nothing is left to answer on (HTTP/2).
    Protocol,
    /// The request's body is malformed: 400.
    Malformed(ChunkError),
}

impl DownstreamError {
    /// Flag for the access log of a request that nobody can be answered for.
    pub(crate) fn flag(self) -> ResponseFlag {
        match self {
            Self::Reset => ResponseFlag::DownstreamRemoteReset,
            Self::Protocol => ResponseFlag::DownstreamProtocolError,
            Self::Gone | Self::Malformed(_) => ResponseFlag::DownstreamConnectionTermination,
        }
    }
}

/// How the end of a message is found, as far as the other side must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// There is none.
    Empty,
    /// Exactly so many bytes.
    Length(u64),
    /// Until its sender says so.
    Unknown,
    /// Raw bytes until an end closes: an upgrade.
    Tunnel,
}

/// The client's side of one request.
pub(crate) trait Downstream {
    /// The next piece of the request's body; `None` at its end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, DownstreamError>>>;
    /// Trailers, after the end of the body.
    fn take_trailers(&mut self) -> Option<Trailers>;
    /// Ready once the client has left. Called after the body's end.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError>;
    /// Queues the answer's head; `close` tells an HTTP/1 client to leave.
    ///
    /// # Errors
    /// The client has left.
    fn send_head(
        &mut self,
        head: &mut ResponseHead,
        body: Body,
        close: bool,
    ) -> Result<(), DownstreamError>;
    /// Ready when there is room for a piece of body.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>>;
    /// Queues a piece of body; only when there is room.
    fn send_data(&mut self, data: Bytes);
    /// Ends the answer.
    fn finish(&mut self, trailers: Option<Trailers>);
    /// Ready when everything queued has left.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>>;
    /// Cuts the answer short so that the client notices.
    fn abort(&mut self);
}

/// The upstream's side of one attempt.
pub(crate) trait Upstream {
    /// Queues the request's head; `body` is [`Body::Empty`] if nothing follows.
    ///
    /// # Errors
    /// The connection has ended, or the head cannot be expressed.
    fn send_head(&mut self, head: &RequestHead, body: Body) -> Result<(), UpstreamError>;
    /// Ready when there is room for a piece of body.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>>;
    /// Queues a piece of body; only when there is room.
    fn send_data(&mut self, data: Bytes);
    /// Ends the request.
    fn finish(&mut self, trailers: Option<Trailers>);
    /// Ready when everything queued has left.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>>;
    /// The answer's final head; `None` if this is the status of an interim answer
    /// before it (1xx but 101).
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Option<Body>, UpstreamError>>;
    /// The next piece of the answer's body; `None` at its end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>>;
    /// Trailers, after the end of the body.
    fn take_trailers(&mut self) -> Option<Trailers>;
}

/// Envoy's per-connection buffer limit, which bounds what is kept for a retry:
/// 1 MiB.
pub(crate) const REPLAY_LIMIT: usize = 1024 * 1024;

/// Pieces of a body; their memory is used again.
#[derive(Debug, Default)]
struct Pieces(VecDeque<Bytes>);

impl Drop for Pieces {
    fn drop(&mut self) {
        self.0.drain(..).for_each(buffers::release);
    }
}

/// The body of a request on its way to one or more attempts.
#[derive(Debug, Default)]
pub(crate) struct RequestBody {
    /// Pieces to send; while a retry is possible, also those that were sent.
    ready: Pieces,
    /// Bytes received and stored so far.
    kept: usize,
    /// Pieces of `ready` that the current attempt has sent.
    replayed: usize,
    keep: bool,
    /// The body went over the limit: no retry any more.
    pub(crate) abandoned: bool,
    /// An interim answer came. What fails then is no answer of the cluster any more.
    pub(crate) begun: bool,
    /// The client has sent everything.
    pub(crate) complete: bool,
    trailers: Option<Trailers>,
    /// Body bytes received from the client.
    pub(crate) bytes: u64,
    /// When the client had sent everything.
    pub(crate) completed: Option<Instant>,
    /// Puts the chosen arm's model name into gRPC messages.
    pub(crate) rename: Option<GrpcRename>,
    /// The beginnings of both bodies, where a tap may want them.
    pub(crate) tap: Option<Box<TapBodies>>,
    /// Keep the answer's trailers for logs and taps.
    pub(crate) keep_trailers: bool,
    /// The answer's trailers, if they are kept.
    pub(crate) answer_trailers: Option<Headers>,
    /// `grpc-status` of the answer's trailers.
    pub(crate) grpc_status: Option<u32>,
    /// The route's timeout, which its end starts.
    pub(crate) timeout: RouteTimeout,
    /// Copies of the body, for mirrors.
    tees: Vec<Tee>,
    /// The request asks for an upgrade: its body has no end, and waits until the
    /// upstream grants it.
    pub(crate) upgrade: bool,
}

impl RequestBody {
    /// A body of which nothing has been read; `complete` if there is none.
    pub(crate) fn new(complete: bool) -> Self {
        let completed = complete.then(Instant::now);
        Self { complete, completed, ..Self::default() }
    }

    /// Keeps what is sent, for retries. To be called before the first attempt.
    pub(crate) fn keep_for_retry(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Copies the body to a mirror as well. To be called before the first
    /// attempt.
    pub(crate) fn add_tee(&mut self, mut tee: Tee) {
        if self.complete {
            tee.end(None);
        }
        self.tees.push(tee);
    }

    /// There will be no other attempt.
    #[cold]
    fn keep_no_more(&mut self) {
        self.keep = false;
        self.forget_sent();
    }

    /// Lets go of the pieces that the current attempt has sent.
    fn forget_sent(&mut self) {
        self.ready.0.drain(..self.replayed).for_each(buffers::release);
        self.replayed = 0;
    }

    /// An interim answer came. Envoy swallows those that it knows, but takes the
    /// answer for begun: from now on there is no retry. True for the first of them.
    #[cold]
    fn begin_answer(&mut self, status: u16) -> bool {
        let begins = matches!(status, 100 | 102..=104) && !self.begun;
        if begins {
            self.begun = true;
            self.keep_no_more();
        }
        begins
    }

    /// True if the next attempt can send the whole body again.
    pub(crate) fn can_replay(&self) -> bool {
        self.keeps()
    }

    /// Starts over for the next attempt.
    pub(crate) fn rewind(&mut self) {
        self.replayed = 0;
    }

    /// True if nothing follows the head.
    pub(crate) fn is_empty(&self) -> bool {
        self.complete && self.kept == 0 && self.trailers.is_none()
    }

    /// The next piece for the current attempt.
    fn poll_next<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, DownstreamError>>> {
        loop {
            if let Some(ready) = self.ready.0.get(self.replayed) {
                let piece = ready.clone();
                if self.keeps() {
                    self.replayed += 1;
                } else {
                    self.ready.0.pop_front();
                }
                return Poll::Ready(Some(Ok(piece)));
            }
            if self.complete {
                return Poll::Ready(None);
            }
            if let Err(e) = ready!(self.poll_receive(down, cx)) {
                return Poll::Ready(Some(Err(e)));
            }
        }
    }

    /// Takes one piece, or the end, from the client.
    fn poll_receive<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), DownstreamError>> {
        match ready!(down.poll_data(cx)) {
            Some(Ok(data)) => {
                self.bytes += data.len() as u64;
                if let Some(tap) = &mut self.tap {
                    tap.request.push(&data);
                }
                match self.rename.take() {
                    Some(mut rename) => {
                        rename.push(data, &mut |piece| self.store(piece));
                        self.rename = Some(rename);
                    }
                    None => self.store(data),
                }
            }
            None => {
                if let Some(rest) = self.rename.as_mut().and_then(GrpcRename::finish) {
                    self.store(rest);
                }
                self.complete = true;
                self.completed = Some(Instant::now());
                self.trailers = down.take_trailers();
                for tee in &mut self.tees {
                    tee.end(self.trailers.clone());
                }
            }
            Some(Err(e)) => return Poll::Ready(Err(e)),
        }
        Poll::Ready(Ok(()))
    }

    fn note_trailers(&mut self, trailers: &Trailers) {
        let status = trailers.first(HeaderId::GrpcStatus);
        self.grpc_status = status.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        if self.keep_trailers {
            self.answer_trailers = Some((**trailers).clone());
        }
    }

    fn store(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        for tee in &mut self.tees {
            tee.data(&piece);
        }
        self.kept += piece.len();
        self.ready.0.push_back(piece);
        if self.keep && !self.abandoned && self.kept > REPLAY_LIMIT {
            self.abandoned = true;
            self.forget_sent();
        }
    }

    /// While the upstream takes nothing: reads the body's beginning, within the
    /// replay limit; true if something came. Whether a request is complete decides
    /// what becomes of its connection should it be answered now.
    #[cold]
    fn read_ahead<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
    ) -> Result<bool, DownstreamError> {
        let mut moved = false;
        while !self.complete && self.kept < REPLAY_LIMIT / 2 {
            match self.poll_receive(down, cx) {
                Poll::Ready(received) => received?,
                Poll::Pending => break,
            }
            moved = true;
        }
        Ok(moved)
    }

    /// While a retry waits, or a connection: goes on reading, as
    /// [`RequestBody::read_ahead`], and notices when the client leaves.
    pub(crate) fn poll_idle<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
    ) -> Poll<DownstreamError> {
        if let Err(e) = self.read_ahead(down, cx) {
            return Poll::Ready(e);
        }
        if self.complete {
            return down.poll_gone(cx);
        }
        Poll::Pending
    }

    fn keeps(&self) -> bool {
        self.keep && !self.abandoned
    }
}

/// How an exchange ended without an answer, or within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client.
    Downstream(DownstreamError),
    /// The upstream; retriable while no head was forwarded.
    Upstream(UpstreamError),
    /// No byte either way for the stream idle timeout.
    Idle,
    /// The route's timeout.
    Timeout,
}

/// Progress of one attempt.
#[derive(Debug)]
pub(crate) struct Exchange {
    request_sent: bool,
    /// The body waits until an upgrade is granted.
    held: bool,
    /// Writing failed; the upstream may still have answered.
    write_failed: Option<UpstreamError>,
    response_ended: bool,
    /// Body bytes sent to the client.
    pub(crate) sent: u64,
}

impl Exchange {
    /// An attempt whose head has been queued.
    pub(crate) fn new(body: Body) -> Self {
        let (request_sent, held) = (body == Body::Empty, body == Body::Tunnel);
        Self { request_sent, held, write_failed: None, response_ended: false, sent: 0 }
    }

    /// The whole request is on its way.
    pub(crate) fn request_sent(&self) -> bool {
        self.request_sent
    }

    /// The upstream grants the upgrade: what the client sends goes up from now on.
    #[cold]
    pub(crate) fn open_tunnel(&mut self, body: &mut RequestBody) {
        self.held = false;
        body.keep_no_more();
    }

    /// Sends the request until the answer's head is there. `on_interim` hears of
    /// the first interim answer before it, the one that Envoy counts.
    pub(crate) async fn head<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        body: &mut RequestBody,
        head: &mut ResponseHead,
        idle: &mut IdleTimer,
        on_interim: impl Fn(u16),
    ) -> Result<Body, Failure> {
        poll_fn(|cx| {
            loop {
                let moved = match self.push(down, up, body, cx) {
                    Ok(moved) => moved,
                    Err(e) => return Poll::Ready(Err(Failure::Downstream(e))),
                };
                if moved {
                    idle.touch();
                    continue;
                }
                match up.poll_head(cx, head) {
                    Poll::Ready(Ok(Some(kind))) => return Poll::Ready(Ok(kind)),
                    Poll::Ready(Ok(None)) => {
                        if body.begin_answer(head.status) {
                            on_interim(head.status);
                        }
                        idle.touch();
                        continue;
                    }
                    Poll::Ready(Err(e)) => {
                        return Poll::Ready(Err(Failure::Upstream(e)));
                    }
                    Poll::Pending => {}
                }
                if body.complete
                    && let Poll::Ready(e) = down.poll_gone(cx)
                {
                    return Poll::Ready(Err(Failure::Downstream(e)));
                }
                if idle.poll_expired(cx).is_ready() {
                    return Poll::Ready(Err(Failure::Idle));
                }
                if body.timeout.poll_expired(body.completed, cx).is_ready() {
                    return Poll::Ready(Err(Failure::Timeout));
                }
                return Poll::Pending;
            }
        })
        .await
    }

    /// Forwards the answer's body, and what is left of the request's, until the
    /// answer has left.
    pub(crate) async fn body<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        body: &mut RequestBody,
        idle: &mut IdleTimer,
    ) -> Result<(), Failure> {
        poll_fn(|cx| {
            loop {
                let mut moved = false;
                if !self.response_ended {
                    moved |= match self.push(down, up, body, cx) {
                        Ok(moved) => moved,
                        Err(e) => return Poll::Ready(Err(Failure::Downstream(e))),
                    };
                    moved |= match self.pull(down, up, body, cx) {
                        Ok(moved) => moved,
                        Err(e) => return Poll::Ready(Err(e)),
                    };
                }
                if moved {
                    idle.touch();
                    continue;
                }
                match down.poll_flush(cx) {
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(Failure::Downstream(e))),
                    Poll::Ready(Ok(())) if self.response_ended => return Poll::Ready(Ok(())),
                    _ => {}
                }
                if body.complete
                    && !self.response_ended
                    && let Poll::Ready(e) = down.poll_gone(cx)
                {
                    return Poll::Ready(Err(Failure::Downstream(e)));
                }
                if idle.poll_expired(cx).is_ready() {
                    return Poll::Ready(Err(Failure::Idle));
                }
                if body.timeout.poll_expired(body.completed, cx).is_ready() {
                    return Poll::Ready(Err(Failure::Timeout));
                }
                return Poll::Pending;
            }
        })
        .await
    }

    /// Moves the request's body on; true if something moved.
    fn push<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        body: &mut RequestBody,
        cx: &mut Context<'_>,
    ) -> Result<bool, DownstreamError> {
        if self.write_failed.is_some() {
            return Ok(false);
        }
        if self.held {
            return self.hold(down, up, body, cx);
        }
        let mut moved = false;
        while !self.request_sent {
            match up.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => {
                    self.write_failed = Some(e);
                    return Ok(moved);
                }
                Poll::Pending => {
                    moved |= body.read_ahead(down, cx)?;
                    break;
                }
            }
            match body.poll_next(down, cx) {
                Poll::Ready(Some(Ok(data))) => up.send_data(data),
                Poll::Ready(Some(Err(e))) => {
                    // What a client says before it leaves a tunnel is not lost.
                    let _ = up.poll_flush(cx);
                    return Err(e);
                }
                Poll::Ready(None) => {
                    up.finish(body.trailers.clone());
                    self.request_sent = true;
                }
                Poll::Pending => break,
            }
            moved = true;
        }
        if let Poll::Ready(Err(e)) = up.poll_flush(cx) {
            self.write_failed = Some(e);
        }
        Ok(moved)
    }

    /// [`Exchange::push`] while an upgrade is not granted: what comes from the
    /// client is kept, within the replay limit.
    #[cold]
    fn hold<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        body: &mut RequestBody,
        cx: &mut Context<'_>,
    ) -> Result<bool, DownstreamError> {
        let before = body.bytes;
        if let Poll::Ready(e) = body.poll_idle(down, cx) {
            return Err(e);
        }
        if let Poll::Ready(Err(e)) = up.poll_flush(cx) {
            self.write_failed = Some(e);
        }
        Ok(body.bytes > before)
    }

    /// Moves the answer's body on; true if something moved.
    fn pull<D: Downstream, U: Upstream>(
        &mut self,
        down: &mut D,
        up: &mut U,
        body: &mut RequestBody,
        cx: &mut Context<'_>,
    ) -> Result<bool, Failure> {
        let mut moved = false;
        loop {
            match down.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Err(Failure::Downstream(e)),
                Poll::Pending => return Ok(moved),
            }
            match up.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.sent += data.len() as u64;
                    if let Some(tap) = &mut body.tap {
                        tap.response.push(&data);
                    }
                    down.send_data(data);
                }
                Poll::Ready(None) => {
                    let trailers = up.take_trailers();
                    if let Some(trailers) = &trailers {
                        body.note_trailers(trailers);
                    }
                    down.finish(trailers);
                    self.response_ended = true;
                    return Ok(true);
                }
                Poll::Ready(Some(Err(e))) => return Err(Failure::Upstream(e)),
                Poll::Pending => return Ok(moved),
            }
            moved = true;
        }
    }
}
