//! Byte streams of connections: reading into a growing buffer, writing a queue
//! of small and large pieces with one vectored call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::buffers;
use crate::pipes::{self, Piece, Received, Segment};

/// First size of a read buffer, and its size when the connection is quiet.
const READ_MIN: usize = buffers::SMALLEST;
/// Largest single read: what the buffer of a fast peer grows to. Half of it, or
/// twice, costs more CPU per body of 1 MB (docs/performance.md).
const READ_MAX: usize = buffers::LARGEST;
/// Largest read that the announced length of a body is worth by itself.
const READ_EXPECTED: usize = 64 * 1024;
/// So many small reads in a row are no reason yet to ask for less: the end of a
/// large body is one.
const SMALL_READS: u8 = 4;
/// A segment of a body that took less than this was hardly worth its pipe.
const SMALL_SEGMENT: usize = 8 * 1024;
/// After so many of them in a row the rest is read into memory.
const SMALL_SEGMENTS: u8 = 4;
/// Pieces up to this size are copied into the queue's own buffer; larger ones
/// are queued by reference.
const COPY_MAX: usize = 2 * 1024;
/// Most slices of one vectored write.
const MAX_SLICES: usize = 16;

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

/// What came of a body.
#[derive(Debug)]
pub(crate) enum Filled {
    /// The end of the stream.
    End,
    /// More is in the buffer.
    Buffer,
    /// Bytes of the body that passed the buffer by.
    Segment(Segment),
}

/// Bytes read and not yet consumed. Body pieces are split off without a copy;
/// the buffer's memory is used again once they are gone.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) buf: BytesMut,
    /// Size of the next read; doubles while reads fill it.
    next: usize,
    /// Reads in a row that took less than a quarter of it.
    small: u8,
    /// Small segments in a row.
    small_segments: u8,
    /// All bytes ever read.
    pub(crate) total: u64,
    /// The peer has sent FIN.
    pub(crate) eof: bool,
}

impl Reader {
    /// Reads more into the buffer. Ready(0) is end of stream.
    pub(crate) fn poll_fill(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let want = self.next.max(READ_MIN);
        // Whoever waits, waits without a buffer.
        if self.buf.capacity() - self.buf.len() < want / 4 {
            ready!(io.poll_readable(cx))?;
        }
        // A reserve that must move to new memory asks for the whole read; what
        // is left of the old block is used up only if it is not tiny.
        if self.buf.capacity() - self.buf.len() < want / 4 {
            self.make_room(want);
        }
        let n = ready!(tokio_util::io::poll_read_buf(Pin::new(io), cx, &mut self.buf))?;
        if n == 0 {
            self.eof = true;
        } else if n >= want {
            (self.next, self.small) = ((want * 2).min(READ_MAX), 0);
        } else if n >= want / 4 {
            self.small = 0;
        } else if self.small < SMALL_READS {
            self.small += 1;
        } else {
            (self.next, self.small) = ((want / 2).max(READ_MIN), 0);
        }
        self.total += n as u64;
        Poll::Ready(Ok(n))
    }

    /// Takes more of a body of which so many bytes are to follow; into a pipe if the
    /// other side takes `pipes`, nothing is buffered, and it is worth it.
    pub(crate) fn poll_body(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        announced: u64,
        pipes: bool,
    ) -> Poll<io::Result<Filled>> {
        if pipes
            && announced >= pipes::WORTH
            && self.may_pipe()
            && self.buf.is_empty()
            && let Io::Tcp(tcp) = &*io
        {
            let received =
                poll_try(tcp, Interest::READABLE, cx, || Segment::receive(tcp, announced));
            match ready!(received)? {
                Received::Some(segment) => return Poll::Ready(Ok(self.piped(segment, announced))),
                Received::End => {
                    self.eof = true;
                    return Poll::Ready(Ok(Filled::End));
                }
                Received::NoPipe => {}
            }
        }
        self.expect(announced);
        let n = ready!(self.poll_fill(io, cx))?;
        Poll::Ready(Ok(if n == 0 { Filled::End } else { Filled::Buffer }))
    }

    fn piped(&mut self, segment: Segment, announced: u64) -> Filled {
        self.total += segment.len() as u64;
        if segment.len() >= SMALL_SEGMENT {
            self.small_segments = 0;
        } else if (segment.len() as u64) < announced {
            self.small_segments += 1;
        }
        // The next message's head and what comes with it.
        (self.next, self.small) = (READ_MIN, 0);
        Filled::Segment(segment)
    }

    /// False if too little comes at a time for a pipe to be worth it.
    fn may_pipe(&self) -> bool {
        self.small_segments < SMALL_SEGMENTS
    }

    /// A piece of this size came through the buffer, although the other side takes
    /// pipes: a smaller read leaves the next one to them.
    pub(crate) fn leave_to_pipes(&mut self, piece: usize) {
        if piece as u64 >= pipes::WORTH {
            if self.may_pipe() {
                self.next = READ_MIN;
            }
            self.small_segments = 0;
        }
    }

    /// Room for a read of `want` bytes behind what is buffered. Large buffers are
    /// those that were used last.
    fn make_room(&mut self, want: usize) {
        if self.buf.try_reclaim(want) {
            return;
        }
        let len = self.buf.len();
        let size = (len + want).min(buffers::LARGEST).max(len + want / 4);
        let Some(mut buffer) = buffers::take(size) else {
            return self.buf.reserve(want);
        };
        buffer.extend_from_slice(&self.buf);
        buffers::put(std::mem::replace(&mut self.buf, buffer));
    }

    /// Says that so many bytes are to follow: the next read asks for them, as
    /// far as that is worth a larger buffer.
    pub(crate) fn expect(&mut self, bytes: u64) {
        let expected = usize::try_from(bytes).unwrap_or(usize::MAX).min(READ_EXPECTED);
        self.next = self.next.max(expected);
    }

    /// Gives memory back while nothing is buffered. The size of the next read
    /// stays: what comes is likely to be like what came.
    pub(crate) fn relax(&mut self) {
        if self.buf.is_empty() {
            buffers::put(std::mem::take(&mut self.buf));
        }
    }
}

#[derive(Debug)]
enum Queued {
    /// Bytes of `Writer::small`.
    Small(usize),
    Shared(Bytes),
    Piped(Segment),
}

/// Bytes to write, in order.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    small: Vec<u8>,
    /// Bytes of `small` that have been written.
    small_done: usize,
    pieces: VecDeque<Queued>,
    /// Bytes queued and not yet written.
    pub(crate) queued: usize,
    /// What was written may still be in the TLS layer.
    unflushed: bool,
    /// All bytes ever written.
    pub(crate) total: u64,
}

impl Writer {
    /// Lets `write` append to the queue's own buffer (heads, chunk sizes).
    pub(crate) fn put_with<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.small.len();
        let result = write(&mut self.small);
        let added = self.small.len().saturating_sub(before);
        self.queued += added;
        match self.pieces.back_mut() {
            Some(Queued::Small(n)) => *n += added,
            _ if added > 0 => self.pieces.push_back(Queued::Small(added)),
            _ => {}
        }
        result
    }

    /// Queues bytes; large ones without a copy.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_MAX {
            return self.put_with(|small| small.extend_from_slice(&bytes));
        }
        self.queued += bytes.len();
        self.pieces.push_back(Queued::Shared(bytes));
    }

    /// Queues a piece of a body.
    pub(crate) fn put_piece(&mut self, piece: Piece) {
        match piece {
            Piece::Memory(bytes) => self.put(bytes),
            Piece::Piped(segment) => {
                self.queued += segment.len();
                self.pieces.push_back(Queued::Piped(segment));
            }
        }
    }

    /// True if everything has been handed to the kernel.
    pub(crate) fn is_empty(&self) -> bool {
        self.queued == 0 && !self.unflushed
    }

    /// Drops everything that is queued.
    pub(crate) fn clear(&mut self) {
        self.small.clear();
        self.pieces.clear();
        (self.small_done, self.queued) = (0, 0);
    }

    /// Takes everything that is queued.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.queued);
        while self.queued > 0 {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.fill(&mut slices);
            let before = all.len();
            slices[..count].iter().for_each(|slice| all.extend_from_slice(slice));
            self.consume(all.len() - before);
            debug_assert!(all.len() > before, "HTTP/2 queues no segments");
        }
        all
    }

    /// Writes until the queue is empty.
    ///
    /// # Errors
    /// The stream's; what was not written is lost with it.
    pub(crate) fn poll_flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued > 0 {
            let n = ready!(self.poll_write(io, cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(n);
            self.unflushed = true;
        }
        ready!(io.poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Writes what comes first: bytes in memory, or a segment.
    fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let follows = self.pieces.len() > 1;
        if let Some(Queued::Piped(segment)) = self.pieces.front_mut() {
            return io.poll_send(cx, segment, follows);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = self.fill(&mut slices);
        if matches!(self.pieces.get(count), Some(Queued::Piped(_))) {
            return io.poll_write_more(cx, &slices[..count]);
        }
        io.poll_write(cx, &slices[..count])
    }

    /// What is in memory of what comes first, up to a segment.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut at = self.small_done;
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            *slot = match piece {
                Queued::Small(n) => {
                    at += n;
                    IoSlice::new(&self.small[at - n..at])
                }
                Queued::Shared(bytes) => IoSlice::new(bytes),
                Queued::Piped(_) => break,
            };
            count += 1;
        }
        count
    }

    fn consume(&mut self, mut n: usize) {
        self.queued -= n;
        self.total += n as u64;
        while n > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let (len, done) = match piece {
                Queued::Small(len) => {
                    let step = n.min(*len);
                    *len -= step;
                    self.small_done += step;
                    (step, *len == 0)
                }
                Queued::Shared(bytes) => {
                    let step = n.min(bytes.len());
                    bytes.advance(step);
                    (step, bytes.is_empty())
                }
                // What was written of it is out already.
                Queued::Piped(segment) => (n, segment.len() == 0),
            };
            n -= len;
            if done && let Some(Queued::Shared(bytes)) = self.pieces.pop_front() {
                buffers::release(bytes);
            }
        }
        if self.queued == 0 {
            self.small.clear();
            self.small_done = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    proptest! {
        /// Whatever the pieces and however little each write takes, the bytes
        /// leave in order.
        #[test]
        fn writer_keeps_order(
            pieces in prop::collection::vec((any::<bool>(), 0usize..5000), 0..20),
            steps in prop::collection::vec(1usize..4000, 1..50),
        ) {
            let mut writer = Writer::default();
            let mut want = Vec::new();
            let mut next = 0u8;
            for (small, len) in pieces {
                let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                want.extend_from_slice(&bytes);
                if small { writer.put_with(|b| b.extend_from_slice(&bytes)); }
                else { writer.put(bytes.into()); }
            }
            let mut got = Vec::new();
            let mut steps = steps.into_iter().cycle();
            while !writer.is_empty() {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let count = writer.fill(&mut slices);
                let all: Vec<u8> =
                    slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let n = steps.next().expect("cycles").min(all.len());
                got.extend_from_slice(&all[..n]);
                writer.consume(n);
            }
            prop_assert_eq!(got, want);
        }
    }

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).await;
        (ours.expect("it listens"), listener.accept().await.expect("it was connected").0)
    }

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 251) as u8).collect()
    }

    /// What a reader finds of a body of which all has come: buffered bytes, and
    /// segments.
    async fn body(reader: &mut Reader, io: &mut Io, mut left: usize) -> (Vec<u8>, usize) {
        let (mut bytes, mut segments) = (Vec::new(), 0);
        while left > 0 {
            let filled = poll_fn(|cx| reader.poll_body(io, cx, left as u64, true)).await;
            let found = match filled.expect("the peer has sent it") {
                Filled::Segment(segment) => {
                    segments += 1;
                    segment.into_bytes().expect("they are there")
                }
                Filled::Buffer => {
                    let n = reader.buf.len().min(left);
                    reader.buf.split_to(n).freeze()
                }
                Filled::End => panic!("{left} bytes are missing"),
            };
            left -= found.len();
            bytes.extend_from_slice(&found);
        }
        (bytes, segments)
    }

    #[tokio::test]
    async fn a_large_body_comes_in_segments_and_what_follows_does_not() {
        let (mut peer, ours) = connection().await;
        let mut io = Io::Tcp(ours);
        let mut reader = Reader::default();
        for len in [100_000, 100_000, 10_000] {
            peer.write_all(b"head").await.expect("it fits");
            poll_fn(|cx| reader.poll_fill(&mut io, cx)).await.expect("it was sent");
            assert_eq!(&*reader.buf.split(), b"head");
            let mut sent = text(len);
            sent.extend_from_slice(b"next");
            peer.write_all(&sent).await.expect("it fits");
            let (got, segments) = body(&mut reader, &mut io, len).await;
            assert!(got == text(len), "{len} bytes are not those that were sent");
            assert_eq!(segments > 0, len as u64 >= pipes::WORTH);
            while reader.buf.len() < 4 {
                poll_fn(|cx| reader.poll_fill(&mut io, cx)).await.expect("it was sent");
            }
            assert_eq!(&*reader.buf.split(), b"next");
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_in_small_parts_is_read_into_memory() {
        let (mut peer, ours) = connection().await;
        let mut io = Io::Tcp(ours);
        let mut reader = Reader::default();
        for part in 0..10 {
            peer.write_all(b"part").await.expect("it fits");
            let filled = poll_fn(|cx| reader.poll_body(&mut io, cx, 100_000, true)).await;
            match filled.expect("it was sent") {
                Filled::Segment(segment) => {
                    assert!(part < SMALL_SEGMENTS);
                    assert_eq!(segment.len(), 4);
                }
                Filled::Buffer => {
                    assert!(part >= SMALL_SEGMENTS);
                    assert_eq!(&*reader.buf.split(), b"part");
                }
                Filled::End => panic!("the peer is still there"),
            }
        }
    }

    /// Small, shared and piped pieces, to a peer that reads little at a time.
    #[tokio::test]
    async fn segments_keep_their_place() {
        let (mut feed, mut from) = connection().await;
        let (ours, mut peer) = connection().await;
        let mut io = Io::Tcp(ours);
        let mut writer = Writer::default();
        let mut want = Vec::new();
        for round in 0..40 {
            let small = format!("<{round}>").into_bytes();
            writer.put_with(|out| out.extend_from_slice(&small));
            want.extend_from_slice(&small);
            let shared = text(COPY_MAX + round);
            writer.put(shared.clone().into());
            want.extend_from_slice(&shared);
            let piped = text(100_000 + round);
            let (sent, got) =
                tokio::join!(feed.write_all(&piped), segments(&mut from, piped.len()));
            sent.expect("somebody reads");
            got.into_iter().for_each(|segment| writer.put_piece(Piece::Piped(segment)));
            want.extend_from_slice(&piped);
        }
        assert_eq!(writer.queued, want.len());
        let mut got = vec![0; want.len()];
        let (flushed, read) =
            tokio::join!(poll_fn(|cx| writer.poll_flush(&mut io, cx)), peer.read_exact(&mut got),);
        flushed.expect("the peer is there");
        read.expect("all of it was sent");
        assert!(got == want, "bytes changed their order");
        assert!(writer.is_empty());
        assert_eq!(writer.total, want.len() as u64);
    }

    async fn segments(from: &mut TcpStream, mut left: usize) -> Vec<Segment> {
        let mut found = Vec::new();
        while left > 0 {
            let received = poll_fn(|cx| {
                poll_try(from, Interest::READABLE, cx, || Segment::receive(&*from, left as u64))
            });
            let Ok(Received::Some(segment)) = received.await else { panic!("{left} are missing") };
            left -= segment.len();
            found.push(segment);
        }
        found
    }
}
