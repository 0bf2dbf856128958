//! `/config_dump`: what was accepted, as proto3 JSON.
//!
//! Written one resource at a time: ten thousand models are tens of megabytes
//! of text and a few of protobuf.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use http::StatusCode;
use prost_reflect::MessageDescriptor;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::AdminOps;
use super::ops::ToJson;
use super::query::Query;
use super::reply::{JSON, PLAIN, Reply, pieces, pretty_at};
use crate::config::descriptors;
use crate::model::{RawResource, ResourceSet};
use crate::plane::Plane;

/// One of the messages of a dump.
struct Section {
    /// Envoy: `admin.v3.<kind>`.
    kind: &'static str,
    version_info: String,
    fields: Vec<Field>,
}

/// A repeated field of a section, or the bootstrap.
struct Field {
    name: &'static str,
    /// Message of each element, behind the section's name.
    element: &'static str,
    repeated: bool,
    entries: Vec<Entry>,
}

/// An element before and after it is JSON.
struct Entry {
    name: String,
    make: Make,
}

enum Make {
    Value(Value),
    Raw { wrap: Wrap, type_name: &'static str, resource: RawResource },
}

/// How a resource is wrapped.
#[derive(Clone, Copy)]
enum Wrap {
    /// `{"version_info", <field>, "last_updated"}`
    Versioned(&'static str),
    /// `{"name", "active_state": {...}}`
    Listener,
    /// `{"name", "version_info", "last_updated", "secret"}`
    Secret,
}

/// What the parameters ask for.
struct Asked {
    resource: Option<String>,
    mask: Option<Mask>,
    name: Option<Regex>,
}

/// `?mask=`
struct Mask {
    text: String,
    paths: Vec<Vec<String>>,
}

/// Answers `/config_dump`.
pub(super) fn reply(plane: &Plane, ops: &AdminOps, query: &Query) -> Reply {
    let asked = match Asked::from_query(query) {
        Ok(asked) => asked,
        Err(text) => return Reply::whole(StatusCode::BAD_REQUEST, PLAIN, text),
    };
    let mut sections = sections(plane);
    for field in sections.iter_mut().flat_map(|s| &mut s.fields) {
        field.entries.retain(|e| !field.repeated || asked.takes(&e.name));
    }
    let to_json = Arc::clone(&ops.to_json);
    let configs: Vec<Vec<Part>> = if let Some(resource) = &asked.resource {
        if resource == "bootstrap" {
            let text =
                "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field";
            return Reply::whole(StatusCode::BAD_REQUEST, PLAIN, text.to_owned());
        }
        let texts = match resource_texts(sections, resource, &asked, &to_json) {
            Ok(texts) => texts,
            Err((status, text)) => return Reply::whole(status, PLAIN, text),
        };
        texts.into_iter().map(|text| vec![Part::Text(text)]).collect()
    } else if let Some(mask) = &asked.mask {
        let texts = masked_texts(sections, &mask.paths, &to_json);
        if texts.is_empty() {
            let text = format!(
                "FieldMask {} could not be successfully applied to any configs.",
                mask.text
            );
            return Reply::whole(StatusCode::BAD_REQUEST, PLAIN, text);
        }
        texts.into_iter().map(|text| vec![Part::Text(text)]).collect()
    } else {
        sections.into_iter().map(|section| section.into_parts(&to_json)).collect()
    };
    if configs.is_empty() {
        return Reply::json(&json!({}));
    }
    let befores = std::iter::once("\n  ").chain(std::iter::repeat(",\n  "));
    let parts = befores
        .zip(configs)
        .flat_map(|(before, parts)| std::iter::once(Part::Text(before.to_owned())).chain(parts));
    let open = std::iter::once("{\n \"configs\": [".to_owned());
    let close = std::iter::once("\n ]\n}\n".to_owned());
    let texts = parts.map(move |part| part.into_text(&to_json));
    Reply::streamed(JSON, pieces(open.chain(texts).chain(close)))
}

impl Asked {
    fn from_query(query: &Query) -> Result<Self, String> {
        let name = query.first("name_regex").map(|pattern| {
            Regex::new(&format!("^(?:{pattern})$")).map_err(|e| {
                let text = e.to_string();
                let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {reason}")
            })
        });
        let mask = query.first("mask").filter(|mask| !mask.is_empty()).map(|mask| Mask {
            text: mask.to_owned(),
            paths: mask.split(',').map(|p| p.split('.').map(str::to_owned).collect()).collect(),
        });
        let resource = query.first("resource").filter(|r| !r.is_empty()).map(str::to_owned);
        Ok(Self { resource, mask, name: name.transpose()? })
    }

    fn takes(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|regex| regex.is_match(name))
    }
}

/// Everything there is, in Envoy's order.
fn sections(plane: &Plane) -> Vec<Section> {
    let bootstrap = plane.bootstrap.read().unwrap_or_else(PoisonError::into_inner).clone();
    let started = timestamp(plane.started_at);
    let from_bootstrap = |list: &str| {
        let found = bootstrap.pointer(&format!("/static_resources/{list}"));
        found.and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let resources = plane.resources.read().unwrap_or_else(PoisonError::into_inner);
    let dynamic = |name, element, set: &ResourceSet, wrap, type_name| Field {
        name,
        element,
        repeated: true,
        entries: set
            .by_name
            .iter()
            .map(|(name, resource)| Entry {
                name: name.clone(),
                make: Make::Raw { wrap, type_name, resource: resource.clone() },
            })
            .collect(),
    };
    let fixed = |name, element, inner: &'static str, type_name, list: Vec<Value>| Field {
        name,
        element,
        repeated: true,
        entries: list.into_iter().map(|v| static_entry(inner, type_name, v, &started)).collect(),
    };
    let section =
        |kind, version: &str, fields| Section { kind, version_info: version.to_owned(), fields };
    let own = json!({"bootstrap": bootstrap, "last_updated": started});
    let own = Entry { name: String::new(), make: Make::Value(own) };
    let own = Field { name: "bootstrap", element: "", repeated: false, entries: vec![own] };
    let secrets = from_bootstrap("secrets");
    vec![
        section("BootstrapConfigDump", "", vec![own]),
        section(
            "ClustersConfigDump",
            &resources.clusters.version_info,
            vec![
                fixed(
                    "static_clusters",
                    "StaticCluster",
                    "cluster",
                    CLUSTER,
                    from_bootstrap("clusters"),
                ),
                dynamic(
                    "dynamic_active_clusters",
                    "DynamicCluster",
                    &resources.clusters,
                    Wrap::Versioned("cluster"),
                    CLUSTER,
                ),
            ],
        ),
        section(
            "ListenersConfigDump",
            &resources.listeners.version_info,
            vec![
                fixed(
                    "static_listeners",
                    "StaticListener",
                    "listener",
                    LISTENER,
                    from_bootstrap("listeners"),
                ),
                dynamic(
                    "dynamic_listeners",
                    "DynamicListener",
                    &resources.listeners,
                    Wrap::Listener,
                    LISTENER,
                ),
            ],
        ),
        section("ScopedRoutesConfigDump", "", Vec::new()),
        section(
            "RoutesConfigDump",
            "",
            vec![
                fixed(
                    "static_route_configs",
                    "StaticRouteConfig",
                    "route_config",
                    ROUTES,
                    inline_tables(&from_bootstrap("listeners")),
                ),
                dynamic(
                    "dynamic_route_configs",
                    "DynamicRouteConfig",
                    &resources.routes,
                    Wrap::Versioned("route_config"),
                    ROUTES,
                ),
            ],
        ),
        section(
            "SecretsConfigDump",
            "",
            vec![
                fixed("static_secrets", "StaticSecret", "secret", SECRET, secrets),
                dynamic(
                    "dynamic_active_secrets",
                    "DynamicSecret",
                    &resources.secrets,
                    Wrap::Secret,
                    SECRET,
                ),
            ],
        ),
    ]
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

/// An element of a `static_*` field.
fn static_entry(inner: &str, type_name: &str, value: Value, updated: &str) -> Entry {
    let name = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut entry = Map::new();
    if inner == "secret" {
        entry.insert("name".to_owned(), name.clone().into());
    }
    entry.insert(inner.to_owned(), typed(type_name, value));
    entry.insert("last_updated".to_owned(), updated.into());
    Entry { name, make: Make::Value(Value::Object(entry)) }
}

/// Inline route tables of the bootstrap's listeners.
fn inline_tables(listeners: &[Value]) -> Vec<Value> {
    let list = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let chains = listeners.iter().flat_map(|listener| list(listener, "filter_chains"));
    let filters = chains.flat_map(|chain| list(&chain, "filters"));
    filters.filter_map(|f| f.pointer("/typed_config/route_config").cloned()).collect()
}

/// Puts `@type` in front.
fn typed(type_name: &str, value: Value) -> Value {
    let mut object = Map::new();
    object.insert("@type".to_owned(), format!("type.googleapis.com/{type_name}").into());
    if let Value::Object(fields) = value {
        object.extend(fields.into_iter().filter(|(key, _)| key != "@type"));
    }
    Value::Object(object)
}

/// Milliseconds, as proto3 JSON prints a `Timestamp`.
fn timestamp(at: SystemTime) -> String {
    use time::macros::format_description;
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time::OffsetDateTime::from(at).format(format).unwrap_or_default()
}

impl Entry {
    fn into_json(self, to_json: &ToJson) -> Value {
        let mut value = match self.make {
            Make::Value(value) => value,
            Make::Raw { wrap, type_name, resource } => {
                raw_json(&self.name, wrap, type_name, &resource, to_json)
            }
        };
        redact(&mut value);
        value
    }
}

fn raw_json(
    name: &str,
    wrap: Wrap,
    type_name: &str,
    resource: &RawResource,
    to_json: &ToJson,
) -> Value {
    let message = match to_json(type_name, &resource.value.message()) {
        Ok(message) => typed(type_name, message),
        Err(error) => typed(type_name, json!({"name": name, "error": error})),
    };
    let (version, updated) = (&resource.version, timestamp(resource.updated));
    match wrap {
        Wrap::Versioned(field) => {
            json!({"version_info": version, field: message, "last_updated": updated})
        }
        Wrap::Listener => json!({"name": name, "active_state": {
            "version_info": version, "listener": message, "last_updated": updated,
        }}),
        Wrap::Secret => json!({
            "name": name, "version_info": version, "last_updated": updated, "secret": message,
        }),
    }
}

/// Blots out what Envoy marks as sensitive: every string below such a field.
fn redact(value: &mut Value) {
    const SENSITIVE: [&str; 5] = [
        "private_key",
        "private_key_provider",
        "password",
        "session_ticket_keys",
        "generic_secret",
    ];
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if SENSITIVE.contains(&key.as_str()) { blot(key, value) } else { redact(value) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// Envoy's replacements; the second is the first in base64, for bytes.
fn blot(key: &str, value: &mut Value) {
    match value {
        Value::String(text) if key == "inline_bytes" => *text = "W3JlZGFjdGVkXQ==".to_owned(),
        Value::String(text) if key != "@type" => *text = "[redacted]".to_owned(),
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| blot(key, value)),
        Value::Array(items) => items.iter_mut().for_each(|value| blot(key, value)),
        _ => {}
    }
}

/// Keeps only the paths of the mask; `@type` stays.
fn masked(value: Value, mask: &[Vec<String>]) -> Value {
    let Value::Object(fields) = value else { return value };
    let kept = fields.into_iter().filter_map(|(key, value)| {
        if key == "@type" {
            return Some((key, value));
        }
        let below: Vec<&[String]> =
            mask.iter().filter(|p| p.first() == Some(&key)).map(|p| &p[1..]).collect();
        if below.is_empty() {
            return None;
        }
        if below.iter().any(|p| p.is_empty()) {
            return Some((key, value));
        }
        let below: Vec<Vec<String>> = below.into_iter().map(<[String]>::to_vec).collect();
        let value = match value {
            Value::Array(items) => items.into_iter().map(|item| masked(item, &below)).collect(),
            value => masked(value, &below),
        };
        Some((key, value))
    });
    Value::Object(kept.collect())
}

/// Fields of Envoy's dump in which nothing ever stands here.
const EMPTY_FIELDS: [&str; 4] = [
    "dynamic_warming_clusters",
    "dynamic_warming_secrets",
    "inline_scoped_route_configs",
    "dynamic_scoped_route_configs",
];

/// True if the path leads to a field of this message, not into a list (protobuf:
/// `FieldMaskUtil::IsValidPath`).
fn leads(path: &[String], message: Option<MessageDescriptor>) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let Some(field) = message.and_then(|message| message.get_field_by_name(first)) else {
        return false;
    };
    let below =
        if field.is_list() || field.is_map() { None } else { field.kind().as_message().cloned() };
    leads(rest, below)
}

/// The same of an element, where a path leads through the resource that it holds.
fn leads_in(path: &[String], type_name: &str, element: &Value) -> bool {
    let held = path.first().and_then(|first| element.get(first)?.get("@type")?.as_str());
    match (held, &path[1..]) {
        (Some(held), rest @ [_, ..]) => leads(rest, descriptors::message(held)),
        _ => leads(path, descriptors::message(type_name)),
    }
}

/// `?resource=`: the elements of one field.
///
/// # Errors
/// Status and text: no section has it, or the mask fits none.
fn resource_texts(
    sections: Vec<Section>,
    resource: &str,
    asked: &Asked,
    to_json: &ToJson,
) -> Result<Vec<String>, (StatusCode, String)> {
    let kinds = sections.into_iter().flat_map(|s| s.fields.into_iter().map(move |f| (s.kind, f)));
    let found = kinds.into_iter().find(|(_, f)| f.repeated && f.name == resource);
    let Some((kind, field)) = found else {
        let text = || format!("{resource} not found in config dump");
        let is_empty = EMPTY_FIELDS.contains(&resource);
        return is_empty.then(Vec::new).ok_or_else(|| (StatusCode::NOT_FOUND, text()));
    };
    let type_name = format!("envoy.admin.v3.{kind}.{}", field.element);
    let values = field.entries.into_iter().map(|entry| {
        let value = typed(&type_name, entry.into_json(to_json));
        let Some(mask) = &asked.mask else { return Ok(pretty_at(2, &value)) };
        if !mask.paths.iter().all(|path| leads_in(path, &type_name, &value)) {
            // A message in protobuf's text format.
            let paths = mask.text.split(',').map(|path| format!("paths: \"{path}\"\n"));
            let paths: String = paths.collect();
            let text = format!("FieldMask {paths} could not be successfully used.");
            return Err((StatusCode::BAD_REQUEST, text));
        }
        Ok(pretty_at(2, &masked(value, &mask.paths)))
    });
    values.collect()
}

/// With a mask: the sections of which each of its paths names a field.
fn masked_texts(sections: Vec<Section>, mask: &[Vec<String>], to_json: &ToJson) -> Vec<String> {
    let fits = |section: &Section| {
        let message = descriptors::message(&format!("envoy.admin.v3.{}", section.kind));
        mask.iter().all(|path| leads(path, message.clone()))
    };
    let values = sections.into_iter().filter(fits).map(|section| {
        let mut value = section.head();
        for field in section.fields {
            let entries = field.entries.into_iter().map(|entry| entry.into_json(to_json));
            let entries: Vec<_> = entries.collect();
            if field.repeated && !entries.is_empty() {
                value.insert(field.name.to_owned(), entries.into());
            } else {
                value.extend(entries.into_iter().filter_map(into_object).flatten());
            }
        }
        pretty_at(2, &masked(Value::Object(value), mask))
    });
    values.collect()
}

fn into_object(value: Value) -> Option<Map<String, Value>> {
    if let Value::Object(fields) = value { Some(fields) } else { None }
}

/// A part of the text of a section.
enum Part {
    Text(String),
    /// An element, behind this text.
    Element(&'static str, Entry),
}

impl Part {
    fn into_text(self, to_json: &ToJson) -> String {
        match self {
            Self::Text(text) => text,
            Self::Element(before, entry) => {
                format!("{before}    {}", pretty_at(4, &entry.into_json(to_json)))
            }
        }
    }
}

impl Section {
    /// The members before the repeated fields.
    fn head(&self) -> Map<String, Value> {
        let mut head = Map::new();
        if !self.version_info.is_empty() {
            head.insert("version_info".to_owned(), self.version_info.clone().into());
        }
        into_object(typed(&format!("envoy.admin.v3.{}", self.kind), Value::Object(head)))
            .unwrap_or_default()
    }

    /// The text of the section, elements left to be made when it is sent.
    fn into_parts(self, to_json: &ToJson) -> Vec<Part> {
        let mut head = self.head();
        let mut lists = Vec::new();
        for mut field in self.fields {
            if field.repeated {
                lists.push(field);
            } else if let Some(entry) = field.entries.pop() {
                head.extend(into_object(entry.into_json(to_json)).unwrap_or_default());
            }
        }
        let head = pretty_at(2, &Value::Object(head));
        let open = head.strip_suffix("\n  }").unwrap_or(&head).to_owned();
        let mut parts = vec![Part::Text(open)];
        for list in lists.into_iter().filter(|list| !list.entries.is_empty()) {
            parts.push(Part::Text(format!(",\n   \"{}\": [", list.name)));
            let befores = std::iter::once("\n").chain(std::iter::repeat(",\n"));
            parts.extend(befores.zip(list.entries).map(|(b, entry)| Part::Element(b, entry)));
            parts.push(Part::Text("\n   ]".to_owned()));
        }
        parts.push(Part::Text("\n  }".to_owned()));
        parts
    }
}
