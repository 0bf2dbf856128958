//! What a case works with: one side, and the transcript that is compared with
//! the other side's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::route::v3::{Route, route, route_action::ClusterSpecifier};
use envoy_types::pb::google::protobuf;
use radiant::seldon::{Backend, ListenerOptions, Mesh, MeshResources, Model, ModelVersion};

use crate::client::{Client, Reply};
use crate::oracle::Side;
use crate::upstream::{Script, Upstream};

/// A side, as one case sees it.
pub struct Probe<'a> {
    pub side: &'a Side,
    /// Unique to the case; names of models are made of it.
    pub id: String,
    pub transcript: Transcript,
    /// Ports by the names that replace them in the transcript.
    ports: Vec<(u16, String)>,
}

/// What one side did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    pub lines: Vec<String>,
    /// Expectations of the case itself that were not met.
    pub unmet: Vec<String>,
}

impl<'a> Probe<'a> {
    pub fn new(side: &'a Side, case: &str) -> Self {
        let id = case.to_ascii_lowercase().replace(['/', ' '], "-");
        let ports = side.ports;
        let ports = [
            (ports.http, "http"),
            (ports.mirrors, "mirrors"),
            (ports.admin, "admin"),
            (ports.utility, "utility"),
        ];
        let ports = ports.map(|(port, name)| (port, name.to_owned())).into();
        Self { side, id, transcript: Transcript::default(), ports }
    }

    /// Something that both sides must agree in.
    pub fn note(&mut self, label: &str, text: impl std::fmt::Display) {
        let mut line = format!("{label}: {text}");
        for (port, name) in &self.ports {
            line = line.replace(&format!(":{port}"), &format!(":{{{name}}}"));
            line = line.replace(&format!("_{port}"), &format!("_{{{name}}}"));
        }
        self.transcript.lines.push(line);
    }

    /// Something that the statement itself says; keeps a case from passing
    /// because nothing happened on either side.
    pub fn expect(&mut self, met: bool, what: impl Into<String>) {
        if !met {
            self.transcript.unmet.push(what.into());
        }
    }

    pub fn upstream(&mut self, script: Script) -> Upstream {
        let upstream = Upstream::start(script);
        let name = format!("upstream{}", self.ports.len() - 4);
        self.ports.push((upstream.port, name));
        upstream
    }

    /// Names a port in the transcript.
    pub fn name_port(&mut self, port: u16, name: &str) {
        self.ports.push((port, name.to_owned()));
    }

    /// The case's model, version 1, on these ports.
    pub fn model(&mut self, ports: &[u16]) {
        let name = self.id.clone();
        self.mesh(&Mesh { models: vec![model(&name, ports)], ..Mesh::default() });
    }

    /// The case's model on one upstream with this script.
    pub fn serve(&mut self, script: Script) -> Upstream {
        let upstream = self.upstream(script);
        self.model(&[upstream.port]);
        upstream
    }

    /// What a scheduler would make of this, with retries that do not wait long.
    pub fn mesh(&mut self, mesh: &Mesh) {
        self.mesh_with(mesh, |_| {});
    }

    /// The same, each route changed by `edit`.
    pub fn mesh_with(&mut self, mesh: &Mesh, edit: impl Fn(&mut Route)) {
        let resources = self.resources(mesh);
        let clusters: Vec<Cluster> =
            resources.clusters.into_iter().filter(|c| !c.name.starts_with("mirror_")).collect();
        let routes = |mut table: envoy_types::pb::envoy::config::route::v3::RouteConfiguration| {
            let mut routes = table.virtual_hosts.remove(0).routes;
            for route in &mut routes {
                hasten(route);
                edit(route);
            }
            routes
        };
        self.side.push_clusters(&clusters);
        self.side.push_routes(&self.id, routes(resources.routes), routes(resources.mirrors));
    }

    pub fn resources(&self, mesh: &Mesh) -> MeshResources {
        mesh.resources(&ListenerOptions::default())
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.side.ports.http)
    }

    /// `{m}` becomes the name of the case's model, `{id}` the case's id.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{m}", &self.id).replace("{id}", &self.id)
    }

    /// One request over a connection of its own: notes reply and fate.
    pub fn ask(&mut self, raw: &str) -> Reply {
        self.ask_bytes(self.fill(raw).as_bytes())
    }

    pub fn ask_bytes(&mut self, raw: &[u8]) -> Reply {
        let mut client = self.connect();
        client.send(raw);
        let reply = client.reply(raw.starts_with(b"HEAD "));
        self.note_reply(reply.as_ref());
        if let Some(reply) = &reply {
            let announced = announced(reply);
            let fate = client.fate(announced);
            self.note("connection", fate);
        } else {
            let (rest, end) = client.rest(Duration::from_millis(100));
            self.note("connection", format!("{end:?}, {} bytes", rest.len()));
        }
        reply.unwrap_or_default()
    }

    /// A request whose reply alone is of interest.
    pub fn get(&mut self, path: &str, headers: &str) -> Reply {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: h.example\r\n{headers}\r\n"))
    }

    /// The usual request: an inference of the case's model.
    pub fn infer(&mut self, headers: &str) -> Reply {
        self.ask(&format!(
            "POST /v2/models/{{m}}/infer HTTP/1.1\r\nhost: h.example\r\ncontent-type: application/json\r\n{headers}content-length: 2\r\n\r\n{{}}"
        ))
    }

    pub fn note_reply(&mut self, reply: Option<&Reply>) {
        match reply {
            None => self.note("<", "no reply"),
            Some(reply) => {
                for line in reply.lines() {
                    self.note("reply", line);
                }
            }
        }
    }

    /// Notes what an upstream received.
    pub fn note_received(&mut self, upstream: &Upstream) {
        let received = upstream.received();
        self.note("upstream requests", received.len());
        for request in received {
            for line in request.lines() {
                self.note("upstream", line);
            }
            if let Some(ended) = request.ended {
                self.note("upstream", ended);
            }
        }
    }

    /// Notes the lines of the access log that carry the case's id as
    /// `x-request-id`.
    pub fn note_log(&mut self, log: &str, count: usize) -> Vec<String> {
        let needle = format!("\"{}\"", self.id);
        let lines: Vec<String> =
            self.side.log_lines(log, &needle, count).iter().map(|l| mask_log(l)).collect();
        self.note(log, format!("{} lines", lines.len()));
        for line in &lines {
            self.note(log, line);
        }
        lines
    }

    /// Counters and gauges whose name contains `filter`, once they rest: a
    /// request is counted after its reply.
    pub fn stats(&self, filter: &str) -> BTreeMap<String, u64> {
        let mut last = self.side.stats(filter);
        loop {
            std::thread::sleep(Duration::from_millis(60));
            let next = self.side.stats(filter);
            if next == last {
                return next;
            }
            last = next;
        }
    }

    /// Notes all counters and gauges of a cluster's connections and requests that
    /// differ from `before`.
    pub fn note_changes(&mut self, filter: &str, before: &BTreeMap<String, u64>) {
        for (name, after) in self.stats(filter) {
            let change = after as i64 - before.get(&name).copied().unwrap_or(0) as i64;
            if change != 0 && name.contains(".upstream_") {
                self.note("changed", format!("{name} {change:+}"));
            }
        }
    }

    /// Notes how counters and gauges differ from `before`, of those in `names`.
    pub fn note_stats(
        &mut self,
        filter: &str,
        before: &BTreeMap<String, u64>,
        names: &[&str],
    ) -> BTreeMap<String, i64> {
        let after = self.stats(filter);
        let mut changes = BTreeMap::new();
        for name in names {
            let full = format!("{filter}{name}");
            let value = |of: &BTreeMap<String, u64>| of.get(&full).copied().unwrap_or(0) as i64;
            let change = value(&after) - value(before);
            self.note("stat", format!("{full} {change:+}"));
            changes.insert((*name).to_owned(), change);
        }
        changes
    }
}

pub fn announced(reply: &Reply) -> bool {
    reply.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) || reply.cut
}

/// `[time] "request" code grpc flags received sent DURATION UPSTREAM ...`, times
/// masked.
fn mask_log(line: &str) -> String {
    let Some((_, rest)) = line.split_once("] ") else { return line.to_owned() };
    let Some(end) = rest.rfind("\" ").and_then(|_| rest[1..].find("\" ")) else {
        return rest.to_owned();
    };
    let (request, rest) = rest.split_at(end + 3);
    let mut fields: Vec<&str> = rest.splitn(8, ' ').collect();
    for index in [5, 6] {
        if fields.get(index).is_some_and(|f| f.bytes().all(|b| b.is_ascii_digit())) {
            fields[index] = "*";
        }
    }
    format!("[*] {request}{}", fields.join(" "))
}

pub fn model(name: &str, ports: &[u16]) -> Model {
    version(name, 1, ports).into()
}

pub fn version(name: &str, number: u32, ports: &[u16]) -> ModelVersion {
    let backends = ports.iter().map(|port| Backend::new("127.0.0.1", *port, *port)).collect();
    ModelVersion::new(name, number, backends)
}

/// Shortens a route's retry back-off so that six attempts take milliseconds.
pub fn hasten(route: &mut Route) {
    if let Some(route::Action::Route(action)) = &mut route.action
        && let Some(back_off) =
            action.retry_policy.as_mut().and_then(|policy| policy.retry_back_off.as_mut())
    {
        back_off.base_interval = Some(protobuf::Duration { seconds: 0, nanos: 2_000_000 });
    }
}

/// Replaces the cluster of a route.
pub fn set_cluster(route: &mut Route, cluster: &str) {
    if let Some(route::Action::Route(action)) = &mut route.action {
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster.to_owned()));
    }
}

/// Runs a case against one side.
pub fn run(side: &Side, id: &str, case: &Arc<dyn Fn(&mut Probe<'_>) + Send + Sync>) -> Transcript {
    let mut probe = Probe::new(side, id);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut probe)));
    let mut transcript = probe.transcript;
    if let Err(panic) = result {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        transcript.unmet.push(format!("the case broke off: {text}"));
    }
    transcript
}
