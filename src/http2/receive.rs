//! HEADERS, CONTINUATION and DATA as they come in.

use bytes::{Buf, BytesMut};

use super::connection::{
    Accepted, Connection, ConnectionError, LAST_STREAM, MAX_STREAMS, Partial, Role, STREAM_WINDOW,
    frame_size, protocol, silent,
};
use super::fields::{Purpose, Refused};
use super::frame::{self, FrameHead, Reason, flag};
use super::stream::{Ended, Stream};
use crate::headers::HeaderId;
use crate::logic::mutation::Side;

/// CONTINUATION frames of one block (nghttp2: `max_continuations`).
const MAX_CONTINUATIONS: u32 = 8;

impl Connection {
    /// The rest of a DATA frame, whose payload is at the beginning of `input`.
    pub(super) fn data(
        &mut self,
        head: FrameHead,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        if head.stream == 0 {
            return protocol("DATA: stream_id == 0");
        }
        let mut padding = 0;
        if head.has(flag::PADDED) {
            let Some(&length) = input.first().filter(|_| head.len > 0) else {
                return frame_size();
            };
            padding = usize::from(length) + 1;
            if padding > head.len {
                return protocol("DATA: invalid padding");
            }
            input.advance(1);
        }
        let body = head.len - padding;
        let behind = padding.saturating_sub(1);
        let end = head.has(flag::END_STREAM);
        self.guard.payload(body == 0 && !end)?;
        let all = u32::try_from(head.len).unwrap_or(u32::MAX);
        if !self.window.receive(all) {
            return Err(ConnectionError::GoAway(Reason::FLOW_CONTROL_ERROR, ""));
        }
        let Some(key) = self.streams.find(head.stream) else {
            if self.is_idle(head.stream) {
                return protocol("DATA: stream in idle");
            }
            input.advance(body + behind);
            self.take_window(all);
            return Ok(());
        };
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        if stream.received_end {
            let why = "DATA: stream in half-closed(remote)";
            return Err(ConnectionError::GoAway(Reason::STREAM_CLOSED, why));
        }
        let left = u64::try_from(body).unwrap_or(u64::MAX);
        let in_length = match stream.body_left {
            Some(length) => match length.checked_sub(left) {
                Some(rest) => {
                    stream.body_left = Some(rest);
                    !end || rest == 0
                }
                None => false,
            },
            None => true,
        };
        let in_window = stream.window.receive(all);
        if !in_length || !in_window || !stream.head_received {
            input.advance(body + behind);
            self.take_window(all);
            let reason =
                if in_window { Reason::PROTOCOL_ERROR } else { Reason::FLOW_CONTROL_ERROR };
            return self.violation(key, reason);
        }
        stream.inbox.fill(input, body);
        input.advance(behind);
        stream.received_end = end;
        stream.wake();
        if padding > 0 {
            self.take(key, u32::try_from(padding).unwrap_or(0));
        }
        if end {
            self.settle(key)?;
        }
        Ok(())
    }

    pub(super) fn headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let mut block = payload;
        if head.has(flag::PADDED) {
            let Some((&padding, rest)) = block.split_first() else { return frame_size() };
            let Some(kept) = rest.len().checked_sub(usize::from(padding)) else {
                return protocol("HEADERS: invalid padding");
            };
            block = &rest[..kept];
        }
        if head.has(flag::PRIORITY) {
            let Some((priority, rest)) = block.split_first_chunk::<5>() else {
                return frame_size();
            };
            if frame::number(priority) == Some(head.stream) {
                return silent("HEADERS: depends on itself");
            }
            block = rest;
        }
        if head.stream == 0 {
            return silent("HEADERS: stream_id == 0");
        }
        let end_stream = head.has(flag::END_STREAM);
        self.guard.payload(block.is_empty() && !end_stream)?;
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, end_stream, block);
        }
        let partial = Partial { stream: head.stream, end_stream, block: block.to_vec(), frames: 0 };
        self.partial = Some(partial);
        Ok(())
    }

    pub(super) fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let Some(mut partial) = self.partial.take() else { return Ok(()) };
        partial.frames += 1;
        if partial.frames > MAX_CONTINUATIONS {
            return silent("too many CONTINUATION frames");
        }
        self.guard.payload(payload.is_empty())?;
        partial.block.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.block(partial.stream, partial.end_stream, &partial.block);
        }
        self.partial = Some(partial);
        Ok(())
    }

    /// A whole header block.
    fn block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        match (self.streams.find(id), self.role) {
            (Some(key), _) => self.block_of(key, end, block),
            (None, Role::Server) if id.is_multiple_of(2) => {
                silent("request HEADERS: invalid stream_id")
            }
            (None, Role::Server) if id > self.last_peer => self.request(id, end, block),
            (None, Role::Client) if self.is_idle(id) => protocol("HEADERS: stream in idle"),
            (None, _) => {
                self.collector.begin(Purpose::Nobody);
                self.decode(block)
            }
        }
    }

    /// A new request.
    fn request(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        let refused = self.streams.open() >= MAX_STREAMS as usize;
        let unwanted = self.closing || refused;
        self.last_peer = if self.closing { self.last_peer } else { id };
        let purpose = if unwanted { Purpose::Nobody } else { Purpose::Request };
        self.collector.begin(purpose);
        self.decode(block)?;
        if refused && !self.closing {
            self.put_reset(id, Reason::REFUSED_STREAM);
            return self.guard.control(1);
        }
        if unwanted {
            return Ok(());
        }
        self.guard.opened();
        let mut verdict = self.collector.end();
        if end && self.collector.length.is_some_and(|length| length > 0) {
            verdict = verdict.and(Err(Refused::Malformed));
        }
        match verdict {
            Ok(()) => {}
            Err(Refused::TooLarge) => {
                self.accepted.push_back(Accepted::TooLarge);
                self.put_reset(id, Reason::INTERNAL_ERROR);
                return self.guard.control(1);
            }
            Err(Refused::Malformed) => {
                self.accepted.push_back(Accepted::Malformed);
                return silent("malformed request");
            }
        }
        let mut stream = Stream::new(id, self.now, STREAM_WINDOW, self.peer.window);
        stream.head_received = true;
        stream.received_end = end;
        stream.body_left = self.collector.length;
        let key = self.streams.insert(stream);
        let spare = self.spare.pop().unwrap_or_default();
        let head = std::mem::replace(&mut self.collector.request, spare);
        self.accepted.push_back(Accepted::Request { key, head, complete: end });
        Ok(())
    }

    /// Trailers, or an answer's head.
    fn block_of(&mut self, key: usize, end: bool, block: &[u8]) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        if stream.received_end {
            return silent("HEADERS: stream in half-closed(remote)");
        }
        let trailers = stream.head_received;
        if trailers && !end {
            return silent("trailers without END_STREAM");
        }
        let side = if self.role == Role::Server { Side::Request } else { Side::Response };
        let purpose = if trailers { Purpose::Trailers(side) } else { Purpose::Response };
        self.collector.begin(purpose);
        self.decode(block)?;
        match self.collector.end() {
            Ok(()) if trailers => self.trailers(key),
            Ok(()) => self.answer(key, end),
            Err(Refused::Malformed) if self.role == Role::Server => silent("malformed trailers"),
            // Envoy ends the connection, and with it its other streams.
            Err(Refused::Malformed) => self.violation(key, Reason::PROTOCOL_ERROR),
            Err(Refused::TooLarge) => self.violation(key, Reason::INTERNAL_ERROR),
        }
    }

    fn trailers(&mut self, key: usize) -> Result<(), ConnectionError> {
        let trailers = self.collector.take_trailers();
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        if stream.body_left.is_some_and(|left| left > 0) {
            return self.violation(key, Reason::PROTOCOL_ERROR);
        }
        stream.trailers = Some(trailers);
        stream.received_end = true;
        stream.wake();
        self.settle(key)
    }

    fn answer(&mut self, key: usize, end: bool) -> Result<(), ConnectionError> {
        let status = self.collector.response.status;
        if status < 200 {
            return self.interim(key, status, end);
        }
        let mut length = self.collector.length;
        if status == 204 && length.is_some() {
            // nghttp2 has it so.
            let zero = self.collector.response.headers.first(HeaderId::ContentLength) == Some(b"0");
            if !zero {
                return self.violation(key, Reason::PROTOCOL_ERROR);
            }
            self.collector.response.headers.remove(HeaderId::ContentLength);
            length = None;
        }
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        let bodiless = stream.to_head || status == 204 || status == 304;
        stream.body_left = if bodiless { Some(0) } else { length };
        if end && !bodiless && length.is_some_and(|length| length > 0) {
            return self.violation(key, Reason::PROTOCOL_ERROR);
        }
        stream.head = Some(std::mem::take(&mut self.collector.response));
        stream.head_received = true;
        stream.received_end = end;
        stream.wake();
        if end { self.settle(key) } else { Ok(()) }
    }

    #[cold]
    fn interim(&mut self, key: usize, status: u16, end: bool) -> Result<(), ConnectionError> {
        if end || self.collector.length.is_some() {
            return self.violation(key, Reason::PROTOCOL_ERROR);
        }
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        stream.interim.get_or_insert(status);
        stream.wake();
        Ok(())
    }

    /// The peer broke a rule of one stream.
    fn violation(&mut self, key: usize, reason: Reason) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        let id = stream.id;
        self.end_stream(key, Ended::Violation);
        self.put_reset(id, reason);
        self.guard.control(1)
    }

    /// A stream of which both ends were sent is closed.
    fn settle(&mut self, key: usize) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        if stream.received_end && stream.sent_end {
            self.streams.close(key);
            return self.guard.closed(false);
        }
        Ok(())
    }

    /// Opens a stream (client).
    ///
    /// # Errors
    /// The peer takes no more.
    pub(crate) fn open(&mut self, to_head: bool) -> Result<usize, Ended> {
        if self.closing || self.next_own > LAST_STREAM {
            self.closing = true;
            return Err(Ended::Refused);
        }
        let mut stream = Stream::new(self.next_own, self.now, STREAM_WINDOW, self.peer.window);
        stream.to_head = to_head;
        self.next_own += 2;
        Ok(self.streams.insert(stream))
    }

    /// True if a stream can be opened, now or when others have ended.
    pub(crate) fn takes_streams(&self) -> bool {
        !self.closing && self.next_own <= LAST_STREAM
    }

    /// Streams that the peer allows at a time; at least one.
    pub(crate) fn stream_limit(&self) -> usize {
        self.peer.max_streams.max(1) as usize
    }
}
