//! Single documents of a native file.

use std::net::SocketAddr;

use super::native::{FileExperiment, FileModel, FileSettings, Placed, Reading};
use super::yaml::{Kind, Node};
use crate::seldon::listener::AccessLogOptions;
use crate::seldon::{Backend, Experiment, ExperimentKind, Model, ModelVersion, Pipeline};

/// A path in a document, node by node, with the line for messages.
struct At<'a> {
    node: Option<&'a Node>,
    line: usize,
    path: String,
}

impl<'a> At<'a> {
    fn top(node: &'a Node) -> Self {
        Self { node: Some(node), line: node.line, path: String::new() }
    }

    fn at(&self, key: &str) -> At<'a> {
        let path = super::proto_json::join(&self.path, key);
        let entry = self.node.and_then(|n| n.entries().iter().find(|e| e.key == key));
        match entry {
            Some(entry) => {
                let node = Some(&entry.value).filter(|n| n.kind != Kind::Null);
                At { node, line: entry.line, path }
            }
            None => At { node: None, line: self.line, path },
        }
    }

    fn items(&self, reading: &mut Reading) -> Vec<At<'a>> {
        match self.node.map(|n| (&n.kind, n)) {
            None => Vec::new(),
            Some((Kind::List(items), _)) => items
                .iter()
                .enumerate()
                .map(|(i, item)| At {
                    node: Some(item),
                    line: item.line,
                    path: format!("{}[{i}]", self.path),
                })
                .collect(),
            Some((_, node)) => {
                self.wrong(reading, format!("{} instead of a list", node.describe()));
                Vec::new()
            }
        }
    }

    fn wrong(&self, reading: &mut Reading, message: impl Into<String>) {
        reading.problem(self.line, &self.path, message);
    }

    fn text(&self, reading: &mut Reading) -> Option<String> {
        match self.node.map(|n| (&n.kind, n)) {
            None => None,
            Some((Kind::String(text), _)) => Some(text.clone()),
            Some((_, node)) => {
                self.wrong(reading, format!("{} instead of a text", node.describe()));
                None
            }
        }
    }

    fn number(&self, reading: &mut Reading) -> Option<u32> {
        let node = self.node?;
        let number = match &node.kind {
            Kind::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        if number.is_none() {
            let message = format!("{} is not a whole number from 0 to 2^32-1", node.describe());
            self.wrong(reading, message);
        }
        number
    }

    fn boolean(&self, reading: &mut Reading) -> bool {
        match self.node.map(|n| (&n.kind, n)) {
            None => false,
            Some((Kind::Bool(value), _)) => *value,
            Some((_, node)) => {
                self.wrong(reading, format!("{} is neither true nor false", node.describe()));
                false
            }
        }
    }

    fn socket(&self, reading: &mut Reading) -> Option<SocketAddr> {
        let text = self.text(reading)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.wrong(reading, format!("'{text}' is not an address like 0.0.0.0:9000"));
        }
        address
    }

    /// `host:port` of an endpoint.
    fn endpoint(&self, reading: &mut Reading) -> Option<(String, u16)> {
        let text = self.text(reading)?;
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            let host = match host.strip_prefix('[') {
                Some(v6) => v6.strip_suffix(']').filter(|v6| v6.contains(':'))?,
                None => host,
            };
            let bare = text.starts_with('[') || !host.contains(':');
            let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
            let port = port.parse().ok().filter(|p| *p > 0)?;
            (bare && plain).then(|| (host.to_owned(), port))
        });
        if parts.is_none() {
            self.wrong(reading, format!("'{text}' is not an endpoint like host:8080"));
        }
        parts
    }
}

/// The name of a document; `None` after a problem.
fn name(reading: &mut Reading, document: &At<'_>) -> Option<String> {
    let at = document.at("metadata").at("name");
    let name = at.text(reading);
    match &name {
        None if at.node.is_none() => at.wrong(reading, "is missing"),
        None => {}
        Some(text) => {
            let bad = |c: char| c.is_whitespace() || c.is_control() || "/:,?#".contains(c);
            if text.is_empty() || text.contains(bad) {
                at.wrong(reading, format!("'{text}' is not a name"));
                return None;
            }
            if text.ends_with(".experiment") || text.ends_with(".pipeline") {
                at.wrong(reading, format!("'{text}' ends like an experiment's or pipeline's key"));
                return None;
            }
        }
    }
    name
}

fn backends(reading: &mut Reading, list: &At<'_>) -> Vec<Backend> {
    let mut all = Vec::new();
    for item in list.items(reading) {
        let (http, grpc) = (item.at("http"), item.at("grpc"));
        if http.node.is_none() && grpc.node.is_none() {
            item.wrong(reading, "needs 'http' or 'grpc' with host:port");
            continue;
        }
        let backend = |host, http_port, grpc_port| Backend { host, http_port, grpc_port };
        match (http.endpoint(reading), grpc.endpoint(reading)) {
            (Some((host, port)), Some((grpc_host, grpc_port))) if host == grpc_host => {
                all.push(backend(host, Some(port), Some(grpc_port)));
            }
            (http, grpc) => {
                all.extend(http.map(|(host, port)| backend(host, Some(port), None)));
                all.extend(grpc.map(|(host, port)| backend(host, None, Some(port))));
            }
        }
    }
    all
}

/// Reads a `Model`.
pub(super) fn model(reading: &mut Reading, node: &Node) {
    let document = At::top(node);
    let spec = document.at("spec");
    let name = name(reading, &document);
    let version = spec.at("version").number(reading);
    if version == Some(0) {
        spec.at("version").wrong(reading, "'0' is not a number from 1");
    }
    let model_name = spec.at("modelName").text(reading);
    if let Some(text) = &model_name
        && (text.is_empty() || text.contains(|c: char| c.is_whitespace() || "/?#".contains(c)))
    {
        spec.at("modelName").wrong(reading, format!("'{text}' is not a name"));
    }
    let before = reading.problems.len();
    let backends = backends(reading, &spec.at("endpoints"));
    let has_endpoints = !backends.is_empty() || reading.problems.len() > before;
    let log_payloads = spec.at("logger").node.is_some();
    if let Some(name) = name {
        let thing = FileModel { name, version, model_name, backends, has_endpoints, log_payloads };
        reading.models.push(Placed { line: node.line, thing });
    }
}

/// What tells a model's versions apart.
pub(super) fn label(model: &FileModel) -> String {
    match model.version {
        Some(version) => format!("{}_{version}", model.name),
        None => model.name.clone(),
    }
}

/// The model with endpoints and the name that `rewrite` puts into requests.
pub(super) fn finish(model: FileModel, default_endpoints: &[Backend]) -> Model {
    let backends = match model.backends.is_empty() {
        true => default_endpoints.to_vec(),
        false => model.backends.clone(),
    };
    let label = label(&model);
    Model::from(ModelVersion {
        rewrite: Some(model.model_name.unwrap_or_else(|| label.clone())),
        log_payloads: model.log_payloads,
        ..match model.version {
            Some(version) => ModelVersion::new(model.name, version, backends),
            None => ModelVersion::unversioned(model.name, backends),
        }
    })
}

/// Reads an `Experiment`.
pub(super) fn experiment(reading: &mut Reading, node: &Node) {
    let document = At::top(node);
    let spec = document.at("spec");
    let name = name(reading, &document);
    let kind_at = spec.at("resourceType");
    let kind = match kind_at.text(reading).as_deref() {
        None | Some("" | "model") => ExperimentKind::Model,
        Some("pipeline") => ExperimentKind::Pipeline,
        Some(other) => {
            kind_at.wrong(reading, format!("'{other}' is neither model nor pipeline"));
            return;
        }
    };
    let before = reading.problems.len();
    let list = spec.at("candidates");
    let mut candidates = Vec::new();
    let mut candidate_lines = Vec::new();
    for item in list.items(reading) {
        let candidate = required(reading, &item.at("name"), At::text);
        let weight = required(reading, &item.at("weight"), At::number);
        if let (Some(candidate), Some(weight)) = (candidate, weight) {
            candidate_lines.push(item.at("name").line);
            candidates.push((candidate, weight));
        }
    }
    if candidates.is_empty() && reading.problems.len() == before {
        list.wrong(reading, "needs at least one candidate");
    }
    let default_at = spec.at("default");
    let default = default_at.text(reading);
    let mirror_at = spec.at("mirror");
    let mirror = mirror_at.node.and_then(|_| {
        let to = required(reading, &mirror_at.at("name"), At::text);
        let percent = required(reading, &mirror_at.at("percent"), At::number);
        to.zip(percent)
    });
    if reading.problems.len() > before {
        return;
    }
    if let Some(name) = name {
        let thing = FileExperiment {
            experiment: Experiment { name, kind, default, candidates, mirror },
            candidate_lines,
            default_line: default_at.line,
            mirror_line: mirror_at.line,
        };
        reading.experiments.push(Placed { line: node.line, thing });
    }
}

fn required<'a, T>(
    reading: &mut Reading,
    at: &At<'a>,
    read: impl Fn(&At<'a>, &mut Reading) -> Option<T>,
) -> Option<T> {
    if at.node.is_none() {
        at.wrong(reading, "is missing");
        return None;
    }
    read(at, reading)
}

/// Reads a `Pipeline`.
pub(super) fn pipeline(reading: &mut Reading, node: &Node) {
    let document = At::top(node);
    let name = name(reading, &document);
    let list = document.at("spec").at("endpoints");
    let before = reading.problems.len();
    let gateways = backends(reading, &list);
    if gateways.is_empty() && reading.problems.len() == before {
        list.wrong(reading, "is missing: where is the pipeline gateway?");
    }
    if let Some(name) = name {
        reading.pipelines.push(Placed { line: node.line, thing: Pipeline { name, gateways } });
    }
}

/// Reads a `Radiant`.
pub(super) fn settings(reading: &mut Reading, node: &Node) -> FileSettings {
    let spec = At::top(node).at("spec");
    let listen = spec.at("listen");
    let log = spec.at("accessLog");
    let access_log = log.node.map(|_| AccessLogOptions {
        path: log.at("path").text(reading).unwrap_or_else(|| AccessLogOptions::default().path),
        successes: log.at("includeSuccessful").boolean(reading),
    });
    FileSettings {
        http: listen.at("http").socket(reading),
        mirror: listen.at("mirror").socket(reading),
        utility: listen.at("utility").socket(reading),
        admin: listen.at("admin").socket(reading),
        rewrite: spec.at("rewrite").boolean(reading),
        endpoints: backends(reading, &spec.at("endpoints")),
        access_log,
        tap_path_prefix: spec.at("tapPathPrefix").text(reading),
    }
}
