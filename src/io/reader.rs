//! Reading from a connection: into a growing buffer, or a body past it into a pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::Interest;

use super::{Io, poll_try};
use crate::buffers;
use crate::pipes::{self, Carrier, Received, Segment};

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

    /// Takes more of a body of which so many bytes are to follow; into a pipe if that
    /// is wanted, nothing is buffered, and it is worth it.
    pub(crate) fn poll_body(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        announced: u64,
        by: Carrier,
    ) -> Poll<io::Result<Filled>> {
        if by == Carrier::Pipe
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
        if by == Carrier::MemoryFirst
            && announced >= READ_MIN as u64 + pipes::WORTH
            && self.may_pipe()
        {
            self.next = READ_MIN;
        } else {
            self.expect(announced);
        }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::io::testing::{connection, text};

    /// What a reader finds of a body of which all has come: buffered bytes, and
    /// segments.
    async fn body(reader: &mut Reader, io: &mut Io, mut left: usize) -> (Vec<u8>, usize) {
        let (mut bytes, mut segments) = (Vec::new(), 0);
        while left > 0 {
            let filled = poll_fn(|cx| reader.poll_body(io, cx, left as u64, Carrier::Pipe)).await;
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
    async fn whoever_wants_the_beginning_leaves_the_rest_to_pipes() {
        let (mut peer, ours) = connection().await;
        let mut io = Io::Tcp(ours);
        let mut reader = Reader::default();
        for len in [100_000, 20_000] {
            let sent = text(len);
            peer.write_all(&sent).await.expect("it fits");
            // The last one wanted much.
            reader.expect(1 << 20);
            let first = Carrier::MemoryFirst;
            poll_fn(|cx| reader.poll_body(&mut io, cx, len as u64, first)).await.expect("sent");
            let mut got = reader.buf.split().to_vec();
            let left = len - got.len();
            if len as u64 >= READ_MIN as u64 + pipes::WORTH {
                assert_eq!(got.len(), READ_MIN);
            }
            let (rest, segments) = body(&mut reader, &mut io, left).await;
            got.extend_from_slice(&rest);
            assert!(got == sent, "{len} bytes are not those that were sent");
            assert_eq!(segments > 0, left as u64 >= pipes::WORTH);
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_in_small_parts_is_read_into_memory() {
        let (mut peer, ours) = connection().await;
        let mut io = Io::Tcp(ours);
        let mut reader = Reader::default();
        for part in 0..10 {
            peer.write_all(b"part").await.expect("it fits");
            let filled = poll_fn(|cx| reader.poll_body(&mut io, cx, 100_000, Carrier::Pipe)).await;
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
}
