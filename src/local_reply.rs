//! Replies that the proxy makes itself, and the table of what went wrong
//! upstream.

use std::borrow::Cow;

use bytes::Bytes;

use crate::flags::{ResponseFlag, ResponseFlags};
use crate::headers::{HeaderId, ResponseHead};

/// A reply that does not come from an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status; gRPC requests see 200 and the mapped gRPC status.
    pub status: u16,
    /// Text, possibly empty; for gRPC requests it becomes `grpc-message`.
    pub body: Bytes,
    /// For the access log.
    pub flags: ResponseFlags,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// The connection (HTTP/1) closes after the reply. Every local reply closes
    /// if the request is not complete.
    pub close: bool,
    /// The request was understood: a gRPC request gets the gRPC form, HEAD no
    /// body.
    pub follows_request: bool,
    /// Adds `x-envoy-overloaded: true`.
    pub overloaded: bool,
}

/// What a local reply needs to know about its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestForm {
    /// [`edge::wants_grpc_reply`](crate::edge::wants_grpc_reply).
    pub grpc: bool,
    /// Method HEAD.
    pub head: bool,
}

impl LocalReply {
    /// A reply to an understood request that leaves the connection open.
    #[must_use]
    pub fn new(status: u16, body: &'static str, details: &'static str) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(details),
            close: false,
            follows_request: true,
            overloaded: false,
        }
    }

    /// The same with a flag.
    #[must_use]
    pub fn flagged(mut self, flag: ResponseFlag) -> Self {
        self.flags.set(flag);
        self
    }

    /// No route matched.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(404, "", "route_not_found").flagged(ResponseFlag::NoRoute)
    }

    /// The request asks for an upgrade.
    #[must_use]
    pub fn upgrade_refused() -> Self {
        Self::new(403, "", "upgrade_failed")
    }

    /// Nothing moved for the stream idle timeout; `request_complete`: the
    /// request was read in full.
    #[must_use]
    pub fn stream_idle(request_complete: bool) -> Self {
        let status = if request_complete { 504 } else { 408 };
        let mut reply = Self::new(status, "stream timeout", "stream_idle_timeout")
            .flagged(ResponseFlag::StreamIdleTimeout);
        reply.close = !request_complete;
        reply
    }

    /// The route's timeout passed.
    #[must_use]
    pub fn route_timeout() -> Self {
        Self::new(504, "upstream request timeout", "response_timeout")
            .flagged(ResponseFlag::UpstreamRequestTimeout)
    }

    /// Begins the head. The route's response headers are applied between this
    /// and [`LocalReply::finish`].
    pub fn begin(&self, form: RequestForm, head: &mut ResponseHead) {
        head.clear();
        head.status = if self.is_grpc(form) { 200 } else { self.status };
        if self.overloaded {
            head.headers.push_known(HeaderId::XEnvoy, b"x-envoy-overloaded", b"true");
        }
    }

    /// Completes the head and says which body follows. `connection` and, for an
    /// empty body, `content-length: 0` are the codec's
    /// ([`http1::write::response`](crate::http1::write::response)).
    ///
    /// For gRPC on HTTP/2 the head ends the stream.
    #[must_use]
    pub fn finish(&self, form: RequestForm, date: &[u8; 29], head: &mut ResponseHead) -> Bytes {
        let mut digits = itoa::Buffer::new();
        let mut body = Bytes::new();
        let headers = &mut head.headers;
        if self.is_grpc(form) {
            headers.set_named(b"content-type", b"application/grpc");
            headers.set_named(b"grpc-status", digits.format(grpc_status(self.status)).as_bytes());
            if !self.body.is_empty() {
                headers.set_named(b"grpc-message", &percent_encode(&self.body));
            }
        } else if !self.body.is_empty() {
            headers.set_named(b"content-length", digits.format(self.body.len()).as_bytes());
            headers.set_named(b"content-type", b"text/plain");
            if !(form.head && self.follows_request) {
                body = self.body.clone();
            }
        }
        crate::edge::to_downstream(head, date);
        body
    }

    /// The gRPC status that a gRPC request sees, for the access log.
    #[must_use]
    pub fn grpc_status(&self, form: RequestForm) -> Option<u8> {
        self.is_grpc(form).then(|| grpc_status(self.status))
    }

    fn is_grpc(&self, form: RequestForm) -> bool {
        form.grpc && self.follows_request
    }
}

/// gRPC status of an HTTP status (Envoy: `Grpc::Utility::httpToGrpcStatus`).
#[must_use]
pub fn grpc_status(http_status: u16) -> u8 {
    match http_status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Percent-encodes a `grpc-message` (gRPC over HTTP/2, "Status-Message").
#[must_use]
pub fn percent_encode(text: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for &b in text {
        if (b' '..=b'~').contains(&b) && b != b'%' {
            out.push(b);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
    }
    out
}

/// Why an attempt brought no response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UpstreamError {
    /// The route's cluster is unknown.
    #[error("unknown cluster")]
    NoCluster,
    /// The cluster has no host.
    #[error("no healthy upstream")]
    NoHealthyHost,
    /// A limit of the cluster was reached.
    #[error("overflow")]
    Overflow,
    /// Connection refused, unreachable, or TLS handshake failed.
    #[error("remote connection failure")]
    ConnectFailure,
    /// Connection not made in time.
    #[error("connection timeout")]
    ConnectTimeout,
    /// The connection ended before the first byte of a response head.
    #[error("connection termination")]
    ConnectionTermination,
    /// HTTP/2 RST_STREAM with any code but `REFUSED_STREAM`.
    #[error("remote reset")]
    RemoteReset,
    /// HTTP/2 `REFUSED_STREAM`, or GOAWAY below the stream.
    #[error("remote refused stream reset")]
    RefusedStream,
    /// Not HTTP; also a connection that ended within a response head.
    #[error("protocol error")]
    ProtocolError,
}

/// What retry policies say about an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retriable {
    /// `5xx`, `gateway-error` and `reset` apply.
    pub as_reset: bool,
    /// `connect-failure` applies.
    pub as_connect_failure: bool,
    /// `refused-stream` applies.
    pub as_refused_stream: bool,
}

impl UpstreamError {
    /// HTTP status of the reply.
    #[must_use]
    pub fn status(self) -> u16 {
        if self == Self::ProtocolError { 502 } else { 503 }
    }

    /// Flag for the access log.
    #[must_use]
    pub fn flag(self) -> ResponseFlag {
        match self {
            Self::NoCluster => ResponseFlag::NoCluster,
            Self::NoHealthyHost => ResponseFlag::NoHealthyUpstream,
            Self::Overflow => ResponseFlag::UpstreamOverflow,
            Self::ConnectFailure | Self::ConnectTimeout => ResponseFlag::UpstreamConnectionFailure,
            Self::ConnectionTermination => ResponseFlag::UpstreamConnectionTermination,
            Self::RemoteReset | Self::RefusedStream => ResponseFlag::UpstreamRemoteReset,
            Self::ProtocolError => ResponseFlag::UpstreamProtocolError,
        }
    }

    /// What retry policies say.
    #[must_use]
    pub fn retriable(self) -> Retriable {
        let none = Retriable::default();
        match self {
            Self::NoCluster | Self::NoHealthyHost | Self::Overflow => none,
            Self::ConnectFailure | Self::ConnectTimeout => {
                Retriable { as_reset: true, as_connect_failure: true, ..none }
            }
            Self::RefusedStream => Retriable { as_reset: true, as_refused_stream: true, ..none },
            Self::ConnectionTermination | Self::RemoteReset | Self::ProtocolError => {
                Retriable { as_reset: true, ..none }
            }
        }
    }

    /// The reply; `retried`: at least one retry was made before this error.
    #[must_use]
    pub fn reply(self, retried: bool) -> LocalReply {
        let mut reply = match self {
            Self::NoCluster => LocalReply::new(503, "", "cluster_not_found"),
            Self::NoHealthyHost => {
                LocalReply::new(503, "no healthy upstream", "no_healthy_upstream")
            }
            _ => {
                let mut reply = LocalReply::new(self.status(), self.reset_body(retried), "");
                reply.details = Cow::Owned(format!(
                    "upstream_reset_before_response_started{{{}}}",
                    self.to_string().replace(' ', "_")
                ));
                reply
            }
        };
        reply.overloaded = self == Self::Overflow;
        reply.flagged(self.flag())
    }

    fn reset_body(self, retried: bool) -> &'static str {
        macro_rules! bodies {
            ($reason:literal) => {
                (
                    concat!(
                        "upstream connect error or disconnect/reset before headers. ",
                        "reset reason: ",
                        $reason
                    ),
                    concat!(
                        "upstream connect error or disconnect/reset before headers. ",
                        "retried and the latest reset reason: ",
                        $reason
                    ),
                )
            };
        }
        let (first, later) = match self {
            Self::NoCluster | Self::NoHealthyHost => ("", ""),
            Self::Overflow => bodies!("overflow"),
            Self::ConnectFailure => bodies!("remote connection failure"),
            Self::ConnectTimeout => bodies!("connection timeout"),
            Self::ConnectionTermination => bodies!("connection termination"),
            Self::RemoteReset => bodies!("remote reset"),
            Self::RefusedStream => bodies!("remote refused stream reset"),
            Self::ProtocolError => bodies!("protocol error"),
        };
        if retried { later } else { first }
    }
}
