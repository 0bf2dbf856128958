//! The cluster that a bootstrap's `ads_config` names: how to reach the
//! scheduler.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, Http2ProtocolOptions, data_source::Specifier, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, TlsCertificate, UpstreamTlsContext,
    common_tls_context::ValidationContextType, secret,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};
use envoy_types::pb::google::protobuf;
use prost::Message;

use super::bootstrap::{Meaning, host_port, single_endpoint};
use super::bootstrap_secret;
use super::settings::{AdsSettings, AdsTls, ClientIdentity};

/// Reads the cluster at `path`; `None` if something is wrong with it.
pub(super) fn read(
    meaning: &mut Meaning<'_>,
    cluster: &Cluster,
    path: &str,
) -> Option<AdsSettings> {
    let mut ads = AdsSettings::default();
    match cluster.cluster_discovery_type {
        None => {}
        Some(ClusterDiscoveryType::Type(t))
            if matches!(
                DiscoveryType::try_from(t),
                Ok(DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns)
            ) => {}
        Some(_) => {
            meaning.problem(&format!("{path}.type"), "is not STATIC, STRICT_DNS or LOGICAL_DNS");
            return None;
        }
    }
    let Some((host, port)) = single_endpoint(cluster).and_then(host_port) else {
        let path = format!("{path}.load_assignment");
        meaning.problem(&path, "needs one endpoint with a socket_address");
        return None;
    };
    if host.is_empty() || port == 0 {
        let path = format!("{path}.load_assignment");
        meaning.problem(&path, format!("'{host}:{port}' is not the scheduler's host and port"));
        return None;
    }
    ads.host = host.to_owned();
    ads.port = port;
    if let Some(timeout) = &cluster.connect_timeout {
        ads.connect_timeout = positive(meaning, timeout, &format!("{path}.connect_timeout"))?;
    }
    if let Some(http2) = http2_options(meaning, cluster, path)?
        && let Some(keepalive) = &http2.connection_keepalive
    {
        let path = format!("{path}.typed_extension_protocol_options");
        if let Some(interval) = &keepalive.interval {
            ads.keepalive_interval = positive(meaning, interval, &path)?;
        }
        if let Some(timeout) = &keepalive.timeout {
            ads.keepalive_timeout = positive(meaning, timeout, &path)?;
        }
    }
    let shortest = AdsSettings::default().keepalive_interval;
    if ads.keepalive_interval < shortest {
        let path = format!("{path}.typed_extension_protocol_options");
        meaning.notice(&path, "a keep-alive interval under 60s counts as 60s: the scheduler ends connections that ping more often");
        ads.keepalive_interval = shortest;
    }
    if let Some(socket) = &cluster.transport_socket {
        let path = format!("{path}.transport_socket.typed_config");
        let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
            meaning.problem(&path, "is missing");
            return None;
        };
        if any.type_url.ends_with(".RawBuffer") {
            return Some(ads);
        }
        if !any.type_url.ends_with(".UpstreamTlsContext") {
            meaning.problem(&path, format!("'{}' is no UpstreamTlsContext", any.type_url));
            return None;
        }
        let context = UpstreamTlsContext::decode(any.value.as_slice()).ok()?;
        ads.tls = Some(tls(meaning, &context, &path)?);
    }
    Some(ads)
}

/// HTTP/2 options, wherever they stand. The outer `None`: a problem.
fn http2_options(
    meaning: &mut Meaning<'_>,
    cluster: &Cluster,
    path: &str,
) -> Option<Option<Http2ProtocolOptions>> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let any = cluster.typed_extension_protocol_options.get(NAME);
    let options = any.and_then(|any| HttpProtocolOptions::decode(any.value.as_slice()).ok());
    if let Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) =
        options.and_then(|o| o.upstream_protocol_options)
        && let Some(ProtocolConfig::Http2ProtocolOptions(http2)) = explicit.protocol_config
    {
        return Some(Some(http2));
    }
    #[allow(deprecated)]
    if let Some(http2) = &cluster.http2_protocol_options {
        return Some(Some(http2.clone()));
    }
    let path = format!("{path}.typed_extension_protocol_options");
    meaning.problem(&path, "must ask for HTTP/2 (explicit_http_config.http2_protocol_options)");
    None
}

fn positive(
    meaning: &mut Meaning<'_>,
    duration: &protobuf::Duration,
    path: &str,
) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok();
    let nanos = u32::try_from(duration.nanos).ok();
    let found = seconds.zip(nanos).map(|(s, n)| Duration::new(s, n)).filter(|d| !d.is_zero());
    if found.is_none() {
        meaning.problem(path, "must be more than 0s");
    }
    found
}

fn tls(meaning: &mut Meaning<'_>, context: &UpstreamTlsContext, path: &str) -> Option<AdsTls> {
    let mut tls = AdsTls::default();
    let Some(common) = &context.common_tls_context else { return Some(tls) };
    let path = format!("{path}.common_tls_context");
    if let Some(config) = common.tls_certificate_sds_secret_configs.first() {
        let path = format!("{path}.tls_certificate_sds_secret_configs[0]");
        match bootstrap_secret::read(meaning, config, &path)?.r#type {
            Some(secret::Type::TlsCertificate(certificate)) => {
                tls.client = Some(identity(meaning, &certificate, &path)?);
            }
            _ => {
                meaning.problem(&path, format!("'{}' is no tls_certificate", config.name));
                return None;
            }
        }
    }
    if let Some(certificate) = common.tls_certificates.first() {
        tls.client = Some(identity(meaning, certificate, &format!("{path}.tls_certificates[0]"))?);
    }
    match &common.validation_context_type {
        None => {}
        Some(ValidationContextType::ValidationContext(context)) => {
            let path = format!("{path}.validation_context");
            tls.trusted_ca = trusted_ca(meaning, context, &path)?;
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            let path = format!("{path}.validation_context_sds_secret_config");
            match bootstrap_secret::read(meaning, config, &path)?.r#type {
                Some(secret::Type::ValidationContext(context)) => {
                    tls.trusted_ca = trusted_ca(meaning, &context, &path)?;
                }
                _ => {
                    meaning.problem(&path, format!("'{}' is no validation_context", config.name));
                    return None;
                }
            }
        }
        Some(_) => {
            meaning.problem(&path, "only 'validation_context' is supported here");
            return None;
        }
    }
    Some(tls)
}

/// The CA of a validation context. The outer `None`: a problem.
fn trusted_ca(
    meaning: &mut Meaning<'_>,
    context: &CertificateValidationContext,
    path: &str,
) -> Option<Option<Vec<u8>>> {
    if !context.match_typed_subject_alt_names.is_empty() {
        let path = format!("{path}.match_typed_subject_alt_names");
        meaning.problem(&path, "is not supported: only the CA is checked");
        return None;
    }
    match &context.trusted_ca {
        Some(ca) => data(meaning, ca, &format!("{path}.trusted_ca")).map(Some),
        None => Some(None),
    }
}

fn identity(
    meaning: &mut Meaning<'_>,
    certificate: &TlsCertificate,
    path: &str,
) -> Option<ClientIdentity> {
    let mut part = |name: &str, source: &Option<DataSource>| {
        let path = format!("{path}.{name}");
        match source {
            Some(source) => data(meaning, source, &path),
            None => {
                meaning.problem(&path, "is missing");
                None
            }
        }
    };
    let chain = part("certificate_chain", &certificate.certificate_chain);
    let key = part("private_key", &certificate.private_key);
    Some(ClientIdentity { certificate: chain?, key: key? })
}

fn data(meaning: &mut Meaning<'_>, source: &DataSource, path: &str) -> Option<Vec<u8>> {
    match source.specifier.as_ref() {
        Some(Specifier::InlineBytes(bytes)) => Some(bytes.clone()),
        Some(Specifier::InlineString(text)) => Some(text.clone().into_bytes()),
        Some(Specifier::Filename(file)) => match std::fs::read(file) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                meaning.problem(&format!("{path}.filename"), format!("'{file}': {error}"));
                None
            }
        },
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(name) {
            Ok(value) => Some(value.into_bytes()),
            Err(_) => {
                let path = format!("{path}.environment_variable");
                meaning.problem(&path, format!("'{name}' is not set"));
                None
            }
        },
        None => {
            meaning.problem(path, "says neither file nor content");
            None
        }
    }
}
