//! The embedded scheduler, taken through the operator's steps of the recorded
//! conversation, says what the real scheduler said.
//!
//! The recording's requests are fed to the stream in the recorded order, so
//! that flow control decides as it did then which pushes come together. What
//! the real one leaves to chance (order of names in a table, of resources in a
//! response, of endpoints in a cluster) is put in order before comparing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{Node, address};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, header_matcher};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::filters::http::{
    lua::v3::Lua, router::v3::Router, tap::v3::Tap,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use prost::Name;
use radiant::demo::scheduler::cache::Caches;
use radiant::demo::scheduler::state::State;
use radiant::demo::scheduler::stream::DeltaStream;
use radiant::demo::scheduler::{ModelSpec, Operation, Push};
use radiant::seldon::{Backend, Experiment, ExperimentKind, ListenerOptions, Pipeline};
use serde_json::Value;

fn golden(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(file)
}

#[test]
fn the_embedded_scheduler_says_what_the_real_one_said() {
    let events = std::fs::read_to_string(golden("events.jsonl")).unwrap();
    let mut replay = Replay::new();
    let mut compared = 0;
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["operator"] == "scheduler restart" {
            break;
        }
        if let Some(step) = event["operator"].as_str() {
            replay.operator(step);
        } else if event.get("envoy").is_some() {
            replay.envoy(&event);
        } else {
            let file = event["file"].as_str().unwrap();
            let bytes = std::fs::read(golden(file)).unwrap();
            let recorded = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
            let said = replay.next_response(file);
            assert_eq!(said.nonce, recorded.nonce, "{file}");
            assert_same(&said, &recorded, file);
            compared += 1;
        }
    }
    assert_eq!(compared, 40, "every response of the first stream was compared");
    assert!(replay.said.is_empty(), "said more than the real one: {:?}", replay.said);
}

/// The scheduler without its port, and the client's side of the recording.
struct Replay {
    state: State,
    caches: Caches,
    stream: DeltaStream,
    said: VecDeque<DeltaDiscoveryResponse>,
    /// Where the real scheduler put each version.
    placement: HashMap<String, Vec<Backend>>,
}

impl Replay {
    fn new() -> Self {
        let (state, pushes) = State::new(&ListenerOptions::default());
        let mut caches = Caches::new("test-id".to_owned());
        for push in pushes {
            caches.apply(push);
        }
        Self {
            state,
            caches,
            stream: DeltaStream::default(),
            said: VecDeque::new(),
            placement: recorded_placement(),
        }
    }

    fn push(&mut self, pushes: Vec<Push>) {
        for push in pushes {
            self.caches.apply(push);
            self.said.extend(self.stream.changed(&self.caches));
        }
    }

    fn operator(&mut self, step: &str) {
        for mut operation in operations(step) {
            if let Operation::LoadModel(model) = &mut operation {
                let version = self.state.model(&model.name).map_or(1, |(_, version)| version + 1);
                let label = format!("{}_{version}", model.name);
                model.backends = self.placement[&label].clone();
            }
            let pushes = self.state.apply(operation);
            self.push(pushes);
        }
    }

    fn envoy(&mut self, event: &Value) {
        let strings = |key: &str| -> Vec<String> {
            let list = event[key].as_array().into_iter().flatten();
            list.map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let kind = event["envoy"].as_str().unwrap();
        let request = DeltaDiscoveryRequest {
            node: event.get("node").map(|_| Node { id: "test-id".to_owned(), ..Node::default() }),
            type_url: type_url(kind),
            resource_names_subscribe: strings("resource_names_subscribe"),
            response_nonce: event["response_nonce"].as_str().unwrap_or_default().to_owned(),
            error_detail: event.get("error_detail").map(|_| Status::default()),
            ..DeltaDiscoveryRequest::default()
        };
        self.said.extend(self.stream.request(request, &self.caches).unwrap());
    }

    /// What is said next; if nothing is under way, the batch window ends.
    fn next_response(&mut self, file: &str) -> DeltaDiscoveryResponse {
        if self.said.is_empty() {
            assert!(self.state.is_waiting(), "nothing more to say where the real one said {file}");
            let pushes = self.state.flush();
            self.push(pushes);
        }
        self.said.pop_front().unwrap_or_else(|| panic!("no response for {file}"))
    }
}

fn type_url(kind: &str) -> String {
    let package = match kind {
        "Runtime" => "envoy.service.runtime.v3",
        "Cluster" => "envoy.config.cluster.v3",
        "Listener" => "envoy.config.listener.v3",
        _ => "envoy.config.route.v3",
    };
    format!("type.googleapis.com/{package}.{kind}")
}

/// An operator's step as the recording writes it.
fn operations(step: &str) -> Vec<Operation> {
    let words: Vec<&str> = step.split(' ').collect();
    let option = |name: &str| {
        words.iter().position(|w| *w == name).map(|at| words.get(at + 1).copied().unwrap_or(""))
    };
    let weighted = |word: &str| -> (String, u32) {
        let (name, weight) = word.split_once('=').unwrap();
        (name.to_owned(), weight.parse().unwrap())
    };
    let name = words[1].to_owned();
    match words[0] {
        "model" => {
            vec![load(name, option("--log").is_some())]
        }
        "models" => {
            let names = 0..words[1].parse::<u32>().unwrap();
            names.map(|n| load(format!("{}{n:05}", words[2]), false)).collect()
        }
        "rm" => vec![Operation::UnloadModel(name)],
        "exp" => {
            let arms = words[2..].iter().take_while(|w| !w.starts_with("--"));
            vec![Operation::StartExperiment(Experiment {
                name,
                kind: match option("--pipeline") {
                    Some(_) => ExperimentKind::Pipeline,
                    None => ExperimentKind::Model,
                },
                default: option("--default").map(str::to_owned),
                candidates: arms.map(|arm| weighted(arm)).collect(),
                mirror: option("--mirror").map(weighted),
            })]
        }
        "noexp" => vec![Operation::StopExperiment(name)],
        "pipe" => {
            let gateways = vec![Backend::new("127.0.0.1", 9010, 9011)];
            vec![Operation::StartPipeline(Pipeline { name, gateways })]
        }
        "nopipe" => vec![Operation::StopPipeline(name)],
        other => panic!("unknown step {other}"),
    }
}

/// Replicas come from [`recorded_placement`]: choosing servers is not the
/// embedded scheduler's business.
fn load(name: String, log_payloads: bool) -> Operation {
    Operation::LoadModel(ModelSpec { name, log_payloads, ..ModelSpec::default() })
}

/// The replicas of each version by its label, read from its HTTP cluster.
fn recorded_placement() -> HashMap<String, Vec<Backend>> {
    let mut placement = HashMap::new();
    for entry in std::fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with("-cds.bin") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let response = DeltaDiscoveryResponse::decode(&bytes[..]).unwrap();
        for any in response.resources.into_iter().filter_map(|r| r.resource) {
            let cluster = Cluster::decode(&any.value[..]).unwrap();
            if let Some(label) = cluster.name.strip_suffix("_http") {
                placement.insert(label.to_owned(), backends(&cluster));
            }
        }
    }
    placement
}

fn backends(cluster: &Cluster) -> Vec<Backend> {
    let localities = &cluster.load_assignment.as_ref().unwrap().endpoints;
    let endpoints = localities.iter().flat_map(|locality| &locality.lb_endpoints);
    endpoints
        .map(|endpoint| {
            let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
                panic!("{endpoint:?}");
            };
            let address = endpoint.address.as_ref().unwrap().address.as_ref().unwrap();
            let address::Address::SocketAddress(socket) = address else { panic!("{address:?}") };
            Backend::new(socket.address.clone(), 9101, 9501)
        })
        .collect()
}

fn assert_same(said: &DeltaDiscoveryResponse, recorded: &DeltaDiscoveryResponse, file: &str) {
    assert_eq!(said.type_url, recorded.type_url, "{file}");
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    assert_eq!(sorted(&said.removed_resources), sorted(&recorded.removed_resources), "{file}");
    let by_name = |response: &DeltaDiscoveryResponse| -> BTreeMap<String, Any> {
        let resources = response.resources.iter();
        resources.map(|r| (r.name.clone(), r.resource.clone().unwrap())).collect()
    };
    let (said, recorded) = (by_name(said), by_name(recorded));
    assert_eq!(
        said.keys().collect::<Vec<_>>(),
        recorded.keys().collect::<Vec<_>>(),
        "names in {file}"
    );
    for (name, any) in &said {
        match any.type_url.rsplit('.').next().unwrap() {
            "Cluster" => assert_eq!(cluster(any), cluster(&recorded[name]), "{name} in {file}"),
            "Listener" => assert_eq!(listener(any), listener(&recorded[name]), "{name} in {file}"),
            _ => assert_eq!(table(any), table(&recorded[name]), "{name} in {file}"),
        }
    }
}

/// A cluster with its endpoints in order.
fn cluster(any: &Any) -> Cluster {
    let mut cluster = Cluster::decode(&any.value[..]).unwrap();
    for locality in &mut cluster.load_assignment.as_mut().unwrap().endpoints {
        locality.lb_endpoints.sort_by_key(|endpoint| format!("{endpoint:?}"));
    }
    for options in cluster.typed_extension_protocol_options.values_mut() {
        recode::<HttpProtocolOptions>(options);
    }
    cluster
}

/// A table's name and its routes by the name that they are for, in their order.
fn table(any: &Any) -> (RouteConfiguration, HashMap<String, Vec<String>>) {
    let mut table = RouteConfiguration::decode(&any.value[..]).unwrap();
    assert_eq!(table.virtual_hosts.len(), 1);
    let mut by_model: HashMap<String, Vec<String>> = HashMap::new();
    for route in std::mem::take(&mut table.virtual_hosts[0].routes) {
        let headers = &route.r#match.as_ref().unwrap().headers;
        let model = headers.iter().find(|h| h.name == "seldon-model").unwrap();
        let Some(header_matcher::HeaderMatchSpecifier::StringMatch(matcher)) =
            &model.header_match_specifier
        else {
            panic!("{model:?}");
        };
        by_model.entry(format!("{matcher:?}")).or_default().push(format!("{route:?}"));
    }
    (table, by_model)
}

/// A listener whose packed messages are encoded in one and the same way.
fn listener(any: &Any) -> Listener {
    let mut listener = Listener::decode(&any.value[..]).unwrap();
    for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
        let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else {
            panic!("{filter:?}");
        };
        let mut manager = HttpConnectionManager::decode(&config.value[..]).unwrap();
        for filter in &mut manager.http_filters {
            let Some(http_filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else {
                panic!("{filter:?}");
            };
            match filter.name.rsplit('.').next().unwrap() {
                "tap" => recode::<Tap>(config),
                "lua" => recode::<Lua>(config),
                _ => recode::<Router>(config),
            }
        }
        for log in &mut manager.access_log {
            use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
            let Some(ConfigType::TypedConfig(config)) = &mut log.config_type else {
                panic!("{log:?}");
            };
            recode::<FileAccessLog>(config);
        }
        config.value = manager.encode_to_vec();
    }
    listener
}

fn recode<T: Message + Name + Default>(any: &mut Any) {
    assert_eq!(any.type_url, T::type_url());
    any.value = T::decode(&any.value[..]).unwrap().encode_to_vec();
}
