//! The listeners over loopback, compared with what Envoy 1.40.0 answered to
//! the same requests (`tests/data/admin/`, dates blotted out).

mod config_dump;
mod exposition;
mod world;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Level, utility};
use crate::plane::ServerState;
use world::{World, sample};

/// Name of the sample, request line without version.
const ADMIN: [(&str, &str); 14] = [
    ("ready", "GET /ready"),
    ("ready", "PUT /ready?x=1"),
    ("healthcheck_fail_get", "GET /healthcheck/fail"),
    ("healthcheck_ok", "POST /healthcheck/ok"),
    ("stats_filter", "GET /stats?filter=server.live"),
    ("stats_bad_format", "GET /stats?format=blah"),
    ("stats_bad_type", "GET /stats?type=foo"),
    ("stats_none_json", "GET /stats?format=json&filter=nothing_here"),
    ("prometheus_filter", "GET /stats/prometheus?filter=server.live"),
    ("listeners", "GET /listeners"),
    ("listeners_json", "GET /listeners?format=json"),
    ("certs", "GET /certs"),
    ("runtime", "GET /runtime"),
    ("clusters_bad_filter", "GET /clusters?filter=("),
];

#[tokio::test]
async fn admin_answers_as_envoy_does() {
    let world = World::start().await;
    for (name, request) in ADMIN {
        assert_eq!(world.admin(request).await, sample(name), "{request}");
    }
    world.plane.clusters.slot("cold_1_http").store(None);
    for (name, request) in [
        ("clusters", "GET /clusters?filter=unused"),
        ("clusters_json", "GET /clusters?format=json&filter=unused"),
        ("init_dump", "GET /init_dump"),
    ] {
        assert_eq!(world.admin(request).await, sample(name), "{request}");
    }
}

#[tokio::test]
async fn http_1_0_is_refused_as_by_envoy() {
    let world = World::start().await;
    let answer = world::exchange(world.admin, "GET /ready HTTP/1.0\r\n\r\n").await;
    // hyper answers a 1.0 request with its version.
    assert_eq!(answer.replacen("HTTP/1.0", "HTTP/1.1", 1), sample("http10"));
}

#[tokio::test]
async fn utility_answers_as_envoy_does() {
    let world = World::start().await;
    for request in ["GET /ready", "POST /ready", "DELETE /ready"] {
        assert_eq!(world.utility(request).await, sample("util_ready"), "{request}");
    }
    for request in ["GET /ready?x", "GET /ready?", "GET /clusters", "GET /", "POST /config_dump"] {
        assert_eq!(world.utility(request).await, sample("util_unknown"), "{request}");
    }
    assert_eq!(world.utility("GET /stats?filter=server.live").await, sample("util_stats"));
    let not_found = world.utility("GET /statsfoo").await;
    assert!(not_found.starts_with("HTTP/1.1 404 Not Found\ncontent-type: text/plain; charset"));
    assert!(not_found.contains("\n\ninvalid path. admin commands are:\n  /: "), "{not_found}");
    let metrics = world.utility("GET /metrics?filter=server.concurrency").await;
    assert!(
        metrics
            .ends_with("\n\n# TYPE envoy_server_concurrency gauge\nenvoy_server_concurrency{} 2\n")
    );
    assert!(world.utility("GET /metricsfoo").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_failed_health_check_shows_everywhere() {
    let world = World::start().await;
    assert!(world.admin("POST /healthcheck/fail").await.ends_with("\n\nOK\n"));
    assert_eq!(world.admin("GET /ready").await, sample("ready_failed"));
    assert_eq!(world.utility("GET /ready").await, sample("util_ready_failed"));
    assert_eq!(world.utility("GET /nope").await, sample("util_unknown_failed"));
    let stats = "GET /stats?filter=server.live";
    assert_eq!(world.utility(stats).await, sample("util_stats_failed"));
    assert!(world.plane.drain().connections);
    assert_eq!(world.admin("POST /healthcheck/ok").await, sample("healthcheck_ok"));
    assert_eq!(world.utility("GET /ready").await, sample("util_ready"));
    assert!(!world.plane.drain().connections);
}

/// The chart's preStop hook writes to `/dev/tcp` and leaves (S15).
#[tokio::test]
async fn a_request_counts_though_its_sender_is_gone() {
    let world = World::start().await;
    for request in [
        "POST /healthcheck/fail HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /healthcheck/fail HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ] {
        let mut changes = world.plane.drain_changes();
        let mut stream = TcpStream::connect(world.admin).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        drop(stream);
        let failed = changes.wait_for(|drain| drain.connections);
        tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap().unwrap();
        assert!(world.plane.healthcheck_failed());
        world.plane.set_healthcheck_failed(false);
    }
    let stats = world.plane.stats.listener("admin", world.admin);
    let gone = async {
        while stats.shards()[0].downstream_cx_active.value() != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn mutations_reach_their_owners() {
    let world = World::start().await;
    for path in ["/quitquitquit", "/drain_listeners", "/reset_counters", "/reopen_logs", "/logging"]
    {
        let answer = world.admin(&format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.ends_with("\n\nMethod GET not allowed, POST required."), "{answer}");
    }
    assert!(world.admin("POST /drain_listeners?inboundonly").await.ends_with("\n\nOK\n"));
    assert!(!world.plane.drain().listeners);
    world.admin("POST /drain_listeners?graceful&skip_exit").await;
    assert!(world.plane.drain().connections && !world.plane.drain().listeners);
    world.admin("POST /drain_listeners").await;
    assert!(world.plane.drain().listeners && !world.plane.drain().exit);
    assert_eq!(world.admin("GET /ready").await, sample("ready"));
    let answer = world.admin("POST /logging?level=debug").await;
    assert!(answer.contains("\n\nactive loggers:\n  admin: debug\n"), "{answer}");
    assert_eq!(world.ops.logging.level(), Level::Debug);
    let answer = world.admin("POST /logging?level=blah").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\n"), "{answer}");
    assert!(answer.contains("\n\nerror: unknown logger level\n\nusage: "), "{answer}");
    world.admin("POST /quitquitquit").await;
    assert!(world.plane.drain().exit);
}

#[tokio::test]
async fn reset_counters_leaves_gauges_and_histograms() {
    let world = World::start().await;
    world.traffic();
    let used =
        "GET /stats?usedonly&filter=cluster.iris_1_http.upstream_(rq_(200|total|time)|cx_active)$";
    let before = world.admin(used).await;
    for line in ["upstream_rq_200: 3", "upstream_rq_total: 3", "upstream_cx_active: 2"] {
        assert!(before.contains(&format!("cluster.iris_1_http.{line}\n")), "{before}");
    }
    world.admin("POST /reset_counters").await;
    let after = world.admin(used).await;
    assert!(!after.contains("upstream_rq_200") && !after.contains("upstream_rq_total"), "{after}");
    assert!(after.contains("upstream_cx_active: 2\n"), "{after}");
    assert!(after.contains("cluster.iris_1_http.upstream_rq_time: P0(nan,"), "{after}");
}

#[tokio::test]
async fn the_states_before_live_have_their_names() {
    let world = World::start().await;
    for (state, name) in [
        (ServerState::PreInitializing, "PRE_INITIALIZING"),
        (ServerState::Initializing, "INITIALIZING"),
    ] {
        world.plane.set_state(state);
        let answer = world.admin("GET /ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\n"), "{answer}");
        assert!(answer.ends_with(&format!("\n\n{name}\n")), "{answer}");
        assert!(world.admin("GET /server_info").await.contains(&format!("\"state\": \"{name}\"")));
        assert!(world.utility("GET /ready").await.starts_with("HTTP/1.1 503 "));
    }
}

#[tokio::test]
async fn the_utility_port_is_bound_when_the_plane_is_live() {
    let world = World::start().await;
    world.plane.set_state(ServerState::Initializing);
    let plane = std::sync::Arc::clone(&world.plane);
    let binding = utility::bind_when_live(&plane, ([127, 0, 0, 1], 0).into());
    tokio::pin!(binding);
    let pending = futures_util::future::poll_immediate(binding.as_mut()).await;
    assert!(pending.is_none());
    world.plane.set_state(ServerState::Live);
    binding.await.unwrap();
}

#[tokio::test]
async fn details_say_why() {
    let world = World::start().await;
    world.plane.stats.control.config_stale.set(1);
    let answer = world.admin("GET /ready?details=1").await;
    for line in [
        "\n\nLIVE\n",
        "\nconfiguration stale (saved snapshot serves): yes\n",
        "\nlistener util_endpoint_http on 0.0.0.0:29003: utility\n",
        "\nlistener seldon_http on 0.0.0.0:29000: 1 routes of listener_0\n",
        "\nlisteners without routes: none\n",
        "\nclusters never resolved: 1: cold_1_http\n",
        "\nclusters named by routes and missing (503 NC): 1: gone_1_http\n",
    ] {
        assert!(answer.contains(line), "{line:?} not in {answer}");
    }
}

#[tokio::test]
async fn an_unknown_path_lists_the_known_ones() {
    let world = World::start().await;
    for request in ["GET /nope", "POST /stats/"] {
        let answer = world.admin(request).await;
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\n"), "{answer}");
        assert!(answer.contains("\n\ninvalid path. admin commands are:\n  /: Admin home page\n"));
    }
    let help = world.admin("GET /help").await;
    assert!(help.contains("\n\nadmin commands are:\n  /: Admin home page\n"), "{help}");
    let home = world.admin("GET /").await;
    assert!(home.contains("content-type: text/html; charset=UTF-8\n"), "{home}");
    assert!(home.contains("<form action='healthcheck/fail' method='post'>"), "{home}");
    for path in ["/memory", "/server_info", "/hot_restart_version"] {
        assert!(world.admin(&format!("GET {path}")).await.starts_with("HTTP/1.1 200 OK\n"));
    }
}

/// HEAD has a head only; the next request on the connection is understood.
#[tokio::test]
async fn head_has_no_body() {
    let world = World::start().await;
    for address in [world.admin, world.utility] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"HEAD /ready HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let head = world::read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\n"), "{head}");
        let request = "GET /stats?filter=server.live HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = world::exchange_on(&mut stream, request).await;
        assert!(answer.ends_with("\n\nserver.live: 1\n"), "{answer}");
    }
}

/// HTTP/2 by prior knowledge, as on Envoy's admin port.
#[tokio::test]
async fn http2_is_understood() {
    let world = World::start().await;
    let stream = TcpStream::connect(world.admin).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::get("http://a/ready").body(()).unwrap();
    let response = sender.send_request(request, true).unwrap().0.await.unwrap();
    assert_eq!(response.status(), 200);
    let names: Vec<_> = response.headers().keys().map(http::HeaderName::as_str).collect();
    let expected = ["content-type", "cache-control", "x-content-type-options", "date", "server"];
    assert_eq!(names, expected);
    let body = response.into_body().data().await.unwrap().unwrap();
    assert_eq!(&body[..], b"LIVE\n");
}

/// Connections are kept, and count under `http.admin.`.
#[tokio::test]
async fn a_connection_takes_many_requests() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.admin).await.unwrap();
    for _ in 0..3 {
        let answer =
            world::exchange_on(&mut stream, "GET /ready HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer, sample("ready"));
    }
    let request =
        "GET /stats?filter=^http.admin.downstream_(rq_2xx|cx_total) HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = world::exchange_on(&mut stream, request).await;
    let lines = "\n\nhttp.admin.downstream_cx_total: 1\nhttp.admin.downstream_rq_2xx: 3\n";
    assert!(answer.ends_with(lines), "{answer}");
    // A half-closed connection without a request in it is over.
    stream.shutdown().await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}
