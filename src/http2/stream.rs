//! One stream's state, and the places of a connection's streams.

use std::collections::VecDeque;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;

use super::Trailers;
use super::flow::{Credit, Window};
use super::frame::Reason;
use super::inbox::Inbox;
use crate::headers::ResponseHead;
use crate::transport::TransportFailure;

/// Why a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The peer reset it.
    Reset(Reason),
    /// The peer broke a rule that concerns this stream only; it was reset.
    Violation,
    /// The peer closed the connection, or it broke.
    Gone,
    /// The peer refused the connection after all, by a TLS alert.
    Unconnected(TransportFailure),
    /// The peer broke the protocol; the connection has ended.
    Protocol,
    /// The peer said GOAWAY before it saw the stream.
    Refused,
    /// Reset by this side.
    Local,
}

/// A stream, from its first HEADERS until its handle is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) opened: Instant,
    /// The request was HEAD: no body follows the answer.
    pub(super) to_head: bool,

    /// The peer's final head has come; an answer's waits here.
    pub(super) head_received: bool,
    pub(super) head: Option<Box<ResponseHead>>,
    /// Status of the first interim answer that nobody has asked for yet.
    pub(super) interim: Option<u16>,
    pub(super) inbox: Inbox,
    pub(super) trailers: Option<Trailers>,
    /// Nothing more will come.
    pub(super) received_end: bool,
    /// Bytes of the declared length that are to come.
    pub(super) body_left: Option<u64>,
    pub(super) window: Window,

    /// Body that waits for its turn, or for a window.
    pub(super) outbox: VecDeque<Bytes>,
    pub(super) out_len: usize,
    /// The end that is to be sent behind it: trailers or none.
    pub(super) out_end: Option<Option<Trailers>>,
    pub(super) sent_end: bool,
    pub(super) credit: Credit,
    /// Has its place in the round.
    pub(super) waiting: bool,

    pub(super) ended: Option<Ended>,
    /// Neither side may send any more (but for RST_STREAM).
    pub(super) closed: bool,
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, opened: Instant, window: u32, credit: u32) -> Self {
        Self {
            id,
            opened,
            to_head: false,
            head_received: false,
            head: None,
            interim: None,
            inbox: Inbox::default(),
            trailers: None,
            received_end: false,
            body_left: None,
            window: Window::new(window),
            outbox: VecDeque::new(),
            out_len: 0,
            out_end: None,
            sent_end: false,
            credit: Credit::new(credit),
            waiting: false,
            ended: None,
            closed: false,
            waker: None,
        }
    }

    /// Something happened: its task is to look.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The task waits.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Drops what was to be sent.
    pub(super) fn drop_output(&mut self) {
        self.outbox.clear();
        self.out_len = 0;
        self.out_end = None;
    }
}

/// A connection's streams: by place for their handles, by id for frames.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Those on which frames are still expected.
    by_id: HashMap<u32, usize>,
}

impl Streams {
    pub(super) fn insert(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let key = match self.free.pop() {
            Some(key) => {
                self.slots[key] = Some(stream);
                key
            }
            None => {
                self.slots.push(Some(stream));
                self.slots.len() - 1
            }
        };
        self.by_id.insert(id, key);
        key
    }

    /// The stream at a place; its handle keeps it there.
    pub(super) fn at(&mut self, key: usize) -> Option<&mut Stream> {
        self.slots.get_mut(key)?.as_mut()
    }

    /// The place of an open stream.
    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Streams on which frames are still expected.
    pub(super) fn open(&self) -> usize {
        self.by_id.len()
    }

    /// No frame is expected on this stream any more.
    pub(super) fn close(&mut self, key: usize) {
        if let Some(stream) = self.slots.get_mut(key).and_then(Option::as_mut)
            && !stream.closed
        {
            stream.closed = true;
            self.by_id.remove(&stream.id);
        }
    }

    /// Gives a place back.
    pub(super) fn remove(&mut self, key: usize) {
        self.close(key);
        if self.slots.get_mut(key).and_then(Option::take).is_some() {
            self.free.push(key);
        }
        if self.free.len() == self.slots.len() && self.slots.len() > 64 {
            *self = Self::default();
        }
    }

    /// All streams, closed ones too.
    pub(super) fn each(&mut self) -> impl Iterator<Item = (usize, &mut Stream)> {
        self.slots.iter_mut().enumerate().filter_map(|(key, slot)| Some((key, slot.as_mut()?)))
    }
}
