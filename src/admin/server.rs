//! HTTP for the admin and utility listeners: accept, read heads, count.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::reply::{ReplyBody, date_and_server, empty_body, sized_body};
use crate::stats::{ListenerShard, ListenerStats, Shard};

/// Most connections at a time to one of these listeners; more wait in the
/// backlog. Probes, scrapers and people need a handful; the bound keeps a
/// scanner from eating the pod's memory.
const MAX_CONNECTIONS: usize = 256;

/// A connection that sends no request head for this long is closed. Envoy's
/// connection idle timeout is an hour; scrapers come back within a minute.
const IDLE: Duration = Duration::from_secs(300);

/// Pause after a failed accept (out of descriptors), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an answer depends on.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: http::Method,
    /// Path without query.
    pub(super) path: String,
    /// Query without `?`, possibly empty.
    pub(super) query: String,
    /// True if there is a `?`, even with nothing behind it.
    pub(super) has_query: bool,
}

/// Answers a request at once; what takes long is in the streamed body.
pub(super) type Answer = Arc<dyn Fn(&Request) -> Response<ReplyBody> + Send + Sync>;

/// Accepts connections for ever.
pub(super) async fn serve(listener: TcpListener, stats: Arc<ListenerStats>, answer: Answer) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection =
                    Connection { stats: Arc::clone(&stats), answer: Arc::clone(&answer) };
                tokio::spawn(async move {
                    connection.run(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, prefix = stats.prefix, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    stats: Arc<ListenerStats>,
    answer: Answer,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Replies are small and whole; an error only means no such option.
        let _ = stream.set_nodelay(true);
        let counted = Counted::new(&self.stats);
        // The protocol is told by the first bytes; wait for them not for ever.
        if tokio::time::timeout(IDLE, stream.readable()).await.is_err() {
            return;
        }
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let response = self.respond(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // half_close: a sender that has shut its side still gets its answer.
        builder.http1().half_close(true).timer(TokioTimer::new()).header_read_timeout(IDLE);
        let served = builder.serve_connection(TokioIo::new(stream), service).await;
        if let Err(error) = served {
            tracing::debug!(%error, prefix = self.stats.prefix, "connection ended");
        }
        drop(counted);
    }

    fn respond(&self, request: &hyper::Request<Incoming>) -> Response<ReplyBody> {
        let shard = shard(&self.stats);
        shard.downstream_rq_total.inc();
        let http2 = request.version() == Version::HTTP_2;
        if http2 { &shard.downstream_rq_http2_total } else { &shard.downstream_rq_http1_total }
            .inc();
        let response = if request.version() < Version::HTTP_11 {
            upgrade_required()
        } else {
            let uri = request.uri();
            (self.answer)(&Request {
                method: request.method().clone(),
                path: uri.path().to_owned(),
                query: uri.query().unwrap_or_default().to_owned(),
                has_query: uri.query().is_some(),
            })
        };
        shard.replied(response.status().as_u16());
        response
    }
}

/// HTTP/1.0: Envoy's connection manager does not take it.
fn upgrade_required() -> Response<ReplyBody> {
    let mut response = Response::new(sized_body("Upgrade Required"));
    *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("16"));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    date_and_server(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An empty reply with `date` and `server` behind `headers`, as Envoy's local
/// replies.
pub(super) fn local_reply(
    status: StatusCode,
    headers: impl IntoIterator<Item = (&'static str, HeaderValue)>,
) -> Response<ReplyBody> {
    let mut response = Response::new(empty_body());
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    date_and_server(response.headers_mut());
    response
}

/// These listeners live on the control thread, the writer of shard 0.
fn shard(stats: &ListenerStats) -> &ListenerShard {
    stats.shard(Shard { index: 0, of: stats.shards().len() })
}

/// Counts a connection while it lives.
struct Counted<'a>(&'a ListenerShard);

impl<'a> Counted<'a> {
    fn new(stats: &'a ListenerStats) -> Self {
        let shard = shard(stats);
        shard.downstream_cx_total.inc();
        shard.downstream_cx_active.inc();
        Self(shard)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.downstream_cx_active.dec();
        self.0.downstream_cx_destroy.inc();
    }
}
