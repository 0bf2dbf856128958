//! TLS peers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned};

use super::DEADLINE;
pub(crate) use super::certificates::*;
pub(crate) use super::terminator::Terminator;

/// An HTTP/1 connection to the proxy by TLS.
pub(crate) struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Shakes hands.
    pub(crate) fn connect(addr: SocketAddr, config: ClientConfig) -> std::io::Result<Self> {
        Self::to(addr, ServerName::IpAddress(addr.ip().into()), config)
    }

    /// Shakes hands, asking for a name.
    pub(crate) fn to(
        addr: SocketAddr,
        name: ServerName<'static>,
        config: ClientConfig,
    ) -> std::io::Result<Self> {
        let mut tcp = TcpStream::connect(addr)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
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
        let (head, body) = self.answer()?;
        Ok(format!("{head}\r\n\r\n{}", String::from_utf8(body).unwrap()))
    }

    /// Sends a body and reads the answer's.
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n");
        self.0.write_all(head.as_bytes())?;
        self.0.write_all(body)?;
        Ok(self.answer()?.1)
    }

    fn answer(&mut self) -> std::io::Result<(String, Vec<u8>)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().trim_end().to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |value| value.parse().unwrap())];
        self.0.read_exact(&mut body)?;
        Ok((head, body))
    }
}

/// An upstream that reads a request, sends these bytes and closes without a word
/// of TLS.
pub(crate) fn rude_upstream(leaf: &Leaf, answer: &'static [u8]) -> SocketAddr {
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der()], leaf.private_key())
            .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(tls, tcp);
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 4096];
            let n = stream.read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..n]);
        }
        stream.write_all(answer).unwrap();
        stream.flush().unwrap();
    });
    addr
}

/// An HTTP/2 connection to the proxy by TLS.
pub(crate) async fn h2_client(addr: SocketAddr) -> super::H2Client {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client(&["http/1.1", "h2"], None)));
    let stream = connector.connect(ServerName::IpAddress(addr.ip().into()), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    super::H2Client::over(stream, &h2::client::Builder::new()).await
}
