//! Envoy v3 bootstraps: read strictly, understood in the shape that Seldon
//! ships, and a little beyond (static clusters, listeners and secrets).

use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::DynamicResources};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{
    Address, ApiConfigSource, address, api_config_source::ApiType,
    config_source::ConfigSourceSpecifier, grpc_service, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use prost::Message;

use super::fields::{self, ADS_CLUSTER_FIELDS, BOOTSTRAP_FIELDS, UTILITY_FIELDS};
use super::proto_json::{At, Reader, join};
use super::settings::{AdsSettings, ConfigError, Notice, Problem, Settings, Source, XdsVariant};
use super::yaml::{Kind, Node};
use super::{bootstrap_ads, bootstrap_utility, descriptors};
use crate::model::{Clusters, RawResource, RawValue, ResourceSet};
use crate::xds::decode::{self, RouteCache, RouteContext, RouteSource};

const TYPE: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Keys that only a bootstrap has at its top.
pub(super) fn looks_like(node: &Node) -> bool {
    let descriptor = descriptors::message(TYPE);
    node.entries().iter().any(|e| {
        descriptor.as_ref().is_some_and(|d| {
            d.get_field_by_name(&e.key).or_else(|| d.get_field_by_json_name(&e.key)).is_some()
        })
    })
}

/// Settings from a bootstrap; flags and environment come on top.
///
/// # Errors
/// Every unknown field, wrong value or thing that cannot be done, with line
/// and path.
pub(super) fn read(file: &str, root: &Node, allow_unknown: bool) -> Result<Settings, ConfigError> {
    let mut reader = Reader { allow_unknown, ..Reader::default() };
    let descriptor = descriptors::message(TYPE)
        .ok_or_else(|| Problem::new(file, "the descriptors have no Bootstrap"))?;
    let message = reader.message(&descriptor, root, "");
    // The rest works on the message itself; the memory is worth more.
    descriptors::release();
    if !reader.problems.is_empty() {
        return Err(problems(file, &reader.problems));
    }
    let bootstrap = Bootstrap::decode(message.encode_to_vec().as_slice())
        .map_err(|e| Problem::new(file, e.to_string()))?;
    let mut meaning = Meaning { root, problems: Vec::new(), notices: reader.unknown };
    meaning.notices.extend(fields::without_effect(root, "", BOOTSTRAP_FIELDS));
    let mut settings = meaning.settings(&bootstrap);
    if !meaning.problems.is_empty() {
        return Err(problems(file, &meaning.problems));
    }
    settings.bootstrap =
        descriptors::dynamic_to_json(&message).map_err(|e| Problem::new(file, e.to_string()))?;
    meaning.notices.sort_by_key(|n| n.line);
    settings.notices = meaning
        .notices
        .into_iter()
        .map(|n| Notice { setting: place(file, &n), message: n.message })
        .collect();
    Ok(settings)
}

pub(super) fn problems(file: &str, list: &[At]) -> ConfigError {
    let mut list: Vec<&At> = list.iter().collect();
    list.sort_by_key(|p| p.line);
    let problems = list.iter().map(|p| Problem::new(place(file, p), p.message.clone()));
    problems.collect::<Vec<_>>().into()
}

/// `file:line: path`.
fn place(file: &str, at: &At) -> String {
    match at.path.as_str() {
        "" => format!("{file}:{}", at.line),
        path => format!("{file}:{}: {path}", at.line),
    }
}

/// Turns the message into settings and remembers where it cannot.
pub(super) struct Meaning<'a> {
    root: &'a Node,
    problems: Vec<At>,
    pub(super) notices: Vec<At>,
}

impl Meaning<'_> {
    pub(super) fn problem(&mut self, path: &str, message: impl Into<String>) {
        let line = line_of(self.root, path);
        self.problems.push(At { line, path: path.to_owned(), message: message.into() });
    }

    pub(super) fn notice(&mut self, path: &str, message: impl Into<String>) {
        let line = line_of(self.root, path);
        self.notices.push(At { line, path: path.to_owned(), message: message.into() });
    }

    fn settings(&mut self, bootstrap: &Bootstrap) -> Settings {
        let mut settings = Settings { utility: None, ..Settings::default() };
        if let Some(node) = &bootstrap.node {
            if !node.id.is_empty() {
                settings.node.id.clone_from(&node.id);
            }
            if !node.cluster.is_empty() {
                settings.node.cluster.clone_from(&node.cluster);
            }
        }
        settings.admin = bootstrap.admin.as_ref().and_then(|admin| {
            let address = admin.address.as_ref()?;
            self.socket_address(address, "admin.address")
        });
        settings.source = match self.ads(bootstrap) {
            Some(ads) => Source::Scheduler(Box::new(ads)),
            None => Source::Static,
        };
        self.static_resources(bootstrap, &mut settings);
        settings
    }

    fn ads(&mut self, bootstrap: &Bootstrap) -> Option<AdsSettings> {
        let dynamic = bootstrap.dynamic_resources.as_ref()?;
        let (config, path) = self.stream(dynamic)?;
        let variant = match config.api_type() {
            ApiType::DeltaGrpc => XdsVariant::Delta,
            ApiType::Grpc => XdsVariant::StateOfTheWorld,
            other => {
                let message = format!("'{}' is neither DELTA_GRPC nor GRPC", other.as_str_name());
                self.problem(&format!("{path}.api_type"), message);
                return None;
            }
        };
        let service = config.grpc_services.first().and_then(|s| s.target_specifier.as_ref());
        let services = format!("{path}.grpc_services");
        let Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) = service else {
            self.problem(&services, "needs 'envoy_grpc' with a static cluster");
            return None;
        };
        if config.grpc_services.len() > 1 {
            self.notice(&format!("{services}[1]"), "no effect: only the first one is used");
        }
        let clusters = bootstrap.static_resources.as_ref().map_or(&[][..], |s| &s.clusters);
        let Some(index) = clusters.iter().position(|c| c.name == grpc.cluster_name) else {
            let path = format!("{services}[0].envoy_grpc.cluster_name");
            self.problem(&path, format!("'{}' is no static cluster", grpc.cluster_name));
            return None;
        };
        let path = format!("static_resources.clusters[{index}]");
        if let Some(node) = find(self.root, &path) {
            self.notices.extend(fields::without_effect(node, &path, ADS_CLUSTER_FIELDS));
        }
        bootstrap_ads::read(self, &clusters[index], &path).map(|ads| AdsSettings { variant, ..ads })
    }

    /// The one stream that all resources are asked over, and its path. Older
    /// bootstraps of Seldon name it twice instead of under `ads_config`; the
    /// scheduler serves ADS, so that is one stream, too.
    fn stream<'b>(
        &mut self,
        dynamic: &'b DynamicResources,
    ) -> Option<(&'b ApiConfigSource, String)> {
        let mut found: Option<(&ApiConfigSource, String)> = None;
        let mut complete = true;
        for (name, source) in
            [("cds_config", &dynamic.cds_config), ("lds_config", &dynamic.lds_config)]
        {
            let path = format!("dynamic_resources.{name}");
            let own = match source.as_ref().and_then(|s| s.config_source_specifier.as_ref()) {
                Some(ConfigSourceSpecifier::Ads(_)) => match &dynamic.ads_config {
                    Some(config) => (config, "dynamic_resources.ads_config".to_owned()),
                    None => {
                        self.problem("dynamic_resources.ads_config", "is missing");
                        return None;
                    }
                },
                Some(ConfigSourceSpecifier::ApiConfigSource(config)) => {
                    (config, format!("{path}.api_config_source"))
                }
                Some(_) => {
                    self.problem(&path, "only 'ads' and 'api_config_source' are supported");
                    complete = false;
                    continue;
                }
                None => {
                    self.problem(&path, "is missing: it must be 'ads: {}'");
                    complete = false;
                    continue;
                }
            };
            if found.as_ref().is_some_and(|(first, _)| *first != own.0) {
                self.problem(&path, "must ask in the same way as 'cds_config'");
                complete = false;
            }
            found.get_or_insert(own);
        }
        found.filter(|_| complete)
    }

    fn static_resources(&mut self, bootstrap: &Bootstrap, settings: &mut Settings) {
        let Some(resources) = &bootstrap.static_resources else { return };
        let ads_cluster = ads_cluster_name(bootstrap).unwrap_or_default();
        let admin = settings.admin;
        let is_admin = |cluster: &Cluster| {
            admin.is_some() && single_endpoint(cluster).and_then(socket_addr) == admin
        };
        let mut admin_clusters = Vec::new();
        for (i, cluster) in resources.clusters.iter().enumerate() {
            if cluster.name.is_empty() {
                self.problem(&format!("static_resources.clusters[{i}].name"), "is missing");
            } else if is_admin(cluster) {
                admin_clusters.push(cluster.name.as_str());
            } else if cluster.name != ads_cluster {
                let added = add(&mut settings.static_resources.clusters, &cluster.name, cluster);
                let path = format!("static_resources.clusters[{i}]");
                if !added {
                    self.problem(
                        &format!("{path}.name"),
                        format!("'{}' is there twice", cluster.name),
                    );
                }
                let read = decode::cluster(&cluster.encode_to_vec().into());
                self.decoded(&path, read.map(drop));
            }
        }
        for (i, listener) in resources.listeners.iter().enumerate() {
            let path = format!("static_resources.listeners[{i}]");
            if settings.utility.is_none()
                && let Some(manager) = bootstrap_utility::manager(listener, &admin_clusters)
            {
                if let Some(node) = find(self.root, &path) {
                    self.notices.extend(fields::without_effect(node, &path, UTILITY_FIELDS));
                }
                settings.utility =
                    bootstrap_utility::read(self, listener, &manager, &admin_clusters, &path);
                continue;
            }
            if listener.name.is_empty() {
                self.problem(&format!("{path}.name"), "is missing");
                continue;
            }
            self.decoded(&path, listener_and_table(listener));
            if !add(&mut settings.static_resources.listeners, &listener.name, listener) {
                self.problem(
                    &format!("{path}.name"),
                    format!("'{}' is there twice", listener.name),
                );
            }
        }
        for secret in &resources.secrets {
            add(&mut settings.static_resources.secrets, &secret.name, secret);
        }
    }

    /// What the decoder of resources thinks of a static one.
    fn decoded(&mut self, path: &str, result: Result<(), decode::Invalid>) {
        if let Err(invalid) = result {
            let path = match invalid.field.as_str() {
                "" => path.to_owned(),
                field => join(path, field),
            };
            self.problem(&path, invalid.reason);
        }
    }

    /// An address to listen on.
    pub(super) fn socket_address(&mut self, address: &Address, path: &str) -> Option<SocketAddr> {
        let path = format!("{path}.socket_address");
        let found = socket_addr(address);
        if found.is_none() {
            self.problem(&path, "needs an IP address and a port_value up to 65535");
        }
        found
    }
}

/// Reads a listener and, if it has one, its inline table, as the store will.
fn listener_and_table(listener: &Listener) -> Result<(), decode::Invalid> {
    let decoded = decode::listener(&listener.encode_to_vec().into())?;
    if let RouteSource::Inline(table) = decoded.routes {
        let clusters = Clusters::default();
        let context = RouteContext { clusters: &clusters, rewrite: false };
        decode::table(&table, &context, &mut RouteCache::default())
            .map_err(|e| e.at("filter_chains[0].filters[0].typed_config.route_config"))?;
    }
    Ok(())
}

fn ads_cluster_name(bootstrap: &Bootstrap) -> Option<&str> {
    let dynamic = bootstrap.dynamic_resources.as_ref()?;
    let own = dynamic.cds_config.as_ref().and_then(|s| match &s.config_source_specifier {
        Some(ConfigSourceSpecifier::ApiConfigSource(config)) => Some(config),
        _ => None,
    });
    let config = own.or(dynamic.ads_config.as_ref())?;
    match config.grpc_services.first()?.target_specifier.as_ref()? {
        grpc_service::TargetSpecifier::EnvoyGrpc(grpc) => Some(&grpc.cluster_name),
        grpc_service::TargetSpecifier::GoogleGrpc(_) => None,
    }
}

/// Adds a resource; false if the name is taken.
fn add(set: &mut ResourceSet, name: &str, message: &impl Message) -> bool {
    let value = Bytes::from(message.encode_to_vec());
    let version = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&value));
    let resource =
        RawResource { version, value: RawValue::Message(value), updated: SystemTime::now() };
    set.by_name.insert(name.to_owned(), resource).is_none()
}

/// The address of a cluster's only endpoint.
pub(super) fn single_endpoint(cluster: &Cluster) -> Option<&Address> {
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
    let mut endpoints =
        cluster.load_assignment.as_ref()?.endpoints.iter().flat_map(|l| &l.lb_endpoints);
    let first = endpoints.next()?;
    if endpoints.next().is_some() {
        return None;
    }
    match first.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => endpoint.address.as_ref(),
        HostIdentifier::EndpointName(_) => None,
    }
}

/// Host and port of an address.
pub(super) fn host_port(address: &Address) -> Option<(&str, u16)> {
    match address.address.as_ref()? {
        address::Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => {
                Some((socket.address.as_str(), u16::try_from(*port).ok()?))
            }
            PortSpecifier::NamedPort(_) => None,
        },
        _ => None,
    }
}

fn socket_addr(address: &Address) -> Option<SocketAddr> {
    let (host, port) = host_port(address)?;
    Some(SocketAddr::new(host.parse().ok()?, port))
}

/// The node at a path as the reader writes them, as far as it exists.
fn descend<'a>(root: &'a Node, path: &str) -> (&'a Node, usize, bool) {
    let (mut node, mut line) = (root, root.line);
    for segment in path.split('.').filter(|s| !s.is_empty()) {
        let (key, indexes) = segment.split_once('[').unwrap_or((segment, ""));
        let Some(entry) = node.entries().iter().find(|e| same_field(&e.key, key)) else {
            return (node, line, false);
        };
        (node, line) = (&entry.value, entry.line);
        for index in indexes.split('[').filter_map(|i| i.trim_end_matches(']').parse().ok()) {
            let index: usize = index;
            let Kind::List(items) = &node.kind else {
                // A list of one may be written without the list.
                if index == 0 && matches!(node.kind, Kind::Map(_)) {
                    continue;
                }
                return (node, line, false);
            };
            let Some(item) = items.get(index) else { return (node, line, false) };
            (node, line) = (item, item.line);
        }
    }
    (node, line, true)
}

/// `a_b` in the file may stand as `aB`.
fn same_field(written: &str, proto: &str) -> bool {
    let plain = |s: &str| s.replace('_', "").to_ascii_lowercase();
    written == proto || plain(written) == plain(proto)
}

fn line_of(root: &Node, path: &str) -> usize {
    descend(root, path).1
}

fn find<'a>(root: &'a Node, path: &str) -> Option<&'a Node> {
    let (node, _, complete) = descend(root, path);
    complete.then_some(node)
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
