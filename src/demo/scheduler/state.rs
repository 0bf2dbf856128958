//! The scheduler's mind, without time or sockets: operations in, pushes out.
//!
//! What a model does is collected until [`State::flush`] (the scheduler: 250 ms
//! after the first change); experiments and pipelines act at once. The order of
//! steps is the real one, including where it hurts: when a model that is an arm
//! of experiments gets a new version, the old version's clusters are removed
//! before the tables of those experiments stop naming them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::route::v3::Route;
use prost::Message;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use super::cache::{CLUSTER, LISTENER, Push, Resource};
use crate::seldon::{
    Backend, Experiment, ExperimentKind, ListenerOptions, MIRROR_TABLE, Model, ModelVersion,
    Pipeline, ROUTE_TABLE, RouteEntry, experiment_key, listeners, mirror_clusters, model_clusters,
    pipeline_clusters, pipeline_key, route_table,
};

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Loads a model, or gives it a new version if it is there.
    LoadModel(ModelSpec),
    /// Other replicas for a model, same version.
    ScaleModel(String, Vec<Backend>),
    /// Removes a model.
    UnloadModel(String),
    /// Starts an experiment or changes it.
    StartExperiment(Experiment),
    /// Ends an experiment. The routes of a pipeline experiment stay, as with
    /// the real scheduler.
    StopExperiment(String),
    /// Starts a pipeline or changes its gateways.
    StartPipeline(Pipeline),
    /// Ends a pipeline: its clusters go, its routes stay, as with the real
    /// scheduler.
    StopPipeline(String),
}

/// A model to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec {
    /// Its name.
    pub name: String,
    /// Its replicas.
    pub backends: Vec<Backend>,
    /// Payload logging.
    pub log_payloads: bool,
}

/// What waits, for a model, for the end of the batch window.
#[derive(Debug, PartialEq, Eq)]
enum Waiting {
    /// Its clusters and its route.
    Sync,
    /// A second replica's event: the same endpoints in another order.
    Reorder,
    /// Its clusters and its route, and the version before the latest is to go.
    Retire,
    /// It is gone; these clusters are to go.
    Removed(Vec<String>),
}

/// The routes of one name, encoded as fields of a virtual host.
#[derive(Debug)]
struct EncodedEntry {
    routes: Bytes,
    mirrors: Bytes,
    routes_digest: [u8; 32],
    mirrors_digest: [u8; 32],
}

/// Models, experiments and pipelines, and the tables made of them.
#[derive(Debug)]
pub struct State {
    models: BTreeMap<String, (Model, u32)>,
    /// In the order in which they were started first.
    experiments: Vec<Experiment>,
    pipelines: BTreeMap<String, Pipeline>,
    entries: BTreeMap<String, EncodedEntry>,
    waiting: BTreeMap<String, Waiting>,
}

impl State {
    /// Nothing loaded, and the pushes that a scheduler starts with: the
    /// listeners, the mirror clusters and two empty tables.
    #[must_use]
    pub fn new(options: &ListenerOptions) -> (Self, Vec<Push>) {
        let state = Self {
            models: BTreeMap::new(),
            experiments: Vec::new(),
            pipelines: BTreeMap::new(),
            entries: BTreeMap::new(),
            waiting: BTreeMap::new(),
        };
        let listeners = listeners(options).iter().map(|l| encode(&l.name, l)).collect();
        let mirrors = mirror_clusters(&options.mirror_host, options.mirror_port);
        let pushes = vec![Push::Upsert(LISTENER, listeners), upsert(&mirrors), state.tables()];
        (state, pushes)
    }

    /// Does one operation: the pushes that it makes at once.
    pub fn apply(&mut self, operation: Operation) -> Vec<Push> {
        match operation {
            Operation::LoadModel(spec) => self.load_model(spec),
            Operation::ScaleModel(name, backends) => {
                if let Some((model, _)) = self.models.get_mut(&name) {
                    model.latest.backends = backends;
                    if self.waiting.get(&name) != Some(&Waiting::Retire) {
                        self.waiting.insert(name, Waiting::Sync);
                    }
                }
                Vec::new()
            }
            Operation::UnloadModel(name) => self.unload_model(&name),
            Operation::StartExperiment(experiment) => self.start_experiment(experiment),
            Operation::StopExperiment(name) => self.stop_experiment(&name),
            Operation::StartPipeline(pipeline) => {
                let clusters = upsert(&pipeline_clusters(&pipeline));
                self.set_entry(&RouteEntry::pipeline(&pipeline.name));
                self.pipelines.insert(pipeline.name.clone(), pipeline);
                vec![clusters, self.tables()]
            }
            Operation::StopPipeline(name) => match self.pipelines.remove(&name) {
                Some(pipeline) => vec![remove(&pipeline_clusters(&pipeline))],
                None => Vec::new(),
            },
        }
    }

    /// True if something waits for [`State::flush`].
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The end of a batch window: its pushes. Something may wait again after it.
    pub fn flush(&mut self) -> Vec<Push> {
        let waiting = std::mem::take(&mut self.waiting);
        let (mut clusters, mut gone) = (Vec::new(), Vec::new());
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for (name, change) in waiting {
            match change {
                Waiting::Sync => {
                    clusters.extend(self.sync(&name));
                    if self.models.get(&name).is_some_and(|(m, _)| m.latest.backends.len() > 1) {
                        self.waiting.insert(name.clone(), Waiting::Reorder);
                    }
                    changed.push(name);
                }
                Waiting::Reorder => {
                    if let Some((model, _)) = self.models.get_mut(&name) {
                        model.latest.backends.rotate_left(1);
                        clusters.extend(model_clusters(&model.latest));
                    }
                }
                Waiting::Retire => {
                    if let Some((model, _)) = self.models.get_mut(&name) {
                        gone.extend(model.previous.take().iter().flat_map(cluster_names));
                    }
                    clusters.extend(self.sync(&name));
                    changed.push(name);
                }
                Waiting::Removed(names) => {
                    gone.extend(names);
                    removed.push(name);
                }
            }
        }
        self.assemble_flush(&clusters, gone, &changed, &removed)
    }

    /// Clusters in, the models' own routes, clusters out; the experiments of
    /// removed models before the clusters go, those of changed models only then.
    fn assemble_flush(
        &mut self,
        clusters: &[Cluster],
        gone: Vec<String>,
        changed: &[String],
        removed: &[String],
    ) -> Vec<Push> {
        let mut pushes = Vec::new();
        if !clusters.is_empty() {
            pushes.push(upsert(clusters));
        }
        pushes.push(self.tables());
        pushes.extend(self.update_experiments(removed));
        if !gone.is_empty() {
            pushes.push(Push::Remove(CLUSTER, gone));
        }
        pushes.extend(self.update_experiments(changed));
        pushes
    }

    /// What is loaded, for people.
    pub fn models(&self) -> impl Iterator<Item = (&Model, u32)> {
        self.models.values().map(|(model, version)| (model, *version))
    }

    /// A model and its version.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<(&Model, u32)> {
        self.models.get(name).map(|(model, version)| (model, *version))
    }

    /// The experiments that run.
    #[must_use]
    pub fn experiments(&self) -> &[Experiment] {
        &self.experiments
    }

    /// The pipelines that run.
    pub fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.pipelines.values()
    }

    fn load_model(&mut self, spec: ModelSpec) -> Vec<Push> {
        let ModelSpec { name, backends, log_payloads } = spec;
        let mut pushes = Vec::new();
        if self.waiting.contains_key(&name) {
            // What was done to the model before ends first.
            pushes.extend(self.flush());
        }
        let before = self.models.remove(&name);
        let version = before.as_ref().map_or(1, |(_, version)| version + 1);
        let previous = before.map(|(model, _)| model.latest);
        let is_roll = previous.is_some();
        let mut latest = ModelVersion::new(name.clone(), version, backends);
        latest.log_payloads = log_payloads;
        self.models.insert(name.clone(), (Model { latest, previous }, version));
        if is_roll {
            pushes.extend(self.begin_roll(name));
        } else {
            self.waiting.insert(name, Waiting::Sync);
        }
        pushes
    }

    /// The new version is ready beside the old one. Its experiments say so at
    /// once; a model in no experiment only shows when the batch ends.
    fn begin_roll(&mut self, name: String) -> Vec<Push> {
        let models = std::slice::from_ref(&name);
        let mut pushes = Vec::new();
        if !self.experiments_with(models).is_empty() {
            pushes.push(upsert(&self.sync(&name)));
            pushes.extend(self.update_experiments(models));
        }
        self.waiting.insert(name, Waiting::Retire);
        pushes
    }

    fn unload_model(&mut self, name: &str) -> Vec<Push> {
        let Some((model, _)) = self.models.remove(name) else { return Vec::new() };
        let versions = model.previous.iter().chain([&model.latest]);
        let names = versions.flat_map(cluster_names).collect();
        self.waiting.insert(name.to_owned(), Waiting::Removed(names));
        self.entries.remove(name);
        vec![self.tables()]
    }

    /// With a default it is two pushes: the default's own name first.
    fn start_experiment(&mut self, experiment: Experiment) -> Vec<Push> {
        let pushed = experiment.clone();
        let known = self.experiments.iter().position(|e| e.name == experiment.name);
        let before = match known {
            Some(at) => Some(std::mem::replace(&mut self.experiments[at], experiment)),
            None => {
                self.experiments.push(experiment);
                None
            }
        };
        if let Some(before) = before
            && before.default != pushed.default
        {
            self.restore_default(&before);
        }
        self.push_experiment(&pushed)
    }

    fn push_experiment(&mut self, experiment: &Experiment) -> Vec<Push> {
        let mut pushes = Vec::new();
        if let Some(entry) = RouteEntry::experiment_default(experiment, finder(&self.models)) {
            self.set_entry(&entry);
            pushes.push(self.tables());
        }
        let entry = RouteEntry::experiment(experiment, finder(&self.models));
        self.set_entry(&entry);
        pushes.push(self.tables());
        pushes
    }

    fn stop_experiment(&mut self, name: &str) -> Vec<Push> {
        let Some(at) = self.experiments.iter().position(|e| e.name == name) else {
            return Vec::new();
        };
        let experiment = self.experiments.remove(at);
        if experiment.kind == ExperimentKind::Pipeline {
            return Vec::new();
        }
        self.restore_default(&experiment);
        self.entries.remove(&experiment_key(name));
        vec![self.tables()]
    }

    /// The default of an experiment that left gets its own route back.
    fn restore_default(&mut self, experiment: &Experiment) {
        let Some(default) = &experiment.default else { return };
        match experiment.kind {
            ExperimentKind::Model => self.set_own_entry(default),
            ExperimentKind::Pipeline if self.pipelines.contains_key(default) => {
                self.set_entry(&RouteEntry::pipeline(default));
            }
            ExperimentKind::Pipeline => {
                self.entries.remove(&pipeline_key(default));
            }
        }
    }

    /// A model's clusters, its own route being up to date afterwards.
    fn sync(&mut self, name: &str) -> Vec<Cluster> {
        self.set_own_entry(name);
        self.models.get(name).map(|(m, _)| model_clusters(&m.latest).into()).unwrap_or_default()
    }

    /// The entry under a model's own name: its experiment's, if it is the
    /// default of one.
    fn set_own_entry(&mut self, name: &str) {
        let Some((model, _)) = self.models.get(name) else { return };
        let splits =
            |e: &&Experiment| e.kind == ExperimentKind::Model && e.default.as_deref() == Some(name);
        let entry = self
            .experiments
            .iter()
            .find(splits)
            .and_then(|e| RouteEntry::experiment_default(e, finder(&self.models)))
            .unwrap_or_else(|| RouteEntry::model(model));
        self.set_entry(&entry);
    }

    /// Every experiment that has one of these models, one after the other.
    fn update_experiments(&mut self, models: &[String]) -> Vec<Push> {
        if models.is_empty() {
            return Vec::new();
        }
        let experiments = self.experiments_with(models);
        experiments.iter().flat_map(|e| self.push_experiment(e)).collect()
    }

    /// The newest first: the real order is random.
    fn experiments_with(&self, models: &[String]) -> Vec<Experiment> {
        let models: HashSet<&str> = models.iter().map(String::as_str).collect();
        let has = |e: &&Experiment| {
            let mut arms = e.candidates.iter().chain(&e.mirror);
            e.kind == ExperimentKind::Model && arms.any(|(name, _)| models.contains(name.as_str()))
        };
        self.experiments.iter().rev().filter(has).cloned().collect()
    }

    fn set_entry(&mut self, entry: &RouteEntry) {
        self.entries.insert(entry.key.clone(), EncodedEntry::new(entry));
    }

    /// Both tables as they are now. Cheap: the entries are encoded already.
    /// Names are listed in another order after every change.
    fn tables(&self) -> Push {
        let all: Vec<_> = self.entries.values().collect();
        let mut content = Xxh3Default::new();
        all.iter().for_each(|entry| content.update(&entry.routes_digest));
        let order = walk(all.len(), content.digest());
        let entries = || order.iter().map(|at| all[*at]);
        Push::Routes(vec![
            table(ROUTE_TABLE, entries().map(|e| (&e.routes, &e.routes_digest))),
            table(MIRROR_TABLE, entries().map(|e| (&e.mirrors, &e.mirrors_digest))),
        ])
    }
}

/// An order of so many entries, as a Go map gives it: by groups of 8, from any group
/// on, each from the same place in it on.
fn walk(len: usize, draw: u64) -> Vec<usize> {
    const GROUP: usize = 8;
    let groups = len.div_ceil(GROUP);
    let draw = usize::try_from(draw >> 1).unwrap_or_default();
    let group = |i| (draw / GROUP + i) % groups * GROUP;
    let places = (0..groups).flat_map(|i| (0..GROUP).map(move |j| group(i) + (draw + j) % GROUP));
    places.filter(|place| *place < len).collect()
}

fn table<'a>(name: &str, parts: impl Iterator<Item = (&'a Bytes, &'a [u8; 32])>) -> Arc<Resource> {
    let mut digest = Sha256::new();
    digest.update(name);
    let mut pieces = vec![Bytes::new()];
    let mut length = 0;
    for (routes, routes_digest) in parts.filter(|(routes, _)| !routes.is_empty()) {
        digest.update(routes_digest);
        length += routes.len();
        pieces.push(routes.clone());
    }
    pieces[0] = table_head(name, length);
    Resource::in_pieces(name.to_owned(), &digest.finalize(), pieces)
}

impl EncodedEntry {
    fn new(entry: &RouteEntry) -> Self {
        let routes = encode_routes(&entry.routes());
        let mirrors = encode_routes(&entry.mirror_routes());
        let routes_digest = Sha256::digest(&routes).into();
        let mirrors_digest = Sha256::digest(&mirrors).into();
        Self { routes, mirrors, routes_digest, mirrors_digest }
    }
}

fn finder<'a>(models: &'a BTreeMap<String, (Model, u32)>) -> impl Fn(&str) -> Option<&'a Model> {
    move |name| models.get(name).map(|(model, _)| model)
}

fn upsert(clusters: &[Cluster]) -> Push {
    Push::Upsert(CLUSTER, clusters.iter().map(|c| encode(&c.name, c)).collect())
}

fn remove(clusters: &[Cluster]) -> Push {
    Push::Remove(CLUSTER, clusters.iter().map(|c| c.name.clone()).collect())
}

fn cluster_names(version: &ModelVersion) -> [String; 2] {
    [version.http_cluster(), version.grpc_cluster()]
}

fn encode(name: &str, message: &impl Message) -> Arc<Resource> {
    Resource::new(name.to_owned(), message.encode_to_vec())
}

/// Field number of `VirtualHost.routes`.
const ROUTES_FIELD: u32 = 3;
/// Field number of `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS_FIELD: u32 = 2;

fn encode_routes(routes: &[Route]) -> Bytes {
    let mut encoded = Vec::new();
    for route in routes {
        prost::encoding::message::encode(ROUTES_FIELD, route, &mut encoded);
    }
    encoded.into()
}

/// The encoding of a table up to its routes, which take `length` bytes. Its one
/// virtual host comes last in the message, and the routes last in that.
fn table_head(name: &str, length: usize) -> Bytes {
    use prost::encoding::{WireType, encode_key, encode_varint};

    let mut table = route_table(name, Vec::new());
    let host = table.virtual_hosts.pop().unwrap_or_default().encode_to_vec();
    let mut head = table.encode_to_vec();
    encode_key(VIRTUAL_HOSTS_FIELD, WireType::LengthDelimited, &mut head);
    encode_varint((host.len() + length) as u64, &mut head);
    head.extend(host);
    head.into()
}

#[cfg(test)]
mod tests {
    use super::walk;

    #[test]
    fn each_entry_is_listed_once_whatever_the_order() {
        for len in [0, 1, 8, 9, 100] {
            let mut orders = std::collections::BTreeSet::new();
            for draw in (0..2_000).map(|n| n * 977) {
                let mut order = walk(len, draw);
                orders.insert(order.clone());
                order.sort_unstable();
                assert!(order.into_iter().eq(0..len));
            }
            assert!(len < 2 || orders.len() >= len.min(8), "{len}: {} orders", orders.len());
        }
    }
}
