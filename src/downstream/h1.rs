//! Client connections on HTTP/1: one request after the other.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::Connection;
use crate::body::BodyReader;
use crate::exchange::{Body, Downstream, DownstreamError};
use crate::flags::ResponseFlag;
use crate::headers::{RequestHead, ResponseHead, Scheme};
use crate::http1::body::{CHUNK_END, LAST_CHUNK, chunk_head};
use crate::http1::request::{Parser, RequestInfo};
use crate::http1::write::{self, Coding, ResponseFraming};
use crate::http1::{BodyLength, HeadError, HeadLimits, Parsed};
use crate::http2::Trailers;
use crate::io::{Filled, Io, Reader, Writer};
use crate::local_reply::{LocalReply, RequestForm};
use crate::model::ListenerConfig;
use crate::pipes::{Carrier, Piece};
use crate::record::{LogEnds, Record};
use crate::router::{self, Fate, Received};
use crate::timer::IdleTimer;

/// Bytes that may wait for the client's socket before the upstream is held
/// back.
const QUEUE_LIMIT: usize = 128 * 1024;
/// Bytes of pipelined requests that are read while one is in progress; more
/// stay with the kernel.
const PIPELINE_LIMIT: usize = 64 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve(connection: Connection, io: Io, reader: Reader) {
    let shard = connection.shard();
    shard.downstream_cx_http1_total.inc();
    shard.downstream_cx_http1_active.inc();
    let mut client = Client {
        io,
        reader,
        parser: Parser::default(),
        writer: Writer::default(),
        body: BodyReader::none(),
        head_request: false,
        chunked: false,
        counted: (0, 0),
    };
    let mut head = RequestHead::default();
    let Some(mut config) = connection.config() else { return };
    let mut idle = IdleTimer::new(config.idle_timeout);
    let fate = loop {
        let next = client.next_request(&connection, &config, &mut head, &mut idle).await;
        let received = match next {
            Ok(received) => received,
            Err(fate) => break fate,
        };
        // Looked up when the request is there: a connection that waits holds no
        // table.
        let Some(listener) = connection.listener() else { break Fate::Close };
        config = Arc::clone(&listener.config);
        let fate =
            router::handle(&connection, &listener, &mut client, &mut head, received, &mut idle)
                .await;
        client.count(&connection);
        if fate != Fate::KeepAlive {
            break fate;
        }
    };
    if fate == Fate::Close {
        client.close(config.delayed_close).await;
    }
    client.count(&connection);
    connection.shard().downstream_cx_http1_active.dec();
}

/// The client's end of a connection.
struct Client {
    io: Io,
    reader: Reader,
    parser: Parser,
    writer: Writer,
    body: BodyReader,
    head_request: bool,
    chunked: bool,
    counted: (u64, u64),
}

impl Client {
    /// Reads until a request's head is complete, or says what becomes of the
    /// connection.
    async fn next_request(
        &mut self,
        connection: &Connection,
        config: &ListenerConfig,
        head: &mut RequestHead,
        idle: &mut IdleTimer,
    ) -> Result<Received, Fate> {
        let limits = HeadLimits {
            max_bytes: config.max_head_bytes,
            max_fields: config.max_head_fields,
            refuse_ambiguous: connection.worker.refuse_ambiguous,
        };
        if self.reader.buf.is_empty() {
            self.reader.relax();
            idle.restart(config.idle_timeout);
        } else {
            idle.restart(config.stream_idle_timeout);
        }
        let mut seen = 0;
        let parsed = poll_fn(|cx| {
            loop {
                if self.reader.buf.len() > seen {
                    if seen == 0 {
                        idle.restart(config.stream_idle_timeout);
                    }
                    seen = self.reader.buf.len();
                    match self.parser.parse(&self.reader.buf, &limits, head) {
                        Ok(Parsed::Partial) => {}
                        Ok(Parsed::Complete { consumed, body, info }) => {
                            let _ = self.reader.buf.split_to(consumed);
                            if connection.tls {
                                head.scheme = Scheme::Https;
                            }
                            return Poll::Ready(Next::Request(body, info));
                        }
                        Err(e) => return Poll::Ready(Next::Refused(e)),
                    }
                }
                if idle.poll_expired(cx).is_ready() {
                    return Poll::Ready(Next::Idle);
                }
                match ready!(self.reader.poll_fill(&mut self.io, cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(Next::Gone),
                    Ok(_) => {}
                }
            }
        })
        .await;
        let shard = connection.shard();
        match parsed {
            Next::Request(body, info) => {
                shard.downstream_rq_total.inc();
                shard.downstream_rq_http1_total.inc();
                if info.expect_continue {
                    self.say_continue().await;
                }
                Ok(self.begin(body, info, config.max_head_bytes))
            }
            Next::Refused(error) => {
                shard.downstream_rq_total.inc();
                shard.downstream_rq_http1_total.inc();
                Err(self.refuse(connection, error.reply()).await)
            }
            Next::Gone => Err(Fate::Abort),
            Next::Idle if seen == 0 => {
                shard.downstream_cx_idle_timeout.inc();
                Err(Fate::Close)
            }
            Next::Idle => {
                shard.downstream_rq_total.inc();
                shard.downstream_rq_idle_timeout.inc();
                Err(self.refuse(connection, LocalReply::stream_idle(false)).await)
            }
        }
    }

    /// `100 Continue`, at once: whatever becomes of the request, and even if it
    /// has no body (Envoy: `proxy_100_continue` unset).
    async fn say_continue(&mut self) {
        self.writer.put_with(|out| out.extend_from_slice(write::CONTINUE));
        // What does not leave now leaves with the next write.
        let _ = poll_fn(|cx| Poll::Ready(self.writer.poll_flush(&mut self.io, cx))).await;
    }

    /// Queues the head of an answer behind which bytes are raw, whatever it says
    /// of them.
    #[cold]
    fn open_tunnel(&mut self, head: &ResponseHead) {
        self.head_request = false;
        self.chunked = false;
        let framing = ResponseFraming { close: false, to_head: false, has_body: true };
        self.writer.put_with(|out| write::response(out, head, framing));
    }

    fn begin(&mut self, body: BodyLength, info: RequestInfo, max_trailer_bytes: usize) -> Received {
        self.body = BodyReader::new(body, max_trailer_bytes);
        self.head_request = info.is_head;
        Received {
            complete: self.body.is_done(),
            http2: false,
            keep_alive: !info.wants_close,
            upgrade: info.upgrade,
            has_host: info.has_host,
        }
    }

    /// Answers bytes that are no request; the connection ends.
    async fn refuse(&mut self, connection: &Connection, reply: LocalReply) -> Fate {
        let shard = connection.shard();
        if reply.flags.has(ResponseFlag::DownstreamProtocolError) {
            shard.downstream_cx_protocol_error.inc();
        }
        shard.replied(reply.status);
        shard.downstream_rq_response_before_rq_complete.inc();
        shard.downstream_rq_rx_reset.inc();
        let mut answer = ResponseHead::default();
        let form = RequestForm::default();
        let mut record = Record::new(false);
        record.refused(&reply);
        reply.begin(form, &mut answer);
        let body = reply.finish(form, &connection.worker.date(), &mut answer);
        record.sent = body.len() as u64;
        if let Some(listener) = connection.listener() {
            let request = &RequestHead::default();
            let ends = LogEnds { request, response: &answer, trailers: None, completed: None };
            record.log(connection, &listener, ends);
        }
        let kind = if body.is_empty() { Body::Empty } else { Body::Length(body.len() as u64) };
        if self.send_head(&mut answer, kind, true).is_err() {
            return Fate::Abort;
        }
        self.send_data(Piece::Memory(body));
        Fate::Close
    }

    /// Sends what is queued, then FIN, and lets the client read it: closing a
    /// socket with unread bytes would reset the connection under the answer.
    async fn close(&mut self, linger: Duration) {
        let gone = async {
            poll_fn(|cx| self.writer.poll_flush(&mut self.io, cx)).await?;
            poll_fn(|cx| self.io.poll_shutdown(cx)).await?;
            loop {
                self.reader.buf.clear();
                if poll_fn(|cx| self.reader.poll_fill(&mut self.io, cx)).await? == 0 {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        let _ = tokio::time::timeout(linger, gone).await;
    }

    fn count(&mut self, connection: &Connection) {
        let shard = connection.shard();
        let now = (self.reader.total, self.writer.total);
        shard.downstream_cx_rx_bytes_total.add(now.0 - self.counted.0);
        shard.downstream_cx_tx_bytes_total.add(now.1 - self.counted.1);
        self.counted = now;
    }
}

/// What came next on a connection.
enum Next {
    Request(BodyLength, RequestInfo),
    Refused(HeadError),
    Gone,
    Idle,
}

impl Downstream for Client {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        by: Carrier,
    ) -> Poll<Option<Result<Piece, DownstreamError>>> {
        let by = by.if_possible(self.body.is_counted() && self.io.takes_pipes());
        loop {
            match self.body.next(&mut self.reader.buf) {
                Ok(Some(data)) => {
                    if by != Carrier::Memory {
                        self.reader.leave_to_pipes(data.len());
                    }
                    return Poll::Ready(Some(Ok(Piece::Memory(data))));
                }
                Ok(None) if self.body.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(e) => return Poll::Ready(Some(Err(DownstreamError::Malformed(e)))),
            }
            if !self.writer.is_empty() {
                let flushed = self.writer.poll_flush(&mut self.io, cx);
                if let Poll::Ready(Err(_)) = flushed {
                    return Poll::Ready(Some(Err(DownstreamError::Gone)));
                }
            }
            let announced = self.body.announced();
            match ready!(self.reader.poll_body(&mut self.io, cx, announced, by)) {
                Ok(Filled::End) | Err(_) => return Poll::Ready(Some(Err(DownstreamError::Gone))),
                Ok(Filled::Buffer) => {}
                Ok(Filled::Segment(segment)) => {
                    self.body.passed(segment.len());
                    return Poll::Ready(Some(Ok(Piece::Piped(segment))));
                }
            }
        }
    }

    fn take_trailers(&mut self) -> Option<Trailers> {
        None
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError> {
        while self.reader.buf.len() < PIPELINE_LIMIT {
            match ready!(self.reader.poll_fill(&mut self.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(DownstreamError::Gone),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    fn send_head(
        &mut self,
        head: &mut ResponseHead,
        body: Body,
        close: bool,
    ) -> Result<(), DownstreamError> {
        if body == Body::Tunnel {
            self.open_tunnel(head);
            return Ok(());
        }
        let framing =
            ResponseFraming { close, to_head: self.head_request, has_body: body != Body::Empty };
        self.chunked =
            self.writer.put_with(|out| write::response(out, head, framing)) == Coding::Chunked;
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        if self.writer.queued < QUEUE_LIMIT { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    fn takes_pipes(&self) -> bool {
        self.io.takes_pipes() && !self.head_request
    }

    fn send_data(&mut self, data: Piece) {
        if self.head_request || data.len() == 0 {
            return;
        }
        if self.chunked {
            self.writer.put_with(|out| out.extend_from_slice(chunk_head(data.len()).as_ref()));
            self.writer.put_piece(data);
            self.writer.put_with(|out| out.extend_from_slice(CHUNK_END));
        } else {
            self.writer.put_piece(data);
        }
    }

    fn finish(&mut self, _trailers: Option<Trailers>) {
        if self.chunked && !self.head_request {
            self.writer.put_with(|out| out.extend_from_slice(LAST_CHUNK));
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        self.writer.poll_flush(&mut self.io, cx).map_err(|_| DownstreamError::Gone)
    }

    fn abort(&mut self) {}
}
