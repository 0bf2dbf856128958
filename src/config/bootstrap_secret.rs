//! Secrets for the connection to the scheduler that a bootstrap takes from files
//! in the form of SDS (Seldon's older TLS bootstrap).

use std::path::Path;

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{SdsSecretConfig, Secret};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use prost::Message;

use super::bootstrap::Meaning;
use super::proto_json::Reader;
use super::{descriptors, file};

/// The secret that `config` at `path` names; `None` after a problem.
pub(super) fn read(
    meaning: &mut Meaning<'_>,
    config: &SdsSecretConfig,
    path: &str,
) -> Option<Secret> {
    let path = format!("{path}.sds_config");
    let specifier = config.sds_config.as_ref().and_then(|s| s.config_source_specifier.as_ref());
    #[allow(deprecated)]
    let name = match specifier {
        Some(ConfigSourceSpecifier::Path(name)) => name,
        Some(ConfigSourceSpecifier::PathConfigSource(source)) => &source.path,
        _ => {
            let message = "only a file can hold secrets for the connection to the scheduler";
            meaning.problem(&path, message);
            return None;
        }
    };
    match from_file(name, &config.name) {
        Ok(secret) => Some(secret),
        Err(problem) => {
            meaning.problem(&path, problem);
            None
        }
    }
}

/// The secret `wanted` of a file with a `DiscoveryResponse`.
fn from_file(name: &str, wanted: &str) -> Result<Secret, String> {
    let text = file::text(Path::new(name)).map_err(|p| p.to_string())?;
    let documents = file::documents(name, &text).map_err(|p| p.to_string())?;
    let descriptor = descriptors::message("envoy.service.discovery.v3.DiscoveryResponse");
    let (Some(descriptor), [document]) = (descriptor, documents.as_slice()) else {
        return Err(format!("{name}: is not one document"));
    };
    let mut reader = Reader::default();
    let message = reader.message(&descriptor, document, "");
    descriptors::release();
    if let Some(first) = reader.problems.first() {
        return Err(format!("{name}:{}: {}: {}", first.line, first.path, first.message));
    }
    let response = DiscoveryResponse::decode(message.encode_to_vec().as_slice())
        .map_err(|e| format!("{name}: {e}"))?;
    let secrets = response.resources.iter().filter_map(|any| {
        let is_secret = any.type_url.ends_with(".Secret");
        is_secret.then(|| Secret::decode(any.value.as_slice()).ok()).flatten()
    });
    let mut matching = secrets.filter(|s| s.name == wanted);
    matching.next().ok_or_else(|| format!("{name}: has no secret '{wanted}'"))
}
