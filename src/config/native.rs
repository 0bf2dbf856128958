//! Native files: the `Model`, `Experiment` and `Pipeline` documents that users
//! write for Seldon, with endpoints, and a `Radiant` document for settings.
//!
//! The result goes through the builder of the embedded scheduler
//! ([`crate::seldon`]), so that tables, sticky routes, names and clusters are
//! the scheduler's own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use prost::Message;

use super::bootstrap::problems as as_error;
use super::fields::FieldEffect;
use super::native_fields::{KINDS, Known, known, names_at};
use super::native_read;
use super::proto_json::{At, join};
use super::settings::{ConfigError, Notice};
use super::yaml::{Kind, Node};
use crate::logic::ads::ResourceType;
use crate::model::{RawResource, RawValue, ResourceSet, Resources};
use crate::seldon::listener::{AccessLogOptions, MIRROR_LISTENER};
use crate::seldon::{Backend, Experiment, ExperimentKind, ListenerOptions, Mesh, Pipeline};
use crate::xds::{Resource, Update};

/// What a native file says.
#[derive(Clone, Debug)]
pub struct NativeFile {
    /// Models, experiments and pipelines.
    pub mesh: Mesh,
    /// Listener addresses, access log and tap.
    pub listeners: ListenerOptions,
    /// `Radiant` document, `spec.rewrite`.
    pub rewrite: bool,
    /// `spec.listen.admin`.
    pub admin: Option<SocketAddr>,
    /// `spec.listen.utility`.
    pub utility: Option<SocketAddr>,
    /// Fields without effect, one notice for each.
    pub notices: Vec<Notice>,
}

impl NativeFile {
    /// Reads a file's text; `name` is used in messages.
    ///
    /// # Errors
    /// Everything that is wrong, with line and field.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        Self::from_documents(name, &super::file::documents(name, text)?)
    }

    pub(super) fn from_documents(name: &str, documents: &[Node]) -> Result<Self, ConfigError> {
        let mut reading = Reading::default();
        for document in documents {
            reading.document(document);
        }
        reading.cross_check();
        if !reading.problems.is_empty() {
            return Err(as_error(name, &reading.problems));
        }
        Ok(reading.finish(name))
    }

    /// The resources to serve, as a scheduler would send them. `rewrite` is
    /// that of the settings: the file's own or `--rewrite`.
    ///
    /// The mirror listener, its table and its clusters are only there if an
    /// experiment has a mirror.
    #[must_use]
    pub fn resources(&self, rewrite: bool) -> Resources {
        let mut mesh = self.mesh.clone();
        if !rewrite {
            mesh.models.iter_mut().for_each(|m| m.latest.rewrite = None);
        }
        let mut built = mesh.resources(&self.listeners);
        let mirrors = self.mesh.experiments.iter().any(|e| e.mirror.is_some());
        if !mirrors {
            built.listeners.retain(|l| l.name != MIRROR_LISTENER);
            built.clusters.retain(|c| {
                ![crate::seldon::cluster::MIRROR_HTTP, crate::seldon::cluster::MIRROR_GRPC]
                    .contains(&c.name.as_str())
            });
        }
        let tables = [&built.routes, &built.mirrors];
        let tables = tables.into_iter().take(if mirrors { 2 } else { 1 });
        Resources {
            clusters: set(built.clusters.iter().map(|c| (c.name.as_str(), c.encode_to_vec()))),
            listeners: set(built.listeners.iter().map(|l| (l.name.as_str(), l.encode_to_vec()))),
            routes: set(tables.map(|t| (t.name.as_str(), t.encode_to_vec()))),
            secrets: ResourceSet::default(),
        }
    }
}

/// Resources as complete updates of the store, in the order in which it wants
/// them (what a table names is there before the table). What a later call does
/// not list is removed.
#[must_use]
pub fn updates(resources: Resources) -> Vec<Update> {
    let Resources { clusters, listeners, routes, secrets } = resources;
    let sets = [
        (ResourceType::Secret, secrets),
        (ResourceType::Cluster, clusters),
        (ResourceType::Listener, listeners),
        (ResourceType::Route, routes),
    ];
    let update = |(kind, set): (ResourceType, ResourceSet)| {
        let each = set.by_name.into_iter();
        let resources = each.map(|(name, raw)| Resource::accepted(name, &raw));
        let update = Update::complete(kind, resources.collect());
        Update { version_info: set.version_info, ..update }
    };
    sets.into_iter().map(update).collect()
}

/// Resources with digests of their bytes as versions, so that what did not
/// change keeps its version.
fn set<'a>(resources: impl Iterator<Item = (&'a str, Vec<u8>)>) -> ResourceSet {
    let updated = SystemTime::now();
    let mut all = ResourceSet::default();
    let mut digest = xxhash_rust::xxh3::Xxh3::new();
    for (name, value) in resources {
        digest.update(name.as_bytes());
        digest.update(&value);
        let version = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&value));
        let resource = RawResource { version, value: RawValue::Message(value.into()), updated };
        all.by_name.insert(name.to_owned(), resource);
    }
    all.version_info = format!("{:016x}", digest.digest());
    all
}

/// A thing of the file and where it stands.
pub(super) struct Placed<T> {
    pub(super) line: usize,
    pub(super) thing: T,
}

/// A model before its endpoints are known.
pub(super) struct FileModel {
    pub(super) name: String,
    pub(super) version: Option<u32>,
    pub(super) model_name: Option<String>,
    pub(super) backends: Vec<Backend>,
    /// Lists endpoints of its own, good or bad ones.
    pub(super) has_endpoints: bool,
    pub(super) log_payloads: bool,
}

/// An experiment with the lines that messages need.
pub(super) struct FileExperiment {
    pub(super) experiment: Experiment,
    pub(super) candidate_lines: Vec<usize>,
    pub(super) default_line: usize,
    pub(super) mirror_line: usize,
}

/// The `Radiant` document.
#[derive(Default)]
pub(super) struct FileSettings {
    pub(super) http: Option<SocketAddr>,
    pub(super) mirror: Option<SocketAddr>,
    pub(super) utility: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) rewrite: bool,
    pub(super) endpoints: Vec<Backend>,
    pub(super) access_log: Option<AccessLogOptions>,
    pub(super) tap_path_prefix: Option<String>,
}

#[derive(Default)]
pub(super) struct Reading {
    pub(super) problems: Vec<At>,
    /// By kind and field: first place, number of documents, reason.
    ignored: Vec<(String, At, usize)>,
    ignored_index: HashMap<String, usize>,
    pub(super) models: Vec<Placed<FileModel>>,
    pub(super) experiments: Vec<Placed<FileExperiment>>,
    pub(super) pipelines: Vec<Placed<Pipeline>>,
    settings: Option<Placed<FileSettings>>,
}

impl Reading {
    pub(super) fn problem(&mut self, line: usize, path: &str, message: impl Into<String>) {
        self.problems.push(At { line, path: path.to_owned(), message: message.into() });
    }

    fn document(&mut self, node: &Node) {
        let kind = match node.at("kind").map(|k| &k.kind) {
            Some(Kind::String(kind)) => kind.as_str(),
            _ => return self.problem(node.line, "kind", "is missing"),
        };
        if kind == "List" {
            let Some(Node { kind: Kind::List(items), .. }) = node.at("items") else {
                return self.problem(node.line, "items", "is not a list");
            };
            return items.iter().for_each(|item| self.document(item));
        }
        if !KINDS.contains(&kind) {
            let line = node.at("kind").map_or(node.line, |k| k.line);
            return self.problem(line, "kind", format!("'{kind}' is none of {}", KINDS.join(", ")));
        }
        let before = self.problems.len();
        self.check_fields(kind, node, "", "");
        if self.problems.len() > before {
            return;
        }
        match kind {
            "Model" => native_read::model(self, node),
            "Experiment" => native_read::experiment(self, node),
            "Pipeline" => native_read::pipeline(self, node),
            _ => {
                let settings = native_read::settings(self, node);
                if let Some(first) = &self.settings {
                    let message = format!("a second 'Radiant' (the first: line {})", first.line);
                    self.problem(node.line, "kind", message);
                } else {
                    self.settings = Some(Placed { line: node.line, thing: settings });
                }
            }
        }
    }

    /// Refuses unknown fields and notes those without effect.
    fn check_fields(&mut self, kind: &str, node: &Node, path: &str, pattern: &str) {
        match &node.kind {
            Kind::Map(entries) => {
                for entry in entries {
                    let (path, below) = (join(path, &entry.key), join(pattern, &entry.key));
                    match known(kind, &below) {
                        Known::Field(field) if field.effect == FieldEffect::Nothing => {
                            self.ignore(kind, entry.line, &path, field.doc);
                        }
                        Known::Field(_) => {}
                        Known::Inside => match &entry.value.kind {
                            Kind::Map(_) | Kind::List(_) | Kind::Null => {
                                self.check_fields(kind, &entry.value, &path, &below);
                            }
                            _ => {
                                let value = entry.value.describe();
                                let message = format!(
                                    "{value} has none of the fields {}",
                                    names_at(kind, &below)
                                );
                                self.problem(entry.line, &path, message);
                            }
                        },
                        Known::Unknown => {
                            let message =
                                format!("unknown field (known: {})", names_at(kind, pattern));
                            self.problem(entry.line, &path, message);
                        }
                    }
                }
            }
            Kind::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    let (path, below) = (format!("{path}[{i}]"), format!("{pattern}[]"));
                    self.check_fields(kind, item, &path, &below);
                }
            }
            _ => {}
        }
    }

    fn ignore(&mut self, kind: &str, line: usize, path: &str, why: &str) {
        let key = format!("{kind} {path}");
        if let Some(&index) = self.ignored_index.get(&key) {
            self.ignored[index].2 += 1;
            return;
        }
        self.ignored_index.insert(key, self.ignored.len());
        let at = At { line, path: path.to_owned(), message: why.to_owned() };
        self.ignored.push((kind.to_owned(), at, 1));
    }

    /// What can only be seen when everything is read.
    fn cross_check(&mut self) {
        let models = self
            .unique("model", |r| r.models.iter().map(|m| (m.thing.name.clone(), m.line)).collect());
        let pipelines = self.unique("pipeline", |r| {
            r.pipelines.iter().map(|p| (p.thing.name.clone(), p.line)).collect()
        });
        self.unique("experiment", |r| {
            r.experiments.iter().map(|e| (e.thing.experiment.name.clone(), e.line)).collect()
        });
        let mut labels: HashMap<String, usize> = HashMap::new();
        for (label, line) in self.labels() {
            if let Some(first) = labels.insert(label.clone(), line)
                && first != line
                && !self.problems.iter().any(|p| p.line == line)
            {
                let message = format!("'{label}' is already what line {first} is called");
                self.problem(line, "spec.version", message);
            }
        }
        let defaults = self.settings.as_ref().is_some_and(|s| !s.thing.endpoints.is_empty());
        let without: Vec<usize> = self
            .models
            .iter()
            .filter(|m| !m.thing.has_endpoints && !defaults)
            .map(|m| m.line)
            .collect();
        for line in without {
            let message = "is missing, and no 'Radiant' document has 'spec.endpoints'";
            self.problem(line, "spec.endpoints", message);
        }
        let experiments = std::mem::take(&mut self.experiments);
        let mut default_of: HashMap<String, usize> = HashMap::new();
        for placed in &experiments {
            self.check_references(placed, &models, &pipelines);
            if let Some(default) = &placed.thing.experiment.default
                && let Some(first) = default_of.insert(default.clone(), placed.line)
            {
                let message =
                    format!("'{default}' is already the default of the experiment in line {first}");
                self.problem(placed.thing.default_line, "spec.default", message);
            }
        }
        self.experiments = experiments;
    }

    fn labels(&self) -> Vec<(String, usize)> {
        self.models.iter().map(|m| (native_read::label(&m.thing), m.line)).collect()
    }

    fn unique(
        &mut self,
        what: &str,
        named: impl Fn(&Self) -> Vec<(String, usize)>,
    ) -> HashMap<String, usize> {
        let mut lines = HashMap::new();
        for (name, line) in named(self) {
            if let Some(first) = lines.insert(name.clone(), line) {
                let message = format!("a second {what} '{name}' (the first: line {first})");
                self.problem(line, "metadata.name", message);
            }
        }
        lines
    }

    fn check_references(
        &mut self,
        placed: &Placed<FileExperiment>,
        models: &HashMap<String, usize>,
        pipelines: &HashMap<String, usize>,
    ) {
        let FileExperiment { experiment, candidate_lines, default_line, mirror_line } =
            &placed.thing;
        let (what, known) = match experiment.kind {
            ExperimentKind::Model => ("model", models),
            ExperimentKind::Pipeline => ("pipeline", pipelines),
        };
        for (i, (name, _)) in experiment.candidates.iter().enumerate() {
            let line = candidate_lines.get(i).copied().unwrap_or(placed.line);
            let path = format!("spec.candidates[{i}].name");
            if !known.contains_key(name) {
                self.problem(line, &path, format!("there is no {what} '{name}'"));
            } else if experiment.candidates[..i].iter().any(|(other, _)| other == name) {
                self.problem(line, &path, format!("'{name}' is a candidate already"));
            }
        }
        let sum: u64 = experiment.candidates.iter().map(|(_, w)| u64::from(*w)).sum();
        if sum == 0 {
            self.problem(placed.line, "spec.candidates", "the sum of the weights is 0");
        } else if sum > u64::from(u32::MAX) {
            self.problem(placed.line, "spec.candidates", "the sum of the weights is over 2^32-1");
        }
        if let Some(default) = &experiment.default
            && !experiment.candidates.iter().any(|(name, _)| name == default)
        {
            let message = format!("'{default}' is no candidate");
            self.problem(*default_line, "spec.default", message);
        }
        if let Some((mirror, percent)) = &experiment.mirror {
            if !known.contains_key(mirror) {
                let message = format!("there is no {what} '{mirror}'");
                self.problem(*mirror_line, "spec.mirror.name", message);
            }
            if !(1..=100).contains(percent) {
                let message = format!("'{percent}' is not a percentage from 1 to 100");
                self.problem(*mirror_line, "spec.mirror.percent", message);
            }
        }
    }

    fn finish(self, name: &str) -> NativeFile {
        let settings = self.settings.map(|s| s.thing).unwrap_or_default();
        let logs = self.models.iter().any(|m| m.thing.log_payloads);
        let models =
            self.models.into_iter().map(|m| native_read::finish(m.thing, &settings.endpoints));
        let mesh = Mesh {
            models: models.collect(),
            experiments: self.experiments.into_iter().map(|e| e.thing.experiment).collect(),
            pipelines: self.pipelines.into_iter().map(|p| p.thing).collect(),
        };
        let scheduler = ListenerOptions::default();
        let host = |a: Option<SocketAddr>, h: String| a.map_or(h, |a| a.ip().to_string());
        let port = |a: Option<SocketAddr>, p: u16| a.map_or(p, |a| a.port());
        let listeners = ListenerOptions {
            http_host: host(settings.http, scheduler.http_host),
            http_port: port(settings.http, scheduler.http_port),
            mirror_host: host(settings.mirror, scheduler.mirror_host),
            mirror_port: port(settings.mirror, scheduler.mirror_port),
            access_log: settings.access_log,
            // The filter lets any client write files: only where asked for.
            tap_path_prefix: match settings.tap_path_prefix {
                None if logs => scheduler.tap_path_prefix,
                asked => asked,
            },
        };
        NativeFile {
            mesh,
            listeners,
            rewrite: settings.rewrite,
            admin: settings.admin,
            utility: settings.utility,
            notices: self.ignored.into_iter().map(|i| notice(name, &i)).collect(),
        }
    }
}

fn notice(name: &str, (kind, at, count): &(String, At, usize)) -> Notice {
    let more = match count {
        1 => String::new(),
        n => format!(" (and in {} more documents)", n - 1),
    };
    Notice {
        setting: format!("{name}:{}: {kind} {}", at.line, at.path),
        message: format!("no effect: {}{more}", at.message),
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
