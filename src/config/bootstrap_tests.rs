use std::time::Duration;

use super::*;
use crate::config::file;

const PLAIN: &str = include_str!("../../config/envoy.yaml");
const TLS: &str = include_str!("../../config/envoy-tls.yaml");

fn settings(text: &str) -> Result<Settings, String> {
    let mut documents = file::documents("b.yaml", text).map_err(|e| e.to_string())?;
    read("b.yaml", &documents.remove(0), false).map_err(|e| e.to_string())
}

fn ads(settings: &Settings) -> &AdsSettings {
    match &settings.source {
        Source::Scheduler(ads) => ads,
        other => panic!("{other:?}"),
    }
}

#[test]
fn seldons_shape_means_the_defaults() {
    let settings = settings(PLAIN).unwrap();
    assert_eq!(settings.notices, []);
    let defaults = Settings::default();
    assert_eq!(settings.node, defaults.node);
    assert_eq!(settings.admin, defaults.admin);
    assert_eq!(settings.utility, defaults.utility);
    assert_eq!(settings.source, defaults.source);
    assert!(settings.static_resources.clusters.by_name.is_empty());
    assert!(settings.static_resources.listeners.by_name.is_empty());
    assert_eq!(settings.bootstrap["node"]["id"], "test-id");
    let cluster = &settings.bootstrap["static_resources"]["clusters"][0];
    assert_eq!(cluster["type"], "LOGICAL_DNS");
    assert_eq!(
        cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
            ["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]["interval"],
        "60s"
    );
}

#[test]
fn files_of_tls_are_read_at_start() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    let text = TLS.replace("/tmp/certs", dir.path().to_str().unwrap());
    let settings = settings(&text).unwrap();
    assert_eq!(settings.notices, []);
    let tls = ads(&settings).tls.as_ref().unwrap();
    assert_eq!(tls.trusted_ca.as_deref(), Some(&b"ca.crt"[..]));
    let client = tls.client.as_ref().unwrap();
    assert_eq!((&client.certificate[..], &client.key[..]), (&b"tls.crt"[..], &b"tls.key"[..]));
}

#[test]
fn missing_files_of_tls_are_named() {
    let error = settings(&TLS.replace("/tmp/certs", "/nonexistent")).unwrap_err();
    let tls = "static_resources.clusters[0].transport_socket.typed_config.common_tls_context";
    assert_eq!(
        error,
        format!(
            "b.yaml:47: {tls}.tls_certificates[0].certificate_chain.filename: '/nonexistent/tls.crt': No such file or directory (os error 2)\n\
             b.yaml:48: {tls}.tls_certificates[0].private_key.filename: '/nonexistent/tls.key': No such file or directory (os error 2)"
        )
    );
}

#[test]
fn json_is_read_too() {
    let json = settings(PLAIN).unwrap().bootstrap.to_string();
    let again = settings(&json).unwrap();
    assert_eq!(again.source, settings(PLAIN).unwrap().source);
    assert_eq!(again.bootstrap.to_string(), json);
}

#[test]
fn mistakes_have_line_and_path() {
    for (from, to, expected) in [
        (
            "  cluster: test-cluster",
            "  cluster: test-cluster\n  foo: 1",
            "b.yaml:8: node.foo: unknown field (of envoy.config.core.v3.Node)",
        ),
        (
            "    connect_timeout: 1s\n    typed",
            "    connect_timeout: 1s\n    foo: 1\n    typed",
            "b.yaml:35: static_resources.clusters[0].foo: unknown field (of envoy.config.cluster.v3.Cluster)",
        ),
        (
            "interval: 60s",
            "interval: 60",
            "b.yaml:40: static_resources.clusters[0].typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].explicit_http_config.http2_protocol_options.connection_keepalive.interval: '60' is no duration like '1.5s'",
        ),
        (
            "api_type: DELTA_GRPC",
            "api_type: REST",
            "b.yaml:15: dynamic_resources.ads_config.api_type: 'REST' is neither DELTA_GRPC nor GRPC",
        ),
        (
            "api_type: DELTA_GRPC",
            "api_type: DELTA",
            "b.yaml:15: dynamic_resources.ads_config.api_type: 'DELTA' is none of DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE, REST, GRPC, DELTA_GRPC, AGGREGATED_GRPC, AGGREGATED_DELTA_GRPC",
        ),
        (
            "envoy_grpc: { cluster_name: xds_cluster }",
            "envoy_grpc: { cluster_name: nobody }",
            "b.yaml:19: dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: 'nobody' is no static cluster",
        ),
        (
            "  cds_config: { resource_api_version: V3, ads: {} }",
            "  cds_config: { path_config_source: { path: /x } }",
            "b.yaml:20: dynamic_resources.cds_config: only 'ads' and 'api_config_source' are supported",
        ),
        (
            "  lds_config: { resource_api_version: V3, ads: {} }\n",
            "",
            "b.yaml:13: dynamic_resources.lds_config: is missing: it must be 'ads: {}'",
        ),
        (
            "address: seldon-scheduler, port_value: 9002",
            "address: seldon-scheduler, port_value: 0",
            "b.yaml:41: static_resources.clusters[0].load_assignment: 'seldon-scheduler:0' is not the scheduler's host and port",
        ),
        (
            "    type: LOGICAL_DNS",
            "    type: EDS",
            "b.yaml:33: static_resources.clusters[0].type: is not STATIC, STRICT_DNS or LOGICAL_DNS",
        ),
        (
            "    connect_timeout: 1s\n    typed",
            "    connect_timeout: 0s\n    typed",
            "b.yaml:34: static_resources.clusters[0].connect_timeout: must be more than 0s",
        ),
        (
            "exact: /ready",
            "exact: /healthz",
            "b.yaml:74: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.headers: only ':path' exactly '/ready' is supported",
        ),
        (
            "address: 0.0.0.0, port_value: 9003",
            "address: localhost, port_value: 9003",
            "b.yaml:62: static_resources.listeners[0].address.socket_address: needs an IP address and a port_value up to 65535",
        ),
    ] {
        assert!(PLAIN.contains(from), "{from}");
        assert_eq!(settings(&PLAIN.replacen(from, to, 1)).unwrap_err(), expected, "{to}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = PLAIN.replace("api_type: DELTA_GRPC", "foo: 1").replace("id: test-id", "id: {a: 1}");
    let error = settings(&text).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn what_has_no_effect_is_named() {
    let extra = "stats_flush_interval: 5s\n\
                 layeredRuntime:\n  layers:\n  - name: a\n    static_layer: {x: 1}\n  - {name: b, admin_layer: {}}\n\
                 admin:\n  access_log_path: /dev/null\n  profilePath: /p\n  address: {socket_address: {address: 127.0.0.1, port_value: 0}}\n\
                 overload_manager: {refresh_interval: 1s}\n\
                 node: {id: a, cluster: b, locality: {zone: z}}\n";
    let settings = settings(extra).unwrap();
    assert_eq!(settings.source, Source::Static);
    assert_eq!(settings.node.id, "a");
    assert_eq!(settings.utility, None);
    let notices: Vec<_> = settings.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "b.yaml:1: stats_flush_interval: no effect here",
            "b.yaml:5: layeredRuntime.layers[0].static_layer: no effect: there are no runtime guards",
            "b.yaml:9: admin.profilePath: no effect here",
            "b.yaml:11: overload_manager: no effect here",
            "b.yaml:12: node.locality: no effect here",
        ]
    );
}

#[test]
fn what_has_no_effect_deep_inside_is_named_too() {
    let text = PLAIN
        .replace("          http2_protocol_options:\n", "          http2_protocol_options:\n            max_concurrent_streams: 7\n")
        .replace("          stat_prefix: util_endpoint_http\n", "          stat_prefix: util_endpoint_http\n          via: x\n          codec_type: AUTO\n")
        .replace("              - match: { prefix: /stats }", "              - match: { prefix: /clusters }");
    let notices: Vec<_> =
        settings(&text).unwrap().notices.iter().map(ToString::to_string).collect();
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    assert_eq!(
        notices,
        [
            "b.yaml:40: static_resources.clusters[0].typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].explicit_http_config.http2_protocol_options.max_concurrent_streams: no effect here".to_owned(),
            format!("b.yaml:70: {manager}.via: no effect here"),
            format!("b.yaml:89: {manager}.route_config.virtual_hosts[0].routes[0]: no effect: the utility listener serves /ready, /stats and /metrics"),
        ]
    );
}

#[test]
fn keepalive_never_annoys_the_scheduler() {
    let settings = settings(&PLAIN.replace("interval: 60s", "interval: 5s")).unwrap();
    assert_eq!(ads(&settings).keepalive_interval, Duration::from_secs(60));
    assert_eq!(settings.notices.len(), 1);
}

/// A static cluster and a listener with its table inline.
fn with_static(cluster_type: &str, route: &str) -> String {
    let listener = format!(
        "  - name: l\n\
        \x20   address: {{socket_address: {{address: 0.0.0.0, port_value: 8080}}}}\n\
        \x20   filter_chains:\n    - filters:\n      - name: h\n        typed_config:\n\
        \x20         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n\
        \x20         stat_prefix: l\n\
        \x20         http_filters: [{{name: r, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n\
        \x20         route_config: {{name: t, virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{{match: {{prefix: /}}, {route}}}]}}]}}\n"
    );
    let cluster = format!(
        "  - {{name: c, type: {cluster_type}, connect_timeout: 1s, load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 80}}}}}}}}]}}]}}}}\n"
    );
    PLAIN.replace("  listeners:\n", &format!("{cluster}  listeners:\n{listener}"))
}

#[test]
fn other_static_resources_are_handed_on() {
    let settings = settings(&with_static("STATIC", "route: {cluster: c}")).unwrap();
    let names = |set: &ResourceSet| set.by_name.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&settings.static_resources.clusters), ["c"]);
    assert_eq!(names(&settings.static_resources.listeners), ["l"]);
    assert!(settings.utility.is_some());
}

#[test]
fn static_resources_are_read_as_the_store_will() {
    let error = settings(&with_static("EDS", "route: {cluster: c}")).unwrap_err();
    assert!(error.starts_with("b.yaml:59: static_resources.clusters[2].type: "), "{error}");
    let error = settings(&with_static("STATIC", "filter_action: {}")).unwrap_err();
    let place = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]";
    assert!(error.starts_with(&format!("b.yaml:70: {place}")), "{error}");
}

#[test]
fn unknown_fields_may_be_allowed() {
    let text = format!("{PLAIN}\nfuture_field: 1\n");
    assert!(settings(&text).is_err());
    let node = file::documents("b.yaml", &text).unwrap().remove(0);
    let settings = read("b.yaml", &node, true).unwrap();
    assert_eq!(settings.notices.len(), 2, "unknown, and without effect: {:?}", settings.notices);
}

#[test]
fn flags_and_environment_come_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, PLAIN).unwrap();
    let flags = crate::config::Flags {
        config_path: Some(path.clone()),
        config_yaml: Some("node: {id: from-yaml}".to_owned()),
        service_cluster: Some("from-flag".to_owned()),
        ..crate::config::Flags::default()
    };
    let environment = crate::config::Environment::from_fn(|name| {
        (name == "SELDON_SCHEDULER_HOST").then(|| "elsewhere".to_owned())
    });
    let settings = crate::config::load(&flags, &environment).unwrap();
    assert_eq!(settings.node.id, "from-yaml");
    assert_eq!(settings.node.cluster, "from-flag");
    assert_eq!((ads(&settings).host.as_str(), ads(&settings).port), ("elsewhere", 9002));

    for (text, expected) in [
        ("", "is empty"),
        (
            "[1]",
            ":1: is neither an Envoy bootstrap (node, admin, static_resources, dynamic_resources) nor a native file (documents with 'kind')",
        ),
        (
            "a: b",
            ":1: is neither an Envoy bootstrap (node, admin, static_resources, dynamic_resources) nor a native file (documents with 'kind')",
        ),
        (
            "node: {id: 1",
            ":2: not YAML: while parsing a flow mapping, did not find expected ',' or '}'",
        ),
        (
            "node:\n  id: true\n",
            ":2: node.id: 'true': invalid type: boolean `true`, expected a string",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let flags = crate::config::Flags { config_path: Some(path.clone()), ..Default::default() };
        let error = crate::config::load(&flags, &environment).unwrap_err().to_string();
        assert_eq!(
            error.replace(&path.display().to_string(), "F"),
            format!("F{}{expected}", if expected.starts_with(':') { "" } else { ": " })
        );
    }
    let flags =
        crate::config::Flags { config_path: Some("/nonexistent".into()), ..Default::default() };
    let error = crate::config::load(&flags, &environment).unwrap_err().to_string();
    assert_eq!(error, "/nonexistent: No such file or directory (os error 2)");
}

/// The shape of Seldon's older bootstraps: no `ads_config`, single values for
/// lists, no health check filter, TLS secrets in files of their own.
fn older(directory: &str) -> String {
    let source = "{resource_api_version: V3, api_config_source: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: {envoy_grpc: {cluster_name: x}}}}";
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    format!(
        "node: {{id: test-id, cluster: test-cluster}}\n\
         dynamic_resources:\n  cds_config: {source}\n  lds_config: {source}\n\
         layered_runtime: {{layers: {{name: r, rtds_layer: {{name: r, rtds_config: {source}}}}}}}\n\
         admin: {{access_log_path: /dev/null, address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}\n\
         static_resources:\n  clusters:\n\
        \x20 - name: x\n    type: LOGICAL_DNS\n    connect_timeout: 1s\n    http2_protocol_options: {{}}\n\
        \x20   load_assignment: {{cluster_name: x, endpoints: {{lb_endpoints: {{endpoint: {{address: {{socket_address: {{address: seldon-scheduler, port_value: 9002}}}}}}}}}}}}\n\
        \x20   transport_socket:\n      name: tls\n      typed_config:\n\
        \x20       \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n\
        \x20       common_tls_context:\n\
        \x20         tls_certificate_sds_secret_configs: {{name: tls_sds, sds_config: {{path: {directory}/tls.yaml}}}}\n\
        \x20         validation_context_sds_secret_config: {{name: ca_sds, sds_config: {{path_config_source: {{path: {directory}/ca.yaml}}}}}}\n\
        \x20 - name: admin\n    type: LOGICAL_DNS\n    connect_timeout: 0.25s\n\
        \x20   load_assignment: {{cluster_name: admin, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}}}]}}]}}\n\
        \x20 listeners:\n  - name: util\n    address: {{socket_address: {{address: 0.0.0.0, port_value: 9003}}}}\n\
        \x20   filter_chains: {{filters: {{name: h, typed_config: {{\"@type\": {manager}, stat_prefix: util_endpoint_http, \
         http_filters: [{{name: r, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}], \
         route_config: {{name: t, virtual_hosts: [{{name: v, domains: \"*\", routes: [{{match: {{prefix: /stats}}, route: {{cluster: admin}}}}, {{match: {{prefix: /ready}}, route: {{cluster: admin}}}}]}}]}}}}}}}}\n"
    )
}

#[test]
fn seldons_older_shape_is_understood() {
    const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        write(name, name);
    }
    write(
        "tls.yaml",
        &format!(
            "resources:\n- \"@type\": {SECRET}\n  name: tls_sds\n  tls_certificate:\n    certificate_chain: {{filename: {path}/tls.crt}}\n    private_key: {{filename: {path}/tls.key}}\n"
        ),
    );
    let ca = format!(
        "resources:\n- \"@type\": {SECRET}\n  name: ca_sds\n  validation_context:\n    trusted_ca: {{filename: {path}/ca.crt}}\n"
    );
    write("ca.yaml", &ca);
    let settings_of = |text: &str| settings(text);
    let found = settings_of(&older(path)).unwrap();
    assert_eq!(found.notices, []);
    assert_eq!(found.utility.as_ref().unwrap().name, "util");
    let ads = ads(&found);
    assert_eq!((ads.host.as_str(), ads.port), ("seldon-scheduler", 9002));
    assert_eq!(ads.variant, XdsVariant::Delta);
    assert_eq!(ads.keepalive_interval, Duration::from_secs(60));
    let tls = ads.tls.as_ref().unwrap();
    assert_eq!(tls.trusted_ca.as_deref(), Some(&b"ca.crt"[..]));
    assert_eq!(tls.client.as_ref().unwrap().key, b"tls.key");
    assert!(found.static_resources.clusters.by_name.is_empty());

    write("ca.yaml", &ca.replace("ca_sds", "other"));
    let place = "static_resources.clusters[0].transport_socket.typed_config.common_tls_context.validation_context_sds_secret_config.sds_config";
    let error = settings_of(&older(path)).unwrap_err();
    assert_eq!(error, format!("b.yaml:20: {place}: {path}/ca.yaml: has no secret 'ca_sds'"));
    write("ca.yaml", &ca.replace("trusted_ca", "trusted"));
    let error = settings_of(&older(path)).unwrap_err();
    assert!(
        error.contains("ca.yaml:5: resources[0].validation_context.trusted: unknown field"),
        "{error}"
    );
}
