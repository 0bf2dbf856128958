//! TLS towards the scheduler: the CA counts, the name does not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use radiant::config::{self, Command, Environment, Settings};
use radiant::demo::scheduler::{Scheduler, SchedulerOptions};
use radiant::plane::{Node, Plane, ServerState};
use radiant::run::{Hooks, Proxy};
use radiant::xds::stream::{self, StreamOptions};
use radiant::xds::tls::SchedulerTls;
use radiant::xds::{SharedStore, Store, StoreOptions};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::support::{Upstream, World, quiet_settings};

const LIMIT: Duration = Duration::from_secs(20);

fn pem(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(file);
    std::fs::read(path).unwrap()
}

/// Server settings that demand ALPN `h2` and a client certificate.
fn server_config() -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("ca.pem")).unwrap()).unwrap();
    let roots = Arc::new(roots);
    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let chain = vec![CertificateDer::from_pem_slice(&pem("scheduler.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&pem("scheduler.key")).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A port that speaks TLS and passes the bytes on to `scheduler`.
fn terminate(runtime: &Runtime, scheduler: SocketAddr) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server_config()));
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut downstream) = acceptor.accept(stream).await else { return };
                let Ok(mut upstream) = TcpStream::connect(scheduler).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
            });
        }
    });
    address
}

fn client(runtime: &Runtime, address: SocketAddr, tls: &SchedulerTls) -> Arc<Plane> {
    let plane = Plane::new(1, Node::default());
    let store = SharedStore::new(Store::new(Arc::clone(&plane), StoreOptions::default()));
    let mut options = StreamOptions::new(&address.ip().to_string(), address.port());
    options.tls = Some(Arc::new(tls.client_config().unwrap()));
    runtime.spawn(store.clone().run());
    runtime.spawn(stream::run(store, options));
    plane
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_ca_is_checked_and_the_name_is_not() {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let scheduler = Scheduler::start(&SchedulerOptions::default()).unwrap();
    let address = terminate(&runtime, scheduler.addr());
    let identity = Some((pem("proxy.pem"), pem("proxy.key")));

    let good = SchedulerTls { ca: Some(pem("ca.pem")), identity: identity.clone() };
    let plane = client(&runtime, address, &good);
    until("live", || plane.state() == ServerState::Live);

    let stranger = SchedulerTls { ca: Some(pem("other-ca.pem")), identity };
    let plane = client(&runtime, address, &stranger);
    until("refused", || plane.stats.control.cds.update_failure.value() > 1);
    assert_eq!(plane.state(), ServerState::PreInitializing);

    let unnamed = SchedulerTls { ca: Some(pem("ca.pem")), identity: None };
    let plane = client(&runtime, address, &unnamed);
    until("turned away", || plane.stats.control.cds.update_failure.value() > 1);
    assert_eq!(plane.state(), ServerState::PreInitializing);
}

#[test]
fn pem_content_in_the_environment_is_all_it_takes() {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let world = World::of("iris", Upstream::refusing()).start();
    let address = terminate(&runtime, world.scheduler.addr());
    let start = |ca: &str| {
        let text = |file| String::from_utf8(pem(file)).unwrap();
        let environment = Environment::from_fn(|name| {
            Some(match name {
                "SELDON_SCHEDULER_HOST" => address.ip().to_string(),
                "SELDON_SCHEDULER_PORT" => address.port().to_string(),
                "ENVOY_SECURITY_PROTOCOL" => "SSL".to_owned(),
                "ENVOY_XDS_CLIENT_TLS_CRT" => text("proxy.pem"),
                "ENVOY_XDS_CLIENT_TLS_KEY" => text("proxy.key"),
                "ENVOY_XDS_SERVER_TLS_CA" => text(ca),
                _ => return None,
            })
        });
        let Command::Run(flags) = config::parse_flags(["radiant".to_owned()]).unwrap() else {
            panic!("no arguments mean run")
        };
        let settings = config::load(&flags, &environment).unwrap();
        Proxy::start(Settings { source: settings.source, ..quiet_settings() }, Hooks::default())
            .unwrap()
    };
    let proxy = start("ca.pem");
    until("told", || proxy.plane().clusters.find("iris_1_http").is_some());
    let stranger = start("other-ca.pem");
    until("refused", || stranger.plane().stats.control.cds.update_failure.value() > 1);
    assert!(stranger.plane().clusters.find("iris_1_http").is_none());
}

#[test]
fn a_bad_pem_is_named() {
    let error = |tls: SchedulerTls| tls.client_config().unwrap_err().to_string();
    let ca = SchedulerTls { ca: Some(b"nonsense".to_vec()), identity: None };
    assert_eq!(error(ca), "CA certificate: no certificate in it");
    let key = SchedulerTls { ca: None, identity: Some((pem("proxy.pem"), b"nonsense".to_vec())) };
    assert!(error(key).starts_with("client key: "));
}
