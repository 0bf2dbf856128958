//! Model servers that record every byte of a request and answer by script.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::client::{find, show, unchunk};
use crate::oracle::LOOPBACK;

/// Nothing in a script waits longer.
const LIMIT: Duration = Duration::from_secs(20);

/// One step of an answer.
#[derive(Clone)]
pub enum Act {
    /// Read the request's body to its end.
    Body,
    /// Read so many bytes as they are.
    Take(usize),
    Send(Vec<u8>),
    Wait(Duration),
    /// Wait until the gate is opened.
    Gate(Gate),
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// Wait until the proxy ends the connection.
    Hang,
}

/// Something to wait for.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        let opened = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(opened, LIMIT, |open| !*open));
    }
}

/// A request as received.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Head, without the empty line.
    pub head: String,
    /// Body as framed on the wire.
    pub raw_body: Vec<u8>,
    /// Which connection, in order of acceptance.
    pub connection: usize,
    /// When the head was there.
    pub at: Option<Instant>,
    /// How the proxy ended the connection while the answer waited.
    pub ended: Option<&'static str>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v).collect()
    }

    pub fn body(&self) -> Vec<u8> {
        if self.is_chunked() { unchunk(&self.raw_body).0 } else { self.raw_body.clone() }
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some()
    }

    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.head.split("\r\n").map(|l| format!("> {l}")).collect();
        let body = self.body();
        if !body.is_empty() {
            lines.push(format!("> body {}", show(&body)));
        }
        lines
    }
}

/// How to answer: called with the request (its head only) and its number.
pub type Script = Arc<dyn Fn(&Received, usize) -> Vec<Act> + Send + Sync>;

/// A running model server. Dropped, it accepts no more.
pub struct Upstream {
    ip: IpAddr,
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    received: Mutex<Vec<Received>>,
    changed: Condvar,
    stopped: AtomicBool,
}

impl Upstream {
    pub fn start(script: Script) -> Self {
        Self::start_at(LOOPBACK, 0, script)
    }

    pub fn start_at(ip: IpAddr, port: u16, script: Script) -> Self {
        let listener = TcpListener::bind((ip, port)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            script,
            received: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { ip, port, shared }
    }

    /// Requests so far, in order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits for requests that satisfy `condition`; false if they do not come.
    pub fn wait(&self, condition: impl Fn(&[Received]) -> bool) -> bool {
        self.wait_within(LIMIT, condition)
    }

    pub fn wait_within(&self, limit: Duration, condition: impl Fn(&[Received]) -> bool) -> bool {
        let received = self.shared.received.lock().unwrap();
        let until = |received: &mut Vec<Received>| !condition(received);
        !self.shared.changed.wait_timeout_while(received, limit, until).unwrap().1.timed_out()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((self.ip, self.port));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (connection, stream) in listener.incoming().enumerate() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || Connection { stream, shared, connection }.run());
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    connection: usize,
}

impl Connection {
    fn run(mut self) {
        let _ = self.stream.set_nodelay(true);
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&buffer, b"\r\n\r\n") {
                    break end;
                }
                if !read_more(&mut self.stream, &mut buffer) {
                    return;
                }
            };
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            let request = Received {
                head: head[..end].iter().map(|b| char::from(*b)).collect(),
                connection: self.connection,
                at: Some(Instant::now()),
                ..Received::default()
            };
            let number = self.change(|received| {
                received.push(request.clone());
                received.len() - 1
            });
            let acts = (self.shared.script)(&request, number);
            for act in acts {
                if !self.act(act, &request, number, &mut buffer) {
                    return;
                }
            }
        }
    }

    /// False: the connection is over.
    fn act(&mut self, act: Act, request: &Received, number: usize, buffer: &mut Vec<u8>) -> bool {
        match act {
            Act::Body => self.read_body(request, number, buffer),
            Act::Take(bytes) => self.take(bytes, number, buffer),
            Act::Send(bytes) => self.stream.write_all(&bytes).is_ok(),
            Act::Wait(time) => {
                std::thread::sleep(time);
                true
            }
            Act::Gate(gate) => {
                gate.wait();
                true
            }
            Act::Close => {
                // With unread input a close would be a reset.
                let _ = self.stream.shutdown(Shutdown::Write);
                while read_more(&mut self.stream, buffer) {}
                false
            }
            Act::Reset => {
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                false
            }
            Act::Hang => {
                while read_more(&mut self.stream, buffer) {}
                self.change(|received| received[number].ended = Some("proxy closed"));
                false
            }
        }
    }

    fn take(&mut self, bytes: usize, number: usize, buffer: &mut Vec<u8>) -> bool {
        while buffer.len() < bytes && read_more(&mut self.stream, buffer) {}
        let taken: Vec<u8> = buffer.drain(..bytes.min(buffer.len())).collect();
        let complete = taken.len() == bytes;
        self.change(|received| received[number].raw_body = taken);
        complete
    }

    fn read_body(&mut self, request: &Received, number: usize, buffer: &mut Vec<u8>) -> bool {
        let length = request.header("content-length").and_then(|v| v.parse::<usize>().ok());
        let end = |buffer: &[u8]| match length {
            _ if request.is_chunked() => unchunk(buffer).1,
            Some(length) => (buffer.len() >= length).then_some(length),
            None => Some(0),
        };
        loop {
            if let Some(end) = end(buffer) {
                let body: Vec<u8> = buffer.drain(..end).collect();
                self.change(|received| received[number].raw_body = body);
                return true;
            }
            if !read_more(&mut self.stream, buffer) {
                let partial = std::mem::take(buffer);
                self.change(|received| {
                    received[number].raw_body = partial;
                    received[number].ended = Some("cut");
                });
                return false;
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Received>) -> T) -> T {
        let result = change(&mut self.shared.received.lock().unwrap());
        self.shared.changed.notify_all();
        result
    }
}

fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let _ = stream.set_read_timeout(Some(LIMIT * 30));
    let mut chunk = [0; 65536];
    match stream.read(&mut chunk) {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            buffer.extend_from_slice(&chunk[..n]);
            true
        }
    }
}

/// Reads the body, then answers with these bytes.
pub fn answer(bytes: impl AsRef<[u8]>) -> Vec<Act> {
    vec![Act::Body, Act::Send(bytes.as_ref().to_vec())]
}

/// A complete answer with this status and body.
pub fn status(code: u16, extra: &str, body: &str) -> String {
    format!("HTTP/1.1 {code} X\r\n{extra}content-length: {}\r\n\r\n{body}", body.len())
}

/// Always the same answer.
pub fn always(bytes: impl AsRef<[u8]>) -> Script {
    let acts = answer(bytes);
    Arc::new(move |_, _| acts.clone())
}

/// 200 with the body `ok`.
pub fn ok() -> Script {
    always("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

/// 200 whose body is the request's head.
pub fn echo() -> Script {
    Arc::new(|request, _| answer(status(200, "", &request.head)))
}

/// The same steps for every request.
pub fn acts(acts: Vec<Act>) -> Script {
    Arc::new(move |_, _| acts.clone())
}
