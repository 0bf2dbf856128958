//! Both ends of HTTP/2 by prior knowledge: a client, a client of raw frames, and
//! a model server that answers by script.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use tokio::runtime::Runtime;

use crate::client::{masked, show};
use crate::oracle::LOOPBACK;
use crate::upstream::Gate;

const LIMIT: Duration = Duration::from_secs(20);
/// How long raw frames are collected.
const RAW_LIMIT: Duration = Duration::from_millis(1500);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("threads")
    })
}

fn lines(headers: &HeaderMap, mark: &str) -> Vec<String> {
    let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    headers.iter().map(|(n, v)| format!("{mark} {}", masked(n.as_str(), &text(v)))).collect()
}

/// A reply as received.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// The headers ended the stream.
    pub bare: bool,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub error: Option<String>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub fn lines(&self) -> Vec<String> {
        let mut text = vec![format!("< {}", self.status)];
        text.extend(lines(&self.headers, "<"));
        if self.bare {
            text.push("< (end)".to_owned());
        }
        if !self.body.is_empty() {
            text.push(format!("< body {}", show(&self.body)));
        }
        if let Some(trailers) = &self.trailers {
            text.push("< trailers".to_owned());
            text.extend(lines(trailers, "<"));
        }
        text.extend(self.error.iter().map(|e| format!("< error: {e}")));
        text
    }
}

/// One request over a connection of its own. No body: END_STREAM with the
/// headers.
pub fn call(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Reply {
    let mut request = Request::builder().method(method).uri(format!("http://h.example{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a valid request");
    let body = body.map(Bytes::copy_from_slice);
    runtime().block_on(limited(exchange(port, request, body)))
}

/// A request that never ends: a POST whose head alone is sent. The reply, and how
/// its stream ends within a while after it.
pub fn call_unfinished(port: u16, path: &str, headers: &[(&str, &str)]) -> (Reply, String) {
    let request = post(path, headers);
    let ended = Arc::new(Mutex::new("not at all".to_owned()));
    let reply = runtime().block_on(limited(async {
        let (mut client, driver) = connect(port).await?;
        let (response, mut send) = client.send_request(request, false)?;
        let reply = read(response).await;
        let reset = std::future::poll_fn(|cx| send.poll_reset(cx));
        if let Ok(reset) = tokio::time::timeout(RAW_LIMIT, reset).await {
            *ended.lock().unwrap() = match reset {
                Ok(reason) => format!("reset {reason:?}"),
                Err(error) => say(&error),
            };
        }
        driver.abort();
        reply
    }));
    let ended = ended.lock().unwrap().clone();
    (reply, ended)
}

/// A POST with this body. `taken` is called once the proxy has all of it.
pub fn call_whole(
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
    taken: impl FnOnce(),
) -> Reply {
    let request = post(path, headers);
    runtime().block_on(limited(async {
        let stream = dial(port).await;
        let mut builder = h2::client::Builder::new();
        let (mut client, mut connection) =
            builder.max_send_buffer_size(body.len()).handshake(stream).await?;
        let mut pings = connection.ping_pong().expect("it was not asked for before");
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (response, mut send) = client.send_request(request, false)?;
        let len = body.len();
        // Room for as much again is there once all of it has left.
        for piece in [Some(body), None] {
            send.reserve_capacity(len);
            while send.capacity() < len {
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                room.expect("the stream is open")?;
            }
            match piece {
                Some(body) => send.send_data(body, false)?,
                None => send.send_data(Bytes::new(), true)?,
            }
        }
        // A PING may overtake what is queued, here the end. When its answer is there
        // the end has left, and the answer to the next one says that it was read.
        for _ in 0..2 {
            pings.ping(h2::Ping::opaque()).await?;
        }
        taken();
        let reply = read(response).await;
        driver.abort();
        reply
    }))
}

/// A POST that goes on while it is answered: after its head, and then after each
/// piece of the answer, the next of these leaves; the last ends the request.
pub fn call_by_turns(
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    pieces: &[&'static str],
) -> Reply {
    let request = post(path, headers);
    runtime().block_on(limited(async {
        let (mut client, driver) = connect(port).await?;
        let (response, mut send) = client.send_request(request, false)?;
        let mut reply = Reply::default();
        let (head, mut stream) = response.await?.into_parts();
        reply.status = head.status.as_u16();
        reply.headers = head.headers;
        for (index, piece) in pieces.iter().enumerate() {
            let end = index + 1 == pieces.len();
            send.send_data(Bytes::from_static(piece.as_bytes()), end)?;
            let Some(data) = stream.data().await else { break };
            let data = data?;
            let _ = stream.flow_control().release_capacity(data.len());
            reply.body.extend_from_slice(&data);
        }
        while let Some(data) = stream.data().await {
            reply.body.extend_from_slice(&data?);
        }
        reply.trailers = stream.trailers().await?;
        driver.abort();
        Ok(reply)
    }))
}

fn post(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method("POST").uri(format!("http://h.example{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid request")
}

async fn limited(reply: impl Future<Output = Result<Reply, h2::Error>>) -> Reply {
    match tokio::time::timeout(LIMIT, reply).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => Reply { error: Some(say(&error)), ..Reply::default() },
        Err(_) => Reply { error: Some("no reply".to_owned()), ..Reply::default() },
    }
}

fn say(error: &h2::Error) -> String {
    let kind = if error.is_reset() {
        "reset"
    } else if error.is_go_away() {
        "goaway"
    } else {
        "broken"
    };
    format!("{kind} {:?}", error.reason())
}

async fn exchange(
    port: u16,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Reply, h2::Error> {
    let (mut client, driver) = connect(port).await?;
    let (response, mut send) = client.send_request(request, body.is_none())?;
    if let Some(body) = body {
        send.send_data(body, true)?;
    }
    let reply = read(response).await?;
    drop(client);
    driver.abort();
    Ok(reply)
}

async fn dial(port: u16) -> tokio::net::TcpStream {
    tokio::net::TcpStream::connect((LOOPBACK, port)).await.expect("the listener is open")
}

/// A connection, and the task that moves its bytes.
async fn connect(
    port: u16,
) -> Result<(h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>), h2::Error> {
    let (client, connection) = h2::client::handshake(dial(port).await).await?;
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((client, driver))
}

async fn read(response: h2::client::ResponseFuture) -> Result<Reply, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let mut reply = Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        bare: stream.is_end_stream(),
        ..Reply::default()
    };
    while let Some(data) = stream.data().await {
        match data {
            Ok(data) => {
                let _ = stream.flow_control().release_capacity(data.len());
                reply.body.extend_from_slice(&data);
            }
            Err(error) => {
                reply.error = Some(say(&error));
                break;
            }
        }
    }
    match stream.trailers().await {
        Ok(trailers) => reply.trailers = trailers,
        Err(error) => reply.error = Some(say(&error)),
    }
    Ok(reply)
}

/// One step of an answer.
#[derive(Clone)]
pub enum Act {
    /// Read the request's body.
    Body,
    /// Read one piece of it.
    Piece,
    /// Send an interim answer.
    Interim(u16),
    /// Send the head; true: it is all.
    Head(u16, Vec<(&'static str, &'static str)>, bool),
    Data(Vec<u8>, bool),
    Trailers(Vec<(&'static str, &'static str)>),
    Reset(Reason),
    Wait(Duration),
    /// Wait until the gate is opened.
    Gate(Gate),
}

/// A request as received.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub lines: Vec<String>,
}

/// A model server of HTTP/2.
pub struct Upstream {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub fn start(acts: Vec<Act>) -> Self {
        let listener =
            runtime().block_on(tokio::net::TcpListener::bind((LOOPBACK, 0))).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let task = runtime().spawn({
            let received = Arc::clone(&received);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, acts.clone(), Arc::clone(&received)));
                }
            }
        });
        Self { port, received, task }
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits for a request whose body was read; false if none comes.
    pub fn wait_body(&self) -> bool {
        let deadline = std::time::Instant::now() + LIMIT;
        let is_body = |line: &String| line.starts_with("> body");
        while !self.received().iter().any(|r| r.lines.iter().any(is_body)) {
            if std::time::Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: tokio::net::TcpStream, acts: Vec<Act>, received: Arc<Mutex<Vec<Received>>>) {
    let mut server = h2::server::Builder::new();
    server.enable_connect_protocol();
    let Ok(mut connection) = server.handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let number = {
            let mut all = received.lock().unwrap();
            let mut text = vec![format!(
                "> {} {} {}",
                request.method(),
                request.uri(),
                if request.body().is_end_stream() { "(end)" } else { "" },
            )];
            let protocol = request.extensions().get::<h2::ext::Protocol>();
            text.extend(protocol.map(|protocol| format!("> :protocol {}", protocol.as_str())));
            text.extend(lines(request.headers(), ">"));
            all.push(Received { lines: text });
            all.len() - 1
        };
        tokio::spawn(answer(request, respond, acts.clone(), Arc::clone(&received), number));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    acts: Vec<Act>,
    received: Arc<Mutex<Vec<Received>>>,
    number: usize,
) {
    let note = |line: String| received.lock().unwrap()[number].lines.push(line);
    let mut body = request.into_body();
    let mut send = None;
    for act in acts {
        let failed = match act {
            Act::Body => {
                let mut bytes = Vec::new();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    bytes.extend_from_slice(&data);
                }
                if !bytes.is_empty() {
                    note(format!("> body {}", show(&bytes)));
                }
                if let Ok(Some(trailers)) = body.trailers().await {
                    note(format!("> trailers {:?}", lines(&trailers, "")));
                }
                false
            }
            Act::Piece => {
                if let Some(Ok(data)) = body.data().await {
                    note(format!("> piece {}", show(&data)));
                }
                false
            }
            Act::Interim(status) => {
                let interim = Response::builder().status(status).body(()).expect("valid");
                respond.send_informational(interim).is_err()
            }
            Act::Head(status, headers, end) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                let sent = respond.send_response(response.body(()).expect("valid"), end);
                send = sent.ok();
                send.is_none()
            }
            Act::Data(bytes, end) => {
                send.as_mut().is_none_or(|s| s.send_data(bytes.into(), end).is_err())
            }
            Act::Trailers(list) => {
                let mut map = HeaderMap::new();
                for (name, value) in list {
                    map.append(name, http::HeaderValue::from_static(value));
                }
                send.as_mut().is_none_or(|s| s.send_trailers(map).is_err())
            }
            Act::Wait(time) => {
                tokio::time::sleep(time).await;
                false
            }
            Act::Gate(gate) => {
                let _ = tokio::task::spawn_blocking(move || gate.wait()).await;
                false
            }
            Act::Reset(reason) => {
                // What was sent before must leave first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                match &mut send {
                    Some(send) => send.send_reset(reason),
                    None => respond.send_reset(reason),
                }
                false
            }
        };
        if failed {
            note("(the answer could not be sent)".to_owned());
            return;
        }
    }
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        integer(&mut block, name.len());
        block.extend_from_slice(name.as_bytes());
        integer(&mut block, value.len());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// A connection of raw frames, as a client's that does not say goodbye itself.
pub struct Raw {
    stream: TcpStream,
    input: Vec<u8>,
    seen: usize,
}

impl Raw {
    pub fn connect(port: u16) -> Self {
        let mut stream = TcpStream::connect((LOOPBACK, port)).expect("the listener is open");
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut bytes, 4, 0, 0, &[]);
        let _ = stream.write_all(&bytes);
        Self { stream, input: Vec::new(), seen: 0 }
    }

    /// A request without a body.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)]) {
        let mut bytes = Vec::new();
        frame(&mut bytes, 1, 5, stream, &block(fields));
        let _ = self.stream.write_all(&bytes);
    }

    /// Frames that were not told yet, until one begins with this or the
    /// connection is closed.
    pub fn until(&mut self, wanted: &str, limit: Duration) -> Vec<String> {
        let deadline = std::time::Instant::now() + limit;
        let mut chunk = [0; 16384];
        loop {
            let mut all = frames(&self.input);
            let new: Vec<String> = all.split_off(self.seen.min(all.len()));
            if let Some(at) = new.iter().position(|line| line.starts_with(wanted)) {
                self.seen += at + 1;
                return new[..=at].to_vec();
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let _ = self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))));
            let end = match self.stream.read(&mut chunk) {
                Ok(0) => "closed",
                Ok(n) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    continue;
                }
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => "closed",
                Err(_) => "nothing",
            };
            self.seen += new.len();
            return [new, vec![end.to_owned()]].concat();
        }
    }
}

/// Sends HTTP/2 HEADERS with these fields as they are, END_STREAM set, and says
/// what frames come back: types, streams, error codes; and whether a PING is
/// answered afterwards.
pub fn raw(port: u16, fields: &[(&str, &str)]) -> Vec<String> {
    let block = block(fields);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    let mut parts = block.chunks(16384);
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&[u8]> = parts.collect();
    frame(&mut bytes, 1, 1 | if rest.is_empty() { 4 } else { 0 }, 1, first);
    for (index, part) in rest.iter().enumerate() {
        frame(&mut bytes, 9, if index + 1 == rest.len() { 4 } else { 0 }, 1, part);
    }
    frame(&mut bytes, 6, 0, 0, b"question");
    let mut stream = TcpStream::connect((LOOPBACK, port)).expect("the listener is open");
    let _ = stream.set_read_timeout(Some(RAW_LIMIT));
    let _ = stream.write_all(&bytes);
    let (mut input, mut chunk) = (Vec::new(), [0; 16384]);
    let end = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break "closed",
            Ok(n) => input.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break "closed",
            Err(_) => break "open",
        }
    };
    let mut seen = frames(&input);
    seen.push(end.to_owned());
    seen
}

fn integer(out: &mut Vec<u8>, value: usize) {
    if value < 127 {
        out.push(value as u8);
        return;
    }
    out.push(127);
    let mut left = value - 127;
    while left >= 128 {
        out.push((left % 128 + 128) as u8);
        left /= 128;
    }
    out.push(left as u8);
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// HEADERS, RST_STREAM, GOAWAY, answered PING and the server's SETTINGS.
fn frames(mut input: &[u8]) -> Vec<String> {
    let mut seen = Vec::new();
    while input.len() >= 9 {
        let length = u32::from_be_bytes([0, input[0], input[1], input[2]]) as usize;
        let (kind, flags) = (input[3], input[4]);
        let Some(payload) = input.get(9..9 + length) else { break };
        let number = |at: usize| {
            payload.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        };
        match kind {
            1 => seen.push("HEADERS".to_owned()),
            3 => seen.push(format!("RST_STREAM {}", number(0))),
            4 if flags & 1 == 0 => seen.push(format!("SETTINGS {}", settings(payload))),
            6 if flags & 1 == 1 => seen.push("PING answered".to_owned()),
            7 => seen.push(format!("GOAWAY last {} code {}", number(0), number(4))),
            8 => seen.push(format!("WINDOW_UPDATE {}", number(0))),
            _ => {}
        }
        input = &input[9 + length..];
    }
    seen
}

fn settings(payload: &[u8]) -> String {
    let mut each: Vec<String> = payload
        .chunks_exact(6)
        .map(|s| {
            let id = u16::from_be_bytes([s[0], s[1]]);
            format!("{id}={}", u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
        })
        .collect();
    each.sort();
    each.join(" ")
}
