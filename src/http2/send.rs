//! What a connection's streams send, and the windows that they give back.

use bytes::Bytes;

use super::connection::Connection;
use super::frame::{self, FrameHead, HEAD_LEN, MAX_PAYLOAD, Reason, flag, kind};
use super::hpack::Encoder;
use super::stream::{Ended, Stream};
use super::{Trailers, connection::Role};
use crate::headers::{HeaderId, Headers, RequestHead, ResponseHead, Scheme};

/// Bytes that may wait for the socket; body beyond stays with its stream, so
/// that streams take turns.
const OUT_LIMIT: usize = 256 * 1024;

impl Connection {
    /// Queues a request's head; `end`: it is all.
    pub(crate) fn send_request(&mut self, key: usize, head: &RequestHead, end: bool) {
        self.send_block(key, end, |out| {
            Encoder::method(out, head.method());
            Encoder::scheme(out, head.scheme == Scheme::Https);
            Encoder::path(out, head.path());
            if !head.authority().is_empty() {
                Encoder::authority(out, head.authority());
            }
            regular(out, &head.headers);
        });
    }

    /// Queues the head of an HTTP/1 request for an upgrade, as an extended CONNECT
    /// (RFC 8441). Like Envoy, without asking whether the peer takes them.
    pub(crate) fn send_upgrade(&mut self, key: usize, head: &RequestHead) {
        self.send_block(key, false, |out| {
            Encoder::method(out, b"CONNECT");
            Encoder::scheme(out, head.scheme == Scheme::Https);
            Encoder::path(out, head.path());
            if !head.authority().is_empty() {
                Encoder::authority(out, head.authority());
            }
            Encoder::protocol(out, head.headers.first(HeaderId::Upgrade).unwrap_or_default());
            regular(out, &head.headers);
        });
    }

    /// Queues an answer's head; `end`: it is all.
    pub(crate) fn send_response(&mut self, key: usize, head: &ResponseHead, end: bool) {
        self.send_block(key, end, |out| {
            Encoder::status(out, head.status);
            regular(out, &head.headers);
        });
    }

    /// Queues `100 Continue`.
    pub(crate) fn send_continue(&mut self, key: usize) {
        self.send_block(key, false, |out| Encoder::status(out, 100));
    }

    fn send_block(&mut self, key: usize, end: bool, fields: impl FnOnce(&mut Vec<u8>)) {
        let Some(stream) = self.streams.at(key).filter(|stream| !stream.closed) else { return };
        let id = stream.id;
        let encoder = &mut self.encoder;
        self.out.put_with(|out| {
            let from = out.len();
            out.extend_from_slice(&[0; HEAD_LEN]);
            encoder.begin(out);
            fields(out);
            finish_block(out, from, id, end);
        });
        self.guard.outbound();
        if end {
            self.sent_end(key);
        }
        self.kick();
    }

    fn sent_end(&mut self, key: usize) {
        let Some(stream) = self.streams.at(key) else { return };
        stream.sent_end = true;
        stream.out_end = None;
        if stream.received_end {
            self.streams.close(key);
            // Cannot go over a limit.
            let _ = self.guard.closed(false);
        }
    }

    /// A stream on which something may still be sent.
    fn open_outward(&mut self, key: usize) -> Option<&mut Stream> {
        self.streams.at(key).filter(|stream| !stream.closed && !stream.sent_end)
    }

    /// Queues a piece of body with its stream; [`Connection::push`] sends it.
    pub(crate) fn send_data(&mut self, key: usize, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if let Some(stream) = self.open_outward(key) {
            stream.out_len += data.len();
            stream.outbox.push_back(data);
        }
    }

    /// Queues the end of a stream's body, unless its head was all;
    /// [`Connection::push`] sends it.
    pub(crate) fn finish(&mut self, key: usize, trailers: Option<Trailers>) {
        if let Some(stream) = self.open_outward(key) {
            stream.out_end = Some(trailers);
        }
    }

    /// Sends of a stream's body what may leave now, unless others wait before it.
    pub(crate) fn push(&mut self, key: usize) {
        let Some(stream) = self.streams.at(key) else { return };
        if stream.waiting || (stream.outbox.is_empty() && stream.out_end.is_none()) {
            return;
        }
        if self.round.is_empty() {
            while self.send_piece(key) {}
            self.kick();
        }
        let Some(stream) = self.streams.at(key) else { return };
        if stream.out_len > 0 && stream.credit.available() > 0 && !stream.waiting {
            stream.waiting = true;
            self.round.push_back(key);
        }
    }

    /// Lets the streams that wait send in turn, a frame each, while there is room.
    pub(crate) fn pump(&mut self) {
        while self.out.queued < OUT_LIMIT && self.credit.available() > 0 {
            let Some(key) = self.round.pop_front() else { return };
            let Some(stream) = self.streams.at(key) else { continue };
            stream.waiting = false;
            let sent = self.send_piece(key);
            let Some(stream) = self.streams.at(key) else { continue };
            if sent {
                stream.wake();
            }
            if stream.out_len > 0 && stream.credit.available() > 0 && !stream.waiting {
                stream.waiting = true;
                self.round.push_back(key);
            }
        }
    }

    /// Sends one frame of a stream's body, or its end; false if it cannot.
    fn send_piece(&mut self, key: usize) -> bool {
        let Some(stream) = self.streams.at(key) else { return false };
        let Some(front) = stream.outbox.front_mut() else { return self.send_end(key) };
        let room = stream.credit.available().min(self.credit.available());
        let len = front.len().min(room).min(MAX_PAYLOAD);
        if len == 0 || self.out.queued >= OUT_LIMIT {
            return false;
        }
        let piece = if len == front.len() {
            stream.outbox.pop_front().unwrap_or_default()
        } else {
            front.split_to(len)
        };
        stream.out_len -= len;
        stream.credit.spend(len);
        self.credit.spend(len);
        let empty = stream.outbox.is_empty();
        let last = empty && matches!(stream.out_end, Some(None));
        let trailers = empty && matches!(stream.out_end, Some(Some(_)));
        let flags = if last { flag::END_STREAM } else { 0 };
        let head = FrameHead { len, kind: kind::DATA, flags, stream: stream.id };
        self.out.put_with(|out| out.extend_from_slice(&head.bytes()));
        self.out.put(piece);
        self.guard.data_sent();
        if last {
            self.sent_end(key);
        } else if trailers {
            self.send_end(key);
        }
        true
    }

    fn send_end(&mut self, key: usize) -> bool {
        let Some(stream) = self.streams.at(key) else { return false };
        match stream.out_end.take() {
            None => return false,
            Some(Some(trailers)) => {
                self.send_block(key, true, |out| regular(out, &trailers));
                return true;
            }
            Some(None) => {}
        }
        let id = stream.id;
        self.out.put_with(|out| frame::write(out, kind::DATA, flag::END_STREAM, id, &[]));
        self.guard.data_sent();
        self.sent_end(key);
        true
    }

    /// A stream's task took so many bytes of its body.
    pub(crate) fn take(&mut self, key: usize, bytes: u32) {
        if let Some(stream) = self.streams.at(key)
            && let Some(back) = stream.window.take(bytes)
            && !stream.received_end
            && !stream.closed
        {
            let id = stream.id;
            self.put_window_update(id, back);
        }
        self.take_window(bytes);
    }

    /// Gives bytes back to the connection's window.
    pub(super) fn take_window(&mut self, bytes: u32) {
        if let Some(back) = self.window.take(bytes) {
            self.put_window_update(0, back);
        }
    }

    pub(super) fn put_window_update(&mut self, stream: u32, by: u32) {
        let by = by.to_be_bytes();
        self.out.put_with(|out| frame::write(out, kind::WINDOW_UPDATE, 0, stream, &by));
        self.kick();
    }

    pub(super) fn put_reset(&mut self, stream: u32, reason: Reason) {
        let reason = reason.0.to_be_bytes();
        if self.in_batch {
            return frame::write(&mut self.resets, kind::RST_STREAM, 0, stream, &reason);
        }
        self.out.put_with(|out| frame::write(out, kind::RST_STREAM, 0, stream, &reason));
        self.kick();
    }

    pub(super) fn put_go_away(&mut self, last: u32, reason: Reason, why: &[u8]) {
        let payload = [&last.to_be_bytes(), &reason.0.to_be_bytes(), why].concat();
        self.out.put_with(|out| frame::write(out, kind::GOAWAY, 0, 0, &payload));
        self.kick();
    }

    /// A stream ends before its time; what it had to send is dropped.
    pub(super) fn end_stream(&mut self, key: usize, how: Ended) {
        let Some(stream) = self.streams.at(key) else { return };
        if stream.ended.is_none() {
            stream.ended = Some(how);
        }
        stream.drop_output();
        stream.wake();
        self.streams.close(key);
    }

    /// Resets a stream unless it has ended.
    pub(crate) fn reset(&mut self, key: usize, reason: Reason) {
        let Some(stream) = self.streams.at(key).filter(|stream| !stream.closed) else { return };
        let id = stream.id;
        self.end_stream(key, Ended::Local);
        self.put_reset(id, reason);
        // Cannot go over a limit.
        let _ = self.guard.closed(false);
    }

    /// A stream's handle is gone. What is unfinished is reset: after a whole
    /// answer, the rest of its request is not wanted.
    pub(crate) fn release(&mut self, key: usize) {
        let Some(stream) = self.streams.at(key) else { return };
        let unread = u32::try_from(stream.inbox.len()).unwrap_or(0);
        let reason = match self.role {
            Role::Client => Reason::CANCEL,
            Role::Server if stream.sent_end => Reason::NO_ERROR,
            Role::Server => Reason::INTERNAL_ERROR,
        };
        self.reset(key, reason);
        self.streams.remove(key);
        if unread > 0 {
            self.take_window(unread);
        }
        if self.closing {
            self.kick();
        }
    }
}

/// Encodes regular fields; those that HTTP/2 forbids are left out.
fn regular(out: &mut Vec<u8>, headers: &Headers) {
    for field in headers.iter() {
        let forbidden = matches!(
            field.id,
            HeaderId::Connection
                | HeaderId::KeepAlive
                | HeaderId::ProxyConnection
                | HeaderId::TransferEncoding
                | HeaderId::Upgrade
        );
        if !forbidden {
            Encoder::field(out, field);
        }
    }
}

/// Writes the head of a block that begins at `from`, and splits one that is
/// larger than a frame.
fn finish_block(out: &mut Vec<u8>, from: usize, stream: u32, end: bool) {
    let end = if end { flag::END_STREAM } else { 0 };
    let len = out.len() - from - HEAD_LEN;
    if len <= MAX_PAYLOAD {
        let flags = end | flag::END_HEADERS;
        let head = FrameHead { len, kind: kind::HEADERS, flags, stream };
        out[from..from + HEAD_LEN].copy_from_slice(&head.bytes());
        return;
    }
    let block = out.split_off(from + HEAD_LEN);
    out.truncate(from);
    let count = block.len().div_ceil(MAX_PAYLOAD);
    for (index, part) in block.chunks(MAX_PAYLOAD).enumerate() {
        let kind = if index == 0 { kind::HEADERS } else { kind::CONTINUATION };
        let flags = if index == 0 { end } else { 0 };
        let last = if index + 1 == count { flag::END_HEADERS } else { 0 };
        frame::write(out, kind, flags | last, stream, part);
    }
}
