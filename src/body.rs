//! Takes a message's body off a connection's read buffer, piece by piece,
//! without copying.

use bytes::{Bytes, BytesMut};

use crate::http1::body::BodyDecoder;
use crate::http1::{BodyLength, ChunkError};

/// The body of the message at hand.
#[derive(Debug)]
pub(crate) struct BodyReader {
    decoder: BodyDecoder,
    done: bool,
}

impl BodyReader {
    /// A body as its head announced it; trailers are bounded by
    /// `max_trailer_bytes`.
    pub(crate) fn new(length: BodyLength, max_trailer_bytes: usize) -> Self {
        let done = length == BodyLength::None;
        Self { decoder: BodyDecoder::new(length, max_trailer_bytes), done }
    }

    /// No body.
    pub(crate) fn none() -> Self {
        Self::new(BodyLength::None, 0)
    }

    /// True after the last byte of the message.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next piece off `buf`; none if it needs more bytes, or is done.
    ///
    /// # Errors
    /// The chunked coding is malformed.
    pub(crate) fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Bytes>, ChunkError> {
        while !self.done {
            let step = self.decoder.decode(buf)?;
            let _ = buf.split_to(step.skip);
            self.done = step.done;
            if step.data > 0 {
                return Ok(Some(buf.split_to(step.data).freeze()));
            }
            if step.skip == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// True if the coding is broken somewhere in `buf`, which comes next.
    pub(crate) fn is_broken(&self, buf: &[u8]) -> bool {
        !self.done && self.decoder.check(buf).is_err()
    }

    /// Bytes of body that are announced and not yet here; 0 if nobody knows.
    pub(crate) fn announced(&self) -> u64 {
        self.decoder.announced()
    }

    /// True if its end is found by counting: nobody has to look at its bytes.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(self.decoder, BodyDecoder::Length(_))
    }

    /// So many bytes of a counted body have come by another way.
    pub(crate) fn passed(&mut self, bytes: usize) {
        if let BodyDecoder::Length(decoder) = &mut self.decoder {
            self.done = decoder.pass(bytes);
        }
    }

    /// The peer has closed: true if that ends the body properly.
    pub(crate) fn end_of_stream(&mut self) -> bool {
        self.done |= self.decoder.may_end_here();
        self.done
    }
}
