//! The REST side of the V2 protocol.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::json;
use tokio::sync::mpsc;

use super::ServerKind;
use super::body::Body;
use super::calls::{Called, Elements, called};

/// Bytes of an inference request that are read; larger ones are refused. Uploads
/// have a path of their own, without limit.
pub(crate) const MAX_REQUEST: usize = 64 << 20;
/// Events of a stream that wait for the client.
const EVENT_QUEUE: usize = 16;
/// Events of a stream, if the request does not say.
const DEFAULT_EVENTS: u64 = 5;
/// Most events of a stream.
const MAX_EVENTS: u64 = 1_000_000;

pub(crate) async fn serve(
    kind: ServerKind,
    label: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let is_post = request.method() == Method::POST;
    let (name, version, verb) = match parts.as_slice() {
        ["v2"] => return json(StatusCode::OK, &server_metadata()),
        ["v2", "health", "live" | "ready"] => return plain(StatusCode::OK, ""),
        ["v2", "models" | "pipelines", name] => (*name, "", ""),
        ["v2", "models" | "pipelines", name, verb] => (*name, "", *verb),
        ["v2", "models", name, "versions", version] => (*name, *version, ""),
        ["v2", "models", name, "versions", version, verb] => (*name, *version, *verb),
        _ => return error(StatusCode::NOT_FOUND, "no such path"),
    };
    let Some(called) = called(kind, label, name, version) else {
        return error(StatusCode::NOT_FOUND, "not labelled as a pipeline's request");
    };
    match verb {
        "" => json(StatusCode::OK, &model_metadata(&called)),
        "ready" => plain(StatusCode::OK, ""),
        "infer" if is_post => infer(&called, request).await,
        "generate_stream" if is_post => generate_stream(&called, request).await,
        "upload" if is_post => upload(request).await,
        "download" => download(&request),
        _ => error(StatusCode::NOT_FOUND, "no such call of a model"),
    }
}

#[derive(serde::Deserialize)]
struct InferRequest<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    inputs: Vec<InferInput>,
}

#[derive(serde::Deserialize)]
struct InferInput {
    data: JsonElements,
}

/// Numbers of a JSON tensor, flat or nested, counted and added up as they are
/// read; anything else among them counts nothing.
struct JsonElements(Elements);

impl<'de> Deserialize<'de> for JsonElements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementsVisitor).map(Self)
    }
}

struct ElementsVisitor;

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the elements of a tensor")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Elements, E> {
        Ok(Elements::of([value]))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Elements, E> {
        Ok(Elements::of([value as f64]))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Elements, E> {
        Ok(Elements::of([value as f64]))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Elements, E> {
        Ok(Elements::of([f64::from(u8::from(value))]))
    }

    fn visit_str<E>(self, _: &str) -> Result<Elements, E> {
        Ok(Elements::default())
    }

    fn visit_unit<E>(self) -> Result<Elements, E> {
        Ok(Elements::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements, A::Error> {
        let mut all = Elements::default();
        while let Some(JsonElements(elements)) = seq.next_element()? {
            all.count += elements.count;
            all.sum += elements.sum;
        }
        Ok(all)
    }
}

async fn infer(called: &Called, request: Request<Incoming>) -> Response<Body> {
    let Some(body) = read(request).await else {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "the request cannot be read whole");
    };
    let parsed: InferRequest<'_> = match serde_json::from_slice(&body) {
        Ok(parsed) => parsed,
        Err(problem) => return error(StatusCode::BAD_REQUEST, &problem.to_string()),
    };
    let outputs: Vec<_> = parsed
        .inputs
        .iter()
        .map(|input| {
            let mean = input.data.0.mean();
            json!({"name": "predict", "shape": [1], "datatype": "FP32", "data": [mean]})
        })
        .collect();
    let Called { name, version } = called;
    let id = parsed.id.as_deref().unwrap_or_default();
    let answer =
        json!({"model_name": name, "model_version": version, "id": id, "outputs": outputs});
    json(StatusCode::OK, &answer)
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct GenerateRequest {
    text_input: String,
    parameters: GenerateParameters,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct GenerateParameters {
    /// Number of events.
    events: Option<u64>,
    /// Milliseconds between events.
    interval_ms: u64,
}

/// One server-sent event after the other: the words of the input, over and over.
async fn generate_stream(called: &Called, request: Request<Incoming>) -> Response<Body> {
    let body = read(request).await.unwrap_or_default();
    let parsed: GenerateRequest = serde_json::from_slice(&body).unwrap_or_default();
    let (sender, frames) = mpsc::channel(EVENT_QUEUE);
    let Called { name, version } = called.clone();
    tokio::spawn(async move {
        let words: Vec<&str> = parsed.text_input.split_whitespace().collect();
        let events = parsed.parameters.events.unwrap_or(DEFAULT_EVENTS).min(MAX_EVENTS);
        for n in 0..events {
            let at = usize::try_from(n).unwrap_or(0) % words.len().max(1);
            let text = words.get(at).copied().unwrap_or("token");
            let event = json!({"model_name": name, "model_version": version, "index": n,
                               "text_output": text});
            let event = Bytes::from(format!("data: {event}\n\n"));
            if sender.send(Frame::data(event)).await.is_err() {
                return; // the client left
            }
            if parsed.parameters.interval_ms > 0 {
                tokio::time::sleep(Duration::from_millis(parsed.parameters.interval_ms)).await;
            }
        }
    });
    with_type(StatusCode::OK, "text/event-stream", Body::Channel(frames))
}

/// Reads a body of any length and says how long it was.
async fn upload(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Err(problem) => return error(StatusCode::BAD_REQUEST, &problem.to_string()),
        }
    }
    json(StatusCode::OK, &json!({"bytes": bytes}))
}

/// `?bytes=N`: a body of N bytes.
fn download(request: &Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let bytes = query.split('&').find_map(|pair| pair.strip_prefix("bytes=")?.parse().ok());
    with_type(StatusCode::OK, "application/octet-stream", Body::Repeat(bytes.unwrap_or(0)))
}

async fn read(request: Request<Incoming>) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    body.ok().map(http_body_util::Collected::to_bytes)
}

fn server_metadata() -> serde_json::Value {
    json!({"name": "radiant-demo", "version": env!("CARGO_PKG_VERSION"), "extensions": []})
}

fn model_metadata(called: &Called) -> serde_json::Value {
    json!({
        "name": called.name,
        "versions": [called.version],
        "platform": "demo",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "predict", "datatype": "FP32", "shape": [1]}],
    })
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &json!({"error": message}))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    with_type(status, "application/json", Body::full(value.to_string()))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    with_type(status, "text/plain", Body::full(text))
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
