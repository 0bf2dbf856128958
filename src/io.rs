//! Byte streams of connections.

mod reader;
mod writer;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub(crate) use self::reader::{Filled, Reader};
pub(crate) use self::writer::Writer;
use crate::pipes::{self, Segment};

/// A connection's byte stream.
#[derive(Debug)]
pub(crate) enum Io {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS, either end.
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Io {
    /// Ready when a read may find something; says nothing of what waits in the
    /// TLS layer, so TLS is always ready.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(io) => io.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads what is there, up to `buf`'s free room.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            // An end without close_notify is an end, as in Envoy: many servers
            // close like that, and lengths tell what is missing.
            Self::Tls(io) => match ready!(Pin::new(io.as_mut()).poll_read(cx, buf)) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                other => Poll::Ready(other),
            },
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(io) => match slices {
                [one] => Pin::new(io).poll_write(cx, one),
                many => Pin::new(io).poll_write_vectored(cx, many),
            },
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    /// Writes with what follows at once in mind, where that can be told.
    fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let io = match self {
            Self::Tcp(io) => &*io,
            Self::Tls(_) => return self.poll_write(cx, slices),
        };
        poll_try(io, Interest::WRITABLE, cx, || {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let sent = rustix::net::sendmsg(io, slices, &mut SendAncillaryBuffer::default(), flags);
            sent.map_err(Into::into)
        })
    }

    /// Gives what the socket takes of a segment.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        segment: &mut Segment,
        more: bool,
    ) -> Poll<io::Result<usize>> {
        let Self::Tcp(io) = &*self else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        poll_try(io, Interest::WRITABLE, cx, || segment.send(io, more))
    }

    /// True if bodies may pass it in pipes.
    pub(crate) fn takes_pipes(&self) -> bool {
        matches!(self, Self::Tcp(_)) && pipes::may_splice()
    }

    /// Pushes buffered TLS records out; nothing to do on plain TCP.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    /// Sends FIN (after TLS close_notify).
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }

    /// False if the peer has closed, or has sent something, since the last
    /// read: an idle upstream connection must have neither. No system call
    /// unless the reactor has seen an event.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0u8; 1];
        match self {
            Self::Tcp(io) => {
                matches!(io.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
            // Bytes may wait in the TLS layer, and a session ticket is none.
            Self::Tls(io) => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(io.as_mut()).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }

    /// What the TLS handshake agreed on.
    pub(crate) fn tls(&self) -> Option<&rustls::CommonState> {
        match self {
            Self::Tcp(_) => None,
            Self::Tls(io) => Some(io.get_ref().1),
        }
    }

    /// The TLS version as Envoy writes it, `TLSv1.3`.
    pub(crate) fn tls_version(&self) -> Option<&'static str> {
        let Self::Tls(io) = self else { return None };
        match io.get_ref().1.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// The name that a client asked for in the TLS handshake.
    pub(crate) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(io) => match io.as_ref() {
                tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.server_name(),
                tokio_rustls::TlsStream::Client(_) => None,
            },
            Self::Tcp(_) => None,
        }
    }

    /// The protocol that the TLS handshake chose, if any.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) => None,
            Self::Tls(io) => io.get_ref().1.alpn_protocol(),
        }
    }
}

/// Asks the socket until it has an answer, or until it is ready again.
fn poll_try<T>(
    io: &TcpStream,
    interest: Interest,
    cx: &mut Context<'_>,
    mut ask: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(if interest.is_writable() {
            io.poll_write_ready(cx)
        } else {
            io.poll_read_ready(cx)
        })?;
        match io.try_io(interest, &mut ask) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            answer => return Poll::Ready(answer),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Io::poll_read(&mut self, cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Io::poll_write(&mut self, cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Io::poll_write(&mut self, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Io::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Io::poll_shutdown(&mut self, cx)
    }
}

#[cfg(test)]
mod testing {
    use tokio::net::TcpStream;

    pub(super) async fn connection() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).await;
        (ours.expect("it listens"), listener.accept().await.expect("it was connected").0)
    }

    pub(super) fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 251) as u8).collect()
    }
}
