//! X: discovery: what is accepted, what is refused, and with which words.

use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, route};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use radiant::demo::scheduler::Push;
use radiant::demo::scheduler::cache::{CLUSTER, ROUTE};
use radiant::seldon::{Mesh, cluster::Protocol, cluster::cluster};

use super::{Case, alone};
use crate::probe::{Probe, model, set_cluster};
use crate::upstream::ok;

pub fn cases() -> Vec<Case> {
    vec![
        refused_table("X20", |route| {
            if let Some(route::Action::Route(action)) = &mut route.action
                && let Some(ClusterSpecifier::WeightedClusters(list)) =
                    &mut action.cluster_specifier
            {
                for target in &mut list.clusters {
                    target.weight = Some(UInt32Value { value: 0 });
                }
            }
        }),
        refused_table("X21", |route| route.action = None),
        refused_table("X21/no-match", |route| route.r#match = None),
        refused_table("X21/no-specifier", |route| {
            if let Some(m) = &mut route.r#match {
                m.path_specifier = None;
            }
        }),
        refused_table("X21/empty-cluster", |route| set_cluster(route, "")),
        alone("X22", |p| {
            let upstream = p.upstream(ok());
            let models = vec![model(&p.id, &[upstream.port])];
            p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| set_cluster(route, "nobody"));
            let refused = p.side.refused(ROUTE);
            p.note("refused", format!("{refused:?}"));
            let reply = p.infer("x-request-id: {id}\r\n");
            p.expect(reply.status() == 503, "answer 503");
            p.note_log("all", 1);
        }),
        alone("X18", |p| {
            let upstream = p.upstream(ok());
            p.model(&[upstream.port]);
            let good =
                cluster(format!("{}-good", p.id), Protocol::Http, [("127.0.0.1", upstream.port)]);
            let mut bad = cluster(format!("{}-bad", p.id), Protocol::Http, [("not-an-address", 1)]);
            // A host name where only addresses may be.
            bad.cluster_discovery_type = Some(
                envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType::Type(0),
            );
            p.side.push_clusters(&[good, bad]);
            let refused = p.side.refused(CLUSTER);
            p.expect(!refused.is_empty(), "refuse");
            p.note("refused", format!("{refused:?}"));
            serves_good(p);
            mend(p, &["good", "bad"]);
        }),
        alone("X19", |p| {
            let upstream = p.upstream(ok());
            p.model(&[upstream.port]);
            let mut bad = cluster(format!("{}-bad", p.id), Protocol::Http, [("127.0.0.1", 1)]);
            bad.connect_timeout = Some(Duration { seconds: -1, nanos: 0 });
            p.side.push_clusters(&[bad]);
            let refused = p.side.refused(CLUSTER);
            p.expect(!refused.is_empty(), "refuse");
            p.note("refused", refused.len());
            mend(p, &["bad"]);
        }),
        alone("X28", |p| {
            let _upstream = p.serve(ok());
            p.side.push(Push::Routes(Vec::new()));
            let reply = p.infer("");
            p.expect(reply.status() == 200, "serve the last table");
            let (routes, mirrors) = (Vec::new(), Vec::new());
            p.side.push_routes("none", routes, mirrors);
        }),
        alone("S12", |p| {
            let before = p.stats("http.seldon_http.rds.listener_0.");
            refuse(p, &|route| route.action = None);
            p.note_stats(
                "http.seldon_http.rds.listener_0.",
                &before,
                &["update_rejected", "update_failure"],
            );
            p.side.push_routes(&p.id, Vec::new(), Vec::new());
        }),
    ]
}

fn serves_good(p: &mut Probe<'_>) {
    let models = vec![model(&p.id, &[1])];
    let good = format!("{}-good", p.id);
    let mesh = Mesh { models, ..Mesh::default() };
    let mut routes = p.resources(&mesh).routes.virtual_hosts.remove(0).routes;
    routes.iter_mut().for_each(|route| set_cluster(route, &good));
    p.side.push_routes(&p.id, routes, Vec::new());
    let reply = p.infer("");
    p.expect(reply.status() == 200, "apply the good one");
}

/// Takes clusters that were refused away, so that the next answer is an ACK.
fn mend(p: &mut Probe<'_>, suffixes: &[&str]) {
    let names: Vec<String> = suffixes.iter().map(|s| format!("{}-{s}", p.id)).collect();
    p.side.remove_clusters(&names);
}

/// Pushes the case's table, changed; what the proxy says.
fn refuse(p: &mut Probe<'_>, spoil: &dyn Fn(&mut Route)) -> Vec<String> {
    let mesh = Mesh { models: vec![model(&p.id, &[1])], ..Mesh::default() };
    let mut routes = p.resources(&mesh).routes.virtual_hosts.remove(0).routes;
    routes.iter_mut().take(1).for_each(spoil);
    p.side.push_routes(&p.id, routes, Vec::new());
    p.side.refused(ROUTE)
}

/// A table that is refused: the words, and that the old one serves on.
fn refused_table(id: &'static str, spoil: impl Fn(&mut Route) + Send + Sync + 'static) -> Case {
    alone(id, move |p| {
        let _upstream = p.serve(ok());
        let refused = refuse(p, &spoil);
        p.expect(!refused.is_empty(), "refuse the table");
        // Envoy's validation errors show the whole table; the others have words.
        let said = refused.iter().filter(|r| {
            !r.contains("goo.gle/debug")
                && !r.contains("is required")
                && !r.contains("must be at least")
        });
        p.note("refused", format!("{:?}", said.collect::<Vec<_>>()));
        let reply = p.infer("");
        p.expect(reply.status() == 200, "serve the old table");
        p.side.push_routes(&p.id, Vec::new(), Vec::new());
    })
}
