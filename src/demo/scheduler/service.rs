//! The scheduler at a port: a thread of its own, gRPC in front of the state.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::cache::Push;
use super::hub::{Connected, Hub, Inner};
use super::state::{Operation, State};
use super::stream::{DeltaStream, SotwStream};
use crate::demo::listen;
use crate::seldon::ListenerOptions;

/// How to start a scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Id of the node that gets the route tables; the scheduler: `test-id`.
    pub node: String,
    /// How long changes of models are collected; the scheduler: 250 ms. Zero:
    /// every change acts at once.
    pub batch: Duration,
    /// The listeners to announce.
    pub listeners: ListenerOptions,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            node: "test-id".to_owned(),
            batch: Duration::from_millis(250),
            listeners: ListenerOptions::default(),
        }
    }
}

/// A running scheduler. Dropped, it is gone at once: its port closes and its
/// streams break, as if it had been killed.
#[derive(Debug)]
pub struct Scheduler {
    addr: SocketAddr,
    handle: SchedulerHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Access to a scheduler from any thread. After the scheduler's end it still
/// answers, but nobody listens.
#[derive(Clone, Debug)]
pub struct SchedulerHandle {
    hub: Arc<Hub>,
    runtime: tokio::runtime::Handle,
}

impl Scheduler {
    /// Starts a scheduler that knows nothing yet.
    ///
    /// # Errors
    ///
    /// The port is taken, or there is no thread to be had.
    pub fn start(options: &SchedulerOptions) -> io::Result<Self> {
        Self::start_with(options, Vec::new())
    }

    /// Starts a scheduler whose port opens when `operations` are done, in one
    /// batch: what a restarted scheduler has recovered.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::start`].
    pub fn start_with(options: &SchedulerOptions, operations: Vec<Operation>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = listen(&runtime, options.addr)?;
        let addr = listener.local_addr()?;
        let hub = Arc::new(Hub::new(options, operations));
        let handle = SchedulerHandle { hub: Arc::clone(&hub), runtime: runtime.handle().clone() };
        let (stop, stopped) = oneshot::channel();
        let service = Service { hub };
        let thread = std::thread::Builder::new().name("scheduler".to_owned()).spawn(move || {
            // Dropping the runtime breaks what is still connected.
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, service) => {
                        if let Err(error) = served {
                            tracing::error!(%error, "embedded scheduler ended");
                        }
                    }
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { addr, handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The way to make it do something.
    #[must_use]
    pub fn handle(&self) -> &SchedulerHandle {
        &self.handle
    }
}

impl SchedulerHandle {
    /// Does an operation. Experiments and pipelines act before this returns,
    /// models when the batch window is over.
    pub fn apply(&self, operation: Operation) {
        if self.hub.apply(operation) {
            let hub = Arc::clone(&self.hub);
            self.runtime.spawn(async move {
                loop {
                    tokio::time::sleep(hub.batch).await;
                    if !hub.flush() {
                        break;
                    }
                }
            });
        }
    }

    /// Pushes something by hand, past the state: secrets, or resources that no
    /// scheduler would make.
    pub fn push(&self, push: Push) {
        self.hub.lock().push(push);
        self.hub.notify();
    }

    /// Looks at what is loaded.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.hub.lock().state)
    }

    /// Number of connected streams.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.hub.lock().streams.len()
    }

    /// Messages of the NACKs so far, `<type URL>: <message>`.
    #[must_use]
    pub fn nacks(&self) -> Vec<String> {
        self.hub.lock().nacks.clone()
    }

    /// What clients refuse as it stands, `<type URL>: <message>`: the last
    /// response of that type was not accepted.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        let inner = self.hub.lock();
        inner.refused.iter().map(|((_, kind), message)| format!("{kind}: {message}")).collect()
    }

    /// True if at least one client is connected and all have answered for
    /// everything there is.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.hub.lock().is_settled()
    }

    /// Waits until at least one client is connected and all have answered for
    /// everything there is; false if that takes longer than `limit`.
    #[must_use]
    pub fn wait_settled(&self, limit: Duration) -> bool {
        self.wait_until(limit, Inner::is_settled)
    }

    /// [`SchedulerHandle::wait_settled`] without blocking the thread; false at
    /// once if no client is connected.
    pub async fn settled(&self, limit: Duration) -> bool {
        let settled = async {
            loop {
                // Listens before it looks, so that no change falls between.
                let mut changed = std::pin::pin!(self.hub.changed_async.notified());
                changed.as_mut().enable();
                if self.hub.lock().is_settled() {
                    break;
                }
                changed.await;
            }
        };
        self.streams() > 0 && tokio::time::timeout(limit, settled).await.is_ok()
    }

    /// Runs something on the scheduler's thread, until the scheduler ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Waits until that many streams are connected; false if it takes longer
    /// than `limit`.
    #[must_use]
    pub fn wait_streams(&self, streams: usize, limit: Duration) -> bool {
        self.wait_until(limit, |inner| inner.streams.len() == streams)
    }

    fn wait_until(&self, limit: Duration, condition: impl Fn(&Inner) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut inner = self.hub.lock();
        while !condition(&inner) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let waited = self.hub.changed.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only ends early if it panicked, and then it has said so.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, service: Service) -> Result<(), tonic::transport::Error> {
    // A reconnecting client sends the versions of all its resources.
    let ads = AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(usize::MAX);
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        accepted.inspect(|socket| {
            // Without it an ACK may wait for a delayed TCP acknowledgement.
            let _ = socket.set_nodelay(true);
        })
    });
    tonic::transport::Server::builder().add_service(ads).serve_with_incoming(incoming).await
}

#[derive(Clone, Debug)]
struct Service {
    hub: Arc<Hub>,
}

/// Removes a stream when its task ends, however it ends.
struct Registration {
    hub: Arc<Hub>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.disconnect(self.id);
    }
}

impl Service {
    /// Feeds the requests of a connected stream to the hub until they end.
    fn attend<R: Send + 'static>(
        &self,
        stream: Connected,
        mut requests: Streaming<R>,
        handle: fn(&mut Inner, u64, R),
    ) {
        let id = self.hub.connect(stream);
        let registration = Registration { hub: Arc::clone(&self.hub), id };
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                handle(&mut registration.hub.lock(), id, request);
                registration.hub.notify();
            }
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
        self.attend(stream, request.into_inner(), Inner::sotw_request);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (client, responses) = mpsc::unbounded_channel();
        let stream = Connected::Delta(DeltaStream::default(), client);
        self.attend(stream, request.into_inner(), Inner::delta_request);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }
}
