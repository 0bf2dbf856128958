//! Client connections on HTTP/2.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Connection;
use crate::edge;
use crate::exchange::{Body, Downstream, DownstreamError};
use crate::headers::{HeaderId, RequestHead, ResponseHead, Scheme};
use crate::http2::{ReceiveHalf, SendHalf, read_headers, write_headers};
use crate::io::{Io, Reader};
use crate::logic::mutation::Side;
use crate::router::{self, Received};
use crate::timer::IdleTimer;

/// Envoy 1.40's defaults. Its header table size, 4096, is the protocol's default.
const MAX_STREAMS: u32 = 1024;
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 65_535 + 25_100_289;

/// Serves one connection to its end.
pub(super) async fn serve(connection: Connection, io: Io, reader: Reader) {
    let worker = Rc::clone(&connection.worker);
    let shard = connection.shard();
    shard.downstream_cx_http2_total.inc();
    shard.downstream_cx_http2_active.inc();
    worker.multiplexed.set(worker.multiplexed.get() + 1);
    let connection = Rc::new(connection);
    if let Err(e) = run(&connection, io, reader).await {
        tracing::debug!(connection = connection.id, "HTTP/2 connection ended: {e}");
        if e.is_library() {
            connection.shard().downstream_cx_protocol_error.inc();
        }
    }
    worker.multiplexed.set(worker.multiplexed.get() - 1);
    connection.shard().downstream_cx_http2_active.dec();
}

async fn run(connection: &Rc<Connection>, io: Io, reader: Reader) -> Result<(), h2::Error> {
    let Some(listener) = connection.listener() else { return Ok(()) };
    let head_limit = u32::try_from(listener.config.max_head_bytes).unwrap_or(u32::MAX);
    let idle_timeout = listener.config.idle_timeout;
    drop(listener);
    let io = Prefixed { prefix: reader.buf, io };
    let mut h2 = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(head_limit)
        .max_send_buffer_size(256 * 1024)
        .handshake::<_, Bytes>(io)
        .await?;
    let mut drain = connection.worker.plane.drain_changes();
    let mut told = false;
    let active = Rc::new(Cell::new(0));
    let mut idle = IdleTimer::new(idle_timeout);
    loop {
        if !told && drain.borrow_and_update().connections {
            told = true;
            h2.graceful_shutdown();
        }
        tokio::select! {
            next = h2.accept() => match next {
                Some(Ok((request, respond))) => {
                    idle.touch();
                    start(connection, request, respond, StreamCount::new(&active));
                }
                Some(Err(e)) => return Err(e),
                None => return Ok(()),
            },
            changed = drain.changed(), if !told => if changed.is_err() { return Ok(()) },
            () = std::future::poll_fn(|cx| idle.poll_expired(cx)), if !told => {
                if active.get() == 0 {
                    told = true;
                    connection.shard().downstream_cx_idle_timeout.inc();
                    h2.graceful_shutdown();
                } else {
                    idle.restart(idle_timeout);
                }
            }
        }
    }
}

/// One more active stream of a connection while it lives.
struct StreamCount(Rc<Cell<usize>>);

impl StreamCount {
    fn new(active: &Rc<Cell<usize>>) -> Self {
        active.set(active.get() + 1);
        Self(Rc::clone(active))
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn start(
    connection: &Rc<Connection>,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
    count: StreamCount,
) {
    let connection = Rc::clone(connection);
    let shard = connection.shard();
    shard.downstream_rq_total.inc();
    shard.downstream_rq_http2_total.inc();
    tokio::task::spawn_local(async move {
        let _count = count;
        let (parts, receive) = request.into_parts();
        // As Envoy counts: method, scheme, path and authority too, and every line
        // before lines are joined.
        let fields = parts.headers.len() + 3 + usize::from(parts.uri.authority().is_some());
        let mut head = RequestHead::default();
        let has_host = read_head(&parts, connection.tls, &mut head);
        let mut stream = Http2Stream {
            receive: ReceiveHalf::new(receive),
            respond,
            send: SendHalf::default(),
            responded: false,
        };
        let received = Received {
            complete: stream.receive.is_done(),
            http2: true,
            keep_alive: true,
            has_host,
            ..Received::default()
        };
        let Some(listener) = connection.listener() else {
            return stream.respond.send_reset(h2::Reason::REFUSED_STREAM);
        };
        // Envoy resets such a stream.
        if fields > listener.config.max_head_fields {
            return stream.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        let mut idle = IdleTimer::new(listener.config.stream_idle_timeout);
        router::handle(&connection, &listener, &mut stream, &mut head, received, &mut idle).await;
    });
}

/// Fills `head`; true if the request names its host.
fn read_head(parts: &http::request::Parts, tls: bool, head: &mut RequestHead) -> bool {
    head.scheme = if tls { Scheme::Https } else { Scheme::Http };
    head.set_method(parts.method.as_str().as_bytes());
    let path = parts.uri.path_and_query().map_or("", |p| p.as_str());
    head.set_path(path.as_bytes());
    read_headers(&parts.headers, Side::Request, &mut head.headers);
    let host = match parts.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes().to_vec()),
        None => head.headers.first(HeaderId::Host).map(<[u8]>::to_vec),
    };
    head.set_authority(host.as_deref().unwrap_or_default());
    head.headers.remove(HeaderId::Host);
    edge::join_cookies(head);
    host.is_some()
}

/// One stream of a client connection.
struct Http2Stream {
    receive: ReceiveHalf,
    respond: SendResponse<Bytes>,
    send: SendHalf,
    responded: bool,
}

impl Downstream for Http2Stream {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, DownstreamError>>> {
        self.receive
            .poll_data(cx)
            .map(|next| next.map(|data| data.map_err(|_| DownstreamError::Gone)))
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.receive.take_trailers()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.responded {
            self.send.poll_reset(cx)
        } else {
            self.respond.poll_reset(cx).map(|_| ())
        }
    }

    fn send_head(
        &mut self,
        head: &mut ResponseHead,
        body: Body,
        _close: bool,
    ) -> Result<(), DownstreamError> {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(head.status).map_err(|_| DownstreamError::Gone)?;
        *response.headers_mut() = write_headers(&head.headers);
        let empty = body == Body::Empty;
        let stream =
            self.respond.send_response(response, empty).map_err(|_| DownstreamError::Gone)?;
        self.responded = true;
        self.send = SendHalf::new((!empty).then_some(stream));
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        self.send.poll_room(cx).map_err(|_| DownstreamError::Gone)
    }

    fn send_data(&mut self, data: Bytes) {
        self.send.push(data);
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.send.finish(trailers);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        self.send.poll_flush(cx).map_err(|_| DownstreamError::Gone)
    }

    fn abort(&mut self) {
        if self.responded {
            self.send.reset(h2::Reason::INTERNAL_ERROR);
        } else {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

/// A stream whose first bytes were read already.
struct Prefixed {
    prefix: BytesMut,
    io: Io,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..n]);
            self.prefix.advance(n);
            return Poll::Ready(Ok(()));
        }
        AsyncRead::poll_read(Pin::new(&mut self.io), cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.io), cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(Pin::new(&mut self.io), cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.io), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.io), cx)
    }
}
