//! HTTP/2 on either side, gRPC, and streams that go on.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::sync::mpsc;

use crate::support::{H2Client, H2Stream, H2Upstream, Upstream, World, eventually, within};

const INFER: &str = "/v2/models/iris/infer";

/// Answers with the request's body and a trailer, message by message.
async fn echo(mut stream: H2Stream) {
    let response = Response::builder().header("content-type", "application/grpc").body(());
    let mut send = stream.reply(response.unwrap());
    while let Some(Ok(data)) = stream.body.data().await {
        let _ = stream.body.flow_control().release_capacity(data.len());
        let _ = send.send_data(data, false);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    if let Some(id) = stream.head.headers.get("x-id") {
        trailers.insert("x-id", id.clone());
    }
    let _ = send.send_trailers(trailers);
}

#[tokio::test]
async fn an_http2_client_reaches_an_http1_upstream() {
    within(async {
        let upstream = Upstream::new(|peer| {
            while peer.request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nX-Up: 1\r\ntransfer-encoding: chunked\r\n\r\n");
                peer.send("2\r\nok\r\n0\r\n\r\n");
            }
        });
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        let request = Request::post(format!("http://Host.example{INFER}"))
            .header("cookie", "a=1")
            .header("x-a", "1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let (response, body, trailers) = client.call(request, b"abc").await.unwrap();
        assert_eq!((response.status(), &body[..], trailers), (StatusCode::OK, &b"ok"[..], None));
        let headers = response.headers();
        assert_eq!(headers["x-up"], "1");
        assert_eq!(headers["x-seldon-route"], ":iris_1:");
        assert_eq!(headers["server"], "envoy");
        assert!(!headers.contains_key("transfer-encoding"));
        assert_eq!(
            upstream.requests(),
            ["POST /v2/models/iris/infer HTTP/1.1\r\nhost: Host.example\r\nx-a: 1\r\ncookie: a=1; b=2\r\n\
              x-forwarded-proto: http\r\nseldon-model: iris\r\nseldon-internal-model: iris_1\r\n\
              transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
        );
        let (response, body, _) =
            client.call(H2Client::get("/v2/models/none/infer"), b"").await.unwrap();
        assert_eq!((response.status(), body.len()), (StatusCode::NOT_FOUND, 0));
        assert!(!response.headers().contains_key("content-length"));
    })
    .await;
}

#[tokio::test]
async fn an_http1_client_reaches_an_http2_upstream() {
    within(async {
        let (heads, mut seen) = mpsc::unbounded_channel();
        let upstream = H2Upstream::new(move |mut stream| {
            let heads = heads.clone();
            async move {
                let (body, _) = stream.read().await;
                heads.send((stream.head.clone(), body)).unwrap();
                let mut send = stream.reply(Response::builder().status(200).body(()).unwrap());
                send.send_data("pong".into(), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                send.send_trailers(trailers).unwrap();
            }
        });
        let world = World::of("iris", upstream.addr).start();
        let addr = world.addr();
        let answer = tokio::task::spawn_blocking(move || {
            crate::support::Client::connect(addr).post(
                "/inference.GRPCInferenceService/ModelInfer",
                "seldon-model: iris\r\n",
                b"ping",
            )
        });
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "pong"));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        let (head, body) = seen.recv().await.unwrap();
        assert_eq!(body, b"ping");
        assert_eq!(head.uri, "http://h/inference.GRPCInferenceService/ModelInfer");
        assert_eq!(head.headers["seldon-internal-model"], "iris_1");
        assert!(!head.headers.contains_key("host"));
    })
    .await;
}

#[tokio::test]
async fn a_unary_grpc_call_keeps_its_trailers() {
    within(async {
        let upstream = H2Upstream::new(echo);
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        for size in [1, 70_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            // More than a window: sending and receiving go on at once.
            let (response, mut send) = client.open(H2Client::grpc("iris"), false).await;
            let sender = tokio::spawn({
                let body = Bytes::from(body.clone());
                async move { send_all(&mut send, body, true).await }
            });
            let (parts, mut stream) = response.await.unwrap().into_parts();
            assert_eq!(parts.headers["x-seldon-route"], ":iris_1:");
            let (answer, trailers) = crate::support::read(&mut stream).await.unwrap();
            sender.await.unwrap();
            assert!(answer == body, "{size} bytes");
            assert_eq!(trailers.unwrap()["grpc-status"], "0");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

/// Sends as the window allows.
async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        send.reserve_capacity(data.len().min(64 * 1024));
        let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else { return };
        let piece = data.split_to(room.min(data.len()));
        let last = end && data.is_empty();
        if send.send_data(piece, last).is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_grpc_failure_is_a_reply_in_grpc_form() {
    within(async {
        let world = World::of("iris", Upstream::refusing()).fast_retries().start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, body, trailers) = client.call(H2Client::grpc("iris"), b"x").await.unwrap();
        assert_eq!((response.status(), body.len(), trailers), (StatusCode::OK, 0, None));
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["x-seldon-route"], ":iris_1:");
        let message = response.headers()["grpc-message"].to_str().unwrap();
        assert!(message.ends_with("reset reason: remote connection failure"), "{message}");
        let (response, ..) = client.call(H2Client::grpc("none"), b"x").await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12");
    })
    .await;
}

#[tokio::test]
async fn messages_alternate_on_a_bidirectional_stream() {
    within(async {
        let upstream = H2Upstream::new(echo);
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, mut send) = client.open(H2Client::grpc("iris"), false).await;
        let mut stream = response.await.unwrap().into_body();
        for n in 0..500 {
            let message = format!("message {n}");
            send.send_data(message.clone().into(), false).unwrap();
            let mut got = Vec::new();
            while got.len() < message.len() {
                let data = stream.data().await.unwrap().unwrap();
                stream.flow_control().release_capacity(data.len()).unwrap();
                got.extend_from_slice(&data);
            }
            assert_eq!(got, message.as_bytes());
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-client", "done".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        assert!(stream.data().await.is_none());
        assert_eq!(stream.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    })
    .await;
}

#[tokio::test]
async fn an_interim_answer_is_counted_and_ends_retries() {
    within(async {
        let upstream = H2Upstream::new(|mut stream| async move {
            let interim = Response::builder().status(103).body(()).unwrap();
            stream.respond.send_informational(interim).unwrap();
            let refusal = Response::builder().status(503).body(()).unwrap();
            stream.respond.send_response(refusal, true).unwrap();
        });
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, ..) = client.call(H2Client::grpc("iris"), b"x").await.unwrap();
        assert_eq!(response.status(), 503);
        eventually("the answer is counted", || {
            world.cluster("iris_1_grpc", |stats| stats.external.completed() == 2)
        });
        let seen = world.cluster("iris_1_grpc", |stats| {
            let codes: Vec<_> = stats.external.codes.each().collect();
            (codes, stats.upstream_rq_total.value())
        });
        assert_eq!(seen, (vec![(103, 1), (503, 1)], 1));
    })
    .await;
}

#[tokio::test]
async fn a_204_has_no_length() {
    within(async {
        let upstream = H2Upstream::new(|mut stream| async move {
            let length = stream.head.headers["x-length"].clone();
            let answer = Response::builder().status(204).header("content-length", length);
            stream.respond.send_response(answer.body(()).unwrap(), true).unwrap();
        });
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        for (length, status) in [("0", 204), ("5", 200)] {
            let mut request = H2Client::grpc("iris");
            request.headers_mut().insert("x-length", length.parse().unwrap());
            let (response, ..) = client.call(request, b"x").await.unwrap();
            assert_eq!(response.status(), status, "{length}");
            assert!(!response.headers().contains_key("content-length"));
            let refused = response.headers().get("grpc-status").is_some_and(|v| v == "14");
            assert_eq!(refused, length != "0");
        }
    })
    .await;
}

#[tokio::test]
async fn request_trailers_reach_the_upstream() {
    within(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let upstream = H2Upstream::new(move |mut stream| {
            let tell = tell.clone();
            async move {
                tell.send(stream.read().await).unwrap();
                stream.respond.send_response(Response::new(()), true).unwrap();
            }
        });
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, mut send) = client.open(H2Client::grpc("iris"), false).await;
        send.send_data("abc".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-client", "done".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        let (body, trailers) = told.recv().await.unwrap();
        assert_eq!(body, b"abc");
        assert_eq!(trailers.unwrap()["x-client"], "done");
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    within(async {
        let upstream = H2Upstream::new(echo);
        let world = World::of("iris", upstream.addr).start();
        // A client's `h2` puts up with many small frames at once only if its
        // window is large.
        let mut settings = h2::client::Builder::new();
        settings.initial_connection_window_size(16 * 1024 * 1024);
        let client = H2Client::with(world.addr(), &settings).await;
        let calls = (0..300).map(|n| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let mut request = H2Client::grpc("iris");
                request.headers_mut().insert("x-id", n.into());
                let body = format!("body {n}");
                let (_, got, trailers) = client.call(request, body.as_bytes()).await.unwrap();
                assert_eq!(got, body.as_bytes());
                assert_eq!(trailers.unwrap()["x-id"], n.to_string());
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn more_streams_than_the_upstream_allows_take_more_connections() {
    within(async {
        let mut settings = h2::server::Builder::new();
        settings.max_concurrent_streams(3);
        let upstream = H2Upstream::with(settings, echo);
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        client.call(H2Client::grpc("iris"), b"first, so that the limit is known").await.unwrap();
        let mut open = Vec::new();
        for _ in 0..7 {
            let (response, send) = client.open(H2Client::grpc("iris"), false).await;
            open.push((response.await.unwrap(), send));
        }
        assert_eq!(upstream.accepted(), 3);
    })
    .await;
}

#[test]
fn events_arrive_before_the_next_is_made() {
    let (ask, asked) = std::sync::mpsc::channel::<u32>();
    let asked = std::sync::Mutex::new(asked);
    let upstream = Upstream::new(move |peer| {
        peer.request();
        peer.send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
             transfer-encoding: chunked\r\n\r\n",
        );
        while let Ok(n) = asked.lock().unwrap().recv() {
            let event = format!("data: {n}\n\n");
            peer.send(format!("{:x}\r\n{event}\r\n", event.len()));
        }
        peer.send("0\r\n\r\n");
        peer.closed();
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    assert!(client.head().unwrap()[0].ends_with("200 OK"));
    for n in 0..100 {
        ask.send(n).unwrap();
        assert_eq!(client.chunk().unwrap(), format!("data: {n}\n\n").as_bytes());
    }
    drop(ask);
    assert_eq!(client.chunk().unwrap(), b"");
}

#[tokio::test]
async fn a_reset_of_the_upstream_reaches_the_client() {
    within(async {
        let upstream = H2Upstream::new(|mut stream: H2Stream| async move {
            if stream.head.headers["seldon-model"] == "early" {
                stream.respond.send_reset(Reason::INTERNAL_ERROR);
                return;
            }
            let mut send = stream.reply(Response::new(()));
            send.send_data("part".into(), false).unwrap();
            // The rest once the proxy has that.
            stream.body.data().await;
            send.send_reset(Reason::ENHANCE_YOUR_CALM);
        });
        let world = World::of("late", upstream.addr)
            .model("early", &[upstream.addr])
            .actions(|action| action.retry_policy = None)
            .start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, mut send) = client.open(H2Client::grpc("late"), false).await;
        let mut stream = response.await.unwrap().into_body();
        assert_eq!(stream.data().await.unwrap().unwrap(), "part");
        send.send_data("go on".into(), false).unwrap();
        let error = stream.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        let (response, ..) = client.call(H2Client::grpc("early"), b"x").await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
        let message = response.headers()["grpc-message"].to_str().unwrap();
        assert!(message.ends_with("reset reason: remote reset"), "{message}");
        for cluster in ["late_1_grpc", "early_1_grpc"] {
            let resets = world.cluster(cluster, |stats| stats.upstream_rq_rx_reset.value());
            assert_eq!(resets, 1, "{cluster}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_upstream() {
    within(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let upstream = H2Upstream::new(move |mut stream: H2Stream| {
            let tell = tell.clone();
            async move {
                let send = if stream.head.headers["seldon-model"] == "answering" {
                    let mut send = stream.reply(Response::new(()));
                    send.send_data("part".into(), false).unwrap();
                    Some(send)
                } else {
                    None
                };
                tell.send(None).unwrap();
                let reason = match send {
                    Some(mut send) => std::future::poll_fn(|cx| send.poll_reset(cx)).await,
                    None => std::future::poll_fn(|cx| stream.respond.poll_reset(cx)).await,
                };
                tell.send(Some(reason.unwrap())).unwrap();
            }
        });
        let world =
            World::of("answering", upstream.addr).model("waiting", &[upstream.addr]).start();
        let mut client = H2Client::connect(world.addr()).await;
        for (model, ended) in
            [("answering", false), ("answering", true), ("waiting", false), ("waiting", true)]
        {
            let (response, mut send) = client.open(H2Client::grpc(model), ended).await;
            assert_eq!(told.recv().await.unwrap(), None, "the upstream has it");
            if model == "answering" {
                let mut stream = response.await.unwrap().into_body();
                stream.data().await.unwrap().unwrap();
                send.send_reset(Reason::CANCEL);
            } else {
                send.send_reset(Reason::CANCEL);
            }
            assert_eq!(told.recv().await.unwrap(), Some(Reason::CANCEL), "{model}, {ended}");
        }
        for cluster in ["answering_1_grpc", "waiting_1_grpc"] {
            let resets = world.cluster(cluster, |stats| stats.upstream_rq_tx_reset.value());
            assert_eq!(resets, 2, "{cluster}");
        }
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_says_goodbye_is_not_asked_again() {
    within(async {
        let (release, released) = tokio::sync::watch::channel(false);
        let upstream = H2Upstream::new(move |mut stream: H2Stream| {
            let mut released = released.clone();
            async move {
                let first = stream.connection == 0;
                let mut send = stream.reply(Response::new(()));
                if first {
                    stream.goaway();
                    let _ = released.wait_for(|done| *done).await;
                }
                send.send_data(format!("{}", stream.connection).into(), true).unwrap();
            }
        });
        let world =
            World::of("iris", upstream.addr).actions(|action| action.retry_policy = None).start();
        let mut client = H2Client::connect(world.addr()).await;
        let (first, _send) = client.open(H2Client::grpc("iris"), true).await;
        let mut first = first.await.unwrap().into_body();
        // The GOAWAY is on its way: at some moment the proxy changes over, and
        // no request is lost on the way there.
        loop {
            let (response, body, _) = tokio::select! {
                answer = client.call(H2Client::grpc("iris"), b"") => answer.unwrap(),
                () = tokio::time::sleep(Duration::from_secs(5)) => panic!("no answer"),
            };
            assert_eq!(response.status(), 200);
            assert!(response.headers().get("grpc-status").is_none(), "{response:?}");
            if body == b"1" {
                break;
            }
        }
        release.send(true).unwrap();
        assert_eq!(first.data().await.unwrap().unwrap(), "0", "the stream before goes on");
        assert_eq!(upstream.accepted(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_refused_stream_is_retried() {
    within(async {
        let upstream = H2Upstream::new(|mut stream: H2Stream| async move {
            use std::sync::atomic::{AtomicBool, Ordering};
            static REFUSED: AtomicBool = AtomicBool::new(false);
            if !REFUSED.swap(true, Ordering::SeqCst) {
                return stream.respond.send_reset(Reason::REFUSED_STREAM);
            }
            echo(stream).await;
        });
        let world = World::of("iris", upstream.addr).fast_retries().start();
        let mut client = H2Client::connect(world.addr()).await;
        let (_, body, trailers) = client.call(H2Client::grpc("iris"), b"again").await.unwrap();
        assert_eq!(body, b"again");
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    })
    .await;
}

#[test]
fn an_http1_client_that_leaves_resets_the_upstream_stream() {
    let (tell, told) = std::sync::mpsc::channel();
    let upstream = H2Upstream::new(move |mut stream: H2Stream| {
        let tell = tell.clone();
        async move {
            tell.send(None).unwrap();
            let reason = std::future::poll_fn(|cx| stream.respond.poll_reset(cx)).await;
            tell.send(Some(reason.unwrap())).unwrap();
        }
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(
        "GET /inference.GRPCInferenceService/x HTTP/1.1\r\nhost: h\r\nseldon-model: iris\r\n\r\n",
    );
    assert_eq!(told.recv().unwrap(), None);
    drop(client);
    assert_eq!(told.recv().unwrap(), Some(Reason::CANCEL));
    eventually("it is counted", || {
        world.cluster("iris_1_grpc", |stats| stats.upstream_rq_tx_reset.value() == 1)
    });
}

#[test]
fn an_answer_of_headers_alone_says_so_to_an_http1_client() {
    let upstream = H2Upstream::new(|mut stream: H2Stream| async move {
        let status = stream.head.headers["x-status"].to_str().unwrap().parse().unwrap();
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        stream.respond.send_response(response, true).unwrap();
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    for (status, length) in [(200, Some("0")), (204, None), (404, Some("0"))] {
        let fields = format!("seldon-model: iris\r\nx-status: {status}\r\n");
        let answer = client.post("/inference.GRPCInferenceService/x", &fields, b"");
        assert_eq!((answer.status, answer.header("content-length")), (status, length));
        assert_eq!(answer.header("transfer-encoding"), None);
    }
}

#[tokio::test]
async fn an_upstream_that_was_restarted_is_connected_to_again() {
    within(async {
        let upstream = H2Upstream::new(echo);
        let addr = upstream.addr;
        let world = World::of("iris", addr).actions(|action| action.retry_policy = None).start();
        let mut client = H2Client::connect(world.addr()).await;
        client.call(H2Client::grpc("iris"), b"x").await.unwrap();
        drop(upstream);
        eventually("the connection is gone", || {
            world.cluster("iris_1_grpc", |stats| stats.upstream_cx_destroy.value() == 1)
        });
        let (response, ..) = client.call(H2Client::grpc("iris"), b"x").await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
        let upstream = H2Upstream::at(addr, echo);
        let (_, body, trailers) = client.call(H2Client::grpc("iris"), b"x").await.unwrap();
        assert_eq!(
            (&body[..], &trailers.unwrap()["grpc-status"]),
            (&b"x"[..], &"0".parse::<http::HeaderValue>().unwrap())
        );
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}
