//! What the port and the operator share: the state, the caches and the streams
//! that are connected, behind one lock.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use tokio::sync::{Notify, mpsc};
use tonic::Status;

use super::cache::{Caches, Push};
use super::service::SchedulerOptions;
use super::state::{Operation, State};
use super::stream::{DeltaStream, SotwStream, TypeUrlMissing};

/// NACKs that are remembered, oldest first; enough to see what went wrong.
const REMEMBERED_NACKS: usize = 100;

#[derive(Debug)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
    /// Something came in or went out.
    pub(super) changed: Condvar,
    /// The same for those who must not block.
    pub(super) changed_async: Notify,
    pub(super) batch: Duration,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) state: State,
    caches: Caches,
    pub(super) streams: BTreeMap<u64, Connected>,
    next_stream: u64,
    /// A batch window runs.
    batching: bool,
    /// All NACKs, oldest first.
    pub(super) nacks: Vec<String>,
    /// NACKs of the last response by stream and type.
    pub(super) refused: BTreeMap<(u64, String), String>,
}

/// A stream and the way to its client. The queues are as short as the protocol:
/// one response of a type at a time.
#[derive(Debug)]
pub(super) enum Connected {
    Delta(DeltaStream, mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>),
    Sotw(SotwStream, mpsc::UnboundedSender<Result<DiscoveryResponse, Status>>),
}

impl Hub {
    pub(super) fn new(options: &SchedulerOptions, operations: Vec<Operation>) -> Self {
        let (mut state, mut pushes) = State::new(&options.listeners);
        for operation in operations {
            pushes.extend(state.apply(operation));
        }
        while state.is_waiting() {
            pushes.extend(state.flush());
        }
        let mut caches = Caches::new(options.node.clone());
        for push in pushes {
            caches.apply(push);
        }
        let inner = Inner {
            state,
            caches,
            streams: BTreeMap::new(),
            next_stream: 0,
            batching: false,
            nacks: Vec::new(),
            refused: BTreeMap::new(),
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            changed_async: Notify::new(),
            batch: options.batch,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
        self.changed_async.notify_waiters();
    }

    /// True if the caller is to start a batch window.
    pub(super) fn apply(&self, operation: Operation) -> bool {
        let mut inner = self.lock();
        let pushes = inner.state.apply(operation);
        inner.push_all(pushes);
        if self.batch.is_zero() {
            while inner.state.is_waiting() {
                let pushes = inner.state.flush();
                inner.push_all(pushes);
            }
        }
        self.notify();
        let starts = inner.state.is_waiting() && !inner.batching;
        inner.batching |= starts;
        starts
    }

    /// The end of a batch window; true if the next one begins.
    pub(super) fn flush(&self) -> bool {
        let mut inner = self.lock();
        let pushes = inner.state.flush();
        inner.push_all(pushes);
        inner.batching = inner.state.is_waiting();
        self.notify();
        inner.batching
    }

    pub(super) fn connect(&self, stream: Connected) -> u64 {
        let mut inner = self.lock();
        let id = inner.next_stream;
        inner.next_stream += 1;
        inner.streams.insert(id, stream);
        self.notify();
        id
    }

    pub(super) fn disconnect(&self, id: u64) {
        let mut inner = self.lock();
        inner.streams.remove(&id);
        inner.refused.retain(|(stream, _), _| *stream != id);
        drop(inner);
        self.notify();
    }
}

impl Inner {
    fn push_all(&mut self, pushes: Vec<Push>) {
        for push in pushes {
            self.push(push);
        }
    }

    /// One step, and what the open watches say to it. A client that is gone is
    /// noticed by the end of its requests, so a failed send needs no care.
    pub(super) fn push(&mut self, push: Push) {
        self.caches.apply(push);
        for stream in self.streams.values_mut() {
            match stream {
                Connected::Delta(stream, client) => {
                    for response in stream.changed(&self.caches) {
                        let _ = client.send(Ok(response));
                    }
                }
                Connected::Sotw(stream, client) => {
                    for response in stream.changed(&self.caches) {
                        let _ = client.send(Ok(response));
                    }
                }
            }
        }
    }

    pub(super) fn delta_request(&mut self, id: u64, request: DeltaDiscoveryRequest) {
        let DeltaDiscoveryRequest { type_url, response_nonce, error_detail, .. } = &request;
        self.note_answer(id, type_url, response_nonce, error_detail.as_ref());
        let Some(Connected::Delta(stream, client)) = self.streams.get_mut(&id) else { return };
        match stream.request(request, &self.caches) {
            Ok(None) => {}
            Ok(Some(response)) => {
                let _ = client.send(Ok(response));
            }
            Err(error) => {
                let _ = client.send(Err(invalid(error)));
            }
        }
    }

    pub(super) fn sotw_request(&mut self, id: u64, request: DiscoveryRequest) {
        let DiscoveryRequest { type_url, response_nonce, error_detail, .. } = &request;
        self.note_answer(id, type_url, response_nonce, error_detail.as_ref());
        let Some(Connected::Sotw(stream, client)) = self.streams.get_mut(&id) else { return };
        match stream.request(request, &self.caches) {
            Ok(None) => {}
            Ok(Some(response)) => {
                let _ = client.send(Ok(response));
            }
            Err(error) => {
                let _ = client.send(Err(invalid(error)));
            }
        }
    }

    /// Remembers what an answer to a response says.
    fn note_answer(&mut self, id: u64, type_url: &str, nonce: &str, refusal: Option<&RpcStatus>) {
        let stream_and_type = (id, type_url.to_owned());
        let Some(refusal) = refusal else {
            if !nonce.is_empty() {
                self.refused.remove(&stream_and_type);
            }
            return;
        };
        let message = &refusal.message;
        tracing::warn!(type_url, message, "the proxy refused a response");
        if self.nacks.len() == REMEMBERED_NACKS {
            self.nacks.remove(0);
        }
        self.nacks.push(format!("{type_url}: {message}"));
        self.refused.insert(stream_and_type, message.clone());
    }

    pub(super) fn is_settled(&self) -> bool {
        !self.streams.is_empty()
            && !self.state.is_waiting()
            && self.streams.values().all(|stream| match stream {
                Connected::Delta(stream, _) => stream.is_settled(&self.caches),
                Connected::Sotw(stream, _) => stream.is_settled(&self.caches),
            })
    }
}

fn invalid(error: TypeUrlMissing) -> Status {
    Status::invalid_argument(error.to_string())
}
