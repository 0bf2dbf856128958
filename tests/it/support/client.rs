//! A client that writes and reads bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::DEADLINE;

/// An HTTP/1 connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) buf: Vec<u8>,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and fields, as they came.
    pub(crate) lines: Vec<String>,
    /// Decoded body.
    pub(crate) body: Vec<u8>,
    /// Status codes of interim answers before it.
    pub(crate) interim: Vec<u16>,
}

impl Answer {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(n, _)| *n == name).map(|(_, value)| value).collect()
    }

    /// The first value of a field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The head with `*` for what the clock decides.
    pub(crate) fn head(&self) -> String {
        let known = |line: &String| match line.split_once(": ") {
            Some((name @ ("date" | "x-envoy-upstream-service-time"), _)) => format!("{name}: *"),
            _ => line.clone(),
        };
        self.lines.iter().map(known).collect::<Vec<_>>().join("\n")
    }
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream, buf: Vec::new() }
    }

    /// Writes bytes. The proxy may have closed: reading tells.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// A request without a body.
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).answer()
    }

    /// A request with a body.
    pub(crate) fn post(&mut self, path: &str, fields: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: h\r\n{fields}content-length: {length}\r\n\r\n");
        self.send([head.as_bytes(), body].concat()).answer()
    }

    /// Sends FIN.
    pub(crate) fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads one answer to a request other than HEAD.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer(false).expect("an answer")
    }

    /// Reads the answer to a HEAD.
    #[track_caller]
    pub(crate) fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).expect("an answer")
    }

    /// Reads one answer; none if the connection ends before it is complete.
    pub(crate) fn try_answer(&mut self, to_head: bool) -> Option<Answer> {
        let mut interim = Vec::new();
        loop {
            let lines = self.head()?;
            let status: u16 = lines[0].split(' ').nth(1)?.parse().ok()?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let mut answer = Answer { status, lines, body: Vec::new(), interim };
            if to_head || matches!(status, 204 | 304) {
                return Some(answer);
            }
            answer.body = if answer.header("transfer-encoding") == Some("chunked") {
                self.chunks()?
            } else {
                let length = answer.header("content-length").map(|v| v.parse().unwrap());
                self.take(length.unwrap_or(0))?
            };
            return Some(answer);
        }
    }

    /// Reads a head: its lines without line ends.
    pub(crate) fn head(&mut self) -> Option<Vec<String>> {
        let end = self.until(b"\r\n\r\n")?;
        let head: Vec<u8> = self.buf.drain(..end).collect();
        let text = String::from_utf8(head).unwrap();
        Some(text.trim_end().split("\r\n").map(str::to_owned).collect())
    }

    /// Reads one chunk of a chunked body; empty is the last.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = self.until(b"\r\n")?;
        let line: Vec<u8> = self.buf.drain(..end).collect();
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        let data = self.take(size)?;
        assert_eq!(self.take(2)?, b"\r\n");
        Some(data)
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Some(body);
            }
            body.extend(chunk);
        }
    }

    /// Exactly `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buf.len() < n {
            if self.read() == 0 {
                return None;
            }
        }
        Some(self.buf.drain(..n).collect())
    }

    /// True if the proxy closes the connection and nothing more came.
    pub(crate) fn at_end(&mut self) -> bool {
        self.buf.is_empty() && self.read() == 0
    }

    /// True if the connection is open and silent right now.
    pub(crate) fn is_open(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut byte = [0];
        let got = self.stream.peek(&mut byte);
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        matches!(got, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    fn until(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.buf.windows(mark.len()).position(|w| w == mark) {
                return Some(at + mark.len());
            }
            if self.read() == 0 {
                return None;
            }
        }
    }

    /// Reads what is there; 0 at the end of the connection, however it came.
    fn read(&mut self) -> usize {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(n) => {
                self.buf.extend_from_slice(&piece[..n]);
                n
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no byte for {DEADLINE:?}; so far {:?}", String::from_utf8_lossy(&self.buf))
            }
            Err(_) => 0,
        }
    }
}
