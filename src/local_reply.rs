//! Replies that the proxy makes itself, and the table of what went wrong
//! upstream.

use std::borrow::Cow;

use bytes::Bytes;

use crate::flags::{ResponseFlag, ResponseFlags};
use crate::headers::{HeaderId, ResponseHead};
use crate::logic::retry::ResetKind;
use crate::transport::TransportFailure;

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

    /// A server answered a wish for a websocket with neither 101 nor an error.
    #[must_use]
    pub fn handshake_failed(status: u16) -> Self {
        Self::new(status, "", "websocket_handshake_unsuccessful")
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
        if self.overloaded {
            headers.push_known(HeaderId::XEnvoy, b"x-envoy-overloaded", b"true");
        }
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
    ConnectFailure(TransportFailure),
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
            Self::ConnectFailure(_) | Self::ConnectTimeout => {
                ResponseFlag::UpstreamConnectionFailure
            }
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
            Self::ConnectFailure(_) | Self::ConnectTimeout => {
                Retriable { as_reset: true, as_connect_failure: true, ..none }
            }
            Self::RefusedStream => Retriable { as_reset: true, as_refused_stream: true, ..none },
            Self::ConnectionTermination | Self::RemoteReset | Self::ProtocolError => {
                Retriable { as_reset: true, ..none }
            }
        }
    }

    /// What it is to the retry rules.
    #[must_use]
    pub fn reset_kind(self) -> ResetKind {
        match self {
            Self::NoCluster | Self::NoHealthyHost | Self::Overflow => ResetKind::Overflow,
            Self::ConnectFailure(_) => ResetKind::ConnectFailure,
            Self::ConnectTimeout => ResetKind::ConnectTimeout,
            Self::ConnectionTermination => ResetKind::Termination,
            Self::RemoteReset => ResetKind::RemoteReset,
            Self::RefusedStream => ResetKind::RemoteRefused,
            Self::ProtocolError => ResetKind::ProtocolError,
        }
    }

    /// Why the transport failed.
    #[must_use]
    pub fn transport(self) -> TransportFailure {
        match self {
            Self::ConnectFailure(failure) => failure,
            _ => TransportFailure::Silent,
        }
    }

    /// Envoy's `%RESPONSE_CODE_DETAILS%` of a request that ended so `when`
    /// (`before`, `after`) its answer had begun; `transport`: why the transport
    /// failed.
    #[must_use]
    pub fn details(self, when: &str, transport: Option<&str>) -> String {
        let reason = self.to_string().replace(' ', "_");
        let bar = if transport.is_some() { "|" } else { "" };
        let transport = transport.unwrap_or_default();
        format!("upstream_reset_{when}_response_started{{{reason}{bar}{transport}}}")
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
                reply.details = Cow::Owned(self.details("before", None));
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
            Self::ConnectFailure(_) => bodies!("remote connection failure"),
            Self::ConnectTimeout => bodies!("connection timeout"),
            Self::ConnectionTermination => bodies!("connection termination"),
            Self::RemoteReset => bodies!("remote reset"),
            Self::RefusedStream => bodies!("remote refused stream reset"),
            Self::ProtocolError => bodies!("protocol error"),
        };
        if retried { later } else { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::write::{ResponseFraming, response};

    fn rendered(reply: &LocalReply, form: RequestForm) -> String {
        let mut head = ResponseHead::default();
        reply.begin(form, &mut head);
        head.headers.push(b"x-seldon-route", b":m_1:");
        let body = reply.finish(form, &crate::date::http_date(0), &mut head);
        let mut out = Vec::new();
        let framing =
            ResponseFraming { close: false, to_head: form.head, has_body: !body.is_empty() };
        response(&mut out, &head, framing);
        out.extend_from_slice(&body);
        String::from_utf8_lossy(&out).replace("\r\n", "|")
    }

    const TEXT: &str =
        "upstream connect error or disconnect/reset before headers. reset reason: overflow";

    #[test]
    fn overflow_as_http() {
        let reply = UpstreamError::Overflow.reply(false);
        assert_eq!(
            rendered(&reply, RequestForm::default()),
            format!(
                "HTTP/1.1 503 Service Unavailable|x-seldon-route: :m_1:|x-envoy-overloaded: true|\
                 content-length: 81|content-type: text/plain|\
                 date: Thu, 01 Jan 1970 00:00:00 GMT|server: envoy||{TEXT}"
            )
        );
        assert_eq!(reply.flags.to_string(), "UO");
    }

    #[test]
    fn overflow_as_grpc() {
        assert_eq!(
            rendered(
                &UpstreamError::Overflow.reply(false),
                RequestForm { grpc: true, head: false }
            ),
            format!(
                "HTTP/1.1 200 OK|x-seldon-route: :m_1:|x-envoy-overloaded: true|\
                 content-type: application/grpc|grpc-status: 14|grpc-message: {TEXT}|\
                 date: Thu, 01 Jan 1970 00:00:00 GMT|server: envoy|content-length: 0||"
            )
        );
    }

    #[test]
    fn empty_reply_and_head() {
        let reply = LocalReply::no_route();
        let date = "date: Thu, 01 Jan 1970 00:00:00 GMT|server: envoy|";
        assert_eq!(
            rendered(&reply, RequestForm::default()),
            format!("HTTP/1.1 404 Not Found|x-seldon-route: :m_1:|{date}content-length: 0||")
        );
        assert_eq!(
            rendered(&reply, RequestForm { grpc: false, head: true }),
            format!(
                "HTTP/1.1 404 Not Found|x-seldon-route: :m_1:|{date}transfer-encoding: chunked||"
            )
        );
    }

    #[test]
    fn table_of_upstream_errors() {
        use UpstreamError as E;
        for (error, status, flag, reason) in [
            (E::ConnectFailure(TransportFailure::Silent), 503, "UF", "remote connection failure"),
            (E::ConnectTimeout, 503, "UF", "connection timeout"),
            (E::ConnectionTermination, 503, "UC", "connection termination"),
            (E::RemoteReset, 503, "UR", "remote reset"),
            (E::RefusedStream, 503, "UR", "remote refused stream reset"),
            (E::ProtocolError, 502, "UPE", "protocol error"),
            (E::Overflow, 503, "UO", "overflow"),
        ] {
            let first = error.reply(false);
            assert_eq!((first.status, first.flags.to_string().as_str()), (status, flag));
            let body = |retried| String::from_utf8_lossy(&error.reply(retried).body).into_owned();
            let prefix = "upstream connect error or disconnect/reset before headers.";
            assert_eq!(body(false), format!("{prefix} reset reason: {reason}"));
            assert_eq!(
                body(true),
                format!("{prefix} retried and the latest reset reason: {reason}")
            );
            assert_eq!(error.retriable().as_reset, error != E::Overflow);
        }
        assert_eq!(E::NoHealthyHost.reply(false).body, "no healthy upstream");
        assert!(E::NoCluster.reply(true).body.is_empty());
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode(b"a %\n\xe9~"), b"a %25%0A%E9~");
    }
}
