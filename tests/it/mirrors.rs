//! Mirrors: a copy of each request goes through the mirror listener to another
//! model; its fate is nobody's business.

use http::Response;
use radiant::seldon::Experiment;

use crate::support::{H2Client, H2Stream, H2Upstream, Setup, Upstream, World, eventually, within};

const INFER: &str = "/v2/models/iris/infer";

/// `iris`, whose requests are all copied to `shadow`.
fn mirrored(main: std::net::SocketAddr, shadow: std::net::SocketAddr) -> Setup {
    World::of("iris", main).model("shadow", &[shadow]).experiment(Experiment {
        name: "e".to_owned(),
        default: Some("iris".to_owned()),
        candidates: vec![("iris".to_owned(), 100)],
        mirror: Some(("shadow".to_owned(), 100)),
        ..Experiment::default()
    })
}

#[test]
fn the_copy_comes_through_the_mirror_listener() {
    let (main, shadow) = (Upstream::ok(), Upstream::ok());
    let world = mirrored(main.addr, shadow.addr).start();
    let mut client = world.client();
    let answer = client
        .send(format!(
            "POST {INFER} HTTP/1.1\r\nhost: h.example\r\nx-forwarded-for: 10.0.0.1\r\n\
             content-length: 3\r\n\r\nabc"
        ))
        .answer();
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert_eq!(answer.all("x-seldon-route"), [":iris_1:"]);
    let copy = shadow.wait_request(1);
    let (head, body) = copy.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "abc");
    let lines: Vec<&str> = head.split("\r\n").collect();
    assert_eq!(lines[..2], ["POST /v2/models/iris/infer HTTP/1.1", "host: h.example-shadow"]);
    let forwarded = lines[2].strip_prefix("x-forwarded-for: 10.0.0.1,").unwrap();
    assert!(forwarded.parse::<std::net::IpAddr>().is_ok(), "{forwarded}");
    assert_eq!(
        lines[3..],
        [
            "content-length: 3",
            "x-forwarded-proto: http",
            "seldon-model: iris",
            "seldon-internal-model: shadow_1"
        ]
    );
    for n in 2..20 {
        client.post(INFER, "", b"abc");
        shadow.wait_request(n);
    }
}

#[test]
fn a_large_body_is_copied_whole() {
    let (main, shadow) = (Upstream::ok(), Upstream::ok());
    let world = mirrored(main.addr, shadow.addr).start();
    let body: String = (0..1_500_000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    assert_eq!(world.client().post(INFER, "", body.as_bytes()).status, 200);
    assert!(shadow.wait_request(1).ends_with(&body));
}

#[test]
fn a_mirror_that_hangs_or_fails_does_not_touch_the_request() {
    let main = Upstream::ok();
    let hanging = Upstream::new(|peer| peer.closed());
    let nonsense = Upstream::answering("nonsense\r\n\r\n");
    for shadow in [hanging.addr, nonsense.addr, Upstream::refusing()] {
        let world = mirrored(main.addr, shadow).fast_retries().start();
        let mut client = world.client();
        for _ in 0..20 {
            assert_eq!(client.post(INFER, "", b"abc").status, 200);
        }
        // Larger than what may wait for a mirror.
        assert_eq!(client.post(INFER, "", &vec![b'x'; 6_000_000]).status, 200);
    }
    assert!(hanging.accepted() > 0, "copies were sent");
}

#[test]
fn a_sticky_request_is_not_copied() {
    let (main, shadow) = (Upstream::ok(), Upstream::ok());
    let setup = mirrored(main.addr, shadow.addr).model("other", &[main.addr]);
    let world = setup
        .experiment(Experiment {
            name: "split".to_owned(),
            candidates: vec![("iris".to_owned(), 50), ("other".to_owned(), 50)],
            mirror: Some(("shadow".to_owned(), 100)),
            ..Experiment::default()
        })
        .start();
    let mut client = world.client();
    let sticky = "seldon-model: split.experiment\r\nx-seldon-route: :other_1:\r\n";
    for _ in 0..20 {
        let answer = client.post(INFER, sticky, b"abc");
        assert_eq!((answer.status, answer.all("x-seldon-route")), (200, vec![":other_1:"]));
    }
    // Copies leave in order, so this one is the first.
    client.post(INFER, "seldon-model: split.experiment\r\nx-marker: 1\r\n", b"abc");
    assert!(shadow.wait_request(1).contains("x-marker: 1"));
}

#[tokio::test]
async fn a_grpc_call_is_copied_as_one() {
    within(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let script = move |mut stream: H2Stream| {
            let tell = tell.clone();
            async move {
                let (body, _) = stream.read().await;
                tell.send((stream.head.clone(), body)).unwrap();
                stream.respond.send_response(Response::new(()), true).unwrap();
            }
        };
        let upstream = H2Upstream::new(script);
        let world = mirrored(upstream.addr, upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        client.call(H2Client::grpc("iris"), b"abc").await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (head, body) = told.recv().await.unwrap();
            assert_eq!(body, b"abc");
            let label = head.headers["seldon-internal-model"].to_str().unwrap().to_owned();
            seen.push((label, head.uri.authority().unwrap().to_string()));
        }
        seen.sort();
        let expected = [("iris_1", "h"), ("shadow_1", "h-shadow")];
        assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    })
    .await;
}

#[test]
fn a_request_that_is_cancelled_cancels_its_copy() {
    let main = Upstream::new(|peer| peer.closed());
    let shadow = Upstream::new(|peer| peer.closed());
    let world = mirrored(main.addr, shadow.addr).start();
    let mut client = world.client();
    client.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc"));
    eventually("the copy is on its way", || main.open() == 1 && shadow.open() == 1);
    drop(client);
    eventually("both are cancelled", || main.open() == 0 && shadow.open() == 0);
}
