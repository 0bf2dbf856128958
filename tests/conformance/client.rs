//! An HTTP/1 client that sends what it is told, byte for byte, and takes down
//! what comes back, framing included.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::oracle::LOOPBACK;

/// How long a reply may take unless a case says otherwise.
const REPLY_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection that was announced to close may stay open.
const CLOSE_LIMIT: Duration = Duration::from_secs(4);
/// How long a second request on an open connection may take.
const PROBE_LIMIT: Duration = Duration::from_secs(4);

/// What a client speaks over: TCP, or TLS on it.
pub trait Wire: Read + Write + Send {
    /// Bounds the next read.
    fn set_limit(&self, limit: Duration);
    /// Half-closes.
    fn fin(&mut self);
}

impl Wire for TcpStream {
    fn set_limit(&self, limit: Duration) {
        let _ = self.set_read_timeout(Some(limit));
    }

    fn fin(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// A client connection.
pub struct Client {
    stream: Box<dyn Wire>,
    buffer: Vec<u8>,
    ended: Option<End>,
}

/// How the peer ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// A reply as received.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Status line.
    pub line: String,
    /// Header lines in order, names as received.
    pub headers: Vec<(String, String)>,
    /// Decoded body.
    pub body: Vec<u8>,
    /// Not all of it came.
    pub cut: bool,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, v)| v.as_str()).collect()
    }

    /// For the transcript: what is different in every run is masked.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("< {}", self.line)];
        lines.extend(self.headers.iter().map(|(name, value)| format!("< {}", masked(name, value))));
        if !self.body.is_empty() {
            lines.push(format!("< body {}", show(&self.body)));
        }
        if self.cut {
            lines.push("< (cut)".to_owned());
        }
        lines
    }
}

/// `name: value` with the values hidden that no two runs share.
pub fn masked(name: &str, value: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "date" | "x-envoy-upstream-service-time" => format!("{name}: *"),
        _ => format!("{name}: {value}"),
    }
}

/// Bytes for people: short ones whole, long ones by length, head and digest.
pub fn show(bytes: &[u8]) -> String {
    if bytes.len() <= 2000 {
        return format!("{} \"{}\"", bytes.len(), bytes.escape_ascii());
    }
    let sum = bytes.iter().fold(0u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
    format!("{} \"{}...\" #{sum:x}", bytes.len(), bytes[..40].escape_ascii())
}

impl Client {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((LOOPBACK, port)).expect("the listener is open");
        let _ = stream.set_nodelay(true);
        Self::over(stream)
    }

    pub fn over(stream: impl Wire + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), ended: None }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A peer that is gone is noticed when its reply is read.
        let _ = self.stream.write_all(bytes.as_ref());
        let _ = self.stream.flush();
    }

    /// Half-closes.
    pub fn fin(&mut self) {
        self.stream.fin();
    }

    /// The next reply; none: the connection ended, or nothing came in time.
    pub fn reply(&mut self, to_head: bool) -> Option<Reply> {
        self.reply_within(to_head, REPLY_LIMIT)
    }

    pub fn reply_within(&mut self, to_head: bool, limit: Duration) -> Option<Reply> {
        let deadline = Instant::now() + limit;
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if !self.read_more(deadline) {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let mut reply = parse_head(&head[..end]);
        self.read_body(&mut reply, to_head, deadline);
        Some(reply)
    }

    /// What is left unread, and how the connection ended, within `limit`.
    pub fn rest(&mut self, limit: Duration) -> (Vec<u8>, Option<End>) {
        let deadline = Instant::now() + limit;
        while self.read_more(deadline) {}
        (std::mem::take(&mut self.buffer), self.ended)
    }

    /// Everything until the peer closes or has been silent for `patience`; and
    /// whether it closed.
    pub fn all(&mut self, patience: Duration) -> (Vec<u8>, bool) {
        while self.read_more(Instant::now() + patience) {}
        (std::mem::take(&mut self.buffer), self.ended.is_some())
    }

    /// What became of the connection: it is closed, or it serves another
    /// request. `announced`: the last reply said that it closes.
    pub fn fate(&mut self, announced: bool) -> String {
        if announced {
            let (rest, end) = self.rest(CLOSE_LIMIT);
            let rest =
                if rest.is_empty() { String::new() } else { format!(" after {}", show(&rest)) };
            return match end {
                Some(_) => format!("closed{rest}"),
                None => format!("announced to close, open{rest}"),
            };
        }
        self.send("GET /fate HTTP/1.1\r\nhost: fate\r\n\r\n");
        match self.reply_within(false, PROBE_LIMIT) {
            Some(reply) if reply.status() == 404 && reply.header("connection").is_none() => {
                "open".into()
            }
            Some(reply) => format!("odd second reply: {:?}", reply.lines()),
            None if self.ended.is_some() => "closed".into(),
            None => "silent".into(),
        }
    }

    fn read_body(&mut self, reply: &mut Reply, to_head: bool, deadline: Instant) {
        let status = reply.status();
        let chunked = reply.header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
        if to_head || status < 200 || status == 204 || status == 304 {
            return;
        }
        if chunked {
            loop {
                let (body, used) = unchunk(&self.buffer);
                reply.body = body;
                if let Some(used) = used {
                    self.buffer.drain(..used);
                    return;
                }
                if !self.read_more(deadline) {
                    reply.cut = true;
                    self.buffer.clear();
                    return;
                }
            }
        }
        let length = reply.header("content-length").and_then(|v| v.parse::<usize>().ok());
        while self.buffer.len() < length.unwrap_or(usize::MAX) && self.read_more(deadline) {}
        let take = length.unwrap_or(usize::MAX).min(self.buffer.len());
        reply.cut = length.is_some_and(|length| take < length);
        reply.body = self.buffer.drain(..take).collect();
    }

    fn read_more(&mut self, deadline: Instant) -> bool {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
        if self.ended.is_some() || left.is_zero() {
            return false;
        }
        self.stream.set_limit(left);
        let mut chunk = [0; 16384];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.ended = Some(End::Fin),
            Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => self.ended = Some(End::Reset),
        }
        self.ended.is_none()
    }
}

fn parse_head(head: &[u8]) -> Reply {
    let text: String = head.iter().map(|b| char::from(*b)).collect();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .map(|line| match line.split_once(": ") {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (line.trim_end_matches(':').to_owned(), String::new()),
        })
        .collect();
    Reply { line, headers, ..Reply::default() }
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A chunked body without trailers as far as it is there, and the bytes that it
/// took if it is all there.
pub fn unchunk(bytes: &[u8]) -> (Vec<u8>, Option<usize>) {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return (body, None) };
        let size = std::str::from_utf8(&bytes[at..at + line]).unwrap_or_default();
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else { return (body, None) };
        let start = at + line + 2;
        if size == 0 {
            let end = find(&bytes[at + line..], b"\r\n\r\n").map(|end| at + line + end + 4);
            return (body, end);
        }
        let end = start.saturating_add(size);
        body.extend_from_slice(&bytes[start.min(bytes.len())..end.min(bytes.len())]);
        at = end.saturating_add(2);
        if at > bytes.len() {
            return (body, None);
        }
    }
}
