//! The demo, as its reader meets it: the first request, the split, the sticky
//! header, and weights that change while clients are at work.

use radiant::demo::{BASELINE, Demo, DemoOptions, EXPERIMENT};
use radiant::run::{Hooks, Proxy};

use crate::support::{Client, Load, Ports, eventually};

struct Running {
    // The proxy ends first.
    _proxy: Proxy,
    _demo: Demo,
    ports: Ports,
}

impl Running {
    fn start() -> Self {
        let ports = Ports::reserve();
        let options = DemoOptions { port: Some(ports.first), ..DemoOptions::default() };
        let demo = Demo::start(&options).unwrap();
        let proxy =
            Proxy::start(demo.settings(radiant::config::Settings::default()), Hooks::default())
                .unwrap();
        let running = Self { _proxy: proxy, _demo: demo, ports };
        eventually("the demo serves", || {
            let plane = running._proxy.plane();
            plane.state() == radiant::plane::ServerState::Live
        });
        running
    }

    fn client(&self) -> Client {
        Client::connect(self.ports.addr(0))
    }
}

const BODY: &str =
    r#"{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP32","data":[1.0,2.0,3.0]}]}"#;

/// What the demo tells its reader to send, with more header lines.
fn infer(more: &str) -> String {
    format!(
        "POST /v2/models/{BASELINE}/infer HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\nseldon-model: {EXPERIMENT}.experiment\r\n{more}\
         content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

/// Asserts that `count` of `total` is a share of `percent`, within 4 sigma.
#[track_caller]
fn assert_share(count: usize, total: usize, percent: f64) {
    let (p, n) = (percent / 100.0, total as f64);
    let sigma = (n * p * (1.0 - p)).sqrt();
    let off = (count as f64 - n * p).abs();
    assert!(off <= 4.0 * sigma, "{count} of {total} is not {percent} %: {:.1} sigma", off / sigma);
}

#[test]
fn the_first_request_is_answered_by_one_arm() {
    let demo = Running::start();
    let answer = demo.client().send(infer("")).answer();
    assert_eq!(answer.status, 200, "{}", answer.head());
    let routes = answer.all("x-seldon-route");
    assert!(
        matches!(routes[..], [":baseline-predictor_1:" | ":enhanced-predictor_1:"]),
        "one route: {routes:?}"
    );
    assert!(answer.text().contains("predict"), "{}", answer.text());
}

#[test]
fn ten_thousand_requests_split_70_to_30() {
    let demo = Running::start();
    let load = Load::start(4, demo.ports.addr(0), &[infer("")]);
    load.more(10_000);
    let arms = load.take_arms();
    let total: usize = arms.values().sum();
    assert!(total >= 10_000);
    assert_share(arms[":baseline-predictor_1:"], total, 70.0);
    assert_share(arms[":enhanced-predictor_1:"], total, 30.0);
    load.finish_without_failure();
}

#[test]
fn the_header_sent_back_keeps_the_client_on_its_arm() {
    let demo = Running::start();
    let mut client = demo.client();
    for arm in [":baseline-predictor_1:", ":enhanced-predictor_1:"] {
        for _ in 0..100 {
            let answer = client.send(infer(&format!("x-seldon-route: {arm}\r\n"))).answer();
            assert_eq!((answer.status, answer.all("x-seldon-route")), (200, vec![arm]));
        }
    }
}

#[test]
fn a_weight_change_takes_effect_without_a_failed_request() {
    let demo = Running::start();
    let load = Load::start(4, demo.ports.addr(0), &[infer("")]);
    load.more(500);
    let change = r#"{"candidates":{"baseline-predictor":10,"enhanced-predictor":90}}"#;
    let applied = Client::connect(demo.ports.addr(4)).post(
        &format!("/experiments/{EXPERIMENT}"),
        "",
        change.as_bytes(),
    );
    assert_eq!(applied.status, 200);
    assert!(applied.text().contains(r#""applied": true"#), "{}", applied.text());
    // What began before the change has ended after these.
    load.more(10);
    load.take_arms();
    load.more(2_000);
    let arms = load.take_arms();
    assert_share(arms[":baseline-predictor_1:"], arms.values().sum(), 10.0);
    load.finish_without_failure();
}
