//! The end of the process: what runs may finish, nothing new begins.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::support::{
    Client, DEADLINE, H2Client, H2Stream, H2Upstream, Ports, Upstream, World, eventually, within,
};

const INFER: &str = "/v2/models/iris/infer";

/// Answers when told to.
fn on_word() -> (Upstream, std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let upstream = Upstream::new(move |peer| {
        while peer.request().is_some() {
            tell.send(()).unwrap();
            if gone.lock().unwrap().recv().is_err() {
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    (upstream, told, go)
}

#[test]
fn a_request_in_progress_is_answered_and_nothing_new_is_accepted() {
    let (upstream, told, go) = on_word();
    let world = World::of("iris", upstream.addr)
        .settings(|settings| settings.drain_time = DEADLINE)
        .start();
    let addr = world.addr();
    let (mut busy, mut idle) = (world.client(), world.client());
    assert_eq!(idle.get("/v2/models/none/infer").status, 404);
    busy.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    told.recv().unwrap();
    world.proxy.shutdown();
    eventually("the port closes", || TcpStream::connect(addr).is_err());
    go.send(()).unwrap();
    let answer = busy.answer();
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(busy.at_end());
    assert!(idle.at_end());
    let ended = std::thread::spawn(move || drop(world));
    eventually("the proxy ends well before the drain time", || ended.is_finished());
}

#[test]
fn a_request_that_never_ends_does_not_hold_the_end_up_for_longer_than_the_drain_time() {
    let (upstream, told, _go) = on_word();
    let world = World::of("iris", upstream.addr).start();
    let mut busy = world.client();
    busy.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    told.recv().unwrap();
    let ended = std::thread::spawn(move || drop(world));
    eventually("the proxy ends", || ended.is_finished());
    assert!(busy.at_end());
}

#[tokio::test]
async fn an_http2_stream_in_progress_is_finished_after_goaway() {
    within(async {
        let (go, gone) = tokio::sync::watch::channel(false);
        let upstream = H2Upstream::new(move |mut stream: H2Stream| {
            let mut gone = gone.clone();
            async move {
                let mut send = stream.reply(http::Response::new(()));
                gone.wait_for(|go| *go).await.unwrap();
                send.send_data("ok".into(), true).unwrap();
            }
        });
        let world = World::of("iris", upstream.addr)
            .settings(|settings| settings.drain_time = DEADLINE)
            .start();
        let mut client = H2Client::connect(world.addr()).await;
        let (response, _send) = client.open(H2Client::grpc("iris"), true).await;
        let mut body = response.await.unwrap().into_body();
        world.proxy.shutdown();
        client.closing().await;
        go.send(true).unwrap();
        let (body, _) = crate::support::read(&mut body).await.unwrap();
        assert_eq!(body, b"ok");
        tokio::task::spawn_blocking(move || drop(world)).await.unwrap();
    })
    .await;
}

#[test]
fn a_failed_health_check_sends_clients_away_until_it_is_well_again() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr)
        .settings(|settings| settings.admin = Some(([127, 0, 0, 1], 0).into()))
        .start();
    let tell = |path: &str| {
        let answer = Client::connect(world.proxy.admin.unwrap()).post(path, "", b"");
        assert_eq!(answer.status, 200, "{path}");
    };
    let mut idle = world.client();
    assert_eq!(idle.get(INFER).header("connection"), None);
    tell("/healthcheck/fail");
    for client in [&mut idle, &mut world.client()] {
        let answer = client.get(INFER);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.at_end());
    }
    tell("/healthcheck/ok");
    assert_eq!(world.client().get(INFER).header("connection"), None);
}

#[test]
fn listeners_that_drain_close_their_ports_and_serve_their_connections() {
    let upstream = Upstream::ok();
    let world = World::of("iris", upstream.addr)
        .settings(|settings| settings.admin = Some(([127, 0, 0, 1], 0).into()))
        .start();
    let mut client = world.client();
    assert_eq!(client.get(INFER).status, 200);
    Client::connect(world.proxy.admin.unwrap()).post("/drain_listeners", "", b"");
    let addr = world.addr();
    eventually("the port closes", || TcpStream::connect(addr).is_err());
    assert_eq!(client.get(INFER).status, 200);
}

/// The program itself; killed if it is still there at the end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_drains_at_sigterm_and_ends_with_zero() {
    let ports = Ports::reserve();
    let mut program = Program(
        Command::new(env!("CARGO_BIN_EXE_radiant"))
            .args(["demo", "--port", &ports.first.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut first = String::new();
    let mut said = BufReader::new(program.0.stdout.take().unwrap());
    said.read_line(&mut first).unwrap();
    assert_eq!(first, "Running:\n");
    let addr = ports.addr(0);
    eventually("the demo serves", || TcpStream::connect(addr).is_ok());
    let mut client = Client::connect(addr);
    let body = r#"{"inputs":[]}"#;
    let length = body.len();
    client.send(format!(
        "POST /v2/models/baseline-predictor/infer HTTP/1.1\r\nhost: h\r\n\
         x-demo-delay-ms: 700\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    ));
    assert_eq!(client.head().unwrap(), ["HTTP/1.1 100 Continue"], "the request is in");
    client.send(body);
    let pid = program.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    eventually("the port closes", || TcpStream::connect(addr).is_err());
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    eventually("the program ends", || program.0.try_wait().unwrap().is_some());
    assert_eq!(program.0.wait().unwrap().code(), Some(0));
}
