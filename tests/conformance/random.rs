//! Random route tables and requests, seeded: both sides get the same table and
//! the same requests, and must answer and forward alike. What differs is
//! shrunk, by routes and by header lines, before it is shown.

use std::collections::BTreeMap;
use std::time::Instant;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteMatch, WeightedCluster, route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use radiant::seldon::cluster::{Protocol, cluster};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::client::Client;
use crate::oracle::Side;
use crate::report::difference;
use crate::upstream::{Received, Script, Upstream, answer, status};

/// Requests for every table.
const PER_TABLE: usize = 20;
const CLUSTERS: [&str; 3] = ["fuzz-a", "fuzz-b", "fuzz-c"];
/// Owner of the routes in the tables.
const OWNER: &str = "0-random";

const NAMES: [&str; 6] = ["seldon-model", "x-seldon-route", "x-a", "x-b", "accept", "cookie"];
const VALUES: [&str; 14] =
    ["a", "b", "ab", "A", "aB", "", "5", "7", "-3", "12x", ":a:", "a,b", "a b", "model1"];
const PATHS: [&str; 10] = [
    "/v2",
    "/v2/models/a/infer",
    "/v2/models/ab",
    "/v2/pipelines/a/infer",
    "/v2x",
    "/V2/models/a/x",
    "/exact",
    "/exact?q=1",
    "/",
    "/inference.GRPCInferenceService/ModelInfer",
];
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "HEAD"];

/// One table, as data that can be made smaller.
type Table = Vec<Route>;

/// A request: method, path, header lines.
#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

impl Request {
    fn raw(&self) -> String {
        let mut raw = format!("{} {} HTTP/1.1\r\nhost: h.example\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            raw.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.method == "POST" {
            raw.push_str("content-length: 2\r\n\r\n{}");
        } else {
            raw.push_str("\r\n");
        }
        raw
    }
}

/// What came of it.
pub struct Outcome {
    pub cases: usize,
    /// Shrunk, for people.
    pub differences: Vec<String>,
    pub seed: u64,
    /// How many requests were answered with each status.
    pub statuses: BTreeMap<u16, usize>,
    pub took: std::time::Duration,
}

/// A side with its upstreams.
struct Arm<'a> {
    side: &'a Side,
    _upstreams: Vec<Upstream>,
    connection: Client,
}

/// Compares `cases` random cases.
pub fn run(envoy: &Side, radiant: &Side, seed: u64, cases: usize) -> Outcome {
    let began = Instant::now();
    let mut arms = [Arm::new(envoy), Arm::new(radiant)];
    let mut outcome = Outcome {
        cases: 0,
        differences: Vec::new(),
        seed,
        statuses: BTreeMap::new(),
        took: began.elapsed(),
    };
    for number in 0..cases.div_ceil(PER_TABLE) as u64 {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(number));
        let table = table(&mut rng);
        push(&arms, &table);
        let refused = [&arms[0], &arms[1]].map(|arm| arm.side.scheduler().refused());
        if refused.iter().any(|r| !r.is_empty()) {
            if refused[0].is_empty() || refused[1].is_empty() {
                outcome.differences.push(format!("table {number} refused: {refused:?}"));
            }
            continue;
        }
        for _ in 0..PER_TABLE {
            let request = request(&mut rng);
            let [one, other] = ask(&mut arms, &request);
            let code = one.first().and_then(|line| line.split(' ').nth(2)?.parse().ok());
            *outcome.statuses.entry(code.unwrap_or(0)).or_default() += 1;
            outcome.cases += 1;
            if one != other {
                let text = shrink(&mut arms, table.clone(), request);
                outcome.differences.push(format!("table {number}: {text}"));
                push(&arms, &table);
            }
        }
        if outcome.differences.len() >= 5 {
            break;
        }
    }
    for arm in &arms {
        arm.side.push_routes(OWNER, Vec::new(), Vec::new());
    }
    outcome.took = began.elapsed();
    outcome
}

impl<'a> Arm<'a> {
    fn new(side: &'a Side) -> Self {
        let upstreams: Vec<Upstream> =
            CLUSTERS.iter().map(|name| Upstream::start(script(name))).collect();
        let clusters: Vec<Cluster> = CLUSTERS
            .iter()
            .zip(&upstreams)
            .map(|(name, u)| cluster((*name).into(), Protocol::Http, [("127.0.0.1", u.port)]))
            .collect();
        side.push_clusters(&clusters);
        Self { side, _upstreams: upstreams, connection: Client::connect(side.ports.http) }
    }

    /// The reply as text; the upstream's view is its body.
    fn ask(&mut self, request: &Request) -> Vec<String> {
        self.connection.send(request.raw());
        match self.connection.reply(request.method == "HEAD") {
            Some(reply) => {
                if crate::probe::announced(&reply) {
                    self.connection = Client::connect(self.side.ports.http);
                }
                reply.lines()
            }
            None => {
                self.connection = Client::connect(self.side.ports.http);
                vec!["no reply".to_owned()]
            }
        }
    }
}

/// Answers with its name and with what it received; some header lines are those
/// that tables change.
fn script(name: &'static str) -> Script {
    std::sync::Arc::new(move |request: &Received, _| {
        let headers = format!("x-cluster: {name}\r\nx-a: up\r\nx-b: up\r\nx-b: too\r\n");
        answer(status(200, &headers, &request.head))
    })
}

fn push(arms: &[Arm<'_>; 2], table: &Table) {
    std::thread::scope(|scope| {
        for arm in arms {
            let side = arm.side;
            scope.spawn(move || side.push_routes(OWNER, table.clone(), Vec::new()));
        }
    });
}

fn ask(arms: &mut [Arm<'_>; 2], request: &Request) -> [Vec<String>; 2] {
    let [one, other] = arms;
    std::thread::scope(|scope| {
        let one = scope.spawn(|| one.ask(request));
        let other = other.ask(request);
        [one.join().expect("asking does not panic"), other]
    })
}

/// The smallest table and request found that still differ.
fn shrink(arms: &mut [Arm<'_>; 2], mut table: Table, mut request: Request) -> String {
    let mut differs = |table: &Table, request: &Request| {
        push(arms, table);
        let [one, other] = ask(arms, request);
        (one != other).then(|| difference(&one, &other).join("\n    "))
    };
    let mut shown = String::from("(not seen again)");
    loop {
        let before = (table.clone(), request.headers.len());
        for index in (0..table.len()).rev() {
            let mut smaller = table.clone();
            smaller.remove(index);
            if let Some(text) = differs(&smaller, &request) {
                (table, shown) = (smaller, text);
            }
        }
        for index in 0..table.len() {
            for smaller in smaller_routes(&table[index]) {
                let mut other = table.clone();
                other[index] = smaller;
                if let Some(text) = differs(&other, &request) {
                    (table, shown) = (other, text);
                    break;
                }
            }
        }
        for index in (0..request.headers.len()).rev() {
            let mut smaller = request.clone();
            smaller.headers.remove(index);
            if let Some(text) = differs(&table, &smaller) {
                (request, shown) = (smaller, text);
            }
        }
        if (&before.0, before.1) == (&table, request.headers.len()) {
            break;
        }
    }
    if let Some(text) = differs(&table, &request) {
        shown = text;
    }
    let table: Vec<String> = table.iter().map(describe).collect();
    format!("{request:?}\n    {}\n    {shown}", table.join("\n    "))
}

/// A route without what is not set.
fn describe(route: &Route) -> String {
    let text = format!("{route:?}");
    let mut kept = Vec::new();
    for part in text.split(", ") {
        let unset =
            [": None", ": []", ": \"\"", ": {}", ": false", ": Default", ": ServiceUnavailable"];
        if !unset.iter().any(|u| part.ends_with(u)) {
            kept.push(part);
        }
    }
    kept.join(", ").replace("HeaderValueOption", "").replace("PassThroughInternalRedirect", "")
}

/// A route with one part less.
fn smaller_routes(route: &Route) -> Vec<Route> {
    let mut smaller = Vec::new();
    let headers = route.r#match.as_ref().map_or(0, |m| m.headers.len());
    for index in 0..headers {
        let mut other = route.clone();
        if let Some(matcher) = &mut other.r#match {
            matcher.headers.remove(index);
        }
        smaller.push(other);
    }
    for lists in [0, 1] {
        let list = |r: &mut Route| {
            if lists == 0 {
                std::mem::take(&mut r.request_headers_to_add)
            } else {
                std::mem::take(&mut r.response_headers_to_add)
            }
        };
        let mut other = route.clone();
        if !list(&mut other).is_empty() {
            smaller.push(other);
        }
    }
    let mut other = route.clone();
    if !std::mem::take(&mut other.request_headers_to_remove).is_empty() {
        smaller.push(other);
    }
    let mut other = route.clone();
    if !std::mem::take(&mut other.response_headers_to_remove).is_empty() {
        smaller.push(other);
    }
    let mut other = route.clone();
    if let Some(route::Action::Route(action)) = &mut other.action
        && let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier
    {
        for target in &mut weighted.clusters {
            target.request_headers_to_add.clear();
            target.response_headers_to_add.clear();
            target.request_headers_to_remove.clear();
            target.response_headers_to_remove.clear();
        }
        if other != *route {
            smaller.push(other);
        }
    }
    smaller
}

fn table(rng: &mut SmallRng) -> Table {
    (0..rng.random_range(1..=20)).map(|_| random_route(rng)).collect()
}

fn pick<T: Copy>(rng: &mut SmallRng, of: &[T]) -> T {
    *of.choose(rng).expect("not empty")
}

fn random_route(rng: &mut SmallRng) -> Route {
    let count = rng.random_range(0..=3);
    let matcher = RouteMatch {
        path_specifier: Some(path_specifier(rng)),
        case_sensitive: rng.random_bool(0.2).then(|| BoolValue { value: rng.random_bool(0.5) }),
        headers: (0..count).map(|_| header_matcher(rng)).collect(),
        ..Default::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(cluster_specifier(rng)),
        timeout: Some(Duration::default()),
        ..Default::default()
    };
    Route {
        r#match: Some(matcher),
        action: Some(route::Action::Route(action)),
        request_headers_to_add: additions(rng),
        request_headers_to_remove: removals(rng),
        response_headers_to_add: additions(rng),
        response_headers_to_remove: removals(rng),
        ..Default::default()
    }
}

fn path_specifier(rng: &mut SmallRng) -> PathSpecifier {
    match rng.random_range(0..10) {
        0..=6 => PathSpecifier::Prefix(
            pick(rng, &["/", "/v2", "/v2/models", "/V2", "/inference.GRPCInferenceService"]).into(),
        ),
        7 => PathSpecifier::Path(pick(rng, &["/exact", "/v2", "/EXACT", "/v2/models/ab"]).into()),
        _ => PathSpecifier::SafeRegex(regex(pick(rng, &["/v2.*", "/ex.ct", "/(v2|V2)x?", ".*"]))),
    }
}

fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

fn header_matcher(rng: &mut SmallRng) -> HeaderMatcher {
    let some = |rng: &mut SmallRng| {
        pick(rng, &VALUES.iter().copied().filter(|v| !v.is_empty()).collect::<Vec<_>>()).to_owned()
    };
    let specifier = match rng.random_range(0..12) {
        0..=3 => string(MatchPattern::Exact(pick(rng, &VALUES).to_owned()), false),
        4 => string(MatchPattern::Prefix(some(rng)), rng.random_bool(0.3)),
        5 => string(MatchPattern::Suffix(some(rng)), rng.random_bool(0.3)),
        6 => string(MatchPattern::Contains(some(rng)), rng.random_bool(0.3)),
        7 => string(MatchPattern::Exact(some(rng)), true),
        8 => string(
            MatchPattern::SafeRegex(regex(pick(rng, &["a.*", "[ab]+", "a|b", "\\d", ".*", ":a:"]))),
            false,
        ),
        9 => {
            let start = rng.random_range(-5..8);
            let end = start + rng.random_range(1..6);
            HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })
        }
        _ => HeaderMatchSpecifier::PresentMatch(rng.random_bool(0.5)),
    };
    let names = [&NAMES[..], &[":method", ":authority", ":path"]].concat();
    HeaderMatcher {
        name: pick(rng, &names).to_owned(),
        header_match_specifier: Some(specifier),
        invert_match: rng.random_bool(0.2),
        treat_missing_header_as_empty: rng.random_bool(0.1),
    }
}

fn string(pattern: MatchPattern, ignore_case: bool) -> HeaderMatchSpecifier {
    HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, match_pattern: Some(pattern) })
}

/// One cluster, or a weighted list with a single entry that has any weight.
fn cluster_specifier(rng: &mut SmallRng) -> ClusterSpecifier {
    let name =
        |rng: &mut SmallRng| pick(rng, &["fuzz-a", "fuzz-b", "fuzz-c", "fuzz-a", "fuzz-none"]);
    if rng.random_bool(0.3) {
        return ClusterSpecifier::Cluster(name(rng).to_owned());
    }
    let count = rng.random_range(1..=3);
    let chosen = rng.random_range(0..count);
    let clusters = (0..count)
        .map(|index| ClusterWeight {
            name: name(rng).to_owned(),
            weight: Some(UInt32Value {
                value: if index == chosen { rng.random_range(1..200) } else { 0 },
            }),
            request_headers_to_add: additions(rng),
            request_headers_to_remove: removals(rng),
            response_headers_to_add: additions(rng),
            response_headers_to_remove: removals(rng),
            ..Default::default()
        })
        .collect();
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..Default::default() })
}

fn additions(rng: &mut SmallRng) -> Vec<HeaderValueOption> {
    let count = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..=3) };
    (0..count)
        .map(|_| HeaderValueOption {
            header: Some(HeaderValue {
                key: pick(
                    rng,
                    &[
                        "x-a",
                        "x-b",
                        "X-C",
                        "seldon-model",
                        "seldon-internal-model",
                        "accept",
                        "x-d",
                    ],
                )
                .into(),
                value: pick(
                    rng,
                    &[
                        "one",
                        "two",
                        "",
                        "%%",
                        "a %% b",
                        "%REQ(x-a)%",
                        "%PROTOCOL%",
                        "x-%REQ(nothing)%-y",
                        "%REQ(x-b?x-a)%",
                    ],
                )
                .into(),
                ..Default::default()
            }),
            append_action: pick(
                rng,
                &[
                    HeaderAppendAction::AppendIfExistsOrAdd,
                    HeaderAppendAction::AppendIfExistsOrAdd,
                    HeaderAppendAction::AddIfAbsent,
                    HeaderAppendAction::OverwriteIfExistsOrAdd,
                    HeaderAppendAction::OverwriteIfExists,
                ],
            )
            .into(),
            keep_empty_value: rng.random_bool(0.2),
            ..Default::default()
        })
        .collect()
}

fn removals(rng: &mut SmallRng) -> Vec<String> {
    let count = if rng.random_bool(0.7) { 0 } else { rng.random_range(1..=2) };
    (0..count)
        .map(|_| {
            pick(rng, &["x-a", "X-B", "seldon-internal-model", "accept", "x-none", "x-cluster"])
                .to_owned()
        })
        .collect()
}

fn request(rng: &mut SmallRng) -> Request {
    let count = rng.random_range(0..=5);
    Request {
        method: pick(rng, &METHODS),
        path: pick(rng, &PATHS),
        headers: (0..count).map(|_| (pick(rng, &NAMES), pick(rng, &VALUES))).collect(),
    }
}
