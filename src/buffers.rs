//! Read buffers of one thread, used again last in, first out, so that the next
//! message lands in memory that is still in the processor's cache, whichever
//! connection it comes on. A connection that waits needs none. The allocator would
//! hand out the coldest of a few megabytes instead.
//!
//! Pieces of bodies are references into these buffers ([`Bytes`]). A buffer comes
//! back here when its last reference is released by one who knows the way: the
//! reader, the queue to a socket, or the pieces kept for a retry. Whoever just
//! drops a reference gives the memory to the allocator, which is correct, too. A
//! buffer comes back empty: what was in it cannot be read again.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// Size of the smallest buffers kept, a quiet connection's.
pub(crate) const SMALLEST: usize = 8 * 1024;
/// Size of the largest, and so of the largest read.
pub(crate) const LARGEST: usize = 512 * 1024;
/// Sizes: each twice the one before.
const SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
/// Bytes kept per thread while they are not used: a few requests that are kept
/// for a retry ([`REPLAY_LIMIT`](crate::request_body::REPLAY_LIMIT) each). What has
/// not been needed for a second goes back to the allocator.
const MAX_SPARE: usize = 8 * 1024 * 1024;

/// Buffers that wait for their next use.
#[derive(Debug, Default)]
struct Spare {
    by_size: [Vec<BytesMut>; SIZES],
    /// The fewest of each size since the last [`trim`]: nobody needed them.
    fewest: [usize; SIZES],
    /// Bytes of all.
    bytes: usize,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// An empty buffer with room for `want` bytes; none if that is no size kept here.
pub(crate) fn take(want: usize) -> Option<BytesMut> {
    if !(SMALLEST..=LARGEST).contains(&want) {
        return None;
    }
    let size = want.next_power_of_two();
    let found = SPARE.with_borrow_mut(|spare| spare.take(class(size)));
    Some(found.unwrap_or_else(|| BytesMut::with_capacity(size)))
}

/// Takes a buffer back, if nobody else refers to it; its contents are dropped.
pub(crate) fn put(mut buffer: BytesMut) {
    buffer.clear();
    // The largest first: of a piece more may be behind it than it can tell.
    let sizes = (0..SIZES).rev().map(|class| SMALLEST << class);
    for size in sizes {
        if buffer.try_reclaim(size) {
            if buffer.capacity() == size {
                SPARE.with_borrow_mut(|spare| spare.put(class(size), buffer));
            }
            return;
        }
    }
}

/// Drops a piece of a body; its buffer is taken back if this was the last one.
pub(crate) fn release(piece: Bytes) {
    if let Ok(buffer) = piece.try_into_mut() {
        put(buffer);
    }
}

/// Gives the allocator what was not needed since the last call.
pub(crate) fn trim() {
    SPARE.with_borrow_mut(Spare::trim);
}

/// Index of a size that is kept.
fn class(size: usize) -> usize {
    (size / SMALLEST).ilog2() as usize
}

impl Spare {
    fn take(&mut self, class: usize) -> Option<BytesMut> {
        let buffer = self.by_size[class].pop()?;
        self.bytes -= buffer.capacity();
        self.fewest[class] = self.fewest[class].min(self.by_size[class].len());
        Some(buffer)
    }

    fn put(&mut self, class: usize, buffer: BytesMut) {
        if self.bytes + buffer.capacity() <= MAX_SPARE {
            self.bytes += buffer.capacity();
            self.by_size[class].push(buffer);
        }
    }

    fn trim(&mut self) {
        for (buffers, fewest) in self.by_size.iter_mut().zip(&mut self.fewest) {
            // The oldest are the coldest.
            self.bytes -= buffers.drain(..*fewest).map(|buffer| buffer.capacity()).sum::<usize>();
            *fewest = buffers.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare_bytes() -> usize {
        SPARE.with_borrow(|spare| spare.bytes)
    }

    /// Reads `len` bytes of `fill` into a buffer, as pieces of at most `piece`.
    fn body(len: usize, fill: u8, piece: usize) -> Vec<Bytes> {
        let mut buffer = take(len).expect("a size that is kept");
        buffer.resize(len, fill);
        let mut pieces = Vec::new();
        while !buffer.is_empty() {
            pieces.push(buffer.split_to(piece.min(buffer.len())).freeze());
        }
        pieces
    }

    #[test]
    fn the_last_buffer_is_used_first_and_comes_back_empty() {
        let (first, second) = (take(SMALLEST), take(SMALLEST));
        let mut second = second.expect("a size that is kept");
        second.extend_from_slice(b"secret");
        let at = second.as_ptr();
        put(first.expect("a size that is kept"));
        put(second);
        let again = take(SMALLEST).expect("a size that is kept");
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (at, 0, SMALLEST));
    }

    #[test]
    fn a_buffer_comes_back_with_its_last_piece_only() {
        let pieces = body(100_000, b'x', 30_000);
        let kept = pieces[1].clone();
        pieces.into_iter().for_each(release);
        assert_eq!(spare_bytes(), 0);
        let other = body(100_000, b'y', 100_000);
        assert!(kept.iter().all(|byte| *byte == b'x'), "another body wrote into this one");
        assert!(other[0].iter().all(|byte| *byte == b'y'));
        release(kept);
        assert_eq!(spare_bytes(), 128 * 1024);
    }

    #[test]
    fn a_piece_that_was_partly_written_gives_its_whole_buffer_back() {
        let mut pieces = body(LARGEST, b'x', LARGEST);
        bytes::Buf::advance(&mut pieces[0], 1000);
        pieces.into_iter().for_each(release);
        assert_eq!(take(LARGEST).map(|buffer| buffer.capacity()), Some(LARGEST));
    }

    #[test]
    fn spare_memory_is_bounded_and_goes_after_two_quiet_trims() {
        let buffers: Vec<_> = (0..2 * MAX_SPARE / LARGEST).filter_map(|_| take(LARGEST)).collect();
        buffers.into_iter().for_each(put);
        assert_eq!(spare_bytes(), MAX_SPARE);
        trim();
        // Half of them are needed in this period.
        let needed: Vec<_> = (0..MAX_SPARE / LARGEST / 2).filter_map(|_| take(LARGEST)).collect();
        needed.into_iter().for_each(put);
        trim();
        assert_eq!(spare_bytes(), MAX_SPARE / 2);
        trim();
        assert_eq!(spare_bytes(), 0);
    }

    #[test]
    fn other_sizes_are_the_allocators() {
        assert!(take(SMALLEST - 1).is_none() && take(LARGEST + 1).is_none());
        put(BytesMut::with_capacity(SMALLEST / 2));
        put(BytesMut::with_capacity(100_000));
        put(BytesMut::with_capacity(2 * LARGEST));
        release(Bytes::from_static(b"static"));
        release(Bytes::from(vec![0; SMALLEST - 1]));
        assert_eq!(spare_bytes(), 0);
    }
}
