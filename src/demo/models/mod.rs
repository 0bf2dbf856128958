//! Model servers and a pipeline gateway of the V2 inference protocol, HTTP/1.1,
//! h2c and gRPC on one port: real enough to route to, cheap enough to measure
//! a proxy with.
//!
//! They serve every model that they are asked for. What they received comes
//! back in response headers:
//!
//! | header | value |
//! |---|---|
//! | `x-echo-server` | name of the server |
//! | `x-echo-internal-model` | first `seldon-internal-model`, as agents read it |
//! | `x-echo-model` | all `seldon-model` lines, joined by a comma |
//! | `x-echo-host`, `x-echo-path` | authority and path as they arrived |
//!
//! Request headers change how a server behaves: `x-demo-status: 503` answers
//! with that status, `x-demo-delay-ms: 20` waits before the answer.

mod body;
mod calls;
mod grpc;
pub mod proto;
mod rest;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::listen;
use body::Body;

/// Flow-control window of an HTTP/2 stream: some full frames, so that uploads
/// are not slowed down by the server.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow-control window of an HTTP/2 connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Parallel streams of an HTTP/2 connection; Envoy's own default.
const MAX_STREAMS: u32 = 1024;

/// What stands behind a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerKind {
    /// A model server with its agent.
    #[default]
    Models,
    /// A pipeline gateway: only takes requests that are labelled as a
    /// pipeline's.
    PipelineGateway,
}

/// One server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Its name, for `x-echo-server`.
    pub name: String,
    /// What it is.
    pub kind: ServerKind,
    /// Where it listens; port 0 takes a free one.
    pub addr: SocketAddr,
}

impl ServerOptions {
    /// A server on a free loopback port.
    pub fn new(name: impl Into<String>, kind: ServerKind) -> Self {
        Self { name: name.into(), kind, addr: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }
}

/// Running servers, on one thread of their own. Dropped, they are gone.
#[derive(Debug)]
pub struct ModelServers {
    addrs: Vec<SocketAddr>,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ModelServers {
    /// Starts servers.
    ///
    /// # Errors
    ///
    /// A port is taken, or there is no thread to be had.
    pub fn start(servers: &[ServerOptions]) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let counts = Arc::new(Counts::default());
        let (mut addrs, mut listening) = (Vec::new(), Vec::new());
        for options in servers {
            let listener = listen(&runtime, options.addr)?;
            addrs.push(listener.local_addr()?);
            let name = HeaderValue::from_str(&options.name).map_err(io::Error::other)?;
            let kind = options.kind;
            listening.push((listener, Arc::new(Server { name, kind, counts: counts.clone() })));
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name("model-servers".to_owned()).spawn(move || {
                runtime.block_on(async {
                    for (listener, server) in listening {
                        tokio::spawn(accept(listener, server));
                    }
                    // Either way it is over: told to stop, or forgotten.
                    let _ = stopped.await;
                });
            })?;
        Ok(Self { addrs, counts, stop: Some(stop), thread: Some(thread) })
    }

    /// Where the servers listen, in the order of the options.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Requests so far by `seldon-internal-model` (first value; empty for those
    /// without).
    #[must_use]
    pub fn counts(&self) -> HashMap<String, u64> {
        self.counts.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ModelServers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only ends early if it panicked, and then it has said so.
            let _ = thread.join();
        }
    }
}

/// Requests by label.
#[derive(Debug, Default)]
struct Counts(Mutex<HashMap<String, u64>>);

impl Counts {
    fn count(&self, label: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(label) {
            Some(count) => *count += 1,
            None => {
                counts.insert(label.to_owned(), 1);
            }
        }
    }
}

#[derive(Debug)]
struct Server {
    name: HeaderValue,
    kind: ServerKind,
    counts: Arc<Counts>,
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of descriptors, most likely: others will close theirs.
                tracing::warn!(%error, "a model server cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // A small answer must not wait for the acknowledgement of the one before.
        let _ = socket.set_nodelay(true);
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let mut connection = auto::Builder::new(TokioExecutor::new());
            connection
                .http2()
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(MAX_STREAMS);
            let service = service_fn(move |request| Arc::clone(&server).serve(request));
            // Clients that go away in the middle are nothing to report.
            let _ = connection.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

impl Server {
    async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let echo = self.echo(&request);
        let label = first(request.headers(), "seldon-internal-model").unwrap_or_default();
        self.counts.count(label);
        let label = label.to_owned();
        if let Some(delay) = number(request.headers(), "x-demo-delay-ms") {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let mut response = match forced_status(request.headers()) {
            Some(status) => {
                let mut response = Response::new(Body::full("forced by x-demo-status\n"));
                *response.status_mut() = status;
                response
            }
            None if is_grpc(request.headers()) => grpc::serve(self.kind, &label, request).await,
            None => rest::serve(self.kind, &label, request).await,
        };
        response.headers_mut().extend(echo);
        Ok(response)
    }

    fn echo(&self, request: &Request<Incoming>) -> HeaderMap {
        let headers = request.headers();
        let mut echo = HeaderMap::with_capacity(5);
        echo.insert("x-echo-server", self.name.clone());
        if let Some(label) = headers.get("seldon-internal-model") {
            echo.insert("x-echo-internal-model", label.clone());
        }
        let mut models = headers.get_all("seldon-model").iter();
        if let Some(first) = models.next() {
            let joined = models.fold(first.as_bytes().to_vec(), |mut joined, model| {
                joined.push(b',');
                joined.extend_from_slice(model.as_bytes());
                joined
            });
            insert(&mut echo, "x-echo-model", &joined);
        }
        let authority = request.uri().authority().map(|a| a.as_str().as_bytes());
        let host = authority.or_else(|| headers.get(HOST).map(HeaderValue::as_bytes));
        insert(&mut echo, "x-echo-host", host.unwrap_or_default());
        let path = request.uri().path_and_query().map_or("", |p| p.as_str());
        insert(&mut echo, "x-echo-path", path.as_bytes());
        echo
    }
}

/// Values that came in a head can go out in one; should one not, it is left out.
fn insert(headers: &mut HeaderMap, name: &'static str, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    first(headers, name)?.parse().ok()
}

fn forced_status(headers: &HeaderMap) -> Option<StatusCode> {
    let status = u16::try_from(number(headers, "x-demo-status")?).ok()?;
    // Informational answers are no final ones.
    StatusCode::from_u16(status).ok().filter(|s| s.as_u16() >= 200)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(hyper::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
