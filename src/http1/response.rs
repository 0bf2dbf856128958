//! Response heads from upstreams.

use super::fields::{self, Collector, Framing, Malformed};
use super::scan::{Scan, Scanner, is_version, split_start_line};
use super::{BodyLength, HeadLimits, Parsed, ResponseError};
use crate::headers::{HeaderId, ResponseHead};

/// What a response head says beside its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseInfo {
    /// A 1xx other than 101: another head follows. Not passed on.
    pub interim: bool,
    /// The connection may carry another request once the body was read.
    pub keep_alive: bool,
}

/// Parses the heads of one upstream connection, one after the other.
#[derive(Debug, Default)]
pub struct Parser {
    scanner: Scanner,
    start_line_checked: bool,
}

impl Parser {
    /// True if part of a head was seen. If the upstream closes then, that is a
    /// protocol error (502), else a termination (503).
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.scanner.has_begun()
    }

    /// Parses the head at the start of `buf` into `head`; contract as in
    /// [`request::Parser::parse`](super::request::Parser::parse).
    ///
    /// `to_head`: the request was HEAD.
    ///
    /// # Errors
    ///
    /// [`ResponseError`]; the connection must not be used again.
    pub fn parse(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        to_head: bool,
        head: &mut ResponseHead,
    ) -> Result<Parsed<ResponseInfo>, ResponseError> {
        let result = self.step(buf, limits, to_head, head);
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
        to_head: bool,
        head: &mut ResponseHead,
    ) -> Result<Parsed<ResponseInfo>, ResponseError> {
        if buf.first().is_some_and(|&b| b != b'H') {
            return Err(ResponseError::Syntax);
        }
        let scan = self.scanner.scan(buf, limits.max_bytes, false);
        if !self.start_line_checked
            && let Some(line) = self.scanner.first_line(buf)
        {
            status_of(line)?;
            self.start_line_checked = true;
        }
        match scan {
            Scan::Partial => Ok(Parsed::Partial),
            Scan::TooLarge => Err(ResponseError::TooLarge),
            Scan::StartsWithBlank => Err(ResponseError::Syntax),
            Scan::Complete => {
                let (body, info) = self.complete(buf, limits, to_head, head)?;
                Ok(Parsed::Complete { consumed: self.scanner.consumed(), body, info })
            }
        }
    }

    fn complete(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        to_head: bool,
        head: &mut ResponseHead,
    ) -> Result<(BodyLength, ResponseInfo), ResponseError> {
        let block = self.scanner.head(buf);
        if !fields::is_clean(block) {
            return Err(ResponseError::InvalidCharacters);
        }
        let line = self.scanner.first_line(buf).unwrap_or_default();
        head.clear();
        head.status = status_of(line)?;
        let framing = self.collect(block, self.scanner.has_inner_cr(buf), limits, head)?;

        let body = body_length(head, &framing, to_head, limits.refuse_ambiguous)?;
        let (version, _, _) = split_start_line(line);
        let keep_alive = head.status != 101
            && body != BodyLength::UntilClose
            && keeps_alive(head, version == b"HTTP/1.1");
        let interim = (100..200).contains(&head.status) && head.status != 101;
        Ok((body, ResponseInfo { interim, keep_alive }))
    }

    fn collect(
        &self,
        block: &[u8],
        inner_cr: bool,
        limits: &HeadLimits,
        head: &mut ResponseHead,
    ) -> Result<Framing, ResponseError> {
        let (first, rest) = self.scanner.ends().split_first().ok_or(ResponseError::Syntax)?;
        let slot_of = fields::response_join_slot;
        let mut collector =
            Collector::new(&mut head.headers, block, slot_of, inner_cr, limits.max_fields);
        fields::walk(block, *first as usize, rest, |field| collector.add_response(field))
            .map_err(|Malformed| ResponseError::Syntax)?;
        if collector.is_overflown() {
            return Err(ResponseError::TooManyFields);
        }
        Ok(collector.framing)
    }
}

/// The status of a status line. Like Envoy, leading zeros and `+` are accepted
/// and only 16 bits are kept.
fn status_of(line: &[u8]) -> Result<u16, ResponseError> {
    let (version, code, _) = split_start_line(line);
    if !is_version(version) {
        return Err(ResponseError::Syntax);
    }
    let code = fields::parse_length(code.strip_prefix(b"+").unwrap_or(code))
        .ok_or(ResponseError::Syntax)?;
    let status = (code & 0xffff) as u16;
    let wrapped = code > 0xffff;
    if status < 100 || (wrapped && status < 200) {
        return Err(ResponseError::Syntax);
    }
    Ok(status)
}

fn body_length(
    head: &mut ResponseHead,
    framing: &Framing,
    to_head: bool,
    refuse_ambiguous: bool,
) -> Result<BodyLength, ResponseError> {
    let status = head.status;
    let without_length = status < 200 || status == 204;
    if !framing.is_valid() && !without_length && status != 304 {
        return Err(ResponseError::Framing);
    }
    if let Some(codings) = head.headers.first(HeaderId::TransferEncoding)
        && (framing.has_length
            || (refuse_ambiguous && !framing.chunked)
            || without_length
            || !codings.eq_ignore_ascii_case(b"chunked"))
    {
        return Err(ResponseError::Framing);
    }
    if without_length {
        match head.headers.first(HeaderId::ContentLength) {
            None => {}
            Some(b"0") => {
                head.headers.remove(HeaderId::ContentLength);
            }
            Some(_) => return Err(ResponseError::Framing),
        }
        return Ok(BodyLength::None);
    }
    if to_head || status == 304 {
        return Ok(BodyLength::None);
    }
    Ok(match (framing.chunked, framing.length) {
        (true, _) => BodyLength::Chunked,
        (false, Some(0)) => BodyLength::None,
        (false, Some(length)) => BodyLength::Length(length),
        (false, None) => BodyLength::UntilClose,
    })
}

fn keeps_alive(head: &ResponseHead, is_11: bool) -> bool {
    let says = |id, token: &[u8]| {
        head.headers.first(id).is_some_and(|value| fields::has_token(value, token))
    };
    if says(HeaderId::Connection, b"close") || says(HeaderId::ProxyConnection, b"close") {
        return false;
    }
    is_11 || says(HeaderId::Connection, b"keep-alive")
}

/// Parses a whole head at once; see [`Parser::parse`].
///
/// # Errors
///
/// [`ResponseError`].
pub fn parse(
    buf: &[u8],
    limits: &HeadLimits,
    to_head: bool,
    head: &mut ResponseHead,
) -> Result<Parsed<ResponseInfo>, ResponseError> {
    Parser::default().parse(buf, limits, to_head, head)
}
