//! TLS settings as configured: plain data, comparable, so that equal settings
//! share one context.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::model::UpstreamProtocol;

/// Where PEM text comes from (Envoy: `DataSource`).
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum PemSource {
    /// In the message.
    Inline(Bytes),
    /// In a file, read again when it changes.
    File(PathBuf),
    /// In an environment variable of this process.
    Environment(String),
}

impl std::fmt::Debug for PemSource {
    /// Not the text: it may be a private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for PemSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("<inline>"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

/// Envoy: `TlsCertificate`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateSpec {
    /// The certificate and its issuers, leaf first.
    pub chain: PemSource,
    /// The leaf's key.
    pub key: PemSource,
}

/// Envoy: `CertificateValidationContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrustSpec {
    /// CA certificates; none: peers are not checked.
    pub ca: Option<PemSource>,
}

/// A resource of type `Secret`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSpec {
    /// Envoy: `tls_certificate`.
    Certificate(CertificateSpec),
    /// Envoy: `validation_context`.
    Trust(TrustSpec),
}

/// A certificate of a context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateRef {
    /// In the context itself.
    Given(CertificateSpec),
    /// A secret of this name.
    Secret(String),
}

/// A context's trust: the secret's, else what is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrustRef {
    /// In the context itself.
    pub given: TrustSpec,
    /// A secret of this name.
    pub secret: Option<String>,
}

/// TLS versions. 1.0 and 1.1 do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    /// TLS 1.2 may be chosen.
    pub tls12: bool,
    /// TLS 1.3 may be chosen.
    pub tls13: bool,
}

impl Default for Versions {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

/// Envoy: `CommonTlsContext`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommonSpec {
    /// Own certificates; the first that suits the peer is shown.
    pub certificates: Vec<CertificateRef>,
    /// What the peer's certificate must chain to.
    pub trust: TrustRef,
    /// Envoy: `tls_params`.
    pub versions: Versions,
}

impl CommonSpec {
    /// Names of the secrets that it needs.
    pub(crate) fn secrets(&self) -> BTreeSet<&str> {
        let certificates = self.certificates.iter().filter_map(|c| match c {
            CertificateRef::Given(_) => None,
            CertificateRef::Secret(name) => Some(&**name),
        });
        certificates.chain(self.trust.secret.as_deref()).collect()
    }

    /// Sources in the context itself.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &PemSource> {
        let certificates = self.certificates.iter().filter_map(|c| match c {
            CertificateRef::Given(certificate) => Some([&certificate.chain, &certificate.key]),
            CertificateRef::Secret(_) => None,
        });
        certificates.flatten().chain(&self.trust.given.ca)
    }
}

impl SecretSpec {
    /// All of its sources.
    pub(crate) fn sources(&self) -> Vec<&PemSource> {
        match self {
            Self::Certificate(certificate) => vec![&certificate.chain, &certificate.key],
            Self::Trust(trust) => trust.ca.iter().collect(),
        }
    }
}

/// Envoy: `DownstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DownstreamSpec {
    /// Certificates, trust, versions.
    pub common: CommonSpec,
    /// Protocols in order of preference: `h2`, `http/1.1`.
    pub alpn: Vec<Vec<u8>>,
    /// A client without a certificate is turned away. Off by default, and with
    /// the scheduler's listener.
    pub require_client_certificate: bool,
    /// Longest time of a handshake. Envoy: `transport_socket_connect_timeout`,
    /// which is unlimited by default; here [`HANDSHAKE_TIMEOUT`], since whoever
    /// connects and says nothing holds a socket.
    pub handshake_timeout: Duration,
}

/// Default of [`DownstreamSpec::handshake_timeout`].
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Envoy: `UpstreamTlsContext`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSpec {
    /// Certificates, trust, versions.
    pub common: CommonSpec,
    /// Offered by ALPN: the protocol that is going to be spoken, and nothing
    /// else.
    pub protocol: UpstreamProtocol,
    /// Envoy: `sni`; none: no SNI, whatever the host's name is.
    pub sni: Option<String>,
}
