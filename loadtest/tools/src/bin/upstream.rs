//! A model server that costs next to nothing, so that what is measured is the
//! proxy in front of it.
//!
//!     upstream HTTP_PORT GRPC_PORT STREAM_PORT
//!
//! | port | protocol | answer |
//! |---|---|---|
//! | HTTP_PORT | HTTP/1.1 | 200 with 100 bytes, or as many as the request's `x-reply` says, after `x-delay-ms` milliseconds |
//! | GRPC_PORT | HTTP/2, prior knowledge | one gRPC message of 128 bytes |
//! | STREAM_PORT | the same | [`STREAM_MESSAGES`] gRPC messages of 128 bytes, one DATA frame each |
//!
//! One thread, and one that times the delays: the runtime's own timers are a
//! millisecond coarse, which is more than a proxy adds. Request bodies are counted, not kept; HTTP/2 header blocks are
//! not even decoded, since a call's kind is told by its port.

/// Delays of the same length, timed by a thread that sleeps to the microsecond.
mod delay {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use tokio::sync::oneshot;

    #[derive(Clone)]
    pub(crate) struct Delays(mpsc::Sender<(Instant, oneshot::Sender<()>)>);

    impl Delays {
        pub(crate) fn start() -> Self {
            let (sender, due) = mpsc::channel::<(Instant, oneshot::Sender<()>)>();
            std::thread::spawn(move || {
                // All delays of a run are equal, so the first is due first.
                for (at, over) in due {
                    std::thread::sleep(at.saturating_duration_since(Instant::now()));
                    let _ = over.send(());
                }
            });
            Self(sender)
        }

        pub(crate) async fn wait(&self, delay: Duration) {
            let (over, waited) = oneshot::channel();
            if self.0.send((Instant::now() + delay, over)).is_ok() {
                let _ = waited.await;
            }
        }
    }
}

mod h1 {
    use std::io;
    use std::time::Duration;

    use super::delay::Delays;

    use memchr::memmem;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Longest head; longer ones end the connection.
    const MAX_HEAD: usize = 32 << 10;
    /// Longest answer, bytes.
    const MAX_REPLY: usize = 16 << 20;
    /// Bytes of an answer if the request does not say.
    const DEFAULT_REPLY: usize = 100;

    struct Head {
        body: usize,
        reply: usize,
        delay: Duration,
    }

    pub(crate) async fn serve(mut socket: TcpStream, delays: Delays) -> io::Result<()> {
        let mut buffer = vec![0_u8; 256 << 10];
        let mut reply = Vec::new();
        let mut filled = 0;
        loop {
            let end = loop {
                if let Some(at) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
                    break at + 4;
                }
                if filled > MAX_HEAD {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                match socket.read(&mut buffer[filled..]).await? {
                    0 => return Ok(()),
                    n => filled += n,
                }
            };
            let head = parse(&buffer[..end]).ok_or(io::ErrorKind::InvalidData)?;
            let after = filled - end;
            if after > head.body {
                buffer.copy_within(end + head.body..filled, 0);
                filled = after - head.body;
            } else {
                filled = 0;
                let mut left = head.body - after;
                while left > 0 {
                    let limit = left.min(buffer.len());
                    match socket.read(&mut buffer[..limit]).await? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        n => left -= n,
                    }
                }
            }
            if !head.delay.is_zero() {
                delays.wait(head.delay).await;
            }
            prepare(&mut reply, head.reply);
            socket.write_all(&reply).await?;
        }
    }

    /// The whole answer, kept from request to request while the size is the same.
    fn prepare(reply: &mut Vec<u8>, size: usize) {
        use std::io::Write as _;

        let head_of = |size| {
            let mut head = Vec::with_capacity(128);
            let _ = write!(
                head,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
            );
            head
        };
        let head: Vec<u8> = head_of(size);
        if reply.len() != head.len() + size || !reply.starts_with(&head) {
            *reply = head;
            reply.resize(reply.len() + size, b'x');
        }
    }

    fn parse(head: &[u8]) -> Option<Head> {
        let mut parsed = Head { body: 0, reply: DEFAULT_REPLY, delay: Duration::ZERO };
        let mut lines = head.split(|b| *b == b'\n');
        lines.next();
        for line in lines {
            // Lengths first: they tell nearly every other field away.
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            match colon {
                14 if name.eq_ignore_ascii_case(b"content-length") => parsed.body = number(value)?,
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
                7 if name.eq_ignore_ascii_case(b"x-reply") => {
                    parsed.reply = number(value).filter(|n| *n <= MAX_REPLY)?;
                }
                10 if name.eq_ignore_ascii_case(b"x-delay-ms") => {
                    parsed.delay = Duration::from_millis(number(value)? as u64);
                }
                _ => {}
            }
        }
        Some(parsed)
    }

    fn number(value: &[u8]) -> Option<usize> {
        std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
    }
}

mod h2 {
    use std::collections::VecDeque;
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Messages of a streamed answer.
    pub(crate) const STREAM_MESSAGES: u32 = 50;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// The window that the peer gets for the connection, and how much of it may
    /// be used before it is filled up again.
    const WINDOW: u32 = (1 << 31) - 1;
    const REFILL: u32 = 1 << 24;

    /// `:status: 200`, `content-type: application/grpc`; nothing is indexed.
    const RESPONSE: &[u8] = b"\x88\x0f\x10\x10application/grpc";
    /// `grpc-status: 0`.
    const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";
    /// A gRPC message: no compression, 128 bytes, a `ModelInferResponse` whose
    /// `model_name` (field 1) has 126 bytes.
    const MESSAGE: [u8; 133] = {
        let mut message = [b'm'; 133];
        let start = [0, 0, 0, 0, 128, 0x0a, 126];
        let mut at = 0;
        while at < start.len() {
            message[at] = start[at];
            at += 1;
        }
        message
    };

    struct Connection {
        out: Vec<u8>,
        /// What the peer lets us send, all streams together.
        window: i64,
        /// Streams with messages to send: identifier, messages left.
        sending: VecDeque<(u32, u32)>,
        received: u32,
        messages: u32,
    }

    pub(crate) async fn serve(mut socket: TcpStream, messages: u32) -> io::Result<()> {
        let mut buffer = vec![0_u8; 256 << 10];
        let mut filled = 0;
        let mut connection = Connection::new(messages);
        let mut greeted = false;
        loop {
            match socket.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                n => filled += n,
            }
            let mut at = 0;
            if !greeted {
                if filled < PREFACE.len() {
                    continue;
                }
                if !buffer.starts_with(PREFACE) {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                at = PREFACE.len();
                greeted = true;
            }
            while filled - at >= 9 {
                let length = u32::from_be_bytes([0, buffer[at], buffer[at + 1], buffer[at + 2]]);
                let end = at + 9 + length as usize;
                if filled < end {
                    break;
                }
                connection.frame(&buffer[at..at + 9], &buffer[at + 9..end]);
                at = end;
            }
            buffer.copy_within(at..filled, 0);
            filled -= at;
            loop {
                let more = connection.send_round();
                if !connection.out.is_empty() {
                    socket.write_all(&connection.out).await?;
                    connection.out.clear();
                }
                if !more {
                    break;
                }
            }
        }
    }

    impl Connection {
        fn new(messages: u32) -> Self {
            let mut connection = Self {
                out: Vec::with_capacity(64 << 10),
                window: 65_535,
                sending: VecDeque::new(),
                received: 0,
                messages,
            };
            let mut settings = vec![0, 4]; // INITIAL_WINDOW_SIZE
            settings.extend(WINDOW.to_be_bytes());
            connection.push(SETTINGS, 0, 0, &settings);
            connection.push(WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes());
            connection
        }

        fn push(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
            let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
            self.out.extend([a, b, c, kind, flags]);
            self.out.extend(stream.to_be_bytes());
            self.out.extend(payload);
        }

        fn frame(&mut self, header: &[u8], payload: &[u8]) {
            let (kind, flags) = (header[3], header[4]);
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            match kind {
                DATA => {
                    self.received += payload.len() as u32;
                    if self.received >= REFILL {
                        self.push(WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
                        self.received = 0;
                    }
                    if flags & END_STREAM != 0 {
                        self.answer(stream);
                    }
                }
                HEADERS if flags & END_STREAM != 0 => self.answer(stream),
                RST_STREAM => self.sending.retain(|(id, _)| *id != stream),
                SETTINGS if flags & ACK == 0 => self.push(SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => self.push(PING, ACK, 0, payload),
                WINDOW_UPDATE if stream == 0 && payload.len() == 4 => {
                    let by = [payload[0], payload[1], payload[2], payload[3]];
                    self.window += i64::from(u32::from_be_bytes(by));
                }
                _ => {}
            }
        }

        fn answer(&mut self, stream: u32) {
            self.push(HEADERS, END_HEADERS, stream, RESPONSE);
            self.sending.push_back((stream, self.messages));
        }

        /// One message of each stream that has some and may send; true if there
        /// is more to send at once. Streams' own windows are never reached: an
        /// answer is smaller than the smallest initial one.
        fn send_round(&mut self) -> bool {
            for _ in 0..self.sending.len() {
                if self.window < MESSAGE.len() as i64 {
                    return false;
                }
                let Some((stream, left)) = self.sending.pop_front() else { return false };
                self.push(DATA, 0, stream, &MESSAGE);
                self.window -= MESSAGE.len() as i64;
                if left > 1 {
                    self.sending.push_back((stream, left - 1));
                } else {
                    self.push(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS);
                }
            }
            !self.sending.is_empty()
        }
    }
}

use std::net::Ipv4Addr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(4096)
}

fn main() -> anyhow::Result<()> {
    let ports: Vec<u16> =
        std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>().context("ports")?;
    let [http, grpc, stream] = ports[..] else {
        anyhow::bail!("usage: upstream HTTP_PORT GRPC_PORT STREAM_PORT")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (http, grpc, stream) = (listen(http)?, listen(grpc)?, listen(stream)?);
        let delays = delay::Delays::start();
        println!("ready");
        loop {
            // A connection that breaks is the loader's to report.
            tokio::select! {
                accepted = http.accept() => {
                    let socket = accepted?.0;
                    socket.set_nodelay(true)?;
                    tokio::spawn(h1::serve(socket, delays.clone()));
                }
                accepted = grpc.accept() => {
                    let socket = accepted?.0;
                    socket.set_nodelay(true)?;
                    tokio::spawn(h2::serve(socket, 1));
                }
                accepted = stream.accept() => {
                    let socket = accepted?.0;
                    socket.set_nodelay(true)?;
                    tokio::spawn(h2::serve(socket, h2::STREAM_MESSAGES));
                }
            }
        }
    })
}
