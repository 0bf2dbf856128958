//! HPACK (RFC 7541): header lists as bytes, with a table that both ends keep.

mod decode;
mod encode;
pub mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub use decode::{Decoder, Field, HpackError};
pub use encode::Encoder;

/// Size of the decoder's table, in the RFC's bytes (an entry is its name, its
/// value and 32): the protocol's default, Envoy's as well.
pub const TABLE_SIZE: usize = 4096;
