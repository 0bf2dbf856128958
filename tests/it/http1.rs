//! The data path over HTTP/1.1, byte by byte.

use std::sync::mpsc;

use crate::support::{Upstream, World, eventually};

#[test]
fn the_upstream_sees_these_bytes() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    let answer = world
        .client()
        .send(
            "POST /v2/models/iris/infer?x=%41 HTTP/1.1\r\nX-A: 1\r\nHost: Example.org\r\n\
             Seldon-Internal-Model: forged\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
             X-A: 2\r\nContent-Length: 3\r\nX-Envoy-Max-Retries: 9\r\n\r\nabc",
        )
        .answer();
    assert_eq!(answer.status, 200);
    assert_eq!(
        upstream.requests(),
        ["POST /v2/models/iris/infer?x=%41 HTTP/1.1\r\nhost: Example.org\r\nx-a: 1\r\nx-a: 2\r\n\
          content-length: 3\r\nx-forwarded-proto: http\r\nseldon-model: iris\r\n\
          seldon-internal-model: iris_1\r\n\r\nabc"]
    );
}

#[test]
fn the_client_sees_these_bytes() {
    let upstream = Upstream::answering(
        "HTTP/1.1 299 Whatever\r\nX-Up: a\r\nServer: uvicorn\r\nConnection: keep-alive\r\n\
         Keep-Alive: timeout=5\r\nX-Up: b\r\nContent-Length: 2\r\n\r\nok",
    );
    let world = World::of("iris", upstream.addr).start();
    let answer = world.client().get("/v2/models/iris/infer");
    assert_eq!(
        answer.head(),
        "HTTP/1.1 299 Unknown\nx-up: a\nserver: envoy\nx-up: b\ncontent-length: 2\n\
         x-envoy-upstream-service-time: *\nx-seldon-route: :iris_1:\ndate: *"
    );
    assert_eq!(answer.text(), "ok");
}

#[test]
fn head_204_and_304_have_no_body() {
    let upstream = Upstream::new(|peer| {
        while let Some(request) = peer.request() {
            let path = request.split(' ').nth(1).unwrap();
            peer.send(match path.rsplit('/').next().unwrap() {
                "204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
            });
        }
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let head = client.send("HEAD /v2/models/iris/200 HTTP/1.1\r\nhost: h\r\n\r\n").answer_to_head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    let answer = client.get("/v2/models/iris/204");
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    assert_eq!(answer.header("transfer-encoding"), None);
    let answer = client.get("/v2/models/iris/304");
    assert_eq!((answer.status, answer.header("content-length")), (304, Some("10")));
    // The connection is still in step, and so is the one to the upstream.
    let head = client.send("HEAD /v2/models/iris/200 HTTP/1.1\r\nhost: h\r\n\r\n").answer_to_head();
    assert_eq!(head.status, 200);
    assert_eq!(upstream.accepted(), 1);
}

/// Sends back the request's body, with its length or chunked.
fn echo(chunked: bool) -> Upstream {
    Upstream::new(move |peer| {
        while let Some(head) = peer.head() {
            let length = head
                .split_once("content-length: ")
                .map(|(_, rest)| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            let body = match length {
                Some(n) => peer.take(n).unwrap(),
                None => unchunk(peer),
            };
            if chunked {
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
                for piece in body.chunks(30_000) {
                    peer.send(format!("{:X}\r\n", piece.len()));
                    peer.send(piece);
                    peer.send("\r\n");
                }
                peer.send("0\r\n\r\n");
            } else {
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
                peer.send(body);
            }
        }
    })
}

fn unchunk(peer: &mut crate::support::Peer) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(peer.take(1).unwrap());
        }
        let size = std::str::from_utf8(&line).unwrap().trim();
        let size = usize::from_str_radix(size, 16).unwrap();
        body.extend(peer.take(size).unwrap());
        assert_eq!(peer.take(2).unwrap(), b"\r\n");
        if size == 0 {
            return body;
        }
    }
}

#[test]
fn bodies_of_all_sizes_pass_both_ways() {
    let (plain, chunked) = (echo(false), echo(true));
    let world = World::of("plain", plain.addr).model("chunked", &[chunked.addr]).start();
    let mut client = world.client();
    for size in [0, 1, 70_000, 5_000_000] {
        let body: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
        for model in ["plain", "chunked"] {
            let path = format!("/v2/models/{model}/infer");
            let answer = client.post(&path, "", &body);
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{size} bytes to {model}");

            let mut request =
                format!("POST {path} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
                    .into_bytes();
            for piece in body.chunks(100_000) {
                request.extend(format!("{:x};ext=1\r\n", piece.len()).bytes());
                request.extend(piece);
                request.extend(b"\r\n");
            }
            request.extend(b"0\r\ntrailer: gone\r\n\r\n");
            let answer = client.send(request).answer();
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{size} bytes in chunks to {model}");
        }
    }
    assert_eq!((plain.accepted(), chunked.accepted()), (1, 1), "connections are kept");
}

#[test]
fn a_body_until_the_end_of_the_connection_comes_in_chunks() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.0 200 OK\r\n\r\nall of it");
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    for _ in 0..2 {
        let answer = client.get("/v2/models/iris/infer");
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.text(), "all of it");
    }
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn continue_is_said_before_the_body_comes() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(
        "POST /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n\
         content-length: 3\r\n\r\n",
    );
    assert_eq!(client.head().unwrap(), ["HTTP/1.1 100 Continue"]);
    let answer = client.send("abc").answer();
    assert_eq!((answer.status, answer.interim), (200, vec![]));
    assert!(!upstream.wait_request(1).contains("expect"));
}

#[test]
fn continue_is_said_whatever_becomes_of_the_request() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    for (status, request) in [
        (404, "POST /v2/models/none/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n"),
        (404, "GET /v2/models/none/infer HTTP/1.1\r\nhost: h\r\n"),
        (400, "POST /v2/models/iris/infer HTTP/1.1\r\ncontent-length: 3\r\n"),
        (200, "GET /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\n"),
    ] {
        let answer = world.client().send(format!("{request}expect: 100-continue\r\n\r\n")).answer();
        assert_eq!((answer.status, answer.interim), (status, vec![100]), "{request}");
    }
}

#[test]
fn an_interim_answer_of_the_upstream_is_swallowed() {
    let upstream = Upstream::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    );
    let world = World::of("iris", upstream.addr).start();
    let answer = world.client().get("/v2/models/iris/infer");
    assert_eq!((answer.status, answer.interim), (200, vec![]));
}

#[test]
fn after_an_interim_answer_there_is_no_retry() {
    let (early, late) = ("HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 110 Odd\r\n\r\n");
    let refusal = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    let upstream = Upstream::answering(format!("{late}{early}{early}{refusal}"));
    let world = World::of("iris", upstream.addr).start();
    let answer = world.client().post("/v2/models/iris/infer", "", b"{}");
    assert_eq!((answer.status, upstream.requests().len()), (503, 1));
    eventually("the answer is counted", || {
        world.cluster("iris_1_http", |stats| stats.external.completed() == 2)
    });
    let codes =
        world.cluster("iris_1_http", |stats| stats.external.codes.each().collect::<Vec<_>>());
    assert_eq!(codes, [(103, 1), (503, 1)], "the first interim answer that Envoy knows");
}

#[test]
fn a_failure_after_an_interim_answer_is_not_counted_at_the_cluster() {
    let upstream = Upstream::new(|peer| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
    });
    let world = World::of("iris", upstream.addr).start();
    let answer = world.client().get("/v2/models/iris/infer");
    assert_eq!((answer.status, upstream.requests().len()), (503, 1));
    let codes =
        world.cluster("iris_1_http", |stats| stats.external.codes.each().collect::<Vec<_>>());
    assert_eq!(codes, [(100, 1)]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = echo(false);
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let mut all = String::new();
    for n in 0..50 {
        let body = format!("request {n}");
        all += &format!(
            "POST /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    client.send(all);
    for n in 0..50 {
        assert_eq!(client.answer().text(), format!("request {n}"));
    }
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn a_client_that_asks_to_close_is_closed() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    for _ in 0..2 {
        let mut client = world.client();
        let answer = client
            .send("GET /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.at_end());
    }
    assert_eq!(upstream.accepted(), 1, "which is no reason to close upstream");
}

#[test]
fn an_upstream_that_asks_to_close_is_not_used_again() {
    let upstream = Upstream::new(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    for n in 1..=3 {
        let answer = client.get("/v2/models/iris/infer");
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        assert_eq!(upstream.accepted(), n);
    }
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_not_used() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        // Returning closes, without having said so.
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    for n in 1..=3 {
        assert_eq!(client.get("/v2/models/iris/infer").status, 200);
        eventually("the upstream closed", || upstream.open() == 0);
        assert_eq!(upstream.accepted(), n);
    }
    world.cluster("iris_1_http", |stats| assert_eq!(stats.upstream_rq_retry.value(), 0));
}

#[test]
fn an_answer_before_the_body_ended_closes_both_sides() {
    let upstream = Upstream::new(|peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly");
        peer.closed();
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let answer = client
        .send("POST /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc")
        .answer();
    assert_eq!((answer.status, answer.text()), (200, "early"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.header("x-envoy-upstream-service-time"), None);
    assert!(client.at_end());
    eventually("the upstream is closed", || upstream.open() == 0);
}

/// An upstream that takes requests and never answers; says when one is there.
fn silent() -> (Upstream, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |peer| {
        if peer.request().is_some() {
            tell.send(()).unwrap();
            peer.closed();
        }
    });
    (upstream, told)
}

#[test]
fn a_client_that_leaves_cancels_the_attempt() {
    let (upstream, told) = silent();
    let world = World::of("iris", upstream.addr).start();
    for half in [true, false] {
        let mut client = world.client();
        client.send("GET /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\n\r\n");
        told.recv().unwrap();
        assert_eq!(upstream.open(), 1);
        if half {
            client.half_close();
            eventually("the attempt is cancelled", || upstream.open() == 0);
            assert!(client.at_end(), "and nothing is answered");
        } else {
            drop(client);
            eventually("the attempt is cancelled", || upstream.open() == 0);
        }
    }
    eventually("they are counted", || {
        world.cluster("iris_1_http", |stats| {
            stats.upstream_cx_destroy_local_with_active_rq.value() == 2
        })
    });
    let cancelled = world.cluster("iris_1_http", |stats| stats.upstream_rq_cancelled.value());
    assert_eq!(cancelled, 0, "that is what waits for a connection");
}

#[test]
fn a_client_that_leaves_between_two_attempts_ends_the_retries() {
    let upstream =
        Upstream::answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    // So long a pause that the test would notice.
    let world = World::of("iris", upstream.addr)
        .actions(|action| {
            let policy = action.retry_policy.as_mut().unwrap();
            let base = policy.retry_back_off.as_mut().unwrap().base_interval.as_mut().unwrap();
            base.seconds = 3600;
        })
        .start();
    let mut client = world.client();
    client.send("GET /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\n\r\n");
    eventually("a retry is due", || {
        world.cluster("iris_1_http", |stats| stats.retry.get().is_some())
    });
    client.half_close();
    assert!(client.at_end());
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_bad_chunk_after_routing_is_a_400_with_the_route() {
    let (upstream, _told) = silent();
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let answer = client
        .send(
            "POST /v2/models/iris/infer HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\nabc\r\nxyz\r\n",
        )
        .answer();
    assert_eq!((answer.status, answer.text()), (400, "Bad Request"));
    assert_eq!(answer.all("x-seldon-route"), [":iris_1:"]);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.at_end());
    eventually("the attempt is cancelled", || upstream.open() == 0);
}

#[test]
fn an_unknown_model_is_404_and_an_unread_body_closes() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let answer = client.get("/v2/models/none/infer");
    assert_eq!(answer.head(), "HTTP/1.1 404 Not Found\ndate: *\nserver: envoy\ncontent-length: 0");
    let answer = client
        .send("POST /v2/models/none/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc")
        .answer();
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    assert!(client.at_end());
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_client_that_sends_on_can_still_read_why_it_was_refused() {
    let early = Upstream::new(|peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\ntoo");
        peer.closed();
    });
    let world = World::of("iris", early.addr).start();
    for (model, status) in [("none", 404), ("iris", 413)] {
        let mut client = world.client();
        // All of it before the first look at the answer.
        let answer = client.post(&format!("/v2/models/{model}/infer"), "", &vec![b'x'; 5_000_000]);
        assert_eq!(answer.status, status);
    }
}
