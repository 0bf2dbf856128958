//! Header blocks to fields.

use super::huffman;
use super::table::{Entry, STATIC, Table};
use crate::headers::HeaderId;
use crate::http2::fields;

/// Longest name or value: 64 KiB, as in Envoy's codec.
const MAX_STRING: usize = 64 * 1024;

/// A block that cannot be read. The table is lost with it, and so is the
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed header block")]
pub struct HpackError;

/// One field of a block.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// As sent.
    pub name: &'a [u8],
    /// As sent.
    pub value: &'a [u8],
    /// The tag of the name.
    pub id: HeaderId,
    /// Both parts are known to have only bytes that a regular field may have.
    pub checked: bool,
}

/// The receiving end of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    limit: usize,
    /// Decoded strings of one field.
    scratch: Vec<u8>,
}

impl Decoder {
    /// An empty table of at most `limit` bytes, which the settings told the peer.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { table: Table::new(limit), limit, scratch: Vec::new() }
    }

    /// Reads a whole header block.
    ///
    /// # Errors
    /// [`HpackError`]; the connection must end.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut visit: impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let mut input = Input(block);
        let mut fields_seen = false;
        while let Some(&first) = input.0.first() {
            match first {
                0x80.. => {
                    let index = input.integer(7)?;
                    visit(lookup(&self.table, index)?);
                }
                0x40..0x80 => {
                    let field = literal(&self.table, &mut input, 6, &mut self.scratch)?;
                    visit(field);
                    let entry = Entry::new(field);
                    self.table.insert(entry);
                }
                0x20..0x40 => {
                    let size = input.integer(5)?;
                    if fields_seen || size > self.limit {
                        return Err(HpackError);
                    }
                    self.table.resize(size);
                    continue;
                }
                _ => visit(literal(&self.table, &mut input, 4, &mut self.scratch)?),
            }
            fields_seen = true;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }
}

fn lookup(table: &Table, index: usize) -> Result<Field<'_>, HpackError> {
    let index = index.checked_sub(1).ok_or(HpackError)?;
    if let Some((name, value)) = STATIC.get(index) {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        return Ok(Field { name, value, id: HeaderId::of(name), checked: true });
    }
    let entry = table.at(index - STATIC.len()).ok_or(HpackError)?;
    Ok(Field { name: entry.name(), value: entry.value(), id: entry.id, checked: entry.checked })
}

fn literal<'a, 'i: 'a>(
    table: &'a Table,
    input: &mut Input<'i>,
    prefix: u32,
    scratch: &'a mut Vec<u8>,
) -> Result<Field<'a>, HpackError> {
    let index = input.integer(prefix)?;
    scratch.clear();
    let name = match index {
        0 => input.string(scratch)?,
        _ => Text::Plain(lookup(table, index)?.name),
    };
    let value = input.string(scratch)?;
    let name = name.of(scratch);
    let value = value.of(scratch);
    let id = HeaderId::of(name);
    let checked = fields::is_name(name) && fields::is_value(value);
    Ok(Field { name, value, id, checked })
}

/// A string of the block: as it is there, or decoded.
enum Text<'a> {
    Plain(&'a [u8]),
    Decoded(usize, usize),
}

impl<'a> Text<'a> {
    fn of(self, scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Decoded(from, to) => &scratch[from..to],
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// RFC 7541, section 5.1; the prefix's own first bits are ignored.
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let (&first, mut rest) = self.0.split_first().ok_or(HpackError)?;
        let mask = (1u8 << prefix) - 1;
        let mut value = usize::from(first & mask);
        if first & mask == mask {
            let mut shift = 0;
            loop {
                let (&byte, after) = rest.split_first().ok_or(HpackError)?;
                rest = after;
                if shift > 21 {
                    return Err(HpackError);
                }
                value += usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.0 = rest;
        Ok(value)
    }

    fn string(&mut self, scratch: &mut Vec<u8>) -> Result<Text<'a>, HpackError> {
        let coded = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let len = self.integer(7)?;
        if len > self.0.len() || len > MAX_STRING {
            return Err(HpackError);
        }
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        if !coded {
            return Ok(Text::Plain(bytes));
        }
        let from = scratch.len();
        huffman::decode(bytes, scratch).map_err(|_| HpackError)?;
        if scratch.len() - from > MAX_STRING {
            return Err(HpackError);
        }
        Ok(Text::Decoded(from, scratch.len()))
    }
}
