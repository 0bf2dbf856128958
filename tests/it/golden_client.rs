//! The recorded conversation, played to the client: every resource is
//! understood, the answers are Envoy's, and after each step the compiled tables
//! answer what a naive scan of the recorded JSON answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use radiant::headers::RequestHead;
use radiant::logic::ads::{Request, ResourceType, Variant};
use radiant::model::{Action, EndpointAddress, HeaderMutations, HeaderValue, Route};
use radiant::plane::{Node, Plane, ServerState};
use radiant::xds::scan::DeltaScan;
use radiant::xds::session::Session;
use radiant::xds::wire::Response;
use radiant::xds::{SharedStore, Store, StoreOptions, decode};
use serde_json::Value;

fn golden(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(file)
}

#[test]
fn the_recorded_conversation_is_understood_and_answered_as_by_envoy() {
    let events = std::fs::read_to_string(golden("events.jsonl")).unwrap();
    let mut replay = Replay::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event.get("operator").is_some() {
            continue;
        } else if event["envoy"] == "Runtime" {
            // Envoy's first message on a stream; this client has no such wish.
            replay.compare_requests();
            replay.open();
        } else if event.get("envoy").is_some() {
            replay.expected.push(describe_recorded(&event));
        } else {
            replay.scheduler(event["file"].as_str().unwrap());
        }
    }
    replay.compare_requests();
    assert_eq!(replay.checked_tables, 27);
    assert!(replay.checked_requests > 5_000, "{}", replay.checked_requests);
}

struct Replay {
    plane: Arc<Plane>,
    store: SharedStore,
    session: Session,
    sent: Vec<String>,
    expected: Vec<String>,
    /// Tables in force by name, in JSON.
    tables: BTreeMap<String, Value>,
    checked_tables: usize,
    checked_requests: usize,
}

impl Replay {
    fn new() -> Self {
        let plane = Plane::new(1, Node::default());
        let store = SharedStore::new(Store::new(Arc::clone(&plane), StoreOptions::default()));
        let session = Session::new(store.clone(), Variant::Delta);
        Self {
            plane,
            store,
            session,
            sent: Vec::new(),
            expected: Vec::new(),
            tables: BTreeMap::new(),
            checked_tables: 0,
            checked_requests: 0,
        }
    }

    fn open(&mut self) {
        self.session.lost();
        let requests = self.session.opened();
        assert!(requests[0].node && requests[1..].iter().all(|r| !r.node));
        self.note(&requests);
    }

    fn note(&mut self, requests: &[Request]) {
        self.sent.extend(requests.iter().map(describe));
    }

    fn scheduler(&mut self, file: &str) {
        let bytes = Bytes::from(std::fs::read(golden(file)).unwrap());
        let store = self.store.clone();
        let mut scan = DeltaScan::new(bytes.len(), move |name: &str| store.known_table(name));
        bytes.chunks(1_000).for_each(|piece| scan.feed(piece).unwrap());
        let response = scan.finish().unwrap().unwrap();
        assert_eq!(response.rejected, []);
        let kind = response.update.kind;
        let hosts = host_names(&response);
        let is_bad = file == "1-32-rds.bin";
        let requests = self.session.received(response);
        let nacks = requests.iter().filter(|r| r.error.is_some()).count();
        assert_eq!(nacks, usize::from(is_bad), "{file}: {requests:?}");
        self.note(&requests);
        for host in hosts {
            self.resolve(&host);
        }
        if kind == ResourceType::Route {
            // The moment that a table waits for clusters that it may have overtaken.
            let later = std::time::Instant::now() + std::time::Duration::from_millis(200);
            self.store.lock().poll(later);
            self.check_tables(file, is_bad);
        }
        if file == "1-19-cds.bin" {
            // Removed, and still named by the table.
            assert!(self.is_routable("baseline-predictor_1_http"));
        }
        if file == "1-20-rds.bin" {
            assert!(!self.is_routable("baseline-predictor_1_http"));
            assert!(self.is_routable("baseline-predictor_2_http"));
        }
    }

    fn is_routable(&self, cluster: &str) -> bool {
        self.plane.clusters.find(cluster).is_some_and(|slot| slot.load().is_some())
    }

    fn resolve(&mut self, host: &str) {
        let answer = radiant::dns::Answer::Addresses(vec![[10, 0, 0, 1].into()]);
        self.plane.endpoints.on_answer(host, answer, tokio::time::Instant::now());
        self.store.lock().poll(std::time::Instant::now());
        let requests = self.session.progressed();
        self.note(&requests);
    }

    /// Per type, in order: subscriptions and answers are Envoy's.
    fn compare_requests(&mut self) {
        for kind in ["Cluster", "Listener", "RouteConfiguration"] {
            let of = |list: &[String]| -> Vec<String> {
                list.iter().filter(|r| r.starts_with(kind)).cloned().collect()
            };
            assert_eq!(of(&self.sent), of(&self.expected));
        }
        self.sent.clear();
        self.expected.clear();
    }

    fn check_tables(&mut self, file: &str, is_bad: bool) {
        assert_eq!(self.plane.state(), ServerState::Live);
        let json = std::fs::read_to_string(golden(&file.replace(".bin", ".json"))).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        for resource in json["resources"].as_array().unwrap() {
            let name = resource["resource"]["name"].as_str().unwrap();
            if !(is_bad && name == "listener_1") {
                self.tables.insert(name.to_owned(), resource["resource"].clone());
            }
        }
        self.checked_tables += 1;
        let snapshot = self.plane.snapshot.load();
        for (listener, table) in [("seldon_http", "listener_0"), ("seldon_mirrors", "listener_1")] {
            let compiled = &snapshot.listener(listener).unwrap().routes;
            let json = &self.tables[table];
            for (head, fields) in requests(json) {
                let ours = compiled.find(&head, 0).map(|(_, route)| summary(route));
                let theirs = scan(json, &fields).map(json_summary);
                assert_eq!(ours, theirs, "{file} {table} {fields:?}");
                self.checked_requests += 1;
            }
        }
    }
}

fn host_names(response: &Response) -> BTreeSet<String> {
    if response.update.kind != ResourceType::Cluster {
        return BTreeSet::new();
    }
    let clusters = response.update.resources.iter().map(|r| decode::cluster(&r.value).unwrap());
    let endpoints = clusters.flat_map(|c| c.endpoints);
    endpoints
        .filter_map(|e| match e {
            EndpointAddress::Name(name, _) => Some(name.to_string()),
            EndpointAddress::Socket(_) => None,
        })
        .collect()
}

/// A request in one line; what Envoy sends and what this client sends read the
/// same.
fn describe(request: &Request) -> String {
    let kind = request.kind.url().rsplit('.').next().unwrap();
    let mut subscribe = request.subscribe.clone();
    subscribe.sort();
    // Envoy's message is the beginning of ours, which goes on to name the place.
    let error = request.error.as_deref().map(|e| e.split(" [").next().unwrap());
    let mut versions = request.initial_versions.clone();
    forget_listener_versions(kind, versions.values_mut());
    let nonce = &request.nonce;
    format!("{kind} {subscribe:?} nonce {nonce:?} error {error:?} versions {versions:?}")
}

fn describe_recorded(event: &Value) -> String {
    let kind = event["envoy"].as_str().unwrap();
    let mut subscribe: Vec<&str> = event["resource_names_subscribe"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    subscribe.sort_unstable();
    let error = event["error_detail"]["message"].as_str();
    let nonce = event["response_nonce"].as_str().unwrap_or_default();
    let versions = event["initial_resource_versions"].as_object().into_iter().flatten();
    let mut versions: BTreeMap<String, String> =
        versions.map(|(n, v)| (n.clone(), v.as_str().unwrap().to_owned())).collect();
    forget_listener_versions(kind, versions.values_mut());
    format!("{kind} {subscribe:?} nonce {nonce:?} error {error:?} versions {versions:?}")
}

/// The recorded listeners hold an equivalent script, and so another version than
/// the one that Envoy had.
fn forget_listener_versions<'a>(kind: &str, versions: impl Iterator<Item = &'a mut String>) {
    if kind == "Listener" {
        versions.for_each(String::clear);
    }
}

type Fields = (String, Option<String>, Option<String>);

/// Requests that tell the routes of a table apart: every name, sticky or not,
/// every path.
fn requests(table: &Value) -> Vec<(RequestHead, Fields)> {
    let mut names = BTreeSet::from(["unknown".to_owned()]);
    let mut tokens = BTreeSet::from([":unknown_1:".to_owned(), String::new()]);
    for route in routes(table) {
        for header in route["match"]["headers"].as_array().unwrap() {
            let value = &header["string_match"];
            names.extend(value["exact"].as_str().map(str::to_owned));
            tokens.extend(value["contains"].as_str().map(str::to_owned));
        }
    }
    let paths =
        ["/v2/models/x/infer", "/inference.GRPCInferenceService/ModelInfer", "/v2?a=/", "/v1"];
    let mut out = Vec::new();
    for path in paths {
        for name in names.iter().map(Some).chain([None]) {
            for token in tokens.iter().map(Some).chain([None]) {
                let mut head = RequestHead::default();
                head.set_method(b"POST");
                head.set_authority(b"any.host");
                head.set_path(path.as_bytes());
                if let Some(name) = name {
                    head.headers.push(b"seldon-model", name.as_bytes());
                }
                if let Some(token) = token {
                    head.headers.push(b"x-seldon-route", token.as_bytes());
                }
                out.push((head, (path.to_owned(), name.cloned(), token.cloned())));
            }
        }
    }
    out
}

fn routes(table: &Value) -> impl Iterator<Item = &Value> {
    let hosts = table["virtual_hosts"].as_array().unwrap();
    hosts.iter().flat_map(|host| host["routes"].as_array().into_iter().flatten())
}

/// The first route in order that matches.
fn scan<'a>(table: &'a Value, (path, name, token): &Fields) -> Option<&'a Value> {
    let value = |header: &str| match header {
        "seldon-model" => name.as_deref(),
        "x-seldon-route" => token.as_deref(),
        other => panic!("unexpected header {other}"),
    };
    routes(table).find(|route| {
        let m = &route["match"];
        let headers = m["headers"].as_array().unwrap();
        path.starts_with(m["prefix"].as_str().unwrap())
            && headers.iter().all(|h| {
                let value = value(h["name"].as_str().unwrap());
                if let Some(present) = h["present_match"].as_bool() {
                    return value.is_some() == present;
                }
                let pattern = &h["string_match"];
                match (pattern["exact"].as_str(), pattern["contains"].as_str()) {
                    (Some(exact), None) => value == Some(exact),
                    (None, Some(part)) => value.is_some_and(|v| v.contains(part)),
                    _ => panic!("unexpected matcher {h}"),
                }
            })
    })
}

/// Everything that a route does, in one line.
fn summary(route: &Route) -> String {
    let Action::Forward(forward) = &route.action else { panic!("not a forward") };
    let mut out = format!("{} ", route.name);
    for target in &forward.targets {
        let name = &target.cluster.name;
        write!(out, "to {name}={} ", target.weight).unwrap();
        mutations(&mut out, &target.request_headers, &target.response_headers);
    }
    write!(out, "| ").unwrap();
    let (request, response) = (&route.request_headers, &route.response_headers);
    let none = HeaderMutations::default();
    mutations(&mut out, request.as_deref().unwrap_or(&none), response.as_deref().unwrap_or(&none));
    write!(out, "timeout {:?} ", forward.timeout.map(|t| t.as_secs())).unwrap();
    if let Some(retry) = &forward.retry {
        assert!(retry.on.server_error && retry.on.connect_failure && !retry.on.reset);
        assert_eq!(retry.max, retry.base * 10);
        write!(out, "retry {} {:?} ", retry.retries, retry.base).unwrap();
    }
    for mirror in &forward.mirrors {
        let (share, of) = mirror.fraction;
        write!(out, "mirror {} {share}/{of}", mirror.cluster.name).unwrap();
    }
    out
}

fn mutations(out: &mut String, request: &HeaderMutations, response: &HeaderMutations) {
    for (side, mutations) in [("request", request), ("response", response)] {
        for name in mutations.removed() {
            write!(out, "{side} -{name} ").unwrap();
        }
        for add in &mutations.add {
            let HeaderValue::Plain(value) = &add.value else { panic!("not plain") };
            write!(out, "{side} +{}:{} ", add.name, String::from_utf8_lossy(value)).unwrap();
        }
    }
}

fn json_summary(route: &Value) -> String {
    let action = &route["route"];
    let mut out = format!("{} ", route["name"].as_str().unwrap());
    if let Some(cluster) = action["cluster"].as_str() {
        write!(out, "to {cluster}=1 ").unwrap();
    }
    for target in action["weighted_clusters"]["clusters"].as_array().into_iter().flatten() {
        let weight = target["weight"].as_u64().unwrap_or_default();
        write!(out, "to {}={weight} ", target["name"].as_str().unwrap()).unwrap();
        json_mutations(&mut out, target);
    }
    write!(out, "| ").unwrap();
    json_mutations(&mut out, route);
    assert_eq!(action["timeout"], "0s");
    write!(out, "timeout None ").unwrap();
    if let Some(retry) = action.get("retry_policy") {
        assert_eq!(retry["retry_on"], "5xx,connect-failure");
        assert_eq!(retry["retry_back_off"]["base_interval"], "0.500s");
        write!(out, "retry {} 500ms ", retry["num_retries"]).unwrap();
    }
    for mirror in action["request_mirror_policies"].as_array().into_iter().flatten() {
        let share = mirror["runtime_fraction"]["default_value"]["numerator"].as_u64();
        let cluster = mirror["cluster"].as_str().unwrap();
        write!(out, "mirror {cluster} {}/100", share.unwrap_or_default()).unwrap();
    }
    out
}

fn json_mutations(out: &mut String, level: &Value) {
    for side in ["request", "response"] {
        for name in level[format!("{side}_headers_to_remove")].as_array().into_iter().flatten() {
            write!(out, "{side} -{} ", name.as_str().unwrap()).unwrap();
        }
        for add in level[format!("{side}_headers_to_add")].as_array().into_iter().flatten() {
            let header = &add["header"];
            let name = header["key"].as_str().unwrap().to_lowercase();
            write!(out, "{side} +{name}:{} ", header["value"].as_str().unwrap_or_default())
                .unwrap();
        }
    }
}
