//! The machine against a model of the server (the control-plane library of the
//! scheduler): whatever is lost, delayed or refused, the client ends with the
//! server's state.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const KINDS: [ResourceType; 3] =
    [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route];

type Versions = BTreeMap<String, String>;

#[derive(Clone, Debug)]
struct Response {
    kind: ResourceType,
    nonce: String,
    version_info: String,
    resources: Versions,
    removed: Vec<String>,
}

/// What the server knows about one type on one stream.
#[derive(Debug, Default)]
struct Watch {
    started: bool,
    wildcard: bool,
    subscribed: BTreeSet<String>,
    known: Versions,
    open: bool,
    answered: bool,
    nonce: String,
    sent_version: String,
}

#[derive(Debug, Default)]
struct Server {
    resources: [Versions; 3],
    counters: [u32; 3],
    watches: [Watch; 3],
    nonce: u32,
    node: bool,
}

impl Server {
    fn set(&mut self, kind: ResourceType, name: &str, version: u32, bad: bool) {
        let version = format!("{version}{}", if bad { "-bad" } else { "" });
        self.resources[kind as usize].insert(name.to_owned(), version);
        self.counters[kind as usize] += 1;
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        self.resources[kind as usize].remove(name);
        self.counters[kind as usize] += 1;
    }

    fn new_stream(&mut self) {
        self.watches = Default::default();
        self.nonce = 0;
        self.node = false;
    }

    fn take(&mut self, request: Request, variant: Variant) {
        assert_eq!(request.node, !self.node, "node on the first message and on no other");
        self.node = true;
        let watch = &mut self.watches[request.kind as usize];
        let first = !std::mem::replace(&mut watch.started, true);
        if variant == Variant::StateOfTheWorld {
            if !first && request.nonce != watch.nonce {
                return;
            }
            watch.wildcard = request.names.is_empty();
            watch.subscribed = request.names.into_iter().collect();
            if first {
                watch.sent_version = request.version_info;
            }
        } else {
            if first {
                watch.wildcard = request.subscribe.is_empty();
                watch.known = request.initial_versions;
            } else {
                assert!(request.initial_versions.is_empty());
            }
            for name in &request.unsubscribe {
                watch.subscribed.remove(name);
                watch.known.remove(name);
            }
            watch.subscribed.extend(request.subscribe);
        }
        watch.open = true;
    }

    fn respond(&mut self, kind: ResourceType, variant: Variant) -> Option<Response> {
        let (all, watch) = (&self.resources[kind as usize], &mut self.watches[kind as usize]);
        if !watch.open {
            return None;
        }
        let is_wanted = |name: &str| watch.wildcard || watch.subscribed.contains(name);
        let version_info = self.counters[kind as usize].to_string();
        let (resources, removed) = match variant {
            Variant::Delta => {
                let new =
                    all.iter().filter(|(n, v)| is_wanted(n) && watch.known.get(*n) != Some(v));
                let gone = watch.known.keys().filter(|n| !all.contains_key(*n)).cloned();
                (new.map(|(n, v)| (n.clone(), v.clone())).collect::<Versions>(), gone.collect())
            }
            Variant::StateOfTheWorld => {
                // The snapshot cache answers only those who ask for everything.
                if watch.sent_version == version_info || !all.keys().all(|n| is_wanted(n)) {
                    return None;
                }
                (all.clone(), Vec::new())
            }
        };
        let empty = resources.is_empty() && removed.is_empty();
        if variant == Variant::Delta && empty && (watch.answered || !watch.wildcard) {
            return None;
        }
        for name in &removed {
            watch.known.remove(name);
        }
        watch.known.extend(resources.clone());
        watch.sent_version.clone_from(&version_info);
        watch.open = false;
        watch.answered = true;
        self.nonce += 1;
        watch.nonce = self.nonce.to_string();
        Some(Response { kind, nonce: self.nonce.to_string(), version_info, resources, removed })
    }
}

/// The application, the machine, the wires and the server.
struct World {
    variant: Variant,
    machine: Machine,
    held: [Versions; 3],
    server: Server,
    connected: bool,
    requests: VecDeque<Request>,
    responses: VecDeque<Response>,
    pending: Vec<Response>,
    warm: bool,
    seen_clusters: bool,
}

impl World {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            machine: Machine::new(variant),
            held: Default::default(),
            server: Server::default(),
            connected: false,
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            pending: Vec::new(),
            warm: false,
            seen_clusters: false,
        }
    }

    fn send(&mut self, requests: Vec<Request>) {
        for request in requests {
            assert!(self.connected, "nothing is sent without a stream");
            assert!(request.kind != ResourceType::Listener || self.warm, "listeners too early");
            self.requests.push_back(request);
        }
    }

    fn connect(&mut self) {
        if self.connected {
            return;
        }
        // What came by the lost stream is applied before versions are told.
        while !self.pending.is_empty() {
            self.decide();
        }
        self.connected = true;
        self.server.new_stream();
        let held = self.held.clone();
        let requests =
            self.machine.opened(|kind| held.get(kind as usize).cloned().unwrap_or_default());
        assert_eq!(requests[0].kind, ResourceType::Cluster);
        self.send(requests);
    }

    fn lose(&mut self) {
        self.connected = false;
        self.machine.lost();
        self.requests.clear();
        self.responses.clear();
    }

    fn serve(&mut self) {
        if let Some(request) = self.requests.pop_front() {
            self.server.take(request, self.variant);
        }
    }

    fn respond(&mut self, kind: ResourceType) {
        if self.connected
            && let Some(response) = self.server.respond(kind, self.variant)
        {
            self.responses.push_back(response);
        }
    }

    fn receive(&mut self) {
        if let Some(response) = self.responses.pop_front() {
            self.machine.received(response.kind, &response.nonce, &response.version_info);
            self.pending.push(response);
        }
    }

    /// The verdict may come long after the response, also when its stream is lost.
    fn decide(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let response = self.pending.remove(0);
        let listeners = self.held[ResourceType::Listener as usize].clone();
        let held = &mut self.held[response.kind as usize];
        let mut bad = Vec::new();
        if self.variant == Variant::StateOfTheWorld && response.kind.is_wildcard() {
            held.retain(|name, _| response.resources.contains_key(name));
        }
        for (name, version) in &response.resources {
            if version.ends_with("-bad") {
                bad.push(name.clone());
            } else if response.kind != ResourceType::Route || listeners.contains_key(name) {
                held.insert(name.clone(), version.clone());
            }
        }
        if response.kind.is_wildcard() {
            for name in &response.removed {
                held.remove(name);
            }
        }
        self.seen_clusters |= response.kind == ResourceType::Cluster;
        if response.kind == ResourceType::Listener {
            let wanted: BTreeSet<_> =
                self.held[ResourceType::Listener as usize].keys().cloned().collect();
            self.held[ResourceType::Route as usize].retain(|n, _| wanted.contains(n));
            let requests = self.machine.want(ResourceType::Route, wanted);
            self.send(requests);
        }
        let verdict = if bad.is_empty() {
            Verdict::Accepted
        } else {
            Verdict::Rejected(format!("bad: {}", bad.join(", ")))
        };
        let answer = self.machine.answer(response.kind, &response.nonce, verdict.clone());
        assert!(
            self.machine.answer(response.kind, &response.nonce, verdict).is_none(),
            "one answer a response"
        );
        self.send(answer.into_iter().collect());
    }

    fn warm_up(&mut self) {
        if self.seen_clusters && !self.warm {
            self.warm = true;
            let requests = self.machine.clusters_warm();
            self.send(requests);
        }
    }

    /// Lets everything arrive.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..200 {
            while !self.requests.is_empty() {
                self.serve();
            }
            KINDS.into_iter().for_each(|k| self.respond(k));
            while !self.responses.is_empty() {
                self.receive();
                self.decide();
            }
            while !self.pending.is_empty() {
                self.decide();
            }
            self.warm_up();
            let quiet = self.requests.is_empty() && self.responses.is_empty();
            let next = KINDS.into_iter().any(|k| {
                self.respond(k);
                !self.responses.is_empty()
            });
            if quiet && !next {
                return;
            }
        }
        panic!("never quiet");
    }

    fn check(&self) {
        for kind in KINDS {
            let (held, want) = (&self.held[kind as usize], &self.server.resources[kind as usize]);
            let is_wanted = |name: &str| {
                kind != ResourceType::Route
                    || self.held[ResourceType::Listener as usize].contains_key(name)
            };
            for (name, version) in want.iter().filter(|(n, v)| is_wanted(n) && !v.ends_with("-bad"))
            {
                assert_eq!(held.get(name), Some(version), "{kind:?} {name}");
            }
            if kind.is_wildcard() {
                for name in held.keys() {
                    assert!(want.contains_key(name), "{kind:?} {name} should be gone");
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u8, bool),
    Remove(usize, u8),
    Connect,
    Lose,
    Serve,
    Respond(usize),
    Receive,
    Decide,
    Warm,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 0..4_u8, prop::bool::weighted(0.15)).prop_map(|(k, n, b)| Step::Set(k, n, b)),
        1 => (0..3_usize, 0..4_u8).prop_map(|(k, n)| Step::Remove(k, n)),
        2 => Just(Step::Connect),
        1 => Just(Step::Lose),
        6 => Just(Step::Serve),
        6 => (0..3_usize).prop_map(Step::Respond),
        6 => Just(Step::Receive),
        6 => Just(Step::Decide),
        2 => Just(Step::Warm),
    ]
}

fn play(steps: &[Step], variant: Variant, allow_bad: bool) {
    let mut world = World::new(variant);
    for (i, step) in steps.iter().enumerate() {
        let version = u32::try_from(i).unwrap();
        match *step {
            Step::Set(kind, name, bad) => {
                let bad = bad && allow_bad;
                world.server.set(KINDS[kind], &format!("r{name}"), version, bad);
            }
            Step::Remove(kind, name) => world.server.remove(KINDS[kind], &format!("r{name}")),
            Step::Connect => world.connect(),
            Step::Lose => world.lose(),
            Step::Serve => world.serve(),
            Step::Respond(kind) => world.respond(KINDS[kind]),
            Step::Receive => world.receive(),
            Step::Decide => world.decide(),
            Step::Warm => world.warm_up(),
        }
    }
    world.settle();
    if variant == Variant::Delta {
        world.check();
        // Nothing new: a new stream brings no resource.
        world.lose();
        let before = world.held.clone();
        world.settle();
        assert_eq!(before, world.held);
    } else {
        // Tables are answered only to those who want all of them.
        world.server.resources[ResourceType::Route as usize] = world.held
            [ResourceType::Listener as usize]
            .keys()
            .map(|n| (n.clone(), "last".to_owned()))
            .collect();
        world.server.counters[ResourceType::Route as usize] += 1;
        world.settle();
        world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delta_converges(steps in prop::collection::vec(step(), 0..120)) {
        play(&steps, Variant::Delta, true);
    }

    #[test]
    fn state_of_the_world_converges(steps in prop::collection::vec(step(), 0..120)) {
        play(&steps, Variant::StateOfTheWorld, false);
    }
}

fn empty(_: ResourceType) -> Versions {
    Versions::new()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn cold_start_as_envoy_without_its_runtime_wait() {
    let mut machine = Machine::new(Variant::Delta);
    let first = machine.opened(empty);
    assert_eq!(first.len(), 1);
    assert!(first[0].node && first[0].subscribe.is_empty() && first[0].nonce.is_empty());
    machine.received(ResourceType::Cluster, "1", "");
    let listeners = machine.clusters_warm();
    assert_eq!(listeners.len(), 1);
    assert!(!listeners[0].node && listeners[0].kind == ResourceType::Listener);
    let ack = machine.answer(ResourceType::Cluster, "1", Verdict::Accepted).unwrap();
    assert_eq!((&*ack.nonce, ack.error, ack.subscribe.len()), ("1", None, 0));
    machine.received(ResourceType::Listener, "2", "");
    let routes = machine.want(ResourceType::Route, names(&["listener_0", "listener_1"]));
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].subscribe, ["listener_0", "listener_1"]);
    assert!(machine.want(ResourceType::Route, names(&["listener_0", "listener_1"])).is_empty());
}

#[test]
fn a_new_listener_adds_its_table_and_a_removed_one_gives_it_up() {
    let mut machine = Machine::new(Variant::Delta);
    machine.opened(empty);
    machine.clusters_warm();
    machine.want(ResourceType::Route, names(&["listener_0"]));
    let more = machine.want(ResourceType::Route, names(&["listener_0", "listener_9"]));
    assert_eq!(
        (&*more[0].subscribe, more[0].unsubscribe.len()),
        (&["listener_9".to_owned()][..], 0)
    );
    let less = machine.want(ResourceType::Route, names(&["listener_0"]));
    assert_eq!(
        (less[0].subscribe.len(), &*less[0].unsubscribe),
        (0, &["listener_9".to_owned()][..])
    );
    assert!(less[0].nonce.is_empty());
}

#[test]
fn a_new_stream_tells_in_one_burst_what_is_held() {
    let mut machine = Machine::new(Variant::Delta);
    machine.opened(empty);
    machine.clusters_warm();
    machine.want(ResourceType::Route, names(&["listener_0"]));
    machine.received(ResourceType::Cluster, "7", "");
    machine.lost();
    let burst = machine.opened(|_| [("listener_0", "a"), ("other", "b")].map(own).into());
    let kinds: Vec<_> = burst.iter().map(|r| (r.kind, r.node)).collect();
    let want = [
        (ResourceType::Cluster, true),
        (ResourceType::Listener, false),
        (ResourceType::Route, false),
    ];
    assert_eq!(kinds, want);
    assert_eq!(burst[1].initial_versions.len(), 2);
    assert_eq!(burst[2].initial_versions, [("listener_0", "a")].map(own).into());
    // The verdict on a response of the lost stream says nothing on the new one.
    assert_eq!(machine.answer(ResourceType::Cluster, "7", Verdict::Accepted), None);
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[test]
fn state_of_the_world_repeats_names_and_the_last_accepted_version() {
    let mut machine = Machine::new(Variant::StateOfTheWorld);
    machine.opened(empty);
    machine.clusters_warm();
    let first = machine.want(ResourceType::Route, names(&["listener_0", "listener_1"]));
    assert_eq!((first[0].names.len(), &*first[0].version_info), (2, ""));
    machine.received(ResourceType::Route, "1", "v1");
    let nack = machine.answer(ResourceType::Route, "1", Verdict::Rejected("bad".into())).unwrap();
    assert_eq!((nack.names.len(), &*nack.version_info, &*nack.nonce), (2, "", "1"));
    assert_eq!(nack.error.as_deref(), Some("bad"));
    machine.received(ResourceType::Route, "2", "v2");
    let ack = machine.answer(ResourceType::Route, "2", Verdict::Accepted).unwrap();
    assert_eq!((&*ack.version_info, &*ack.nonce), ("v2", "2"));
    machine.received(ResourceType::Route, "3", "v3");
    let nack = machine.answer(ResourceType::Route, "3", Verdict::Rejected("bad".into())).unwrap();
    assert_eq!((&*nack.version_info, &*nack.nonce), ("v2", "3"));
}

#[test]
fn long_reasons_are_cut_at_a_character() {
    let cut = truncate("ü".repeat(5000));
    assert!(cut.len() <= NACK_LIMIT && cut.ends_with("...(truncated)"), "{}", cut.len());
    assert_eq!(truncate("short".to_owned()), "short");
    assert_eq!(truncate(String::new()), "rejected");
}
