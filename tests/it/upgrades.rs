//! Upgrades whose route is found by the model's name in the path, and what
//! `--refuse-ambiguous-requests` refuses.

use envoy_types::pb::google::protobuf::Duration;

use crate::support::{Client, H2Upstream, Peer, Setup, Upstream, World, eventually};

const UPGRADE: &str = "GET /v2/models/iris/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";
const GRANTED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// Grants every upgrade; then the script goes on.
fn granting(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Upstream {
    Upstream::new(move |peer| {
        if peer.request().is_some() {
            peer.send(GRANTED);
            script(peer);
        }
    })
}

fn upgraded(world: &World) -> Client {
    let mut client = world.client();
    assert_eq!(client.send(UPGRADE).answer().status, 101);
    client
}

#[test]
fn an_upgrade_goes_up_as_it_is() {
    let upstream = granting(Peer::closed);
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let answer = client.send(UPGRADE).answer();
    assert_eq!(
        answer.head(),
        "HTTP/1.1 101 Switching Protocols\nconnection: upgrade\nupgrade: websocket\n\
         x-seldon-route: :iris_1:\ndate: *\nserver: envoy"
    );
    assert_eq!(
        upstream.requests(),
        [
            "GET /v2/models/iris/x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          x-forwarded-proto: http\r\nseldon-model: iris\r\nseldon-internal-model: iris_1\r\n\r\n"
        ]
    );
}

#[test]
fn a_tunnel_carries_any_bytes_both_ways() {
    let upstream = granting(|peer| {
        while let Some(bytes) = peer.some() {
            peer.send(bytes);
        }
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = upgraded(&world);
    let bytes: Vec<u8> = (0..6_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    // More than all buffers on the way hold: what comes back must be read, too.
    let mut writing = client.stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut writing, &sent));
    assert!(client.take(bytes.len()).unwrap() == bytes);
    writer.join().unwrap().unwrap();
    world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.external.class(1), 1, "counted while it is open");
    });
}

#[test]
fn a_client_that_leaves_ends_the_tunnel() {
    let (heard, hears) = std::sync::mpsc::channel();
    let upstream = granting(move |peer| {
        let last = peer.take(3);
        peer.closed();
        heard.send(last).unwrap();
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = upgraded(&world);
    client.send("bye").half_close();
    assert_eq!(hears.recv().unwrap().as_deref(), Some(&b"bye"[..]), "nothing is lost");
    assert!(client.take(1).is_none());
}

#[test]
fn an_upstream_that_leaves_ends_the_tunnel() {
    let upstream = granting(|peer| {
        peer.send("bye");
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = upgraded(&world);
    assert_eq!(client.take(3).unwrap(), b"bye");
    assert!(client.take(1).is_none());
}

#[test]
fn a_silent_tunnel_is_ended_by_the_idle_timeout() {
    let upstream = granting(Peer::closed);
    let world = World::of("iris", upstream.addr)
        .managers(|manager| {
            manager.stream_idle_timeout = Some(Duration { seconds: 0, nanos: 100_000_000 });
        })
        .start();
    let mut client = upgraded(&world);
    assert!(client.take(1).is_none());
    eventually("the upstream is let go", || upstream.open() == 0);
}

#[test]
fn what_the_client_says_waits_for_the_upgrade() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let upstream = Upstream::new(move |peer| {
        peer.request();
        gate.lock().unwrap().recv().unwrap();
        assert!(peer.buf.is_empty(), "held back until now");
        peer.stream.set_nonblocking(true).unwrap();
        let nothing = std::io::Read::read(&mut peer.stream, &mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        peer.stream.set_nonblocking(false).unwrap();
        peer.send(GRANTED);
        let early = peer.take(5).unwrap();
        peer.send(early);
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(format!("{UPGRADE}early"));
    upstream.wait_request(1);
    go.send(()).unwrap();
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.take(5).unwrap(), b"early");
}

#[test]
fn an_upgrade_that_is_not_granted_is_an_answer_like_any_other() {
    let upstream = Upstream::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno");
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    let answer = client.send(format!("{UPGRADE}GET /smuggled HTTP/1.1\r\n\r\n")).answer();
    assert_eq!((answer.status, answer.text()), (404, "no"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.take(1).is_none());
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_websocket_that_is_answered_with_200_is_declined() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok");
    let world = World::of("iris", upstream.addr).start();
    let answer = world.client().send(UPGRADE).answer();
    assert_eq!(
        answer.head(),
        "HTTP/1.1 200 OK\nx-seldon-route: :iris_1:\nx-a: 1\ndate: *\nserver: envoy\n\
         connection: close\ncontent-length: 0"
    );
}

#[test]
fn an_upgrade_is_retried_until_it_is_granted() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        if peer.index == 0 {
            peer.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        } else {
            peer.send(GRANTED);
            let early = peer.take(5).unwrap();
            peer.send(early);
        }
        peer.closed();
    });
    let world = World::of("iris", upstream.addr).fast_retries().start();
    let mut client = world.client();
    assert_eq!(client.send(format!("{UPGRADE}early")).answer().status, 101);
    assert_eq!(client.take(5).unwrap(), b"early");
}

#[tokio::test]
async fn an_http2_upstream_is_asked_by_connect() {
    use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
    let mut settings = h2::server::Builder::new();
    settings.enable_connect_protocol();
    let upstream = H2Upstream::with(settings, |mut stream| async move {
        let protocol = stream.head.extensions.get::<h2::ext::Protocol>().cloned();
        assert_eq!((stream.head.method.as_str(), protocol), ("CONNECT", Some("websocket".into())));
        let mut send = stream.reply(http::Response::new(()));
        while let Some(Ok(data)) = stream.body.data().await {
            let _ = send.send_data(data, false);
        }
    });
    let world = World::of("iris", upstream.addr)
        .actions(|action| {
            action.cluster_specifier = Some(ClusterSpecifier::Cluster("iris_1_grpc".to_owned()));
        })
        .start();
    let echoed = tokio::task::spawn_blocking(move || {
        let mut client = upgraded(&world);
        client.send("any bytes").take(9)
    });
    assert_eq!(echoed.await.unwrap().unwrap(), b"any bytes");
}

fn strict(setup: Setup) -> World {
    setup.settings(|settings| settings.refuse_ambiguous = true).start()
}

const AMBIGUOUS: &str = "transfer-encoding: chunked\r\ntransfer-encoding:\r\n\r\n";

#[test]
fn an_ambiguous_request_is_body_less_as_with_envoy() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(format!("POST /v2/models/iris/x HTTP/1.1\r\nhost: h\r\n{AMBIGUOUS}0\r\n\r\n"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 400, "its body is no request");
    assert!(upstream.requests()[0].ends_with("\r\ncontent-length: 0\r\n\r\n"));
}

#[test]
fn an_ambiguous_request_is_refused_if_that_is_wanted() {
    let upstream = Upstream::ok();
    let world = strict(World::of("iris", upstream.addr));
    let mut client = world.client();
    client.send(format!("POST /v2/models/iris/x HTTP/1.1\r\nhost: h\r\n{AMBIGUOUS}0\r\n\r\n"));
    assert_eq!(client.answer().status, 501);
    assert!(client.take(1).is_none());
    assert!(upstream.requests().is_empty());
}

#[test]
fn an_ambiguous_answer_is_refused_if_that_is_wanted() {
    let upstream = Upstream::new(move |peer| {
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\n{AMBIGUOUS}0\r\n\r\n"));
    });
    let world = World::of("iris", upstream.addr).start();
    assert_eq!(world.client().get("/v2/models/iris/x").text(), "0\r\n\r\n");
    let setup = World::of("iris", upstream.addr).actions(|action| action.retry_policy = None);
    assert_eq!(strict(setup).client().get("/v2/models/iris/x").status, 502);
}

#[test]
fn an_upgrade_is_refused_if_that_is_wanted() {
    let upstream = granting(Peer::closed);
    let world = strict(World::of("iris", upstream.addr));
    let mut client = world.client();
    let answer = client.send(UPGRADE).answer();
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(client.take(1).is_none());
    assert!(upstream.requests().is_empty());
}
