//! TLS clients: what comes of a handshake, and HTTP over it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::client::{Client, Wire};
use crate::oracle::LOOPBACK;

const LIMIT: Duration = Duration::from_secs(10);

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Wire for TlsStream {
    fn set_limit(&self, limit: Duration) {
        let _ = self.sock.set_read_timeout(Some(limit));
    }

    fn fin(&mut self) {
        self.conn.send_close_notify();
        let _ = self.conn.complete_io(&mut self.sock);
        let _ = self.sock.shutdown(Shutdown::Write);
    }
}

/// A connection after its handshake.
pub struct Shaken {
    pub version: String,
    pub alpn: String,
    pub certificate: CertificateDer<'static>,
    pub stream: TlsStream,
}

impl Shaken {
    pub fn client(self) -> Client {
        Client::over(self.stream)
    }
}

/// Shakes hands, asking for `name` if there is one.
pub fn shake(port: u16, config: &ClientConfig, name: Option<&str>) -> Result<Shaken, String> {
    let server = match name {
        Some(name) => ServerName::try_from(name.to_owned()).expect("a name"),
        None => ServerName::IpAddress(LOOPBACK.into()),
    };
    let mut tcp = TcpStream::connect((LOOPBACK, port)).map_err(|e| e.to_string())?;
    tcp.set_read_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
    let mut tls =
        ClientConnection::new(Arc::new(config.clone()), server).map_err(|e| e.to_string())?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).map_err(|e| end(&e))?;
    }
    let alpn = tls.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
    Ok(Shaken {
        version: format!("{:?}", tls.protocol_version().expect("agreed on")),
        alpn: alpn.unwrap_or_else(|| "none".to_owned()),
        certificate: tls.peer_certificates().expect("shown")[0].clone().into_owned(),
        stream: StreamOwned::new(tls, tcp),
    })
}

/// What a client meets: the handshake, and the start of the answer to `request`.
/// With TLS 1.3 a refused certificate is told after the handshake.
pub fn meets(port: u16, config: &ClientConfig, request: &[u8]) -> String {
    let mut shaken = match shake(port, config, None) {
        Ok(shaken) => shaken,
        Err(e) => return format!("no handshake: {e}"),
    };
    let agreed = format!("{}, ALPN {}", shaken.version, shaken.alpn);
    let _ = shaken.stream.write_all(request);
    let mut first = [0; 12];
    match shaken.stream.read_exact(&mut first) {
        Ok(()) if first[3] == 4 && first[5..9] == [0; 4] => format!("{agreed}: SETTINGS"),
        Ok(()) => format!("{agreed}: {}", first.escape_ascii()),
        Err(e) => format!("{agreed}: {}", end(&e)),
    }
}

/// An end in words that do not depend on timing.
fn end(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "closed".to_owned()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "silence".to_owned(),
        _ => error.to_string(),
    }
}
