//! TLS contexts of listeners and clusters (rustls).

use std::sync::Arc;

/// A listener's TLS settings, ready to accept.
pub struct DownstreamTls {
    /// Server settings: certificates, optional client verification, ALPN.
    pub config: Arc<rustls::ServerConfig>,
}

/// A cluster's TLS settings, ready to connect. Clusters with the same settings
/// share one object, so that their connections are shared too.
pub struct UpstreamTls {
    /// Client settings: trust, client certificate, ALPN.
    pub config: Arc<rustls::ClientConfig>,
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
