//! The gRPC stream to the scheduler. Never gives up: a lost stream is opened
//! again after a jittered wait, and the last good configuration serves
//! meanwhile.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::Uri;
use hyper_util::rt::TokioIo;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

use super::decode::KnownTable;
use super::rpc::{self, Answers, Incoming};
use super::scan::DeltaScan;
use super::session::Session;
use super::store::{Progress, SharedStore};
use super::wire::{self, Response, StateResponse};
use crate::give_way::Responses;
use crate::logic::ads::{self, Variant, backoff};
use crate::plane::Node;

const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const STATE_OF_THE_WORLD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// A whole route table fits: no window update needed in the middle of one.
const WINDOW: u32 = 16 * 1024 * 1024;

/// How to reach the scheduler.
#[derive(Clone)]
pub struct StreamOptions {
    /// Host name or IP literal; looked up at each connection.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Protocol variant.
    pub variant: Variant,
    /// TLS settings, if any; ALPN must offer `h2`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Envoy: `connect_timeout` of the ADS cluster; default 1 s. Covers each of
    /// look-up, connection and TLS handshake.
    pub connect_timeout: Duration,
    /// HTTP/2 PING interval; up to 15 % is added. The scheduler closes
    /// connections that ping every 60 s or more often, so less is raised to it.
    pub keepalive: Duration,
    /// How long the answer to a PING may take; default 2 s.
    pub keepalive_timeout: Duration,
}

impl StreamOptions {
    /// Settings as in Seldon's bootstrap: delta, no TLS.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            variant: Variant::Delta,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            keepalive: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(2),
        }
    }
}

/// Keeps `store` in step with the scheduler; never returns.
pub async fn run(store: SharedStore, options: StreamOptions) {
    let node = store.lock().plane().node.clone();
    let mut client = Client {
        session: Session::new(store.clone(), options.variant),
        store,
        options,
        node,
        rng: SmallRng::from_os_rng(),
    };
    let mut failures = 0;
    loop {
        let mut answered = false;
        let error = match client.stream(&mut answered).await {
            Ok(()) => "stream closed".to_owned(),
            Err(e) => describe(&e),
        };
        client.session.lost();
        failures = if answered { 1 } else { failures + 1 };
        let wait = backoff(failures, &mut client.rng);
        tracing::warn!(
            host = client.options.host,
            port = client.options.port,
            error,
            retry_in_ms = wait.as_millis(),
            "no stream to the control plane"
        );
        tokio::time::sleep(wait).await;
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] tonic::transport::Error),
    #[error(transparent)]
    Rpc(Box<Status>),
    #[error(transparent)]
    Address(#[from] http::uri::InvalidUri),
}

impl From<Status> for StreamError {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

/// An error with its causes: transport errors hide the interesting part.
fn describe(error: &StreamError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

struct Client {
    session: Session,
    store: SharedStore,
    options: StreamOptions,
    node: Node,
    rng: SmallRng,
}

impl Client {
    /// One stream from connection to end; sets `answered` at the first response.
    async fn stream(&mut self, answered: &mut bool) -> Result<(), StreamError> {
        let mut channel = self.connect().await?;
        let node = self.node.clone();
        let responses = Responses::new(Arc::clone(self.store.lock().plane()));
        match self.options.variant {
            Variant::Delta => {
                let (tx, rx) = mpsc::unbounded_channel();
                let mut out = Outbound { tx, encode: move |r| wire::delta_request(r, &node) };
                out.send(self.session.opened());
                let answers = rpc::open(&mut channel, DELTA, rx, responses).await?;
                let store = self.store.clone();
                let known = move |name: &str| store.known_table(name);
                let begin = |len| DeltaScan::new(len, known.clone());
                self.converse(out, answers, begin, answered).await
            }
            Variant::StateOfTheWorld => {
                let (tx, rx) = mpsc::unbounded_channel();
                let mut out = Outbound { tx, encode: move |r| wire::state_request(r, &node) };
                out.send(self.session.opened());
                let answers = rpc::open(&mut channel, STATE_OF_THE_WORLD, rx, responses).await?;
                self.converse(out, answers, |_| StateBytes::default(), answered).await
            }
        }
    }

    async fn converse<Q, I: Incoming<Message = Option<Response>>>(
        &mut self,
        mut out: Outbound<Q, impl FnMut(ads::Request) -> Q>,
        mut answers: Answers<I>,
        begin: impl Fn(usize) -> I,
        answered: &mut bool,
    ) -> Result<(), StreamError> {
        self.store.lock().plane().stats.control.connected_state.set(1);
        tracing::info!(host = self.options.host, port = self.options.port, "stream opened");
        let mut progress: watch::Receiver<Progress> = self.store.progress();
        // Whatever happened while the stream was being opened.
        out.send(self.session.progressed());
        loop {
            tokio::select! {
                message = answers.next(&begin) => {
                    let Some(response) = message? else { return Ok(()) };
                    *answered = true;
                    match response {
                        Some(response) => out.send(self.session.received(response)),
                        None => tracing::warn!("response of a type that was not asked for"),
                    }
                }
                changed = progress.changed() => {
                    // The store cannot go while this handle on it lives.
                    if changed.is_ok() {
                        out.send(self.session.progressed());
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Channel, StreamError> {
        let options = &self.options;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let host = if options.host.contains(':') && !options.host.starts_with('[') {
            format!("[{}]", options.host)
        } else {
            options.host.clone()
        };
        let authority = format!("{host}:{}", options.port);
        let interval = options.keepalive.max(Duration::from_secs(60));
        // TLS is the connector's own, which tonic would not believe of `https`;
        // the scheme that the scheduler sees is the right one.
        let origin = Uri::try_from(format!("{scheme}://{authority}"))?;
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?
            .origin(origin)
            .http2_keep_alive_interval(interval.mul_f64(self.rng.random_range(1.01..1.15)))
            .keep_alive_timeout(options.keepalive_timeout)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let connector = Connector {
            host: options.host.trim_matches(['[', ']']).to_owned(),
            port: options.port,
            tls: options.tls.clone(),
            timeout: options.connect_timeout,
        };
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

impl<K: Fn(&str) -> Option<KnownTable>> Incoming for DeltaScan<K> {
    type Message = Option<Response>;

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status> {
        Self::feed(self, bytes).map_err(not_a_response)
    }

    fn finish(self) -> Result<Option<Response>, Status> {
        Self::finish(self).map_err(not_a_response)
    }
}

/// A response of the state-of-the-world variant that is coming in.
#[derive(Default)]
struct StateBytes(BytesMut);

impl Incoming for StateBytes {
    type Message = Option<Response>;

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Status> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self) -> Result<Option<Response>, Status> {
        let decoded = StateResponse::decode(self.0.freeze()).map_err(not_a_response)?;
        Ok(decoded.take_apart())
    }
}

fn not_a_response(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("not a discovery response: {error}"))
}

struct Outbound<Q, F> {
    tx: mpsc::UnboundedSender<Q>,
    encode: F,
}

impl<Q, F: FnMut(ads::Request) -> Q> Outbound<Q, F> {
    fn send(&mut self, requests: Vec<ads::Request>) {
        for request in requests {
            tracing::debug!(?request, "request");
            // Fails only when the stream is over, which its reader will say.
            let _ = self.tx.send((self.encode)(request));
        }
    }
}

/// Looks the host up, connects and speaks TLS if asked to.
#[derive(Clone)]
struct Connector {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<Box<dyn Io>>> {
        let looked_up = tokio::net::lookup_host((&*self.host, self.port));
        let addresses: Vec<_> = within(self.timeout, looked_up).await?.collect();
        let mut error = io::Error::other("the host has no address");
        for address in addresses {
            match within(self.timeout, TcpStream::connect(address)).await {
                Ok(stream) => return self.secure(stream).await,
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    async fn secure(self, stream: TcpStream) -> io::Result<TokioIo<Box<dyn Io>>> {
        stream.set_nodelay(true)?;
        let Some(tls) = self.tls else { return Ok(TokioIo::new(Box::new(stream))) };
        let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
        let stream = within(self.timeout, TlsConnector::from(tls).connect(name, stream)).await?;
        Ok(TokioIo::new(Box::new(stream)))
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| io::ErrorKind::TimedOut)?
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
