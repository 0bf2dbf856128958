//! The body of a request, as long as an attempt may want it: read from the client
//! once, sent to one upstream after another, and copied to mirrors and taps.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;

use crate::clock;
use crate::exchange::{Downstream, DownstreamError};
use crate::headers::{HeaderId, Headers};
use crate::http2::Trailers;
use crate::logic::rewrite::GrpcRename;
use crate::mirror::Tee;
use crate::pipes::{Carrier, Piece};
use crate::tap::TapBodies;
use crate::timer::RouteTimeout;

/// Envoy's per-connection buffer limit, which bounds what is kept for a retry:
/// 1 MiB.
pub(crate) const REPLAY_LIMIT: usize = 1024 * 1024;

/// Pieces of a body; their memory is used again.
#[derive(Debug, Default)]
struct Pieces(VecDeque<Piece>);

impl Drop for Pieces {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Piece::release);
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
        let completed = complete.then(clock::now);
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
    pub(crate) fn keep_no_more(&mut self) {
        self.keep = false;
        self.forget_sent();
    }

    /// Lets go of the pieces that the current attempt has sent.
    fn forget_sent(&mut self) {
        self.ready.0.drain(..self.replayed).for_each(Piece::release);
        self.replayed = 0;
    }

    /// An interim answer came. Envoy swallows those that it knows, but takes the
    /// answer for begun: from now on there is no retry. True for the first of them.
    #[cold]
    pub(crate) fn begin_answer(&mut self, status: u16) -> bool {
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

    /// The next piece for the current attempt, in a pipe only if it takes `pipes`.
    pub(crate) fn poll_next<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
        pipes: bool,
    ) -> Poll<Option<Result<Piece, DownstreamError>>> {
        loop {
            let keeps = self.keeps();
            if let Some(ready) = self.ready.0.get_mut(self.replayed) {
                let piece = match ready {
                    Piece::Memory(bytes) if keeps => Piece::Memory(bytes.clone()),
                    Piece::Piped(_) if keeps || !pipes => match ready.share(pipes) {
                        Ok(piece) => piece,
                        Err(e) => {
                            tracing::error!("a request's body was lost in a pipe: {e}");
                            return Poll::Ready(Some(Err(DownstreamError::Gone)));
                        }
                    },
                    _ => std::mem::take(ready),
                };
                if keeps {
                    self.replayed += 1;
                } else {
                    self.ready.0.pop_front();
                }
                return Poll::Ready(Some(Ok(piece)));
            }
            if self.complete {
                return Poll::Ready(None);
            }
            if let Err(e) = ready!(self.poll_receive(down, cx, pipes)) {
                return Poll::Ready(Some(Err(e)));
            }
        }
    }

    /// The client's trailers, once the body is complete.
    pub(crate) fn trailers(&self) -> Option<Trailers> {
        self.trailers.clone()
    }

    /// Takes one piece, or the end, from the client.
    fn poll_receive<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
        pipes: bool,
    ) -> Poll<Result<(), DownstreamError>> {
        match ready!(down.poll_data(cx, self.carrier().if_possible(pipes))) {
            Some(Ok(data)) => {
                self.bytes += data.len() as u64;
                if let Some(tap) = &mut self.tap {
                    tap.request.push_piece(&data);
                }
                match data {
                    Piece::Memory(data) => match self.rename.take() {
                        Some(mut rename) => {
                            rename.push(data, &mut |piece| self.store(piece));
                            self.rename = Some(rename);
                        }
                        None => self.store(data),
                    },
                    piped @ Piece::Piped(_) => self.keep_piece(piped),
                }
            }
            None => {
                if let Some(rest) = self.rename.as_mut().and_then(GrpcRename::finish) {
                    self.store(rest);
                }
                self.complete = true;
                self.completed = Some(clock::now());
                self.trailers = down.take_trailers();
                for tee in &mut self.tees {
                    tee.end(self.trailers.clone());
                }
            }
            Some(Err(e)) => return Poll::Ready(Err(e)),
        }
        Poll::Ready(Ok(()))
    }

    /// How the next piece should come to those who look at it, or change it.
    fn carrier(&self) -> Carrier {
        if !self.tees.is_empty() || self.rename.is_some() {
            return Carrier::Memory;
        }
        self.tap.as_ref().map_or(Carrier::Pipe, |tap| tap.request.carrier())
    }

    /// Notes what logs and taps want of the answer's trailers.
    pub(crate) fn note_trailers(&mut self, trailers: &Trailers) {
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
        self.keep_piece(Piece::Memory(piece));
    }

    fn keep_piece(&mut self, piece: Piece) {
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
    pub(crate) fn read_ahead<D: Downstream>(
        &mut self,
        down: &mut D,
        cx: &mut Context<'_>,
        pipes: bool,
    ) -> Result<bool, DownstreamError> {
        let mut moved = false;
        while !self.complete && self.kept < REPLAY_LIMIT / 2 {
            match self.poll_receive(down, cx, pipes) {
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
        if let Err(e) = self.read_ahead(down, cx, false) {
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
