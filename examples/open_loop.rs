//! Load in an open loop, half HTTP/1 and half gRPC: requests leave by the
//! clock, whatever became of those before. Latency counts from the moment at
//! which a request was due.
//!
//!     cargo run --release --example open_loop -- PORT RATE MODEL...
//!
//! Sends RATE requests per second to 127.0.0.1:PORT, to the models (values of
//! `seldon-model`) in turn, until standard input ends. Then prints what came of
//! them, and fails if one failed. `tests/rolls_open.sh` uses it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use radiant::demo::models::proto::{InferTensor, InferTensorContents, ModelInferRequest};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// HTTP/2 connections, as a few clients would have.
const CHANNELS: usize = 4;
const JSON: &str =
    r#"{"inputs":[{"name":"input-0","shape":[1,3],"datatype":"FP32","data":[[1,2,3]]}]}"#;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: open_loop PORT RATE MODEL...";
    let port: u16 = arguments.next().context(usage)?.parse().context("PORT")?;
    let rate: u32 = arguments.next().context(usage)?.parse().context("RATE")?;
    let models: Vec<String> = arguments.collect();
    ensure!(rate > 0 && !models.is_empty(), usage);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    let ended = tasks.block_on(&runtime, run(Rc::new(Load::new(port, models)), rate))?;
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Load {
    port: u16,
    models: Vec<String>,
    grpc_body: Bytes,
    idle: RefCell<Vec<http1::SendRequest<Full<Bytes>>>>,
    channels: RefCell<Vec<http2::SendRequest<Full<Bytes>>>>,
    results: RefCell<Results>,
}

#[derive(Default)]
struct Results {
    http: u64,
    grpc: u64,
    /// From the due time, in microseconds.
    latencies: Vec<u64>,
    /// By the route that answered.
    arms: BTreeMap<String, u64>,
    failures: Vec<String>,
}

/// True if nothing failed.
async fn run(load: Rc<Load>, rate: u32) -> anyhow::Result<bool> {
    let (told, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = told.send(());
    });
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for number in 0_u64.. {
        let due = began + Duration::from_secs(1) * u32::try_from(number)? / rate;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            _ = &mut end => break,
        }
        running.spawn_local(Rc::clone(&load).one(number, due));
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    Ok(load.results.borrow_mut().print(began.elapsed()))
}

impl Load {
    fn new(port: u16, models: Vec<String>) -> Self {
        let tensor = InferTensor {
            name: "input-0".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 3],
            contents: Some(InferTensorContents {
                fp32_contents: vec![1.0, 2.0, 3.0],
                ..Default::default()
            }),
            ..Default::default()
        };
        let message = ModelInferRequest {
            model_name: "x".to_owned(),
            inputs: vec![tensor],
            ..Default::default()
        };
        let message = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(&message);
        Self {
            port,
            models,
            grpc_body: frame.into(),
            idle: RefCell::default(),
            channels: RefCell::default(),
            results: RefCell::default(),
        }
    }

    /// Sends a request and takes down what came of it.
    async fn one(self: Rc<Self>, number: u64, due: Instant) {
        let grpc = number % 2 == 1;
        let model = &self.models[(number / 2) as usize % self.models.len()];
        let work =
            async { if grpc { self.grpc(model, number).await } else { self.http(model).await } };
        let ended = tokio::time::timeout(LIMIT, work).await;
        let mut results = self.results.borrow_mut();
        if grpc {
            results.grpc += 1;
        } else {
            results.http += 1;
        }
        let kind = if grpc { "gRPC" } else { "HTTP" };
        match ended {
            Ok(Ok(arm)) => {
                results.latencies.push(due.elapsed().as_micros() as u64);
                *results.arms.entry(format!("{kind} {arm}")).or_default() += 1;
            }
            Ok(Err(e)) => results.failures.push(format!("{kind} {model}: {e:#}")),
            Err(_) => results.failures.push(format!("{kind} {model}: nothing within {LIMIT:?}")),
        }
    }

    async fn connect(&self) -> anyhow::Result<TokioIo<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }

    async fn http(&self, model: &str) -> anyhow::Result<String> {
        let mut connection = loop {
            let idle = self.idle.borrow_mut().pop();
            match idle {
                Some(idle) if idle.is_closed() => {}
                Some(idle) => break idle,
                None => {
                    let (sender, connection) = http1::handshake(self.connect().await?).await?;
                    tokio::task::spawn_local(connection);
                    break sender;
                }
            }
        };
        let request = Request::post("/v2/models/x/infer")
            .header("host", "mesh")
            .header("content-type", "application/json")
            .header("seldon-model", model)
            .body(Full::from(JSON))?;
        connection.ready().await?;
        let reply = connection.send_request(request).await?;
        let (arm, body) = read(reply).await?;
        ensure!(body.to_bytes().starts_with(b"{"), "an odd answer");
        self.idle.borrow_mut().push(connection);
        Ok(arm)
    }

    async fn grpc(&self, model: &str, number: u64) -> anyhow::Result<String> {
        let mut channel = self.channel(number as usize / 2 % CHANNELS).await?;
        let request = Request::post(format!(
            "http://127.0.0.1:{}/inference.GRPCInferenceService/ModelInfer",
            self.port
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("seldon-model", model)
        .body(Full::from(self.grpc_body.clone()))?;
        let reply = channel.send_request(request).await?;
        let in_head = reply.headers().get("grpc-status").cloned();
        let (arm, body) = read(reply).await?;
        let in_trailers = body.trailers().and_then(|t| t.get("grpc-status").cloned());
        match in_head.or(in_trailers) {
            Some(status) if status == "0" => Ok(arm),
            other => bail!("grpc-status {other:?}"),
        }
    }

    /// One of the HTTP/2 connections, anew if it has ended.
    async fn channel(&self, index: usize) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let known = self.channels.borrow().get(index).filter(|c| !c.is_closed()).cloned();
        if let Some(mut known) = known
            && known.ready().await.is_ok()
        {
            return Ok(known);
        }
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .handshake(self.connect().await?)
            .await?;
        tokio::task::spawn_local(connection);
        let mut channels = self.channels.borrow_mut();
        match channels.get_mut(index) {
            Some(place) => *place = sender.clone(),
            None => channels.push(sender.clone()),
        }
        Ok(sender)
    }
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// The arm that answered, and the body with its trailers.
async fn read(
    reply: Response<Incoming>,
) -> anyhow::Result<(String, http_body_util::Collected<Bytes>)> {
    let status = reply.status();
    let arms = reply.headers().get_all("x-seldon-route").iter();
    let arm: String = arms.filter_map(|value| value.to_str().ok()).collect();
    let body = reply.into_body().collect().await?;
    ensure!(status == 200, "status {status}");
    Ok((arm, body))
}

impl Results {
    fn print(&mut self, took: Duration) -> bool {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let place = (self.latencies.len() as f64 * share) as usize;
            let last = self.latencies.len().saturating_sub(1);
            self.latencies.get(place.min(last)).map_or(0.0, |us| *us as f64 / 1000.0)
        };
        for (arm, count) in &self.arms {
            println!("{count:8} {arm}");
        }
        for failure in self.failures.iter().take(20) {
            println!("failed: {failure}");
        }
        println!(
            "{:.0} s, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
            took.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
        );
        let Self { http, grpc, failures, .. } = self;
        println!("requests {} (HTTP {http}, gRPC {grpc}) failed {}", *http + *grpc, failures.len());
        failures.is_empty() && *http > 0 && *grpc > 0
    }
}
