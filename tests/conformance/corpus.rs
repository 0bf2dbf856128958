//! Malformed and ambiguous HTTP/1 messages, sent to both proxies as they are.
//!
//! What matters is what the upstream sees: the same as with Envoy, or less. A
//! request that only Radiant forwards, or that it forwards differently, fails
//! the suite whatever anybody says. What the client sees is compared, too.
//!
//! The messages are those of `tests/data/http1/` (whose recorded answers the
//! codec's own tests replay) and [`smuggling`].

pub mod smuggling;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::google::protobuf;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteMatch, route, route_action::ClusterSpecifier,
};
use radiant::demo::scheduler::Push;
use radiant::seldon::cluster::{Protocol, cluster};
use radiant::seldon::{self, ListenerOptions, route_table};

use crate::client::{Client, find, masked, show, unchunk};
use crate::lab::{self, Lab};
use crate::oracle::{self, Side};
use crate::probe::{Probe, Transcript};
use crate::recorder::{Answer, Forwarded, Recorder};
use crate::report::Outcome;
use crate::table;

/// Messages under way at the same time, each with a listener and an upstream of
/// its own.
const LANES: usize = 6;
/// A connection that has been silent for so long has said all.
const PATIENCE: Duration = Duration::from_millis(200);
/// The same when a difference is looked at again.
const MORE_PATIENCE: Duration = Duration::from_millis(1500);
/// How often a difference is looked at again.
const MORE_TRIES: u32 = 3;
/// Between the parts of a message.
const PAUSE: Duration = Duration::from_millis(50);

/// One message.
#[derive(Clone, Debug)]
pub struct Message {
    pub name: String,
    /// What the client sends.
    pub parts: Vec<Vec<u8>>,
    /// What the upstream answers; usually `200 ok`.
    pub answer: Answer,
    pub to_head: bool,
}

/// What came of the corpus.
pub struct Corpus {
    /// As cases, named `corpus/...`.
    pub outcomes: Vec<Outcome>,
    /// Those of them that Envoy does not answer with 200, each once.
    pub refused: usize,
    /// Names of those of which the upstream saw less than with Envoy.
    pub less: Vec<String>,
    /// Names of those of which it saw something that Envoy did not forward.
    pub more: Vec<String>,
    pub took: Duration,
}

/// All messages.
pub fn messages() -> Vec<Message> {
    let requests = table::rows("requests.jsonl").into_iter().map(|row| Message {
        name: format!("corpus/request/{}", table::name(&row)),
        parts: table::parts(&row),
        answer: Answer::ok(),
        to_head: table::parts(&row).concat().starts_with(b"HEAD "),
    });
    let responses = table::rows("responses.jsonl").into_iter().map(|row| {
        let method = row["method"].as_str().unwrap_or("GET");
        Message {
            name: format!("corpus/response/{}", table::name(&row)),
            parts: vec![format!("{method} /r HTTP/1.1\r\nhost: h\r\n\r\n").into_bytes()],
            answer: Answer { bytes: table::parts(&row).concat(), eof: row["eof"] == true },
            to_head: method == "HEAD",
        }
    });
    requests.chain(responses).chain(smuggling::messages()).collect()
}

/// Sends all of them to both.
pub fn run(envoy: &Side, radiant: &Side, wanted: impl Fn(&str) -> bool) -> Corpus {
    let began = Instant::now();
    let messages: Vec<Message> = messages().into_iter().filter(|m| wanted(&m.name)).collect();
    let (envoy, radiant) = (Arm::new(envoy), Arm::new(radiant));
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (next, outcomes, messages) = (&next, &outcomes, &messages);
            let (envoy, radiant) = (&envoy, &radiant);
            scope.spawn(move || {
                while let Some(message) = messages.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let both = compare(envoy, radiant, lane, message, PATIENCE);
                    outcomes.lock().unwrap().push((message, both));
                }
            });
        }
    });
    let mut corpus = Corpus {
        outcomes: Vec::new(),
        refused: 0,
        less: Vec::new(),
        more: Vec::new(),
        took: Duration::ZERO,
    };
    for (message, mut both) in outcomes.into_inner().unwrap() {
        // What is a matter of timing (a message that one of them got in two
        // reads) does not show every time.
        for _ in 0..MORE_TRIES {
            if both.envoy != both.radiant {
                both = compare(&envoy, &radiant, 0, message, MORE_PATIENCE);
            }
        }
        corpus.add(message, &both);
    }
    corpus.outcomes.sort_by(|a, b| a.id.cmp(&b.id));
    corpus.took = began.elapsed();
    corpus
}

impl Corpus {
    fn add(&mut self, message: &Message, both: &Both) {
        let is_request = !message.name.starts_with("corpus/response/");
        let (theirs, ours) = (&both.envoy.forwarded, &both.radiant.forwarded);
        if is_request && !both.envoy.reply.starts_with(b"HTTP/1.1 200 ") {
            self.refused += 1;
        }
        if ours != theirs {
            if theirs.starts_with(ours) {
                self.less.push(message.name.clone());
            } else {
                self.more.push(message.name.clone());
            }
        }
        self.outcomes.push(Outcome {
            id: message.name.clone(),
            envoy: both.envoy.transcript(),
            radiant: both.radiant.transcript(),
            took: both.took,
        });
    }
}

/// A proxy of its own with its lanes.
struct Arm {
    lab: Lab,
    lanes: Vec<Lane>,
}

struct Lane {
    port: u16,
    upstream: Recorder,
}

struct Both {
    envoy: Seen,
    radiant: Seen,
    took: Duration,
}

/// What one side did with a message.
#[derive(PartialEq, Eq)]
struct Seen {
    forwarded: Vec<Forwarded>,
    reply: Vec<u8>,
    closed: bool,
}

impl Seen {
    /// Whether the head of a request goes out before an error in its body is
    /// seen is a matter of timing; such requests are counted, but not shown.
    fn transcript(&self) -> Transcript {
        let complete = self.forwarded.iter().filter(|f| f.complete);
        let mut lines: Vec<String> =
            complete.map(|f| format!("forwarded: {}", show(&f.bytes))).collect();
        lines.push(format!("forwarded: {}", lines.len()));
        let replies = String::from_utf8_lossy(&self.reply).into_owned();
        lines.extend(replies.split("\r\n").map(|line| format!("reply: {}", line.escape_debug())));
        lines.push(format!("closed: {}", self.closed));
        Transcript { lines, ..Transcript::default() }
    }
}

impl Arm {
    fn new(side: &Side) -> Self {
        let mut probe = Probe::new(side, "corpus");
        let mut lab = Lab::new(&mut probe);
        let lanes: Vec<Lane> = (0..LANES)
            .map(|_| Lane { port: lab::free_port(), upstream: Recorder::start() })
            .collect();
        let mut listeners = Vec::new();
        let (mut clusters, mut tables) = (Vec::new(), Vec::new());
        for (number, lane) in lanes.iter().enumerate() {
            let name = format!("lane_{number}");
            let options =
                ListenerOptions { http_port: lane.port, access_log: None, ..lab.options.clone() };
            let mut listener = seldon::listeners(&options).remove(0);
            listener.name.clone_from(&name);
            oracle::edit_manager(&mut listener, |manager| {
                if let Some(RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
                    rds.route_config_name.clone_from(&name);
                }
                let soon = protobuf::Duration { seconds: 0, nanos: 50_000_000 };
                manager.delayed_close_timeout = Some(soon);
            });
            listeners.push(lab::listener(&listener));
            clusters.push(cluster(
                name.clone(),
                Protocol::Http,
                [("127.0.0.1", lane.upstream.port)],
            ));
            tables.push(oracle::table(&route_table(&name, vec![everything(&name)])));
        }
        let mut pushes = vec![lab::clusters(&clusters), Push::Routes(tables)];
        pushes.extend(listeners);
        lab.serve(pushes, &[]);
        lab.start(side.kind);
        for lane in &lanes {
            let open = lab::eventually(Duration::from_secs(30), || Lab::is_open(lane.port));
            assert!(open, "{}: the lanes open", side.kind.name());
        }
        Self { lab, lanes }
    }

    fn play(&self, lane: usize, message: &Message, patience: Duration) -> Seen {
        let lane = &self.lanes[lane];
        lane.upstream.begin(message.answer.clone());
        let mut client = Client::connect(lane.port);
        for (number, part) in message.parts.iter().enumerate() {
            if number > 0 {
                std::thread::sleep(PAUSE);
            }
            client.send(part);
        }
        let (raw, closed) = client.all(patience);
        drop(client);
        let forwarded = lane.upstream.end();
        Seen { forwarded, reply: normal(&raw, message.to_head), closed }
    }
}

fn compare(envoy: &Arm, radiant: &Arm, lane: usize, message: &Message, patience: Duration) -> Both {
    let began = Instant::now();
    let (envoy, radiant) = std::thread::scope(|scope| {
        let envoy = scope.spawn(|| envoy.play(lane, message, patience));
        let radiant = radiant.play(lane, message, patience);
        (envoy.join().expect("playing does not panic"), radiant)
    });
    Both { envoy, radiant, took: began.elapsed() }
}

/// Everything goes to `name`, marked as the scheduler marks it.
fn everything(name: &str) -> Route {
    let add = |key: &str, value: &str| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
            timeout: Some(protobuf::Duration::default()),
            ..Default::default()
        })),
        request_headers_to_add: vec![add("seldon-internal-model", "m_1")],
        response_headers_to_add: vec![add("x-seldon-route", ":m_1:")],
        ..Default::default()
    }
}

/// Replies with what differs in every run masked, and chunked bodies in one
/// piece.
fn normal(mut raw: &[u8], to_head: bool) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = find(raw, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        raw = &raw[end + 4..];
        let lines = head.split("\r\n").map(|line| match line.split_once(": ") {
            Some((name, value)) => masked(name, value),
            None => line.to_owned(),
        });
        let lines = lines.collect::<Vec<_>>().join("\r\n");
        out.extend_from_slice(lines.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        if lines.contains("\r\ntransfer-encoding: chunked") && !to_head {
            let (body, used) = unchunk(raw);
            out.extend_from_slice(&body);
            out.extend_from_slice(if used.is_some() { b"(end)" } else { b"(cut)" });
            raw = &raw[used.unwrap_or(raw.len())..];
        }
    }
    out.extend_from_slice(raw);
    out
}

impl Drop for Arm {
    fn drop(&mut self) {
        // A proxy that died has shown the worst difference of all.
        if !std::thread::panicking() {
            assert!(Lab::is_open(self.lab.ports.admin), "the proxy survives the corpus");
        }
    }
}
