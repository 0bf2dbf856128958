//! The gRPC side of the V2 protocol.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Request, Response};
use prost::Message;
use tokio::sync::mpsc;

use super::ServerKind;
use super::body::Body;
use super::calls::{Called, Elements, called};
use super::proto::{
    InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataResponse,
    ModelReadyResponse, ModelRequest, SERVICE, ServerLiveResponse, ServerMetadataResponse,
    ServerReadyResponse, TensorMetadata,
};
use super::rest::MAX_REQUEST;

/// Messages of a stream that wait for the client.
const MESSAGE_QUEUE: usize = 16;

/// How a call failed (gRPC status codes).
#[derive(Debug)]
enum Failure {
    InvalidArgument(&'static str),
    NotFound(&'static str),
    ResourceExhausted(&'static str),
    Unimplemented(&'static str),
}

impl Failure {
    fn parts(&self) -> (u16, &'static str) {
        match self {
            Self::InvalidArgument(message) => (3, message),
            Self::NotFound(message) => (5, message),
            Self::ResourceExhausted(message) => (8, message),
            Self::Unimplemented(message) => (12, message),
        }
    }
}

pub(crate) async fn serve(
    kind: ServerKind,
    label: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let method = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let Some((SERVICE, method)) = method else {
        return failed(&Failure::Unimplemented("unknown service"));
    };
    if method == "ModelStreamInfer" {
        return stream_infer(kind, label.to_owned(), request.into_body());
    }
    match unary(kind, label, method, request.into_body()).await {
        Ok(message) => answered(Body::WithTrailers(Some(message), Some(status(0, "")))),
        Err(failure) => failed(&failure),
    }
}

async fn unary(
    kind: ServerKind,
    label: &str,
    method: &str,
    body: Incoming,
) -> Result<Bytes, Failure> {
    let mut messages = Messages::new(body);
    let message = messages.next().await?.unwrap_or_default();
    let model = |request: ModelRequest| {
        called(kind, label, &request.name, &request.version).ok_or(NO_PIPELINE)
    };
    Ok(match method {
        "ServerLive" => frame(&ServerLiveResponse { live: true }),
        "ServerReady" => frame(&ServerReadyResponse { ready: true }),
        "ServerMetadata" => frame(&ServerMetadataResponse {
            name: "radiant-demo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: Vec::new(),
        }),
        "ModelReady" => {
            model(decode(message)?)?;
            frame(&ModelReadyResponse { ready: true })
        }
        "ModelMetadata" => frame(&metadata(model(decode(message)?)?)),
        "ModelInfer" => frame(&infer(kind, label, decode(message)?)?),
        _ => return Err(Failure::Unimplemented("unknown method")),
    })
}

const NO_PIPELINE: Failure = Failure::NotFound("not labelled as a pipeline's request");

fn metadata(called: Called) -> ModelMetadataResponse {
    let tensor = |name: &str, shape| TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![shape],
    };
    ModelMetadataResponse {
        name: called.name,
        versions: vec![called.version],
        platform: "demo".to_owned(),
        inputs: vec![tensor("input", -1)],
        outputs: vec![tensor("predict", 1)],
    }
}

fn infer(
    kind: ServerKind,
    label: &str,
    request: ModelInferRequest,
) -> Result<ModelInferResponse, Failure> {
    let called =
        called(kind, label, &request.model_name, &request.model_version).ok_or(NO_PIPELINE)?;
    let outputs = request.inputs.iter().enumerate().map(|(n, input)| {
        let raw = request.raw_input_contents.get(n);
        InferTensor {
            name: "predict".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1],
            contents: Some(InferTensorContents {
                fp32_contents: vec![elements(input, raw).mean()],
                ..InferTensorContents::default()
            }),
            ..InferTensor::default()
        }
    });
    Ok(ModelInferResponse {
        model_name: called.name,
        model_version: called.version,
        outputs: outputs.collect(),
        id: request.id,
        ..ModelInferResponse::default()
    })
}

/// FP32 and FP64 elements, typed or raw.
fn elements(input: &InferTensor, raw: Option<&Bytes>) -> Elements {
    if let Some(raw) = raw {
        let floats = raw.chunks_exact(4).map(|mut bytes| f64::from(bytes.get_f32_le()));
        return Elements::of(floats);
    }
    let Some(contents) = &input.contents else { return Elements::default() };
    let singles = contents.fp32_contents.iter().map(|value| f64::from(*value));
    Elements::of(singles.chain(contents.fp64_contents.iter().copied()))
}

/// Answers each message as it comes, until the client has sent its last.
fn stream_infer(kind: ServerKind, label: String, body: Incoming) -> Response<Body> {
    let (sender, frames) = mpsc::channel(MESSAGE_QUEUE);
    tokio::spawn(async move {
        let mut messages = Messages::new(body);
        let end = loop {
            let answer = match messages.next().await {
                Ok(None) => break status(0, ""),
                Ok(Some(message)) => decode(message).and_then(|m| infer(kind, &label, m)),
                Err(failure) => Err(failure),
            };
            match answer {
                Ok(answer) => {
                    if sender.send(Frame::data(frame(&answer))).await.is_err() {
                        return; // the client left
                    }
                }
                Err(failure) => {
                    let (code, message) = failure.parts();
                    break status(code, message);
                }
            }
        };
        // If the client left, nobody misses the trailers.
        let _ = sender.send(Frame::trailers(end)).await;
    });
    answered(Body::Channel(frames))
}

/// The messages of a request body.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message; none at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None | Some(Err(_)) => {
                    return Err(Failure::InvalidArgument("the request ends in a message"));
                }
            }
        }
    }

    /// A whole message of the buffer (gRPC over HTTP/2:
    /// `Length-Prefixed-Message`).
    fn take(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(mut head) = self.buffer.get(..5) else { return Ok(None) };
        if head.get_u8() != 0 {
            return Err(Failure::Unimplemented("compressed messages"));
        }
        let length = head.get_u32() as usize;
        if length > MAX_REQUEST {
            return Err(Failure::ResourceExhausted("the message is too large"));
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

fn decode<T: Message + Default>(message: Bytes) -> Result<T, Failure> {
    T::decode(message).map_err(|_| Failure::InvalidArgument("the message cannot be read"))
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer grows as it must, so there is always room.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

fn status(code: u16, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(message));
    }
    trailers
}

fn answered(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Trailers only.
fn failed(failure: &Failure) -> Response<Body> {
    let (code, message) = failure.parts();
    let mut response = answered(Body::Full(None));
    response.headers_mut().extend(status(code, message));
    response
}
