//! Protobuf descriptors of what Radiant reads and shows, and proto3 JSON by
//! them. Loaded at first use: a process that takes its settings from the
//! environment never needs them until somebody asks for `/config_dump`.

use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, SerializeOptions,
};
use serde_json::{Value, json};

/// Made by `cargo run --example descriptors`.
static DESCRIPTORS: &[u8] = include_bytes!("envoy.desc");

/// The descriptors while somebody needs them: decoded they take about 15 MiB, a
/// tenth of the pod's limit.
static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// The descriptors, decoded at the first call (some milliseconds) and shared by
/// later ones until [`release`].
#[must_use]
pub fn pool() -> DescriptorPool {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get_or_insert_with(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the committed descriptors are complete: tested")
    })
    .clone()
}

/// Forgets the decoded descriptors; their memory is free when the last user is
/// done. To be called after a `/config_dump`.
pub fn release() {
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The descriptor of a message by its full name, or by a type URL that ends in
/// it.
#[must_use]
pub fn message(type_name: &str) -> Option<MessageDescriptor> {
    let name = type_name.rsplit('/').next().unwrap_or(type_name);
    pool().get_message_by_name(name)
}

/// Why bytes could not be shown as JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No such message in the descriptors.
    #[error("unknown message type '{0}'")]
    UnknownType(String),
    /// The bytes are no such message.
    #[error("not a '{type_name}': {source}")]
    Decode {
        /// Full name.
        type_name: String,
        /// Cause.
        source: prost::DecodeError,
    },
    /// Something inside cannot be written as JSON (an `Any` of unknown type).
    #[error("'{type_name}' has no JSON form: {source}")]
    Serialize {
        /// Full name.
        type_name: String,
        /// Cause.
        source: serde_json::Error,
    },
}

/// A message in proto3 JSON as Envoy's `/config_dump` writes it: proto field
/// names, unset fields left out, an `Any` expanded with its `@type`, private
/// keys and other secrets redacted.
///
/// # Errors
/// The type is unknown, the bytes are no such message, or an `Any` inside has
/// an unknown type.
pub fn to_json(type_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let descriptor =
        message(type_name).ok_or_else(|| JsonError::UnknownType(type_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes)
        .map_err(|source| JsonError::Decode { type_name: type_name.to_owned(), source })?;
    dynamic_to_json(&message)
}

/// As [`to_json`], with `@type` first, as the fields of an `Any` are shown.
/// What cannot be expanded is shown as base64 with the reason: a dump with a
/// hole says more than none.
#[must_use]
pub fn any_to_json(type_url: &str, bytes: &[u8]) -> Value {
    match to_json(type_url, bytes) {
        Ok(Value::Object(fields)) => {
            let mut all = serde_json::Map::with_capacity(fields.len() + 1);
            all.insert("@type".to_owned(), json!(type_url));
            all.extend(fields);
            Value::Object(all)
        }
        Ok(value) => json!({ "@type": type_url, "value": value }),
        Err(error) => json!({
            "@type": type_url,
            "value": BASE64_STANDARD.encode(bytes),
            "not_expanded": error.to_string(),
        }),
    }
}

pub(super) fn dynamic_to_json(message: &DynamicMessage) -> Result<Value, JsonError> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|source| JsonError::Serialize {
            type_name: message.descriptor().full_name().to_owned(),
            source,
        })?;
    redact(&mut value);
    Ok(value)
}

/// Fields whose content is secret (Envoy: `udpa.annotations.sensitive`). A
/// match by name may redact too much, never too little.
const SECRET_FIELDS: &[&str] =
    &["private_key", "pkcs12", "password", "keys", "secret", "token", "inline_key"];

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if SECRET_FIELDS.contains(&name.as_str()) {
                    blank(field);
                } else {
                    redact(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// Replaces the content of a `DataSource`, or of several.
fn blank(value: &mut Value) {
    match value {
        Value::Object(source) => {
            for (name, field) in source {
                match name.as_str() {
                    "inline_bytes" => *field = json!(BASE64_STANDARD.encode("[redacted]")),
                    "inline_string" => *field = json!("[redacted]"),
                    _ => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
        Secret, TlsCertificate, secret,
    };
    use prost::Message;

    #[test]
    fn every_message_that_is_needed_is_there() {
        for name in [
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.config.cluster.v3.Cluster",
            "envoy.config.listener.v3.Listener",
            "envoy.config.route.v3.RouteConfiguration",
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "envoy.admin.v3.ConfigDump",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        ] {
            assert!(message(name).is_some(), "{name}");
        }
        assert!(message("envoy.nothing").is_none());
    }

    #[test]
    fn secrets_are_redacted() {
        let source = |s: &str| DataSource {
            specifier: Some(Specifier::InlineString(s.to_owned())),
            ..DataSource::default()
        };
        let secret = Secret {
            name: "downstream_server".to_owned(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(source("public")),
                private_key: Some(source("private")),
                ..TlsCertificate::default()
            })),
        };
        let url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        let value = any_to_json(url, &secret.encode_to_vec());
        assert_eq!(
            value.to_string(),
            format!(
                "{{\"@type\":\"{url}\",\"name\":\"downstream_server\",\"tls_certificate\":\
                 {{\"certificate_chain\":{{\"inline_string\":\"public\"}},\
                 \"private_key\":{{\"inline_string\":\"[redacted]\"}}}}}}"
            )
        );
    }

    #[test]
    fn what_cannot_be_expanded_is_shown_raw() {
        let value = any_to_json("type.googleapis.com/envoy.nothing", b"abc");
        assert_eq!(value["value"], "YWJj");
        assert_eq!(
            value["not_expanded"],
            "unknown message type 'type.googleapis.com/envoy.nothing'"
        );
        let broken = any_to_json("envoy.config.cluster.v3.Cluster", b"\xff");
        assert!(broken["not_expanded"].as_str().unwrap().contains("not a 'envoy.config.cluster"));
    }
}
