//! Both ends of HTTP/2, on the `h2` crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

/// A request at an upstream.
pub(crate) struct H2Stream {
    pub(crate) head: http::request::Parts,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    goaway: Arc<Notify>,
}

impl H2Stream {
    /// The connection takes no new streams after this (GOAWAY).
    pub(crate) fn goaway(&self) {
        self.goaway.notify_one();
    }

    /// Sends a head; what follows is the caller's.
    pub(crate) fn reply(&mut self, response: Response<()>) -> SendStream<Bytes> {
        self.respond.send_response(response, false).unwrap()
    }

    /// The body to its end, and the trailers.
    pub(crate) async fn read(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        read(&mut self.body).await.expect("the request's body")
    }
}

/// An upstream that runs a script for every stream, in a thread of its own.
#[derive(Debug)]
pub(crate) struct H2Upstream {
    pub(crate) addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl H2Upstream {
    pub(crate) fn new<F>(script: impl Fn(H2Stream) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(h2::server::Builder::new(), script)
    }

    /// With settings of its own.
    pub(crate) fn with<F>(
        settings: h2::server::Builder,
        script: impl Fn(H2Stream) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(([127, 0, 0, 1], 0).into(), settings, script)
    }

    /// At a given address.
    pub(crate) fn at<F>(
        addr: SocketAddr,
        script: impl Fn(H2Stream) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(addr, h2::server::Builder::new(), script)
    }

    fn start<F>(
        addr: SocketAddr,
        settings: h2::server::Builder,
        script: impl Fn(H2Stream) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(addr).unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel::<()>();
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, settings, script, count) => {}
                }
            });
        });
        Self { addr, accepted, _stop: stop }
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }
}

async fn accept<F>(
    listener: TcpListener,
    settings: h2::server::Builder,
    script: impl Fn(H2Stream) -> F + Clone + Send + 'static,
    accepted: Arc<AtomicUsize>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let connection = accepted.fetch_add(1, Ordering::AcqRel);
        let (settings, script) = (settings.clone(), script.clone());
        tokio::spawn(async move {
            let Ok(mut h2) = settings.handshake::<_, Bytes>(socket).await else { return };
            let goaway = Arc::new(Notify::new());
            loop {
                tokio::select! {
                    next = h2.accept() => {
                        let Some(Ok((request, respond))) = next else { return };
                        let (head, body) = request.into_parts();
                        let goaway = Arc::clone(&goaway);
                        tokio::spawn(script(H2Stream { head, body, respond, connection, goaway }));
                    }
                    () = goaway.notified() => h2.graceful_shutdown(),
                }
            }
        });
    }
}

/// A connection to the proxy by prior knowledge.
#[derive(Clone)]
pub(crate) struct H2Client {
    sender: h2::client::SendRequest<Bytes>,
}

impl H2Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::with(addr, &h2::client::Builder::new()).await
    }

    /// With settings of its own.
    pub(crate) async fn with(addr: SocketAddr, settings: &h2::client::Builder) -> Self {
        let socket = TcpStream::connect(addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self::over(socket, settings).await
    }

    /// Over a stream that is connected.
    pub(crate) async fn over<T>(stream: T, settings: &h2::client::Builder) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = settings.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Opens a stream; its body is to be sent unless `end`.
    pub(crate) async fn open(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await.unwrap();
        self.sender.send_request(request, end).unwrap()
    }

    /// Waits until the proxy wants no new streams (GOAWAY).
    pub(crate) async fn closing(&mut self) {
        while std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// A whole exchange: answer, its body and its trailers.
    pub(crate) async fn call(
        &mut self,
        request: Request<()>,
        body: &[u8],
    ) -> Result<(Response<()>, Vec<u8>, Option<HeaderMap>), h2::Error> {
        let (response, mut send) = self.open(request, body.is_empty()).await;
        if !body.is_empty() {
            send.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (parts, mut stream) = response.await?.into_parts();
        let (body, trailers) = read(&mut stream).await?;
        Ok((Response::from_parts(parts, ()), body, trailers))
    }

    /// A request for a model's gRPC method.
    pub(crate) fn grpc(model: &str) -> Request<()> {
        Request::post("http://h/inference.GRPCInferenceService/ModelInfer")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("seldon-model", model)
            .body(())
            .unwrap()
    }

    /// A request by GET.
    pub(crate) fn get(path: &str) -> Request<()> {
        Request::get(format!("http://h{path}")).body(()).unwrap()
    }
}

/// A body to its end, and the trailers.
pub(crate) async fn read(
    stream: &mut RecvStream,
) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body, stream.trailers().await?))
}
