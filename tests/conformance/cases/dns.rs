//! C02 to C08: host names of clusters. Each case has proxies of its own, in a
//! mount namespace whose `resolv.conf` names the case's name server: that takes
//! Linux and root, as in a container.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use radiant::seldon::{Backend, model_clusters};

use super::extra::{eventually, fresh};
use super::{Case, case};
use crate::nameserver::{Answer, NameServer};
use crate::oracle::Launch;
use crate::probe::{Probe, version};
use crate::upstream::{Upstream, ok};

const NAME: &str = "model.mesh.test";
/// Refresh period, a look-up, and a busy machine.
const SOON: Duration = Duration::from_secs(8);

pub fn cases() -> Vec<Case> {
    vec![
        named("C02", |p, names, upstream| {
            start(p, names, upstream, 200);
            names.says(NAME, Answer::NoSuchName);
            becomes(p, 503);
            p.infer("");
            names.says(NAME, here());
            becomes(p, 200);
        }),
        named("C03", |p, names, upstream| {
            start(p, names, upstream, 200);
            names.says(NAME, Answer::Addresses(Vec::new()));
            becomes(p, 503);
            p.infer("");
            note_membership(p);
        }),
        named("C04", |p, names, upstream| {
            start(p, names, upstream, 200);
            names.says(NAME, Answer::ServerFailure);
            stays(p, names, 200);
        }),
        named("C05", |p, names, upstream| {
            start(p, names, upstream, 200);
            names.says(NAME, Answer::Silence);
            stays(p, names, 200);
        }),
        named("C06", |p, names, upstream| {
            let other = Ipv4Addr::new(127, 0, 0, 2);
            start(p, names, upstream, 200);
            let second = Upstream::start_at(other.into(), upstream.port, ok());
            let began = Instant::now();
            names.says(NAME, Answer::Addresses(vec![other]));
            let reached = eventually(SOON, || {
                ask(p);
                !second.received().is_empty()
            });
            p.expect(reached, "use the new address");
            // The TTL is 60 s, the refresh period 2 s.
            p.note("within the period", began.elapsed() < Duration::from_secs(6));
            let before = upstream.received().len();
            ask(p);
            p.note("the old one", upstream.received().len() - before);
        }),
        named("C07", |p, names, upstream| {
            start(p, names, upstream, 200);
            let asked = names.asked(NAME);
            eventually(SOON, || names.asked(NAME).len() > asked.len());
            let mut kinds = names.asked(NAME);
            kinds.dedup();
            p.note("types", format!("{kinds:?}"));
        }),
        named("C08", |p, names, upstream| {
            names.says(NAME, Answer::ServerFailure);
            place(p, upstream);
            becomes(p, 503);
            p.infer("");
            names.says(NAME, here());
            becomes(p, 200);
        }),
        named("C08/no-such-name", |p, names, upstream| {
            names.says(NAME, Answer::NoSuchName);
            place(p, upstream);
            becomes(p, 503);
            p.infer("");
        }),
        named("S13", |p, names, upstream| {
            start(p, names, upstream, 200);
            note_membership(p);
            let two = vec![Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];
            names.says(NAME, Answer::Addresses(two));
            let name = format!("cluster.{}_1_http.membership_total", p.id);
            let grown = eventually(SOON, || p.side.stats(&name).get(&name) == Some(&2));
            p.expect(grown, "have two members");
            note_membership(p);
        }),
    ]
}

fn here() -> Answer {
    Answer::Addresses(vec![Ipv4Addr::LOCALHOST])
}

/// A case with a name server, and a side that asks it.
fn named(
    id: &str,
    run: impl Fn(&mut Probe<'_>, &NameServer, &Upstream) + Send + Sync + 'static,
) -> Case {
    case(id, move |p| {
        let names = NameServer::start();
        let room = p.side.room(&p.id);
        std::fs::create_dir_all(&room).expect("a directory");
        let file = room.with_extension("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\n", names.address)).expect("a file");
        let script =
            format!("mount --bind '{}' /etc/resolv.conf && exec \"$0\" \"$@\"", file.display());
        let wrap = ["unshare", "--mount", "sh", "-c"].map(str::to_owned);
        let wrap = wrap.into_iter().chain([script]).collect();
        fresh(p, &Launch { wrap, ..Launch::default() }, |p| {
            let upstream = p.upstream(ok());
            run(p, &names, &upstream);
        });
    })
}

/// The case's model at the name, without retries.
fn place(p: &mut Probe<'_>, upstream: &Upstream) {
    use envoy_types::pb::envoy::config::route::v3::route;
    let models = vec![crate::probe::model(&p.id, &[upstream.port])];
    let mesh = radiant::seldon::Mesh { models, ..Default::default() };
    p.mesh_with(&mesh, |route| {
        if let Some(route::Action::Route(action)) = &mut route.action {
            action.retry_policy = None;
        }
    });
    let mut model = version(&p.id, 1, &[upstream.port]);
    model.backends = vec![Backend::new(NAME, upstream.port, upstream.port)];
    let clusters: [Cluster; 2] = model_clusters(&model);
    p.side.push_clusters(&clusters);
}

fn start(p: &mut Probe<'_>, names: &NameServer, upstream: &Upstream, status: u16) {
    names.says(NAME, here());
    place(p, upstream);
    // Until the name was looked up, the cluster that was there before may answer.
    let asked = eventually(SOON, || !names.asked(NAME).is_empty());
    p.expect(asked, "look the name up");
    becomes(p, status);
}

/// Asks and takes nothing down.
fn ask(p: &mut Probe<'_>) -> u16 {
    let lines = p.transcript.lines.len();
    let status = p.infer("").status();
    p.transcript.lines.truncate(lines);
    status
}

fn becomes(p: &mut Probe<'_>, status: u16) {
    let met = eventually(SOON, || ask(p) == status);
    p.expect(met, format!("come to answer {status}"));
    p.note("answers", status);
}

/// The answer is the same after three more look-ups.
fn stays(p: &mut Probe<'_>, names: &NameServer, status: u16) {
    let before = names.asked(NAME).len();
    eventually(SOON * 2, || names.asked(NAME).len() >= before + 3);
    p.expect(names.asked(NAME).len() > before, "ask again");
    let reply = p.infer("");
    p.expect(reply.status() == status, format!("go on answering {status}"));
    note_membership(p);
}

fn note_membership(p: &mut Probe<'_>) {
    let prefix = format!("cluster.{}_1_http.membership_", p.id);
    let all = p.stats(&prefix);
    for name in ["total", "healthy"] {
        let value = all.get(&format!("{prefix}{name}")).copied();
        p.note("membership", format!("{name} {value:?}"));
    }
}
