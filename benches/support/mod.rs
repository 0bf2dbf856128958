//! The pure parts of the proxy as operations that can be repeated: measured in
//! time by `pure.rs` (criterion) and in instructions by `instructions.rs`.
//!
//! Tables and clusters are the embedded scheduler's, so that they have the shape
//! of a real mesh.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use radiant::demo::scheduler::state::State;
use radiant::demo::scheduler::{ModelSpec, Operation, Push};
use radiant::edge;
use radiant::headers::{RequestHead, ResponseHead};
use radiant::http1::{HeadLimits, Parsed, request, response, write};
use radiant::logic::format::{Format, LogContext};
use radiant::logic::{balancer, header_filter, mutation};
use radiant::model::{Action, Clusters, Host, RouteTable, WeightedTarget};
use radiant::seldon::listener::ACCESS_LOG_FORMAT;
use radiant::seldon::{Backend, ListenerOptions, ModelVersion, ROUTE_TABLE, model_clusters};
use radiant::xds::decode::{self, RouteCache, RouteContext};

/// One operation: its name and what makes it, with all that is done only once.
pub(crate) struct Case {
    /// Name in reports and in the baseline.
    pub(crate) name: &'static str,
    /// Makes the operation.
    pub(crate) prepare: fn() -> Box<dyn FnMut()>,
}

/// All operations.
pub(crate) const CASES: &[Case] = &[
    Case { name: "route_lookup/1", prepare: || lookup(1) },
    Case { name: "route_lookup/1000", prepare: || lookup(1000) },
    Case { name: "route_lookup/100000", prepare: || lookup(100_000) },
    Case { name: "table_compile/1000", prepare: || compile(1000) },
    Case { name: "table_update_one/1000", prepare: || update_one(1000) },
    Case { name: "table_update_one/10000", prepare: || update_one(10_000) },
    Case { name: "header_mutation", prepare: header_mutation },
    Case { name: "balancer/3", prepare: balance },
    Case { name: "xds_decode_cluster", prepare: decode_cluster },
    Case { name: "access_log_line", prepare: access_log_line },
    Case { name: "http1_request_head", prepare: request_head },
    Case { name: "http1_response_head", prepare: response_head },
    Case { name: "http1_request_whole", prepare: request_whole },
];

/// A request as a client of a mesh sends it.
const REQUEST: &[u8] = b"POST /v2/models/model-000000/infer HTTP/1.1\r\n\
    Host: seldon-mesh.example:9000\r\n\
    User-Agent: python-requests/2.31.0\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Accept: */*\r\n\
    Connection: keep-alive\r\n\
    Content-Type: application/json\r\n\
    Seldon-Model: model-000000\r\n\
    X-Request-Id: 7d7a4b3e-1f0c-4f0e-9d5e-0c6f2f6f9a11\r\n\
    Content-Length: 1024\r\n\r\n";

/// An answer as MLServer gives it.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    date: Sun, 22 Nov 2026 12:00:00 GMT\r\n\
    server: uvicorn\r\n\
    content-type: application/json\r\n\
    ce-specversion: 0.3.0\r\n\
    ce-source: io.seldon.serving.deployment.mlserver\r\n\
    content-length: 212\r\n\r\n";

/// The route table of so many models; `roll` gives the first one a new version.
fn table_bytes(models: usize, roll: bool) -> Bytes {
    let (mut state, _) = State::new(&ListenerOptions::default());
    let load = |n: usize| {
        let backends = vec![Backend::new("10.0.0.1", 9000, 9500)];
        let name = format!("model-{n:06}");
        Operation::LoadModel(ModelSpec { name, backends, log_payloads: false })
    };
    for n in 0..models {
        state.apply(load(n));
    }
    let mut pushes = state.flush();
    if roll {
        state.apply(load(0));
        pushes = state.flush();
    }
    let table = pushes.into_iter().rev().find_map(|push| match push {
        Push::Routes(tables) => tables.into_iter().find(|t| t.name == ROUTE_TABLE),
        _ => None,
    });
    Bytes::from(table.expect("a push of tables").to_any("").value)
}

fn table(bytes: &Bytes, clusters: &Clusters, cache: &mut RouteCache) -> Arc<RouteTable> {
    let context = RouteContext { clusters, rewrite: false };
    decode::table(bytes, &context, cache).expect("the scheduler's own table")
}

/// A table that has no predecessor.
fn first_table(models: usize) -> Arc<RouteTable> {
    table(&table_bytes(models, false), &Clusters::default(), &mut RouteCache::default())
}

fn parsed_request() -> RequestHead {
    let mut head = RequestHead::default();
    let parsed = request::parse(REQUEST, &HeadLimits::REQUEST, &mut head);
    assert!(matches!(parsed, Ok(Parsed::Complete { .. })));
    head
}

fn target<'t>(table: &'t RouteTable, head: &RequestHead) -> &'t WeightedTarget {
    let (_, route) = table.find(head, 7).expect("the model's route");
    let Action::Forward(forward) = &route.action else { panic!("a route that forwards") };
    forward.choose(7).expect("a target")
}

fn lookup(models: usize) -> Box<dyn FnMut()> {
    let table = first_table(models);
    let head = parsed_request();
    Box::new(move || {
        black_box(table.find(black_box(&head), 7));
    })
}

fn compile(models: usize) -> Box<dyn FnMut()> {
    let bytes = table_bytes(models, false);
    Box::new(move || {
        black_box(table(&bytes, &Clusters::default(), &mut RouteCache::default()));
    })
}

/// One changed model: the table goes to and fro between two versions.
fn update_one(models: usize) -> Box<dyn FnMut()> {
    let versions = [table_bytes(models, true), table_bytes(models, false)];
    let clusters = Clusters::default();
    let mut cache = RouteCache::default();
    table(&versions[1], &clusters, &mut cache);
    let mut turn = 0;
    Box::new(move || {
        black_box(table(&versions[turn], &clusters, &mut cache));
        turn ^= 1;
    })
}

fn header_mutation() -> Box<dyn FnMut()> {
    let table = first_table(1);
    let (mut head, mut answer, mut scratch) =
        (RequestHead::default(), ResponseHead::default(), Vec::new());
    let template = parsed_request();
    Box::new(move || {
        let target = target(&table, &template);
        let context = LogContext::default();
        head.headers.clear();
        head.headers.push(b"content-type", b"application/json");
        mutation::apply_request(&mut head, [&target.request_headers], &context, &mut scratch);
        answer.headers.clear();
        answer.headers.push(b"content-type", b"application/json");
        mutation::apply_response(&mut answer, [&target.response_headers], &context, &mut scratch);
        black_box((&head, &answer));
    })
}

fn balance() -> Box<dyn FnMut()> {
    let hosts: Vec<Arc<Host>> = (0..3)
        .map(|n| {
            let address = SocketAddr::from(([10, 0, 0, n], 9000));
            Arc::new(Host { address, active: AtomicU32::new(u32::from(n)) })
        })
        .collect();
    let mut rng = SmallRng::seed_from_u64(1);
    Box::new(move || {
        black_box(balancer::pick(&hosts, &mut rng));
    })
}

fn decode_cluster() -> Box<dyn FnMut()> {
    use prost::Message as _;

    let backends = (0..3).map(|n| Backend::new(format!("10.0.0.{n}"), 9000, 9500)).collect();
    let [cluster, _] = model_clusters(&ModelVersion::new("model-000000", 1, backends));
    let bytes = Bytes::from(cluster.encode_to_vec());
    Box::new(move || {
        black_box(decode::cluster(&bytes).is_ok());
    })
}

fn access_log_line() -> Box<dyn FnMut()> {
    let format = Format::parse(ACCESS_LOG_FORMAT).expect("the scheduler's format");
    let (request, mut line) = (parsed_request(), Vec::new());
    let response = ResponseHead { status: 200, ..ResponseHead::default() };
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    Box::new(move || {
        line.clear();
        let context = LogContext {
            request: Some(&request),
            response: Some(&response),
            start,
            protocol: Some("HTTP/1.1"),
            status: 200,
            bytes_received: 1024,
            bytes_sent: 212,
            duration: Some(Duration::from_micros(5300)),
            upstream_host: Some(SocketAddr::from(([10, 0, 0, 1], 9000))),
            ..LogContext::default()
        };
        format.render(&context, &mut line);
        black_box(&line);
    })
}

fn request_head() -> Box<dyn FnMut()> {
    let mut head = RequestHead::default();
    Box::new(move || {
        let parsed = request::parse(black_box(REQUEST), &HeadLimits::REQUEST, &mut head);
        assert!(matches!(parsed, Ok(Parsed::Complete { .. })));
    })
}

fn response_head() -> Box<dyn FnMut()> {
    let mut head = ResponseHead::default();
    Box::new(move || {
        let parsed = response::parse(black_box(RESPONSE), &HeadLimits::RESPONSE, false, &mut head);
        assert!(matches!(parsed, Ok(Parsed::Complete { .. })));
    })
}

/// All that is done to a request between two system calls, in a table of 1,000
/// models: parse, rules of the edge, header filter, route, target, mutations,
/// write.
fn request_whole() -> Box<dyn FnMut()> {
    let table = first_table(1000);
    let (mut head, mut scratch, mut out) = (RequestHead::default(), Vec::new(), Vec::new());
    Box::new(move || {
        let parsed = request::parse(black_box(REQUEST), &HeadLimits::REQUEST, &mut head);
        assert!(matches!(parsed, Ok(Parsed::Complete { .. })));
        edge::to_upstream(&mut head);
        header_filter::apply(&mut head);
        let target = target(&table, &head);
        let context = LogContext::default();
        mutation::apply_request(&mut head, [&target.request_headers], &context, &mut scratch);
        out.clear();
        write::request(&mut out, &head, true);
        black_box(&out);
    })
}
