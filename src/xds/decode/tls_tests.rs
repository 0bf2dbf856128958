//! Which TLS settings are understood, and what is refused by name.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::util::pack_any;

use super::*;

fn common() -> pb::CommonTlsContext {
    let config = pb::SdsSecretConfig { name: "s".to_owned(), sds_config: None };
    pb::CommonTlsContext { tls_certificate_sds_secret_configs: vec![config], ..Default::default() }
}

fn socket(any: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any)),
    }
}

fn listener(edit: impl FnOnce(&mut pb::DownstreamTlsContext)) -> Result<DownstreamSpec, Invalid> {
    let mut context =
        pb::DownstreamTlsContext { common_tls_context: Some(common()), ..Default::default() };
    edit(&mut context);
    downstream(Some(&socket(pack_any(context))), Duration::from_secs(1)).map(Option::unwrap)
}

fn cluster(edit: impl FnOnce(&mut pb::UpstreamTlsContext)) -> Result<UpstreamSpec, Invalid> {
    let mut context =
        pb::UpstreamTlsContext { common_tls_context: Some(common()), ..Default::default() };
    edit(&mut context);
    upstream(Some(&socket(pack_any(context))), UpstreamProtocol::Http1).map(Option::unwrap)
}

fn params(minimum: i32, maximum: i32) -> Option<pb::TlsParameters> {
    Some(pb::TlsParameters {
        tls_minimum_protocol_version: minimum,
        tls_maximum_protocol_version: maximum,
        ..Default::default()
    })
}

#[test]
fn a_listener_has_both_protocols_unless_told_otherwise() {
    let spec = listener(|_| {}).unwrap();
    assert_eq!(spec.alpn, [&b"h2"[..], b"http/1.1"]);
    assert!(!spec.require_client_certificate);
    let spec = listener(|context| {
        context.common_tls_context.as_mut().unwrap().alpn_protocols = vec!["h2".to_owned()];
        context.require_client_certificate = Some(BoolValue { value: true });
    });
    let spec = spec.unwrap();
    assert_eq!((spec.alpn, spec.require_client_certificate), (vec![b"h2".to_vec()], true));
}

#[test]
fn a_raw_buffer_and_nothing_are_plain_text() {
    let any = Any { type_url: format!("type.googleapis.com/{RAW_BUFFER}"), value: Vec::new() };
    assert_eq!(upstream(Some(&socket(any)), UpstreamProtocol::Http1), Ok(None));
    assert_eq!(downstream(None, Duration::ZERO), Ok(None));
    let other = Any { type_url: "t/envoy.Quic".to_owned(), value: Vec::new() };
    let refused = downstream(Some(&socket(other)), Duration::ZERO).unwrap_err();
    assert_eq!(refused.reason, "transport socket 'envoy.Quic' is not supported");
}

#[test]
fn versions_are_limited_to_those_that_exist_here() {
    let read = |minimum, maximum| {
        let spec = cluster(|c| {
            c.common_tls_context.as_mut().unwrap().tls_params = params(minimum, maximum);
        });
        spec.map(|spec| (spec.common.versions.tls12, spec.common.versions.tls13)).ok()
    };
    let (auto, tls11, tls12, tls13) = (0, 2, 3, 4);
    let cases = [
        (auto, auto, Some((true, true))),
        (tls11, tls13, Some((true, true))),
        (tls12, tls12, Some((true, false))),
        (tls13, auto, Some((false, true))),
        (tls13, tls12, None),
        (auto, tls11, None),
        (9, auto, None),
    ];
    for (minimum, maximum, expected) in cases {
        assert_eq!(read(minimum, maximum), expected, "{minimum} to {maximum}");
    }
}

#[test]
fn what_would_check_more_than_the_ca_is_refused_by_name() {
    use pb::common_tls_context::ValidationContextType::ValidationContext;
    type Edit = fn(&mut pb::CertificateValidationContext);
    let cases: [(Edit, &str); 5] = [
        (
            |c| c.match_typed_subject_alt_names.push(Default::default()),
            "match_typed_subject_alt_names",
        ),
        (|c| c.verify_certificate_hash.push("x".to_owned()), "verify_certificate_hash"),
        (|c| c.crl = Some(Default::default()), "crl"),
        (|c| c.trust_chain_verification = 1, "trust_chain_verification"),
        (|c| c.trusted_ca = Some(Default::default()), "trusted_ca"),
    ];
    for (edit, field) in cases {
        let mut context = pb::CertificateValidationContext::default();
        edit(&mut context);
        let refused = cluster(|c| {
            let common = c.common_tls_context.as_mut().unwrap();
            common.validation_context_type = Some(ValidationContext(context));
        });
        let path = format!("typed_config.common_tls_context.validation_context.{field}");
        assert_eq!(refused.unwrap_err().field, path);
    }
}

#[test]
fn secrets_come_by_ads_only() {
    let refused = listener(|context| {
        let common = context.common_tls_context.as_mut().unwrap();
        common.tls_certificate_sds_secret_configs[0].sds_config = Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Path(
                "/x".to_owned(),
            )),
            ..Default::default()
        });
    });
    assert!(refused.unwrap_err().field.ends_with("secret_configs[0].sds_config"));
    let none = listener(|context| context.common_tls_context = None);
    assert_eq!(none.unwrap_err().reason, "No TLS certificates found for server context");
    assert_eq!(cluster(|c| c.sni = "?".to_owned()).unwrap_err().field, "typed_config.sni");
}

#[test]
fn secrets_are_certificates_or_trust() {
    let read = |r#type| {
        let message = pb::Secret { name: "s".to_owned(), r#type };
        secret(&Bytes::from(message.encode_to_vec()))
    };
    use pb::secret::Type;
    let trusts_nobody = read(Some(Type::ValidationContext(Default::default())));
    let nothing = SecretSpec::Trust(TrustSpec { ca: None });
    assert_eq!(trusts_nobody.unwrap(), ("s".to_owned(), nothing));
    let no_key = pb::TlsCertificate {
        certificate_chain: Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString("x".to_owned())),
            watched_directory: None,
        }),
        ..Default::default()
    };
    let refused = read(Some(Type::TlsCertificate(no_key))).unwrap_err();
    assert_eq!(refused.field, "tls_certificate.private_key");
    assert_eq!(read(None).unwrap_err().reason, "Secret has no type");
    assert!(secret(&Bytes::from_static(&[0xff])).is_err());
}
