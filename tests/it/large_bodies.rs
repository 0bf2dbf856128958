//! Bodies that are too large to be worth a copy: they pass in pipes, and must come
//! out as they went in, whatever happens on the way.

use std::sync::mpsc;
use std::sync::{Arc, Barrier};

use envoy_types::pb::google::protobuf::UInt32Value;

use crate::support::{Upstream, World, eventually};

const INFER: &str = "/v2/models/iris/infer";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// The next attempt needs a connection of its own.
const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A body of its own for each `seed`: letters, and the seed at its end.
fn text(len: usize, seed: usize) -> String {
    let letters = (0..len - 9).map(|i| char::from(b'a' + ((i * 7 + i / 977 + seed) % 26) as u8));
    letters.chain(format!("{seed:09}").chars()).collect()
}

/// Takes requests; each but the third is refused after so many bytes of its body.
fn refusing_twice(after: usize) -> Upstream {
    Upstream::new(move |peer| {
        if peer.index < 2 {
            peer.head();
            peer.take(after);
            peer.send(UNAVAILABLE);
            return peer.closed();
        }
        while peer.request().is_some() {
            peer.send(OK);
        }
    })
}

#[test]
fn a_retry_sends_all_of_a_large_body_again() {
    for after in [0, 10_000, 200_000, 900_000] {
        let upstream = refusing_twice(after);
        let world = World::of("iris", upstream.addr).fast_retries().start();
        let mut client = world.client();
        let body = text(900_000, after);
        assert_eq!(client.post(INFER, "", body.as_bytes()).status, 200, "refused after {after}");
        assert!(upstream.requests()[0].ends_with(&body), "refused after {after}");
        assert_eq!(client.get(INFER).status, 200, "the connection is still in step");
    }
}

#[test]
fn a_large_body_that_comes_in_small_parts_is_sent_again_too() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |peer| {
        peer.head();
        let mut seen = 0;
        while peer.index == 0 && seen < 200_000 {
            seen += peer.some().unwrap().len();
            tell.send(seen).unwrap();
        }
        if peer.index == 0 {
            peer.send(UNAVAILABLE);
            return peer.closed();
        }
        let body = peer.take(200_000).unwrap();
        assert!(body == text(200_000, 1).into_bytes(), "the second attempt has other bytes");
        peer.send(OK);
        peer.closed();
    });
    let world = World::of("iris", upstream.addr).fast_retries().start();
    let mut client = world.client();
    client.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 200000\r\n\r\n"));
    let mut sent = 0;
    for part in text(200_000, 1).as_bytes().chunks(5_000) {
        client.send(part);
        sent += part.len();
        // Each part leaves before the next one comes.
        while told.recv().unwrap() < sent {}
    }
    assert_eq!(client.answer().status, 200);
}

#[test]
fn more_large_bodies_than_there_are_pipes_for() {
    const CLIENTS: usize = 50;
    // All bodies are there, and kept, before the first is refused.
    let all = Arc::new(Barrier::new(CLIENTS));
    let upstream = Upstream::new(move |peer| {
        let refuse = peer.index < CLIENTS;
        while peer.request().is_some() {
            if refuse {
                all.wait();
                peer.send(UNAVAILABLE);
                return peer.closed();
            }
            peer.send(OK);
        }
    });
    let world = World::of("iris", upstream.addr)
        .clusters(|cluster| {
            let limits = cluster.circuit_breakers.as_mut().unwrap();
            limits.thresholds[0].max_retries = Some(UInt32Value { value: 1024 });
        })
        .fast_retries()
        .start();
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let mut client = world.client();
            scope.spawn(move || {
                let body = text(1_000_000, seed);
                assert_eq!(client.post(INFER, "", body.as_bytes()).status, 200);
            });
        }
    });
    let requests = upstream.requests();
    for seed in 0..CLIENTS {
        let body = text(1_000_000, seed);
        let times = requests.iter().filter(|request| request.ends_with(&body)).count();
        assert_eq!(times, 2, "attempts with the body of client {seed}");
    }
}

#[test]
fn what_follows_a_large_body_is_the_next_request() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let mut requests = String::new();
    for seed in 0..5 {
        let body = text(150_000, seed);
        requests += &format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 150000\r\n\r\n");
        requests += &body;
        requests += &format!("GET {INFER}?after={seed} HTTP/1.1\r\nhost: h\r\n\r\n");
    }
    client.send(requests);
    for _ in 0..10 {
        assert_eq!(client.answer().status, 200);
    }
    for seed in 0..5 {
        assert!(upstream.requests()[2 * seed].ends_with(&text(150_000, seed)));
        assert!(upstream.requests()[2 * seed + 1].contains(&format!("?after={seed} ")));
    }
}

#[test]
fn a_large_answer_that_is_cut_comes_as_far_as_it_came() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
        peer.send(text(300_000, 3));
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    assert_eq!(client.head().unwrap()[0], "HTTP/1.1 200 OK");
    assert!(client.take(300_000).unwrap() == text(300_000, 3).into_bytes());
    assert!(client.at_end());
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.upstream_cx_protocol_error.value(), 1);
    });
}

#[test]
fn whoever_leaves_in_the_middle_of_a_large_body_leaves_nothing_behind() {
    let upstream = Upstream::new(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n");
            if !peer.send(text(5_000_000, 0)) {
                return;
            }
        }
    });
    let world = World::of("iris", upstream.addr).start();
    for _ in 0..10 {
        let mut leaves = world.client();
        leaves.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
        leaves.take(100_000).unwrap();
        drop(leaves);
        let mut stops = world.client();
        stops.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 900000\r\n\r\n"));
        stops.send(text(300_000, 0));
    }
    eventually("no request is active", || {
        world.cluster("iris_1_http", |stats| stats.upstream_rq_active.value()) == 0
    });
    let answer = world.client().get(INFER);
    assert!(answer.body == text(5_000_000, 0).into_bytes());
}
