//! Errors of the codec as data: which reply each of them gets.

use std::borrow::Cow;

use bytes::Bytes;

use crate::flags::ResponseFlag;
use crate::local_reply::LocalReply;

/// Why a request head is refused by the codec. Every one closes the connection.
///
/// What a well-formed head is refused for is
/// [`edge::Refusal`](crate::edge::Refusal).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1: start line, field line, or length.
    #[error("malformed request")]
    Syntax,
    /// A control character.
    #[error("control character in the head")]
    InvalidCharacters,
    /// A target that names nothing.
    #[error("invalid request target")]
    InvalidUrl,
    /// An absolute target that is neither `http` nor `https`.
    #[error("invalid scheme in the request target")]
    InvalidScheme,
    /// `host` with a character that no authority has.
    #[error("invalid authority")]
    InvalidAuthority,
    /// CONNECT with a length.
    #[error("body with CONNECT")]
    BodyDisallowed,
    /// Both `content-length` and `transfer-encoding`.
    #[error("content-length beside transfer-encoding")]
    LengthAndCoding,
    /// `connection` nominates too much, or what it must not.
    #[error("connection header nominates what it must not")]
    ConnectionHeader,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer coding")]
    TransferCoding,
    /// More bytes than allowed.
    #[error("head too large")]
    TooLarge,
    /// More fields than allowed.
    #[error("too many fields")]
    TooManyFields,
    /// A version other than 1.1.
    #[error("HTTP version not served")]
    LowVersion,
}

impl HeadError {
    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    #[must_use]
    pub fn details(self) -> &'static str {
        match self {
            Self::Syntax => "http1.codec_error",
            Self::InvalidCharacters => "http1.invalid_characters",
            Self::InvalidUrl => "http1.invalid_url",
            Self::InvalidScheme => "http1.invalid_scheme",
            Self::InvalidAuthority => "http.invalid_authority",
            Self::BodyDisallowed => "http1.body_disallowed",
            Self::LengthAndCoding => "http1.content_length_and_chunked_not_allowed",
            Self::ConnectionHeader => "http1.connection_header_rejected",
            Self::TransferCoding => "http1.invalid_transfer_encoding",
            Self::TooLarge => "http1.headers_too_large",
            Self::TooManyFields => "http1.too_many_headers",
            Self::LowVersion => "low_version",
        }
    }

    /// The reply.
    #[must_use]
    pub fn reply(self) -> LocalReply {
        let (status, body) = match self {
            Self::LowVersion => (426, "Upgrade Required"),
            Self::TransferCoding => (501, "Not Implemented"),
            Self::TooLarge | Self::TooManyFields => (431, "Request Header Fields Too Large"),
            _ => (400, "Bad Request"),
        };
        LocalReply {
            status,
            body: Bytes::from_static(body.as_bytes()),
            flags: ResponseFlag::DownstreamProtocolError.into(),
            details: Cow::Borrowed(self.details()),
            close: true,
            follows_request: false,
            overloaded: false,
        }
    }
}

/// Why a chunked body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ChunkError {
    /// Chunk size, extension or trailer line.
    #[error("malformed chunk")]
    Syntax,
    /// A control character in a trailer.
    #[error("control character in a trailer")]
    InvalidCharacters,
    /// Trailers larger than a head may be.
    #[error("trailers too large")]
    TrailersTooLarge,
}

impl ChunkError {
    /// The reply to a client, if none was begun. The route's response headers
    /// apply: the request was routed when its body was read.
    #[must_use]
    pub fn reply(self) -> LocalReply {
        let mut reply = match self {
            Self::Syntax => HeadError::Syntax,
            Self::InvalidCharacters => HeadError::InvalidCharacters,
            Self::TrailersTooLarge => HeadError::TooLarge,
        }
        .reply();
        reply.follows_request = true;
        reply
    }
}

/// Why an upstream's response head is refused. All are one to the client:
/// [`UpstreamError::ProtocolError`](crate::local_reply::UpstreamError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResponseError {
    /// Not HTTP/1.
    #[error("malformed response")]
    Syntax,
    /// A control character.
    #[error("control character in the head")]
    InvalidCharacters,
    /// A length or coding where none may be, two of them, or an unknown one.
    #[error("ambiguous or forbidden message length")]
    Framing,
    /// More bytes than allowed.
    #[error("head too large")]
    TooLarge,
    /// More fields than allowed.
    #[error("too many fields")]
    TooManyFields,
}
