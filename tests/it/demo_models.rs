//! The model servers, called as a proxy calls them: HTTP/1.1 and gRPC over h2c.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use radiant::demo::models::proto::{
    InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse, ServerReadyResponse,
};
use radiant::demo::models::{ModelServers, ServerKind, ServerOptions};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

fn start(kind: ServerKind) -> (ModelServers, SocketAddr) {
    let servers = ModelServers::start(&[ServerOptions::new("one", kind)]).unwrap();
    let addr = servers.addrs()[0];
    (servers, addr)
}

async fn rest(addr: SocketAddr, request: Request<Full<Bytes>>) -> (Response<()>, Bytes) {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    (Response::from_parts(head, ()), body.collect().await.unwrap().to_bytes())
}

fn post(path: &str, body: &str) -> hyper::http::request::Builder {
    let length = body.len();
    Request::post(path).header("host", "mesh").header("content-length", length)
}

#[tokio::test]
async fn rest_inference_names_the_labelled_version_and_echoes_what_came() {
    let (servers, addr) = start(ServerKind::Models);
    let body = r#"{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1.0,2],[3,6]]}]}"#;
    let request = post("/v2/models/e.experiment/infer", body)
        .header("seldon-internal-model", "iris_3")
        .header("seldon-internal-model", "forged_1")
        .header("seldon-model", "e.experiment")
        .header("seldon-model", "iris");
    let (head, body) = rest(addr, request.body(Full::from(body.to_owned())).unwrap()).await;
    assert_eq!(head.status(), StatusCode::OK);
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["model_name"], "iris");
    assert_eq!(answer["model_version"], "3");
    assert_eq!(answer["id"], "7");
    assert_eq!(answer["outputs"][0]["data"][0], 3.0);
    assert_eq!(head.headers()["x-echo-server"], "one");
    assert_eq!(head.headers()["x-echo-internal-model"], "iris_3");
    assert_eq!(head.headers()["x-echo-model"], "e.experiment,iris");
    assert_eq!(head.headers()["x-echo-path"], "/v2/models/e.experiment/infer");
    assert_eq!(servers.counts()["iris_3"], 1);
}

#[tokio::test]
async fn rest_answers_the_other_calls() {
    let (_servers, addr) = start(ServerKind::Models);
    let get = |path: &str| {
        let request = Request::get(path).header("host", "mesh");
        rest(addr, request.body(Full::default()).unwrap())
    };
    for (path, status) in [
        ("/v2/health/ready", 200),
        ("/v2/models/iris/ready", 200),
        ("/v2/models/iris", 200),
        ("/v2/models/iris/versions/2", 200),
        ("/v2/models/iris/nonsense", 404),
        ("/", 404),
    ] {
        assert_eq!(get(path).await.0.status(), status, "{path}");
    }
    assert_eq!(get("/v2/models/iris/download?bytes=200000").await.1.len(), 200_000);
    let bad = post("/v2/models/iris/infer", "{").body(Full::from("{")).unwrap();
    assert_eq!(rest(addr, bad).await.0.status(), 400);
    let forced = Request::get("/v2").header("host", "mesh").header("x-demo-status", "503");
    assert_eq!(rest(addr, forced.body(Full::default()).unwrap()).await.0.status(), 503);
    let ask = r#"{"text_input":"a b","parameters":{"events":3}}"#;
    let stream = post("/v2/models/iris/generate_stream", ask).body(Full::from(ask)).unwrap();
    let (head, events) = rest(addr, stream).await;
    assert_eq!(head.headers()["content-type"], "text/event-stream");
    assert_eq!(events.split(|b| *b == b'\n').filter(|l| l.starts_with(b"data: ")).count(), 3);
}

#[tokio::test]
async fn a_gateway_answers_for_pipelines_only() {
    let (_servers, addr) = start(ServerKind::PipelineGateway);
    let body = r#"{"inputs":[]}"#;
    let call = |label: &str| {
        let request = post("/v2/pipelines/p/infer", body).header("seldon-internal-model", label);
        rest(addr, request.body(Full::from(body)).unwrap())
    };
    assert_eq!(call("p.pipeline").await.0.status(), 200);
    assert_eq!(call("p_1").await.0.status(), 404);
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn unframed<T: Message + Default>(mut frame: Bytes) -> T {
    assert_eq!(frame.get_u8(), 0);
    assert_eq!(frame.get_u32() as usize, frame.len());
    T::decode(frame).unwrap()
}

fn question(id: &str, data: Vec<f32>) -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: data, ..InferTensorContents::default() };
    ModelInferRequest {
        model_name: "iris".to_owned(),
        id: id.to_owned(),
        inputs: vec![InferTensor { contents: Some(contents), ..InferTensor::default() }],
        ..ModelInferRequest::default()
    }
}

fn answer(response: &ModelInferResponse) -> f32 {
    response.outputs[0].contents.as_ref().unwrap().fp32_contents[0]
}

fn grpc<B>(method: &str, body: B) -> Request<B> {
    let uri = format!("http://mesh/inference.GRPCInferenceService/{method}");
    let request = Request::post(uri).header("content-type", "application/grpc");
    request.header("seldon-internal-model", "iris_3").body(body).unwrap()
}

#[tokio::test]
async fn grpc_unary_calls_end_in_trailers() {
    let (_servers, addr) = start(ServerKind::Models);
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let infer =
        grpc("ModelInfer", Full::<Bytes>::from(framed(&question("q", vec![1.0, 2.0, 6.0]))));
    let response = sender.send_request(infer).await.unwrap();
    assert_eq!(response.headers()["x-echo-internal-model"], "iris_3");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    let said: ModelInferResponse = unframed(body.to_bytes());
    assert_eq!((said.model_name.as_str(), said.model_version.as_str()), ("iris", "3"));
    assert_eq!((said.id.as_str(), answer(&said)), ("q", 3.0));

    let ready =
        sender.send_request(grpc("ServerReady", Full::<Bytes>::from(framed(&())))).await.unwrap();
    let ready = ready.into_body().collect().await.unwrap().to_bytes();
    assert!(unframed::<ServerReadyResponse>(ready).ready);

    let unknown = sender.send_request(grpc("Nonsense", Full::default())).await.unwrap();
    assert_eq!(unknown.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn a_grpc_stream_answers_each_message_before_the_next_is_sent() {
    let (_servers, addr) = start(ServerKind::Models);
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let (questions, body) = mpsc::unbounded_channel();
    let body = UnboundedReceiverStream::new(body);
    let body = StreamBody::new(body.map(|data: Bytes| Ok::<_, Infallible>(Frame::data(data))));
    questions.send(framed(&question("0", vec![0.0]))).unwrap();
    let response = sender.send_request(grpc("ModelStreamInfer", body)).await.unwrap();
    let mut answers = response.into_body();
    for n in 0_u8..20 {
        let frame = answers.frame().await.unwrap().unwrap().into_data().unwrap();
        let said: ModelInferResponse = unframed(frame);
        assert_eq!((said.id.clone(), answer(&said)), (n.to_string(), f32::from(n)));
        let next = question(&(n + 1).to_string(), vec![f32::from(n + 1)]);
        questions.send(framed(&next)).unwrap();
    }
    drop(questions);
    let rest = answers.collect().await.unwrap();
    assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_body_less_probe_is_answered_over_http2() {
    let (_servers, addr) = start(ServerKind::Models);
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let probe = Request::get("http://mesh/v2/health/live").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(probe).await.unwrap().status(), 200);
}
