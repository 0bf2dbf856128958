//! Header rules of the connection manager that hold for every HTTP version:
//! what is refused before routing, and what is removed or added on the way up
//! and on the way down (Envoy: `ConnectionManagerUtility`).

use std::borrow::Cow;

use bytes::Bytes;

use crate::flags::ResponseFlags;
use crate::headers::{HeaderId, Headers, RequestHead, ResponseHead, Scheme};
use crate::http1::fields;
use crate::local_reply::LocalReply;

/// Why a well-formed request is refused before it is routed.
///
/// A client that waits for `100 Continue` gets it before the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No `host` / `:authority`.
    #[error("no host")]
    MissingHost,
    /// The path is not empty and does not begin with `/` (`OPTIONS *`).
    #[error("path is not absolute")]
    PathNotAbsolute,
    /// QUERY without `content-type`.
    #[error("QUERY without content-type")]
    QueryWithoutContentType,
    /// `#` in the path.
    #[error("fragment in the path")]
    Fragment,
}

impl Refusal {
    /// The reply. One that does not close by itself still closes if the
    /// request's body was not read.
    #[must_use]
    pub fn reply(self) -> LocalReply {
        let (status, details) = match self {
            Self::MissingHost => (400, "missing_host_header"),
            Self::PathNotAbsolute => (404, "absolute_path_rejected"),
            Self::QueryWithoutContentType => (400, "query_missing_content_type"),
            Self::Fragment => (400, "path_normalization_failed"),
        };
        LocalReply {
            status,
            body: Bytes::new(),
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(details),
            close: status == 400,
            follows_request: true,
            overloaded: false,
        }
    }
}

/// Decides whether a request is routed at all.
///
/// `has_host`: the head named its host, if only by an empty value.
///
/// # Errors
///
/// [`Refusal`].
pub fn admit(head: &RequestHead, has_host: bool) -> Result<(), Refusal> {
    let path = head.path();
    if !has_host {
        return Err(Refusal::MissingHost);
    }
    if path.first().is_some_and(|&b| b != b'/') {
        return Err(Refusal::PathNotAbsolute);
    }
    if head.method() == b"QUERY"
        && head.headers.first(HeaderId::ContentType).unwrap_or_default().is_empty()
    {
        return Err(Refusal::QueryWithoutContentType);
    }
    if memchr::memchr(b'#', path).is_some() {
        return Err(Refusal::Fragment);
    }
    Ok(())
}

/// False if no route can match: an empty `x-forwarded-proto` leaves the request
/// without a scheme, which Envoy answers like an unknown route (404, `NR`).
#[must_use]
pub fn is_routable(head: &RequestHead) -> bool {
    head.headers.first(HeaderId::XForwardedProto).is_none_or(|v| !v.is_empty())
}

/// True if a local reply to this request takes the gRPC form.
#[must_use]
pub fn wants_grpc_reply(head: &RequestHead) -> bool {
    !head.path().is_empty() && head.is_grpc()
}

/// True if the client waits for `100 Continue`.
#[must_use]
pub fn expects_continue(head: &RequestHead) -> bool {
    head.headers.first(HeaderId::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"))
}

/// Applies the rules of the way up, before the header filter and the route:
/// hop-by-hop fields and Envoy's own control fields go, `te` is reduced to
/// `trailers`, an answered `expect` goes, `x-forwarded-proto` comes.
///
/// What `connection` nominates was removed by the HTTP/1 codec already.
pub fn to_upstream(head: &mut RequestHead) {
    way_up::<false>(head);
}

/// [`to_upstream`] for a request that asks for an upgrade: `connection`,
/// `upgrade` and `te` stay as they are.
pub fn upgrade_to_upstream(head: &mut RequestHead) {
    way_up::<true>(head);
}

/// True for the head of an upgrade, asked for or granted (Envoy:
/// `Http::Utility::isUpgrade`).
#[must_use]
pub fn is_upgrade(headers: &Headers) -> bool {
    let connection = headers.first(HeaderId::Connection).unwrap_or_default();
    headers.has(HeaderId::Upgrade) && fields::has_token(connection, b"upgrade")
}

/// True for a request that asks for a websocket.
#[must_use]
pub fn is_websocket(headers: &Headers) -> bool {
    let upgrade = headers.first(HeaderId::Upgrade).unwrap_or_default();
    upgrade.eq_ignore_ascii_case(b"websocket") && is_upgrade(headers)
}

fn way_up<const UPGRADE: bool>(head: &mut RequestHead) {
    let mut te = Te::Keep;
    let mut has_proto = false;
    head.headers.retain(|field| match field.id {
        HeaderId::Connection | HeaderId::Upgrade | HeaderId::Te if UPGRADE => true,
        HeaderId::Connection
        | HeaderId::KeepAlive
        | HeaderId::ProxyConnection
        | HeaderId::TransferEncoding
        | HeaderId::Upgrade => false,
        HeaderId::Expect => !field.value.eq_ignore_ascii_case(b"100-continue"),
        HeaderId::Te => {
            te = Te::of(field.value);
            te != Te::Remove
        }
        HeaderId::XEnvoy => !is_control(field.name),
        HeaderId::XForwardedProto => {
            has_proto = true;
            true
        }
        HeaderId::Other => field.name != b"x-forwarded-client-cert",
        _ => true,
    });
    if te == Te::Reduce {
        head.headers.replace_named(b"te", b"trailers");
    }
    if !has_proto {
        let scheme: &[u8] = match head.scheme {
            Scheme::Http => b"http",
            Scheme::Https => b"https",
        };
        head.headers.push_known(HeaderId::XForwardedProto, b"x-forwarded-proto", scheme);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Te {
    Keep,
    Reduce,
    Remove,
}

impl Te {
    /// An empty value stays; of others only the exact token `trailers`.
    fn of(value: &[u8]) -> Self {
        if value.is_empty() || value == b"trailers" {
            Self::Keep
        } else if fields::tokens(value).any(|t| t == b"trailers") {
            Self::Reduce
        } else {
            Self::Remove
        }
    }
}

/// `x-envoy-*` fields by which a client would steer the proxy.
fn is_control(name: &[u8]) -> bool {
    matches!(
        name.get(b"x-envoy-".len()..).unwrap_or_default(),
        b"expected-rq-timeout-ms"
            | b"force-trace"
            | b"hedge-on-per-try-timeout"
            | b"internal"
            | b"ip-tags"
            | b"max-retries"
            | b"original-url"
            | b"retriable-header-names"
            | b"retriable-status-codes"
            | b"retry-grpc-on"
            | b"retry-on"
            | b"upstream-alt-stat-name"
            | b"upstream-rq-per-try-timeout-ms"
            | b"upstream-rq-timeout-alt-response"
            | b"upstream-rq-timeout-ms"
            | b"upstream-stream-duration-ms"
    )
}

/// Joins HTTP/2 cookie crumbs into one line (RFC 9113 section 8.2.3), behind all
/// others as Envoy's codec does it.
pub fn join_cookies(head: &mut RequestHead) {
    let joined = head.headers.all(HeaderId::Cookie).collect::<Vec<_>>().join(&b"; "[..]);
    head.headers.remove(HeaderId::Cookie);
    head.headers.push_known(HeaderId::Cookie, b"cookie", &joined);
}

/// Applies the rules of the way down that come before the route's response
/// headers: hop-by-hop fields go, `x-envoy-upstream-service-time` is set in
/// place or appended.
///
/// `service_time_ms`: none if the upstream answered before the request was
/// complete.
pub fn from_upstream(head: &mut ResponseHead, service_time_ms: Option<u64>) {
    way_down::<false>(head, service_time_ms);
}

/// [`from_upstream`] for an answer that grants an upgrade: `connection` and
/// `upgrade` stay.
pub fn upgrade_from_upstream(head: &mut ResponseHead) {
    way_down::<true>(head, None);
}

fn way_down<const UPGRADE: bool>(head: &mut ResponseHead, service_time_ms: Option<u64>) {
    let mut has_time = false;
    head.headers.retain(|field| match field.id {
        HeaderId::Connection | HeaderId::Upgrade if UPGRADE => true,
        HeaderId::Connection
        | HeaderId::KeepAlive
        | HeaderId::ProxyConnection
        | HeaderId::TransferEncoding
        | HeaderId::Upgrade => false,
        HeaderId::XEnvoyUpstreamServiceTime => {
            has_time = true;
            true
        }
        _ => true,
    });
    let Some(time) = service_time_ms else {
        return;
    };
    const NAME: &[u8] = b"x-envoy-upstream-service-time";
    let mut digits = itoa::Buffer::new();
    let time = digits.format(time).as_bytes();
    if has_time {
        head.headers.replace_named(NAME, time);
    } else {
        head.headers.push_known(HeaderId::XEnvoyUpstreamServiceTime, NAME, time);
    }
}

/// Applies the rules of the way down that come after the route's response
/// headers: `date` if there is none, `server: envoy` in place or appended.
pub fn to_downstream(head: &mut ResponseHead, date: &[u8; 29]) {
    if !head.headers.has(HeaderId::Date) {
        head.headers.push_known(HeaderId::Date, b"date", date);
    }
    match head.headers.first(HeaderId::Server) {
        Some(b"envoy") => {}
        Some(_) => {
            head.headers.replace_named(b"server", b"envoy");
        }
        None => head.headers.push_known(HeaderId::Server, b"server", b"envoy"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(head: &RequestHead, name: &[u8]) -> Vec<Vec<u8>> {
        head.headers.all_named(name).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn cookie_crumbs_become_the_last_line() {
        let mut head = RequestHead::default();
        for (name, value) in [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")] {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        join_cookies(&mut head);
        assert_eq!(values(&head, b"cookie"), [b"a=1; b=2"]);
        assert_eq!(head.headers.at(1).map(|f| f.id), Some(HeaderId::Cookie));
    }

    #[test]
    fn transport_names_the_proto_unless_the_client_did() {
        let mut head = RequestHead::default();
        head.scheme = Scheme::Https;
        to_upstream(&mut head);
        to_upstream(&mut head);
        assert_eq!(values(&head, b"x-forwarded-proto"), [b"https"]);
    }

    #[test]
    fn refusals_are_decided_in_envoys_order() {
        let mut head = RequestHead::default();
        head.set_method(b"QUERY");
        head.set_path(b"*#");
        assert_eq!(admit(&head, false), Err(Refusal::MissingHost));
        assert_eq!(admit(&head, true), Err(Refusal::PathNotAbsolute));
        head.set_path(b"/#");
        assert_eq!(admit(&head, true), Err(Refusal::QueryWithoutContentType));
        head.headers.push(b"content-type", b"a/b");
        assert_eq!(admit(&head, true), Err(Refusal::Fragment));
        head.set_path(b"/");
        assert_eq!(admit(&head, true), Ok(()));
    }

    #[test]
    fn early_answers_have_no_service_time() {
        let mut head = ResponseHead::default();
        from_upstream(&mut head, None);
        assert!(head.headers.is_empty());
        from_upstream(&mut head, Some(12));
        assert_eq!(head.headers.first(HeaderId::XEnvoyUpstreamServiceTime), Some(&b"12"[..]));
    }
}
