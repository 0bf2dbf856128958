//! TLS towards the scheduler: its CA is checked, its name is not.

use bytes::Bytes;
use rustls::ClientConfig;

use crate::model::UpstreamProtocol;
use crate::tls::config::{self, Keys};
use crate::tls::material::{self, MaterialError};
use crate::tls::spec::{CertificateSpec, CommonSpec, PemSource, TrustSpec, UpstreamSpec};

/// PEM texts of the scheduler connection.
#[derive(Clone, Default)]
pub struct SchedulerTls {
    /// CA certificates that the scheduler's must chain to; none: not checked,
    /// as in Envoy without a validation context.
    pub ca: Option<Vec<u8>>,
    /// Client certificate chain and key, if the scheduler asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A TLS setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct TlsError {
    /// Which of the texts.
    pub what: &'static str,
    /// What is wrong with it.
    pub cause: String,
}

impl From<MaterialError> for TlsError {
    fn from(error: MaterialError) -> Self {
        let (what, cause) = match error {
            MaterialError::Chain { cause, .. } => ("client certificate", cause),
            MaterialError::Key { cause, .. } => ("client key", cause),
            MaterialError::Ca { cause, .. } => ("CA certificate", cause),
        };
        Self { what, cause }
    }
}

impl SchedulerTls {
    /// Client settings: TLS 1.2 and 1.3, ALPN `h2`, CA check without name check.
    ///
    /// # Errors
    ///
    /// Names the PEM text that cannot be used.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let inline = |pem: &Vec<u8>| PemSource::Inline(Bytes::copy_from_slice(pem));
        let mut keys = Keys::default();
        if let Some((chain, key)) = &self.identity {
            let spec = CertificateSpec { chain: inline(chain), key: inline(key) };
            keys.certificates.push(material::identity(&spec)?);
        }
        keys.trust = material::trust(&TrustSpec { ca: self.ca.as_ref().map(inline) })?;
        let spec = UpstreamSpec {
            common: CommonSpec::default(),
            protocol: UpstreamProtocol::Http2,
            sni: None,
        };
        config::client(&spec, keys).map_err(|cause| TlsError { what: "TLS settings", cause })
    }
}
