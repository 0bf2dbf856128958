//! Body that was received and not yet passed on.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Pieces from this size on are taken out of the read buffer without a copy: a
/// smaller one would hold a whole buffer for little.
const SHARE_MIN: usize = 4 * 1024;
/// A stream that nobody reads shares at most so many bytes with read buffers.
const SHARE_MAX: usize = 64 * 1024;
/// Size of a block that small pieces are gathered in.
const BLOCK: usize = 64 * 1024;

/// A queue of pieces whose memory is in proportion to its bytes, however small
/// the frames are that they came in.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    first: Bytes,
    more: VecDeque<Bytes>,
    /// Small pieces behind all others.
    gathered: BytesMut,
    len: usize,
}

impl Inbox {
    /// Takes the first `len` bytes of `input`.
    pub(super) fn fill(&mut self, input: &mut BytesMut, len: usize) {
        if len == 0 {
            return;
        }
        if len >= SHARE_MIN && self.len < SHARE_MAX {
            self.seal();
            self.put(input.split_to(len).freeze());
        } else if self.len == 0 {
            self.put(Bytes::copy_from_slice(&input[..len]));
            input.advance(len);
        } else {
            self.gathered.extend_from_slice(&input[..len]);
            input.advance(len);
            if self.gathered.len() >= BLOCK {
                self.seal();
            }
        }
        self.len += len;
    }

    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            let gathered = self.gathered.split().freeze();
            self.put(gathered);
        }
    }

    fn put(&mut self, piece: Bytes) {
        if self.first.is_empty() { self.first = piece } else { self.more.push_back(piece) }
    }

    /// The next piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.first.is_empty() {
            self.seal();
        }
        if self.first.is_empty() {
            return None;
        }
        let next = self.more.pop_front().unwrap_or_default();
        let piece = std::mem::replace(&mut self.first, next);
        self.len -= piece.len();
        Some(piece)
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_leave_in_order(steps in prop::collection::vec((0usize..9000, any::<bool>()), 0..60)) {
            let (mut inbox, mut next) = (Inbox::default(), 0u8);
            let (mut want, mut got) = (Vec::new(), Vec::new());
            for (len, pop) in steps {
                let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                want.extend_from_slice(&bytes);
                let mut input = BytesMut::from(&bytes[..]);
                input.extend_from_slice(b"rest");
                inbox.fill(&mut input, len);
                prop_assert_eq!(&input[..], b"rest");
                if pop && let Some(piece) = inbox.pop() {
                    got.extend_from_slice(&piece);
                }
                prop_assert_eq!(inbox.len(), want.len() - got.len());
            }
            while let Some(piece) = inbox.pop() {
                got.extend_from_slice(&piece);
            }
            prop_assert_eq!(got, want);
        }
    }
}
