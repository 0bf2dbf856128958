//! Bodies: decoders that name spans of the caller's buffer, and what surrounds
//! a chunk that is written.

use super::fields::{self, Malformed};
use super::{BodyLength, ChunkError};

/// What a decoder made of the bytes at the start of a buffer.
///
/// The caller drops `skip` bytes, takes `data` bytes as body, and calls again
/// with the rest until `done` or until a call takes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of framing.
    pub skip: usize,
    /// Bytes of body behind them.
    pub data: usize,
    /// The body is complete; what lies behind belongs to the next message.
    pub done: bool,
}

/// Decodes the body that a [`BodyLength`] announces.
#[derive(Debug)]
pub enum BodyDecoder {
    /// No body.
    None,
    /// By length.
    Length(LengthDecoder),
    /// Chunked.
    Chunked(ChunkedDecoder),
    /// Until the peer closes.
    UntilClose,
}

impl BodyDecoder {
    /// A decoder; `max_trailer_bytes`: the head's limit
    /// ([`HeadLimits::max_bytes`](super::HeadLimits::max_bytes)).
    #[must_use]
    pub fn new(length: BodyLength, max_trailer_bytes: usize) -> Self {
        match length {
            BodyLength::None => Self::None,
            BodyLength::Length(bytes) => Self::Length(LengthDecoder::new(bytes)),
            BodyLength::Chunked => Self::Chunked(ChunkedDecoder::new(max_trailer_bytes)),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// Decodes what `buf` begins with.
    ///
    /// # Errors
    ///
    /// [`ChunkError`]; the connection must be closed.
    pub fn decode(&mut self, buf: &[u8]) -> Result<Decoded, ChunkError> {
        match self {
            Self::None => Ok(Decoded { done: true, ..Decoded::default() }),
            Self::Length(decoder) => Ok(decoder.decode(buf)),
            Self::Chunked(decoder) => decoder.decode(buf),
            Self::UntilClose => Ok(Decoded { data: buf.len(), ..Decoded::default() }),
        }
    }

    /// Looks ahead: whether all of `buf` is well-formed as what comes next, up to
    /// the trailers. Only chunked coding has anything to look at.
    ///
    /// # Errors
    ///
    /// [`ChunkError`], which [`BodyDecoder::decode`] will come to.
    pub fn check(&self, buf: &[u8]) -> Result<(), ChunkError> {
        let Self::Chunked(decoder) = self else { return Ok(()) };
        let mut ahead = decoder.clone();
        let mut at = 0;
        while at < buf.len() {
            let step = match ahead.decode(&buf[at..]) {
                Err(_) if matches!(ahead.state, State::LastEnd | State::Trailer) => break,
                step => step?,
            };
            at += step.skip + step.data;
            if step.done {
                break;
            }
        }
        Ok(())
    }

    /// Bytes of body that are announced and not yet here; 0 if nobody knows.
    #[must_use]
    pub fn announced(&self) -> u64 {
        match self {
            Self::None | Self::UntilClose => 0,
            Self::Length(decoder) => decoder.left,
            Self::Chunked(decoder) => {
                if decoder.state == State::Data {
                    decoder.size
                } else {
                    0
                }
            }
        }
    }

    /// True if the peer may close now: the body is over, or ends so.
    #[must_use]
    pub fn may_end_here(&self) -> bool {
        match self {
            Self::None | Self::UntilClose => true,
            Self::Length(decoder) => decoder.left == 0,
            Self::Chunked(decoder) => decoder.state == State::Done,
        }
    }
}

/// Counts a body down.
#[derive(Debug)]
pub struct LengthDecoder {
    left: u64,
}

impl LengthDecoder {
    /// A body of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { left: bytes }
    }

    /// Takes as much of `buf` as belongs to the body.
    pub fn decode(&mut self, buf: &[u8]) -> Decoded {
        let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let done = self.pass(data);
        Decoded { skip: 0, data, done }
    }

    /// Counts bytes that nobody has to look at; true if they are the last.
    pub fn pass(&mut self, bytes: usize) -> bool {
        self.left = self.left.saturating_sub(bytes as u64);
        self.left == 0
    }

    /// Bytes still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the size; `digits`: at least one was seen.
    Size {
        digits: bool,
    },
    /// Behind the size, up to CR LF; `cr`: the last byte was CR.
    Extension {
        cr: bool,
    },
    /// In the data; the size counts down.
    Data,
    /// Behind the data, up to LF. What stands before it is ignored.
    DataEnd,
    /// Behind the last chunk: the end, or a trailer.
    LastEnd,
    /// In the trailer.
    Trailer,
    Done,
}

/// Decodes chunked coding, accepting what Envoy's parser accepts: blanks and
/// anything else behind a size, any bytes up to the LF behind the data; but no
/// lone CR or LF in the size line. Trailers are checked and dropped.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    state: State,
    size: u64,
    max_trailer_bytes: usize,
    trailer: Vec<u8>,
    /// The last line ends seen in a row, for the end of the trailer.
    term: u32,
}

impl ChunkedDecoder {
    /// A decoder that bounds the trailer.
    #[must_use]
    pub fn new(max_trailer_bytes: usize) -> Self {
        Self {
            state: State::Size { digits: false },
            size: 0,
            max_trailer_bytes,
            trailer: Vec::new(),
            term: 0,
        }
    }

    /// Decodes up to the end of the next span of data, of the body, or of
    /// `buf`.
    ///
    /// # Errors
    ///
    /// [`ChunkError`].
    pub fn decode(&mut self, buf: &[u8]) -> Result<Decoded, ChunkError> {
        let mut at = 0;
        while at < buf.len() && self.state != State::Done {
            match self.state {
                State::Data => {
                    let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                    let data = left.min(buf.len() - at);
                    self.size -= data as u64;
                    if self.size == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Decoded { skip: at, data, done: false });
                }
                State::DataEnd => match memchr::memchr(b'\n', &buf[at..]) {
                    Some(found) => {
                        at += found + 1;
                        self.state = State::Size { digits: false };
                    }
                    None => at = buf.len(),
                },
                _ => at += usize::from(self.step(buf[at])?),
            }
        }
        Ok(Decoded { skip: at, data: 0, done: self.state == State::Done })
    }

    /// Takes one byte of framing; false if it belongs to the next state.
    fn step(&mut self, byte: u8) -> Result<bool, ChunkError> {
        match self.state {
            State::Size { digits } => return self.step_size(byte, digits),
            State::Extension { cr } => match (cr, byte) {
                (true, b'\n') if self.size > 0 => self.state = State::Data,
                (true, b'\n') => {
                    self.term = u32::from(b'\n');
                    self.state = State::LastEnd;
                }
                (true, _) | (false, b'\n') => return Err(ChunkError::Syntax),
                (false, _) => self.state = State::Extension { cr: byte == b'\r' },
            },
            State::LastEnd => {
                if self.ends_here(byte) {
                    self.state = State::Done;
                } else if self.term == 0 {
                    self.state = State::Trailer;
                    return Ok(false);
                }
            }
            State::Trailer => {
                if self.trailer.len() == self.max_trailer_bytes {
                    return Err(ChunkError::TrailersTooLarge);
                }
                self.trailer.push(byte);
                if self.ends_here(byte) {
                    check_trailer(&self.trailer)?;
                    self.trailer = Vec::new();
                    self.state = State::Done;
                }
            }
            State::Data | State::DataEnd | State::Done => {}
        }
        Ok(true)
    }

    fn step_size(&mut self, byte: u8, digits: bool) -> Result<bool, ChunkError> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            if self.size >> 60 != 0 {
                return Err(ChunkError::Syntax);
            }
            self.size = self.size << 4 | u64::from(digit);
            self.state = State::Size { digits: true };
            return Ok(true);
        }
        if !digits || !matches!(byte, b'\t' | b'\n' | b'\r' | b' ' | b';') {
            return Err(ChunkError::Syntax);
        }
        self.state = State::Extension { cr: false };
        Ok(false)
    }

    /// Follows line ends: true behind LF CR LF or LF LF.
    fn ends_here(&mut self, byte: u8) -> bool {
        if byte != b'\n' && byte != b'\r' {
            self.term = 0;
            return false;
        }
        self.term = self.term << 8 | u32::from(byte);
        self.term & 0x00ff_ffff == 0x000a_0d0a || self.term & 0xffff == 0x0a0a
    }
}

fn check_trailer(block: &[u8]) -> Result<(), ChunkError> {
    if !fields::is_clean(block) {
        return Err(ChunkError::InvalidCharacters);
    }
    let ends: Vec<u32> =
        memchr::memchr_iter(b'\n', block).filter_map(|at| u32::try_from(at + 1).ok()).collect();
    fields::walk(block, 0, &ends, |_| Ok(())).map_err(|Malformed| ChunkError::Syntax)
}

/// What stands before a chunk's data: its size in hexadecimal and CR LF.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {
    bytes: [u8; 18],
    from: usize,
}

impl AsRef<[u8]> for ChunkHead {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

/// The head of a chunk of `len` bytes; `len` must not be 0, which would end the
/// body.
#[must_use]
pub fn chunk_head(len: usize) -> ChunkHead {
    debug_assert!(len > 0, "an empty chunk ends the body");
    let mut bytes = *b"0000000000000000\r\n";
    let mut from = 16;
    let mut left = len;
    while left > 0 {
        from -= 1;
        bytes[from] = b"0123456789abcdef"[left & 15];
        left >>= 4;
    }
    ChunkHead { bytes, from }
}

/// What stands behind a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The last chunk and the empty trailer.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_heads() {
        for (len, text) in [(1, "1\r\n"), (10, "a\r\n"), (255, "ff\r\n"), (65_536, "10000\r\n")] {
            assert_eq!(chunk_head(len).as_ref(), text.as_bytes());
        }
        assert_eq!(chunk_head(usize::MAX).as_ref(), b"ffffffffffffffff\r\n");
    }

    #[test]
    fn spans_point_into_the_buffer() {
        let mut decoder = ChunkedDecoder::new(100);
        let buf = b"3;x\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET";
        assert_eq!(decoder.decode(buf), Ok(Decoded { skip: 5, data: 3, done: false }));
        assert_eq!(decoder.decode(&buf[8..]), Ok(Decoded { skip: 5, data: 2, done: false }));
        assert_eq!(decoder.decode(&buf[15..]), Ok(Decoded { skip: 7, data: 0, done: true }));
        assert_eq!(decoder.decode(&buf[22..]), Ok(Decoded { skip: 0, data: 0, done: true }));
    }

    #[test]
    fn looking_ahead_finds_a_fault_behind_data() {
        let of = || BodyDecoder::new(BodyLength::Chunked, 100);
        assert_eq!(of().check(b"2\r\nok\r\nzz\r\n"), Err(ChunkError::Syntax));
        for fine in [
            &b""[..],
            b"2",
            b"2\r\nok",
            b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 zz",
            b"2\r\nok\r\n0\r\nb ad\r\n\r\n",
        ] {
            assert_eq!(of().check(fine), Ok(()));
        }
        let mut decoder = of();
        assert_eq!(decoder.decode(b"2\r\no"), Ok(Decoded { skip: 3, data: 1, done: false }));
        assert_eq!(decoder.check(b"k\r\nzz"), Err(ChunkError::Syntax));
        assert_eq!(BodyDecoder::new(BodyLength::Length(2), 0).check(b"zz"), Ok(()));
    }

    #[test]
    fn length_counts_down() {
        let mut decoder = LengthDecoder::new(5);
        assert_eq!(decoder.decode(b"abc"), Decoded { skip: 0, data: 3, done: false });
        assert_eq!(decoder.decode(b"defg"), Decoded { skip: 0, data: 2, done: true });
    }
}
