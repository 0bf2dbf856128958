//! Back-pressure: whoever is slow slows down the other end; the proxy holds
//! little in between.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};

use crate::support::{Client, DEADLINE, H2Client, H2Stream, H2Upstream, Upstream, World, within};

const INFER: &str = "/v2/models/iris/infer";
/// Far more than all buffers on the way.
const TOTAL: usize = 200 << 20;
/// The kernel's buffers of four sockets, at most 4 MiB to send and 6 to receive
/// each by default, and the proxy's own fraction of a MiB.
const HELD: usize = 24 << 20;
/// The same with HTTP/2, whose stream window is 16 MiB.
const HELD_HTTP2: usize = HELD + (16 << 20);

/// Waits until a count stands still, and says where.
fn stalled(count: &AtomicUsize) -> usize {
    let deadline = Instant::now() + DEADLINE;
    let mut last = (count.load(Ordering::Acquire), Instant::now());
    while last.0 == 0 || last.1.elapsed() < Duration::from_millis(400) {
        assert!(Instant::now() < deadline, "it never stalls");
        std::thread::sleep(Duration::from_millis(5));
        let now = count.load(Ordering::Acquire);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

/// A connection whose receive buffer is small.
fn small_window(addr: SocketAddr) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&addr.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    Client { stream, buf: Vec::new() }
}

/// Answers with [`TOTAL`] bytes and counts those that it got rid of.
fn endless() -> (Upstream, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let upstream = Upstream::new(move |peer| {
        let piece = vec![b'x'; 256 * 1024];
        while peer.request().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {TOTAL}\r\n\r\n"));
            for _ in 0..TOTAL / piece.len() {
                if !peer.send(&piece) {
                    return;
                }
                count.fetch_add(piece.len(), Ordering::AcqRel);
            }
        }
    });
    (upstream, sent)
}

#[test]
fn a_client_that_does_not_read_holds_the_upstream_back() {
    let (upstream, sent) = endless();
    let world = World::of("iris", upstream.addr).start();
    let mut client = small_window(world.addr());
    client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    let held = stalled(&sent);
    assert!(held < HELD, "{held} bytes are on the way");
    // Another client is not held back, and in the end everything arrives.
    assert_eq!(world.client().get("/v2/models/none/infer").status, 404);
    assert!(client.head().unwrap()[0].ends_with("200 OK"));
    let mut left = TOTAL;
    while left > 0 {
        let n = left.min(1 << 20);
        assert!(client.take(n).unwrap().iter().all(|&b| b == b'x'));
        left -= n;
    }
    assert_eq!(sent.load(Ordering::Acquire), TOTAL);
}

/// A tunnel has no end that a length would tell, and is no different.
#[test]
fn a_tunnel_holds_both_ends_back() {
    let down = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&down);
    let upstream = Upstream::new(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n");
        while peer.send([b'x'; 64 * 1024]) {
            count.fetch_add(64 * 1024, Ordering::AcqRel);
        }
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = small_window(world.addr());
    client.send(format!(
        "GET {INFER} HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n"
    ));
    assert!(client.head().unwrap()[0].starts_with("HTTP/1.1 101 "));
    let held = stalled(&down);
    assert!(held < HELD, "{held} bytes are on the way down");

    let up = Arc::new(AtomicUsize::new(0));
    let writer = std::thread::spawn({
        let (up, mut stream) = (Arc::clone(&up), client.stream.try_clone().unwrap());
        move || {
            while stream.write_all(&[b'y'; 64 * 1024]).is_ok() {
                up.fetch_add(64 * 1024, Ordering::AcqRel);
            }
        }
    });
    let held = stalled(&up);
    assert!(held < HELD, "{held} bytes are on the way up");
    // Ends both.
    client.stream.shutdown(std::net::Shutdown::Both).unwrap();
    writer.join().unwrap();
}

#[test]
fn an_upstream_that_does_not_read_holds_the_client_back() {
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::new(move |peer| {
        peer.head();
        let _ = gone.lock().unwrap().recv();
        let mut left = TOTAL;
        while left > 0 {
            left -= peer.some().unwrap().len();
        }
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let world = World::of("iris", upstream.addr).start();
    let mut client = world.client();
    client.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: {TOTAL}\r\n\r\n"));
    let sent = Arc::new(AtomicUsize::new(0));
    let writer = std::thread::spawn({
        let (sent, mut stream) = (Arc::clone(&sent), client.stream.try_clone().unwrap());
        move || {
            let piece = vec![b'x'; 256 * 1024];
            for _ in 0..TOTAL / piece.len() {
                stream.write_all(&piece).unwrap();
                sent.fetch_add(piece.len(), Ordering::AcqRel);
            }
        }
    });
    let held = stalled(&sent);
    assert!(held < HELD, "{held} bytes are on the way");
    go.send(()).unwrap();
    assert_eq!(client.answer().status, 200);
    writer.join().unwrap();
}

#[tokio::test]
async fn an_http2_client_that_does_not_read_holds_the_upstream_back() {
    within(async {
        let (upstream, sent) = endless();
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, _send) = client.open(H2Client::get(INFER), true).await;
        let mut body = response.await.unwrap().into_body();
        let held = tokio::task::spawn_blocking(move || stalled(&sent)).await.unwrap();
        assert!(held < HELD, "{held} bytes are on the way");
        // Other streams of the connection are not held back.
        let request = H2Client::get("/v2/models/none/infer");
        assert_eq!(client.call(request, b"").await.unwrap().0.status(), 404);
        let mut got = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            got += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(got, TOTAL);
    })
    .await;
}

#[tokio::test]
async fn an_http2_upstream_that_does_not_read_holds_the_client_back() {
    within(async {
        let (go, gone) = tokio::sync::watch::channel(false);
        let upstream = H2Upstream::new(move |mut stream: H2Stream| {
            let mut gone = gone.clone();
            async move {
                gone.wait_for(|go| *go).await.unwrap();
                let mut got = 0;
                while let Some(Ok(data)) = stream.body.data().await {
                    got += data.len();
                    stream.body.flow_control().release_capacity(data.len()).unwrap();
                }
                assert_eq!(got, TOTAL);
                stream.respond.send_response(Response::new(()), true).unwrap();
            }
        });
        let world = World::of("iris", upstream.addr).start();
        let mut client = H2Client::connect(world.addr()).await;
        let request = Request::post("http://h/inference.GRPCInferenceService/x")
            .header("seldon-model", "iris")
            .body(());
        let (response, mut send) = client.open(request.unwrap(), false).await;
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let writer = tokio::spawn(async move {
            let data = Bytes::from(vec![b'x'; 1 << 20]);
            let mut left = TOTAL;
            while left > 0 {
                send.reserve_capacity(left.min(data.len()));
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                let piece = data.slice(..room.unwrap().unwrap().min(left));
                left -= piece.len();
                count.fetch_add(piece.len(), Ordering::AcqRel);
                send.send_data(piece, left == 0).unwrap();
            }
        });
        let held = tokio::task::spawn_blocking(move || stalled(&sent)).await.unwrap();
        assert!(held < HELD_HTTP2, "{held} bytes are on the way");
        go.send(true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        writer.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_reader_of_small_messages_that_stalls_does_not_end_its_neighbours() {
    within(async {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let upstream = H2Upstream::new(move |mut stream: H2Stream| {
            let sent = Arc::clone(&count);
            async move {
                let mut send = stream.reply(Response::new(()));
                if stream.head.headers["seldon-model"] == "small" {
                    // Tokens of a language model, one a frame.
                    for _ in 0..100_000 {
                        send.reserve_capacity(20);
                        let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                        if room.is_none() || send.send_data(vec![b'x'; 20].into(), false).is_err() {
                            return;
                        }
                        sent.fetch_add(20, Ordering::AcqRel);
                    }
                    return send.send_data(Bytes::new(), true).unwrap();
                }
                while let Some(Ok(data)) = stream.body.data().await {
                    stream.body.flow_control().release_capacity(data.len()).unwrap();
                    let _ = send.send_data(data, false);
                }
            }
        });
        let world = World::of("small", upstream.addr).model("echo", &[upstream.addr]).start();
        // The client's own `h2` would end the connection over small frames that
        // it has not been asked for.
        let mut settings = h2::client::Builder::new();
        settings.data_frame_budget(usize::MAX);
        let mut slow = H2Client::with(world.addr(), &settings).await;
        let (response, _send) = slow.open(H2Client::grpc("small"), true).await;
        let mut slow = response.await.unwrap().into_body();
        let mut neighbour = H2Client::connect(world.addr()).await;
        let (response, mut send) = neighbour.open(H2Client::grpc("echo"), false).await;
        let mut neighbour = response.await.unwrap().into_body();
        tokio::task::spawn_blocking(move || stalled(&sent)).await.unwrap();
        send.send_data("still there?".into(), false).unwrap();
        assert_eq!(neighbour.data().await.unwrap().unwrap(), "still there?");
        let mut got = 0;
        while let Some(data) = slow.data().await {
            let data = data.unwrap();
            got += data.len();
            slow.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(got, 2_000_000);
        assert_eq!(upstream.accepted(), 1);
    })
    .await;
}
