//! Field lines: syntax, obs-fold, joining of repeated standard fields.

use std::ops::Range;

use crate::headers::{HeaderId, Headers};

/// A block of field lines is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One field as it stands in a block of lines; parts are given as ranges of it.
pub(crate) struct RawField {
    /// Not empty, only token characters; case as received.
    pub(crate) name: Range<usize>,
    /// Without surrounding blanks; may contain CR and, if `folded`, LF.
    pub(crate) value: Range<usize>,
    /// Several lines.
    pub(crate) folded: bool,
}

/// True if no byte is a control other than tab, CR and LF.
pub(crate) fn is_clean(bytes: &[u8]) -> bool {
    // Written without a branch so that it compiles to vector instructions.
    !bytes.iter().fold(false, |bad, &b| {
        bad | ((b < 0x20) & (b != b'\t') & (b != b'\n') & (b != b'\r')) | (b == 0x7f)
    })
}

/// RFC 9110 `tchar`.
pub(crate) const fn is_token_byte(b: u8) -> bool {
    matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
        | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = is_token_byte(b as u8);
        b += 1;
    }
    table
};

/// Walks the field lines of `block` from `start` on, which end at `ends`
/// (offsets behind each LF); the last line is the empty one. Calls `each` for
/// every field; lines that begin with a blank continue the one before.
pub(crate) fn walk(
    block: &[u8],
    start: usize,
    ends: &[u32],
    mut each: impl FnMut(RawField) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let Some((_, lines)) = ends.split_last() else {
        return Ok(());
    };
    let mut from = start;
    let mut index = 0;
    while index < lines.len() {
        let mut to = lines[index] as usize;
        let mut folded = false;
        index += 1;
        while index < lines.len() {
            match block[to] {
                b' ' | b'\t' => {
                    to = lines[index] as usize;
                    folded = true;
                }
                b if b > b' ' => break,
                _ => return Err(Malformed),
            }
            index += 1;
        }
        let line = &block[from..to];
        let colon = line.iter().position(|&b| !TOKEN[b as usize]).ok_or(Malformed)?;
        if colon == 0 || line[colon] != b':' {
            return Err(Malformed);
        }
        let value = trim(block, from + colon + 1..to);
        each(RawField { name: from..from + colon, value, folded })?;
        from = to;
    }
    Ok(())
}

/// `range` of `block` without leading and trailing bytes up to a blank.
fn trim(block: &[u8], range: Range<usize>) -> Range<usize> {
    let Range { mut start, mut end } = range;
    while start < end && block[start] <= b' ' {
        start += 1;
    }
    while end > start && block[end - 1] <= b' ' {
        end -= 1;
    }
    start..end
}

/// Without leading and trailing spaces and tabs.
pub(crate) fn trim_blanks(value: &[u8]) -> &[u8] {
    let from = value.iter().position(|&b| b != b' ' && b != b'\t').unwrap_or(value.len());
    let to = value.iter().rposition(|&b| b != b' ' && b != b'\t').map_or(from, |last| last + 1);
    &value[from..to]
}

/// Comma-separated tokens, trimmed; what is empty before trimming is left out.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').filter(|t| !t.is_empty()).map(trim_blanks)
}

/// True if a comma-separated list has this token, whatever its case.
pub(crate) fn has_token(value: &[u8], token: &[u8]) -> bool {
    tokens(value).any(|t| t.eq_ignore_ascii_case(token))
}

/// `value` without CR and LF.
pub(crate) fn without_line_ends(value: &[u8]) -> Vec<u8> {
    value.iter().copied().filter(|&b| b != b'\r' && b != b'\n').collect()
}

/// Decimal digits only, at most `u64::MAX`.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |n, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// Adds fields to a head, joining those that Envoy joins, and counts.
pub(crate) struct Collector<'h> {
    headers: &'h mut Headers,
    /// Where the block of lines was copied to.
    base: usize,
    /// Which joinable names were seen, one bit for each slot.
    seen: u64,
    slot_of: fn(HeaderId, &[u8]) -> Option<u32>,
    /// Values may have a CR inside.
    inner_cr: bool,
    /// Entries that are not in `headers`: a request's host.
    outside: usize,
    max_fields: usize,
    /// What the fields say about the body.
    pub(crate) framing: Framing,
}

impl<'h> Collector<'h> {
    /// For the fields of `block`.
    pub(crate) fn new(
        headers: &'h mut Headers,
        block: &[u8],
        slot_of: fn(HeaderId, &[u8]) -> Option<u32>,
        inner_cr: bool,
        max_fields: usize,
    ) -> Self {
        let base = headers.adopt(block);
        let framing = Framing::default();
        Self { headers, base, seen: 0, slot_of, inner_cr, outside: 0, max_fields, framing }
    }

    /// True if there were more fields than allowed. What came behind was not
    /// stored.
    pub(crate) fn is_overflown(&self) -> bool {
        self.headers.len() + self.outside > self.max_fields
    }

    /// True if a joinable field was seen; by its slot.
    pub(crate) fn has_seen(&self, slot: u32) -> bool {
        self.seen & (1 << slot) != 0
    }

    /// Adds a request field; false if it is `host`, which is counted only.
    pub(crate) fn add_request(&mut self, field: RawField) -> Result<bool, Malformed> {
        let field = self.moved(field);
        let id = self.headers.lower_part(field.name.clone());
        if id == HeaderId::Host {
            self.outside = 1;
            return Ok(false);
        }
        self.add(id, field)?;
        Ok(true)
    }

    /// Adds a response field.
    pub(crate) fn add_response(&mut self, field: RawField) -> Result<(), Malformed> {
        let field = self.moved(field);
        let id = self.headers.lower_part(field.name.clone());
        self.add(id, field)
    }

    /// The same field in the copy.
    fn moved(&self, field: RawField) -> RawField {
        let at = |part: Range<usize>| part.start + self.base..part.end + self.base;
        RawField { name: at(field.name), value: at(field.value), folded: field.folded }
    }

    fn add(&mut self, id: HeaderId, field: RawField) -> Result<(), Malformed> {
        let raw = self.headers.part(field.value.clone());
        match id {
            HeaderId::ContentLength => self.framing.add_length(raw)?,
            HeaderId::TransferEncoding => self.framing.add_coding(raw),
            _ => {}
        }
        if self.headers.len() > self.max_fields {
            return Ok(());
        }
        let odd = (self.inner_cr || field.folded).then(|| without_line_ends(raw));
        let name = self.headers.part(field.name.clone());
        if let Some(slot) = (self.slot_of)(id, name) {
            let bit = 1u64 << slot;
            if self.seen & bit != 0 {
                let first = self.headers.iter().position(|f| f.name == name);
                let value = odd.unwrap_or_else(|| raw.to_vec());
                self.headers.append_at(first.unwrap_or(usize::MAX), &value);
                return Ok(());
            }
            self.seen |= bit;
        }
        let value = match odd {
            Some(value) => {
                let start = self.headers.adopt(&value);
                start..start + value.len()
            }
            None => field.value,
        };
        self.headers.push_part(id, field.name, value);
        Ok(())
    }
}

/// Slots that the codec itself asks for; the same for requests and responses.
pub(crate) mod slot {
    pub(crate) const CONNECTION: u32 = 0;
    pub(crate) const PROXY_CONNECTION: u32 = 1;
    pub(crate) const TRANSFER_ENCODING: u32 = 2;
    pub(crate) const UPGRADE: u32 = 3;
    pub(crate) const EXPECT: u32 = 4;
}

/// The slot of a request field that Envoy joins when it is repeated.
pub(crate) fn request_join_slot(id: HeaderId, name: &[u8]) -> Option<u32> {
    Some(match id {
        HeaderId::Connection => slot::CONNECTION,
        HeaderId::ProxyConnection => slot::PROXY_CONNECTION,
        HeaderId::TransferEncoding => slot::TRANSFER_ENCODING,
        HeaderId::Upgrade => slot::UPGRADE,
        HeaderId::Expect => slot::EXPECT,
        HeaderId::Accept => 5,
        HeaderId::ContentType => 6,
        HeaderId::GrpcTimeout => 7,
        HeaderId::KeepAlive => 8,
        HeaderId::Te => 9,
        HeaderId::UserAgent => 10,
        HeaderId::Via => 11,
        HeaderId::XForwardedFor => 12,
        HeaderId::XForwardedProto => 13,
        HeaderId::XRequestId => 14,
        HeaderId::XEnvoyOriginalPath => 15,
        HeaderId::XEnvoy => match name {
            b"x-envoy-attempt-count" => 16,
            b"x-envoy-decorator-operation" => 17,
            b"x-envoy-downstream-service-cluster" => 18,
            b"x-envoy-downstream-service-node" => 19,
            b"x-envoy-external-address" => 20,
            b"x-envoy-original-host" => 21,
            b"x-envoy-is-timeout-retry" => 22,
            _ => return None,
        },
        HeaderId::Other => match name {
            b"accept-encoding" => 23,
            b"access-control-request-headers" => 24,
            b"access-control-request-method" => 25,
            b"access-control-request-private-network" => 26,
            b"authentication" => 27,
            b"authorization" => 28,
            b"cache-control" => 29,
            b"content-encoding" => 30,
            b"grpc-accept-encoding" => 31,
            b"if-match" => 32,
            b"if-modified-since" => 33,
            b"if-none-match" => 34,
            b"if-range" => 35,
            b"if-unmodified-since" => 36,
            b"origin" => 37,
            b"pragma" => 38,
            b"proxy-status" => 39,
            b"referer" => 40,
            b"x-client-trace-id" => 41,
            b"x-forwarded-host" => 42,
            b"x-forwarded-port" => 43,
            _ => return None,
        },
        _ => return None,
    })
}

/// The slot of a response field that Envoy joins when it is repeated.
pub(crate) fn response_join_slot(id: HeaderId, name: &[u8]) -> Option<u32> {
    Some(match id {
        HeaderId::Connection => slot::CONNECTION,
        HeaderId::ProxyConnection => slot::PROXY_CONNECTION,
        HeaderId::TransferEncoding => slot::TRANSFER_ENCODING,
        HeaderId::Upgrade => slot::UPGRADE,
        HeaderId::ContentType => 4,
        HeaderId::Date => 5,
        HeaderId::GrpcMessage => 6,
        HeaderId::GrpcStatus => 7,
        HeaderId::KeepAlive => 8,
        HeaderId::Server => 9,
        HeaderId::Via => 10,
        HeaderId::XEnvoyRatelimited => 11,
        HeaderId::XEnvoyUpstreamServiceTime => 12,
        HeaderId::XRequestId => 13,
        HeaderId::XEnvoy => match name {
            b"x-envoy-attempt-count" => 14,
            b"x-envoy-decorator-operation" => 15,
            b"x-envoy-degraded" => 16,
            b"x-envoy-immediate-health-check-fail" => 17,
            b"x-envoy-upstream-canary" => 18,
            b"x-envoy-upstream-healthchecked-cluster" => 19,
            _ => return None,
        },
        HeaderId::Other => match name {
            b"access-control-allow-credentials" => 20,
            b"access-control-allow-headers" => 21,
            b"access-control-allow-methods" => 22,
            b"access-control-allow-origin" => 23,
            b"access-control-allow-private-network" => 24,
            b"access-control-expose-headers" => 25,
            b"access-control-max-age" => 26,
            b"age" => 27,
            b"cache-control" => 28,
            b"content-encoding" => 29,
            b"etag" => 30,
            b"expires" => 31,
            b"last-modified" => 32,
            b"location" => 33,
            b"proxy-status" => 34,
            b"vary" => 35,
            _ => return None,
        },
        _ => return None,
    })
}

/// What the fields say about the length of the body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Framing {
    /// A `content-length` line was seen.
    pub(crate) has_length: bool,
    /// Its value, none if it is not a number.
    pub(crate) length: Option<u64>,
    /// A `transfer-encoding` line was seen.
    pub(crate) has_coding: bool,
    /// The last one says `chunked` and nothing else.
    pub(crate) chunked: bool,
}

impl Framing {
    /// Takes a `content-length` line; a second one is malformed, even an equal one.
    pub(crate) fn add_length(&mut self, raw: &[u8]) -> Result<(), Malformed> {
        if self.has_length {
            return Err(Malformed);
        }
        self.has_length = true;
        self.length = parse_length(raw);
        Ok(())
    }

    /// Takes a `transfer-encoding` line.
    pub(crate) fn add_coding(&mut self, raw: &[u8]) {
        self.has_coding = true;
        self.chunked = raw.eq_ignore_ascii_case(b"chunked");
    }

    /// False if the length that counts is not a number.
    pub(crate) fn is_valid(&self) -> bool {
        self.chunked || !self.has_length || self.length.is_some()
    }
}
