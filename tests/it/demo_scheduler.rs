//! The embedded scheduler at its port, spoken to by a real gRPC client, and the
//! demo's HTTP API.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use radiant::demo::scheduler::cache::{CLUSTER, ROUTE};
use radiant::demo::scheduler::{ModelSpec, Operation, Scheduler, SchedulerOptions};
use radiant::demo::{BASELINE, Demo, DemoOptions, ENHANCED, EXPERIMENT};
use radiant::seldon::Backend;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

/// Far more than any step takes; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(20);

/// A client that keeps every promise of the protocol.
struct Client {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn connect(addr: SocketAddr) -> Self {
        let client = AggregatedDiscoveryServiceClient::connect(format!("http://{addr}")).await;
        let mut client = client.unwrap().max_decoding_message_size(usize::MAX);
        let (requests, stream) = mpsc::unbounded_channel();
        let stream = UnboundedReceiverStream::new(stream);
        let responses = client.delta_aggregated_resources(stream).await.unwrap().into_inner();
        Self { requests, responses }
    }

    fn subscribe(&self, type_url: &str, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: "test-id".to_owned(), ..Node::default() }),
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).unwrap();
    }

    fn ack(&self, response: &DeltaDiscoveryResponse) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = tokio::time::timeout(LIMIT, self.responses.message()).await;
        next.expect("a response in time").unwrap().expect("a stream that goes on")
    }

    /// Answers responses until the scheduler has no more to say.
    async fn acknowledge_all(mut self) {
        while let Ok(Some(response)) = self.responses.message().await {
            self.ack(&response);
        }
    }
}

fn model(name: &str) -> Operation {
    let backends = vec![Backend::new("127.0.0.1", 1, 1)];
    Operation::LoadModel(ModelSpec { name: name.to_owned(), backends, log_payloads: false })
}

#[tokio::test]
async fn a_model_arrives_clusters_first() {
    let options = SchedulerOptions { batch: Duration::ZERO, ..SchedulerOptions::default() };
    let scheduler = Scheduler::start(&options).unwrap();
    let mut client = Client::connect(scheduler.addr()).await;
    client.subscribe(CLUSTER, &[]);
    let clusters = client.next().await;
    assert_eq!(clusters.resources.len(), 2, "the mirrors");
    client.ack(&clusters);
    client.subscribe(ROUTE, &["listener_0", "listener_1"]);
    let routes = client.next().await;
    assert_eq!(routes.resources.len(), 2);
    client.ack(&routes);
    assert!(scheduler.handle().settled(LIMIT).await);
    scheduler.handle().apply(model("iris"));
    let (first, second) = (client.next().await, client.next().await);
    assert_eq!((first.type_url.as_str(), second.type_url.as_str()), (CLUSTER, ROUTE));
    assert!(!scheduler.handle().is_settled());
    client.ack(&first);
    client.ack(&second);
    assert!(scheduler.handle().settled(LIMIT).await);
}

#[tokio::test]
async fn models_of_one_batch_window_come_together() {
    let options =
        SchedulerOptions { batch: Duration::from_millis(20), ..SchedulerOptions::default() };
    let scheduler = Scheduler::start(&options).unwrap();
    let mut client = Client::connect(scheduler.addr()).await;
    client.subscribe(CLUSTER, &[]);
    let mirrors = client.next().await;
    client.ack(&mirrors);
    for name in ["a", "b", "c"] {
        scheduler.handle().apply(model(name));
    }
    assert_eq!(client.next().await.resources.len(), 6);
}

#[tokio::test]
async fn a_killed_scheduler_breaks_its_streams_and_frees_its_port() {
    let options = SchedulerOptions { batch: Duration::ZERO, ..SchedulerOptions::default() };
    let scheduler = Scheduler::start(&options).unwrap();
    let addr = scheduler.addr();
    let mut client = Client::connect(addr).await;
    client.subscribe(CLUSTER, &[]);
    client.next().await;
    drop(scheduler);
    assert!(client.responses.message().await.is_err());
    let again = SchedulerOptions { addr, ..options };
    let scheduler = Scheduler::start_with(&again, vec![model("iris")]).unwrap();
    let mut client = Client::connect(addr).await;
    client.subscribe(CLUSTER, &[]);
    assert_eq!(client.next().await.resources.len(), 4);
    drop(scheduler);
}

async fn call(demo: &Demo, request: Request<Full<Bytes>>) -> (u16, Value) {
    let io = TokioIo::new(TcpStream::connect(demo.control_addr()).await.unwrap());
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
}

fn request(method: &str, path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).header("host", "control");
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn an_operator_changes_the_demo_over_http() {
    let options =
        DemoOptions { port: Some(0), batch: Duration::ZERO, models: 3, ..DemoOptions::default() };
    let demo = Demo::start(&options).unwrap();
    let client = Client::connect(demo.scheduler_addr()).await;
    client.subscribe(CLUSTER, &[]);
    client.subscribe(ROUTE, &["listener_0", "listener_1"]);
    let client = tokio::spawn(client.acknowledge_all());
    assert!(demo.scheduler().settled(LIMIT).await);

    let path = format!("/experiments/{EXPERIMENT}");
    let weights = json!({"candidates": {BASELINE: 10, ENHANCED: 90}});
    let (status, said) = call(&demo, request("POST", &path, &weights)).await;
    assert_eq!((status, &said["applied"]), (200, &json!(true)), "{said}");
    let (_, state) = call(&demo, request("GET", "/state", &Value::Null)).await;
    let experiment = &state["experiments"][EXPERIMENT];
    assert_eq!(experiment["candidates"], weights["candidates"]);
    assert_eq!(experiment["default"], BASELINE, "what is left out stays");
    assert_eq!(state["models"].as_object().unwrap().len(), 6);

    let roll = format!("/models/{BASELINE}");
    assert_eq!(call(&demo, request("POST", &roll, &Value::Null)).await.0, 200);
    let (_, state) = call(&demo, request("GET", "/state", &Value::Null)).await;
    assert_eq!(state["models"][BASELINE]["version"], 2);
    assert_eq!(call(&demo, request("DELETE", "/models/model-00001", &Value::Null)).await.0, 200);

    for (method, path, body, expected) in [
        ("POST", path.as_str(), json!({"candidates": {"nobody": 1}}), 400),
        ("POST", path.as_str(), json!({"candidates": {BASELINE: -1}}), 400),
        ("POST", path.as_str(), json!({"default": "nobody"}), 400),
        ("POST", path.as_str(), json!({"wieghts": {}}), 400),
        ("DELETE", "/models/nobody", Value::Null, 404),
        ("POST", "/nonsense/x", Value::Null, 404),
        ("PUT", "/state", Value::Null, 404),
    ] {
        let (status, said) = call(&demo, request(method, path, &body)).await;
        assert_eq!(status, expected, "{method} {path} {body}: {said}");
        assert!(said["error"].is_string());
    }
    drop(demo);
    client.await.unwrap();
}

#[test]
fn chosen_ports_are_free_and_differ() {
    let ports = radiant::demo::DemoPorts::choose([127, 0, 0, 1].into(), Some(0)).unwrap();
    let mut all =
        [ports.http, ports.mirrors, ports.scheduler, ports.utility, ports.control, ports.admin];
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]) && all[0] != 0);
    let error = radiant::demo::DemoPorts::choose([127, 0, 0, 1].into(), Some(65_534)).unwrap_err();
    assert!(error.to_string().contains("65534"));
}
