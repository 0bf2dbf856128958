//! An upstream that reads and writes bytes by a script.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{DEADLINE, eventually};

/// A listening upstream. Every connection runs the script in a thread of its
/// own and is closed when the script returns.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    accepted: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Vec<u8>>>,
    stop: AtomicBool,
}

/// One connection, as the script sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) buf: Vec<u8>,
    /// Which connection this is, from 0.
    pub(crate) index: usize,
    shared: Arc<Shared>,
}

impl Upstream {
    pub(crate) fn new(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, script)
    }

    /// An upstream at a port that is open already.
    pub(crate) fn on(
        listener: TcpListener,
        script: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.stop.load(Ordering::Acquire) {
                        return;
                    }
                    let index = shared.accepted.fetch_add(1, Ordering::AcqRel);
                    shared.open.fetch_add(1, Ordering::AcqRel);
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    let shared = Arc::clone(&shared);
                    let mut peer = Peer { stream, buf: Vec::new(), index, shared };
                    let script = Arc::clone(&script);
                    std::thread::spawn(move || {
                        script(&mut peer);
                        peer.shared.open.fetch_sub(1, Ordering::AcqRel);
                    });
                }
            }
        });
        Self { addr, shared }
    }

    /// Gives every request the same answer.
    pub(crate) fn answering(answer: impl AsRef<[u8]>) -> Self {
        let answer = answer.as_ref().to_vec();
        Self::new(move |peer| {
            while peer.request().is_some() {
                peer.send(&answer);
            }
        })
    }

    /// Answers `200 ok`.
    pub(crate) fn ok() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    }

    /// An upstream whose port is closed.
    pub(crate) fn refusing() -> SocketAddr {
        // A port that is taken but not listened on cannot be taken by others.
        use std::sync::OnceLock;
        static HELD: OnceLock<(socket2::Socket, SocketAddr)> = OnceLock::new();
        let held = HELD.get_or_init(|| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
            let addr = socket.local_addr().unwrap().as_socket().unwrap();
            (socket, addr)
        });
        held.1
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// Connections whose script still runs.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// The bytes of each complete request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// Waits for the n-th request (from 1) and gives its bytes.
    #[track_caller]
    pub(crate) fn wait_request(&self, n: usize) -> String {
        eventually("a request at the upstream", || self.requests().len() >= n);
        self.requests()[n - 1].clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
    }
}

impl Peer {
    /// Reads one request whole and records it; none if the connection ends.
    pub(crate) fn request(&mut self) -> Option<String> {
        let head = self.head()?;
        let mut raw = head.clone().into_bytes();
        let lower = head.to_ascii_lowercase();
        if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            while !raw.ends_with(b"\r\n0\r\n\r\n") {
                let more = self.some()?;
                raw.extend(more);
            }
        } else if let Some(at) = lower.find("\r\ncontent-length: ") {
            let value = lower[at + 18..].split("\r\n").next()?;
            raw.extend(self.take(value.parse().ok()?)?);
        }
        self.shared.requests.lock().unwrap().push(raw.clone());
        Some(String::from_utf8_lossy(&raw).into_owned())
    }

    /// Reads a head with its final blank line.
    pub(crate) fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buf.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            self.fill()?;
        }
    }

    /// Exactly `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buf.len() < n {
            self.fill()?;
        }
        Some(self.buf.drain(..n).collect())
    }

    /// Whatever comes next.
    pub(crate) fn some(&mut self) -> Option<Vec<u8>> {
        if self.buf.is_empty() {
            self.fill()?;
        }
        Some(std::mem::take(&mut self.buf))
    }

    /// Writes bytes; false if the proxy has gone.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Waits until the proxy closes.
    pub(crate) fn closed(&mut self) {
        while self.fill().is_some() {}
    }

    fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => None,
            Ok(n) => {
                self.buf.extend_from_slice(&piece[..n]);
                Some(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the proxy is silent for {DEADLINE:?}")
            }
            Err(_) => None,
        }
    }
}
