//! One value of `seldon-model`: its arms, and how models, experiments and
//! pipelines become such entries.

use super::{Experiment, ExperimentKind, Model, ModelVersion, experiment_key, pipeline_key};

/// One weighted target of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// Value of `seldon-internal-model`, and of `x-seldon-route` between colons.
    pub label: String,
    /// The model's name, which sticky routes add as `seldon-model`; unused for
    /// pipelines.
    pub model: String,
    /// Common part of the names of its two clusters.
    pub cluster_prefix: String,
    /// Share of the traffic, relative to the sum of the arms' weights; for a
    /// mirror the percentage of requests that are copied.
    pub weight: u32,
    /// Model name to put into requests ([`super::METADATA_KEY`]).
    pub rewrite: Option<String>,
}

impl Arm {
    fn model(version: &ModelVersion, weight: u32) -> Self {
        Self {
            label: version.label.clone(),
            model: version.name.clone(),
            cluster_prefix: version.label.clone(),
            weight,
            rewrite: version.rewrite.clone(),
        }
    }

    fn pipeline(name: &str, weight: u32) -> Self {
        Self {
            label: pipeline_key(name),
            model: String::new(),
            cluster_prefix: format!("{name}_pipeline"),
            weight,
            rewrite: None,
        }
    }
}

/// All that the route tables say about one value of `seldon-model`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// The value of `seldon-model`.
    pub key: String,
    /// What the arms are.
    pub kind: ExperimentKind,
    /// Weighted targets in order. With more than one, each also gets a sticky
    /// route.
    pub arms: Vec<Arm>,
    /// Target of copies.
    pub mirror: Option<Arm>,
    /// Some arm wants its payloads logged, so all of the name is.
    pub log_payloads: bool,
}

impl RouteEntry {
    /// A name without arms.
    #[must_use]
    pub fn new(key: String, kind: ExperimentKind) -> Self {
        Self { key, kind, arms: Vec::new(), mirror: None, log_payloads: false }
    }

    /// The entry of a model under its own name.
    #[must_use]
    pub fn model(model: &Model) -> Self {
        let mut entry = Self::new(model.latest.name.clone(), ExperimentKind::Model);
        entry.push_model(model, 100);
        entry
    }

    /// The entry of a pipeline.
    #[must_use]
    pub fn pipeline(name: &str) -> Self {
        let mut entry = Self::new(pipeline_key(name), ExperimentKind::Pipeline);
        entry.arms.push(Arm::pipeline(name, 100));
        entry
    }

    /// The entry of an experiment under `<name>.experiment`. `find` looks up
    /// the models among its candidates and its mirror; those that it does not
    /// know are left out, as the scheduler does with models that are gone.
    pub fn experiment<'a>(
        experiment: &Experiment,
        find: impl Fn(&str) -> Option<&'a Model>,
    ) -> Self {
        Self::split(experiment_key(&experiment.name), experiment, find)
    }

    /// The entry of an experiment's default under that one's own name; none if
    /// it has no default, or if that is a model that is not there.
    pub fn experiment_default<'a>(
        experiment: &Experiment,
        find: impl Fn(&str) -> Option<&'a Model>,
    ) -> Option<Self> {
        let default = experiment.default.as_deref()?;
        let key = match experiment.kind {
            ExperimentKind::Model => find(default)?.latest.name.clone(),
            ExperimentKind::Pipeline => pipeline_key(default),
        };
        Some(Self::split(key, experiment, find))
    }

    fn split<'a>(
        key: String,
        experiment: &Experiment,
        find: impl Fn(&str) -> Option<&'a Model>,
    ) -> Self {
        let mut entry = Self::new(key, experiment.kind);
        match experiment.kind {
            ExperimentKind::Model => entry.split_models(experiment, find),
            ExperimentKind::Pipeline => entry.split_pipelines(experiment),
        }
        entry
    }

    fn split_models<'a>(
        &mut self,
        experiment: &Experiment,
        find: impl Fn(&str) -> Option<&'a Model>,
    ) {
        for (name, weight) in &experiment.candidates {
            if let Some(model) = find(name) {
                self.push_model(model, *weight);
            }
        }
        if let Some((name, percent)) = &experiment.mirror
            && let Some(model) = find(name)
        {
            self.mirror = Some(Arm::model(&model.latest, *percent));
            self.log_payloads |= model.latest.log_payloads;
        }
    }

    /// Pipelines in an experiment come after as many nameless arms of weight 0,
    /// which the scheduler really sends.
    fn split_pipelines(&mut self, experiment: &Experiment) {
        self.arms.extend(experiment.candidates.iter().map(|_| Arm::pipeline("", 0)));
        for (name, weight) in &experiment.candidates {
            self.arms.push(Arm::pipeline(name, *weight));
        }
        if let Some((name, percent)) = &experiment.mirror {
            self.mirror = Some(Arm::pipeline(name, *percent));
        }
    }

    /// During a roll the share of the older version comes first and is rounded
    /// down.
    fn push_model(&mut self, model: &Model, weight: u32) {
        let mut rest = weight;
        if let Some(previous) = &model.previous {
            let replicas = previous.backends.len() as u64;
            let total = (replicas + model.latest.backends.len() as u64).max(1);
            let share = u32::try_from(u64::from(weight) * replicas / total).unwrap_or(weight);
            self.arms.push(Arm::model(previous, share));
            self.log_payloads |= previous.log_payloads;
            rest = weight - share;
        }
        self.arms.push(Arm::model(&model.latest, rest));
        self.log_payloads |= model.latest.log_payloads;
    }
}
