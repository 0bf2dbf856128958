//! HTTP/1 as pure functions over bytes: no socket, no clock, no allocation per
//! message beyond the heads' own reusable buffers.
//!
//! The codec accepts and refuses exactly what Envoy 1.40 (its Balsa parser)
//! accepts and refuses; `tests/data/http1/` holds what the real one answered to
//! a thousand odd messages, and a test replays that table through this module.
//!
//! A connection that serves a client goes round like this:
//!
//! 1. [`request::Parser::parse`] on the bytes received so far until it is
//!    [`Parsed::Complete`]; the first `consumed` bytes are the head. A
//!    [`HeadError`] becomes a [`LocalReply`](crate::local_reply::LocalReply).
//! 2. [`edge`](crate::edge) applies the header rules that do not depend on the
//!    protocol version.
//! 3. The body is read by the decoder that [`BodyLength`] names
//!    ([`body::BodyDecoder`]), span by span, without copying.
//! 4. [`write::request`] towards the upstream, [`response::Parser`] for its
//!    answer, [`write::response`] towards the client, with
//!    [`body::chunk_head`] before and [`body::CHUNK_END`] behind each chunk.

pub mod body;
pub mod error;
pub(crate) mod fields;
pub mod request;
pub mod response;
pub(crate) mod scan;
pub mod status;
pub(crate) mod target;
pub mod write;

pub use error::{ChunkError, HeadError, ResponseError};

/// Bounds of a message head, and what is made of ambiguous ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of start line and fields with the final empty line; a head of
    /// exactly this size passes.
    pub max_bytes: usize,
    /// Entries after repeated standard fields were joined; a request's `host`
    /// counts.
    pub max_fields: usize,
    /// Refuses messages of which one proxy would read a body and another the
    /// next message: those whose codings say `chunked` when joined, but whose last
    /// `transfer-encoding` line as received does not (an empty line behind it, or
    /// a CR in the word). Envoy, and so the default, takes such a request for
    /// body-less and such an answer for one that lasts until the connection ends.
    pub refuse_ambiguous: bool,
}

impl HeadLimits {
    /// Requests: 60 KiB and 100 fields (Envoy: `max_request_headers_kb`,
    /// `max_headers_count`).
    pub const REQUEST: Self =
        Self { max_bytes: 60 * 1024, max_fields: 100, refuse_ambiguous: false };
    /// Responses: 80 KiB and 100 fields (Envoy's client codec).
    pub const RESPONSE: Self =
        Self { max_bytes: 80 * 1024, max_fields: 100, refuse_ambiguous: false };
}

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body: the message is complete.
    None,
    /// This many bytes, more than none.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Until the peer closes. A request only has this if it asks for an upgrade
    /// or is a CONNECT: it never completes, so every reply closes.
    UntilClose,
}

/// What the bytes received so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<Info> {
    /// Not yet a whole head.
    Partial,
    /// A head.
    Complete {
        /// Bytes of the head, from the start of the buffer.
        consumed: usize,
        /// What follows.
        body: BodyLength,
        /// What the start line and the fields say about the connection.
        info: Info,
    },
}

/// Which protocol a plain-text connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Too early to say.
    Unknown,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Looks at the first bytes of a connection (Envoy: codec type `AUTO`, which
/// takes `PRI * HTTP/2` for HTTP/2).
#[must_use]
pub fn detect(buf: &[u8]) -> Detected {
    const PREFACE: &[u8] = b"PRI * HTTP/2";
    let seen = buf.len().min(PREFACE.len());
    if buf[..seen] != PREFACE[..seen] {
        Detected::Http1
    } else if seen == PREFACE.len() {
        Detected::Http2
    } else {
        Detected::Unknown
    }
}
