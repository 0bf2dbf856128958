//! A walk over the raw bytes of a protobuf message, to take one repeated field
//! apart without decoding it (protobuf encoding guide, "message structure").

use super::Invalid;

/// One repeated sub-message field, and everything else.
#[derive(Debug, Default)]
pub(super) struct Split<'a> {
    /// The values of the field, in order.
    pub(super) parts: Vec<&'a [u8]>,
    /// The other fields, to be decoded as usual.
    pub(super) rest: Vec<u8>,
}

/// Takes the length-delimited field with this number out of `message`.
pub(super) fn split(message: &[u8], number: u64) -> Result<Split<'_>, Invalid> {
    let mut out = Split::default();
    let mut at = 0;
    while let Some(field) = next(message, at)? {
        match field.value {
            Some((from, to)) if field.number == number => out.parts.push(&message[from..to]),
            _ => out.rest.extend_from_slice(&message[at..field.end]),
        }
        at = field.end;
    }
    Ok(out)
}

/// The last value of a string field; none if it is not there or if the message
/// is malformed.
pub(crate) fn first_string(message: &[u8], number: u64) -> Option<&str> {
    let mut at = 0;
    let mut found = None;
    while let Some(field) = next(message, at).ok()? {
        if let Some((from, to)) = field.value
            && field.number == number
        {
            found = Some(&message[from..to]);
        }
        at = field.end;
    }
    std::str::from_utf8(found?).ok()
}

struct Field {
    number: u64,
    /// Range of a length-delimited value.
    value: Option<(usize, usize)>,
    /// Where the next field starts.
    end: usize,
}

fn next(message: &[u8], at: usize) -> Result<Option<Field>, Invalid> {
    if at >= message.len() {
        return Ok(None);
    }
    let malformed = || Invalid::new("malformed protobuf message");
    let (key, at) = varint(message, at).ok_or_else(malformed)?;
    let (value, end) = match key & 7 {
        0 => (None, varint(message, at).ok_or_else(malformed)?.1),
        1 => (None, at + 8),
        2 => {
            let (len, from) = varint(message, at).ok_or_else(malformed)?;
            let len = usize::try_from(len).map_err(|_| malformed())?;
            let to = from.checked_add(len).ok_or_else(malformed)?;
            (Some((from, to)), to)
        }
        5 => (None, at + 4),
        _ => return Err(malformed()),
    };
    if end > message.len() || key >> 3 == 0 {
        return Err(malformed());
    }
    Ok(Some(Field { number: key >> 3, value, end }))
}

fn varint(message: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *message.get(at)?;
        at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}
