//! TLS of listeners and clusters (rustls).
//!
//! A context lives as long as the listener or the clusters that use it; what it
//! offers changes when a secret does: new handshakes take the new settings,
//! connections that are open stay. A context whose secrets have not arrived has
//! no settings, and its handshakes fail.

pub mod accounts;
pub(crate) mod certificate;
pub(crate) mod config;
pub(crate) mod material;
pub mod spec;
pub(crate) mod verify;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use crate::io::Io;
use accounts::InUse;

/// First byte of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// The alert protocol_version in a record of TLS 1.0.
const WRONG_VERSION: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

/// A listener's TLS context.
pub struct DownstreamTls {
    settings: ArcSwapOption<Offers>,
    in_use: ArcSwap<InUse>,
    settled: AtomicBool,
    handshake_timeout: Duration,
}

/// Server settings for clients that share a protocol with us in ALPN, and for
/// those that do not: for the latter rustls would end the handshake, Envoy goes
/// on without ALPN.
struct Offers {
    alpn: Arc<ServerConfig>,
    plain: Arc<ServerConfig>,
}

/// A cluster's TLS context. Clusters with the same settings share one object,
/// so that their connections are shared too.
pub struct UpstreamTls {
    /// Different for each context that ever was: pools outlive contexts, and a
    /// later context may have the address of a former one. Never 0.
    pub(crate) id: u64,
    config: ArcSwapOption<ClientConfig>,
    in_use: ArcSwap<InUse>,
    settled: AtomicBool,
    /// Sent as SNI; none: no SNI.
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for DownstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DownstreamTls")
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UpstreamTls")
    }
}

/// What listeners and clusters wait for.
pub(crate) trait Context {
    /// True once there are settings, or once waiting for them was given up.
    fn is_settled(&self) -> bool;
    /// Waits no longer: handshakes fail until settings come.
    fn give_up(&self);
}

impl Context for DownstreamTls {
    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.settled.store(true, Ordering::Release);
    }
}

impl Context for UpstreamTls {
    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.settled.store(true, Ordering::Release);
    }
}

impl UpstreamTls {
    /// A context without settings.
    pub(crate) fn new(server_name: Option<ServerName<'static>>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            config: ArcSwapOption::empty(),
            in_use: ArcSwap::default(),
            settled: AtomicBool::new(false),
            server_name,
        }
    }

    /// New connections use these settings.
    pub(crate) fn store(&self, config: ClientConfig, in_use: InUse) {
        self.config.store(Some(Arc::new(config)));
        self.in_use.store(Arc::new(in_use));
        self.settled.store(true, Ordering::Release);
    }

    /// Its certificates.
    pub(crate) fn in_use(&self) -> Arc<InUse> {
        self.in_use.load_full()
    }

    /// Shakes hands over a connected stream. The caller bounds the time.
    ///
    /// # Errors
    /// The stream's or the handshake's; no settings yet.
    pub(crate) async fn connect(&self, stream: TcpStream, address: SocketAddr) -> io::Result<Io> {
        let config = self.config.load_full().ok_or_else(not_ready)?;
        let name = self.server_name.clone();
        // An address is never sent as SNI, and no name is checked.
        let name = name.unwrap_or(ServerName::IpAddress(address.ip().into()));
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Io::Tls(Box::new(stream.into())))
    }
}

impl DownstreamTls {
    /// A context without settings. A handshake may take `handshake_timeout`.
    pub(crate) fn new(handshake_timeout: Duration) -> Self {
        Self {
            settings: ArcSwapOption::empty(),
            in_use: ArcSwap::default(),
            settled: AtomicBool::new(false),
            handshake_timeout,
        }
    }

    /// New handshakes use these settings.
    pub(crate) fn store(&self, config: ServerConfig, in_use: InUse) {
        let mut plain = config.clone();
        plain.alpn_protocols.clear();
        let offers = Offers { alpn: Arc::new(config), plain: Arc::new(plain) };
        self.settings.store(Some(Arc::new(offers)));
        self.in_use.store(Arc::new(in_use));
        self.settled.store(true, Ordering::Release);
    }

    /// Its certificates.
    pub(crate) fn in_use(&self) -> Arc<InUse> {
        self.in_use.load_full()
    }

    /// Shakes hands over an accepted stream.
    ///
    /// # Errors
    /// The stream's or the handshake's; too slow; no settings yet.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Io> {
        tokio::time::timeout(self.handshake_timeout, self.handshake(stream)).await?
    }

    async fn handshake(&self, mut stream: TcpStream) -> io::Result<Io> {
        let offers = self.settings.load_full().ok_or_else(not_ready)?;
        refuse_plain_text(&mut stream).await?;
        let acceptor = rustls::server::Acceptor::default();
        let start = LazyConfigAcceptor::new(acceptor, stream).await?;
        let known = &offers.alpn.alpn_protocols;
        let shared = start.client_hello().alpn().is_some_and(|mut offered| {
            offered.any(|protocol| known.iter().any(|known| known == protocol))
        });
        let config = if shared { &offers.alpn } else { &offers.plain };
        let stream = start.into_stream(Arc::clone(config)).await?;
        Ok(Io::Tls(Box::new(stream.into())))
    }
}

/// Plain HTTP/1 on a TLS port gets no answer, anything else an alert, as soon as
/// it could have been a record's header (as BoringSSL treats them).
async fn refuse_plain_text(stream: &mut TcpStream) -> io::Result<()> {
    let mut header = [0; 5];
    if stream.peek(&mut header[..1]).await? == 1 && header[0] == HANDSHAKE {
        return Ok(());
    }
    stream.read_exact(&mut header).await?;
    // What was read makes the close a FIN; what was not, a reset.
    let mut unread = [0; 4096];
    while stream.try_read(&mut unread).is_ok_and(|n| n > 0) {}
    let http = [&b"GET "[..], b"POST ", b"HEAD ", b"PUT ", b"CONNE"];
    if !http.iter().any(|method| header.starts_with(method)) {
        stream.write_all(&WRONG_VERSION).await?;
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "not TLS"))
}

fn not_ready() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the TLS secrets have not arrived")
}
