//! Server and client settings of contexts out of their secrets.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme, SupportedProtocolVersion};

use super::accounts::InUse;
use super::material::{Identity, Trust, provider};
use super::spec::{DownstreamSpec, UpstreamSpec, Versions};
use super::verify::{ChainOnly, ClientChain, Unchecked};
use crate::model::UpstreamProtocol;

/// A context's secrets.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub(crate) certificates: Vec<Identity>,
    pub(crate) trust: Option<Trust>,
    /// The same for people.
    pub(crate) in_use: InUse,
}

/// Settings of a listener: client certificates are checked by CA only, and only
/// if the client shows one.
///
/// # Errors
/// What the TLS library refuses.
pub(crate) fn server(spec: &DownstreamSpec, keys: Keys) -> Result<ServerConfig, String> {
    let provider = provider();
    let clients: Arc<dyn ClientCertVerifier> = match keys.trust {
        None => Arc::new(NoClientAuth),
        Some(trust) => {
            let required = spec.require_client_certificate;
            let verifier = ClientChain::new(&trust, required, Arc::clone(&provider));
            Arc::new(verifier.map_err(|e| e.to_string())?)
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(spec.common.versions))
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Certificates(keys.certificates)));
    config.alpn_protocols.clone_from(&spec.alpn);
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|e| e.to_string())?;
    Ok(config)
}

/// Settings of a cluster: the CA is checked, the name is not.
///
/// # Errors
/// What the TLS library refuses.
pub(crate) fn client(spec: &UpstreamSpec, keys: Keys) -> Result<ClientConfig, String> {
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match &keys.trust {
        None => Arc::new(Unchecked(Arc::clone(&provider))),
        Some(trust) => {
            let verifier = ChainOnly::new(trust, Arc::clone(&provider));
            Arc::new(verifier.map_err(|e| e.to_string())?)
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(spec.common.versions))
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = if keys.certificates.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_resolver(Arc::new(Certificates(keys.certificates)))
    };
    // Envoy offers `h2,http/1.1` on both kinds and then speaks the cluster's
    // protocol whatever was chosen; some servers take the choice seriously.
    config.alpn_protocols = vec![match spec.protocol {
        UpstreamProtocol::Http1 => b"http/1.1".to_vec(),
        UpstreamProtocol::Http2 => b"h2".to_vec(),
    }];
    config.enable_sni = spec.sni.is_some();
    Ok(config)
}

fn versions(versions: Versions) -> Vec<&'static SupportedProtocolVersion> {
    let tls13 = versions.tls13.then_some(&rustls::version::TLS13);
    let tls12 = versions.tls12.then_some(&rustls::version::TLS12);
    tls13.into_iter().chain(tls12).collect()
}

/// The first certificate whose key the peer can check.
#[derive(Debug)]
struct Certificates(Vec<Identity>);

impl Certificates {
    fn suiting(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let suiting = self.0.iter().find(|c| c.key.choose_scheme(schemes).is_some());
        suiting.or(self.0.first()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.suiting(hello.signature_schemes())
    }
}

impl ResolvesClientCert for Certificates {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.suiting(schemes)
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}
