//! Certificates, TLS contexts as the scheduler sends them, and TLS peers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::util::pack_any;
use radiant::demo::scheduler::cache::SECRET;
use radiant::demo::scheduler::{Push, Resource};
use radiant::seldon::MeshResources;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned, SupportedProtocolVersion};
use tokio::sync::oneshot;

use super::DEADLINE;

/// A CA.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let (params, key) = (certificate(name, true), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = certificate(name, false).signed_by(&key, &self.issuer).unwrap();
        Leaf { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Leaf {
    /// A certificate that is its own CA.
    pub(crate) fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = certificate(name, true).self_signed(&key).unwrap().pem();
        Self { chain, key: key.serialize_pem() }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

fn certificate(name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec![format!("{name}.mesh.example")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

/// A secret with a certificate.
pub(crate) fn identity(name: &str, leaf: &Leaf) -> pb::Secret {
    identity_from(name, inline(&leaf.chain), inline(&leaf.key))
}

/// A secret with a certificate from anywhere.
pub(crate) fn identity_from(
    name: &str,
    chain: core::DataSource,
    key: core::DataSource,
) -> pb::Secret {
    let certificate = pb::TlsCertificate {
        certificate_chain: Some(chain),
        private_key: Some(key),
        ..Default::default()
    };
    let r#type = Some(pb::secret::Type::TlsCertificate(certificate));
    pb::Secret { name: name.to_owned(), r#type }
}

/// A secret with a CA.
pub(crate) fn trust(name: &str, ca: &str) -> pb::Secret {
    let context =
        pb::CertificateValidationContext { trusted_ca: Some(inline(ca)), ..Default::default() };
    let r#type = Some(pb::secret::Type::ValidationContext(context));
    pb::Secret { name: name.to_owned(), r#type }
}

fn inline(pem: &str) -> core::DataSource {
    let bytes = core::data_source::Specifier::InlineBytes(pem.as_bytes().to_vec());
    core::DataSource { specifier: Some(bytes), watched_directory: None }
}

/// What sends secrets.
pub(crate) fn secrets(secrets: &[pb::Secret]) -> Push {
    let encode = |secret: &pb::Secret| {
        Resource::new(secret.name.clone(), prost::Message::encode_to_vec(secret))
    };
    Push::Upsert(SECRET, secrets.iter().map(encode).collect())
}

fn sds(name: &str) -> pb::SdsSecretConfig {
    let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
    let source = core::ConfigSource {
        config_source_specifier: Some(ads),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    };
    pb::SdsSecretConfig { name: name.to_owned(), sds_config: Some(source) }
}

fn common(certificate: &str, trust: Option<&str>) -> pb::CommonTlsContext {
    use pb::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig;
    pb::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds(certificate)],
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        validation_context_type: trust.map(|name| ValidationContextSdsSecretConfig(sds(name))),
        ..Default::default()
    }
}

fn socket(context: envoy_types::pb::google::protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(context)),
    }
}

/// Makes all listeners TLS, as the scheduler does it.
pub(crate) fn downstream(all: &mut MeshResources, trust: Option<&str>) {
    let context = pb::DownstreamTlsContext {
        common_tls_context: Some(common("downstream_server", trust)),
        ..Default::default()
    };
    for chain in all.listeners.iter_mut().flat_map(|listener| &mut listener.filter_chains) {
        chain.transport_socket = Some(socket(pack_any(context.clone())));
    }
}

/// Makes all clusters TLS but those of the mirror listener, which the scheduler
/// forgets.
pub(crate) fn upstream(all: &mut MeshResources, trust: Option<&str>) {
    let context = pb::UpstreamTlsContext {
        common_tls_context: Some(common("upstream_client", trust)),
        ..Default::default()
    };
    for cluster in all.clusters.iter_mut().filter(|c| !c.name.starts_with("mirror_")) {
        cluster.transport_socket = Some(socket(pack_any(context.clone())));
    }
}

/// Client settings: nothing is checked, these protocols are offered.
pub(crate) fn client(alpn: &[&str], identity: Option<&Leaf>) -> ClientConfig {
    client_of(&[&rustls::version::TLS12, &rustls::version::TLS13], alpn, identity)
}

/// Client settings with these TLS versions.
pub(crate) fn client_of(
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
    identity: Option<&Leaf>,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder.with_client_auth_cert(vec![leaf.der()], leaf.private_key()).unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An HTTP/1 connection to the proxy by TLS.
pub(crate) struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Shakes hands.
    pub(crate) fn connect(addr: SocketAddr, config: ClientConfig) -> std::io::Result<Self> {
        let mut tcp = TcpStream::connect(addr)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        let name = ServerName::IpAddress(addr.ip().into());
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(Self(StreamOwned::new(tls, tcp)))
    }

    /// The protocol that was agreed on.
    pub(crate) fn alpn(&self) -> Option<&str> {
        self.0.conn.alpn_protocol().map(|protocol| std::str::from_utf8(protocol).unwrap())
    }

    /// The proxy's certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Asks and reads head and body.
    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<String> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes())?;
        let mut got = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&got).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
                let length = length.map_or(0, |v| v.parse::<usize>().unwrap());
                if body.len() >= length {
                    return Ok(text);
                }
            }
            let mut piece = [0; 4096];
            match self.0.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => got.extend_from_slice(&piece[..n]),
            }
        }
    }
}

/// What the proxy showed in a handshake with an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) sni: Option<String>,
    pub(crate) offered: Vec<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// A port that speaks TLS and passes the bytes on.
pub(crate) struct Terminator {
    pub(crate) addr: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    _stop: oneshot::Sender<()>,
}

impl Terminator {
    /// Shows `leaf`; asks for a certificate of `clients`. Prefers HTTP/2.
    pub(crate) fn start(leaf: &Leaf, clients: &Authority, to: SocketAddr) -> Self {
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
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
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
        self.handshakes.lock().unwrap().clone()
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    config: Arc<ServerConfig>,
    handshakes: &Arc<Mutex<Vec<Handshake>>>,
    to: SocketAddr,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (config, handshakes) = (Arc::clone(&config), Arc::clone(handshakes));
        tokio::spawn(async move {
            let acceptor = rustls::server::Acceptor::default();
            let start = tokio_rustls::LazyConfigAcceptor::new(acceptor, stream);
            let Ok(start) = start.await else { return };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let offered = start.client_hello().alpn();
            let offered = offered.map(|all| all.map(text).collect()).unwrap_or_default();
            let Ok(mut downstream) = start.into_stream(config).await else { return };
            let tls = downstream.get_ref().1;
            let certificate = tls.peer_certificates().map(|all| all[0].clone().into_owned());
            let handshake = Handshake {
                sni: tls.server_name().map(str::to_owned),
                offered,
                alpn: tls.alpn_protocol().map(text),
                certificate,
            };
            handshakes.lock().unwrap().push(handshake);
            let Ok(mut upstream) = tokio::net::TcpStream::connect(to).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        });
    }
}

/// An HTTP/2 connection to the proxy by TLS.
pub(crate) async fn h2_client(addr: SocketAddr) -> super::H2Client {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client(&["http/1.1", "h2"], None)));
    let stream = connector.connect(ServerName::IpAddress(addr.ip().into()), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    super::H2Client::over(stream, &h2::client::Builder::new()).await
}
