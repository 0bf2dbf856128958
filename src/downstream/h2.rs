//! Client connections on HTTP/2.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::Connection;
use crate::clock;
use crate::edge;
use crate::exchange::{Body, Downstream, DownstreamError};
use crate::flags::ResponseFlag;
use crate::headers::{RequestHead, ResponseHead, Scheme};
use crate::http2::{
    self, Accepted, Closed, Driver, Ended, ListLimits, Reason, Role, Shared, StreamHandle, Trailers,
};
use crate::io::{Io, Reader};
use crate::pipes::{Carrier, Piece};
use crate::record::Record;
use crate::router::{self, Received};
use crate::timer::{IdleTimer, Timers};

/// Between the two GOAWAYs (Envoy: `drain_timeout`).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client that was told off may go on reading (Envoy:
/// `delayed_close_timeout`).
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(super) async fn serve(connection: Connection, io: Io, reader: Reader) {
    let worker = Rc::clone(&connection.worker);
    let shard = connection.shard();
    shard.downstream_cx_http2_total.inc();
    shard.downstream_cx_http2_active.inc();
    worker.multiplexed.set(worker.multiplexed.get() + 1);
    let connection = Rc::new(connection);
    if let Some(mut server) = Server::new(&connection, io, reader) {
        let closed = poll_fn(|cx| server.poll(cx)).await;
        server.count();
        if let Some(Closed::Error(e)) = closed {
            tracing::debug!(connection = connection.id, "HTTP/2 connection ended: {e}");
            connection.shard().downstream_cx_protocol_error.inc();
        }
        if closed != Some(Closed::Gone) {
            server.close().await;
        }
    }
    worker.multiplexed.set(worker.multiplexed.get() - 1);
    connection.shard().downstream_cx_http2_active.dec();
}

/// How far the goodbye has come.
enum Goodbye {
    NotYet,
    /// The first GOAWAY is out; the second at this time, or when the client has
    /// answered a PING.
    Soon(Pin<Box<Sleep>>),
    /// The final one is out.
    Now,
}

/// A connection's driver and its calendar.
struct Server {
    connection: Rc<Connection>,
    driver: Driver,
    leaving: Rc<Cell<Leaving>>,
    goodbye: Goodbye,
    idle: IdleTimer,
    idle_timeout: Duration,
    /// The streams' idle timers.
    timers: Rc<Timers>,
    counted: (u64, u64),
    watcher: tokio::task::JoinHandle<()>,
}

/// What a connection's streams and its watcher ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// A stream has told the client to leave.
    Told,
    /// The process ends.
    Exit,
}

impl Server {
    fn new(connection: &Rc<Connection>, io: Io, reader: Reader) -> Option<Self> {
        let listener = connection.listener()?;
        let config = &listener.config;
        let limits = ListLimits { fields: config.max_head_fields, bytes: config.max_head_bytes };
        let shared = http2::Connection::new(Role::Server, limits, clock::now());
        let shared = Rc::new(RefCell::new(shared));
        let leaving = Rc::new(Cell::new(Leaving::No));
        Some(Self {
            connection: Rc::clone(connection),
            watcher: watch(connection, &shared, &leaving),
            driver: Driver::new(io, reader, shared),
            leaving,
            goodbye: Goodbye::NotYet,
            idle: IdleTimer::new(config.idle_timeout),
            idle_timeout: config.idle_timeout,
            timers: Rc::default(),
            counted: (0, 0),
        })
    }

    /// Ready at the end; none if it ended in good order.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Closed>> {
        let closed = self.driver.poll(cx);
        if self.driver.moved() != self.counted {
            self.idle.touch();
            self.count();
        }
        self.accept();
        self.timers.poll(cx);
        if let Poll::Ready(closed) = closed {
            return Poll::Ready(Some(closed));
        }
        self.poll_goodbye(cx)
    }

    fn accept(&self) {
        loop {
            let accepted = self.driver.shared.borrow_mut().accept();
            match accepted {
                None => return,
                Some(Accepted::Request { key, head, complete }) => {
                    let stream = StreamHandle::new(&self.driver.shared, key);
                    self.start(stream, head, complete);
                }
                Some(Accepted::TooLarge) => self.unread(ResponseFlag::DownstreamRemoteReset),
                Some(Accepted::Malformed) => self.unread(ResponseFlag::DownstreamProtocolError),
            }
        }
    }

    fn start(&self, stream: StreamHandle, mut head: Box<RequestHead>, complete: bool) {
        let shard = self.connection.shard();
        shard.downstream_rq_total.inc();
        shard.downstream_rq_http2_total.inc();
        let connection = Rc::clone(&self.connection);
        let (shared, leaving) = (Rc::clone(&self.driver.shared), Rc::clone(&self.leaving));
        let timers = Rc::clone(&self.timers);
        clock::spawn(async move {
            let Some(listener) = connection.listener() else {
                return stream.reset(Reason::REFUSED_STREAM);
            };
            head.scheme = if connection.tls { Scheme::Https } else { Scheme::Http };
            if edge::expects_continue(&head) {
                stream.send_continue();
            }
            let received = Received {
                complete,
                http2: true,
                keep_alive: true,
                has_host: true,
                ..Received::default()
            };
            let mut stream = Http2Stream { stream, connection: &connection, leaving: &leaving };
            let mut idle = IdleTimer::shared(&timers, listener.config.stream_idle_timeout);
            router::handle(&connection, &listener, &mut stream, &mut head, received, &mut idle)
                .await;
            drop(stream);
            shared.borrow_mut().recycle(head);
        });
    }

    /// Accounts of a request of which no head could be read.
    fn unread(&self, flag: ResponseFlag) {
        let shard = self.connection.shard();
        shard.downstream_rq_total.inc();
        shard.downstream_rq_http2_total.inc();
        shard.downstream_rq_rx_reset.inc();
        if let Some(listener) = self.connection.listener() {
            Record::log_unread(&self.connection, &listener, flag);
        }
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<Option<Closed>> {
        loop {
            let shared = &self.driver.shared;
            match &mut self.goodbye {
                Goodbye::NotYet => {
                    match self.leaving.get() {
                        Leaving::No if self.idle.poll_expired(cx).is_pending() => {
                            return Poll::Pending;
                        }
                        // Streams hold the state too.
                        Leaving::No if Rc::strong_count(shared) > 1 => {
                            self.idle.restart(self.idle_timeout);
                            continue;
                        }
                        Leaving::No => {
                            self.connection.shard().downstream_cx_idle_timeout.inc();
                            shared.borrow_mut().go_away_soon();
                        }
                        Leaving::Told => {}
                        Leaving::Exit => {
                            let mut connection = shared.borrow_mut();
                            connection.go_away_soon();
                            connection.ping();
                        }
                    }
                    cx.waker().wake_by_ref();
                    self.goodbye = Goodbye::Soon(Box::pin(tokio::time::sleep(DRAIN_TIMEOUT)));
                }
                Goodbye::Soon(until) => {
                    let exit = self.leaving.get() == Leaving::Exit;
                    let ponged = exit && shared.borrow().ponged();
                    if !ponged && until.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    shared.borrow_mut().go_away_now();
                    cx.waker().wake_by_ref();
                    self.goodbye = Goodbye::Now;
                }
                Goodbye::Now => {
                    let connection = shared.borrow();
                    let done = Rc::strong_count(shared) == 1 && connection.open_streams() == 0;
                    return if done && connection.out_is_empty() {
                        Poll::Ready(None)
                    } else {
                        Poll::Pending
                    };
                }
            }
        }
    }

    fn count(&mut self) {
        let shard = self.connection.shard();
        let now = self.driver.moved();
        shard.downstream_cx_rx_bytes_total.add(now.0 - self.counted.0);
        shard.downstream_cx_tx_bytes_total.add(now.1 - self.counted.1);
        self.counted = now;
    }

    /// Sends what is left to say, then FIN, and lets the client read it: closing a
    /// socket with unread bytes would reset the connection under it.
    async fn close(&mut self) {
        let driver = &mut self.driver;
        let gone = async {
            poll_fn(|cx| driver.poll_rest(cx)).await?;
            poll_fn(|cx| driver.io.poll_shutdown(cx)).await?;
            loop {
                driver.reader.buf.clear();
                if poll_fn(|cx| driver.reader.poll_fill(&mut driver.io, cx)).await? == 0 {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, gone).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.watcher.abort();
        self.timers.orphan();
    }
}

/// Tells the connection when the process is to end.
fn watch(
    connection: &Rc<Connection>,
    shared: &Shared,
    leaving: &Rc<Cell<Leaving>>,
) -> tokio::task::JoinHandle<()> {
    let mut drain = connection.worker.plane.drain_changes();
    let (shared, leaving) = (Rc::downgrade(shared), Rc::clone(leaving));
    tokio::task::spawn_local(async move {
        if drain.wait_for(|drain| drain.exit).await.is_ok() {
            leaving.set(Leaving::Exit);
            if let Some(shared) = shared.upgrade() {
                shared.borrow_mut().kick();
            }
        }
    })
}

/// One stream of a client connection.
struct Http2Stream<'a> {
    stream: StreamHandle,
    connection: &'a Connection,
    leaving: &'a Cell<Leaving>,
}

/// What a stream's early end means for its request.
fn error(ended: Ended) -> DownstreamError {
    match ended {
        Ended::Reset(_) => DownstreamError::Reset,
        Ended::Violation | Ended::Protocol => DownstreamError::Protocol,
        Ended::Gone | Ended::Unconnected(_) | Ended::Refused | Ended::Local => {
            DownstreamError::Gone
        }
    }
}

impl Downstream for Http2Stream<'_> {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        _by: Carrier,
    ) -> Poll<Option<Result<Piece, DownstreamError>>> {
        self.stream
            .poll_data(cx)
            .map(|next| next.map(|data| data.map(Piece::Memory).map_err(error)))
    }

    fn take_trailers(&mut self) -> Option<Trailers> {
        self.stream.take_trailers()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError> {
        self.stream.poll_ended(cx).map(error)
    }

    fn send_head(
        &mut self,
        head: &mut ResponseHead,
        body: Body,
        _close: bool,
    ) -> Result<(), DownstreamError> {
        if self.connection.draining() && self.leaving.get() == Leaving::No {
            self.leaving.set(Leaving::Told);
            self.stream.go_away_soon();
        }
        self.stream.send_response(head, body == Body::Empty);
        Ok(())
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        self.stream.poll_room(cx).map_err(error)
    }

    fn send_data(&mut self, data: Piece) {
        if let Some(data) = data.into_memory() {
            self.stream.send_data(data);
        }
    }

    fn finish(&mut self, trailers: Option<Trailers>) {
        self.stream.finish(trailers);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        self.stream.poll_flush(cx).map_err(error)
    }

    fn abort(&mut self) {
        self.stream.reset(Reason::INTERNAL_ERROR);
    }
}
