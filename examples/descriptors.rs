//! Makes `src/config/envoy.desc`: the protobuf descriptors of the messages that
//! Radiant reads from bootstraps and shows in `/config_dump`.
//!
//!     cargo run --example descriptors
//!
//! Source: the descriptor set in the crate `envoy-types`, found through
//! `cargo metadata`. Kept: the messages below, everything that their fields
//! need, and nothing else (no comments, services, extensions; of the options,
//! only what JSON and encoding depend on). Run it again when the crate's
//! version changes, or when a message is to be understood that is not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldOptions, FileDescriptorProto, FileDescriptorSet,
    MessageOptions,
};

/// Messages to keep with all that they refer to. Messages inside an `Any` are
/// referred to by nobody, so they stand here too.
const ROOTS: &[&str] = &[
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.lua.v3.Lua",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.tap.v3.Tap",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.admin.v3.BootstrapConfigDump",
    "envoy.admin.v3.Clusters",
    "envoy.admin.v3.ClustersConfigDump",
    "envoy.admin.v3.ConfigDump",
    "envoy.admin.v3.Listeners",
    "envoy.admin.v3.ListenersConfigDump",
    "envoy.admin.v3.Memory",
    "envoy.admin.v3.RoutesConfigDump",
    "envoy.admin.v3.ScopedRoutesConfigDump",
    "envoy.admin.v3.SecretsConfigDump",
    "envoy.admin.v3.ServerInfo",
    "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    "envoy.service.discovery.v3.DiscoveryRequest",
    "envoy.service.discovery.v3.DiscoveryResponse",
    "google.protobuf.Any",
    "google.protobuf.Duration",
    "google.protobuf.Empty",
    "google.protobuf.Struct",
    "google.protobuf.Timestamp",
];

fn main() -> anyhow::Result<()> {
    let source = source()?;
    let bytes = std::fs::read(&source).with_context(|| source.display().to_string())?;
    let set = FileDescriptorSet::decode(bytes.as_slice())?;
    let kept = trim(&set)?;
    // Proves that nothing is missing.
    prost_reflect::DescriptorPool::from_file_descriptor_set(kept.clone())?;
    let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/config/envoy.desc");
    let encoded = kept.encode_to_vec();
    std::fs::write(&target, &encoded)?;
    println!(
        "{} files, {} bytes of {} kept in src/config/envoy.desc",
        kept.file.len(),
        encoded.len(),
        bytes.len()
    );
    Ok(())
}

/// The descriptor set inside `envoy-types`.
fn source() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output =
        Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == "envoy-types")
        .and_then(|p| p["manifest_path"].as_str())
        .context("envoy-types is not a dependency")?;
    let root = PathBuf::from(manifest).parent().context("manifest path")?.to_path_buf();
    Ok(root.join("src/generated/types.bin"))
}

/// Names that a message or enumeration refers to, by its full name.
struct Index {
    /// Full name (with leading dot) to the names it refers to.
    references: BTreeMap<String, Vec<String>>,
}

impl Index {
    fn new(set: &FileDescriptorSet) -> Self {
        let mut index = Self { references: BTreeMap::new() };
        for file in &set.file {
            let package = match file.package() {
                "" => String::new(),
                package => format!(".{package}"),
            };
            file.message_type.iter().for_each(|m| index.message(&package, m));
            file.enum_type.iter().for_each(|e| index.enumeration(&package, e));
        }
        index
    }

    fn message(&mut self, parent: &str, message: &DescriptorProto) {
        let name = format!("{parent}.{}", message.name());
        let references =
            message.field.iter().filter_map(|f| f.type_name.clone()).collect::<Vec<_>>();
        self.references.insert(name.clone(), references);
        message.nested_type.iter().for_each(|m| self.message(&name, m));
        message.enum_type.iter().for_each(|e| self.enumeration(&name, e));
    }

    fn enumeration(&mut self, parent: &str, enumeration: &EnumDescriptorProto) {
        self.references.insert(format!("{parent}.{}", enumeration.name()), Vec::new());
    }

    fn reachable(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<String> = ROOTS.iter().map(|r| format!(".{r}")).collect();
        while let Some(name) = open.pop() {
            let references =
                self.references.get(&name).with_context(|| format!("{name} is not there"))?;
            if reached.insert(name) {
                open.extend(references.iter().cloned());
            }
        }
        Ok(reached)
    }
}

fn trim(set: &FileDescriptorSet) -> anyhow::Result<FileDescriptorSet> {
    let keep = Index::new(set).reachable()?;
    let files: Vec<_> = set.file.iter().filter_map(|file| trim_file(file, &keep)).collect();
    let home = homes(&files);
    let mut kept = FileDescriptorSet { file: files };
    for file in &mut kept.file {
        let mut needed = BTreeSet::new();
        file.message_type.iter().for_each(|m| dependencies(m, &home, &mut needed));
        needed.remove(file.name());
        file.dependency = needed.into_iter().collect();
    }
    Ok(kept)
}

fn trim_file(file: &FileDescriptorProto, keep: &BTreeSet<String>) -> Option<FileDescriptorProto> {
    let package = match file.package() {
        "" => String::new(),
        package => format!(".{package}"),
    };
    let message_type: Vec<_> =
        file.message_type.iter().filter_map(|m| trim_message(m, &package, keep)).collect();
    let enum_type = trim_enums(&file.enum_type, &package, keep);
    if message_type.is_empty() && enum_type.is_empty() {
        return None;
    }
    Some(FileDescriptorProto {
        name: file.name.clone(),
        package: file.package.clone(),
        syntax: file.syntax.clone(),
        message_type,
        enum_type,
        ..FileDescriptorProto::default()
    })
}

/// The message if it or something inside it is kept; a message that is only a
/// namespace loses its fields.
fn trim_message(
    message: &DescriptorProto,
    parent: &str,
    keep: &BTreeSet<String>,
) -> Option<DescriptorProto> {
    let name = format!("{parent}.{}", message.name());
    let nested_type: Vec<_> =
        message.nested_type.iter().filter_map(|m| trim_message(m, &name, keep)).collect();
    let enum_type = trim_enums(&message.enum_type, &name, keep);
    let itself = keep.contains(&name);
    if !itself && nested_type.is_empty() && enum_type.is_empty() {
        return None;
    }
    let map_entry = message.options.as_ref().and_then(|o| o.map_entry);
    let mut trimmed = DescriptorProto {
        name: message.name.clone(),
        nested_type,
        enum_type,
        options: map_entry
            .map(|map_entry| MessageOptions { map_entry: Some(map_entry), ..Default::default() }),
        ..DescriptorProto::default()
    };
    if itself {
        trimmed.field.clone_from(&message.field);
        for field in &mut trimmed.field {
            let packed = field.options.as_ref().and_then(|o| o.packed);
            field.options =
                packed.map(|packed| FieldOptions { packed: Some(packed), ..Default::default() });
        }
        trimmed.oneof_decl.clone_from(&message.oneof_decl);
        trimmed.oneof_decl.iter_mut().for_each(|o| o.options = None);
    }
    Some(trimmed)
}

fn trim_enums(
    enums: &[EnumDescriptorProto],
    parent: &str,
    keep: &BTreeSet<String>,
) -> Vec<EnumDescriptorProto> {
    let mut kept = Vec::new();
    for enumeration in enums {
        if !keep.contains(&format!("{parent}.{}", enumeration.name())) {
            continue;
        }
        let mut enumeration = enumeration.clone();
        enumeration.options = None;
        enumeration.value.iter_mut().for_each(|v| v.options = None);
        kept.push(enumeration);
    }
    kept
}

/// Full name to the file that defines it.
fn homes(files: &[FileDescriptorProto]) -> BTreeMap<String, String> {
    let set = FileDescriptorSet { file: files.to_vec() };
    let mut homes = BTreeMap::new();
    for file in &set.file {
        let one = FileDescriptorSet { file: vec![file.clone()] };
        for name in Index::new(&one).references.into_keys() {
            homes.insert(name, file.name().to_owned());
        }
    }
    homes
}

fn dependencies(
    message: &DescriptorProto,
    homes: &BTreeMap<String, String>,
    needed: &mut BTreeSet<String>,
) {
    for name in message.field.iter().filter_map(|f| f.type_name.as_ref()) {
        needed.extend(homes.get(name).cloned());
    }
    message.nested_type.iter().for_each(|m| dependencies(m, homes, needed));
}
