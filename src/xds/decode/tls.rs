//! TLS contexts of listeners and clusters, and secrets.
//!
//! What would make a peer more trusted than configured is refused by name; what
//! only tunes is overlooked.

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::Invalid;
use super::error::{At, overlook, refuse};
use super::scalar::unpack;
use crate::model::UpstreamProtocol;
use crate::tls::spec::{
    CertificateRef, CertificateSpec, CommonSpec, DownstreamSpec, PemSource, SecretSpec, TrustRef,
    TrustSpec, UpstreamSpec, Versions,
};

const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Decodes a `Secret`: its name and what it holds.
///
/// # Errors
///
/// The first field that is wrong or not supported.
pub fn secret(message: &Bytes) -> Result<(String, SecretSpec), Invalid> {
    use pb::secret::Type;
    let secret = pb::Secret::decode(&**message)
        .map_err(|e| Invalid::new(format!("malformed protobuf message: {e}")))?;
    let spec = match &secret.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            SecretSpec::Certificate(own(certificate).at("tls_certificate")?)
        }
        Some(Type::ValidationContext(context)) => {
            SecretSpec::Trust(trust(context).at("validation_context")?)
        }
        Some(Type::SessionTicketKeys(_)) => {
            return Err(Invalid::unsupported("session_ticket_keys"));
        }
        Some(Type::GenericSecret(_)) => return Err(Invalid::unsupported("generic_secret")),
        None => return Err(Invalid::new("Secret has no type")),
    };
    Ok((secret.name, spec))
}

/// A listener's transport socket; none: plain text.
pub(super) fn downstream(
    socket: Option<&core::TransportSocket>,
    handshake_timeout: Duration,
) -> Result<Option<DownstreamSpec>, Invalid> {
    let Some(any) = typed(socket, DOWNSTREAM)? else { return Ok(None) };
    let context: pb::DownstreamTlsContext = unpack(any).at("typed_config")?;
    let spec = downstream_context(&context, handshake_timeout).at("typed_config")?;
    Ok(Some(spec))
}

fn downstream_context(
    context: &pb::DownstreamTlsContext,
    handshake_timeout: Duration,
) -> Result<DownstreamSpec, Invalid> {
    if context.require_sni.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("require_sni"));
    }
    // 0 and 1 are content without a stapled answer, and there never is one.
    if context.ocsp_staple_policy > 1 {
        return Err(Invalid::unsupported("ocsp_staple_policy"));
    }
    overlook!(context, "DownstreamTlsContext"; disable_stateful_session_resumption,
        session_timeout, full_scan_certs_on_sni_mismatch, prefer_client_ciphers,
        session_ticket_keys_type);
    let common = context.common_tls_context.clone().unwrap_or_default();
    let read = common_context(&common).at("common_tls_context")?;
    if read.certificates.is_empty() {
        return Err(Invalid::new("No TLS certificates found for server context"));
    }
    let mut alpn: Vec<_> = common.alpn_protocols.into_iter().map(String::into_bytes).collect();
    if alpn.is_empty() {
        alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(DownstreamSpec {
        common: read,
        alpn,
        require_client_certificate: context.require_client_certificate.is_some_and(|v| v.value),
        handshake_timeout,
    })
}

/// A cluster's transport socket; none: plain text.
pub(super) fn upstream(
    socket: Option<&core::TransportSocket>,
    protocol: UpstreamProtocol,
) -> Result<Option<UpstreamSpec>, Invalid> {
    let Some(any) = typed(socket, UPSTREAM)? else { return Ok(None) };
    let context: pb::UpstreamTlsContext = unpack(any).at("typed_config")?;
    let spec = upstream_context(context, protocol).at("typed_config")?;
    Ok(Some(spec))
}

fn upstream_context(
    context: pb::UpstreamTlsContext,
    protocol: UpstreamProtocol,
) -> Result<UpstreamSpec, Invalid> {
    refuse!(context; auto_host_sni, auto_sni_san_validation);
    overlook!(context, "UpstreamTlsContext"; allow_renegotiation, max_session_keys,
        enforce_rsa_key_usage);
    let sni = Some(context.sni).filter(|name| !name.is_empty());
    if let Some(name) = &sni {
        let read = rustls_pki_types::DnsName::try_from(&**name);
        read.map_err(|e| Invalid::new(e.to_string()).at("sni"))?;
    }
    let common = context.common_tls_context.unwrap_or_default();
    Ok(UpstreamSpec { common: common_context(&common).at("common_tls_context")?, protocol, sni })
}

/// The TLS context in a transport socket; none for plain text.
fn typed<'a>(
    socket: Option<&'a core::TransportSocket>,
    wanted: &str,
) -> Result<Option<&'a Any>, Invalid> {
    use core::transport_socket::ConfigType;
    let Some(socket) = socket else { return Ok(None) };
    let name = match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => match super::listener::type_name(any) {
            name if name == wanted => return Ok(Some(any)),
            RAW_BUFFER => return Ok(None),
            other => other,
        },
        None if socket.name == "envoy.transport_sockets.raw_buffer" => return Ok(None),
        None => &socket.name,
    };
    Err(Invalid::new(format!("transport socket '{name}' is not supported")))
}

fn common_context(common: &pb::CommonTlsContext) -> Result<CommonSpec, Invalid> {
    use pb::common_tls_context::ValidationContextType;
    refuse!(common; tls_certificate_provider_instance, custom_tls_certificate_selector,
        tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance,
        custom_handshaker);
    overlook!(common, "CommonTlsContext"; key_log);
    let mut certificates = Vec::new();
    for (i, certificate) in common.tls_certificates.iter().enumerate() {
        let certificate = own(certificate).at_index("tls_certificates", i)?;
        certificates.push(CertificateRef::Given(certificate));
    }
    for (i, config) in common.tls_certificate_sds_secret_configs.iter().enumerate() {
        let name = by_name(config).at_index("tls_certificate_sds_secret_configs", i)?;
        certificates.push(CertificateRef::Secret(name));
    }
    let trust = match &common.validation_context_type {
        None => TrustRef::default(),
        Some(ValidationContextType::ValidationContext(context)) => {
            TrustRef { given: trust(context).at("validation_context")?, secret: None }
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            let name = by_name(config).at("validation_context_sds_secret_config")?;
            TrustRef { given: TrustSpec::default(), secret: Some(name) }
        }
        Some(ValidationContextType::CombinedValidationContext(both)) => {
            combined(both).at("combined_validation_context")?
        }
        Some(_) => return Err(Invalid::unsupported("validation_context_certificate_provider")),
    };
    let versions = common.tls_params.as_ref().map_or(Ok(Versions::default()), versions);
    Ok(CommonSpec { certificates, trust, versions: versions.at("tls_params")? })
}

fn combined(
    both: &pb::common_tls_context::CombinedCertificateValidationContext,
) -> Result<TrustRef, Invalid> {
    refuse!(both; validation_context_certificate_provider,
        validation_context_certificate_provider_instance);
    let given = both.default_validation_context.as_ref().map(trust).transpose();
    let secret = both.validation_context_sds_secret_config.as_ref().map(by_name).transpose();
    Ok(TrustRef {
        given: given.at("default_validation_context")?.unwrap_or_default(),
        secret: secret.at("validation_context_sds_secret_config")?,
    })
}

/// The name of a secret that comes by ADS or stands in the bootstrap.
fn by_name(config: &pb::SdsSecretConfig) -> Result<String, Invalid> {
    use core::config_source::ConfigSourceSpecifier::{Ads, Self_};
    match config.sds_config.as_ref().map(|source| &source.config_source_specifier) {
        None | Some(Some(Ads(_) | Self_(_))) => {}
        Some(_) => return Err(Invalid::new("only secrets by ADS are supported").at("sds_config")),
    }
    if config.name.is_empty() {
        return Err(Invalid::new("value length must be at least 1 characters").at("name"));
    }
    Ok(config.name.clone())
}

fn versions(params: &pb::TlsParameters) -> Result<Versions, Invalid> {
    use pb::tls_parameters::TlsProtocol;
    refuse!(params; compliance_policies);
    overlook!(params, "TlsParameters"; cipher_suites, ecdh_curves, signature_algorithms);
    let read = |version: i32, field| {
        TlsProtocol::try_from(version).map_err(|_| Invalid::new("value is not defined").at(field))
    };
    let minimum = read(params.tls_minimum_protocol_version, "tls_minimum_protocol_version")?;
    let maximum = read(params.tls_maximum_protocol_version, "tls_maximum_protocol_version")?;
    let versions = Versions {
        tls12: minimum != TlsProtocol::TlSv13,
        tls13: matches!(maximum, TlsProtocol::TlsAuto | TlsProtocol::TlSv13),
    };
    match (maximum, versions) {
        (TlsProtocol::TlSv10 | TlsProtocol::TlSv11, _)
        | (_, Versions { tls12: false, tls13: false }) => {
            Err(Invalid::new("TLS 1.2 and 1.3 only").at("tls_maximum_protocol_version"))
        }
        _ => Ok(versions),
    }
}

fn own(certificate: &pb::TlsCertificate) -> Result<CertificateSpec, Invalid> {
    refuse!(certificate; pkcs12, private_key_provider, password, tls_params);
    overlook!(certificate, "TlsCertificate"; ocsp_staple, signed_certificate_timestamp);
    let chain = certificate.certificate_chain.as_ref();
    let key = certificate.private_key.as_ref();
    Ok(CertificateSpec {
        chain: source(chain).at("certificate_chain")?,
        key: source(key).at("private_key")?,
    })
}

fn trust(context: &pb::CertificateValidationContext) -> Result<TrustSpec, Invalid> {
    refuse!(context; ca_certificate_provider_instance, system_root_certs, verify_certificate_spki,
        verify_certificate_hash, match_typed_subject_alt_names, match_subject_alt_names, crl,
        trust_chain_verification, custom_validator_config);
    if context.require_signed_certificate_timestamp.is_some_and(|v| v.value) {
        return Err(Invalid::unsupported("require_signed_certificate_timestamp"));
    }
    overlook!(context, "CertificateValidationContext"; allow_expired_certificate,
        only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list);
    let ca = context.trusted_ca.as_ref().map(|ca| source(Some(ca))).transpose();
    Ok(TrustSpec { ca: ca.at("trusted_ca")? })
}

fn source(source: Option<&core::DataSource>) -> Result<PemSource, Invalid> {
    use core::data_source::Specifier;
    let specifier = source.and_then(|source| source.specifier.as_ref());
    Ok(match specifier {
        Some(Specifier::InlineString(text)) => PemSource::Inline(text.clone().into()),
        Some(Specifier::InlineBytes(bytes)) => PemSource::Inline(bytes.clone().into()),
        Some(Specifier::Filename(path)) => PemSource::File(path.into()),
        Some(Specifier::EnvironmentVariable(name)) => PemSource::Environment(name.clone()),
        None => return Err(Invalid::new("value is required")),
    })
}
