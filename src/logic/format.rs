//! Envoy's command operators (`%REQ(...)%`), parsed once.
//!
//! A format string is text with operators `%NAME%`, `%NAME(argument)%`,
//! `%NAME(argument):LENGTH%`; `%%` is one percent sign. Access logs render a
//! missing value as `-`, header values as nothing.

mod operator;
mod render;
mod strftime;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::headers::{Headers, RequestHead, ResponseHead};
use operator::Operator;
pub use render::{answer_status, grpc_status, grpc_status_name};

/// A parsed format string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    /// An operator and the most bytes that it may render.
    Operator(Operator, Option<usize>),
}

/// Why a format string was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` that begins no operator; Envoy's wording.
    #[error(
        "Incorrect configuration: {format}. Couldn't find valid command at position {position}"
    )]
    Syntax {
        /// The whole string.
        format: String,
        /// Byte offset of the `%`.
        position: usize,
    },
    /// An operator that does not exist, or is not known here; begins with
    /// Envoy's wording.
    #[error("Not supported field in StreamInfo: {name} (at position {position})")]
    Unknown {
        /// The operator's name.
        name: String,
        /// Byte offset of its `%`.
        position: usize,
    },
    /// An argument or a length that the operator does not take; Envoy's
    /// wording where it has one.
    #[error("{reason} (at position {position})")]
    Argument {
        /// What is wrong, the operator's name first.
        reason: String,
        /// Byte offset of its `%`.
        position: usize,
    },
}

/// What operators read, borrowed from the request's state. Fields that are not
/// known stay at their default and render as missing.
#[derive(Clone, Copy, Debug)]
pub struct LogContext<'a> {
    /// Request head after the route's mutations.
    pub request: Option<&'a RequestHead>,
    /// The request was refused before it got a scheme.
    pub schemeless: bool,
    /// The request names no host.
    pub nameless: bool,
    /// Response head as the client got it.
    pub response: Option<&'a ResponseHead>,
    /// Response trailers.
    pub trailers: Option<&'a Headers>,
    /// When the request's first byte came.
    pub start: SystemTime,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: Option<&'a str>,
    /// Status of the answer, 0 if there was none.
    pub status: u16,
    /// Why the answer is what it is (`via_upstream`, `route_not_found`).
    pub details: Option<&'a str>,
    /// Response flags joined by commas (`URX,UF`), empty if none.
    pub flags: &'a str,
    /// Request body bytes received.
    pub bytes_received: u64,
    /// Response body bytes sent.
    pub bytes_sent: u64,
    /// From start to the last byte sent.
    pub duration: Option<Duration>,
    /// From start to the last request byte received.
    pub request_duration: Option<Duration>,
    /// From start to the first response byte from upstream.
    pub response_duration: Option<Duration>,
    /// From the first response byte from upstream to the last byte sent.
    pub response_tx_duration: Option<Duration>,
    /// Address of the last attempt.
    pub upstream_host: Option<SocketAddr>,
    /// Own address of the last attempt's connection.
    pub upstream_local: Option<SocketAddr>,
    /// Cluster of the route.
    pub upstream_cluster: Option<&'a str>,
    /// Protocol of the last attempt.
    pub upstream_protocol: Option<&'a str>,
    /// Why the transport to the upstream failed.
    pub upstream_failure: Option<&'a str>,
    /// Attempts made, 0 before the first.
    pub attempts: u32,
    /// Name of the matched route.
    pub route_name: Option<&'a str>,
    /// The client's address.
    pub downstream_remote: Option<SocketAddr>,
    /// The address the client connected to.
    pub downstream_local: Option<SocketAddr>,
    /// Id of the downstream connection, 0 if unknown.
    pub connection_id: u64,
    /// Name asked for in the TLS handshake.
    pub server_name: Option<&'a str>,
    /// TLS version of the downstream connection (`TLSv1.3`).
    pub tls_version: Option<&'a str>,
    /// Why the downstream connection was ended by the proxy.
    pub termination_details: Option<&'a str>,
    /// This machine's host name, empty if unknown.
    pub hostname: &'a str,
}

impl Default for LogContext<'_> {
    fn default() -> Self {
        Self {
            request: None,
            schemeless: false,
            nameless: false,
            response: None,
            trailers: None,
            start: SystemTime::UNIX_EPOCH,
            protocol: None,
            status: 0,
            details: None,
            flags: "",
            bytes_received: 0,
            bytes_sent: 0,
            duration: None,
            request_duration: None,
            response_duration: None,
            response_tx_duration: None,
            upstream_host: None,
            upstream_local: None,
            upstream_cluster: None,
            upstream_protocol: None,
            upstream_failure: None,
            attempts: 0,
            route_name: None,
            downstream_remote: None,
            downstream_local: None,
            connection_id: 0,
            server_name: None,
            tls_version: None,
            termination_details: None,
            hostname: "",
        }
    }
}

impl Format {
    /// Parses a format string (Envoy: `SubstitutionFormatParser::parse`).
    ///
    /// # Errors
    /// [`FormatError`] with the position of the `%` that is at fault.
    pub fn parse(format: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut position = 0;
        while let Some(at) = format[position..].find('%').map(|i| position + i) {
            text.push_str(&format[position..at]);
            if format[at + 1..].starts_with('%') {
                text.push('%');
                position = at + 2;
                continue;
            }
            let command = Command::parse(&format[at..])
                .ok_or_else(|| FormatError::Syntax { format: format.to_owned(), position: at })?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into_bytes().into()));
            }
            let operator = Operator::parse(&command, at)?;
            parts.push(Part::Operator(operator, command.max_length));
            position = at + command.len;
        }
        text.push_str(&format[position..]);
        if !text.is_empty() {
            parts.push(Part::Text(text.into_bytes().into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// The text, if there is no operator in it: what a header value that needs
    /// no formatting is (`%%` already replaced).
    #[must_use]
    pub fn plain(&self) -> Option<&[u8]> {
        match &*self.parts {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends a log line; a missing value is `-`.
    pub fn render(&self, context: &LogContext<'_>, out: &mut Vec<u8>) {
        self.render_with(context, b"-", out);
    }

    /// Appends a header value; a missing value is nothing.
    pub fn render_value(&self, context: &LogContext<'_>, out: &mut Vec<u8>) {
        self.render_with(context, b"", out);
    }

    fn render_with(&self, context: &LogContext<'_>, missing: &[u8], out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Operator(operator, max) => {
                    let from = out.len();
                    if operator.render(context, out) {
                        if let Some(max) = max {
                            out.truncate(from.saturating_add(*max));
                        }
                    } else {
                        out.extend_from_slice(missing);
                    }
                }
            }
        }
    }

    /// Appends a JSON value: a number for one numeric operator, `null` for one
    /// operator whose value is missing, else a string (Envoy: `json_format`).
    pub fn render_json(&self, context: &LogContext<'_>, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        if let [Part::Operator(operator, max)] = &*self.parts {
            if !operator.render(context, &mut text) {
                return out.extend_from_slice(b"null");
            }
            if operator.is_number() {
                return out.extend_from_slice(&text);
            }
            text.truncate(max.unwrap_or(usize::MAX));
        } else {
            self.render(context, &mut text);
        }
        json_text(&text, out);
    }
}

/// Appends a JSON string. Of bytes that are not UTF-8, Envoy escapes all but plain
/// ASCII by their numbers.
fn json_text(text: &[u8], out: &mut Vec<u8>) {
    use std::io::Write;
    // Serialising a string, and writing, into memory cannot fail.
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' | ..b' ' | 0x7f.. => {
                let _ = write!(out, "\\u{byte:04x}");
            }
            plain => out.push(plain),
        }
    }
    out.push(b'"');
}

/// `%NAME(argument):LENGTH%` taken apart.
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    max_length: Option<usize>,
    /// Bytes of the whole, both `%` included.
    len: usize,
}

impl<'a> Command<'a> {
    /// Reads one command at the start of `input`, which begins with `%`.
    fn parse(input: &'a str) -> Option<Self> {
        let rest = &input[1..];
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let name_len = rest.find(|c| !is_name(c))?;
        if name_len == 0 {
            return None;
        }
        let (name, mut rest) = rest.split_at(name_len);
        let mut argument = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let (inside, after) = inside.split_once(')')?;
            argument = Some(inside);
            rest = after;
        }
        let mut max_length = None;
        if let Some(number) = rest.strip_prefix(':') {
            let end = number.find(|c: char| !c.is_ascii_digit())?;
            max_length = Some(number[..end].parse().ok()?);
            rest = &number[end..];
        }
        let rest = rest.strip_prefix('%')?;
        Some(Self { name, argument, max_length, len: input.len() - rest.len() })
    }
}

#[cfg(test)]
mod tests;
