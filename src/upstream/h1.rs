//! The upstream end of an exchange on HTTP/1.

use std::io;
use std::task::{Context, Poll, ready};

use crate::body::BodyReader;
use crate::edge;
use crate::exchange::{Body, Upstream};
use crate::headers::{RequestHead, ResponseHead};
use crate::http1::body::{CHUNK_END, LAST_CHUNK, chunk_head};
use crate::http1::response::Parser;
use crate::http1::write::{self, Coding};
use crate::http1::{BodyLength, HeadLimits, Parsed};
use crate::http2::Trailers;
use crate::io::{Filled, Io, Reader, Writer};
use crate::local_reply::UpstreamError;
use crate::pipes::{Carrier, Piece};
use crate::pool::Open;
use crate::transport::TransportFailure;

/// Bytes that may wait for the socket before the client is held back.
const QUEUE_LIMIT: usize = 128 * 1024;

/// A connection to a host, one request at a time.
pub(crate) struct Http1 {
    io: Io,
    reader: Reader,
    parser: Parser,
    writer: Writer,
    request_was_head: bool,
    chunked: bool,
    /// The request asks for an upgrade.
    upgrade: bool,
    /// The upgrade was granted.
    tunnel: bool,
    sent: bool,
    /// What was read is well-formed. Envoy drops all of a read that is not.
    checked: bool,
    /// The answer's body; none before its head.
    body: Option<BodyReader>,
    keep_alive: bool,
    limits: HeadLimits,
    open: Open,
    counted: (u64, u64),
}

impl Http1 {
    /// A connection that was just made.
    pub(crate) fn new(io: Io, open: Open, limits: HeadLimits) -> Self {
        Self {
            io,
            reader: Reader::default(),
            parser: Parser::default(),
            writer: Writer::default(),
            request_was_head: false,
            chunked: false,
            upgrade: false,
            tunnel: false,
            checked: false,
            sent: true,
            body: None,
            keep_alive: true,
            limits,
            open,
            counted: (0, 0),
        }
    }

    /// True if the next request may use this connection.
    pub(crate) fn is_reusable(&mut self) -> bool {
        self.keep_alive
            && self.sent
            && self.writer.is_empty()
            && self.body.as_ref().is_none_or(BodyReader::is_done)
            && self.reader.buf.is_empty()
            && !self.reader.eof
            && self.io.is_quiet()
    }

    /// Gives memory back before the connection waits for its next request.
    pub(crate) fn relax(&mut self) {
        self.count();
        self.body = None;
        self.reader.relax();
    }

    /// The exchange failed or was dropped half-way: the connection ends.
    pub(crate) fn cut(&mut self) {
        self.count();
        self.keep_alive = false;
        self.open.ends(self.reader.eof, true);
    }

    /// The peer closed the connection while it was idle.
    pub(crate) fn lost(&self) {
        self.open.ends(true, false);
    }

    fn count(&mut self) {
        let stats = self.open.stats();
        let now = (self.reader.total, self.writer.total);
        stats.upstream_cx_rx_bytes_total.add(now.0 - self.counted.0);
        stats.upstream_cx_tx_bytes_total.add(now.1 - self.counted.1);
        self.counted = now;
    }

    fn malformed(&mut self) -> UpstreamError {
        self.open.stats().upstream_cx_protocol_error.inc();
        UpstreamError::ProtocolError
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, UpstreamError>> {
        self.reader.poll_fill(&mut self.io, cx).map_err(|e| self.unreadable(&e))
    }

    /// A read failed: the peer's doing, if not its wish.
    #[cold]
    fn unreadable(&mut self, error: &io::Error) -> UpstreamError {
        self.reader.eof = true;
        self.broken(error)
    }

    /// What follows are raw bytes.
    #[cold]
    fn open_tunnel(&mut self) {
        self.tunnel = true;
        self.keep_alive = false;
        self.body = Some(BodyReader::new(BodyLength::UntilClose, 0));
    }

    /// What a broken connection means. With TLS 1.3 a server looks at the
    /// client's certificate after the handshake: an alert before its first byte
    /// says that the connection was never made.
    #[cold]
    fn broken(&self, error: &io::Error) -> UpstreamError {
        match TransportFailure::of_late_alert(error) {
            Some(failure) if self.reader.total == 0 => {
                self.open.stats().upstream_cx_connect_fail.inc();
                UpstreamError::ConnectFailure(failure)
            }
            _ => UpstreamError::ConnectionTermination,
        }
    }
}

impl Upstream for Http1 {
    fn send_head(&mut self, head: &RequestHead, body: Body) -> Result<(), UpstreamError> {
        self.request_was_head = head.method() == b"HEAD";
        self.body = None;
        self.sent = body == Body::Empty;
        self.upgrade = body == Body::Tunnel;
        if self.upgrade {
            self.chunked = false;
            self.writer.put_with(|out| write::upgrade(out, head));
            return Ok(());
        }
        let has_body = body != Body::Empty;
        self.chunked =
            self.writer.put_with(|out| write::request(out, head, has_body)) == Coding::Chunked;
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        if self.writer.queued < QUEUE_LIMIT { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    fn takes_pipes(&self) -> bool {
        self.io.takes_pipes()
    }

    fn send_data(&mut self, data: Piece) {
        if self.chunked {
            self.writer.put_with(|out| out.extend_from_slice(chunk_head(data.len()).as_ref()));
            self.writer.put_piece(data);
            self.writer.put_with(|out| out.extend_from_slice(CHUNK_END));
        } else {
            self.writer.put_piece(data);
        }
    }

    fn finish(&mut self, _trailers: Option<Trailers>) {
        if self.chunked {
            self.writer.put_with(|out| out.extend_from_slice(LAST_CHUNK));
        }
        self.sent = true;
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.writer.poll_flush(&mut self.io, cx).map_err(|_| UpstreamError::ConnectionTermination)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Option<Body>, UpstreamError>> {
        loop {
            if !self.reader.buf.is_empty() {
                let to_head = self.request_was_head;
                match self.parser.parse(&self.reader.buf, &self.limits, to_head, head) {
                    Ok(Parsed::Partial) => {}
                    Ok(Parsed::Complete { consumed, body, info }) => {
                        let _ = self.reader.buf.split_to(consumed);
                        if info.interim {
                            return Poll::Ready(Ok(None));
                        }
                        if self.upgrade && edge::is_upgrade(&head.headers) {
                            self.open_tunnel();
                            return Poll::Ready(Ok(Some(Body::Tunnel)));
                        }
                        self.keep_alive = info.keep_alive;
                        self.checked = false;
                        self.body = Some(BodyReader::new(body, self.limits.max_bytes));
                        return Poll::Ready(Ok(Some(match body {
                            BodyLength::None => Body::Empty,
                            BodyLength::Length(n) => Body::Length(n),
                            BodyLength::Chunked | BodyLength::UntilClose => Body::Unknown,
                        })));
                    }
                    Err(e) => {
                        tracing::debug!("upstream answer refused: {e}");
                        return Poll::Ready(Err(self.malformed()));
                    }
                }
            }
            if ready!(self.fill(cx))? == 0 {
                return Poll::Ready(Err(if self.parser.has_begun() {
                    self.malformed()
                } else {
                    UpstreamError::ConnectionTermination
                }));
            }
        }
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        by: Carrier,
    ) -> Poll<Option<Result<Piece, UpstreamError>>> {
        let counted = self.body.as_ref().is_some_and(BodyReader::is_counted);
        let by = by.if_possible(counted && self.io.takes_pipes());
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            if !std::mem::replace(&mut self.checked, true) && body.is_broken(&self.reader.buf) {
                return Poll::Ready(Some(Err(self.malformed())));
            }
            match body.next(&mut self.reader.buf) {
                Ok(Some(data)) => {
                    if by != Carrier::Memory {
                        self.reader.leave_to_pipes(data.len());
                    }
                    return Poll::Ready(Some(Ok(Piece::Memory(data))));
                }
                Ok(None) if body.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(Err(self.malformed()))),
            }
            self.checked = false;
            let announced = body.announced();
            let filled = self.reader.poll_body(&mut self.io, cx, announced, by);
            match ready!(filled) {
                Ok(Filled::Buffer) => {}
                Ok(Filled::Segment(segment)) => {
                    body.passed(segment.len());
                    return Poll::Ready(Some(Ok(Piece::Piped(segment))));
                }
                Ok(Filled::End) if self.tunnel => {
                    return Poll::Ready(Some(Err(UpstreamError::ConnectionTermination)));
                }
                Ok(Filled::End) => {
                    let Some(body) = &mut self.body else { return Poll::Ready(None) };
                    if body.end_of_stream() {
                        self.keep_alive = false;
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Err(self.malformed())));
                }
                Err(e) => {
                    let error = self.unreadable(&e);
                    // A reset in the middle of a counted body is told as its early end.
                    let ended = self.body.as_mut().is_some_and(BodyReader::end_of_stream);
                    return Poll::Ready(Some(Err(if ended { error } else { self.malformed() })));
                }
            }
        }
    }

    fn take_trailers(&mut self) -> Option<Trailers> {
        None
    }
}
