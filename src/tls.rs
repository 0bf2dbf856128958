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

impl UpstreamTls {
    /// Shakes hands over a connected stream.
    ///
    /// # Errors
    /// The stream's or the handshake's.
    pub(crate) async fn connect(
        &self,
        stream: tokio::net::TcpStream,
        address: std::net::SocketAddr,
    ) -> std::io::Result<crate::io::Io> {
        let name = rustls_pki_types::ServerName::IpAddress(address.ip().into());
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, stream).await?;
        Ok(crate::io::Io::Tls(Box::new(stream.into())))
    }
}

impl DownstreamTls {
    /// Shakes hands over an accepted stream.
    ///
    /// # Errors
    /// The stream's or the handshake's.
    pub(crate) async fn accept(
        &self,
        stream: tokio::net::TcpStream,
    ) -> std::io::Result<crate::io::Io> {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config));
        Ok(crate::io::Io::Tls(Box::new(acceptor.accept(stream).await?.into())))
    }
}
