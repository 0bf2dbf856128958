use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::*;

const EXAMPLE: &str = include_str!("../../config/radiant.yaml");

fn parse(text: &str) -> Result<NativeFile, String> {
    NativeFile::parse("f.yaml", text).map_err(|e| e.to_string())
}

fn names(set: &ResourceSet) -> Vec<&str> {
    set.by_name.keys().map(String::as_str).collect()
}

/// Two models and what a test adds.
fn with(document: &str) -> String {
    format!(
        "kind: Model\nmetadata: {{name: a}}\nspec: {{endpoints: [{{http: 'h:1', grpc: 'h:2'}}]}}\n---\n\
         kind: Model\nmetadata: {{name: b}}\nspec: {{endpoints: [{{http: 'h:3'}}]}}\n---\n{document}"
    )
}

#[test]
fn the_example_is_two_models_and_a_split() {
    let file = parse(EXAMPLE).unwrap();
    assert_eq!(file.notices, []);
    assert!(file.rewrite);
    assert_eq!(file.mesh.models.len(), 2);
    let resources = file.resources(true);
    assert_eq!(
        names(&resources.clusters),
        [
            "baseline-predictor_grpc",
            "baseline-predictor_http",
            "enhanced-predictor_grpc",
            "enhanced-predictor_http"
        ]
    );
    assert_eq!(names(&resources.listeners), ["seldon_http"]);
    assert_eq!(names(&resources.routes), ["listener_0"]);
    let table =
        RouteConfiguration::decode(&resources.routes.by_name["listener_0"].value.message()[..])
            .unwrap();
    // Experiment and its default: sticky pairs of two arms and a plain pair
    // each; the other model: a plain pair.
    assert_eq!(table.virtual_hosts[0].routes.len(), 6 + 6 + 2);
}

#[test]
fn the_same_file_gives_the_same_versions() {
    let (one, two) = (parse(EXAMPLE).unwrap(), parse(EXAMPLE).unwrap());
    // Without `rewrite`: a protobuf map with several entries has no fixed order.
    let (one, two) = (one.resources(false), two.resources(false));
    assert_eq!(one.clusters.version_info, two.clusters.version_info);
    assert_eq!(one.routes.version_info, two.routes.version_info);
    let changed = parse(&EXAMPLE.replace("weight: 70", "weight: 10")).unwrap().resources(false);
    assert_eq!(one.clusters.version_info, changed.clusters.version_info);
    assert_ne!(one.routes.version_info, changed.routes.version_info);
}

#[test]
fn rewrite_names_the_model_on_its_servers() {
    let text = "kind: Model\nmetadata: {name: plain}\nspec: {endpoints: [{http: 'h:1'}]}\n---\n\
                kind: Model\nmetadata: {name: versioned}\nspec: {version: 3, endpoints: [{http: 'h:1'}]}\n---\n\
                kind: Model\nmetadata: {name: named}\nspec: {modelName: iris-v7, endpoints: [{http: 'h:1'}]}\n";
    let file = parse(text).unwrap();
    let latest: Vec<_> = file
        .mesh
        .models
        .iter()
        .map(|m| (m.latest.label.as_str(), m.latest.rewrite.as_deref()))
        .collect();
    assert_eq!(
        latest,
        [
            ("plain", Some("plain")),
            ("versioned_3", Some("versioned_3")),
            ("named", Some("iris-v7"))
        ]
    );
    let metadata = |rewrite| {
        let resources = file.resources(rewrite);
        let value = &resources.routes.by_name["listener_0"].value;
        let table = RouteConfiguration::decode(&value.message()[..]).unwrap();
        table.virtual_hosts[0].routes.iter().filter(|r| r.metadata.is_some()).count()
    };
    assert_eq!(metadata(false), 0);
    assert_eq!(metadata(true), 6);
}

#[test]
fn endpoints_of_both_protocols() {
    let text = "kind: Radiant\nspec: {endpoints: [{http: '[::1]:80', grpc: 'all:81'}]}\n---\n\
                kind: Model\nmetadata: {name: a}\nspec: {endpoints: [{http: 'h:1', grpc: 'h:2'}, {grpc: 'g:3'}]}\n---\n\
                kind: Model\nmetadata: {name: b}\n";
    let file = parse(text).unwrap();
    let backends = |i: usize| {
        let list = file.mesh.models[i].latest.backends.iter();
        list.map(|b| (b.host.as_str(), b.http_port, b.grpc_port)).collect::<Vec<_>>()
    };
    assert_eq!(backends(0), [("h", Some(1), Some(2)), ("g", None, Some(3))]);
    assert_eq!(backends(1), [("::1", Some(80), None), ("all", None, Some(81))]);
    let resources = file.resources(false);
    let cluster =
        Cluster::decode(&resources.clusters.by_name["a_http"].value.message()[..]).unwrap();
    let locality = &cluster.load_assignment.unwrap().endpoints[0];
    assert_eq!(locality.lb_endpoints.len(), 1);
}

#[test]
fn mirrors_pipelines_and_settings() {
    let file = parse(&with(
        "kind: Experiment\nmetadata: {name: e}\nspec: {candidates: [{name: a, weight: 1}], mirror: {name: b, percent: 5}}\n---\n\
         kind: Pipeline\nmetadata: {name: p}\nspec: {steps: [{name: a}], output: {steps: [a]}, endpoints: [{http: 'gw:9010', grpc: 'gw:9011'}]}\n---\n\
         kind: Experiment\nmetadata: {name: pe}\nspec: {resourceType: pipeline, candidates: [{name: p, weight: 1}]}\n---\n\
         kind: Radiant\nspec:\n  listen: {http: '127.0.0.1:0', mirror: '127.0.0.1:7001', admin: '127.0.0.1:7901', utility: '0.0.0.0:7003'}\n  tapPathPrefix: /t\n  accessLog: {includeSuccessful: true}\n",
    ))
    .unwrap();
    let resources = file.resources(false);
    assert_eq!(names(&resources.listeners), ["seldon_http", "seldon_mirrors"]);
    assert_eq!(names(&resources.routes), ["listener_0", "listener_1"]);
    assert!(resources.clusters.by_name.contains_key("mirror_http"));
    assert!(resources.clusters.by_name.contains_key("p_pipeline_http"));
    let options = &file.listeners;
    assert_eq!((options.http_host.as_str(), options.http_port), ("127.0.0.1", 0));
    assert_eq!(options.mirror_port, 7001);
    assert_eq!(options.tap_path_prefix.as_deref(), Some("/t"));
    assert!(options.access_log.as_ref().unwrap().successes);
    assert_eq!(file.admin, Some("127.0.0.1:7901".parse().unwrap()));
    assert_eq!(file.utility, Some("0.0.0.0:7003".parse().unwrap()));
}

#[test]
fn the_tap_filter_is_there_only_where_asked_for() {
    let prefix = |text: &str| parse(text).unwrap().listeners.tap_path_prefix;
    assert_eq!(prefix(&with("")), None);
    let logged = "kind: Model\nmetadata: {name: l}\nspec: {logger: {percent: 100}, endpoints: [{http: 'h:1'}]}\n";
    assert_eq!(prefix(logged).as_deref(), Some("/tmp/request-log"));
    assert!(parse(logged).unwrap().mesh.models[0].latest.log_payloads);
}

#[test]
fn what_users_write_for_seldon_is_accepted_and_named() {
    let file = parse(
        "apiVersion: v1\nkind: List\nitems:\n\
         - apiVersion: mlops.seldon.io/v1alpha1\n  kind: Model\n  metadata: {name: a, namespace: seldon-mesh, labels: {x: y}}\n\
        \x20 spec:\n    storageUri: gs://bucket/iris\n    requirements: [sklearn]\n    memory: 100Ki\n    replicas: 2\n    endpoints: [{http: 'h:1'}]\n  status: {replicas: 1}\n\
         - kind: Model\n  metadata: {name: b}\n  spec: {storageUri: gs://bucket/b, endpoints: [{http: 'h:1'}]}\n",
    )
    .unwrap();
    let notices: Vec<_> = file.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "f.yaml:8: Model spec.storageUri: no effect: Radiant loads no models; the model servers do (and in 1 more documents)",
            "f.yaml:9: Model spec.requirements: no effect: nothing is scheduled in file mode; endpoints are listed",
            "f.yaml:10: Model spec.memory: no effect: nothing is scheduled in file mode; endpoints are listed",
            "f.yaml:11: Model spec.replicas: no effect: nothing is scheduled in file mode; endpoints are listed",
        ]
    );
}

#[test]
fn mistakes_have_line_and_field() {
    let experiment =
        |spec: &str| with(&format!("kind: Experiment\nmetadata: {{name: e}}\nspec:\n{spec}"));
    let arms = "  candidates:\n  - {name: a, weight: 1}\n";
    for (text, expected) in [
        ("a: 1\n---\nkind: Radiant", "f.yaml:1: kind: is missing"),
        ("kind: Server", "f.yaml:1: kind: 'Server' is none of Model, Experiment, Pipeline, Radiant"),
        ("kind: Model\nspec: {endpoints: [{http: 'h:1'}]}", "f.yaml:1: metadata.name: is missing"),
        ("kind: Model\nmetadata: {name: 5}", "f.yaml:2: metadata.name: '5' instead of a text"),
        ("kind: Model\nmetadata: {name: a/b}", "f.yaml:2: metadata.name: 'a/b' is not a name"),
        (
            "kind: Model\nmetadata: {name: a.experiment}",
            "f.yaml:2: metadata.name: 'a.experiment' ends like an experiment's or pipeline's key",
        ),
        (
            "kind: Model\nmetadata: {name: a}\nspec:\n  storageUrl: x",
            "f.yaml:4: spec.storageUrl: unknown field (known: endpoints, modelName, version, logger)",
        ),
        (
            "kind: Model\nmetadata: {name: a}\nspec:\n  endpoints:\n  - http: h:1\n    https: h:2",
            "f.yaml:6: spec.endpoints[0].https: unknown field (known: http, grpc)",
        ),
        (
            "kind: Model\nmetadata: {name: a}\nspec: {}",
            "f.yaml:1: spec.endpoints: is missing, and no 'Radiant' document has 'spec.endpoints'",
        ),
        (
            "kind: Model\nmetadata: {name: a}\nspec:\n  endpoints:\n  - http: localhost",
            "f.yaml:5: spec.endpoints[0].http: 'localhost' is not an endpoint like host:8080",
        ),
        (
            "kind: Model\nmetadata: {name: a}\nspec: {endpoints: ['h:1']}",
            "f.yaml:3: spec.endpoints[0]: needs 'http' or 'grpc' with host:port",
        ),
        ("kind: Radiant\nspec: 5", "f.yaml:2: spec: '5' has none of the fields listen, rewrite, endpoints, accessLog, tapPathPrefix"),
        ("kind: Radiant\nspec: {rewrite: yes}", "f.yaml:2: spec.rewrite: 'yes' is neither true nor false"),
        (
            "kind: Radiant\nspec:\n  listen:\n    http: '9000'",
            "f.yaml:4: spec.listen.http: '9000' is not an address like 0.0.0.0:9000",
        ),
        ("kind: Radiant\n---\nkind: Radiant", "f.yaml:3: kind: a second 'Radiant' (the first: line 1)"),
        (
            &with("kind: Model\nmetadata: {name: a}\nspec: {endpoints: [{http: 'h:1'}]}"),
            "f.yaml:9: metadata.name: a second model 'a' (the first: line 1)",
        ),
        (
            &with("kind: Model\nmetadata: {name: a_1}\nspec: {endpoints: [{http: 'h:1'}]}\n---\nkind: Model\nmetadata: {name: a}\nspec: {version: 1, endpoints: [{http: 'h:1'}]}").replace("{name: a}\nspec: {endpoints: [{http: 'h:1', grpc", "{name: c}\nspec: {endpoints: [{http: 'h:1', grpc"),
            "f.yaml:13: spec.version: 'a_1' is already what line 9 is called",
        ),
        (
            &experiment("  candidates:\n  - name: a\n    weight: 70\n  - name: nobody\n    weight: 30"),
            "f.yaml:15: spec.candidates[1].name: there is no model 'nobody'",
        ),
        (
            &experiment("  candidates:\n  - {name: a, weight: 0}\n  - {name: b, weight: 0}"),
            "f.yaml:9: spec.candidates: the sum of the weights is 0",
        ),
        (
            &experiment("  candidates:\n  - {name: a, weight: 4294967295}\n  - {name: b, weight: 1}"),
            "f.yaml:9: spec.candidates: the sum of the weights is over 2^32-1",
        ),
        (
            &experiment("  candidates:\n  - {name: a, weight: 1}\n  - {name: a, weight: 1}"),
            "f.yaml:14: spec.candidates[1].name: 'a' is a candidate already",
        ),
        (&experiment("  candidates: []"), "f.yaml:12: spec.candidates: needs at least one candidate"),
        (&experiment("  candidates: [{name: a}]"), "f.yaml:12: spec.candidates[0].weight: is missing"),
        (
            &experiment("  candidates:\n  - name: a\n    weight: 1.5"),
            "f.yaml:14: spec.candidates[0].weight: '1.5' is not a whole number from 0 to 2^32-1",
        ),
        (
            &experiment("  candidates:\n  - name: a\n    weight: -1"),
            "f.yaml:14: spec.candidates[0].weight: '-1' is not a whole number from 0 to 2^32-1",
        ),
        (&experiment(&format!("{arms}  default: b")), "f.yaml:14: spec.default: 'b' is no candidate"),
        (
            &experiment(&format!("{arms}  mirror: {{name: nobody, percent: 10}}")),
            "f.yaml:14: spec.mirror.name: there is no model 'nobody'",
        ),
        (
            &experiment(&format!("{arms}  mirror: {{name: b, percent: 0}}")),
            "f.yaml:14: spec.mirror.percent: '0' is not a percentage from 1 to 100",
        ),
        (
            &experiment(&format!("{arms}  resourceType: server")),
            "f.yaml:14: spec.resourceType: 'server' is neither model nor pipeline",
        ),
        (
            &format!("{}\n---\nkind: Experiment\nmetadata: {{name: e2}}\nspec: {{default: a, candidates: [{{name: a, weight: 1}}]}}", experiment(&format!("{arms}  default: a"))),
            "f.yaml:18: spec.default: 'a' is already the default of the experiment in line 9",
        ),
        (
            &with("kind: Pipeline\nmetadata: {name: p}\nspec: {steps: []}"),
            "f.yaml:11: spec.endpoints: is missing: where is the pipeline gateway?",
        ),
        ("kind: Model\nmetadata:\n  name: a\n  name: b", "f.yaml:4: 'name' stands here and in line 3"),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = parse(
        "kind: Model\nspec: {foo: 1}\n---\nkind: Nothing\n---\nkind: Radiant\nspec: {bar: 1}\n",
    );
    assert_eq!(error.unwrap_err().lines().count(), 3);
}

#[test]
fn ten_thousand_models_in_one_file() {
    let mut text = String::from("kind: Radiant\nspec: {endpoints: [{http: 'h:1', grpc: 'h:2'}]}\n");
    for i in 0..10_000 {
        text.push_str(&format!(
            "---\napiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata:\n  name: m{i}\nspec:\n  storageUri: gs://x\n"
        ));
    }
    let file = parse(&text).unwrap();
    assert_eq!(file.notices.len(), 1);
    assert_eq!(file.resources(false).clusters.by_name.len(), 20_000);
}

proptest::proptest! {
    #[test]
    fn any_document_is_read_or_refused(
        kind in "(Model|Experiment|Pipeline|Radiant|List)",
        spec in "[ a-z0-9:{}\\[\\],\n-]{0,80}",
    ) {
        let _ = parse(&format!("kind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"));
    }
}

#[test]
fn the_decoder_understands_every_resource() {
    use crate::xds::decode;
    let file = parse(&with(
        "kind: Experiment\nmetadata: {name: e}\nspec: {default: a, candidates: [{name: a, weight: 1}, {name: b, weight: 2}], mirror: {name: b, percent: 5}}\n---\n\
         kind: Radiant\nspec: {tapPathPrefix: /t, accessLog: {}}\n",
    ))
    .unwrap();
    for rewrite in [false, true] {
        let updates = updates(file.resources(rewrite));
        assert!(updates.iter().all(|u| u.complete));
        let kinds: Vec<_> = updates.iter().map(|u| (u.kind, u.resources.len())).collect();
        assert_eq!(
            kinds,
            [
                (ResourceType::Secret, 0),
                (ResourceType::Cluster, 6),
                (ResourceType::Listener, 2),
                (ResourceType::Route, 2)
            ]
        );
        let clusters = crate::model::Clusters::default();
        let context = decode::RouteContext { clusters: &clusters, rewrite };
        for resource in updates.iter().flat_map(|u| u.resources.iter().map(move |r| (u.kind, r))) {
            match resource {
                (ResourceType::Cluster, r) => drop(decode::cluster(&r.value).unwrap()),
                (ResourceType::Listener, r) => drop(decode::listener(&r.value).unwrap()),
                (_, r) => {
                    drop(decode::table(&r.value, &context, &mut Default::default()).unwrap());
                }
            }
        }
    }
}

#[test]
fn the_manifests_of_kubernetes_are_good() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kubernetes");
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let documents = super::super::file::documents("m", &text).unwrap();
            assert!(!documents.is_empty(), "{}", path.display());
            for document in documents.iter().filter_map(|d| d.at("data")) {
                let Some(Kind::String(file)) = document.at("radiant.yaml").map(|n| &n.kind) else {
                    panic!("no native file in {}", path.display());
                };
                assert_eq!(parse(file).unwrap().mesh.models.len(), 2);
            }
        }
    }
}
