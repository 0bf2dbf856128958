//! Writing to a connection: a queue of small and large pieces, what is in memory of it
//! with one vectored call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use super::Io;
use crate::buffers;
use crate::pipes::{Piece, Segment};

/// Pieces up to this size are copied into the queue's own buffer; larger ones
/// are queued by reference.
const COPY_MAX: usize = 2 * 1024;
/// Most slices of one vectored write.
const MAX_SLICES: usize = 16;

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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
    use tokio::net::TcpStream;

    use super::*;
    use crate::io::poll_try;
    use crate::io::testing::{connection, text};
    use crate::pipes::Received;

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
