//! A cluster that is not warm before its secret arrives.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, TransportSocket, data_source,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, SdsSecretConfig, Secret, TlsCertificate, UpstreamTlsContext, secret,
};
use envoy_types::util::pack_any;
use prost::Message;
use radiant::demo::scheduler::cache::SECRET;
use radiant::demo::scheduler::{Push, Resource};
use radiant::seldon::cluster::{Protocol, cluster};

/// The cluster and the secret that it wants.
pub struct TlsCluster {
    name: String,
    port: u16,
}

impl TlsCluster {
    pub fn new(name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port }
    }

    pub fn cluster(&self) -> Cluster {
        let plain = cluster(self.name.clone(), Protocol::Http, [("127.0.0.1", self.port)]);
        let ads = ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::Ads(
                AggregatedConfigSource::default(),
            )),
            ..Default::default()
        };
        let wanted = SdsSecretConfig { name: self.secret_name(), sds_config: Some(ads) };
        let context = UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_certificate_sds_secret_configs: vec![wanted],
                ..Default::default()
            }),
            ..Default::default()
        };
        let socket = TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(context))),
        };
        Cluster { transport_socket: Some(socket), ..plain }
    }

    fn secret_name(&self) -> String {
        format!("{}-secret", self.name)
    }

    /// The secret: a certificate with its key.
    pub fn secret(&self) -> Push {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["mesh.example".to_owned()]).expect("valid");
        let certificate = params.self_signed(&key).expect("a certificate");
        let inline = |text: String| {
            Some(DataSource {
                specifier: Some(data_source::Specifier::InlineString(text)),
                ..Default::default()
            })
        };
        let secret = Secret {
            name: self.secret_name(),
            r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: inline(certificate.pem()),
                private_key: inline(key.serialize_pem()),
                ..Default::default()
            })),
        };
        Push::Upsert(SECRET, vec![Resource::new(secret.name.clone(), secret.encode_to_vec())])
    }
}
