//! What clients get when something is wrong: retries, the proxy's own answers,
//! limits and timeouts.

use std::sync::mpsc;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};

use crate::support::{Setup, Upstream, World, eventually};

const INFER: &str = "/v2/models/iris/infer";
const GRPC: &str = "content-type: application/grpc\r\n";
const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nx-up: 1\r\ncontent-length: 4\r\n\r\nbusy";

#[test]
fn a_503_is_retried_five_times_and_then_passed_on() {
    let upstream = Upstream::answering(UNAVAILABLE);
    let world = World::of("iris", upstream.addr).fast_retries().start();
    let answer = world.client().post(INFER, "", b"abc");
    assert_eq!((answer.status, answer.text()), (503, "busy"));
    assert_eq!(answer.header("x-up"), Some("1"));
    assert_eq!(answer.all("x-seldon-route"), [":iris_1:"]);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 6);
    assert!(requests.iter().all(|request| *request == requests[0]), "all the same");
    assert!(requests[0].ends_with("\r\n\r\nabc"));
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.upstream_rq_retry.value(), 5);
        assert_eq!(stats.upstream_rq_retry_limit_exceeded.value(), 1);
    });
}

#[test]
fn a_retry_that_succeeds_hides_the_failure() {
    // Cut, then refused, then well.
    let upstream = Upstream::new(|peer| match peer.index {
        0 => {
            peer.head();
        }
        1 => {
            peer.request();
            peer.send(UNAVAILABLE);
            peer.closed();
        }
        _ => {
            while peer.request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        }
    });
    let world = World::of("iris", upstream.addr).fast_retries().start();
    let answer = world.client().post(INFER, "", b"abc");
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert_eq!(answer.header("x-up"), None);
    assert!(upstream.requests().last().unwrap().ends_with("\r\n\r\nabc"));
    world.cluster("iris_1_http", |stats| assert_eq!(stats.upstream_rq_retry_success.value(), 1));
}

#[test]
fn a_refused_connection_is_retried() {
    let world = World::of("iris", Upstream::refusing()).fast_retries().start();
    let answer = world.client().get(INFER);
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.text(),
        "upstream connect error or disconnect/reset before headers. \
         retried and the latest reset reason: remote connection failure"
    );
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.upstream_rq_retry.value(), 5);
        assert_eq!(stats.upstream_cx_connect_fail.value(), 6);
        assert_eq!(stats.upstream_cx_destroy.value(), 6);
        assert_eq!(stats.upstream_cx_destroy_remote.value(), 6);
        assert_eq!(stats.upstream_rq_pending_failure_eject.value(), 6);
    });
}

#[test]
fn what_is_not_retried() {
    for answer in [
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nx-envoy-ratelimited: true\r\ncontent-length: 0\r\n\r\n",
    ] {
        let upstream = Upstream::answering(answer);
        let world = World::of("iris", upstream.addr).fast_retries().start();
        let status: u16 = answer[9..12].parse().unwrap();
        assert_eq!(world.client().get(INFER).status, status);
        assert_eq!(upstream.requests().len(), 1, "{answer}");
    }
}

#[test]
fn a_body_over_one_mebibyte_is_sent_once() {
    let upstream = Upstream::answering(UNAVAILABLE);
    let world = World::of("iris", upstream.addr).fast_retries().start();
    assert_eq!(world.client().post(INFER, "", &vec![b'x'; 900_000]).status, 503);
    assert_eq!(upstream.requests().len(), 6);
    assert_eq!(world.client().post(INFER, "", &vec![b'x'; 1_200_000]).status, 503);
    assert_eq!(upstream.requests().len(), 7);
}

#[test]
fn an_upstream_that_refuses_before_the_body_is_there_is_retried_with_all_of_it() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |peer| {
        if peer.index < 2 {
            peer.head();
            peer.send(UNAVAILABLE);
            tell.send(()).unwrap();
            return peer.closed();
        }
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let world = World::of("iris", upstream.addr).fast_retries().start();
    let mut client = world.client();
    client.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\nabc"));
    told.recv().unwrap();
    told.recv().unwrap();
    assert_eq!(client.send("def").answer().status, 200);
    assert!(upstream.requests()[0].ends_with("\r\n\r\nabcdef"));
    assert_eq!(client.get(INFER).status, 200, "the connection is still in step");
}

#[test]
fn five_retries_at_a_time_are_the_most_of_a_cluster() {
    // Every retry hangs, so that it stays outstanding.
    let upstream = Upstream::new(|peer| {
        if peer.request().is_some_and(|request| request.contains("x-first: 1")) {
            peer.send(UNAVAILABLE);
        }
        peer.closed();
    });
    let world = World::of("iris", upstream.addr)
        .actions(|action| {
            let policy = action.retry_policy.as_mut().unwrap();
            let base = policy.retry_back_off.as_mut().unwrap().base_interval.as_mut().unwrap();
            base.seconds = 3600;
        })
        .start();
    let request = format!("GET {INFER} HTTP/1.1\r\nhost: h\r\nx-first: 1\r\n\r\n");
    let mut waiting: Vec<_> = (0..5).map(|_| world.client()).collect();
    for client in &mut waiting {
        client.send(&request);
    }
    eventually("five retries are due", || {
        world.cluster("iris_1_http", |stats| {
            stats.retry.get().is_some_and(|retried| retried.completed() == 5)
        })
    });
    let answer = world.client().send(&request).answer();
    assert_eq!((answer.status, answer.text()), (503, "busy"));
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.upstream_rq_retry_overflow.value(), 1);
        assert_eq!(stats.upstream_rq_retry.value(), 0, "none of them was made yet");
    });
    drop(waiting);
    // Their places are free again.
    let mut client = world.client();
    eventually("a retry is due", || {
        client = world.client();
        client.send(&request);
        client.is_open()
    });
}

/// A world without retries.
fn once(setup: Setup) -> World {
    setup.actions(|action| action.retry_policy = None).start()
}

/// What the proxy says in place of the upstream of model `iris`, in both forms.
#[track_caller]
fn assert_reply(world: &World, status: u16, text: &str) {
    let mut client = world.client();
    let answer = client.get(INFER);
    let body = if text.is_empty() {
        "date: *\nserver: envoy\ncontent-length: 0".to_owned()
    } else {
        let length = text.len();
        format!("content-length: {length}\ncontent-type: text/plain\ndate: *\nserver: envoy")
    };
    let reason = if status == 502 { "Bad Gateway" } else { "Service Unavailable" };
    let route = "x-seldon-route: :iris_1:";
    assert_eq!(answer.head(), format!("HTTP/1.1 {status} {reason}\n{route}\n{body}"));
    assert_eq!(answer.text(), text);

    let answer = client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n{GRPC}\r\n")).answer();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.all("x-seldon-route"), [":iris_1:"]);
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("grpc-message"), (!text.is_empty()).then_some(text));
    assert_eq!(answer.header("content-length"), Some("0"));
    assert!(client.is_open(), "which is no reason to close");
}

fn reset(reason: &str) -> String {
    format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
}

#[test]
fn the_reply_without_a_cluster() {
    let setup = World::of("iris", Upstream::refusing());
    let setup = setup.resources(|all| all.clusters.retain(|c| c.name != "iris_1_http"));
    assert_reply(&once(setup), 503, "");
}

#[test]
fn the_reply_without_a_host() {
    let setup = World::of("other", Upstream::refusing()).model("iris", &[]);
    assert_reply(&once(setup), 503, "no healthy upstream");
}

#[test]
fn the_reply_to_a_refused_connection() {
    let setup = World::of("iris", Upstream::refusing());
    assert_reply(&once(setup), 503, &reset("remote connection failure"));
}

#[test]
fn the_reply_to_a_connection_that_is_not_made_in_time() {
    // A listener that accepts nobody and whose queue of one is full: the system
    // drops what else asks to connect.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(addr).unwrap();
    let setup = World::of("iris", addr).clusters(|cluster| {
        cluster.connect_timeout = Some(Duration { seconds: 0, nanos: 100_000_000 });
    });
    assert_reply(&once(setup), 503, &reset("connection timeout"));
}

#[test]
fn the_reply_to_a_cut_connection() {
    let upstream = Upstream::new(|peer| drop(peer.request()));
    let setup = World::of("iris", upstream.addr);
    assert_reply(&once(setup), 503, &reset("connection termination"));
}

#[test]
fn the_reply_to_an_upstream_that_speaks_nonsense() {
    let upstream = Upstream::answering("SSH-2.0-OpenSSH_9.6\r\n\r\n");
    let setup = World::of("iris", upstream.addr);
    assert_reply(&once(setup), 502, &reset("protocol error"));
}

#[test]
fn an_unknown_route_in_grpc_is_unimplemented() {
    let world = World::of("iris", Upstream::refusing()).start();
    let mut client = world.client();
    let answer = client
        .send(format!("GET /v2/models/none/infer HTTP/1.1\r\nhost: h\r\n{GRPC}\r\n"))
        .answer();
    assert_eq!(
        answer.head(),
        "HTTP/1.1 200 OK\ncontent-type: application/grpc\ngrpc-status: 12\ndate: *\n\
         server: envoy\ncontent-length: 0"
    );
}

/// Answers when told to, one request per word.
fn on_word() -> (Upstream, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (tell, told) = mpsc::channel();
    let (word, words) = mpsc::channel::<()>();
    let words = std::sync::Mutex::new(words);
    let upstream = Upstream::new(move |peer| {
        while peer.request().is_some() {
            tell.send(()).unwrap();
            if words.lock().unwrap().recv().is_err() {
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    (upstream, told, word)
}

fn limits(setup: Setup, connections: u32, pending: u32) -> Setup {
    setup.clusters(move |cluster| {
        let breakers = cluster.circuit_breakers.as_mut().unwrap();
        breakers.thresholds = vec![Thresholds {
            max_connections: Some(UInt32Value { value: connections }),
            max_pending_requests: Some(UInt32Value { value: pending }),
            ..Thresholds::default()
        }];
    })
}

#[test]
fn the_third_request_of_two_overflows() {
    let (upstream, told, word) = on_word();
    let world = limits(World::of("iris", upstream.addr), 1, 1).start();
    let get = format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n");
    let (mut first, mut second, mut third) = (world.client(), world.client(), world.client());
    first.send(&get);
    told.recv().unwrap();
    second.send(&get);
    eventually("the second request waits", || {
        world.cluster("iris_1_http", |stats| stats.upstream_rq_pending_active.value() == 1)
    });
    let answer = third.send(&get).answer();
    assert_eq!((answer.status, answer.text()), (503, &*reset("overflow")));
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    let answer = third.send(get.replace("\r\n\r\n", &format!("\r\n{GRPC}\r\n"))).answer();
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")));
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    word.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    told.recv().unwrap();
    word.send(()).unwrap();
    assert_eq!(second.answer().status, 200);
    assert_eq!(upstream.accepted(), 1);
}

#[test]
fn limits_hold_across_workers() {
    let (upstream, told, word) = on_word();
    let world = limits(World::of("iris", upstream.addr), 1, 1)
        .settings(|settings| settings.workers = 2)
        .start();
    let get = format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n");
    // New connections go to the worker with fewer.
    let (mut first, mut second, mut third) = (world.client(), world.client(), world.client());
    first.send(&get);
    told.recv().unwrap();
    second.send(&get);
    let slot = world.proxy.plane().clusters.find("iris_1_http").unwrap();
    let pending = || slot.usage.pending.load(std::sync::atomic::Ordering::Relaxed);
    eventually("the second request waits", || pending() == 1);
    assert_eq!(third.send(&get).answer().header("x-envoy-overloaded"), Some("true"));
    word.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    told.recv().unwrap();
    word.send(()).unwrap();
    assert_eq!(second.answer().status, 200);
}

#[test]
fn a_request_that_waits_for_a_connection_gives_up_when_its_client_leaves() {
    let (upstream, told, word) = on_word();
    let world = limits(World::of("iris", upstream.addr), 1, 1).start();
    let get = format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n");
    let mut first = world.client();
    first.send(&get);
    told.recv().unwrap();
    let mut second = world.client();
    second.send(&get);
    let waiting = || world.cluster("iris_1_http", |s| s.upstream_rq_pending_active.value());
    eventually("the second request waits", || waiting() == 1);
    drop(second);
    eventually("it gives up", || waiting() == 0);
    word.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_route_timeout_ends_the_wait_for_a_connection() {
    let (upstream, told, word) = on_word();
    let world = limits(World::of("iris", upstream.addr), 1, 1)
        .actions(|action| action.timeout = Some(Duration { seconds: 0, nanos: 300_000_000 }))
        .start();
    // Its body is not there in full, so that its own timeout does not run.
    let mut first = world.client();
    first.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\na"));
    let stats = |cell: fn(&radiant::stats::ClusterShard) -> u64| world.cluster("iris_1_http", cell);
    eventually("the connection is taken", || stats(|s| s.upstream_rq_active.value()) == 1);
    let answer = world.client().send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n")).answer();
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    assert_eq!(stats(|s| s.upstream_rq_cancelled.value()), 1);
    assert_eq!(stats(|s| s.upstream_rq_timeout.value()), 1);
    // The first, whose connection was made, and the one that waited.
    assert_eq!(stats(|s| s.upstream_rq_pending_total.value()), 2);
    first.send("b");
    told.recv().unwrap();
    word.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
}

fn impatient(setup: Setup) -> Setup {
    setup.managers(|manager| {
        manager.stream_idle_timeout = Some(Duration { seconds: 0, nanos: 200_000_000 });
    })
}

fn silent() -> Upstream {
    Upstream::new(|peer| peer.closed())
}

#[test]
fn an_upstream_that_is_silent_for_too_long_is_a_504() {
    let upstream = silent();
    let world = impatient(World::of("iris", upstream.addr)).start();
    let mut client = world.client();
    let answer = client.get(INFER);
    assert_eq!((answer.status, answer.text()), (504, "stream timeout"));
    assert_eq!(answer.all("x-seldon-route"), [":iris_1:"]);
    eventually("the attempt is cancelled", || upstream.open() == 0);
    let answer = client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n{GRPC}\r\n")).answer();
    assert_eq!(answer.header("grpc-message"), Some("stream timeout"));
}

#[test]
fn a_route_timeout_is_an_answer_of_its_cluster() {
    let upstream = silent();
    let world = World::of("iris", upstream.addr)
        .actions(|action| action.timeout = Some(Duration { seconds: 0, nanos: 100_000_000 }))
        .start();
    let answer = world.client().get(INFER);
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.external.codes.each().collect::<Vec<_>>(), [(504, 1)]);
        assert_eq!(stats.upstream_rq_timeout.value(), 1);
    });
}

#[test]
fn a_route_timeout_between_two_attempts_is_none_of_its_cluster() {
    let upstream = Upstream::answering(UNAVAILABLE);
    let world = World::of("iris", upstream.addr)
        .actions(|action| {
            action.timeout = Some(Duration { seconds: 0, nanos: 300_000_000 });
            let policy = action.retry_policy.as_mut().unwrap();
            let base = policy.retry_back_off.as_mut().unwrap().base_interval.as_mut().unwrap();
            base.seconds = 3600;
        })
        .start();
    assert_eq!(world.client().get(INFER).status, 504);
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.external.completed(), 0);
        assert_eq!(stats.upstream_rq_timeout.value(), 0);
        assert_eq!(stats.upstream_rq_retry.value(), 0);
    });
}

#[test]
fn a_request_that_stops_half_way_is_a_408() {
    let upstream = silent();
    let world = impatient(World::of("iris", upstream.addr)).start();
    for half in [
        format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab"),
        "GET /v2/models/iris/in".to_owned(),
    ] {
        let mut client = world.client();
        let answer = client.send(half).answer();
        assert_eq!((answer.status, answer.text()), (408, "stream timeout"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.at_end());
    }
}

#[test]
fn an_answer_that_stops_half_way_is_cut() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
        peer.closed();
    });
    let world = impatient(World::of("iris", upstream.addr)).start();
    let mut client = world.client();
    client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    assert!(client.head().unwrap()[0].ends_with("200 OK"));
    assert_eq!(client.chunk().unwrap(), b"abc");
    assert!(client.at_end(), "without a last chunk");
    eventually("the attempt is cancelled", || upstream.open() == 0);
}

#[test]
fn a_request_that_waits_for_a_connection_for_too_long_is_a_504() {
    // The first is kept alive by its upstream, one byte at a time.
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while peer.send("1\r\nx\r\n") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let world = impatient(limits(World::of("iris", upstream.addr), 1, 1)).start();
    let mut first = world.client();
    first.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    assert!(first.head().unwrap()[0].ends_with("200 OK"));
    let answer = world.client().get(INFER);
    assert_eq!((answer.status, answer.text()), (504, "stream timeout"));
    assert_eq!(first.chunk().unwrap(), b"x");
}

#[test]
fn an_upstream_that_cuts_its_answer_cuts_the_clients() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    assert!(client.head().unwrap()[0].ends_with("200 OK"));
    assert_eq!(client.take(3).unwrap(), b"abc");
    assert!(client.at_end());
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.upstream_cx_protocol_error.value(), 1);
    });
}

#[test]
fn whatever_happens_nothing_stays_held() {
    use std::sync::atomic::Ordering::Relaxed;
    let upstream = Upstream::new(|peer| {
        while let Some(request) = peer.request() {
            match request.split("x-do: ").nth(1).map(|rest| &rest[..3]) {
                Some("cut") => return,
                Some("bad") => drop(peer.send("nonsense\r\n\r\n")),
                Some("503") => drop(peer.send(UNAVAILABLE)),
                Some("len") => {
                    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
                    return;
                }
                Some("sil") => return peer.closed(),
                _ => drop(peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")),
            }
        }
    });
    let world = impatient(World::of("iris", upstream.addr).model("away", &[Upstream::refusing()]))
        .fast_retries()
        .start();
    for what in ["cut", "bad", "503", "len", "sil", "ok "] {
        for (path, patient) in [(INFER, true), (INFER, false), ("/v2/models/away/infer", true)] {
            let mut client = world.client();
            client.send(format!(
                "POST {path} HTTP/1.1\r\nhost: h\r\nx-do: {what}\r\ncontent-length: 3\r\n\r\nabc"
            ));
            if patient {
                client.try_answer(false);
            }
        }
    }
    let plane = world.proxy.plane();
    for cluster in ["iris_1_http", "away_1_http"] {
        let slot = plane.clusters.find(cluster).unwrap();
        let usage = &slot.usage;
        let hosts = slot.load().unwrap();
        let held = || {
            let hosts = hosts.endpoints.hosts();
            [&usage.connections, &usage.pending, &usage.requests, &usage.retries]
                .into_iter()
                .chain(hosts.iter().map(|host| &host.active))
                .map(|count| count.load(Relaxed))
                .collect::<Vec<_>>()
        };
        eventually("nothing is held", || held().iter().all(|&n| n == 0));
        let active = |stats: &radiant::stats::ClusterShard| stats.upstream_rq_active.value();
        eventually("no request is active", || world.cluster(cluster, active) == 0);
    }
    assert_eq!(world.client().get(INFER).status, 200);
}
