//! Client connections: protocol choice, then one request after the other
//! (HTTP/1) or side by side (HTTP/2), each handed to [`crate::router`].

mod h1;
mod h2;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::io::{Io, Reader};
use crate::model::Listener;
use crate::stats::{ListenerShard, ListenerStats};
use crate::worker::Worker;

/// What selects HTTP/2 on a connection without ALPN (RFC 9113, 3.4). Envoy
/// decides by this much of the preface.
const PREFACE_START: &[u8] = b"PRI * HTTP/2.0";

/// A client connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) id: u64,
    pub(crate) tls: bool,
    name: Arc<str>,
    /// The listener at the last look, and the version of that snapshot.
    listener: RefCell<(u64, Arc<Listener>)>,
    opened: Instant,
}

impl Connection {
    /// The listener as published now. A listener that was removed serves its
    /// connections as it last was.
    pub(crate) fn listener(&self) -> Arc<Listener> {
        let version = self.worker.plane.version();
        let mut held = self.listener.borrow_mut();
        if held.0 != version {
            if let Some(now) = self.worker.plane.snapshot.load().listener(&self.name) {
                held.1 = Arc::clone(now);
            }
            held.0 = version;
        }
        Arc::clone(&held.1)
    }

    /// This worker's part of the listener's statistics.
    pub(crate) fn shard(&self) -> &ListenerShard {
        self.stats.shard(self.worker.shard)
    }

    /// True if the listener of this connection is gone or everything drains:
    /// replies ask the client to leave.
    pub(crate) fn draining(&self) -> bool {
        self.worker.plane.drain().connections
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let shard = self.stats.shard(self.worker.shard);
        shard.downstream_cx_active.dec();
        shard.downstream_cx_destroy.inc();
        shard.downstream_cx_length_ms.record(self.opened.elapsed());
        if self.tls {
            shard.downstream_cx_ssl_active.dec();
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(worker: &Rc<Worker>, name: &Arc<str>, stream: TcpStream) {
    let Some(listener) = worker.plane.snapshot.load().listener(name).cloned() else {
        return;
    };
    let (Ok(remote), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let tls = listener.config.tls.is_some();
    let stats = worker.plane.stats.listener(&listener.config.stat_prefix, listener.config.address);
    let shard = stats.shard(worker.shard);
    shard.downstream_cx_total.inc();
    shard.downstream_cx_active.inc();
    if tls {
        shard.downstream_cx_ssl_total.inc();
        shard.downstream_cx_ssl_active.inc();
    }
    let id = worker.connections.get();
    worker.connections.set(id + worker.shard.of as u64);
    let connection = Connection {
        worker: Rc::clone(worker),
        stats,
        remote,
        local,
        id,
        tls,
        name: Arc::clone(name),
        listener: RefCell::new((0, Arc::clone(&listener))),
        opened: Instant::now(),
    };
    let Ok(mut io) = handshake(&listener, stream).await else { return };
    let idle = listener.config.idle_timeout;
    drop(listener);
    let mut reader = Reader::default();
    match detect(&mut io, &mut reader, idle).await {
        Some(Protocol::Http1) => h1::serve(connection, io, reader).await,
        Some(Protocol::Http2) => h2::serve(connection, io, reader).await,
        None => {}
    }
}

async fn handshake(listener: &Listener, stream: TcpStream) -> std::io::Result<Io> {
    match &listener.config.tls {
        None => Ok(Io::Tcp(stream)),
        Some(tls) => tls.accept(stream).await,
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Decides by ALPN, else by the first bytes (Envoy: codec type AUTO). None if
/// the client leaves, or is silent, before that.
async fn detect(io: &mut Io, reader: &mut Reader, idle: Duration) -> Option<Protocol> {
    if io.alpn().is_some_and(|protocol| protocol == b"h2") {
        return Some(Protocol::Http2);
    }
    let first = std::future::poll_fn(|cx| {
        loop {
            let seen = reader.buf.len().min(PREFACE_START.len());
            if seen > 0 && reader.buf[..seen] != PREFACE_START[..seen] {
                return std::task::Poll::Ready(Some(Protocol::Http1));
            }
            if seen == PREFACE_START.len() {
                return std::task::Poll::Ready(Some(Protocol::Http2));
            }
            match ready!(reader.poll_fill(io, cx)) {
                Ok(0) if seen > 0 => return std::task::Poll::Ready(Some(Protocol::Http1)),
                Ok(0) | Err(_) => return std::task::Poll::Ready(None),
                Ok(_) => {}
            }
        }
    });
    tokio::time::timeout(idle, first).await.ok().flatten()
}
