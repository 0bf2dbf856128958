//! What a bootstrap's fields mean here: one table for warnings and reference.

use super::proto_json::{At, join};
use super::yaml::{Kind, Node};

/// A field of a bootstrap, with everything below it.
#[derive(Debug)]
pub struct FieldSpec {
    /// Path with proto names; `[]` stands for any element.
    pub path: &'static str,
    /// What it does here.
    pub effect: FieldEffect,
    /// Meaning, or why it needs none.
    pub doc: &'static str,
}

/// What a field does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldEffect {
    /// It is followed.
    Used,
    /// There is nothing to follow: what it asks for is so anyway.
    Natural,
    /// None, and whoever wrote it is told.
    Nothing,
}

const fn used(path: &'static str, doc: &'static str) -> FieldSpec {
    FieldSpec { path, effect: FieldEffect::Used, doc }
}

const fn natural(path: &'static str, doc: &'static str) -> FieldSpec {
    FieldSpec { path, effect: FieldEffect::Natural, doc }
}

const fn nothing(path: &'static str, doc: &'static str) -> FieldSpec {
    FieldSpec { path, effect: FieldEffect::Nothing, doc }
}

/// Fields of `envoy.config.bootstrap.v3.Bootstrap`. Every other field that
/// Envoy knows has no effect and is named in a warning.
pub const BOOTSTRAP_FIELDS: &[FieldSpec] = &[
    used("node.id", "Node id. Default: `test-id`."),
    used("node.cluster", "Node cluster. Default: `test-cluster`."),
    used(
        "admin.address",
        "Admin address. A bootstrap without `admin` has none, unless `--admin-address` gives one.",
    ),
    nothing("admin.access_log", "admin requests are not logged"),
    nothing("admin.access_log_path", "admin requests are not logged"),
    used("dynamic_resources.ads_config.api_type", "`DELTA_GRPC` or `GRPC` (state of the world)."),
    used(
        "dynamic_resources.ads_config.grpc_services",
        "The first one, with `envoy_grpc.cluster_name`: a static cluster.",
    ),
    natural("dynamic_resources.ads_config.transport_api_version", "Always V3."),
    natural("dynamic_resources.ads_config.set_node_on_first_message_only", "Always so."),
    used(
        "dynamic_resources.cds_config",
        "`ads: {}`, or an `api_config_source` as in `ads_config` (older bootstraps of Seldon), which is asked over one ADS stream all the same.",
    ),
    used("dynamic_resources.lds_config", "As `cds_config`, with the same cluster."),
    natural(
        "layered_runtime.layers[].rtds_layer",
        "Not subscribed to: Seldon's scheduler has no runtime resources, and Envoy waits 15 s for them.",
    ),
    natural("layered_runtime.layers[].name", "A name."),
    nothing("layered_runtime.layers[].static_layer", "there are no runtime guards"),
    nothing("layered_runtime.layers[].disk_layer", "there are no runtime guards"),
    natural("layered_runtime.layers[].admin_layer", "There are no runtime values to change."),
    used(
        "static_resources.clusters",
        "The ADS cluster (below); a cluster that leads to the admin address is left out; all others are served as if CDS had sent them.",
    ),
    used(
        "static_resources.listeners",
        "One with a health check filter, or all of whose routes lead to the admin address, is the utility listener (below); all others are served as if LDS had sent them.",
    ),
    used("static_resources.secrets", "Served as if SDS had sent them."),
];

/// Fields of the cluster that `ads_config` names.
pub const ADS_CLUSTER_FIELDS: &[FieldSpec] = &[
    used("name", "Named by `ads_config`."),
    used("type", "`LOGICAL_DNS`, `STRICT_DNS` or `STATIC`."),
    used("connect_timeout", "Default: 1s (Envoy: 5s)."),
    used("load_assignment", "The first endpoint's `socket_address`: host and port."),
    used(
        "typed_extension_protocol_options[].explicit_http_config.http2_protocol_options.connection_keepalive.interval",
        "60s or more. Default: 60s.",
    ),
    used(
        "typed_extension_protocol_options[].explicit_http_config.http2_protocol_options.connection_keepalive.timeout",
        "Default: 2s.",
    ),
    natural(
        "typed_extension_protocol_options[].explicit_http_config.http2_protocol_options.connection_keepalive.interval_jitter",
        "Some jitter is always added.",
    ),
    used("http2_protocol_options.connection_keepalive", "The same, in its older place."),
    natural("transport_socket.name", "A name."),
    used(
        "transport_socket.typed_config.common_tls_context.tls_certificates[].certificate_chain",
        "PEM; files are read at start. One certificate.",
    ),
    used(
        "transport_socket.typed_config.common_tls_context.tls_certificates[].private_key",
        "PEM; files are read at start.",
    ),
    used(
        "transport_socket.typed_config.common_tls_context.validation_context.trusted_ca",
        "PEM; files are read at start. The name in the certificate is not checked. Without it, the server is not verified.",
    ),
    used(
        "transport_socket.typed_config.common_tls_context.tls_certificate_sds_secret_configs[]",
        "A secret from a file: `sds_config.path` or `path_config_source.path`. Read at start.",
    ),
    used(
        "transport_socket.typed_config.common_tls_context.validation_context_sds_secret_config",
        "The same for `trusted_ca`.",
    ),
    natural("transport_socket.typed_config.common_tls_context.alpn_protocols", "Always `h2`."),
    nothing("transport_socket.typed_config.sni", "no server name is sent"),
    natural("lb_policy", "There is one endpoint."),
    natural("dns_lookup_family", "Every address of the name is tried."),
    natural("alt_stat_name", "A name."),
];

/// Fields of the utility listener.
pub const UTILITY_FIELDS: &[FieldSpec] = &[
    used("name", "Shown by `/listeners`. Default: `util_endpoint`."),
    used("address", "An IP address with a `port_value`."),
    natural("filter_chains[].filters[].name", "A name."),
    used("filter_chains[].filters[].typed_config.stat_prefix", "Prefix of its statistics."),
    natural("filter_chains[].filters[].typed_config.codec_type", "Found out per connection."),
    natural(
        "filter_chains[].filters[].typed_config.generate_request_id",
        "Nothing is passed on that could carry one.",
    ),
    used(
        "filter_chains[].filters[].typed_config.http_filters",
        "The health check filter: `:path` exactly `/ready`, no pass-through.",
    ),
    used(
        "filter_chains[].filters[].typed_config.route_config",
        "Prefixes `/stats` and `/ready` to the admin cluster. Other routes are named in a warning.",
    ),
];

/// Names every field that is set and does nothing here.
pub(super) fn without_effect(root: &Node, base: &str, table: &[FieldSpec]) -> Vec<At> {
    let mut found = Vec::new();
    walk(root, base, "", table, &mut found);
    found
}

fn walk(node: &Node, path: &str, pattern: &str, table: &[FieldSpec], found: &mut Vec<At>) {
    match &node.kind {
        Kind::Map(entries) => {
            for entry in entries.iter().filter(|e| e.key != "@type") {
                let key = snake_case(&entry.key);
                // A map with names of extensions as keys counts as a list.
                let (path, pattern) = match key.contains('.') {
                    true => (format!("{path}[\"{}\"]", entry.key), format!("{pattern}[]")),
                    false => (join(path, &entry.key), join(pattern, &key)),
                };
                visit(&entry.value, entry.line, &path, &pattern, table, found);
            }
        }
        Kind::List(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(item, &format!("{path}[{i}]"), &format!("{pattern}[]"), table, found);
            }
        }
        _ => {}
    }
}

fn visit(
    node: &Node,
    line: usize,
    path: &str,
    pattern: &str,
    table: &[FieldSpec],
    found: &mut Vec<At>,
) {
    // A list of one may be written without the list. Maps that extensions' names
    // are the keys of count as lists, but of their values.
    let item = format!("{pattern}[]");
    let is_list = table.iter().any(|s| s.path.starts_with(&item));
    let pattern = match &node.kind {
        Kind::Map(entries) if is_list && !entries.iter().any(|e| e.key.contains('.')) => &item,
        _ => pattern,
    };
    if let Some(spec) = table.iter().find(|s| s.path == pattern) {
        if spec.effect == FieldEffect::Nothing && !discards(node) {
            let message = format!("no effect: {}", spec.doc);
            found.push(At { line, path: path.to_owned(), message });
        }
        return;
    }
    let deeper = table
        .iter()
        .any(|s| s.path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(['.', '['])));
    if deeper {
        walk(node, path, pattern, table, found);
    } else {
        let message = "no effect here".to_owned();
        found.push(At { line, path: path.to_owned(), message });
    }
}

/// A log that goes to `/dev/null` asks for nothing.
fn discards(node: &Node) -> bool {
    match &node.kind {
        Kind::String(s) => s == "/dev/null",
        Kind::List(items) => items.iter().all(discards),
        Kind::Map(entries) => entries.iter().any(|e| discards(&e.value)),
        _ => false,
    }
}

/// The proto name of a key that may be written in JSON's camel case.
fn snake_case(key: &str) -> String {
    if key.contains(['.', '_']) {
        return key.to_owned();
    }
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
