//! Short immutable bytes.

use std::fmt;
use std::ops::Deref;

/// Bytes kept in place.
const INLINE: usize = 30;

/// Immutable bytes, up to 30 of them without memory of their own: a route's
/// names and values stand in the route itself, so that a request reads one
/// piece of memory and not ten.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    /// Length, then bytes; zero behind them.
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Text {
    fn from(value: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..value.len()), u8::try_from(value.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(value);
                Self(Repr::Inline(len, bytes))
            }
            _ => Self(Repr::Heap(value.into())),
        }
    }
}

impl From<&str> for Text {
    fn from(value: &str) -> Self {
        value.as_bytes().into()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..bytes.len() {
            let text = Text::from(&bytes[..len]);
            assert_eq!(&*text, &bytes[..len]);
            assert_eq!(text, text.clone());
        }
    }

    #[test]
    fn it_is_no_larger_than_half_a_cache_line() {
        assert_eq!(size_of::<Text>(), 32);
    }
}
