//! Request heads from clients.

use std::ops::Range;

use smallvec::SmallVec;

use super::fields::{self, Collector, Framing, Malformed, slot};
use super::scan::{Scan, Scanner, is_version, split_start_line};
use super::{BodyLength, HeadError, HeadLimits, Parsed, target};
use crate::edge;
use crate::headers::{HeaderId, RequestHead};

/// What a request head says beside its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The head names its host, if only by an empty `host` line.
    pub has_host: bool,
    /// The client wants the connection closed after the reply.
    pub wants_close: bool,
    /// The client waits for `100 Continue`: send it at once, before anything
    /// else is decided. The field is removed by
    /// [`edge::to_upstream`](crate::edge::to_upstream).
    pub expect_continue: bool,
    /// An upgrade other than `h2c`. If a route matches before the header filter,
    /// it is answered with 403.
    pub upgrade: bool,
    /// Method CONNECT: there is no path.
    pub is_connect: bool,
    /// Method HEAD: the reply has no body.
    pub is_head: bool,
}

/// Parses the heads of one connection, one after the other.
#[derive(Debug, Default)]
pub struct Parser {
    scanner: Scanner,
    start_line_checked: bool,
}

impl Parser {
    /// True if part of a head was seen (empty lines in front do not count).
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.start_line_checked || self.scanner.has_begun()
    }

    /// Parses the head at the start of `buf` into `head`.
    ///
    /// After [`Parsed::Partial`] call again with the same bytes and more behind
    /// them; what was scanned is not scanned again. `head` is only meaningful
    /// after [`Parsed::Complete`]. A wrong start line is refused as soon as the
    /// line is there, everything else when the head is complete.
    ///
    /// # Errors
    ///
    /// [`HeadError`]; the connection must be closed after the reply.
    pub fn parse(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Parsed<RequestInfo>, HeadError> {
        let result = self.step(buf, limits, head);
        if !matches!(result, Ok(Parsed::Partial)) {
            self.scanner.reset();
            self.start_line_checked = false;
        }
        result
    }

    fn step(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Parsed<RequestInfo>, HeadError> {
        let scan = self.scanner.scan(buf, limits.max_bytes, true);
        if !self.start_line_checked
            && let Some(line) = self.scanner.first_line(buf)
        {
            if check_start_line(line)? == StartLine::WithoutVersion {
                return Err(refuse_without_version(line));
            }
            self.start_line_checked = true;
        }
        match scan {
            Scan::Partial => Ok(Parsed::Partial),
            Scan::TooLarge => Err(HeadError::TooLarge),
            Scan::StartsWithBlank => Err(HeadError::Syntax),
            Scan::Complete => {
                let (body, info) = self.complete(buf, limits, head)?;
                Ok(Parsed::Complete { consumed: self.scanner.consumed(), body, info })
            }
        }
    }

    fn complete(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<(BodyLength, RequestInfo), HeadError> {
        let block = self.scanner.head(buf);
        if !fields::is_clean(block) {
            return Err(HeadError::InvalidCharacters);
        }
        let (method, raw_target, version) =
            split_start_line(self.scanner.first_line(buf).unwrap_or_default());
        head.clear();
        head.set_method(method);

        let seen = self.collect(block, self.scanner.has_inner_cr(buf), limits, head)?;
        let mut has_host = seen.host;
        let is_connect = method == b"CONNECT";
        let upgrade = seen.upgrade && seen.connection && take_upgrade(head);
        if is_connect {
            check_connect(head)?;
        }
        let body = body_length(head, &seen, is_connect, limits.refuse_ambiguous)?;
        if seen.connection && !upgrade && !is_connect {
            has_host &= !remove_nominated(head)?;
        }

        let target = target::parse(method, raw_target)?;
        if let Some(authority) = target.authority {
            head.set_authority(authority);
            has_host = true;
        }
        head.set_path(target.path);
        if !target::is_authority(head.authority()) {
            return Err(HeadError::InvalidAuthority);
        }
        if version != b"HTTP/1.1" {
            return Err(HeadError::LowVersion);
        }
        let info = RequestInfo {
            has_host,
            wants_close: (seen.connection || seen.proxy_connection) && wants_close(head),
            expect_continue: seen.expect && edge::expects_continue(head),
            upgrade,
            is_connect,
            is_head: method == b"HEAD",
        };
        Ok((if upgrade || is_connect { BodyLength::UntilClose } else { body }, info))
    }

    /// Reads the field lines into `head`.
    fn collect(
        &self,
        block: &[u8],
        inner_cr: bool,
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Seen, HeadError> {
        let (first, rest) = self.scanner.ends().split_first().ok_or(HeadError::Syntax)?;
        let slot_of = fields::request_join_slot;
        let mut hosts: SmallVec<[Range<usize>; 2]> = SmallVec::new();
        let mut collector =
            Collector::new(&mut head.headers, block, slot_of, inner_cr, limits.max_fields);
        fields::walk(block, *first as usize, rest, |field| {
            let value = field.value.clone();
            if !collector.add_request(field)? {
                hosts.push(value);
            }
            Ok(())
        })
        .map_err(|Malformed| HeadError::Syntax)?;
        if !collector.framing.is_valid() {
            return Err(HeadError::Syntax);
        }
        if collector.is_overflown() {
            return Err(HeadError::TooManyFields);
        }
        let seen = Seen {
            framing: collector.framing,
            host: !hosts.is_empty(),
            connection: collector.has_seen(slot::CONNECTION),
            proxy_connection: collector.has_seen(slot::PROXY_CONNECTION),
            coding: collector.has_seen(slot::TRANSFER_ENCODING),
            upgrade: collector.has_seen(slot::UPGRADE),
            expect: collector.has_seen(slot::EXPECT),
        };
        for value in hosts {
            let value = &block[value];
            if memchr::memchr2(b'\r', b'\n', value).is_none() {
                head.append_authority(value);
            } else {
                head.append_authority(&fields::without_line_ends(value));
            }
        }
        Ok(seen)
    }
}

/// What the field lines held, so that heads are not searched for what is not
/// there.
struct Seen {
    framing: Framing,
    host: bool,
    connection: bool,
    proxy_connection: bool,
    coding: bool,
    upgrade: bool,
    expect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StartLine {
    Valid,
    /// HTTP/0.9: the request ends with its line.
    WithoutVersion,
}

fn check_start_line(line: &[u8]) -> Result<StartLine, HeadError> {
    let (method, target, version) = split_start_line(line);
    if !is_method(method) || !target::is_plausible(target, method == b"CONNECT") {
        return Err(HeadError::Syntax);
    }
    if version.is_empty() {
        return Ok(StartLine::WithoutVersion);
    }
    if is_version(version) { Ok(StartLine::Valid) } else { Err(HeadError::Syntax) }
}

/// What a request without a version is refused for.
fn refuse_without_version(line: &[u8]) -> HeadError {
    let (method, target, _) = split_start_line(line);
    if !fields::is_clean(line) {
        return HeadError::InvalidCharacters;
    }
    target::parse(method, target).err().unwrap_or(HeadError::LowVersion)
}

/// The methods that Envoy knows without `allow_custom_methods`.
fn is_method(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET"
            | b"POST"
            | b"PUT"
            | b"HEAD"
            | b"DELETE"
            | b"OPTIONS"
            | b"PATCH"
            | b"TRACE"
            | b"CONNECT"
            | b"ACL"
            | b"BIND"
            | b"CHECKOUT"
            | b"COPY"
            | b"LINK"
            | b"LOCK"
            | b"MERGE"
            | b"MKACTIVITY"
            | b"MKCALENDAR"
            | b"MKCOL"
            | b"MOVE"
            | b"MSEARCH"
            | b"NOTIFY"
            | b"PROPFIND"
            | b"PROPPATCH"
            | b"PURGE"
            | b"QUERY"
            | b"REBIND"
            | b"REPORT"
            | b"SEARCH"
            | b"SOURCE"
            | b"SUBSCRIBE"
            | b"UNBIND"
            | b"UNLINK"
            | b"UNLOCK"
            | b"UNSUBSCRIBE"
    )
}

/// True if the request asks for an upgrade. `h2c` is not one: its fields are
/// removed and the request goes on as HTTP/1.1.
fn take_upgrade(head: &mut RequestHead) -> bool {
    let Some(wanted) = head.headers.first(HeaderId::Upgrade) else {
        return false;
    };
    let connection = head.headers.first(HeaderId::Connection).unwrap_or_default();
    if !fields::has_token(connection, b"upgrade") {
        return false;
    }
    if !wanted.eq_ignore_ascii_case(b"h2c") {
        return true;
    }
    let is_left = |token: &&[u8]| {
        !token.eq_ignore_ascii_case(b"upgrade") && !token.eq_ignore_ascii_case(b"http2-settings")
    };
    let left = fields::tokens(connection).filter(is_left).collect::<Vec<_>>().join(&b',');
    head.headers.remove(HeaderId::Upgrade);
    head.headers.remove_named(b"http2-settings");
    if left.is_empty() {
        head.headers.remove(HeaderId::Connection);
    } else {
        head.headers.replace_named(b"connection", &left);
    }
    false
}

/// CONNECT has no body: a length of 0 is dropped, any other refused.
fn check_connect(head: &mut RequestHead) -> Result<(), HeadError> {
    match head.headers.first(HeaderId::ContentLength) {
        None => {}
        Some(b"0") => {
            head.headers.remove(HeaderId::ContentLength);
        }
        Some(_) => return Err(HeadError::BodyDisallowed),
    }
    Ok(())
}

/// How the body ends.
///
/// Envoy looks at the joined codings to see whether it serves them, and at the
/// last line as received to see whether there is a body: the two can differ
/// ([`HeadLimits::refuse_ambiguous`]).
fn body_length(
    head: &RequestHead,
    seen: &Seen,
    is_connect: bool,
    refuse_ambiguous: bool,
) -> Result<BodyLength, HeadError> {
    let framing = &seen.framing;
    if seen.coding {
        let codings = head.headers.first(HeaderId::TransferEncoding).unwrap_or_default();
        if head.headers.has(HeaderId::ContentLength) {
            return Err(HeadError::LengthAndCoding);
        }
        if !codings.eq_ignore_ascii_case(b"chunked")
            || is_connect
            || (refuse_ambiguous && !framing.chunked)
        {
            return Err(HeadError::TransferCoding);
        }
        return Ok(if framing.chunked { BodyLength::Chunked } else { BodyLength::None });
    }
    Ok(match framing.length {
        None | Some(0) => BodyLength::None,
        Some(length) => BodyLength::Length(length),
    })
}

/// Removes what `connection` nominates; says whether `host` was among it.
///
/// The bounds are Envoy's (`Http::Utility::sanitizeConnectionHeader`): fewer
/// than 10 tokens, a nominated `te` shorter than 256 bytes, no forwarding
/// header, no pseudo header.
fn remove_nominated(head: &mut RequestHead) -> Result<bool, HeadError> {
    let Some(connection) = head.headers.first(HeaderId::Connection) else {
        return Ok(false);
    };
    if fields::tokens(connection).count() >= 10 {
        return Err(HeadError::ConnectionHeader);
    }
    let is_name = |token: &&[u8]| {
        const KEPT: [&[u8]; 6] =
            [b"close", b"keep-alive", b"upgrade", b"http2-settings", b"connection", b""];
        !KEPT.iter().any(|kept| token.eq_ignore_ascii_case(kept))
    };
    if fields::tokens(connection).find(is_name).is_none() {
        return Ok(false);
    }
    let names: Vec<Vec<u8>> =
        fields::tokens(connection).filter(is_name).map(<[u8]>::to_ascii_lowercase).collect();
    let mut host = false;
    for name in &names {
        match name.as_slice() {
            b"x-forwarded-for" | b"x-forwarded-host" | b"x-forwarded-proto" | [b':', ..] => {
                return Err(HeadError::ConnectionHeader);
            }
            b"te" => {
                let Some(te) = head.headers.first(HeaderId::Te) else {
                    continue;
                };
                if te.len() >= 256 {
                    return Err(HeadError::ConnectionHeader);
                }
                if fields::has_token(te, b"trailers") {
                    head.headers.replace_named(b"te", b"trailers");
                } else {
                    head.headers.remove(HeaderId::Te);
                }
            }
            b"host" => {
                host = true;
                head.set_authority(b"");
            }
            name => {
                head.headers.remove_named(name);
            }
        }
    }
    Ok(host)
}

/// `close` in `connection` or `proxy-connection`.
fn wants_close(head: &RequestHead) -> bool {
    [HeaderId::Connection, HeaderId::ProxyConnection]
        .into_iter()
        .filter_map(|id| head.headers.first(id))
        .any(|value| fields::has_token(value, b"close"))
}

/// Parses a whole head at once; see [`Parser::parse`].
///
/// # Errors
///
/// [`HeadError`].
pub fn parse(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed<RequestInfo>, HeadError> {
    Parser::default().parse(buf, limits, head)
}
