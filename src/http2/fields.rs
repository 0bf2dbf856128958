//! What the fields of a header block must be (RFC 9113, section 8), decided as
//! Envoy's codec decides (nghttp2), and their way into our heads.

use std::ops::RangeInclusive;

use super::hpack::Field;
use crate::edge;
use crate::headers::{HeaderId, Headers, RequestHead, ResponseHead};
use crate::logic::mutation::{self, Side};

/// Bytes that a kind of text may have.
type Allowed = [bool; 256];

const fn allowed(ranges: &[RangeInclusive<u8>], more: &[u8]) -> Allowed {
    let mut table = [false; 256];
    let mut at = 0;
    while at < ranges.len() {
        let mut byte = *ranges[at].start() as usize;
        while byte <= *ranges[at].end() as usize {
            table[byte] = true;
            byte += 1;
        }
        at += 1;
    }
    at = 0;
    while at < more.len() {
        table[more[at] as usize] = true;
        at += 1;
    }
    table
}

static NAME: Allowed = allowed(&[b'a'..=b'z', b'0'..=b'9'], b"!#$%&'*+-.^_`|~");
static METHOD: Allowed = allowed(&[b'a'..=b'z', b'A'..=b'Z', b'0'..=b'9'], b"!#$%&'*+-.^_`|~");
static VALUE: Allowed = allowed(&[b' '..=b'~', 0x80..=0xff], b"\t");
static PATH: Allowed = allowed(&[b'!'..=b'~', 0x80..=0xff], b"");
static SCHEME: Allowed = allowed(&[b'a'..=b'z', b'A'..=b'Z', b'0'..=b'9'], b"+-.");
static AUTHORITY: Allowed =
    allowed(&[b'a'..=b'z', b'A'..=b'Z', b'0'..=b'9'], b"!$%&'()*+,-.:;=@[]_~");

fn all(text: &[u8], allowed: &Allowed) -> bool {
    text.iter().all(|&byte| allowed[usize::from(byte)])
}

/// True for the name of a regular field, in lower case.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && all(name, &NAME)
}

/// True for a value without control characters.
pub(super) fn is_value(value: &[u8]) -> bool {
    all(value, &VALUE)
}

/// What a header block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Request,
    Response,
    Trailers(Side),
    /// A stream that is not wanted (any more): read for the table's sake.
    Nobody,
}

/// Most fields, and bytes of names and values, of one header list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListLimits {
    pub(crate) fields: usize,
    pub(crate) bytes: usize,
}

/// Why a header list is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Against the protocol: the connection ends.
    Malformed,
    /// Over a limit: the stream ends.
    TooLarge,
}

mod seen {
    pub(super) const METHOD: u8 = 1;
    pub(super) const SCHEME: u8 = 2;
    pub(super) const PATH: u8 = 4;
    pub(super) const AUTHORITY: u8 = 8;
    pub(super) const HOST: u8 = 16;
    pub(super) const STATUS: u8 = 32;
    /// A regular field: no pseudo-header may follow.
    pub(super) const REGULAR: u8 = 64;
    pub(super) const HTTP: u8 = 128;
}

/// Collects the fields of one block.
#[derive(Debug)]
pub(super) struct Collector {
    purpose: Purpose,
    limits: ListLimits,
    pub(super) request: Box<RequestHead>,
    pub(super) response: Box<ResponseHead>,
    seen: u8,
    fields: usize,
    bytes: usize,
    cookies: bool,
    /// A bit per hash of the joined names so far: no second look for most.
    joined: u64,
    pub(super) length: Option<u64>,
    refused: Option<Refused>,
}

impl Collector {
    pub(super) fn new(limits: ListLimits) -> Self {
        Self {
            purpose: Purpose::Nobody,
            limits,
            request: Box::default(),
            response: Box::default(),
            seen: 0,
            fields: 0,
            bytes: 0,
            cookies: false,
            joined: 0,
            length: None,
            refused: None,
        }
    }

    pub(super) fn begin(&mut self, purpose: Purpose) {
        self.purpose = purpose;
        self.request.clear();
        self.response.clear();
        (self.seen, self.fields, self.bytes, self.cookies, self.joined) = (0, 0, 0, false, 0);
        self.length = None;
        self.refused = None;
    }

    /// Takes one field.
    pub(super) fn field(&mut self, field: Field<'_>) {
        if self.purpose == Purpose::Nobody || self.refused == Some(Refused::Malformed) {
            return;
        }
        let fine = match field.name.first() {
            Some(b':') => self.pseudo(field),
            _ => self.regular(field),
        };
        if fine.is_none() {
            self.refused = Some(Refused::Malformed);
        }
    }

    /// Counts a field; false if the list has become too large for it.
    fn fits(&mut self, field: Field<'_>) -> bool {
        self.fields += 1;
        self.bytes += field.name.len() + field.value.len();
        if self.fields > self.limits.fields || self.bytes > self.limits.bytes {
            self.refused = Some(Refused::TooLarge);
        }
        self.refused.is_none()
    }

    fn pseudo(&mut self, field: Field<'_>) -> Option<()> {
        if self.seen & seen::REGULAR != 0 || field.value.is_empty() {
            return None;
        }
        let value = field.value;
        let (bit, fine) = match (self.purpose, field.name) {
            (Purpose::Request, b":method") => (seen::METHOD, all(value, &METHOD)),
            (Purpose::Request, b":path") => (seen::PATH, all(value, &PATH)),
            (Purpose::Request, b":authority") => (seen::AUTHORITY, all(value, &AUTHORITY)),
            (Purpose::Request, b":scheme") => {
                let http = value.eq_ignore_ascii_case(b"http");
                let https = value.eq_ignore_ascii_case(b"https");
                if http || https {
                    self.seen |= seen::HTTP;
                }
                (seen::SCHEME, value[0].is_ascii_alphabetic() && all(value, &SCHEME))
            }
            (Purpose::Response, b":status") => {
                (seen::STATUS, value.len() == 3 && value.iter().all(u8::is_ascii_digit))
            }
            _ => return None,
        };
        if !fine || self.seen & bit != 0 {
            return None;
        }
        self.seen |= bit;
        if !self.fits(field) {
            return Some(());
        }
        match bit {
            seen::METHOD => self.request.set_method(value),
            seen::PATH => self.request.set_path(value),
            seen::AUTHORITY => self.request.set_authority(value),
            seen::STATUS => {
                self.response.status =
                    value.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
                if self.response.status == 101 || self.response.status < 100 {
                    return None;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn regular(&mut self, field: Field<'_>) -> Option<()> {
        self.seen |= seen::REGULAR;
        let valid = field.checked || (is_name(field.name) && is_value(field.value));
        if !valid {
            return None;
        }
        let request = self.purpose == Purpose::Request;
        match field.id {
            HeaderId::Connection
            | HeaderId::KeepAlive
            | HeaderId::ProxyConnection
            | HeaderId::TransferEncoding
            | HeaderId::Upgrade => return None,
            HeaderId::Te if !field.value.eq_ignore_ascii_case(b"trailers") => return None,
            HeaderId::ContentLength if !matches!(self.purpose, Purpose::Trailers(_)) => {
                let before = self.length.replace(decimal(field.value)?);
                if before.is_some() {
                    return None;
                }
            }
            HeaderId::Host if request => {
                let fine = !field.value.is_empty() && all(field.value, &AUTHORITY);
                if !fine || self.seen & seen::HOST != 0 {
                    return None;
                }
                self.seen |= seen::HOST;
            }
            HeaderId::Cookie => self.cookies = true,
            _ => {}
        }
        if !self.fits(field) {
            return Some(());
        }
        match self.purpose {
            Purpose::Request if field.id == HeaderId::Host => {
                if self.seen & seen::AUTHORITY == 0 {
                    self.request.set_authority(field.value);
                }
            }
            Purpose::Request => {
                append(&mut self.request.headers, &mut self.joined, Side::Request, field);
            }
            Purpose::Response => {
                append(&mut self.response.headers, &mut self.joined, Side::Response, field);
            }
            Purpose::Trailers(side) => {
                append(&mut self.response.headers, &mut self.joined, side, field);
            }
            Purpose::Nobody => {}
        }
        Some(())
    }

    /// Judges the whole list.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn end(&mut self) -> Result<(), Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        match self.purpose {
            Purpose::Request if !self.is_request() => return Err(Refused::Malformed),
            Purpose::Response if self.seen & seen::STATUS == 0 => return Err(Refused::Malformed),
            _ => {}
        }
        if self.purpose == Purpose::Request {
            if self.request.method() == b"CONNECT" {
                self.length = None;
            }
            if self.cookies {
                edge::join_cookies(&mut self.request);
            }
        }
        Ok(())
    }

    /// RFC 9113, section 8.3.1, as nghttp2 reads it.
    fn is_request(&self) -> bool {
        let has = |bits: u8| self.seen & bits != 0;
        if self.request.method() == b"CONNECT" {
            return has(seen::AUTHORITY) && !has(seen::SCHEME | seen::PATH);
        }
        if !(has(seen::METHOD) && has(seen::SCHEME) && has(seen::PATH)) {
            return false;
        }
        let path = self.request.path();
        let starred = path == b"*" && self.request.method() == b"OPTIONS";
        has(seen::AUTHORITY | seen::HOST)
            && (!has(seen::HTTP) || path.first() == Some(&b'/') || starred)
    }

    /// Takes the trailers.
    pub(super) fn take_trailers(&mut self) -> Box<Headers> {
        Box::new(std::mem::take(&mut self.response.headers))
    }
}

/// Adds a field as Envoy's header map does ([`mutation::append`]).
fn append(headers: &mut Headers, joined: &mut u64, side: Side, field: Field<'_>) {
    if mutation::is_folded(side, field.name) {
        let first = field.name.first().copied().unwrap_or_default();
        let last = field.name.last().copied().unwrap_or_default();
        let hash = usize::from(first) + usize::from(last) * 5 + field.name.len() * 11;
        let bit = 1 << (hash % 64);
        if *joined & bit != 0 {
            return mutation::append(headers, side, field.name, field.value);
        }
        *joined |= bit;
    }
    headers.push_known(field.id, field.name, field.value);
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ListLimits = ListLimits { fields: 10, bytes: 200 };
    const USUAL: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "h")];

    fn collect(purpose: Purpose, fields: &[(&str, &str)]) -> Result<Collector, Refused> {
        let mut collector = Collector::new(LIMITS);
        collector.begin(purpose);
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            collector.field(Field { name, value, id: HeaderId::of(name), checked: false });
        }
        collector.end().map(|()| collector)
    }

    fn request(extra: &[(&str, &str)]) -> Result<Collector, Refused> {
        collect(Purpose::Request, &[&USUAL, extra].concat())
    }

    #[test]
    fn repeated_standard_lines_of_a_request_are_joined_as_on_http1() {
        let lines = [("accept", "a"), ("accept", "b"), ("x-a", "1"), ("x-a", "2")];
        let head = request(&lines).expect("valid").request;
        let got: Vec<_> = head.headers.iter().map(|f| (f.name, f.value)).collect();
        assert_eq!(
            got,
            [(&b"accept"[..], &b"a,b"[..]), (&b"x-a"[..], &b"1"[..]), (&b"x-a"[..], &b"2"[..])]
        );
    }

    #[test]
    fn malformed_requests_are_refused() {
        let bad = [
            ("X-A", "b"),
            ("connection", "close"),
            ("te", "gzip"),
            ("te", ""),
            (":path", "/b"),
            (":a", "b"),
            (":protocol", "websocket"),
            (":status", "200"),
            ("a", "b\0c"),
            ("a", "b\nc"),
            ("a", "\x7f"),
            ("a b", "c"),
            ("", "c"),
            ("content-length", "x"),
            ("content-length", ""),
            ("host", "a b"),
        ];
        for field in bad {
            assert_eq!(request(&[field]).err(), Some(Refused::Malformed), "{field:?}");
        }
        for twice in [("host", "h"), ("content-length", "2")] {
            assert_eq!(request(&[twice, twice]).err(), Some(Refused::Malformed), "{twice:?}");
        }
        for missing in 0..4 {
            let mut fields = USUAL.to_vec();
            fields.remove(missing);
            assert_eq!(collect(Purpose::Request, &fields).err(), Some(Refused::Malformed));
        }
        let late = [USUAL[0], USUAL[1], USUAL[2], ("a", "b"), USUAL[3]];
        assert_eq!(collect(Purpose::Request, &late).err(), Some(Refused::Malformed));
    }

    #[test]
    fn odd_requests_that_envoy_takes_are_taken() {
        for field in [("te", "Trailers"), ("a", " b\t"), ("a", "\u{ff}"), ("host", "g")] {
            assert!(request(&[field]).is_ok(), "{field:?}");
        }
        let head = request(&[("host", "g")]).expect("valid").request;
        assert_eq!((head.authority(), head.headers.len()), (&b"h"[..], 0));
        let by_host = [USUAL[0], USUAL[1], USUAL[2], ("host", "g")];
        let head = collect(Purpose::Request, &by_host).expect("valid").request;
        assert_eq!(head.authority(), b"g");
        let star = [(":method", "OPTIONS"), USUAL[1], (":path", "*"), USUAL[3]];
        assert!(collect(Purpose::Request, &star).is_ok());
        let connect = [(":method", "CONNECT"), USUAL[3]];
        assert!(collect(Purpose::Request, &connect).is_ok());
    }

    #[test]
    fn lists_over_a_limit_are_told_apart() {
        let many = [("x-a", "b"); 7];
        assert_eq!(request(&many).err(), Some(Refused::TooLarge));
        let long = "b".repeat(200);
        assert_eq!(request(&[("x-a", &long)]).err(), Some(Refused::TooLarge));
        assert!(request(&many[..6]).is_ok());
    }

    #[test]
    fn answers_have_a_status_and_trailers_none() {
        assert_eq!(collect(Purpose::Response, &[("a", "b")]).err(), Some(Refused::Malformed));
        let head = collect(Purpose::Response, &[(":status", "299")]).expect("valid").response;
        assert_eq!(head.status, 299);
        for status in ["20", "2000", "abc", "101", "099"] {
            let refused = collect(Purpose::Response, &[(":status", status)]).err();
            assert_eq!(refused, Some(Refused::Malformed), "{status}");
        }
        let trailers = Purpose::Trailers(Side::Response);
        assert_eq!(collect(trailers, &[(":status", "200")]).err(), Some(Refused::Malformed));
        assert!(collect(trailers, &[("grpc-status", "0")]).is_ok());
    }
}
