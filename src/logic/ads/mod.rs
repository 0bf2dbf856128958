//! The ADS client as a pure protocol machine: events in, requests out.
//!
//! Contract, with Envoy as the model (recorded from the real one) and the
//! control-plane library of the scheduler as the peer:
//!
//! * The node goes on the first message of a stream and on no other.
//! * Clusters are subscribed first, by wildcard. Listeners follow, by wildcard,
//!   once the first clusters are warm; route tables and secrets by name, as the
//!   listeners and clusters ask for them, all new names in one request.
//! * Every response is answered once, with its nonce: ACK, or NACK with code 13
//!   and a message. A verdict that arrives after its stream was lost is dropped.
//! * A new stream repeats the subscriptions with the versions that are held, so
//!   that only differences come back.
//!
//! **The answer to a cluster response is not held back while its clusters
//! warm.** Envoy does hold it back, and since the answer is the scheduler's flow
//! control, one slow host name then delays every later cluster update. Here the
//! store keeps the order safe by itself (it publishes routes only when their
//! clusters are warm, and keeps replaced and removed clusters in service), so
//! holding back would only add delay.
//!
//! There is no subscription to run-time layers (RTDS): the scheduler never
//! answers it, and waiting for it costs Envoy 15 s at each start.

mod backoff;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use backoff::{BACKOFF_BASE, BACKOFF_CAP, backoff};

/// The resource types that this client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    Cluster = 0,
    Listener = 1,
    Route = 2,
    Secret = 3,
}

impl ResourceType {
    /// Every type, in the order in which a new stream subscribes.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Listener, Self::Route, Self::Secret];

    /// The type URL.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type of a URL, if it is one of ours.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.url() == url)
    }

    /// Subscribed without names; a removal in a response is obeyed.
    #[must_use]
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// The two forms of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// `DeltaAggregatedResources`.
    #[default]
    Delta,
    /// `StreamAggregatedResources`: every request carries all names and the
    /// last accepted version, every response the whole state of its type.
    StateOfTheWorld,
}

/// A request to send. Fields that a variant does not have stay empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The type.
    pub kind: ResourceType,
    /// True on the first request of a stream: it carries the node.
    pub node: bool,
    /// Delta: names added.
    pub subscribe: Vec<String>,
    /// Delta: names given up.
    pub unsubscribe: Vec<String>,
    /// Delta, first request of a type on a stream: what is held.
    pub initial_versions: BTreeMap<String, String>,
    /// State of the world: all names.
    pub names: Vec<String>,
    /// State of the world: version of the last accepted response.
    pub version_info: String,
    /// The response that this answers; empty for none.
    pub nonce: String,
    /// NACK: why (with code [`NACK_CODE`]).
    pub error: Option<String>,
}

/// `google.rpc.Code.INTERNAL`, which Envoy uses for every NACK.
pub const NACK_CODE: i32 = 13;

/// Longest NACK message in bytes; longer ones are cut and end in
/// `...(truncated)` (Envoy's limit, so that metadata limits are not hit).
pub const NACK_LIMIT: usize = 4096;

/// What the application says about a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// At least one resource was refused; the text names it.
    Rejected(String),
}

#[derive(Debug, Default)]
struct Subscription {
    /// A request of this type went out on this stream.
    sent: bool,
    /// Names that the application wants (named types).
    wanted: BTreeSet<String>,
    /// Names subscribed on this stream.
    subscribed: BTreeSet<String>,
    /// Nonce of the response that waits for its verdict.
    unanswered: Option<String>,
    /// State of the world: nonce of the last response.
    last_nonce: String,
    /// State of the world: version of the unanswered and of the last accepted
    /// response.
    offered_version: String,
    accepted_version: String,
}

/// The protocol machine of one client. Lives across streams.
#[derive(Debug, Default)]
pub struct Machine {
    variant: Variant,
    open: bool,
    node_sent: bool,
    warm: bool,
    types: [Subscription; 4],
}

impl Machine {
    /// A machine without a stream.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self { variant, ..Self::default() }
    }

    /// A stream is open. `held` gives names and versions of the accepted
    /// resources of a type, whatever came by earlier streams included.
    pub fn opened(
        &mut self,
        mut held: impl FnMut(ResourceType) -> BTreeMap<String, String>,
    ) -> Vec<Request> {
        self.lost();
        self.open = true;
        let mut out = Vec::new();
        for kind in ResourceType::ALL {
            if self.is_due(kind) {
                let mut versions = held(kind);
                if !kind.is_wildcard() {
                    let wanted = &self.types[kind as usize].wanted;
                    versions.retain(|name, _| wanted.contains(name));
                }
                out.push(self.subscribe(kind, versions));
            }
        }
        out
    }

    /// The stream ended. Unanswered responses stay unanswered.
    pub fn lost(&mut self) {
        self.open = false;
        self.node_sent = false;
        for state in &mut self.types {
            state.sent = false;
            state.subscribed.clear();
            state.unanswered = None;
            state.last_nonce.clear();
        }
    }

    /// A response came. Its verdict is owed ([`Machine::answer`]).
    /// `version_info` is the state-of-the-world version, otherwise ignored.
    pub fn received(&mut self, kind: ResourceType, nonce: &str, version_info: &str) {
        let state = &mut self.types[kind as usize];
        state.unanswered = Some(nonce.to_owned());
        nonce.clone_into(&mut state.last_nonce);
        version_info.clone_into(&mut state.offered_version);
    }

    /// The application's verdict on the response with this nonce; none if that
    /// response is not waiting (answered already, or of a lost stream).
    pub fn answer(&mut self, kind: ResourceType, nonce: &str, verdict: Verdict) -> Option<Request> {
        let state = &mut self.types[kind as usize];
        if state.unanswered.as_deref() != Some(nonce) {
            return None;
        }
        state.unanswered = None;
        let error = match verdict {
            Verdict::Accepted => {
                state.accepted_version = std::mem::take(&mut state.offered_version);
                None
            }
            Verdict::Rejected(message) => Some(truncate(message)),
        };
        let mut request = self.request(kind);
        nonce.clone_into(&mut request.nonce);
        request.error = error;
        Some(request)
    }

    /// The clusters of the first response are warm: listeners may come.
    pub fn clusters_warm(&mut self) -> Vec<Request> {
        self.warm = true;
        self.catch_up(ResourceType::Listener)
    }

    /// The names that listeners (tables) and clusters or listeners (secrets)
    /// refer to now; replaces the previous ones.
    pub fn want(&mut self, kind: ResourceType, names: BTreeSet<String>) -> Vec<Request> {
        let state = &mut self.types[kind as usize];
        if state.wanted == names {
            return Vec::new();
        }
        state.wanted = names;
        if state.sent { self.resubscribe(kind).into_iter().collect() } else { self.catch_up(kind) }
    }

    fn is_due(&self, kind: ResourceType) -> bool {
        match kind {
            ResourceType::Cluster => true,
            ResourceType::Listener => self.warm,
            _ => !self.types[kind as usize].wanted.is_empty(),
        }
    }

    fn catch_up(&mut self, kind: ResourceType) -> Vec<Request> {
        if self.open && !self.types[kind as usize].sent && self.is_due(kind) {
            return vec![self.subscribe(kind, BTreeMap::new())];
        }
        Vec::new()
    }

    /// First request of a type on this stream.
    fn subscribe(&mut self, kind: ResourceType, held: BTreeMap<String, String>) -> Request {
        let state = &mut self.types[kind as usize];
        state.sent = true;
        state.subscribed.clone_from(&state.wanted);
        let subscribe = state.wanted.iter().cloned().collect();
        let mut request = self.request(kind);
        if self.variant == Variant::Delta {
            request.subscribe = subscribe;
            request.initial_versions = held;
        }
        request
    }

    /// A change of names on a running subscription.
    fn resubscribe(&mut self, kind: ResourceType) -> Option<Request> {
        let state = &mut self.types[kind as usize];
        let subscribe: Vec<_> = state.wanted.difference(&state.subscribed).cloned().collect();
        let unsubscribe: Vec<_> = state.subscribed.difference(&state.wanted).cloned().collect();
        state.subscribed.clone_from(&state.wanted);
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        let nonce = state.last_nonce.clone();
        let mut request = self.request(kind);
        match self.variant {
            Variant::Delta => {
                request.subscribe = subscribe;
                request.unsubscribe = unsubscribe;
            }
            // A stale nonce would be ignored by the server.
            Variant::StateOfTheWorld => request.nonce = nonce,
        }
        Some(request)
    }

    fn request(&mut self, kind: ResourceType) -> Request {
        let node = !std::mem::replace(&mut self.node_sent, true);
        let state = &self.types[kind as usize];
        let (names, version_info) = match self.variant {
            Variant::Delta => (Vec::new(), String::new()),
            Variant::StateOfTheWorld => {
                (state.subscribed.iter().cloned().collect(), state.accepted_version.clone())
            }
        };
        Request {
            kind,
            node,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::new(),
            names,
            version_info,
            nonce: String::new(),
            error: None,
        }
    }
}

fn truncate(mut message: String) -> String {
    const MARK: &str = "...(truncated)";
    if message.is_empty() {
        return "rejected".to_owned();
    }
    if message.len() > NACK_LIMIT {
        let mut end = NACK_LIMIT - MARK.len();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(MARK);
    }
    message
}
