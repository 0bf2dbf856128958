//! X: what the scheduler sees: subscriptions, ACKs and NACKs, a lost and a new
//! stream. Each case has proxies and discovery servers of its own.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use radiant::demo::scheduler::Push;
use radiant::demo::scheduler::cache::{CLUSTER, LISTENER};
use radiant::seldon::cluster::{Protocol, cluster};
use radiant::seldon::{Mesh, listeners};

use super::pending::TlsCluster;
use super::{Case, own};
use crate::client::Client;
use crate::discovery::{Asked, Entry, LIMIT};
use crate::lab::{Lab, clusters, eventually};
use crate::oracle;
use crate::probe::{Probe, model};
use crate::upstream::ok;

/// How long something must not happen.
const QUIET: Duration = Duration::from_millis(700);
const KINDS: [&str; 3] = ["Cluster", "Listener", "RouteConfiguration"];

pub fn cases() -> Vec<Case> {
    let mut cases = starting();
    cases.extend(answering());
    cases.extend(reconnecting());
    cases.extend(warming());
    cases
}

/// The model `m` on these ports.
pub fn mesh_of(ports: &[u16]) -> Mesh {
    Mesh { models: vec![model("m", ports)], ..Mesh::default() }
}

/// A lab that serves the model `m`.
pub fn living(p: &mut Probe<'_>) -> (Lab, crate::upstream::Upstream) {
    let upstream = p.upstream(ok());
    let lab = Lab::of(p, &mesh_of(&[upstream.port]));
    lab.wait_open();
    p.expect(lab.server().wait_settled(LIMIT), "answer everything");
    (lab, upstream)
}

/// Notes each request of these types: subscriptions and answers, in order.
fn note_asked(p: &mut Probe<'_>, lab: &Lab, kinds: &[&str]) {
    for kind in kinds {
        for asked in lab.server().asked(kind) {
            p.note("asked", asked.line());
        }
    }
}

/// Notes how each response was answered.
pub fn note_answers(p: &mut Probe<'_>, lab: &Lab, kinds: &[&str]) {
    for kind in kinds {
        let asked = lab.server().asked(kind);
        for nonce in lab.nonces(kind) {
            let answers: Vec<&Asked> = asked.iter().filter(|a| a.is_answer_to(&nonce)).collect();
            p.expect(answers.len() == 1, format!("answer {kind} {nonce} once"));
            for answer in answers {
                let error = answer.error.as_ref().map(|(code, text)| (code, !text.is_empty()));
                p.note("answer", format!("{} {error:?}", answer.line()));
            }
        }
    }
}

fn starting() -> Vec<Case> {
    vec![
        own("X01", |p| {
            let (lab, _upstream) = living(p);
            let diary = lab.server().diary();
            let nodes: Vec<_> = diary
                .iter()
                .filter_map(|entry| match entry {
                    Entry::Request(asked) => Some(asked.node.clone()),
                    Entry::Response(_) => None,
                })
                .collect();
            p.expect(nodes[0].as_deref() == Some("test-id/test-cluster"), "say the node first");
            p.expect(nodes[1..].iter().all(Option::is_none), "say it once");
            p.note("nodes", format!("{nodes:?}"));
        }),
        own("X02", |p| {
            let upstream = p.upstream(ok());
            let mut lab = Lab::new(p);
            let pushes = lab.pushes(&mesh_of(&[upstream.port]));
            lab.serve(pushes, &[]);
            let bootstrap = oracle::bootstrap(&lab.ports).replace("id: test-id", "id: other");
            lab.start_with(p.side.kind, &bootstrap);
            p.expect(lab.server().wait_asked("RouteConfiguration", 1), "ask for tables");
            std::thread::sleep(QUIET);
            p.note("open", Lab::is_open(lab.ports.http));
            let open = eventually(LIMIT, || Lab::is_open(lab.ports.http));
            p.note("open after 15 s", open);
            p.note("tables told", lab.nonces("RouteConfiguration").len());
            if open {
                p.note_reply(Some(&lab.get("m")));
            }
        }),
        own("X03", |p| {
            let upstream = p.upstream(ok());
            let mut lab = Lab::new(p);
            let pushes = lab.pushes(&mesh_of(&[upstream.port]));
            lab.serve(pushes, &[]);
            lab.start_with(p.side.kind, &oracle::full_bootstrap(&lab.ports));
            let asked = |diary: &[Entry]| {
                diary.iter().any(|e| matches!(e, Entry::Request(a) if a.kind == "Cluster"))
            };
            let soon = lab.server().wait(Duration::from_secs(8), asked);
            p.note("clusters asked for within 8 s", soon);
            p.expect(lab.server().wait(LIMIT, asked), "ask for clusters");
            lab.wait_open();
            p.expect(lab.wait_status("m", 200), "route");
        }),
        own("X04", |p| {
            let (lab, _upstream) = living(p);
            for kind in ["Cluster", "Listener"] {
                let first = lab.server().asked(kind).remove(0);
                p.expect(first.subscribe.is_empty() && first.nonce.is_empty(), "ask for all");
            }
            note_asked(p, &lab, &KINDS);
        }),
        own("X05", |p| {
            let (lab, _upstream) = living(p);
            let first = lab.server().asked("RouteConfiguration").remove(0);
            p.expect(first.subscribe == ["listener_0", "listener_1"], "ask for both");
            note_asked(p, &lab, &["RouteConfiguration"]);
        }),
        own("X09", |p| {
            let upstream = p.upstream(ok());
            let mut lab = Lab::new(p);
            let pushes = lab.pushes(&mesh_of(&[upstream.port]));
            lab.serve(pushes, &["RouteConfiguration"]);
            lab.start(p.side.kind);
            p.expect(lab.server().wait_asked("RouteConfiguration", 1), "ask for tables");
            std::thread::sleep(QUIET);
            p.note("open", Lab::is_open(lab.ports.http));
            p.note("utility open", Lab::is_open(lab.ports.utility));
            p.note("state", lab.admin("GET", "/ready").1);
            lab.server().release("RouteConfiguration");
            lab.wait_open();
            let live = eventually(LIMIT, || lab.admin("GET", "/ready").1 == "LIVE\n");
            p.expect(live, "be live");
            p.note("utility open", Lab::is_open(lab.ports.utility));
            p.expect(lab.get("m").status() == 200, "route");
        }),
        own("X10", |p| {
            let mut lab = Lab::new(p);
            lab.start(p.side.kind);
            let ready = || {
                let reply = oracle::plain_http(lab.ports.utility, "GET", "/ready");
                reply.is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
            };
            p.note("ready within 40 s", eventually(LIMIT * 2, ready));
            p.note("open", Lab::is_open(lab.ports.http));
        }),
        own("X11", |p| {
            let upstream = p.upstream(ok());
            let mut lab = Lab::new(p);
            lab.start(p.side.kind);
            std::thread::sleep(Duration::from_secs(3));
            p.note("open", Lab::is_open(lab.ports.http));
            let pushes = lab.pushes(&mesh_of(&[upstream.port]));
            lab.serve(pushes, &[]);
            // 30 s of back-off, and the first answers.
            let open = || Lab::is_open(lab.ports.http);
            p.expect(eventually(Duration::from_secs(40), open), "open the port");
            p.expect(lab.wait_status("m", 200), "route");
            p.note_reply(Some(&lab.get("m")));
        }),
        own("X35", |p| {
            let (lab, upstream) = living(p);
            let names = (0..13_000).map(|n| format!("{n:0>40}"));
            let mut models: Vec<_> = names.map(|name| model(&name, &[1])).collect();
            models.push(model("m", &[upstream.port]));
            let mut resources = Mesh { models, ..Mesh::default() }.resources(&lab.options);
            let table = &resources.routes;
            let size = prost::Message::encoded_len(table);
            p.expect(size > 10 << 20, format!("be large: {size}"));
            let routes = resources.routes.virtual_hosts.remove(0).routes;
            lab.server().push(vec![lab.tables(routes, Vec::new())]);
            p.expect(lab.server().wait_settled(LIMIT * 3), "answer");
            note_answers(p, &lab, &["RouteConfiguration"]);
            let last = format!("{:0>40}", 12_999);
            let limit = Instant::now() + LIMIT;
            while lab.get(&last).status() == 404 && Instant::now() < limit {}
            // Its cluster is unknown; that of `m` is not.
            p.note("last", lab.get(&last).status());
            p.note("m", lab.get("m").status());
        }),
    ]
}

/// A cluster that every proxy refuses.
fn bad_cluster() -> Cluster {
    let mut bad = cluster("bad".to_owned(), Protocol::Http, [("127.0.0.1", 1)]);
    bad.connect_timeout =
        Some(envoy_types::pb::google::protobuf::Duration { seconds: -1, nanos: 0 });
    bad
}

fn good_cluster(name: &str) -> Cluster {
    cluster(name.to_owned(), Protocol::Http, [("127.0.0.1", 1)])
}

fn answering() -> Vec<Case> {
    vec![
        own("X06", |p| {
            let (lab, _upstream) = living(p);
            lab.push(vec![clusters(&[good_cluster("one"), good_cluster("two")])]);
            lab.push(vec![Push::Remove(CLUSTER, vec!["one".into(), "two".into()])]);
            lab.push(vec![Push::Remove(LISTENER, vec!["seldon_mirrors".into()])]);
            note_asked(p, &lab, &["Cluster", "Listener"]);
            note_answers(p, &lab, &KINDS);
        }),
        own("X07", |p| {
            let (lab, _upstream) = living(p);
            lab.push(vec![clusters(&[bad_cluster()])]);
            let last = lab.server().asked("Cluster").pop().expect("an answer");
            p.expect(last.error.is_some_and(|(code, text)| code == 13 && !text.is_empty()), "NACK");
            note_answers(p, &lab, &["Cluster"]);
        }),
        own("X30", |p| {
            let (lab, _upstream) = living(p);
            lab.push(vec![clusters(&[good_cluster("old")])]);
            // One response that brings `new` and takes `old` away.
            lab.push(vec![
                clusters(&[good_cluster("new")]),
                Push::Remove(CLUSTER, vec!["old".into()]),
            ]);
            note_answers(p, &lab, &["Cluster"]);
            let known = lab.admin("GET", "/clusters").1;
            for name in ["old::", "new::"] {
                p.note(name, known.contains(&format!("\n{name}")) || known.starts_with(name));
            }
            for counter in ["cluster_added", "cluster_removed", "cluster_modified"] {
                let name = format!("cluster_manager.{counter}");
                p.note(&name, format!("{:?}", lab.stat(&name)));
            }
        }),
        own("X38", |p| {
            let (lab, _upstream) = sotw(p);
            let versions: Vec<String> =
                lab.server().asked("Cluster").into_iter().map(|a| a.version_info).collect();
            lab.server().push(vec![clusters(&[bad_cluster()])]);
            p.expect(lab.server().wait_asked("Cluster", versions.len() + 1), "answer");
            let answer = lab.server().asked("Cluster").remove(versions.len());
            p.expect(answer.error.is_some(), "NACK");
            p.expect(Some(&answer.version_info) == versions.last(), "keep the accepted version");
            let told = lab.nonces("Cluster");
            p.expect(told.get(versions.len() - 1) == Some(&answer.nonce), "name the response");
            p.note("answer", answer.line());
        }),
        own("X39", |p| {
            let (lab, _upstream) = sotw(p);
            note_asked(p, &lab, &KINDS);
            let first = lab.server().asked("RouteConfiguration").remove(0);
            p.expect(first.names == ["listener_0", "listener_1"], "ask for both at once");
        }),
        own("X41", |p| {
            let (lab, upstream) = living(p);
            let mut other = lab.options.clone();
            other.access_log = None;
            let changed = listeners(&other).remove(0);
            let tables = lab.pushes(&mesh_of(&[upstream.port, 1])).pop().expect("tables");
            // Three responses are under way at the same time.
            lab.server().push(vec![
                clusters(&[good_cluster("one")]),
                crate::lab::listener(&changed),
                tables,
            ]);
            p.expect(lab.server().wait_settled(LIMIT), "answer everything");
            lab.push(vec![clusters(&[bad_cluster()])]);
            lab.push(vec![crate::lab::listener(&listeners(&lab.options)[0])]);
            note_answers(p, &lab, &KINDS);
        }),
    ]
}

/// A lab whose proxy speaks the state-of-the-world variant.
fn sotw(p: &mut Probe<'_>) -> (Lab, crate::upstream::Upstream) {
    let upstream = p.upstream(ok());
    let mut lab = Lab::new(p);
    let pushes = lab.pushes(&mesh_of(&[upstream.port]));
    lab.serve(pushes, &[]);
    let bootstrap = oracle::bootstrap(&lab.ports).replace("DELTA_GRPC", "GRPC");
    lab.start_with(p.side.kind, &bootstrap);
    lab.wait_open();
    p.expect(lab.server().wait_settled(LIMIT), "answer everything");
    p.expect(lab.get("m").status() == 200, "route");
    (lab, upstream)
}

fn reconnecting() -> Vec<Case> {
    vec![
        own("X12", |p| {
            let (mut lab, _upstream) = living(p);
            let mut client = Client::connect(lab.ports.http);
            lab.unserve();
            let gone = || lab.stat("control_plane.connected_state") == Some(0);
            p.expect(eventually(LIMIT, gone), "notice it");
            for _ in 0..3 {
                client.send("GET /v2/models/m/x HTTP/1.1\r\nhost: h\r\n\r\n");
                p.note_reply(client.reply(false).as_ref());
            }
            p.expect(lab.get("m").status() == 200, "serve new connections");
            p.note("state", lab.admin("GET", "/ready").1);
            for name in
                ["cluster_manager.cds.update_failure", "listener_manager.lds.update_failure"]
            {
                p.note(name, lab.stat(name).is_some_and(|count| count > 0));
            }
        }),
        own("X13", |p| {
            let (lab, upstream) = reconnected(p, |lab, upstream| lab.pushes(&mesh_of(&[upstream])));
            for kind in KINDS {
                let asked = lab.server().asked(kind);
                p.note("asked", asked[0].line());
                p.note("real versions", asked[0].versions.values().all(|v| v.len() == 64));
            }
            p.expect(lab.get("m").status() == 200, "route");
            drop(upstream);
        }),
        own("X14", |p| {
            let upstream = p.upstream(ok());
            let mut lab = Lab::of(p, &mesh_of(&[upstream.port]));
            lab.wait_open();
            p.expect(lab.server().wait_settled(LIMIT), "answer everything");
            let mut client = Client::connect(lab.ports.http);
            client.send("GET /v2/models/m/x HTTP/1.1\r\nhost: h\r\n\r\n");
            p.note_reply(client.reply(false).as_ref());
            lab.unserve();
            let models = vec![model("n", &[upstream.port])];
            let pushes = lab.pushes(&Mesh { models, ..Mesh::default() });
            lab.serve(pushes, &[]);
            p.expect(lab.server().wait_asked("RouteConfiguration", 1), "reconnect");
            p.expect(lab.server().wait_settled(LIMIT), "answer everything");
            p.expect(lab.wait_status("n", 200), "use the new cluster");
            p.note("m", lab.get("m").status());
            // The connection from before still serves.
            client.send("GET /v2/models/n/x HTTP/1.1\r\nhost: h\r\n\r\n");
            p.note_reply(client.reply(false).as_ref());
            let known = lab.admin("GET", "/clusters").1;
            p.note("m is known", known.contains("m_1_http::"));
            p.note("n is known", known.contains("n_1_http::"));
            note_answers(p, &lab, &KINDS);
        }),
        own("X16", |p| {
            let (lab, _upstream) = reconnected(p, |lab, port| lab.pushes(&mesh_of(&[port])));
            note_asked(p, &lab, &["Cluster", "Listener"]);
            note_answers(p, &lab, &["Cluster", "Listener"]);
            p.expect(lab.get("m").status() == 200, "go on");
            for counter in ["cluster_added", "cluster_removed", "cluster_modified"] {
                let name = format!("cluster_manager.{counter}");
                p.note(&name, format!("{:?}", lab.stat(&name)));
            }
        }),
        own("X15", |p| {
            let (lab, _upstream) = reconnected(p, |lab, port| lab.pushes(&mesh_of(&[port])));
            let nodes: Vec<_> = lab
                .server()
                .diary()
                .into_iter()
                .filter_map(|entry| match entry {
                    Entry::Request(asked) => Some(asked.node),
                    Entry::Response(_) => None,
                })
                .collect();
            p.expect(nodes[0].is_some(), "say the node again");
            p.note("nodes", format!("{:?}", &nodes[..3]));
        }),
    ]
}

/// A lab whose server went and came back with these resources.
fn reconnected(
    p: &mut Probe<'_>,
    pushes: impl Fn(&Lab, u16) -> Vec<Push>,
) -> (Lab, crate::upstream::Upstream) {
    let (mut lab, upstream) = living(p);
    lab.unserve();
    let gone = || lab.stat("control_plane.connected_state") == Some(0);
    p.expect(eventually(LIMIT, gone), "notice it");
    let pushes = pushes(&lab, upstream.port);
    lab.serve(pushes, &[]);
    p.expect(lab.server().wait_asked("RouteConfiguration", 1), "reconnect");
    p.expect(lab.server().wait_settled(LIMIT), "answer everything");
    (lab, upstream)
}

fn warming() -> Vec<Case> {
    vec![
        own("X08", |p| {
            let upstream = p.upstream(ok());
            let mut lab = Lab::new(p);
            let mut pushes = lab.pushes(&mesh_of(&[upstream.port]));
            let secret = TlsCluster::new("slow", 1);
            pushes.push(clusters(&[secret.cluster()]));
            lab.serve(pushes, &[]);
            lab.start(p.side.kind);
            p.expect(lab.server().wait_asked("Secret", 1), "ask for the secret");
            std::thread::sleep(QUIET);
            p.note("listeners asked for", lab.server().asked("Listener").len());
            p.note("state", lab.admin("GET", "/ready").1);
            lab.server().push(vec![secret.secret()]);
            p.expect(lab.server().wait_asked("Listener", 1), "ask for listeners");
            lab.wait_open();
            p.expect(lab.wait_status("m", 200), "route");
            note_answers(p, &lab, &["Cluster", "Listener", "Secret"]);
        }),
        own("X31", |p| {
            let (lab, _upstream) = living(p);
            let secret = TlsCluster::new("slow", 1);
            let before = lab.nonces("Cluster").len();
            lab.server().push(vec![clusters(&[secret.cluster()])]);
            p.expect(lab.server().wait_asked("Secret", 1), "ask for the secret");
            std::thread::sleep(QUIET);
            let nonce = lab.nonces("Cluster").remove(before);
            let answered = || {
                let asked = lab.server().asked("Cluster");
                asked.iter().any(|asked| asked.is_answer_to(&nonce))
            };
            p.note("answered before the secret", answered());
            lab.server().push(vec![secret.secret()]);
            p.expect(eventually(LIMIT, answered), "answer");
        }),
        own("X32", |p| {
            let (lab, upstream) = living(p);
            let secret = TlsCluster::new("new_1_http", upstream.port);
            let models = vec![model("m", &[upstream.port]), model("new", &[upstream.port])];
            let tables = lab.pushes(&Mesh { models, ..Mesh::default() }).pop().expect("tables");
            lab.server().push(vec![clusters(&[secret.cluster()]), tables]);
            // Radiant keeps the previous table for some seconds.
            p.expect(lab.wait_status("new", 503), "answer 503");
            p.note_reply(Some(&lab.get("new")));
            p.expect(lab.get("m").status() == 200, "route others");
        }),
        own("X40", |p| {
            let (lab, _upstream) = living(p);
            // The new version refuses connections.
            let secret = TlsCluster::new("m_1_http", 1);
            lab.server().push(vec![clusters(&[secret.cluster()])]);
            p.expect(lab.server().wait_asked("Secret", 1), "ask for the secret");
            let until = Instant::now() + QUIET;
            let mut statuses = Vec::new();
            while Instant::now() < until {
                statuses.push(lab.get("m").status());
                std::thread::sleep(Duration::from_millis(50));
            }
            p.expect(statuses.iter().all(|s| *s == 200), "serve with the old version");
            lab.server().push(vec![secret.secret()]);
            p.expect(lab.wait_status("m", 503), "use the new version");
        }),
    ]
}
