//! Certificates, keys and trust out of PEM texts.

use std::sync::Arc;

use bytes::Bytes;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::accounts::Shown;
use super::certificate::Details;
use super::spec::{CertificateSpec, PemSource, SecretSpec, TrustSpec};

/// Largest PEM file, in bytes: bundles of public CAs have some 200 KiB.
const MAX_FILE: u64 = 4 << 20;

/// A certificate with its key, ready to sign.
pub(crate) type Identity = Arc<CertifiedKey>;

/// A certificate as `/certs` shows it; none if it is not understood.
pub(crate) fn shown(der: &[u8], source: &PemSource, secret: &str) -> Option<Shown> {
    let details = Details::of(der)?;
    Some(Shown { path: source.to_string(), secret: secret.to_owned(), details })
}

/// CA certificates.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
    /// As given: a self-signed server certificate may be its own CA.
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
}

/// A secret, read and checked.
#[derive(Clone, Debug)]
pub(crate) enum Material {
    Identity(Identity),
    /// None: peers are not checked.
    Trust(Option<Trust>),
}

/// PEM that cannot be used, in Envoy's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaterialError {
    #[error("Failed to load certificate chain from {place}, Cause: {cause}")]
    Chain { place: String, cause: String },
    #[error("Failed to load private key from {place}, Cause: {cause}")]
    Key { place: String, cause: String },
    #[error("Failed to load trusted CA certificates from {place}, Cause: {cause}")]
    Ca { place: String, cause: String },
}

/// The cryptography of all TLS here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads a secret's texts.
pub(crate) fn secret(spec: &SecretSpec) -> Result<Material, MaterialError> {
    match spec {
        SecretSpec::Certificate(certificate) => identity(certificate).map(Material::Identity),
        SecretSpec::Trust(given) => trust(given).map(Material::Trust),
    }
}

/// Reads a certificate and its key, which must fit together.
pub(crate) fn identity(spec: &CertificateSpec) -> Result<Identity, MaterialError> {
    let chain = read(&spec.chain).and_then(|pem| certificates(&pem));
    let chain =
        chain.map_err(|cause| MaterialError::Chain { place: spec.chain.to_string(), cause })?;
    let bad_key = |cause| MaterialError::Key { place: spec.key.to_string(), cause };
    let key = read(&spec.key).map_err(bad_key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| bad_key(e.to_string()))?;
    let key =
        CertifiedKey::from_der(chain, key, &provider()).map_err(|e| bad_key(e.to_string()))?;
    Ok(Arc::new(key))
}

/// Reads CA certificates. One that is not understood does no harm as long as
/// there are others.
pub(crate) fn trust(spec: &TrustSpec) -> Result<Option<Trust>, MaterialError> {
    let Some(source) = &spec.ca else { return Ok(None) };
    let bad = |cause| MaterialError::Ca { place: source.to_string(), cause };
    let certificates = read(source).and_then(|pem| certificates(&pem)).map_err(bad)?;
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        return Err(bad("none of the certificates is understood".to_owned()));
    }
    if ignored > 0 {
        tracing::warn!(from = %source, ignored, "CA certificates that are not understood");
    }
    Ok(Some(Trust { roots: Arc::new(roots), certificates: certificates.into() }))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|e| e.to_string())?;
    if all.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(all) }
}

fn read(source: &PemSource) -> Result<Bytes, String> {
    match source {
        PemSource::Inline(pem) => Ok(pem.clone()),
        PemSource::File(path) => {
            let about = std::fs::metadata(path).map_err(|e| e.to_string())?;
            if !about.is_file() || about.len() > MAX_FILE {
                return Err("not a file of less than 4 MiB".to_owned());
            }
            std::fs::read(path).map(Bytes::from).map_err(|e| e.to_string())
        }
        PemSource::Environment(name) => match std::env::var(name) {
            Ok(pem) => Ok(Bytes::from(pem)),
            Err(e) => Err(e.to_string()),
        },
    }
}
