//! The operator's side of the embedded scheduler: a small HTTP API.
//!
//! | request | effect |
//! |---|---|
//! | `GET /state` | what is loaded, who is connected, what was refused |
//! | `POST /models/NAME` | loads a model, or rolls it to its next version |
//! | `DELETE /models/NAME` | removes it |
//! | `POST /experiments/NAME` | starts an experiment or changes it; what the body leaves out stays as it was |
//! | `DELETE /experiments/NAME` | ends it |
//! | `POST /pipelines/NAME`, `DELETE /pipelines/NAME` | the same for pipelines |
//!
//! A change is answered when the connected proxies have acknowledged it, with
//! `"applied": true`; if there is none, if one refuses, or if it takes longer
//! than [`APPLY_LIMIT`], with `"applied": false`.

use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Backends;
use super::scheduler::{ModelSpec, Operation, SchedulerHandle};
use crate::seldon::{Backend, Experiment, ExperimentKind, Pipeline};

/// How long an answer waits for the proxies.
pub const APPLY_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a request; far more than an experiment of thousands of arms takes.
const MAX_REQUEST: usize = 4 << 20;

#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(message: &impl ToString) -> Self {
        Self(StatusCode::BAD_REQUEST, message.to_string())
    }

    fn not_found(message: &impl ToString) -> Self {
        Self(StatusCode::NOT_FOUND, message.to_string())
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModelBody {
    backends: Option<Vec<BackendBody>>,
    replicas: Option<usize>,
    log_payloads: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendBody {
    host: String,
    http_port: u16,
    grpc_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExperimentBody {
    candidates: Option<Map<String, Value>>,
    default: Option<String>,
    mirror: Option<Map<String, Value>>,
    #[serde(rename = "type")]
    kind: Option<KindBody>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindBody {
    Model,
    Pipeline,
}

/// Answers on a bound, non-blocking socket until the scheduler ends.
pub(crate) async fn serve(listener: TcpListener, scheduler: SchedulerHandle, backends: Backends) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the demo's control port cannot be used");
            return;
        }
    };
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "the demo's control port cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (scheduler, backends) = (scheduler.clone(), backends.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (scheduler, backends) = (scheduler.clone(), backends.clone());
                async move { Ok::<_, Infallible>(answer(&scheduler, &backends, request).await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            // Clients that go away in the middle are nothing to report.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(
    scheduler: &SchedulerHandle,
    backends: &Backends,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (status, value) = match act(scheduler, backends, request).await {
        Ok(value) => (StatusCode::OK, value),
        Err(Refusal(status, message)) => (status, json!({"error": message})),
    };
    let mut response = Response::new(Full::from(format!("{value:#}\n")));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

async fn act(
    scheduler: &SchedulerHandle,
    backends: &Backends,
    request: Request<Incoming>,
) -> Result<Value, Refusal> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let body = body.map_err(|e| Refusal::bad(&e))?.to_bytes();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let operation = match (&method, parts.as_slice()) {
        (&Method::GET, ["state"]) => return Ok(state(scheduler)),
        (&Method::POST, [kind, name]) if !name.is_empty() => match *kind {
            "models" => load(scheduler, backends, name, &body)?,
            "experiments" => experiment(scheduler, name, &body)?,
            "pipelines" => Operation::StartPipeline(Pipeline {
                name: (*name).to_owned(),
                gateways: backends.gateways.clone(),
            }),
            _ => return Err(Refusal::not_found(&path)),
        },
        (&Method::DELETE, [kind, name]) => remove(scheduler, kind, name)?,
        _ => return Err(Refusal::not_found(&format!("{method} {path}"))),
    };
    scheduler.apply(operation);
    let settled = scheduler.settled(APPLY_LIMIT).await;
    let refused = scheduler.refused();
    let applied = settled && refused.is_empty();
    Ok(json!({"applied": applied, "proxies": scheduler.streams(), "refused": refused}))
}

fn parse<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.is_empty() {
        Ok(T::default())
    } else {
        serde_json::from_slice(body).map_err(|e| Refusal::bad(&e))
    }
}

fn load(
    scheduler: &SchedulerHandle,
    servers: &Backends,
    name: &str,
    body: &[u8],
) -> Result<Operation, Refusal> {
    let body: ModelBody = parse(body)?;
    let known = scheduler.with_state(|state| state.model(name).map(|(m, _)| m.latest.clone()));
    let log_payloads = body.log_payloads.or(known.as_ref().map(|m| m.log_payloads));
    let backends = match (body.backends, body.replicas, known) {
        (Some(given), ..) => {
            given.into_iter().map(|b| Backend::new(b.host, b.http_port, b.grpc_port)).collect()
        }
        (None, Some(replicas), _) => servers.place(name, replicas),
        (None, None, Some(known)) => known.backends,
        (None, None, None) => servers.place(name, 1),
    };
    let log_payloads = log_payloads.unwrap_or(false);
    Ok(Operation::LoadModel(ModelSpec { name: name.to_owned(), backends, log_payloads }))
}

/// The experiment as it was, with what the body says changed.
fn experiment(scheduler: &SchedulerHandle, name: &str, body: &[u8]) -> Result<Operation, Refusal> {
    let body: ExperimentBody = parse(body)?;
    let known =
        scheduler.with_state(|state| state.experiments().iter().find(|e| e.name == name).cloned());
    let mut experiment =
        known.unwrap_or_else(|| Experiment { name: name.to_owned(), ..Experiment::default() });
    if let Some(kind) = body.kind {
        experiment.kind = match kind {
            KindBody::Model => ExperimentKind::Model,
            KindBody::Pipeline => ExperimentKind::Pipeline,
        };
    }
    if let Some(candidates) = body.candidates {
        experiment.candidates = weights(candidates)?;
    }
    if body.default.is_some() {
        experiment.default = body.default;
    }
    if let Some(mirror) = body.mirror {
        experiment.mirror = weights(mirror)?.pop();
    }
    check(scheduler, &experiment)?;
    Ok(Operation::StartExperiment(experiment))
}

fn weights(weights: Map<String, Value>) -> Result<Vec<(String, u32)>, Refusal> {
    let weight = |(name, weight): (String, Value)| {
        let number = weight.as_u64().and_then(|w| u32::try_from(w).ok());
        match number {
            Some(number) => Ok((name, number)),
            None => Err(Refusal::bad(&format!("{name}: {weight} is no weight"))),
        }
    };
    weights.into_iter().map(weight).collect()
}

/// Names must be known: a typing error is not to empty a route. Weights may be
/// anything, 0 in all arms included, as with the real scheduler.
fn check(scheduler: &SchedulerHandle, experiment: &Experiment) -> Result<(), Refusal> {
    let Experiment { kind, candidates, default, mirror, .. } = experiment;
    if candidates.is_empty() {
        return Err(Refusal::bad(&"candidates: at least one is needed"));
    }
    if let Some(default) = default
        && !candidates.iter().any(|(name, _)| name == default)
    {
        return Err(Refusal::bad(&format!("default: {default} is not a candidate")));
    }
    scheduler.with_state(|state| {
        let others = || state.experiments().iter().filter(|e| e.name != experiment.name);
        if default.is_some()
            && let Some(other) = others().find(|e| e.kind == *kind && e.default == *default)
        {
            return Err(Refusal::bad(&format!("default: taken by experiment {}", other.name)));
        }
        for (name, _) in candidates.iter().chain(mirror) {
            let known = match kind {
                ExperimentKind::Model => state.model(name).is_some(),
                ExperimentKind::Pipeline => state.pipelines().any(|p| p.name == *name),
            };
            if !known {
                return Err(Refusal::bad(&format!("{name} is not loaded")));
            }
        }
        Ok(())
    })
}

fn remove(scheduler: &SchedulerHandle, kind: &str, name: &str) -> Result<Operation, Refusal> {
    let (known, operation) = scheduler.with_state(|state| match kind {
        "models" => (state.model(name).is_some(), Operation::UnloadModel(name.to_owned())),
        "experiments" => (
            state.experiments().iter().any(|e| e.name == name),
            Operation::StopExperiment(name.to_owned()),
        ),
        "pipelines" => {
            (state.pipelines().any(|p| p.name == name), Operation::StopPipeline(name.to_owned()))
        }
        _ => (false, Operation::UnloadModel(name.to_owned())),
    });
    if known { Ok(operation) } else { Err(Refusal::not_found(&format!("{kind}: no {name}"))) }
}

fn state(scheduler: &SchedulerHandle) -> Value {
    let weighted = |arms: &[(String, u32)]| -> Map<String, Value> {
        arms.iter().map(|(name, weight)| (name.clone(), json!(weight))).collect()
    };
    let loaded = scheduler.with_state(|state| {
        let models: Map<String, Value> = state
            .models()
            .map(|(model, version)| {
                let replicas = model.latest.backends.len();
                (model.latest.name.clone(), json!({"version": version, "replicas": replicas}))
            })
            .collect();
        let experiments: Map<String, Value> = state
            .experiments()
            .iter()
            .map(|e| {
                let kind = match e.kind {
                    ExperimentKind::Model => "model",
                    ExperimentKind::Pipeline => "pipeline",
                };
                let mirror = weighted(e.mirror.as_slice());
                let value = json!({"type": kind, "default": e.default,
                                   "candidates": weighted(&e.candidates), "mirror": mirror});
                (e.name.clone(), value)
            })
            .collect();
        let pipelines: Vec<&String> = state.pipelines().map(|p| &p.name).collect();
        json!({"models": models, "experiments": experiments, "pipelines": pipelines})
    });
    let mut value = loaded;
    value["proxies"] = json!(scheduler.streams());
    let refused = scheduler.refused();
    value["applied"] = json!(scheduler.is_settled() && refused.is_empty());
    value["refused"] = json!(refused);
    value["nacks"] = json!(scheduler.nacks());
    value
}
