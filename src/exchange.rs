//! One attempt: a request's body on its way up, the answer on its way down,
//! both at once, with back-pressure from the slower end.
//!
//! The two ends are [`Downstream`] and [`Upstream`], each HTTP/1 or HTTP/2. An
//! exchange is polled by one task and owns nothing but its progress, so an
//! attempt costs no task, no channel and no allocation.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::flags::ResponseFlag;
use crate::headers::{RequestHead, ResponseHead};
use crate::http1::ChunkError;
use crate::http2::Trailers;
use crate::local_reply::UpstreamError;
use crate::pipes::{Carrier, Piece};
use crate::request_body::RequestBody;
use crate::timer::IdleTimer;

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
    /// The next piece of the request's body; `None` at its end, by what the upstream
    /// and whoever looks at it take.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        by: Carrier,
    ) -> Poll<Option<Result<Piece, DownstreamError>>>;
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
    /// True if the answer's body may come in pipes. Known once the head is queued.
    fn takes_pipes(&self) -> bool {
        false
    }
    /// Queues a piece of body; only when there is room.
    fn send_data(&mut self, data: Piece);
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
    /// True if the request's body may come in pipes.
    fn takes_pipes(&self) -> bool {
        false
    }
    /// Queues a piece of body; only when there is room.
    fn send_data(&mut self, data: Piece);
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
    /// The next piece of the answer's body; `None` at its end, by what the client's
    /// side and whoever looks at it take.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        by: Carrier,
    ) -> Poll<Option<Result<Piece, UpstreamError>>>;
    /// Trailers, after the end of the body.
    fn take_trailers(&mut self) -> Option<Trailers>;
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
        let pipes = up.takes_pipes();
        while !self.request_sent {
            match up.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => {
                    self.write_failed = Some(e);
                    return Ok(moved);
                }
                Poll::Pending => {
                    moved |= body.read_ahead(down, cx, pipes)?;
                    break;
                }
            }
            match body.poll_next(down, cx, pipes) {
                Poll::Ready(Some(Ok(data))) => up.send_data(data),
                Poll::Ready(Some(Err(e))) => {
                    // What a client says before it leaves a tunnel is not lost.
                    let _ = up.poll_flush(cx);
                    return Err(e);
                }
                Poll::Ready(None) => {
                    up.finish(body.trailers());
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
            let wanted = body.tap.as_ref().map_or(Carrier::Pipe, |tap| tap.response.carrier());
            match up.poll_data(cx, wanted.if_possible(down.takes_pipes())) {
                Poll::Ready(Some(Ok(data))) => {
                    self.sent += data.len() as u64;
                    if let Some(tap) = &mut body.tap {
                        tap.response.push_piece(&data);
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
