//! A port that speaks TLS in front of a plain one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;

use super::certificates::{Authority, Leaf};

/// What the proxy showed in a handshake with an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) sni: Option<String>,
    pub(crate) offered: Vec<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) certificate: Option<CertificateDer<'static>>,
    /// Protocol versions that were offered, as on the wire: 0x0303 is TLS 1.2.
    pub(crate) versions: Vec<u16>,
}

/// What a terminator asks of its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asks {
    /// For a certificate, which may be missing.
    #[default]
    Maybe,
    /// For a certificate, without which it ends the handshake.
    Certificate,
    /// For nothing.
    Nothing,
}

/// A port that speaks TLS and passes the bytes on.
pub(crate) struct Terminator {
    pub(crate) addr: SocketAddr,
    handshakes: Arc<Mutex<Vec<Result<Handshake, String>>>>,
    _stop: oneshot::Sender<()>,
}

impl Terminator {
    /// Shows `leaf`; asks for a certificate of `clients`. Prefers HTTP/2.
    pub(crate) fn start(leaf: &Leaf, clients: &Authority, to: SocketAddr) -> Self {
        Self::start_asking(Asks::Maybe, leaf, clients, to)
    }

    /// [`Terminator::start`], asking for something else.
    pub(crate) fn start_asking(
        asks: Asks,
        leaf: &Leaf,
        clients: &Authority,
        to: SocketAddr,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots.into(),
            Arc::clone(&provider),
        );
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(match asks {
                Asks::Maybe => verifier.allow_unauthenticated().build().unwrap(),
                Asks::Certificate => verifier.build().unwrap(),
                Asks::Nothing => Arc::new(rustls::server::NoClientAuth),
            })
            .with_single_cert(vec![leaf.der()], leaf.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn({
            let handshakes = Arc::clone(&handshakes);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    tokio::select! {
                        () = accept(&listener, Arc::new(config), &handshakes, to) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self { addr, handshakes, _stop: stop }
    }

    /// Handshakes that succeeded so far.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().iter().filter_map(|h| h.clone().ok()).collect()
    }

    /// Why handshakes failed.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.handshakes.lock().unwrap().iter().filter_map(|h| h.clone().err()).collect()
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    config: Arc<ServerConfig>,
    handshakes: &Arc<Mutex<Vec<Result<Handshake, String>>>>,
    to: SocketAddr,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (config, handshakes) = (Arc::clone(&config), Arc::clone(handshakes));
        tokio::spawn(async move {
            let versions = offered_versions(&stream).await;
            let (handshake, mut downstream) = match shake(stream, config, versions).await {
                Ok(shaken) => shaken,
                Err(e) => return handshakes.lock().unwrap().push(Err(e.to_string())),
            };
            handshakes.lock().unwrap().push(Ok(handshake));
            let Ok(mut upstream) = tokio::net::TcpStream::connect(to).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        });
    }
}

async fn shake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    versions: Vec<u16>,
) -> std::io::Result<(Handshake, TlsStream<TcpStream>)> {
    let acceptor = rustls::server::Acceptor::default();
    let start = tokio_rustls::LazyConfigAcceptor::new(acceptor, stream).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let offered = start.client_hello().alpn();
    let offered = offered.map(|all| all.map(text).collect()).unwrap_or_default();
    let downstream = start.into_stream(config).await?;
    let tls = downstream.get_ref().1;
    let handshake = Handshake {
        sni: tls.server_name().map(str::to_owned),
        offered,
        alpn: tls.alpn_protocol().map(text),
        certificate: tls.peer_certificates().map(|all| all[0].clone().into_owned()),
        versions,
    };
    Ok((handshake, downstream))
}

/// What the ClientHello at the start of a stream offers, without taking it.
async fn offered_versions(stream: &TcpStream) -> Vec<u16> {
    let mut hello = [0; 4096];
    loop {
        let Ok(n @ 1..) = stream.peek(&mut hello).await else { return Vec::new() };
        let length = 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        if n >= 5 && n >= length.min(hello.len()) {
            return versions_of(&hello[..length.min(hello.len())]).unwrap_or_default();
        }
        tokio::task::yield_now().await;
    }
}

/// Of one record with a ClientHello (RFC 8446, 4.1.2): `supported_versions`, or
/// without it the version up to which the client speaks.
fn versions_of(record: &[u8]) -> Option<Vec<u16>> {
    fn take<'a>(from: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = from.split_at_checked(n)?;
        *from = rest;
        Some(taken)
    }
    fn number(from: &mut &[u8], bytes: usize) -> Option<usize> {
        Some(take(from, bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }
    let mut rest = record.get(9..)?;
    let legacy = number(&mut rest, 2)? as u16;
    take(&mut rest, 32)?;
    for bytes in [1, 2, 1] {
        let length = number(&mut rest, bytes)?;
        take(&mut rest, length)?;
    }
    number(&mut rest, 2)?;
    while !rest.is_empty() {
        let kind = number(&mut rest, 2)?;
        let length = number(&mut rest, 2)?;
        let mut extension = take(&mut rest, length)?;
        if kind == 43 {
            number(&mut extension, 1)?;
            let pairs = extension.chunks_exact(2);
            return Some(pairs.map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect());
        }
    }
    Some(vec![legacy])
}
