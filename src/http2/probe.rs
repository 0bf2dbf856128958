//! A connection without a socket, for tests and fuzzing: bytes in; what it made
//! of them, and what it would write, out.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::BytesMut;

use super::connection::{Accepted, Connection, Role};
use super::fields::ListLimits;
use super::handle::StreamHandle;
use crate::headers::{Headers, RequestHead, ResponseHead};

const LIMITS: ListLimits = ListLimits { fields: 20, bytes: 2048 };

/// What a connection made of its input.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Heads, bodies, trailers and early ends, stream by stream; the connection's
    /// error last.
    pub events: Vec<String>,
    /// Bytes for the peer.
    pub output: Vec<u8>,
}

/// Feeds a server, `step` bytes at a time.
#[must_use]
pub fn server(input: &[u8], step: usize) -> Outcome {
    let shared = Rc::new(RefCell::new(Connection::new(Role::Server, LIMITS, Instant::now())));
    let error = feed(&mut shared.borrow_mut(), input, step);
    let mut events = Vec::new();
    let mut handles = Vec::new();
    loop {
        let accepted = shared.borrow_mut().accept();
        match accepted {
            Some(Accepted::Request { key, head, complete }) => {
                let handle = StreamHandle::new(&shared, key);
                events.push(format!("request {complete}"));
                describe_request(&head, &mut events);
                drain(&handle, &mut events);
                handles.push(handle);
            }
            Some(other) => events.push(format!("{other:?}")),
            None => break,
        }
    }
    finish(&shared, error, events)
}

/// Feeds a client with three open requests, `step` bytes at a time.
#[must_use]
pub fn client(input: &[u8], step: usize) -> Outcome {
    let shared = Rc::new(RefCell::new(Connection::new(Role::Client, LIMITS, Instant::now())));
    let mut handles = Vec::new();
    for method in ["GET", "HEAD", "POST"] {
        let mut head = RequestHead::default();
        head.set_method(method.as_bytes());
        head.set_path(b"/");
        head.set_authority(b"h");
        handles.extend(StreamHandle::open(&shared, &head, method != "POST"));
    }
    let error = feed(&mut shared.borrow_mut(), input, step);
    let mut events = Vec::new();
    let cx = Context::from_waker(Waker::noop());
    for handle in &handles {
        let mut head = ResponseHead::default();
        let mut found = handle.poll_head(&cx, &mut head);
        while found == Poll::Ready(Ok(None)) {
            found = handle.poll_head(&cx, &mut head);
        }
        match found {
            Poll::Ready(Ok(Some(end))) => {
                events.push(format!("answer {} {end}", head.status));
                describe(&head.headers, &mut events);
                drain(handle, &mut events);
            }
            other => events.push(format!("{other:?}")),
        }
    }
    finish(&shared, error, events)
}

fn feed(connection: &mut Connection, input: &[u8], step: usize) -> Option<String> {
    let mut buffer = BytesMut::new();
    let mut error = None;
    for part in input.chunks(step.max(1)) {
        buffer.extend_from_slice(part);
        if let Err(e) = connection.receive(&mut buffer) {
            connection.fail(Some(e));
            error = Some(format!("{e:?}"));
            break;
        }
    }
    if error.is_none() {
        connection.batch_end();
    }
    error
}

fn finish(
    shared: &Rc<RefCell<Connection>>,
    error: Option<String>,
    mut events: Vec<String>,
) -> Outcome {
    events.extend(error);
    Outcome { events, output: shared.borrow_mut().out.take_all() }
}

fn drain(handle: &StreamHandle, events: &mut Vec<String>) {
    let cx = Context::from_waker(Waker::noop());
    let mut body = Vec::new();
    let end = loop {
        match handle.poll_data(&cx) {
            Poll::Ready(Some(Ok(data))) => body.extend_from_slice(&data),
            other => break format!("{other:?}"),
        }
    };
    events.push(format!("body {body:?} {end}"));
    if let Some(trailers) = handle.take_trailers() {
        describe(&trailers, events);
    }
}

fn describe_request(head: &RequestHead, events: &mut Vec<String>) {
    let text = String::from_utf8_lossy;
    events.push(format!(
        "{} {} {}",
        text(head.method()),
        text(head.path()),
        text(head.authority())
    ));
    describe(&head.headers, events);
}

fn describe(headers: &Headers, events: &mut Vec<String>) {
    events.extend(headers.iter().map(|f| format!("{:?}: {:?} {:?}", f.name, f.value, f.id)));
}
