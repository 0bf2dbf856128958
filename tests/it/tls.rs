//! TLS towards clients and upstreams, its secrets by SDS.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use envoy_types::pb::google::protobuf;
use envoy_types::util::pack_any;
use http::Response;
use radiant::demo::scheduler::Push;
use radiant::demo::scheduler::cache::SECRET;
use radiant::plane::ServerState;
use radiant::seldon::Experiment;

use crate::support::tls::{self, Authority, Leaf, Terminator, TlsClient};
use crate::support::{H2Client, H2Upstream, Setup, Upstream, World, eventually, within};

const INFER: &str = "/v2/models/iris/infer";

/// A world whose listeners are TLS with a certificate of `ca`, and whose clients
/// are checked by `ca` if they show a certificate.
fn downstream(ca: &Authority, upstream: SocketAddr) -> Setup {
    World::of("iris", upstream)
        .resources(|all| tls::downstream(all, Some("downstream_client")))
        .push(tls::secrets(&[
            tls::identity("downstream_server", &ca.issue("proxy")),
            tls::trust("downstream_client", &ca.pem),
        ]))
}

/// A world whose clusters are TLS: it shows a certificate of `ca`, and `trusted`
/// is what upstreams must come from.
fn upstream(ca: &Authority, trusted: &Authority, upstream: SocketAddr) -> Setup {
    World::of("iris", upstream).resources(|all| tls::upstream(all, Some("upstream_server"))).push(
        tls::secrets(&[
            tls::identity("upstream_client", &ca.issue("proxy")),
            tls::trust("upstream_server", &trusted.pem),
        ]),
    )
}

#[test]
fn alpn_is_chosen_by_the_proxy_and_unknown_protocols_are_ignored() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    let cases: [(&[&str], Option<&str>); 5] = [
        (&["http/1.1", "h2"], Some("h2")),
        (&["h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["spdy/3"], None),
        (&[], None),
    ];
    for (offered, chosen) in cases {
        let mut client = TlsClient::connect(world.addr(), tls::client(offered, None)).unwrap();
        assert_eq!(client.alpn(), chosen, "{offered:?}");
        if chosen != Some("h2") {
            let answer = client.get(INFER).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
    }
    assert!(model.wait_request(1).contains("\r\nx-forwarded-proto: https\r\n"));
    let stats = world.proxy.plane().stats.listener("seldon_http", world.addr());
    let shard = stats.shard(radiant::stats::Shard { index: 1, of: 2 });
    // One more than the cases: the look whether the port is open.
    assert_eq!(shard.downstream_cx_ssl_total.value(), 6);
    eventually("all have left", || shard.downstream_cx_ssl_active.value() == 0);
}

#[tokio::test]
async fn http2_streams_go_over_tls() {
    let ca = Authority::new("ca");
    let model = H2Upstream::new(|mut stream| async move {
        assert_eq!(stream.head.headers["x-forwarded-proto"], "https");
        let (body, _) = stream.read().await;
        stream.reply(Response::new(())).send_data(body.into(), true).unwrap();
    });
    let world = downstream(&ca, model.addr).start();
    let mut client = tls::h2_client(world.addr()).await;
    let body = vec![7; 300_000];
    let (head, echoed, _) = within(client.call(H2Client::grpc("iris"), &body)).await.unwrap();
    assert_eq!((head.status().as_u16(), echoed == body), (200, true));
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_1_1_is_refused() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = tls::client_of(&[version], &[], None);
        let mut client = TlsClient::connect(world.addr(), config).unwrap();
        assert!(client.get(INFER).unwrap().starts_with("HTTP/1.1 200 OK\r\n"), "{version:?}");
    }
    // A ClientHello of TLS 1.1 with one cipher suite and signature_algorithms.
    let mut hello = vec![3, 2];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 1]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut client = world.client();
    client.send([&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat());
    let alert = client.take(7).unwrap();
    assert_eq!((alert[0], &alert[3..]), (21, &[0, 2, 2, 70][..]), "alert protocol_version");
    assert!(client.at_end());
}

#[test]
fn a_client_certificate_is_optional_but_must_be_of_the_ca() {
    let (ca, other, model) = (Authority::new("ca"), Authority::new("other"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    let ask = |leaf: Option<&Leaf>| {
        TlsClient::connect(world.addr(), tls::client(&[], leaf)).and_then(|mut c| c.get(INFER))
    };
    assert!(ask(None).is_ok());
    assert!(ask(Some(&ca.issue("anybody"))).is_ok(), "the name does not matter");
    let refused = ask(Some(&other.issue("proxy"))).unwrap_err().to_string();
    assert!(refused.contains("UnknownCA"), "{refused}");
}

#[test]
fn the_access_log_knows_the_handshake() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let format = "%DOWNSTREAM_TLS_VERSION% %REQUESTED_SERVER_NAME%\n";
    let log = FileAccessLog {
        path: path.to_str().unwrap().to_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(Specifier::InlineString(format.to_owned())),
                watched_directory: None,
            })),
            ..Default::default()
        })),
    };
    let world = downstream(&ca, model.addr)
        .managers(move |manager| {
            manager.access_log = vec![AccessLog {
                name: "file".to_owned(),
                filter: None,
                config_type: Some(ConfigType::TypedConfig(pack_any(log.clone()))),
            }];
        })
        .start();
    let name = rustls::pki_types::ServerName::try_from("models.example").unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = tls::client_of(&[version], &[], None);
        TlsClient::to(world.addr(), name.clone(), config).unwrap().get(INFER).unwrap();
    }
    // Lines are written together; at the end, those that are there.
    drop(world);
    let log = std::fs::read_to_string(&path).unwrap();
    assert_eq!(log, "TLSv1.2 models.example\nTLSv1.3 models.example\n");
}

#[test]
fn plain_http_on_the_tls_port_gets_no_answer() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    let mut client = world.client();
    client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n"));
    assert!(client.at_end());
    let mut http2 = world.client();
    http2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(http2.take(7).unwrap(), [21, 3, 1, 0, 2, 2, 70], "alert protocol_version");
    assert!(http2.at_end());
}

#[test]
fn a_client_that_never_shakes_hands_is_let_go() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let limit = protobuf::Duration { seconds: 0, nanos: 50_000_000 };
    let world = downstream(&ca, model.addr)
        .resources(move |all| {
            for listener in &mut all.listeners {
                listener.filter_chains[0].transport_socket_connect_timeout = Some(limit);
            }
        })
        .start();
    assert!(world.client().at_end(), "silent");
    let mut half = world.client();
    half.send([22, 3, 1, 1, 0, 1]);
    assert!(half.at_end(), "half a ClientHello");
}

#[test]
fn a_new_certificate_is_for_new_handshakes_only() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    let connect = || TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap();
    let mut before = connect();
    before.get(INFER).unwrap();
    let renewed = ca.issue("renewed");
    world.push(vec![tls::secrets(&[tls::identity("downstream_server", &renewed)])]);
    let mut after = connect();
    assert_ne!(before.certificate(), renewed.der());
    assert_eq!(after.certificate(), renewed.der());
    for client in [&mut before, &mut after] {
        assert!(client.get(INFER).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // Whom to trust changes in the same way.
    let other = Authority::new("other");
    world.push(vec![tls::secrets(&[tls::trust("downstream_client", &other.pem)])]);
    let ask = |leaf: &Leaf| {
        TlsClient::connect(world.addr(), tls::client(&[], Some(leaf)))
            .and_then(|mut c| c.get(INFER))
    };
    assert!(ask(&other.issue("x")).is_ok() && ask(&ca.issue("x")).is_err());
}

#[test]
fn a_broken_secret_is_refused_and_the_last_good_one_stays() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    let certificate =
        || TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap().certificate();
    let good = certificate();
    let leaf = ca.issue("broken");
    let broken = [
        (Leaf { key: "nonsense".to_owned(), ..leaf.clone() }, "private key"),
        (Leaf { key: ca.issue("another").key, ..leaf.clone() }, "private key"),
        (Leaf { chain: "nonsense".to_owned(), ..leaf }, "certificate chain"),
    ];
    for (n, (leaf, what)) in broken.iter().enumerate() {
        world.scheduler.handle().push(tls::secrets(&[tls::identity("downstream_server", leaf)]));
        eventually("a NACK", || world.scheduler.handle().nacks().len() > n);
        let nack = world.scheduler.handle().nacks().remove(n);
        let text = format!("{SECRET}: Failed to load {what} from <inline>, Cause: ");
        assert!(nack.starts_with(&text), "{nack}");
        assert_eq!(certificate(), good);
    }
}

#[test]
fn the_removal_of_a_secret_is_ignored() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let world = downstream(&ca, model.addr).start();
    world.push(vec![Push::Remove(SECRET, vec!["downstream_server".to_owned()])]);
    let mut client = TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap();
    assert!(client.get(INFER).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn clusters_and_listeners_wait_for_their_secrets() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let terminator = Terminator::start(&ca.issue("model"), &ca, model.addr);
    let world = World::of("iris", terminator.addr)
        .resources(|all| {
            tls::downstream(all, None);
            tls::upstream(all, Some("upstream_server"));
        })
        .launch();
    let plane = world.proxy.plane();
    let asked = |n| {
        eventually("asked for secrets", || plane.stats.control.sds.update_attempt.value() >= n);
    };
    asked(1);
    assert_eq!(plane.stats.control.warming_clusters.value(), 2);
    assert_eq!(plane.stats.control.lds.update_attempt.value(), 0, "clusters come first");
    world.scheduler.handle().push(tls::secrets(&[
        tls::identity("upstream_client", &ca.issue("proxy")),
        tls::trust("upstream_server", &ca.pem),
    ]));
    eventually("listeners are known", || plane.stats.control.listeners_warming.value() == 2);
    assert_eq!(plane.stats.control.warming_clusters.value(), 0);
    assert!(TcpStream::connect(world.addr()).is_err(), "closed");
    assert_ne!(plane.state(), ServerState::Live);
    let leaf = ca.issue("proxy");
    world.scheduler.handle().push(tls::secrets(&[tls::identity("downstream_server", &leaf)]));
    world.wait_live();
    let mut client = TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap();
    assert_eq!(client.certificate(), leaf.der());
    assert!(client.get(INFER).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(world.scheduler.handle().nacks(), Vec::<String>::new());
}

#[test]
fn an_upstream_is_checked_by_its_ca_only_and_is_shown_a_certificate() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let terminator = Terminator::start(&ca.issue("unheard-of"), &ca, model.addr);
    // By name: an address would have no SNI anyway.
    let world = upstream(&ca, &ca, terminator.addr)
        .clusters(|cluster| {
            let hosts =
                cluster.load_assignment.as_mut().unwrap().endpoints[0].lb_endpoints.iter_mut();
            for host in hosts {
                use envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress;
                use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
                let Some(HostIdentifier::Endpoint(e)) = &mut host.host_identifier else { panic!() };
                let address = e.address.as_mut().unwrap().address.as_mut().unwrap();
                let SocketAddress(address) = address else { panic!() };
                address.address = "localhost".to_owned();
            }
        })
        .start();
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.get(INFER).status, 200);
    }
    let handshakes = terminator.handshakes();
    assert_eq!(handshakes.len(), 1, "one connection");
    assert_eq!(handshakes[0].sni, None);
    // The upstream would prefer h2, which an HTTP/1 cluster cannot speak.
    assert_eq!(handshakes[0].offered, ["http/1.1"]);
    assert_eq!(handshakes[0].alpn.as_deref(), Some("http/1.1"));
    assert!(handshakes[0].certificate.is_some());
}

#[tokio::test]
async fn an_http2_cluster_offers_http2() {
    let ca = Authority::new("ca");
    let model = H2Upstream::new(|mut stream| async move {
        let (body, _) = stream.read().await;
        stream.reply(Response::new(())).send_data(body.into(), true).unwrap();
    });
    let terminator = Terminator::start(&ca.issue("model"), &ca, model.addr);
    let world = upstream(&ca, &ca, terminator.addr).start();
    let mut client = H2Client::connect(world.addr()).await;
    let (head, body, _) = within(client.call(H2Client::grpc("iris"), b"abc")).await.unwrap();
    assert_eq!((head.status().as_u16(), &body[..]), (200, &b"abc"[..]));
    assert_eq!(terminator.handshakes()[0].offered, ["h2"]);
}

#[test]
fn an_upstream_of_another_ca_is_not_trusted() {
    let (ca, other, model) = (Authority::new("ca"), Authority::new("other"), Upstream::ok());
    let terminator = Terminator::start(&ca.issue("model"), &ca, model.addr);
    let world = upstream(&ca, &other, terminator.addr).fast_retries().start();
    let answer = world.client().get(INFER);
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().ends_with("reset reason: remote connection failure"),
        "{}",
        answer.text()
    );
    assert!(world.cluster("iris_1_http", |c| c.upstream_cx_connect_fail.value()) > 0);
    // Nothing was said, so nothing was heard.
    assert_eq!(model.requests(), Vec::<String>::new());
}

#[test]
fn without_a_validation_context_any_upstream_will_do() {
    let (ca, other, model) = (Authority::new("ca"), Authority::new("other"), Upstream::ok());
    let terminator = Terminator::start(&other.issue("model"), &ca, model.addr);
    let world = World::of("iris", terminator.addr)
        .resources(|all| tls::upstream(all, None))
        .push(tls::secrets(&[tls::identity("upstream_client", &ca.issue("proxy"))]))
        .start();
    assert_eq!(world.client().get(INFER).status, 200);
}

#[test]
fn an_upstream_may_be_its_own_ca() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let own = Leaf::self_signed("model");
    let terminator = Terminator::start(&own, &ca, model.addr);
    let world = World::of("iris", terminator.addr)
        .resources(|all| tls::upstream(all, Some("upstream_server")))
        .push(tls::secrets(&[
            tls::identity("upstream_client", &ca.issue("proxy")),
            tls::trust("upstream_server", &own.chain),
        ]))
        .start();
    assert_eq!(world.client().get(INFER).status, 200);
}

#[test]
fn a_new_client_certificate_is_for_new_connections_only() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let terminator = Terminator::start(&ca.issue("model"), &ca, model.addr);
    let world = upstream(&ca, &ca, terminator.addr).start();
    let mut client = world.client();
    assert_eq!(client.get(INFER).status, 200);
    let renewed = ca.issue("renewed");
    world.push(vec![tls::secrets(&[tls::identity("upstream_client", &renewed)])]);
    assert_eq!(client.get(INFER).status, 200);
    assert_eq!(terminator.handshakes().len(), 1, "the open connection is used on");
    // Two at once need a second connection; the first is taken by a request
    // whose body has not come.
    let mut slow = world.client();
    slow.send(format!("POST {INFER} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\na"));
    eventually("the second connection", || {
        client.get(INFER);
        terminator.handshakes().len() == 2
    });
    assert_eq!(terminator.handshakes()[1].certificate, Some(renewed.der()));
    assert_eq!(slow.send("b").answer().status, 200);
}

#[test]
fn clusters_with_the_same_settings_share_connections() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let terminator = Terminator::start(&ca.issue("model"), &ca, model.addr);
    let world = upstream(&ca, &ca, terminator.addr).model("other", &[terminator.addr]).start();
    let mut client = world.client();
    for path in [INFER, "/v2/models/other/infer", INFER] {
        assert_eq!(client.get(path).status, 200);
    }
    assert_eq!(terminator.handshakes().len(), 1);
    let context = |name: &str| {
        let cluster = world.proxy.plane().clusters.find(name).unwrap().load().unwrap();
        Arc::as_ptr(cluster.tls.as_ref().unwrap())
    };
    assert_eq!(context("iris_1_http"), context("other_1_http"));
    assert_ne!(context("iris_1_http"), context("iris_1_grpc"));
}

#[test]
fn large_bodies_go_through_tls_on_both_sides() {
    let ca = Authority::new("ca");
    let model = Upstream::new(|peer| {
        while let Some(head) = peer.head() {
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            let body = peer.take(length).unwrap();
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
            peer.send(body);
        }
    });
    let terminator = Terminator::start(&ca.issue("model"), &ca, model.addr);
    let world = upstream(&ca, &ca, terminator.addr)
        .resources(|all| tls::downstream(all, None))
        .push(tls::secrets(&[tls::identity("downstream_server", &ca.issue("proxy"))]))
        .start();
    let mut client = TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap();
    for size in [1, 16_384, 16_385, 300_000, 6_000_000, 0, 70_000] {
        let body: Vec<u8> =
            (0..size).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        assert!(client.post(INFER, &body).unwrap() == body, "{size} bytes come back");
    }
    assert_eq!(terminator.handshakes().len(), 1);
}

#[test]
fn an_upstream_that_closes_without_close_notify_has_ended_its_body() {
    let ca = Authority::new("ca");
    let addr = tls::rude_upstream(&ca.issue("model"), b"HTTP/1.1 200 OK\r\n\r\nto the end");
    let world = upstream(&ca, &ca, addr).start();
    let answer = world.client().get(INFER);
    assert_eq!((answer.status, answer.text()), (200, "to the end"));
}

#[test]
fn a_mirror_that_the_scheduler_forgot_to_encrypt_does_no_harm() {
    let (ca, model, shadow) = (Authority::new("ca"), Upstream::ok(), Upstream::ok());
    let world = downstream(&ca, model.addr)
        .model("shadow", &[shadow.addr])
        .experiment(Experiment {
            name: "e".to_owned(),
            default: Some("iris".to_owned()),
            candidates: vec![("iris".to_owned(), 100)],
            mirror: Some(("shadow".to_owned(), 100)),
            ..Experiment::default()
        })
        .start();
    let mut client = TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap();
    for _ in 0..5 {
        assert!(client.get(INFER).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    eventually("copies fail", || {
        world.cluster("mirror_http", |cluster| cluster.upstream_rq_total.value()) >= 5
    });
    assert_eq!(shadow.requests(), Vec::<String>::new());
}

#[test]
fn a_certificate_file_is_read_again_when_it_changes() {
    let (ca, model) = (Authority::new("ca"), Upstream::ok());
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let write = |leaf: &Leaf| {
        std::fs::write(&chain, &leaf.chain).unwrap();
        std::fs::write(&key, &leaf.key).unwrap();
    };
    let file = |path: &std::path::Path| DataSource {
        specifier: Some(Specifier::Filename(path.to_str().unwrap().to_owned())),
        watched_directory: None,
    };
    let first = ca.issue("first");
    write(&first);
    let world = World::of("iris", model.addr)
        .resources(|all| tls::downstream(all, None))
        .push(tls::secrets(&[tls::identity_from("downstream_server", file(&chain), file(&key))]))
        .start();
    let certificate =
        || TlsClient::connect(world.addr(), tls::client(&[], None)).unwrap().certificate();
    assert_eq!(certificate(), first.der());
    let second = ca.issue("second");
    write(&second);
    eventually("the new certificate", || certificate() == second.der());
}
