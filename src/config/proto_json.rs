//! Proto3 JSON (written as YAML or JSON) to protobuf messages, with every
//! mistake at its full field path and line.
//!
//! Goes through the tree along the descriptors itself, and leaves only single
//! values (numbers, enumerations, durations, wrappers) to `prost-reflect`: its
//! deserialiser knows their rules but not where they stand.

use prost::Message;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind as ProtoKind, MapKey, MessageDescriptor,
    ReflectMessage, Value,
};

use super::yaml::{Kind, Node};

/// A mistake or a remark at a place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: usize,
    pub(super) path: String,
    pub(super) message: String,
}

/// Reads messages and collects what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Mistakes.
    pub(super) problems: Vec<At>,
    /// Unknown fields, if they are allowed.
    pub(super) unknown: Vec<At>,
    /// Unknown fields are no mistakes (`--allow-unknown-static-fields`).
    pub(super) allow_unknown: bool,
}

impl Reader {
    /// Reads one message. With problems, what could be read of it.
    pub(super) fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        node: &Node,
        path: &str,
    ) -> DynamicMessage {
        match descriptor.full_name() {
            "google.protobuf.Any" => self.any(descriptor, node, path),
            name if name.starts_with("google.protobuf.") => self.well_known(descriptor, node, path),
            _ => {
                let mut message = DynamicMessage::new(descriptor.clone());
                self.fields(&mut message, node, path, None);
                message
            }
        }
    }

    /// Reads the fields of a map into `message`, except the key `skip`.
    fn fields(
        &mut self,
        message: &mut DynamicMessage,
        node: &Node,
        path: &str,
        skip: Option<&str>,
    ) {
        let Kind::Map(entries) = &node.kind else {
            self.wrong(node, path, format!("{} instead of a map", node.describe()));
            return;
        };
        let descriptor = message.descriptor();
        let mut seen: Vec<(FieldDescriptor, &str)> = Vec::new();
        for entry in entries.iter().filter(|e| Some(e.key.as_str()) != skip) {
            let path = join(path, &entry.key);
            let field = descriptor
                .get_field_by_name(&entry.key)
                .or_else(|| descriptor.get_field_by_json_name(&entry.key));
            let Some(field) = field else {
                self.unknown_field(&descriptor, entry.line, path);
                continue;
            };
            if let Some((_, other)) = seen.iter().find(|(other, _)| clash(other, &field)) {
                let message = if *other == entry.key || field.containing_oneof().is_none() {
                    format!("the same field as '{other}'")
                } else {
                    format!("only one of '{other}' and '{}' can be set", entry.key)
                };
                self.problems.push(At { line: entry.line, path, message });
                continue;
            }
            if entry.value.kind == Kind::Null && !takes_null(&field) {
                continue;
            }
            if let Some(value) = self.field(&descriptor, &field, &entry.value, &path) {
                message.set_field(&field, value);
            }
            seen.push((field, &entry.key));
        }
    }

    fn unknown_field(&mut self, descriptor: &MessageDescriptor, line: usize, path: String) {
        let message = format!("unknown field (of {})", descriptor.full_name());
        let list = if self.allow_unknown { &mut self.unknown } else { &mut self.problems };
        list.push(At { line, path, message });
    }

    fn field(
        &mut self,
        parent: &MessageDescriptor,
        field: &FieldDescriptor,
        node: &Node,
        path: &str,
    ) -> Option<Value> {
        if field.is_map() {
            return self.map(field, node, path);
        }
        if field.cardinality() == Cardinality::Repeated {
            let Kind::List(items) = &node.kind else {
                // As Envoy's parser: a single value is a list of one. Seldon's
                // bootstraps are written so in places.
                return self.single(parent, field, node, path).map(|v| Value::List(vec![v]));
            };
            let mut values = Vec::with_capacity(items.len());
            for (i, item) in items.iter().enumerate() {
                values.extend(self.single(parent, field, item, &format!("{path}[{i}]")));
            }
            return Some(Value::List(values));
        }
        self.single(parent, field, node, path)
    }

    fn map(&mut self, field: &FieldDescriptor, node: &Node, path: &str) -> Option<Value> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong(node, path, format!("{} instead of a map", node.describe()));
            return None;
        };
        let ProtoKind::Message(pair) = field.kind() else { return None };
        let value_field = pair.map_entry_value_field();
        let mut values = std::collections::HashMap::with_capacity(entries.len());
        for entry in entries {
            let path = format!("{path}[\"{}\"]", entry.key);
            let key = match pair.map_entry_key_field().kind() {
                ProtoKind::String => Some(MapKey::String(entry.key.clone())),
                ProtoKind::Uint32 => entry.key.parse().ok().map(MapKey::U32),
                ProtoKind::Uint64 => entry.key.parse().ok().map(MapKey::U64),
                ProtoKind::Int32 => entry.key.parse().ok().map(MapKey::I32),
                ProtoKind::Int64 => entry.key.parse().ok().map(MapKey::I64),
                ProtoKind::Bool => entry.key.parse().ok().map(MapKey::Bool),
                _ => None,
            };
            let Some(key) = key else {
                let message = format!("'{}' cannot be a key here", entry.key);
                self.problems.push(At { line: entry.line, path, message });
                continue;
            };
            if let Some(value) = self.single(&pair, &value_field, &entry.value, &path) {
                values.insert(key, value);
            }
        }
        Some(Value::Map(values))
    }

    /// One value: of a singular field, or an element of a repeated one.
    fn single(
        &mut self,
        parent: &MessageDescriptor,
        field: &FieldDescriptor,
        node: &Node,
        path: &str,
    ) -> Option<Value> {
        if let ProtoKind::Message(descriptor) = field.kind() {
            return Some(Value::Message(self.message(&descriptor, node, path)));
        }
        if let ProtoKind::Enum(kind) = field.kind()
            && let Kind::String(name) = &node.kind
            && kind.get_value_by_name(name).is_none()
        {
            let names: Vec<_> = kind.values().map(|v| v.name().to_owned()).collect();
            self.wrong(node, path, format!("'{name}' is none of {}", names.join(", ")));
            return None;
        }
        let repeated = field.is_list();
        let value = match &node.kind {
            // As Envoy's parser: an unquoted number is a string where one is needed.
            Kind::Number(n) if field.kind() == ProtoKind::String && !n.is_f64() => {
                serde_json::Value::String(n.to_string())
            }
            _ => node.to_json(),
        };
        let value = if repeated { serde_json::Value::Array(vec![value]) } else { value };
        let mut only = serde_json::Map::new();
        only.insert(field.name().to_owned(), value);
        let read = DynamicMessage::deserialize(parent.clone(), serde_json::Value::Object(only));
        match read {
            Ok(message) => match message.get_field(field).into_owned() {
                Value::List(mut items) if repeated => items.pop(),
                value => Some(value),
            },
            Err(error) => {
                self.wrong(node, path, format!("{}: {error}", node.describe()));
                None
            }
        }
    }

    fn well_known(
        &mut self,
        descriptor: &MessageDescriptor,
        node: &Node,
        path: &str,
    ) -> DynamicMessage {
        match DynamicMessage::deserialize(descriptor.clone(), node.to_json()) {
            Ok(message) => message,
            Err(error) => {
                let hint = match descriptor.name() {
                    "Duration" => "is no duration like '1.5s'".to_owned(),
                    "BoolValue" => "is neither true nor false".to_owned(),
                    "UInt32Value" => "is no number from 0 to 4294967295".to_owned(),
                    "UInt64Value" => "is no number from 0 to 18446744073709551615".to_owned(),
                    "DoubleValue" | "FloatValue" => "is no number".to_owned(),
                    _ => error.to_string(),
                };
                self.wrong(node, path, format!("{} {hint}", node.describe()));
                DynamicMessage::new(descriptor.clone())
            }
        }
    }

    fn any(&mut self, descriptor: &MessageDescriptor, node: &Node, path: &str) -> DynamicMessage {
        let mut any = DynamicMessage::new(descriptor.clone());
        let type_url = match node.at("@type") {
            Some(Node { kind: Kind::String(url), .. }) => url,
            Some(other) => {
                self.wrong(other, &join(path, "@type"), "a type URL is needed".to_owned());
                return any;
            }
            None => {
                self.wrong(node, path, "'@type' is missing".to_owned());
                return any;
            }
        };
        let Some(inner) = super::descriptors::message(type_url) else {
            let at = node.at("@type").unwrap_or(node);
            let message = format!("'{type_url}' is not understood here");
            self.wrong(at, &join(path, "@type"), message);
            return any;
        };
        let message = if inner.full_name().starts_with("google.protobuf.") {
            match node.at("value") {
                Some(value) => self.message(&inner, value, &join(path, "value")),
                None => DynamicMessage::new(inner),
            }
        } else {
            let mut message = DynamicMessage::new(inner);
            self.fields(&mut message, node, path, Some("@type"));
            message
        };
        any.set_field_by_name("type_url", Value::String(type_url.clone()));
        any.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
        any
    }

    fn wrong(&mut self, node: &Node, path: &str, message: String) {
        self.problems.push(At { line: node.line, path: path.to_owned(), message });
    }
}

/// Two keys for one field, or for two fields of which only one can be set.
fn clash(a: &FieldDescriptor, b: &FieldDescriptor) -> bool {
    a == b || (a.containing_oneof().is_some() && a.containing_oneof() == b.containing_oneof())
}

/// `google.protobuf.Value` has a null of its own.
fn takes_null(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), ProtoKind::Message(m) if m.full_name() == "google.protobuf.Value")
}

pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{descriptors, yaml};

    fn read(type_name: &str, text: &str) -> (DynamicMessage, Vec<String>) {
        let node = yaml::documents(text).unwrap().remove(0);
        let mut reader = Reader::default();
        let message = reader.message(&descriptors::message(type_name).unwrap(), &node, "");
        let problems =
            reader.problems.iter().map(|p| format!("{}: {}: {}", p.line, p.path, p.message));
        (message, problems.collect())
    }

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    #[test]
    fn a_cluster_survives_the_round_trip() {
        let text = r#"
name: c
type: STRICT_DNS
connect_timeout: 0.25s
lbPolicy: LEAST_REQUEST
dns_refresh_rate: null
respect_dns_ttl: true
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http2_protocol_options: {max_concurrent_streams: 7}
load_assignment:
  cluster_name: c
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: a.b, port_value: 9000}}}
      load_balancing_weight: 5
metadata:
  filter_metadata: {x: {a: null, b: [1, "2"]}}
"#;
        let (message, problems) = read(CLUSTER, text);
        assert_eq!(problems, [""; 0]);
        let json = descriptors::to_json(CLUSTER, &message.encode_to_vec()).unwrap();
        assert_eq!(json["connect_timeout"], "0.250s");
        assert_eq!(json["lb_policy"], "LEAST_REQUEST");
        let endpoint = &json["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
        assert_eq!(endpoint["endpoint"]["address"]["socket_address"]["port_value"], 9000);
        assert_eq!(endpoint["load_balancing_weight"], 5);
        assert_eq!(json["metadata"]["filter_metadata"]["x"]["b"][1], "2");
        let again = read(CLUSTER, &json.to_string());
        assert_eq!(again.1, [""; 0]);
        assert_eq!(again.0.encode_to_vec().len(), message.encode_to_vec().len());
    }

    #[test]
    fn what_envoys_parser_takes_is_taken() {
        let (message, problems) =
            read(CLUSTER, "name: 7\nload_assignment: {endpoints: {priority: 3}}");
        assert_eq!(problems, [""; 0]);
        let json = descriptors::to_json(CLUSTER, &message.encode_to_vec()).unwrap();
        assert_eq!(json["name"], "7");
        assert_eq!(json["load_assignment"]["endpoints"][0]["priority"], 3);
    }

    #[test]
    fn mistakes_stand_at_their_path() {
        for (text, expected) in [
            ("name: c\nfoo: 1", "2: foo: unknown field (of envoy.config.cluster.v3.Cluster)"),
            ("name: true", "1: name: 'true': invalid type: boolean `true`, expected a string"),
            (
                "load_assignment:\n  endpoints:\n  - lb_endpoints:\n    - endpoint:\n        addres: 1",
                "5: load_assignment.endpoints[0].lb_endpoints[0].endpoint.addres: unknown field (of envoy.config.endpoint.v3.Endpoint)",
            ),
            ("connect_timeout: 5", "1: connect_timeout: '5' is no duration like '1.5s'"),
            ("connect_timeout: 5m", "1: connect_timeout: '5m' is no duration like '1.5s'"),
            (
                "lb_policy: BEST",
                "1: lb_policy: 'BEST' is none of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG",
            ),
            (
                "type: STATIC\ncluster_type: {name: x}",
                "2: cluster_type: only one of 'type' and 'cluster_type' can be set",
            ),
            ("lb_policy: RANDOM\nlbPolicy: RANDOM", "2: lbPolicy: the same field as 'lb_policy'"),
            ("load_assignment: []", "1: load_assignment: a list instead of a map"),
            ("dns_resolvers: x", "1: dns_resolvers: 'x' instead of a map"),
            (
                "respect_dns_ttl: yes",
                "1: respect_dns_ttl: 'yes': invalid type: string \"yes\", expected a boolean",
            ),
            (
                "per_connection_buffer_limit_bytes: -1",
                "1: per_connection_buffer_limit_bytes: '-1' is no number from 0 to 4294967295",
            ),
            (
                "transport_socket:\n  name: t\n  typed_config:\n    \"@type\": type.googleapis.com/what.Ever",
                "4: transport_socket.typed_config.@type: 'type.googleapis.com/what.Ever' is not understood here",
            ),
            (
                "transport_socket:\n  typed_config: {a: 1}",
                "2: transport_socket.typed_config: '@type' is missing",
            ),
            (
                "typed_extension_protocol_options:\n  x:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    no: 1",
                "4: typed_extension_protocol_options[\"x\"].no: unknown field (of envoy.extensions.upstreams.http.v3.HttpProtocolOptions)",
            ),
        ] {
            let (_, problems) = read(CLUSTER, text);
            assert_eq!(problems, [expected], "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_tree_is_read_or_refused(text in "(name|type|load_assignment|metadata): [ a-z0-9{}\\[\\]:,\n-]{0,60}") {
            if let Ok(documents) = yaml::documents(&text) {
                for node in documents {
                    let mut reader = Reader::default();
                    let _ = reader.message(&descriptors::message(CLUSTER).unwrap(), &node, "");
                }
            }
        }
    }
}
