//! The upstream end of an exchange on HTTP/1.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use crate::exchange::{Body, Upstream};
use crate::headers::{RequestHead, ResponseHead};
use crate::http1::body::BodyDecoder;
use crate::http1::response::Parser;
use crate::http1::{BodyLength, HeadLimits, Parsed, write};
use crate::io::{Io, Reader, Writer};
use crate::local_reply::UpstreamError;
use crate::pool::Open;

/// Bytes that may wait for the socket before the client is held back.
const QUEUE_LIMIT: usize = 128 * 1024;

/// A connection to a host, one request at a time.
pub(crate) struct Http1 {
    io: Io,
    reader: Reader,
    writer: Writer,
    request_was_head: bool,
    chunked: bool,
    sent: bool,
    /// The answer's body; none before its head.
    body: Option<BodyDecoder>,
    keep_alive: bool,
    open: Open,
    counted: (u64, u64),
}

impl Http1 {
    /// A connection that was just made.
    pub(crate) fn new(io: Io, open: Open) -> Self {
        Self {
            io,
            reader: Reader::default(),
            writer: Writer::default(),
            request_was_head: false,
            chunked: false,
            sent: true,
            body: None,
            keep_alive: true,
            open,
            counted: (0, 0),
        }
    }

    /// True if the next request may use this connection.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.sent
            && self.writer.is_empty()
            && self.body.as_ref().is_none_or(BodyDecoder::is_done)
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
    }

    fn count(&mut self) {
        let stats = self.open.stats();
        let now = (self.reader.total, self.writer.total);
        stats.upstream_cx_rx_bytes_total.add(now.0 - self.counted.0);
        stats.upstream_cx_tx_bytes_total.add(now.1 - self.counted.1);
        self.counted = now;
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, UpstreamError>> {
        self.reader
            .poll_fill(&mut self.io, cx)
            .map_err(|_: io::Error| UpstreamError::ClosedBeforeHeaders)
    }
}

impl Upstream for Http1 {
    fn send_head(&mut self, head: &RequestHead, body: Body) -> Result<(), UpstreamError> {
        self.request_was_head = head.method() == b"HEAD";
        self.body = None;
        self.sent = body == Body::Empty;
        self.chunked = body == Body::Unknown;
        let length = match body {
            Body::Empty => BodyLength::None,
            Body::Length(n) => BodyLength::Length(n),
            Body::Unknown => BodyLength::Chunked,
        };
        self.writer.put_with(|out| write::request(out, head, length));
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        if self.writer.queued < QUEUE_LIMIT { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    fn send_data(&mut self, data: Bytes) {
        if self.chunked {
            let len = data.len() as u64;
            self.writer.put_with(|out| write::chunk_start(out, len));
            self.writer.put(data);
            self.writer.put_with(|out| out.extend_from_slice(b"\r\n"));
        } else {
            self.writer.put(data);
        }
    }

    fn finish(&mut self, _trailers: Option<HeaderMap>) {
        if self.chunked {
            self.writer.put_with(|out| out.extend_from_slice(write::LAST_CHUNK));
        }
        self.sent = true;
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        self.writer
            .poll_flush(&mut self.io, cx)
            .map_err(|_| UpstreamError::ClosedBeforeHeaders)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Body, UpstreamError>> {
        loop {
            if !self.reader.buf.is_empty() {
                match response::parse(&self.reader.buf, &LIMITS, self.request_was_head, head) {
                    Ok(response::Parsed::Partial) => {}
                    Ok(response::Parsed::Complete(found)) => {
                        let _ = self.reader.buf.split_to(found.consumed);
                        if head.status < 200 && head.status != 101 {
                            continue;
                        }
                        self.keep_alive = found.keep_alive;
                        let kind = match found.body {
                            BodyLength::None => Body::Empty,
                            BodyLength::Length(n) => Body::Length(n),
                            _ => Body::Unknown,
                        };
                        self.body = Some(BodyDecoder::new(found.body));
                        return Poll::Ready(Ok(kind));
                    }
                    Err(_) => {
                        self.open.stats().upstream_cx_protocol_error.inc();
                        return Poll::Ready(Err(UpstreamError::ProtocolError));
                    }
                }
            }
            if ready!(self.fill(cx))? == 0 {
                return Poll::Ready(Err(UpstreamError::ClosedBeforeHeaders));
            }
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match body.next(&mut self.reader.buf) {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(None) if body.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(Err(UpstreamError::ProtocolError))),
            }
            match ready!(self.fill(cx)) {
                Ok(0) => {
                    let Some(body) = &mut self.body else { return Poll::Ready(None) };
                    if body.end_of_stream() {
                        self.keep_alive = false;
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Err(UpstreamError::ProtocolError)));
                }
                Ok(_) => {}
                Err(e) => return Poll::Ready(Some(Err(e))),
            }
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        None
    }
}
