//! The fields of a protobuf message as they are encoded (protobuf encoding guide,
//! "message structure").

/// Longest varint.
const VARINT: usize = 10;

/// The bytes are no field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken;

/// What is known of a field before its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) number: u64,
    /// The value's length stands before it, so it may be a message.
    pub(super) is_delimited: bool,
    /// Bytes before the value.
    pub(super) len: usize,
    /// Bytes of the value.
    pub(super) value: usize,
}

impl Head {
    /// The head of the field that begins here; none if more bytes are needed.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Broken> {
        let Some((key, key_len)) = varint(bytes)? else { return Ok(None) };
        let (is_delimited, len, value) = match key & 7 {
            0 => match varint(&bytes[key_len..])? {
                Some((_, value)) => (false, key_len, value),
                None => return Ok(None),
            },
            1 => (false, key_len, 8),
            2 => match varint(&bytes[key_len..])? {
                Some((value, len)) => {
                    (true, key_len + len, usize::try_from(value).map_err(|_| Broken)?)
                }
                None => return Ok(None),
            },
            5 => (false, key_len, 4),
            _ => return Err(Broken),
        };
        let number = key >> 3;
        if number == 0 { Err(Broken) } else { Ok(Some(Self { number, is_delimited, len, value })) }
    }
}

/// A varint and its length; none if more bytes are needed.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Broken> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(VARINT).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= VARINT { Err(Broken) } else { Ok(None) }
}

/// The last value of a string field; none if it is not there or if the message
/// is malformed.
pub(crate) fn first_string(message: &[u8], number: u64) -> Option<&str> {
    let mut rest = message;
    let mut found = None;
    while !rest.is_empty() {
        let head = Head::read(rest).ok()??;
        let value = rest.get(head.len..head.len.checked_add(head.value)?)?;
        if head.is_delimited && head.number == number {
            found = Some(value);
        }
        rest = &rest[head.len + head.value..];
    }
    std::str::from_utf8(found?).ok()
}
