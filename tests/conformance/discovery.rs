//! A discovery server that keeps a diary: the protocol is that of the embedded
//! scheduler, but each request and response is written down, and
//! responses of a type can be withheld.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use radiant::demo::scheduler::Push;
use radiant::demo::scheduler::cache::Caches;
use radiant::demo::scheduler::stream::{DeltaStream, SotwStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::oracle::LOOPBACK;

/// Nothing that a case waits for takes longer, unless it says so.
pub const LIMIT: Duration = Duration::from_secs(20);

/// One line of the diary.
#[derive(Clone, Debug)]
pub enum Entry {
    Request(Asked),
    Response(Told),
}

/// A request, of either variant.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Last part of the type URL: `Cluster`, `Listener`, ...
    pub kind: String,
    /// `id/cluster` of the node.
    pub node: Option<String>,
    pub subscribe: Vec<String>,
    pub unsubscribe: Vec<String>,
    pub versions: BTreeMap<String, String>,
    /// State of the world: all names.
    pub names: Vec<String>,
    /// State of the world: the last accepted version.
    pub version_info: String,
    pub nonce: String,
    pub error: Option<(i32, String)>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Told {
    pub kind: String,
    pub nonce: String,
}

impl Asked {
    /// For the transcript; versions by their names only.
    pub fn line(&self) -> String {
        let mut line = format!("{} subscribe={:?}", self.kind, self.subscribe);
        if !self.unsubscribe.is_empty() {
            line.push_str(&format!(" unsubscribe={:?}", self.unsubscribe));
        }
        if !self.versions.is_empty() {
            line.push_str(&format!(" holds={:?}", self.versions.keys().collect::<Vec<_>>()));
        }
        if !self.names.is_empty() || !self.version_info.is_empty() {
            line.push_str(&format!(" names={:?} version={:?}", self.names, self.version_info));
        }
        let answer = match (&self.error, self.nonce.is_empty()) {
            (None, true) => "",
            (None, false) => " ACK",
            (Some(_), _) => " NACK",
        };
        line + answer
    }

    pub fn is_answer_to(&self, nonce: &str) -> bool {
        self.nonce == nonce
    }
}

/// A running server. Dropped, its port closes and its streams break.
pub struct Discovery {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    caches: Caches,
    streams: BTreeMap<usize, Connected>,
    opened: usize,
    diary: Vec<Entry>,
    /// Types (last part of the URL) that get no response for now.
    withheld: BTreeSet<&'static str>,
    /// Their responses, by stream.
    kept: Vec<(usize, Reply)>,
}

/// A response of either variant.
enum Reply {
    Delta(DeltaDiscoveryResponse),
    Sotw(DiscoveryResponse),
}

enum Connected {
    Delta(DeltaStream, mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>),
    Sotw(SotwStream, mpsc::UnboundedSender<Result<DiscoveryResponse, Status>>),
}

impl Discovery {
    /// A server at `port` that has these resources from the beginning; responses
    /// of the withheld types wait for [`Discovery::release`].
    pub fn start(port: u16, pushes: Vec<Push>, withheld: &[&'static str]) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(LOOPBACK, port))?;
        let listener = socket.listen(64)?;
        drop(entered);
        let mut caches = Caches::new("test-id".to_owned());
        pushes.into_iter().for_each(|push| caches.apply(push));
        let inner = Inner {
            caches,
            streams: BTreeMap::new(),
            opened: 0,
            diary: Vec::new(),
            withheld: withheld.iter().copied().collect(),
            kept: Vec::new(),
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new() });
        let service = Service(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let ads = AggregatedDiscoveryServiceServer::new(service);
                let served = tonic::transport::Server::builder()
                    .add_service(ads.max_decoding_message_size(usize::MAX))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    _ = served => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Changes what there is and tells it to those who watch, in one step.
    pub fn push(&self, pushes: Vec<Push>) {
        let mut inner = self.shared.lock();
        pushes.into_iter().for_each(|push| inner.caches.apply(push));
        inner.tell();
        self.shared.changed.notify_all();
    }

    /// Ends the withholding of a type.
    pub fn release(&self, kind: &'static str) {
        let mut inner = self.shared.lock();
        inner.withheld.remove(kind);
        for (id, response) in std::mem::take(&mut inner.kept) {
            inner.give(id, response);
        }
        self.shared.changed.notify_all();
    }

    pub fn diary(&self) -> Vec<Entry> {
        self.shared.lock().diary.clone()
    }

    /// The requests of a type, in order.
    pub fn asked(&self, kind: &str) -> Vec<Asked> {
        let requests = self.diary().into_iter().filter_map(|entry| match entry {
            Entry::Request(asked) if asked.kind == kind => Some(asked),
            _ => None,
        });
        requests.collect()
    }

    /// Waits until the diary satisfies `condition`; false if it does not.
    pub fn wait(&self, limit: Duration, condition: impl Fn(&[Entry]) -> bool) -> bool {
        let inner = self.shared.lock();
        let until = |inner: &mut Inner| !condition(&inner.diary);
        !self.shared.changed.wait_timeout_while(inner, limit, until).unwrap().1.timed_out()
    }

    /// Waits for the `count`th request of a type.
    pub fn wait_asked(&self, kind: &str, count: usize) -> bool {
        self.wait(LIMIT, |diary| {
            let of_kind = |e: &&Entry| matches!(e, Entry::Request(asked) if asked.kind == kind);
            diary.iter().filter(of_kind).count() >= count
        })
    }

    /// Waits until every response got its answer and everything was told.
    pub fn wait_settled(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut inner = self.shared.lock();
        while !inner.is_settled() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            inner = self.shared.changed.wait_timeout(inner, left).unwrap().0;
        }
        true
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Inner {
    /// What the open watches say to the caches as they are.
    fn tell(&mut self) {
        let mut responses = Vec::new();
        for (id, stream) in &mut self.streams {
            match stream {
                Connected::Delta(stream, _) => {
                    let changed = stream.changed(&self.caches).into_iter();
                    responses.extend(changed.map(|r| (*id, Reply::Delta(r))));
                }
                Connected::Sotw(stream, _) => {
                    let changed = stream.changed(&self.caches).into_iter();
                    responses.extend(changed.map(|r| (*id, Reply::Sotw(r))));
                }
            }
        }
        for (id, response) in responses {
            self.give(id, response);
        }
    }

    /// Sends a response, or keeps it if its type is withheld.
    fn give(&mut self, id: usize, response: Reply) {
        if self.withheld.contains(&*response.kind()) {
            self.kept.push((id, response));
            return;
        }
        self.diary.push(Entry::Response(Told { kind: response.kind(), nonce: response.nonce() }));
        match (self.streams.get(&id), response) {
            (Some(Connected::Delta(_, client)), Reply::Delta(response)) => {
                let _ = client.send(Ok(response));
            }
            (Some(Connected::Sotw(_, client)), Reply::Sotw(response)) => {
                let _ = client.send(Ok(response));
            }
            _ => {}
        }
    }

    fn take_delta(&mut self, id: usize, request: DeltaDiscoveryRequest) {
        self.diary.push(Entry::Request(Asked {
            kind: short(&request.type_url),
            node: request.node.as_ref().map(|n| format!("{}/{}", n.id, n.cluster)),
            subscribe: sorted(&request.resource_names_subscribe),
            unsubscribe: sorted(&request.resource_names_unsubscribe),
            versions: request.initial_resource_versions.clone().into_iter().collect(),
            nonce: request.response_nonce.clone(),
            error: request.error_detail.as_ref().map(|e| (e.code, e.message.clone())),
            ..Asked::default()
        }));
        let Some(Connected::Delta(stream, _)) = self.streams.get_mut(&id) else { return };
        if let Ok(Some(response)) = stream.request(request, &self.caches) {
            self.give(id, Reply::Delta(response));
        }
    }

    fn take_sotw(&mut self, id: usize, request: DiscoveryRequest) {
        self.diary.push(Entry::Request(Asked {
            kind: short(&request.type_url),
            node: request.node.as_ref().map(|n| format!("{}/{}", n.id, n.cluster)),
            names: sorted(&request.resource_names),
            version_info: request.version_info.clone(),
            nonce: request.response_nonce.clone(),
            error: request.error_detail.as_ref().map(|e| (e.code, e.message.clone())),
            ..Asked::default()
        }));
        let Some(Connected::Sotw(stream, _)) = self.streams.get_mut(&id) else { return };
        if let Ok(Some(response)) = stream.request(request, &self.caches) {
            self.give(id, Reply::Sotw(response));
        }
    }

    fn is_settled(&self) -> bool {
        !self.streams.is_empty()
            && self.streams.values().all(|stream| match stream {
                Connected::Delta(stream, _) => stream.is_settled(&self.caches),
                Connected::Sotw(stream, _) => stream.is_settled(&self.caches),
            })
    }
}

impl Reply {
    fn kind(&self) -> String {
        match self {
            Self::Delta(response) => short(&response.type_url),
            Self::Sotw(response) => short(&response.type_url),
        }
    }

    fn nonce(&self) -> String {
        match self {
            Self::Delta(response) => response.nonce.clone(),
            Self::Sotw(response) => response.nonce.clone(),
        }
    }
}

/// Last part of a type URL.
fn short(type_url: &str) -> String {
    type_url.rsplit('.').next().unwrap_or_default().to_owned()
}

/// Envoy's order of names is that of a hash table.
fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

#[derive(Clone)]
struct Service(Arc<Shared>);

impl Service {
    fn attend<R: Send + 'static>(
        &self,
        stream: Connected,
        mut requests: Streaming<R>,
        take: fn(&mut Inner, usize, R),
    ) {
        let shared = Arc::clone(&self.0);
        let id = {
            let mut inner = shared.lock();
            let id = inner.opened;
            inner.opened += 1;
            inner.streams.insert(id, stream);
            id
        };
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                take(&mut shared.lock(), id, request);
                shared.changed.notify_all();
            }
            shared.lock().streams.remove(&id);
            shared.changed.notify_all();
        });
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (client, responses) = mpsc::unbounded_channel();
        let stream = Connected::Sotw(SotwStream::default(), client);
        self.attend(stream, request.into_inner(), Inner::take_sotw);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (client, responses) = mpsc::unbounded_channel();
        let stream = Connected::Delta(DeltaStream::default(), client);
        self.attend(stream, request.into_inner(), Inner::take_delta);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }
}
