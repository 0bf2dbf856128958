//! `/certs`: the certificates of all TLS contexts in use.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::plane::Plane;
use crate::tls::accounts::{InUse, Shown};
use crate::tls::certificate::AltName;

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// Envoy: `admin.v3.Certificates`. Contexts that clusters share are told once.
pub(super) fn all(plane: &Plane) -> Value {
    let snapshot = plane.snapshot.load();
    let listeners = snapshot.listeners.iter().filter_map(|listener| listener.config.tls.as_ref());
    let mut in_use: Vec<Arc<InUse>> = listeners.map(|tls| tls.in_use()).collect();
    let mut seen = HashSet::new();
    for slot in super::metrics::cluster::sorted(plane) {
        let tls = slot.load().and_then(|cluster| cluster.tls.clone());
        in_use.extend(tls.filter(|tls| seen.insert(tls.id)).map(|tls| tls.in_use()));
    }
    let now = OffsetDateTime::now_utc();
    let each = in_use.iter().filter(|in_use| in_use.ca.is_some() || !in_use.chain.is_empty());
    let each = each.map(|in_use| {
        let list = |all: &[Shown]| all.iter().map(|shown| certificate(shown, now)).collect();
        let (ca, chain): (Vec<Value>, Vec<Value>) =
            (list(in_use.ca.as_slice()), list(&in_use.chain));
        json!({"ca_cert": ca, "cert_chain": chain})
    });
    json!({"certificates": each.collect::<Vec<_>>()})
}

/// Envoy: `admin.v3.CertificateDetails`; 64-bit numbers are strings in JSON.
fn certificate(shown: &Shown, now: OffsetDateTime) -> Value {
    let details = &shown.details;
    // In Envoy's order: by kind.
    let mut names: Vec<&AltName> = details.names.iter().collect();
    names.sort_by_key(|name| match name {
        AltName::Dns(_) => 0,
        AltName::Uri(_) => 1,
        AltName::Ip(_) => 2,
    });
    let names = names.into_iter().map(|name| match name {
        AltName::Dns(name) => json!({"dns": name}),
        AltName::Uri(uri) => json!({"uri": uri}),
        AltName::Ip(ip) => json!({"ip_address": ip.to_string()}),
    });
    let left = (details.not_after - now).whole_seconds().max(0) / SECONDS_PER_DAY;
    let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let mut value = Map::new();
    value.insert("path".into(), json!(shown.path));
    value.insert("serial_number".into(), json!(details.serial));
    value.insert("subject_alt_names".into(), names.collect());
    value.insert("days_until_expiration".into(), json!(left.to_string()));
    value.insert("valid_from".into(), json!(time(details.not_before)));
    value.insert("expiration_time".into(), json!(time(details.not_after)));
    Value::Object(value)
}
