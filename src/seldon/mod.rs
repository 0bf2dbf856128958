//! The resources that the Seldon scheduler makes of models, experiments and
//! pipelines: names, clusters, route tables and listeners, field for field.
//!
//! Pure: data in, Envoy messages out, in time linear in the input. Whoever has
//! models to serve (the embedded scheduler, a file of models) comes through
//! here, so that every source of configuration is read by the same decoder.
//!
//! Three layers, each usable alone:
//!
//! 1. [`Model`], [`Experiment`], [`Pipeline`]: what an operator declares, put
//!    together by [`Mesh`].
//! 2. [`RouteEntry`]: everything the tables say about one value of
//!    `seldon-model`; [`RouteEntry::routes`] and [`RouteEntry::mirror_routes`]
//!    are its lines in `listener_0` and `listener_1`.
//! 3. [`cluster`], [`route`] and [`listener`]: the Envoy messages.

pub mod cluster;
mod entry;
pub mod listener;
mod mesh;
pub mod route;

pub use cluster::{mirror_clusters, model_clusters, pipeline_clusters};
pub use entry::{Arm, RouteEntry};
pub use listener::{ListenerOptions, listeners};
pub use mesh::{Mesh, MeshResources};
pub use route::{MIRROR_TABLE, ROUTE_TABLE, route_table};

/// Key of `Route.metadata.filter_metadata` under which this project keeps what
/// Envoy has no field for. Envoy ignores it.
///
/// Its value is a `Struct` `{ "rewrite": { "<cluster>": "<model name>" } }`:
/// when the request goes to that cluster, the model's name in the HTTP path
/// (`/v2/models/<name>...`) and in the gRPC message (`model_name`) is to be
/// replaced by the given one. Clusters that are not listed keep the request as
/// it is.
pub const METADATA_KEY: &str = "radiant";

/// Field of the [`METADATA_KEY`] struct with the model names by cluster.
pub const METADATA_REWRITE: &str = "rewrite";

/// One replica of a model server or gateway: where its inference ports are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// IP address or DNS name.
    pub host: String,
    /// Port of the V2 REST protocol; none: not an endpoint of the HTTP cluster.
    pub http_port: Option<u16>,
    /// Port of the V2 gRPC protocol; none: not an endpoint of the gRPC cluster.
    pub grpc_port: Option<u16>,
}

impl Backend {
    /// A replica that speaks both protocols.
    pub fn new(host: impl Into<String>, http_port: u16, grpc_port: u16) -> Self {
        Self { host: host.into(), http_port: Some(http_port), grpc_port: Some(grpc_port) }
    }
}

/// One version of a model, with the replicas that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelVersion {
    /// The model's name, the value of `seldon-model` that reaches it.
    pub name: String,
    /// What tells its versions apart: value of `seldon-internal-model`, part of
    /// `x-seldon-route` and prefix of the cluster names.
    pub label: String,
    /// Replicas.
    pub backends: Vec<Backend>,
    /// Payload logging: responses carry `Seldon-Logging`, which the tap filter
    /// looks for.
    pub log_payloads: bool,
    /// Name to put into the path and the gRPC message instead of the one that
    /// the client used ([`METADATA_KEY`]); none: leave the request alone, as
    /// the scheduler does.
    pub rewrite: Option<String>,
}

impl ModelVersion {
    /// A version as the scheduler labels it: `<model>_<version>`.
    pub fn new(name: impl Into<String>, version: u32, backends: Vec<Backend>) -> Self {
        let name = name.into();
        let label = format!("{name}_{version}");
        Self { name, label, backends, log_payloads: false, rewrite: None }
    }

    /// A model that has no versions (file mode): its label is its name.
    pub fn unversioned(name: impl Into<String>, backends: Vec<Backend>) -> Self {
        let name = name.into();
        Self { label: name.clone(), name, backends, log_payloads: false, rewrite: None }
    }

    /// Name of the cluster for REST calls.
    #[must_use]
    pub fn http_cluster(&self) -> String {
        format!("{}_http", self.label)
    }

    /// Name of the cluster for gRPC calls.
    #[must_use]
    pub fn grpc_cluster(&self) -> String {
        format!("{}_grpc", self.label)
    }
}

/// A model: its newest version and, while that one takes over, the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The version to use.
    pub latest: ModelVersion,
    /// The version that still serves while `latest` is being rolled out; the
    /// model's traffic is split between them by their numbers of replicas.
    pub previous: Option<ModelVersion>,
}

impl From<ModelVersion> for Model {
    fn from(latest: ModelVersion) -> Self {
        Self { latest, previous: None }
    }
}

/// What the arms of an experiment are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExperimentKind {
    /// Models.
    #[default]
    Model,
    /// Pipelines.
    Pipeline,
}

/// An experiment: `<name>.experiment` is split between candidates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Experiment {
    /// Its name, without `.experiment`.
    pub name: String,
    /// What its candidates are.
    pub kind: ExperimentKind,
    /// Candidate whose own name is split in the same way.
    pub default: Option<String>,
    /// Candidates with their weights, in order.
    pub candidates: Vec<(String, u32)>,
    /// Model or pipeline that gets a copy of this percentage of the requests.
    pub mirror: Option<(String, u32)>,
}

/// A pipeline: requests go to the pipeline gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Its name, without `.pipeline`.
    pub name: String,
    /// The gateways.
    pub gateways: Vec<Backend>,
}

/// Value of `seldon-model` of an experiment.
#[must_use]
pub fn experiment_key(experiment: &str) -> String {
    format!("{experiment}.experiment")
}

/// Value of `seldon-model` of a pipeline, and its label.
#[must_use]
pub fn pipeline_key(pipeline: &str) -> String {
    format!("{pipeline}.pipeline")
}
