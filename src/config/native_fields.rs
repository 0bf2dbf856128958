//! The fields of native files: one table for checking and for the reference.

use super::fields::FieldEffect::{self, Natural, Nothing, Used};

/// A field of a native document.
#[derive(Debug)]
pub struct NativeField {
    /// `kind` of the document; empty: of every document.
    pub kind: &'static str,
    /// Path; `[]` stands for any element.
    pub path: &'static str,
    /// What it does here.
    pub effect: FieldEffect,
    /// Meaning, or why it has no effect.
    pub doc: &'static str,
}

const fn field(
    kind: &'static str,
    path: &'static str,
    effect: FieldEffect,
    doc: &'static str,
) -> NativeField {
    NativeField { kind, path, effect, doc }
}

const NOT_LOADED: &str = "Radiant loads no models; the model servers do";
const NOT_SCHEDULED: &str = "nothing is scheduled in file mode; endpoints are listed";
const NO_DATAFLOW: &str = "the pipeline gateway runs the steps";

/// Every field that is known. Others are refused.
pub const NATIVE_FIELDS: &[NativeField] = &[
    field("", "apiVersion", Used, "`mlops.seldon.io/v1alpha1`, or `radiant/v1` of `Radiant`."),
    field("", "kind", Used, "`Model`, `Experiment`, `Pipeline`, `Radiant`, or a `List` of them."),
    field(
        "",
        "metadata.name",
        Used,
        "Name: the value of `seldon-model` (with `.experiment` or `.pipeline` for those kinds).",
    ),
    field("", "metadata.namespace", Natural, "One file is one namespace."),
    field("", "metadata.labels", Natural, "For people and other tools."),
    field("", "metadata.annotations", Natural, "For people and other tools."),
    field("", "metadata.creationTimestamp", Natural, "Written by Kubernetes."),
    field("", "metadata.finalizers", Natural, "Written by Kubernetes."),
    field("", "metadata.generation", Natural, "Written by Kubernetes."),
    field("", "metadata.managedFields", Natural, "Written by Kubernetes."),
    field("", "metadata.ownerReferences", Natural, "Written by Kubernetes."),
    field("", "metadata.resourceVersion", Natural, "Written by Kubernetes."),
    field("", "metadata.uid", Natural, "Written by Kubernetes."),
    field("", "status", Natural, "Written by Kubernetes."),
    // Model
    field("Model", "spec.endpoints[].http", Used, "`host:port` of the V2 REST protocol."),
    field("Model", "spec.endpoints[].grpc", Used, "`host:port` of the V2 gRPC protocol."),
    field(
        "Model",
        "spec.modelName",
        Used,
        "Name of the model on its servers, put into requests by `rewrite`. Default: `<name>_<version>` with `version`, else the name.",
    ),
    field(
        "Model",
        "spec.version",
        Used,
        "Number from 1. With it, the model is called `<name>_<version>` in `x-seldon-route` and in cluster names, as the scheduler calls it; without, by its name.",
    ),
    field(
        "Model",
        "spec.logger",
        Used,
        "If present, payloads are logged by the tap filter, as with the scheduler.",
    ),
    field("Model", "spec.storageUri", Nothing, NOT_LOADED),
    field("Model", "spec.artifactVersion", Nothing, NOT_LOADED),
    field("Model", "spec.modelType", Nothing, NOT_LOADED),
    field("Model", "spec.schemaUri", Nothing, NOT_LOADED),
    field("Model", "spec.secretName", Nothing, NOT_LOADED),
    field("Model", "spec.parameters", Nothing, NOT_LOADED),
    field("Model", "spec.preloaded", Nothing, NOT_LOADED),
    field("Model", "spec.explainer", Nothing, NOT_LOADED),
    field("Model", "spec.llm", Nothing, NOT_LOADED),
    field("Model", "spec.requirements", Nothing, NOT_SCHEDULED),
    field("Model", "spec.memory", Nothing, NOT_SCHEDULED),
    field("Model", "spec.server", Nothing, NOT_SCHEDULED),
    field("Model", "spec.dedicated", Nothing, NOT_SCHEDULED),
    field("Model", "spec.replicas", Nothing, NOT_SCHEDULED),
    field("Model", "spec.minReplicas", Nothing, NOT_SCHEDULED),
    field("Model", "spec.maxReplicas", Nothing, NOT_SCHEDULED),
    field("Model", "spec.dataflow", Nothing, NO_DATAFLOW),
    // Experiment
    field("Experiment", "spec.candidates[].name", Used, "A model (or pipeline) of this file."),
    field(
        "Experiment",
        "spec.candidates[].weight",
        Used,
        "Share, a whole number. The sum must be more than 0.",
    ),
    field(
        "Experiment",
        "spec.default",
        Used,
        "The candidate whose own name is split in the same way.",
    ),
    field(
        "Experiment",
        "spec.mirror.name",
        Used,
        "Model (or pipeline) that gets a copy of requests.",
    ),
    field(
        "Experiment",
        "spec.mirror.percent",
        Used,
        "Percentage of requests that are copied, 1 to 100.",
    ),
    field("Experiment", "spec.resourceType", Used, "`model` (default) or `pipeline`."),
    // Pipeline
    field(
        "Pipeline",
        "spec.endpoints[].http",
        Used,
        "`host:port` of a pipeline gateway's REST port.",
    ),
    field(
        "Pipeline",
        "spec.endpoints[].grpc",
        Used,
        "`host:port` of a pipeline gateway's gRPC port.",
    ),
    field("Pipeline", "spec.steps", Nothing, NO_DATAFLOW),
    field("Pipeline", "spec.input", Nothing, NO_DATAFLOW),
    field("Pipeline", "spec.output", Nothing, NO_DATAFLOW),
    field("Pipeline", "spec.dataflow", Nothing, NO_DATAFLOW),
    field("Pipeline", "spec.allowCycles", Nothing, NO_DATAFLOW),
    field("Pipeline", "spec.maxStepRevisits", Nothing, NO_DATAFLOW),
    // Radiant
    field(
        "Radiant",
        "spec.listen.http",
        Used,
        "Address for requests. Default: `0.0.0.0:9000`. A change needs no restart.",
    ),
    field(
        "Radiant",
        "spec.listen.mirror",
        Used,
        "Address of the listener for mirrored requests. Default: `0.0.0.0:9001`.",
    ),
    field(
        "Radiant",
        "spec.listen.utility",
        Used,
        "Address of `/ready` and the statistics. Default: `0.0.0.0:9003`. Read at start.",
    ),
    field(
        "Radiant",
        "spec.listen.admin",
        Used,
        "Admin address. Default: `127.0.0.1:9901`. Read at start.",
    ),
    field(
        "Radiant",
        "spec.rewrite",
        Used,
        "As `--rewrite`: put the chosen model's name into the REST path and into gRPC's `model_name`. Default: false.",
    ),
    field(
        "Radiant",
        "spec.endpoints[].http",
        Used,
        "REST endpoint of models that list none of their own.",
    ),
    field(
        "Radiant",
        "spec.endpoints[].grpc",
        Used,
        "gRPC endpoint of models that list none of their own.",
    ),
    field(
        "Radiant",
        "spec.accessLog.path",
        Used,
        "File of the access log. Without `accessLog`, there is none.",
    ),
    field(
        "Radiant",
        "spec.accessLog.includeSuccessful",
        Used,
        "Log successful requests too. Default: false.",
    ),
    field(
        "Radiant",
        "spec.tapPathPrefix",
        Used,
        "Path prefix of the files that payloads are logged to. Default: `/tmp/request-log`.",
    ),
];

/// Kinds of documents.
pub(super) const KINDS: &[&str] = &["Model", "Experiment", "Pipeline", "Radiant"];

/// What the table says about a path.
pub(super) enum Known {
    /// A field, with all below it.
    Field(&'static NativeField),
    /// Something that has known fields inside.
    Inside,
    /// Nothing.
    Unknown,
}

pub(super) fn known(kind: &str, path: &str) -> Known {
    let mut table = NATIVE_FIELDS.iter().filter(|f| f.kind.is_empty() || f.kind == kind);
    if let Some(field) = table.clone().find(|f| f.path == path) {
        return Known::Field(field);
    }
    let inside = |f: &NativeField| {
        f.path.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']))
    };
    if table.any(inside) { Known::Inside } else { Known::Unknown }
}

/// Names that may stand at a path, for messages.
pub(super) fn names_at(kind: &str, parent: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for field in NATIVE_FIELDS.iter().filter(|f| f.kind.is_empty() || f.kind == kind) {
        let rest = match parent {
            "" => Some(field.path),
            _ => field.path.strip_prefix(parent).and_then(|r| r.strip_prefix('.')),
        };
        let name = rest.map(|r| r.split(['.', '[']).next().unwrap_or(r));
        if let Some(name) = name
            && !names.contains(&name)
            && field.effect == Used
        {
            names.push(name);
        }
    }
    names.join(", ")
}
