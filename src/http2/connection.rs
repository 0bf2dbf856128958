//! One end of a connection, either role: bytes in, events and bytes out. Pure:
//! no socket, no clock, no task; [`super::drive`] connects it with those.
//!
//! What is refused, and how, is Envoy's choice (its codec is nghttp2): most
//! violations end the connection without a word, some with GOAWAY.

use std::collections::VecDeque;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::fields::{Collector, ListLimits};
use super::flow::{Credit, Window};
use super::frame::{self, FrameHead, HEAD_LEN, MAX_PAYLOAD, PREFACE, Reason, flag, kind, setting};
use super::guard::Guard;
use super::hpack::{Decoder, Encoder, TABLE_SIZE};
use super::stream::{Ended, Streams};
use crate::headers::RequestHead;
use crate::io::Writer;
use crate::transport::TransportFailure;

/// Window of each stream (Envoy: `initial_stream_window_size`).
pub(super) const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
/// Window of the connection (Envoy: `initial_connection_window_size`, which
/// 1.40 adds to the protocol's first window).
const CONNECTION_WINDOW: u32 = FIRST_WINDOW + WINDOW_GRANT;
const WINDOW_GRANT: u32 = 25_100_289;
/// Every window of the protocol before settings.
pub(super) const FIRST_WINDOW: u32 = 65_535;
/// Streams that a peer may have open (Envoy: `max_concurrent_streams`), and that
/// are opened at most on an upstream's connection.
pub(super) const MAX_STREAMS: u32 = 1024;
/// Last stream id there can be.
pub(super) const LAST_STREAM: u32 = 0x7fff_ffff;

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// Why a connection ends. What was not written by then is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// It is closed without a word.
    #[error("{0}")]
    Silent(&'static str),
    /// GOAWAY says why.
    #[error("{1} ({0:?})")]
    GoAway(Reason, &'static str),
}

pub(super) fn silent<T>(why: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError::Silent(why))
}

pub(super) fn protocol<T>(why: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError::GoAway(Reason::PROTOCOL_ERROR, why))
}

pub(super) fn frame_size<T>() -> Result<T, ConnectionError> {
    Err(ConnectionError::GoAway(Reason::FRAME_SIZE_ERROR, ""))
}

/// A request that came, for the server to take.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A stream at this place; `complete` if nothing follows.
    Request { key: usize, head: Box<RequestHead>, complete: bool },
    /// A header list over the limits; its stream was reset.
    TooLarge,
    /// Malformed; the connection ends.
    Malformed,
}

/// A header block that goes on in CONTINUATION frames.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) block: Vec<u8>,
    pub(super) frames: u32,
}

/// What the peer's settings say.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) window: u32,
    pub(super) max_streams: u32,
}

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) role: Role,
    /// The client's preface has come, or needs not.
    greeted: bool,
    /// The peer's first SETTINGS have come.
    settled: bool,
    window_told: bool,
    pub(super) peer: Peer,
    decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) collector: Collector,
    pub(super) partial: Option<Partial>,

    pub(super) streams: Streams,
    /// The peer's latest stream.
    pub(super) last_peer: u32,
    /// This side's next stream (client).
    pub(super) next_own: u32,
    pub(super) accepted: VecDeque<Accepted>,
    /// Streams that have body to send, in turn.
    pub(super) round: VecDeque<usize>,
    pub(super) window: Window,
    pub(super) credit: Credit,
    pub(super) guard: Guard,
    pub(super) now: Instant,

    /// SETTINGS to acknowledge, PINGs to answer: after the batch of frames.
    acks: u32,
    pongs: VecDeque<[u8; 8]>,
    /// Resets that the batch causes, which leave behind those.
    pub(super) resets: Vec<u8>,
    pub(super) in_batch: bool,
    /// The peer has answered the PING of [`Connection::ping`].
    ponged: bool,
    pub(super) out: Writer,

    /// The peer, or this side with a final GOAWAY, opens no more streams.
    pub(super) closing: bool,
    /// Heads for later requests.
    #[expect(clippy::vec_box, reason = "a head is large: it is handed out by pointer")]
    pub(super) spare: Vec<Box<RequestHead>>,
    driver: Option<Waker>,
    /// The driver waits: new bytes to send must wake it.
    parked: bool,
}

impl Connection {
    /// A new connection; its first frames are queued.
    pub(crate) fn new(role: Role, limits: ListLimits, now: Instant) -> Self {
        let mut connection = Self {
            role,
            greeted: role == Role::Client,
            settled: false,
            window_told: false,
            peer: Peer { window: FIRST_WINDOW, max_streams: MAX_STREAMS },
            decoder: Decoder::new(TABLE_SIZE),
            encoder: Encoder::default(),
            collector: Collector::new(limits),
            partial: None,
            streams: Streams::default(),
            last_peer: 0,
            next_own: 1,
            accepted: VecDeque::new(),
            round: VecDeque::new(),
            window: Window::new(CONNECTION_WINDOW),
            credit: Credit::new(FIRST_WINDOW),
            guard: Guard::new(role),
            now,
            acks: 0,
            pongs: VecDeque::new(),
            resets: Vec::new(),
            in_batch: false,
            ponged: false,
            out: Writer::default(),
            closing: false,
            spare: Vec::new(),
            driver: None,
            parked: false,
        };
        connection.greet();
        connection
    }

    /// The settings as Envoy sends them, in its order.
    fn greet(&mut self) {
        let mut payload = Vec::with_capacity(30);
        let mut put = |id: u16, value: u32| {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        };
        if self.role == Role::Client {
            put(setting::ENABLE_PUSH, 0);
        }
        put(setting::HEADER_TABLE_SIZE, TABLE_SIZE as u32);
        put(setting::ENABLE_CONNECT_PROTOCOL, 0);
        put(setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS);
        put(setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW);
        let client = self.role == Role::Client;
        self.out.put_with(|out| {
            if client {
                out.extend_from_slice(PREFACE);
            }
            frame::write(out, kind::SETTINGS, 0, 0, &payload);
        });
        if client {
            self.tell_window();
        }
    }

    fn tell_window(&mut self) {
        if !std::mem::replace(&mut self.window_told, true) {
            self.put_window_update(0, WINDOW_GRANT);
        }
    }

    /// Reads as many frames as are complete.
    ///
    /// # Errors
    /// The connection must end; [`Connection::fail`] prepares that.
    pub(crate) fn receive(&mut self, input: &mut BytesMut) -> Result<(), ConnectionError> {
        self.in_batch = true;
        if !self.greeted {
            let n = input.len().min(PREFACE.len());
            if input[..n] != PREFACE[..n] {
                return silent("not a client's preface");
            }
            if n < PREFACE.len() {
                return Ok(());
            }
            input.advance(PREFACE.len());
            self.greeted = true;
        }
        while let Some(head) = FrameHead::parse(input) {
            self.check_head(head)?;
            if input.len() < HEAD_LEN + head.len {
                return Ok(());
            }
            input.advance(HEAD_LEN);
            if head.kind == kind::DATA {
                self.data(head, input)?;
                continue;
            }
            let payload = &input[..head.len];
            match head.kind {
                kind::HEADERS => self.headers(head, payload)?,
                kind::CONTINUATION => self.continuation(head, payload)?,
                kind::PRIORITY => self.priority(head, payload)?,
                kind::RST_STREAM => self.rst_stream(head, payload)?,
                kind::SETTINGS => self.settings(head, payload)?,
                kind::PING => self.ping_frame(head, payload)?,
                kind::GOAWAY => self.go_away(head, payload)?,
                kind::WINDOW_UPDATE => self.window_update(head, payload)?,
                kind::PUSH_PROMISE => return silent("PUSH_PROMISE"),
                _ => {}
            }
            input.advance(head.len);
        }
        Ok(())
    }

    fn check_head(&self, head: FrameHead) -> Result<(), ConnectionError> {
        if head.len > MAX_PAYLOAD {
            let reason = Reason::FRAME_SIZE_ERROR;
            return Err(ConnectionError::GoAway(reason, "too large frame size"));
        }
        if !self.settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return protocol("SETTINGS expected");
        }
        match &self.partial {
            Some(partial) if head.kind != kind::CONTINUATION || head.stream != partial.stream => {
                protocol("unexpected non-CONTINUATION frame or stream_id is invalid")
            }
            None if head.kind == kind::CONTINUATION => protocol("CONTINUATION: unexpected"),
            _ => Ok(()),
        }
    }

    /// True if no frame was ever sent or received on a stream.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let own = (id % 2 == 1) == (self.role == Role::Client);
        if own { id >= self.next_own } else { id > self.last_peer }
    }

    /// Reads a header block into the collector.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<(), ConnectionError> {
        let collector = &mut self.collector;
        self.decoder
            .decode(block, |field| collector.field(field))
            .map_err(|_| ConnectionError::GoAway(Reason::COMPRESSION_ERROR, ""))
    }

    fn priority(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.len != 5 {
            return frame_size();
        }
        if head.stream == 0 || frame::number(payload) == Some(head.stream) {
            return silent("PRIORITY: depends on itself");
        }
        self.guard.priority()
    }

    fn rst_stream(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        let &[a, b, c, d] = payload else { return frame_size() };
        if head.stream == 0 || self.is_idle(head.stream) {
            return silent("RST_STREAM: stream in idle");
        }
        let Some(key) = self.streams.find(head.stream) else { return Ok(()) };
        let reason = Reason(u32::from_be_bytes([a, b, c, d]));
        let now = self.now;
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        let premature = now.duration_since(stream.opened) < super::guard::PREMATURE;
        self.end_stream(key, Ended::Reset(reason));
        self.guard.closed(premature)
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.stream != 0 {
            return silent("SETTINGS: stream_id != 0");
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { frame_size() };
        }
        if !payload.len().is_multiple_of(6) {
            return frame_size();
        }
        for each in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([each[0], each[1]]);
            let value = u32::from_be_bytes([each[2], each[3], each[4], each[5]]);
            self.setting(id, value)?;
        }
        self.settled = true;
        self.acks += 1;
        self.guard.control(1)
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), ConnectionError> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.limit(value),
            setting::ENABLE_PUSH if value > 1 => return silent("SETTINGS: ENABLE_PUSH"),
            setting::ENABLE_PUSH if value == 1 && self.role == Role::Client => {
                return silent("SETTINGS: server attempted to enable push");
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value.min(MAX_STREAMS),
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > Credit::MAX {
                    return silent("SETTINGS: too large INITIAL_WINDOW_SIZE");
                }
                let by = i64::from(value) - i64::from(self.peer.window);
                self.peer.window = value;
                for (key, stream) in self.streams.each() {
                    if !stream.closed && !stream.credit.change(by) {
                        return silent("SETTINGS: window overflow");
                    }
                    if by > 0 && stream.out_len > 0 && !stream.waiting {
                        stream.waiting = true;
                        self.round.push_back(key);
                    }
                }
            }
            setting::MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                return silent("SETTINGS: MAX_FRAME_SIZE");
            }
            setting::ENABLE_CONNECT_PROTOCOL | setting::NO_RFC7540_PRIORITIES if value > 1 => {
                return silent("SETTINGS: not a boolean");
            }
            _ => {}
        }
        Ok(())
    }

    fn ping_frame(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(data) = payload.first_chunk::<8>().filter(|_| head.len == 8) else {
            return frame_size();
        };
        if head.stream != 0 {
            return silent("PING: stream_id != 0");
        }
        if head.has(flag::ACK) {
            self.ponged = true;
            return Ok(());
        }
        self.pongs.push_back(*data);
        self.guard.control(1)
    }

    fn go_away(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(last) = frame::number(payload).filter(|_| payload.len() >= 8) else {
            return frame_size();
        };
        if head.stream != 0 {
            return silent("GOAWAY: stream_id != 0");
        }
        if self.role == Role::Client {
            self.closing = true;
            let late: Vec<usize> = self
                .streams
                .each()
                .filter(|(_, stream)| !stream.closed && stream.id > last)
                .map(|(key, _)| key)
                .collect();
            for key in late {
                self.end_stream(key, Ended::Refused);
            }
        }
        Ok(())
    }

    fn window_update(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some(by) = frame::number(payload).filter(|_| payload.len() == 4) else {
            return frame_size();
        };
        if by == 0 {
            return silent("WINDOW_UPDATE: window_size_increment == 0");
        }
        self.guard.window_update()?;
        if head.stream == 0 {
            if !self.credit.change(i64::from(by)) {
                return silent("WINDOW_UPDATE: window size overflow");
            }
            return Ok(());
        }
        if self.is_idle(head.stream) {
            return silent("WINDOW_UPDATE to idle stream");
        }
        let Some(key) = self.streams.find(head.stream) else { return Ok(()) };
        let Some(stream) = self.streams.at(key) else { return Ok(()) };
        if !stream.credit.change(i64::from(by)) {
            return silent("WINDOW_UPDATE: window size overflow");
        }
        if stream.out_len > 0 && !stream.waiting {
            stream.waiting = true;
            self.round.push_back(key);
        }
        Ok(())
    }

    /// After a batch of frames: answers to what the peer asked for, and body that
    /// may go now.
    pub(crate) fn batch_end(&mut self) {
        self.in_batch = false;
        if self.settled {
            let acks = std::mem::take(&mut self.acks);
            if acks > 0 || !self.pongs.is_empty() {
                let pongs = &mut self.pongs;
                self.out.put_with(|out| {
                    for _ in 0..acks {
                        frame::write(out, kind::SETTINGS, flag::ACK, 0, &[]);
                    }
                    for pong in pongs.drain(..) {
                        frame::write(out, kind::PING, flag::ACK, 0, &pong);
                    }
                });
            }
            self.tell_window();
        }
        if !self.resets.is_empty() {
            let resets = &mut self.resets;
            self.out.put_with(|out| out.append(resets));
        }
        self.pump();
    }

    /// Prepares the end of the connection after an error, or after the peer left:
    /// every stream ends, and nothing is left to write but what the error says.
    pub(crate) fn fail(&mut self, error: Option<ConnectionError>) {
        self.end_all(if error.is_some() { Ended::Protocol } else { Ended::Gone }, error);
    }

    /// The same after a peer that did not want the connection.
    pub(crate) fn refused(&mut self, failure: TransportFailure) {
        self.end_all(Ended::Unconnected(failure), None);
    }

    fn end_all(&mut self, how: Ended, error: Option<ConnectionError>) {
        self.closing = true;
        let keys: Vec<usize> =
            self.streams.each().filter(|(_, s)| !s.closed).map(|(key, _)| key).collect();
        for key in keys {
            self.end_stream(key, how);
        }
        let greeting = self.out.total == 0 && self.role == Role::Server;
        self.out.clear();
        self.resets.clear();
        if let Some(ConnectionError::GoAway(reason, why)) = error {
            if greeting {
                self.greet();
            }
            self.put_go_away(self.last_peer, reason, why.as_bytes());
        }
    }

    /// The socket took everything.
    pub(crate) fn flushed(&mut self) {
        self.guard.flushed();
    }

    /// Whoever moves the bytes waits now, and is to be woken when there are new
    /// ones.
    pub(crate) fn park(&mut self, cx: &Context<'_>) {
        self.parked = true;
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Wakes the driver if it waits.
    pub(crate) fn kick(&mut self) {
        if std::mem::take(&mut self.parked)
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// The driver runs.
    pub(crate) fn unpark(&mut self, now: Instant) {
        self.parked = false;
        self.now = now;
    }

    /// The next request (server).
    pub(crate) fn accept(&mut self) -> Option<Accepted> {
        self.accepted.pop_front()
    }

    /// True if everything has been handed to the kernel.
    pub(crate) fn out_is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Streams on which something is still to be sent or received.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// Tells the peer to open no more streams, soon: those that it opens
    /// meanwhile are served (Envoy's first GOAWAY).
    pub(crate) fn go_away_soon(&mut self) {
        self.put_go_away(LAST_STREAM, Reason::NO_ERROR, b"");
    }

    /// Asks for a sign that the peer has read everything so far.
    pub(crate) fn ping(&mut self) {
        self.ponged = false;
        self.out.put_with(|out| frame::write(out, kind::PING, 0, 0, b"shutdown"));
    }

    /// True once the peer has answered that.
    pub(crate) fn ponged(&self) -> bool {
        self.ponged
    }

    /// The final GOAWAY: later streams are not looked at.
    pub(crate) fn go_away_now(&mut self) {
        self.closing = true;
        self.put_go_away(self.last_peer, Reason::NO_ERROR, b"");
    }

    /// Keeps a head's memory for a later request.
    pub(crate) fn recycle(&mut self, head: Box<RequestHead>) {
        const SPARE: usize = 32;
        if self.spare.len() < SPARE {
            self.spare.push(head);
        }
    }
}
