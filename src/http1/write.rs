//! Writing heads.

use crate::headers::{HeaderId, Headers, RequestHead, ResponseHead};

use super::status::reason;

/// How a body leaves behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is (`content-length` is in the head), or there is none.
    Plain,
    /// Each piece between [`chunk_head`](super::body::chunk_head) and
    /// [`CHUNK_END`](super::body::CHUNK_END), then
    /// [`LAST_CHUNK`](super::body::LAST_CHUNK).
    Chunked,
}

/// The interim answer to `expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends a request head to `out`: `host` first, then the fields, then
/// `transfer-encoding: chunked` if a body follows whose length no field tells,
/// or `content-length: 0` if none follows and the method expects one.
///
/// `has_body`: the request does not end with its head.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, has_body: bool) -> Coding {
    let has_length = request_fields(out, head);
    let expects_body =
        !matches!(head.method(), b"GET" | b"HEAD" | b"DELETE" | b"TRACE" | b"CONNECT");
    let (end, coding): (&[u8], _) = match (has_length, has_body) {
        (false, true) => (b"transfer-encoding: chunked\r\n\r\n", Coding::Chunked),
        (false, false) if expects_body => (b"content-length: 0\r\n\r\n", Coding::Plain),
        _ => (b"\r\n", Coding::Plain),
    };
    out.extend_from_slice(end);
    coding
}

/// Appends the head of a request for an upgrade: raw bytes follow, whatever its
/// fields say.
pub fn upgrade(out: &mut Vec<u8>, head: &RequestHead) {
    request_fields(out, head);
    out.extend_from_slice(b"\r\n");
}

/// Appends request line and fields; true if `content-length` is among them.
fn request_fields(out: &mut Vec<u8>, head: &RequestHead) -> bool {
    let (method, path, host) = (head.method(), head.path(), head.authority());
    out.reserve(size(&head.headers) + method.len() + path.len() + host.len() + 64);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(path);
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
    fields(out, &head.headers)
}

/// What a response head must know that is not in its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFraming {
    /// Adds `connection: close`.
    pub close: bool,
    /// The request was HEAD: no body is sent.
    pub to_head: bool,
    /// The response does not end with its head. For HEAD: the upstream's body,
    /// though never sent, is ignored, so this does not matter.
    pub has_body: bool,
}

/// Appends a response head to `out`, with Envoy's reason phrase, then the
/// fields, `connection: close`, and `transfer-encoding: chunked` or
/// `content-length: 0` where no field tells the length.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, framing: ResponseFraming) -> Coding {
    let mut digits = itoa::Buffer::new();
    out.reserve(size(&head.headers) + 128);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(digits.format(head.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let has_length = fields(out, &head.headers);
    if framing.close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    let length_is_known = has_length || matches!(head.status, 100..=199 | 204 | 304);
    let (end, coding): (&[u8], _) = if length_is_known {
        (b"\r\n", Coding::Plain)
    } else if framing.to_head {
        (b"transfer-encoding: chunked\r\n\r\n", Coding::Plain)
    } else if framing.has_body {
        (b"transfer-encoding: chunked\r\n\r\n", Coding::Chunked)
    } else {
        (b"content-length: 0\r\n\r\n", Coding::Plain)
    };
    out.extend_from_slice(end);
    coding
}

/// Appends the fields; true if `content-length` is among them.
fn fields(out: &mut Vec<u8>, headers: &Headers) -> bool {
    let mut has_length = false;
    for field in headers.iter() {
        has_length |= field.id == HeaderId::ContentLength;
        out.extend_from_slice(field.name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
    has_length
}

fn size(headers: &Headers) -> usize {
    headers.iter().map(|f| f.name.len() + f.value.len() + 4).sum()
}
