//! Everything at once: a whole mesh to its resources.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::{
    Experiment, ListenerOptions, MIRROR_TABLE, Model, Pipeline, ROUTE_TABLE, RouteEntry, listeners,
    mirror_clusters, model_clusters, pipeline_clusters, route_table,
};

/// Models, experiments and pipelines that are served together.
///
/// Names are expected to be unique within each kind; of two things with one
/// name the later one counts. A model that is the default of an experiment has
/// that experiment's split instead of its own route.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Models.
    pub models: Vec<Model>,
    /// Experiments.
    pub experiments: Vec<Experiment>,
    /// Pipelines.
    pub pipelines: Vec<Pipeline>,
}

/// What a mesh is to the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshResources {
    /// `mirror_http`, `mirror_grpc` and two clusters for every model version and
    /// pipeline.
    pub clusters: Vec<Cluster>,
    /// Table `listener_0`.
    pub routes: RouteConfiguration,
    /// Table `listener_1`.
    pub mirrors: RouteConfiguration,
    /// `seldon_http` and `seldon_mirrors`.
    pub listeners: Vec<Listener>,
}

impl Mesh {
    /// The resources, routes ordered by name.
    #[must_use]
    pub fn resources(&self, options: &ListenerOptions) -> MeshResources {
        let entries = self.entries();
        let routes = entries.values().flat_map(RouteEntry::routes).collect();
        let mirrors = entries.values().flat_map(RouteEntry::mirror_routes).collect();
        MeshResources {
            clusters: self.clusters(options),
            routes: route_table(ROUTE_TABLE, routes),
            mirrors: route_table(MIRROR_TABLE, mirrors),
            listeners: listeners(options),
        }
    }

    /// The entries of the route tables by value of `seldon-model`.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, RouteEntry> {
        let models: HashMap<&str, &Model> =
            self.models.iter().map(|m| (m.latest.name.as_str(), m)).collect();
        let find = |name: &str| models.get(name).copied();
        let of_models = models.values().map(|m| RouteEntry::model(m));
        let of_pipelines = self.pipelines.iter().map(|p| RouteEntry::pipeline(&p.name));
        let of_experiments = self.experiments.iter().flat_map(|e| {
            let own = RouteEntry::experiment(e, find);
            std::iter::once(own).chain(RouteEntry::experiment_default(e, find))
        });
        let all = of_models.chain(of_pipelines).chain(of_experiments);
        all.map(|entry| (entry.key.clone(), entry)).collect()
    }

    fn clusters(&self, options: &ListenerOptions) -> Vec<Cluster> {
        let mirrors = mirror_clusters(&options.mirror_host, options.mirror_port);
        let of_models = self.models.iter().flat_map(|model| {
            let versions = model.previous.iter().chain([&model.latest]);
            versions.flat_map(model_clusters)
        });
        let of_pipelines = self.pipelines.iter().flat_map(pipeline_clusters);
        mirrors.into_iter().chain(of_models).chain(of_pipelines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, ExperimentKind, ModelVersion};
    use super::*;

    fn version(name: &str, version: u32) -> ModelVersion {
        ModelVersion::new(name, version, vec![Backend::new("127.0.0.1", 9101, 9501)])
    }

    fn weights(entry: &RouteEntry) -> Vec<(&str, u32)> {
        entry.arms.iter().map(|arm| (arm.label.as_str(), arm.weight)).collect()
    }

    #[test]
    fn an_experiments_default_takes_over_the_models_own_name() {
        let mesh = Mesh {
            models: vec![version("a", 1).into(), version("b", 3).into()],
            experiments: vec![Experiment {
                name: "e".into(),
                default: Some("a".into()),
                candidates: vec![("a".into(), 70), ("b".into(), 30)],
                ..Experiment::default()
            }],
            ..Mesh::default()
        };
        let entries = mesh.entries();
        assert_eq!(weights(&entries["a"]), [("a_1", 70), ("b_3", 30)]);
        assert_eq!(weights(&entries["e.experiment"]), [("a_1", 70), ("b_3", 30)]);
        assert_eq!(weights(&entries["b"]), [("b_3", 100)]);
        assert_eq!(entries["a"].routes().len(), 6, "two sticky pairs, then the plain pair");
        assert_eq!(entries["b"].routes().len(), 2);
    }

    #[test]
    fn a_roll_splits_by_replicas_and_rounds_the_old_version_down() {
        let mut latest = version("a", 2);
        latest.backends.push(Backend::new("127.0.0.2", 9101, 9501));
        let model = Model { latest, previous: Some(version("a", 1)) };
        assert_eq!(weights(&RouteEntry::model(&model)), [("a_1", 33), ("a_2", 67)]);
    }

    #[test]
    fn a_pipeline_experiment_has_nameless_arms_of_weight_zero() {
        let experiment = Experiment {
            name: "e".into(),
            kind: ExperimentKind::Pipeline,
            candidates: vec![("p".into(), 50), ("q".into(), 50)],
            ..Experiment::default()
        };
        let entry = RouteEntry::experiment(&experiment, |_| None);
        let expected = [(".pipeline", 0), (".pipeline", 0), ("p.pipeline", 50), ("q.pipeline", 50)];
        assert_eq!(weights(&entry), expected);
        assert_eq!(entry.routes().len(), 10);
    }

    #[test]
    fn a_rewrite_is_told_per_cluster_of_the_route() {
        let mut plain = ModelVersion::unversioned("a", vec![]);
        plain.rewrite = Some("a-v7".into());
        let other = ModelVersion::unversioned("b", vec![]);
        let experiment = Experiment {
            name: "e".into(),
            candidates: vec![("a".into(), 1), ("b".into(), 1)],
            ..Experiment::default()
        };
        let (a, b) = (Model::from(plain), Model::from(other));
        let find = |name: &str| if name == "a" { Some(&a) } else { Some(&b) };
        let routes = RouteEntry::experiment(&experiment, find).routes();
        let told: Vec<bool> = routes.iter().map(|r| r.metadata.is_some()).collect();
        assert_eq!(told, [true, true, false, false, true, true]);
        let metadata = routes[5].metadata.as_ref().expect("the plain gRPC route is told");
        let text = format!("{:?}", metadata.filter_metadata[super::super::METADATA_KEY]);
        assert!(text.contains("a_grpc") && text.contains("a-v7") && !text.contains("b_grpc"));
    }
}
