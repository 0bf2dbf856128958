//! Header additions and removals of target, route, virtual host and table
//! (Envoy: `HeaderParser::evaluateHeaders`).
//!
//! The levels are applied in the order given, target first. One level: remove;
//! then work out every value against what is there now; then write the
//! overwrites, then the additions, each in table order.

use smallvec::SmallVec;

use super::format::{Format, FormatError, LogContext};
use crate::headers::{Headers, RequestHead, ResponseHead};
use crate::model::{AppendAction, HeaderMutations, HeaderValue};

impl HeaderValue {
    /// The value of a `HeaderValue` message: text with command operators, or
    /// plain text if there is none in it.
    ///
    /// # Errors
    /// The text is not a valid format string.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let format = Format::parse(text)?;
        Ok(match format.plain() {
            Some(plain) => Self::Plain(plain.into()),
            None => Self::Format(Box::new(format)),
        })
    }
}

/// Applies the request mutations of `levels`, in order. `context` supplies
/// everything that format values read but the request head itself; `scratch` is
/// memory to reuse.
pub fn apply_request<'m>(
    head: &mut RequestHead,
    levels: impl IntoIterator<Item = &'m HeaderMutations>,
    context: &LogContext<'_>,
    scratch: &mut Vec<u8>,
) {
    for level in levels {
        remove(&mut head.headers, level);
        let pending = evaluate(&head.headers, level, scratch, |format, out| {
            format.render_value(&LogContext { request: Some(head), ..*context }, out);
        });
        write(&mut head.headers, Side::Request, level, &pending, scratch);
    }
}

/// Applies the response mutations of `levels`, in order; otherwise as
/// [`apply_request`].
pub fn apply_response<'m>(
    head: &mut ResponseHead,
    levels: impl IntoIterator<Item = &'m HeaderMutations>,
    context: &LogContext<'_>,
    scratch: &mut Vec<u8>,
) {
    for level in levels {
        remove(&mut head.headers, level);
        let pending = evaluate(&head.headers, level, scratch, |format, out| {
            format.render_value(&LogContext { response: Some(head), ..*context }, out);
        });
        write(&mut head.headers, Side::Response, level, &pending, scratch);
    }
}

/// A field to write: its entry in `HeaderMutations::add`, and where in the
/// scratch memory its value is if it was formatted.
struct Pending {
    entry: usize,
    formatted: Option<(usize, usize)>,
    overwrite: bool,
}

fn remove(headers: &mut Headers, level: &HeaderMutations) {
    for name in level.removed() {
        headers.remove_named(name.as_bytes());
    }
}

fn evaluate(
    headers: &Headers,
    level: &HeaderMutations,
    scratch: &mut Vec<u8>,
    render: impl Fn(&Format, &mut Vec<u8>),
) -> SmallVec<[Pending; 8]> {
    scratch.clear();
    let mut pending = SmallVec::new();
    for (entry, add) in level.add.iter().enumerate() {
        let (empty, formatted) = match &add.value {
            HeaderValue::Plain(value) => (value.is_empty(), None),
            HeaderValue::Format(format) => {
                let from = scratch.len();
                render(format, scratch);
                (scratch.len() == from, Some((from, scratch.len())))
            }
        };
        if empty && !add.keep_empty {
            continue;
        }
        let exists = || headers.first_named(add.name.as_bytes()).is_some();
        let overwrite = match add.action {
            AppendAction::AppendIfExistsOrAdd => false,
            AppendAction::AddIfAbsent if exists() => continue,
            AppendAction::AddIfAbsent => false,
            AppendAction::OverwriteIfExists if !exists() => continue,
            AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd => true,
        };
        pending.push(Pending { entry, formatted, overwrite });
    }
    pending
}

fn write(
    headers: &mut Headers,
    side: Side,
    level: &HeaderMutations,
    pending: &[Pending],
    scratch: &[u8],
) {
    for overwrite in [true, false] {
        for p in pending.iter().filter(|p| p.overwrite == overwrite) {
            let add = &level.add[p.entry];
            let value = match (&add.value, p.formatted) {
                (_, Some((from, to))) => &scratch[from..to],
                (HeaderValue::Plain(value), None) => value,
                (HeaderValue::Format(_), None) => continue,
            };
            let name = add.name.as_bytes();
            if overwrite {
                headers.remove_named(name);
            }
            append(headers, side, name, value);
        }
    }
}

/// Whose header map: which names are joined differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// Adds a field as Envoy's header map does: a line of its own, or, for a name
/// that [`is_folded`], joined to the line that is there.
pub fn append(headers: &mut Headers, side: Side, name: &[u8], value: &[u8]) {
    if is_folded(side, name) {
        let there = headers.iter().position(|f| f.name == name);
        if let Some((at, field)) = there.and_then(|at| Some((at, headers.at(at)?))) {
            if value.is_empty() {
                return;
            }
            let mut joined: SmallVec<[u8; 256]> = SmallVec::from_slice(field.value);
            if !joined.is_empty() {
                joined.push(b',');
            }
            joined.extend_from_slice(value);
            return headers.replace_at(at, &joined);
        }
    }
    headers.push(name, value);
}

/// True for lower-case names that Envoy's header map holds once, joining
/// repeated lines with a comma (its inline headers; the list was taken by
/// observing 1.40).
#[must_use]
pub fn is_folded(side: Side, name: &[u8]) -> bool {
    match name {
        b"cache-control"
        | b"connection"
        | b"content-encoding"
        | b"content-length"
        | b"content-type"
        | b"keep-alive"
        | b"proxy-connection"
        | b"proxy-status"
        | b"transfer-encoding"
        | b"upgrade"
        | b"via"
        | b"x-envoy-attempt-count"
        | b"x-envoy-decorator-operation"
        | b"x-request-id" => true,
        b"accept"
        | b"accept-encoding"
        | b"access-control-request-headers"
        | b"access-control-request-method"
        | b"authorization"
        | b"expect"
        | b"grpc-accept-encoding"
        | b"grpc-timeout"
        | b"if-match"
        | b"if-modified-since"
        | b"if-none-match"
        | b"if-range"
        | b"if-unmodified-since"
        | b"origin"
        | b"pragma"
        | b"referer"
        | b"te"
        | b"user-agent"
        | b"x-client-trace-id"
        | b"x-envoy-downstream-service-cluster"
        | b"x-envoy-downstream-service-node"
        | b"x-envoy-external-address"
        | b"x-envoy-is-timeout-retry"
        | b"x-envoy-original-host"
        | b"x-envoy-original-path"
        | b"x-forwarded-for"
        | b"x-forwarded-host"
        | b"x-forwarded-port"
        | b"x-forwarded-proto" => side == Side::Request,
        b"access-control-allow-origin"
        | b"access-control-expose-headers"
        | b"age"
        | b"date"
        | b"etag"
        | b"expires"
        | b"grpc-message"
        | b"grpc-status"
        | b"last-modified"
        | b"location"
        | b"server"
        | b"vary"
        | b"x-envoy-degraded"
        | b"x-envoy-ratelimited"
        | b"x-envoy-upstream-service-time" => side == Side::Response,
        _ => false,
    }
}

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod tests;
