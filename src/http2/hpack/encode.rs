//! Fields to header blocks: the static table and literals, no dynamic table.
//!
//! A proxy's heads are short and its peers are near: finding a field in a
//! dynamic table costs more than copying its bytes.

use super::TABLE_SIZE;
use super::table::STATIC;
use crate::headers::{HeaderField, HeaderId};

/// The sending end of one direction of a connection.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The peer wants a smaller table than the default: the next block must say
    /// so (RFC 7541, section 4.2).
    shrunk: bool,
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn limit(&mut self, size: u32) {
        self.shrunk |= (size as usize) < TABLE_SIZE;
    }

    /// To be called first in each block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.shrunk) {
            out.push(0x20);
        }
    }

    /// Appends `:status`.
    pub fn status(out: &mut Vec<u8>, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let mut digits = itoa::Buffer::new();
                return named(out, 8, digits.format(status).as_bytes());
            }
        };
        out.push(0x80 | index);
    }

    /// Appends `:method`.
    pub fn method(out: &mut Vec<u8>, method: &[u8]) {
        match method {
            b"GET" => out.push(0x82),
            b"POST" => out.push(0x83),
            _ => named(out, 2, method),
        }
    }

    /// Appends `:scheme`.
    pub fn scheme(out: &mut Vec<u8>, https: bool) {
        out.push(if https { 0x87 } else { 0x86 });
    }

    /// Appends `:path`.
    pub fn path(out: &mut Vec<u8>, path: &[u8]) {
        if path == b"/" { out.push(0x84) } else { named(out, 4, path) }
    }

    /// Appends `:authority`.
    pub fn authority(out: &mut Vec<u8>, authority: &[u8]) {
        named(out, 1, authority);
    }

    /// Appends `:protocol` (RFC 8441).
    pub fn protocol(out: &mut Vec<u8>, protocol: &[u8]) {
        out.push(0);
        string(out, b":protocol");
        string(out, protocol);
    }

    /// Appends a regular field, whose name is in lower case.
    pub fn field(out: &mut Vec<u8>, field: HeaderField<'_>) {
        match index(field.id) {
            0 => {
                out.push(0);
                string(out, field.name);
                string(out, field.value);
            }
            index => named(out, index, field.value),
        }
    }
}

/// The static table's first entry with this name; 0 if there is none.
const fn index(id: HeaderId) -> u8 {
    match id {
        HeaderId::Accept => 19,
        HeaderId::ContentLength => 28,
        HeaderId::ContentType => 31,
        HeaderId::Cookie => 32,
        HeaderId::Date => 33,
        HeaderId::Expect => 35,
        HeaderId::Server => 54,
        HeaderId::UserAgent => 58,
        HeaderId::Via => 60,
        _ => 0,
    }
}

/// A literal without indexing whose name is in the static table.
fn named(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    debug_assert!(usize::from(index) <= STATIC.len());
    integer(out, 0, 4, usize::from(index));
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// RFC 7541, section 5.1.
fn integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        return out.push(first | value as u8);
    }
    out.push(first | mask as u8);
    let mut left = value - mask;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
