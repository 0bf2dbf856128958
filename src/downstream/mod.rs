//! Client connections: protocol choice, then one request after the other
//! (HTTP/1) or side by side (HTTP/2), each handed to [`crate::router`].

mod h1;
mod h2;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::clock;
use crate::http1::{self, Detected};
use crate::io::{Io, Reader};
use crate::model::{Listener, ListenerConfig};
use crate::stats::{ListenerShard, ListenerStats};
use crate::worker::Worker;

/// A client connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) id: u64,
    pub(crate) tls: bool,
    /// `TLSv1.3`; none before the handshake.
    pub(crate) tls_version: Option<&'static str>,
    /// Asked for in the handshake (SNI).
    pub(crate) server_name: Option<Box<str>>,
    name: Arc<str>,
    opened: Instant,
}

impl Connection {
    /// The listener as published now; none once it was removed.
    pub(crate) fn listener(&self) -> Option<Arc<Listener>> {
        self.worker.snapshot().listener(&self.name).cloned()
    }

    /// The listener's settings, without holding on to its table.
    pub(crate) fn config(&self) -> Option<Arc<ListenerConfig>> {
        self.worker.snapshot().listener(&self.name).map(|listener| Arc::clone(&listener.config))
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
        shard.downstream_cx_length_ms.record(clock::since(self.opened));
        if self.tls {
            shard.downstream_cx_ssl_active.dec();
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    name: &Arc<str>,
    stream: TcpStream,
    remote: SocketAddr,
) {
    let Some(listener) = worker.snapshot().listener(name).cloned() else {
        return;
    };
    let bound = listener.config.address;
    let local = if bound.ip().is_unspecified() || bound.port() == 0 {
        let Ok(local) = stream.local_addr() else { return };
        local
    } else {
        bound
    };
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
    let mut connection = Connection {
        worker: Rc::clone(worker),
        stats,
        remote,
        local,
        id,
        tls,
        tls_version: None,
        server_name: None,
        name: Arc::clone(name),
        opened: clock::now(),
    };
    let Ok(mut io) = handshake(&listener, stream, connection.shard()).await else { return };
    connection.tls_version = io.tls_version();
    connection.server_name = io.server_name().map(Box::from);
    let idle = listener.config.idle_timeout;
    drop(listener);
    let mut reader = Reader::default();
    match detect(&mut io, &mut reader, idle).await {
        Some(Detected::Http1) => h1::serve(connection, io, reader).await,
        Some(Detected::Http2) => h2::serve(connection, io, reader).await,
        Some(Detected::Unknown) | None => {}
    }
}

async fn handshake(
    listener: &Listener,
    stream: TcpStream,
    shard: &ListenerShard,
) -> std::io::Result<Io> {
    let Some(tls) = &listener.config.tls else { return Ok(Io::Tcp(stream)) };
    let shaken = Box::pin(tls.accept(stream)).await;
    shard.tls.make().shaken(&shaken);
    shaken
}

/// Decides by ALPN, else by the first bytes (Envoy: codec type AUTO). None if
/// the client leaves, or is silent, before that, or if it agreed on HTTP/2 and
/// then speaks something else, which Envoy ends without a word.
async fn detect(io: &mut Io, reader: &mut Reader, idle: Duration) -> Option<Detected> {
    let agreed = match io.alpn() {
        Some(b"h2") => Some(Detected::Http2),
        Some(_) => return Some(Detected::Http1),
        None => None,
    };
    let first = std::future::poll_fn(|cx| {
        loop {
            if !reader.buf.is_empty() {
                match http1::detect(&reader.buf) {
                    Detected::Unknown => {}
                    known => return Poll::Ready(Some(known)),
                }
            }
            match ready!(reader.poll_fill(io, cx)) {
                Ok(0) if !reader.buf.is_empty() => return Poll::Ready(Some(Detected::Http1)),
                Ok(0) | Err(_) => return Poll::Ready(None),
                Ok(_) => {}
            }
        }
    });
    let found = tokio::time::timeout(idle, first).await.ok().flatten()?;
    agreed.is_none_or(|agreed| agreed == found).then_some(found)
}
