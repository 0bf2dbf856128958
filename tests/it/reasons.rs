//! What the access log says of requests that failed, and why.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use envoy_types::util::pack_any;

use crate::support::tls::{self, Authority, Terminator};
use crate::support::{H2Client, Setup, Upstream, World, within};

const INFER: &str = "/v2/models/iris/infer";
const WHY: &str = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

/// A world with one access log. Its lines are there when the world has ended.
struct Logged {
    world: World,
    directory: tempfile::TempDir,
}

impl Logged {
    fn start(setup: Setup, format: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log").to_str().unwrap().to_owned();
        let log = FileAccessLog {
            path,
            access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
                format: Some(Format::TextFormatSource(DataSource {
                    specifier: Some(Specifier::InlineString(format.to_owned())),
                    watched_directory: None,
                })),
                ..Default::default()
            })),
        };
        let logged = setup.managers(move |manager| {
            manager.access_log = vec![AccessLog {
                name: "file".to_owned(),
                filter: None,
                config_type: Some(ConfigType::TypedConfig(pack_any(log.clone()))),
            }];
        });
        Self { world: logged.start(), directory }
    }

    fn lines(self) -> Vec<String> {
        drop(self.world);
        let log = std::fs::read_to_string(self.directory.path().join("access.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

fn without_retries(setup: Setup) -> Setup {
    setup.actions(|action| action.retry_policy = None)
}

#[test]
fn a_refused_connection_is_told_in_envoys_words() {
    let setup = without_retries(World::of("iris", Upstream::refusing()));
    let logged = Logged::start(setup, WHY);
    assert_eq!(logged.world.client().get(INFER).status, 503);
    let why = "delayed_connect_error:_Connection_refused";
    assert_eq!(
        logged.lines(),
        [format!(
            "UF upstream_reset_before_response_started{{remote_connection_failure|{why}}} {why}"
        )]
    );
}

#[test]
fn an_answer_that_was_cut_is_told() {
    let upstream = Upstream::new(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    });
    let logged = Logged::start(World::of("iris", upstream.addr), WHY);
    let mut client = logged.world.client();
    assert!(
        client.send(format!("GET {INFER} HTTP/1.1\r\nhost: h\r\n\r\n")).try_answer(false).is_none()
    );
    assert_eq!(logged.lines(), ["UPE upstream_reset_after_response_started{protocol_error} -"]);
}

#[test]
fn a_request_without_host_has_neither_scheme_nor_authority() {
    let upstream = Upstream::ok();
    let format = "%REQ(:SCHEME)% %REQ(:AUTHORITY)%\n";
    let logged = Logged::start(World::of("iris", upstream.addr), format);
    for request in [
        "GET /a HTTP/1.1\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET /a HTTP/1.1\r\nhost:\r\n\r\n",
    ] {
        logged.world.client().send(request).answer();
    }
    assert_eq!(logged.lines(), ["- -", "- h", "http h", "http "]);
}

/// A world whose upstream wants a certificate of another authority, which with
/// TLS 1.3 it says after the handshake.
fn unwelcome(model: &Upstream) -> (Terminator, Setup) {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let terminator = Terminator::start(&ca.issue("model"), &other, model.addr);
    let setup = World::of("iris", terminator.addr)
        .resources(|all| tls::upstream(all, Some("upstream_server")))
        .push(tls::secrets(&[
            tls::identity("upstream_client", &ca.issue("proxy")),
            tls::trust("upstream_server", &ca.pem),
        ]));
    (terminator, setup)
}

const UNWELCOME: &str = "upstream connect error or disconnect/reset before headers. \
                         reset reason: remote connection failure";

#[test]
fn an_upstream_that_refuses_our_certificate_is_a_failed_connection() {
    let model = Upstream::ok();
    let (_terminator, setup) = unwelcome(&model);
    let logged = Logged::start(without_retries(setup), WHY);
    let answer = logged.world.client().post(INFER, "", b"{}");
    assert_eq!((answer.status, answer.text()), (503, UNWELCOME));
    logged.world.cluster("iris_1_http", |stats| {
        assert_eq!(stats.upstream_cx_connect_fail.value(), 1);
    });
    let lines = logged.lines();
    assert!(
        lines[0].starts_with(
            "UF upstream_reset_before_response_started{remote_connection_failure|TLS_error:|"
        ),
        "{lines:?}"
    );
    assert_eq!(model.requests(), Vec::<String>::new());
}

#[test]
fn an_upstream_that_refuses_our_certificate_is_retried_as_a_failed_connection() {
    let model = Upstream::ok();
    let (_terminator, setup) = unwelcome(&model);
    let world = setup
        .fast_retries()
        .actions(|action| {
            if let Some(policy) = &mut action.retry_policy {
                policy.retry_on = "connect-failure".to_owned();
            }
        })
        .start();
    assert_eq!(world.client().post(INFER, "", b"{}").status, 503);
    world.cluster("iris_1_http", |stats| assert!(stats.upstream_rq_retry.value() > 0));
}

#[tokio::test]
async fn an_http2_upstream_that_refuses_our_certificate_is_a_failed_connection() {
    let model = Upstream::ok();
    let (_terminator, setup) = unwelcome(&model);
    let world = without_retries(setup).start();
    let mut client = H2Client::connect(world.addr()).await;
    let (head, _, _) = within(client.call(H2Client::grpc("iris"), b"abc")).await.unwrap();
    assert_eq!(head.headers()["grpc-status"], "14");
    assert_eq!(head.headers()["grpc-message"], UNWELCOME);
    world.cluster("iris_1_grpc", |stats| assert_eq!(stats.upstream_cx_connect_fail.value(), 1));
}
