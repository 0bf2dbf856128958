//! Certificates made on the spot, secrets and TLS contexts as the scheduler
//! sends them, and settings of TLS clients.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

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
use rustls::{ClientConfig, SupportedProtocolVersion};

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
        self.sign(&certificate(name, false))
    }

    /// A certificate that is no longer valid.
    pub(crate) fn issue_expired(&self, name: &str) -> Leaf {
        let mut params = certificate(name, false);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(&params)
    }

    /// A certificate with names of all kinds and a short serial number, that
    /// expires today.
    pub(crate) fn issue_odd(&self, name: &str) -> Leaf {
        use rcgen::SanType;
        // The same for all of a process, so that they can be compared.
        static END: LazyLock<SystemTime> =
            LazyLock::new(|| SystemTime::now() + Duration::from_secs(3600));
        let mut params = certificate(name, false);
        let names = &mut params.subject_alt_names;
        names.push(SanType::IpAddress([10, 1, 2, 3].into()));
        names.push(SanType::IpAddress("2001:db8::7".parse().unwrap()));
        names.push(SanType::URI("spiffe://mesh.example/<odd>".try_into().unwrap()));
        params.serial_number = Some(vec![0x0a, 0xbc, 0, 1].into());
        params.not_after = (*END).into();
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
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

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A certificate's serial number as a log shows it, in hex; PEM.
pub(crate) fn serial(pem: &str) -> String {
    // SEQUENCE, SEQUENCE, [0] version, INTEGER.
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let at = der.windows(5).position(|w| w == [0xa0, 3, 2, 1, 2]).unwrap() + 5;
    let length = usize::from(der[at + 1]);
    let bytes = der[at + 2..at + 2 + length].iter().skip_while(|b| **b == 0);
    bytes.map(|b| format!("{b:02x}")).collect()
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

pub(crate) fn inline(pem: &str) -> core::DataSource {
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

/// A transport socket with a TLS context.
pub(crate) fn socket(context: envoy_types::pb::google::protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(context)),
    }
}

/// A listener's context: a certificate and, if named, a CA by SDS.
pub(crate) fn downstream_context(
    certificate: &str,
    trust: Option<&str>,
) -> pb::DownstreamTlsContext {
    pb::DownstreamTlsContext {
        common_tls_context: Some(common(certificate, trust)),
        ..Default::default()
    }
}

/// A cluster's context: a certificate and, if named, a CA by SDS.
pub(crate) fn upstream_context(certificate: &str, trust: Option<&str>) -> pb::UpstreamTlsContext {
    pb::UpstreamTlsContext {
        common_tls_context: Some(common(certificate, trust)),
        ..Default::default()
    }
}

/// Makes all listeners TLS, as the scheduler does it.
pub(crate) fn downstream(all: &mut MeshResources, trust: Option<&str>) {
    let context = downstream_context("downstream_server", trust);
    for chain in all.listeners.iter_mut().flat_map(|listener| &mut listener.filter_chains) {
        chain.transport_socket = Some(socket(pack_any(context.clone())));
    }
}

/// Makes all clusters TLS but those of the mirror listener, which the scheduler
/// forgets.
pub(crate) fn upstream(all: &mut MeshResources, trust: Option<&str>) {
    let context = upstream_context("upstream_client", trust);
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
