//! An upstream that keeps what it receives, byte for byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::client::{find, unchunk};
use crate::oracle::LOOPBACK;

/// After the client has gone, a half-sent request is given up by the proxy.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// What to say to a complete request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    /// Then FIN.
    pub eof: bool,
}

impl Answer {
    pub fn ok() -> Self {
        Self { bytes: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(), eof: false }
    }
}

/// A request as received, its chunks joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub bytes: Vec<u8>,
    /// False if the proxy gave it up half-way.
    pub complete: bool,
}

/// A running recorder.
pub struct Recorder {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    tape: Mutex<Tape>,
    changed: Condvar,
}

struct Tape {
    /// Which message; requests of earlier ones are not of interest.
    number: u64,
    answer: Answer,
    requests: Vec<Request>,
}

struct Request {
    raw: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Complete,
    /// The connection ended first.
    Cut,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let tape = Tape { number: 0, answer: Answer::ok(), requests: Vec::new() };
        let shared = Arc::new(Shared { tape: Mutex::new(tape), changed: Condvar::new() });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().flatten() {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || shared.serve(stream));
                }
            }
        });
        Self { port, shared }
    }

    /// A new message; what is received from now on belongs to it.
    pub fn begin(&self, answer: Answer) {
        let mut tape = self.shared.tape.lock().unwrap();
        tape.number += 1;
        tape.answer = answer;
        tape.requests.clear();
    }

    /// The requests of the message, once none is half received any more.
    pub fn end(&self) -> Vec<Forwarded> {
        let coming = |tape: &mut Tape| tape.requests.iter().any(|r| r.state == State::Coming);
        let tape = self.shared.tape.lock().unwrap();
        let waited = self.shared.changed.wait_timeout_while(tape, SETTLED_WITHIN, coming);
        let tape = waited.unwrap().0;
        tape.requests.iter().map(Request::forwarded).collect()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut buffer = [0; 65536];
        // Message and index of the request that is being received.
        let mut current: Option<(u64, usize)> = None;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let answers = self.take(&buffer[..count], &mut current);
            for answer in answers {
                if stream.write_all(&answer.bytes).is_err() {
                    break;
                }
                if answer.eof {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
        }
        let mut tape = self.tape.lock().unwrap();
        if let Some((number, index)) = current
            && number == tape.number
        {
            tape.requests[index].state = State::Cut;
        }
        self.changed.notify_all();
    }

    /// Adds bytes to the tape; the answers to what they complete.
    fn take(&self, bytes: &[u8], current: &mut Option<(u64, usize)>) -> Vec<Answer> {
        let mut tape = self.tape.lock().unwrap();
        let mut answers = Vec::new();
        let mut rest = bytes.to_vec();
        while !rest.is_empty() {
            let index = match *current {
                Some((number, index)) if number == tape.number => index,
                _ => {
                    tape.requests.push(Request { raw: Vec::new(), state: State::Coming });
                    *current = Some((tape.number, tape.requests.len() - 1));
                    tape.requests.len() - 1
                }
            };
            let request = &mut tape.requests[index];
            request.raw.append(&mut rest);
            if let Some(end) = request.end() {
                rest = request.raw.split_off(end);
                request.state = State::Complete;
                *current = None;
                answers.push(tape.answer.clone());
            }
        }
        self.changed.notify_all();
        answers
    }
}

impl Request {
    /// Where the request ends, if it is all there.
    fn end(&self) -> Option<usize> {
        let head = find(&self.raw, b"\r\n\r\n")? + 4;
        if self.has("transfer-encoding: chunked") {
            return unchunk(&self.raw[head..]).1.map(|used| head + used);
        }
        let end = head.saturating_add(self.length());
        (self.raw.len() >= end).then_some(end)
    }

    fn head(&self) -> String {
        let end = find(&self.raw, b"\r\n\r\n").unwrap_or(self.raw.len());
        String::from_utf8_lossy(&self.raw[..end]).to_ascii_lowercase()
    }

    fn has(&self, line: &str) -> bool {
        self.head().split("\r\n").any(|l| l == line)
    }

    fn length(&self) -> usize {
        let head = self.head();
        let length =
            head.split("\r\n").find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
        length.unwrap_or(0)
    }

    /// How much of a body came before it was cut is a matter of timing.
    fn forwarded(&self) -> Forwarded {
        let mut bytes = self.raw.clone();
        let head = find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 4);
        if self.state != State::Complete {
            bytes.truncate(head);
            bytes.extend_from_slice(b"(cut)");
        } else if self.has("transfer-encoding: chunked") {
            let (body, _) = unchunk(&bytes[head..]);
            bytes.truncate(head);
            bytes.extend_from_slice(&body);
        }
        Forwarded { bytes, complete: self.state == State::Complete }
    }
}
