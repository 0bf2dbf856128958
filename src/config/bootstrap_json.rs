//! A bootstrap in proto3 JSON for `/config_dump`, also where there was none.

use std::time::Duration;

use serde_json::{Value, json};

use super::settings::{AdsSettings, Settings, Source, XdsVariant};

impl Settings {
    /// The bootstrap that was given; without one, the bootstrap that says the
    /// same as these settings. Secrets are not in it. Needs no descriptors.
    #[must_use]
    pub fn bootstrap_json(&self) -> Value {
        if !self.bootstrap.is_null() {
            return self.bootstrap.clone();
        }
        let mut bootstrap = json!({ "node": { "id": self.node.id, "cluster": self.node.cluster } });
        if let Source::Scheduler(ads) = &self.source {
            bootstrap["static_resources"] = json!({ "clusters": [cluster(ads)] });
            bootstrap["dynamic_resources"] = dynamic(ads);
        }
        if let Some(admin) = self.admin {
            let address = socket_address(&admin.ip().to_string(), admin.port());
            bootstrap["admin"] = json!({ "address": address });
        }
        bootstrap
    }
}

const CLUSTER: &str = "xds_cluster";

fn socket_address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn dynamic(ads: &AdsSettings) -> Value {
    let api_type = match ads.variant {
        XdsVariant::Delta => "DELTA_GRPC",
        XdsVariant::StateOfTheWorld => "GRPC",
    };
    let source = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "lds_config": source,
        "cds_config": source,
        "ads_config": {
            "api_type": api_type,
            "grpc_services": [{ "envoy_grpc": { "cluster_name": CLUSTER } }],
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3",
        },
    })
}

fn cluster(ads: &AdsSettings) -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let keepalive = json!({
        "interval": seconds(ads.keepalive_interval),
        "timeout": seconds(ads.keepalive_timeout),
    });
    let endpoint = json!({ "endpoint": { "address": socket_address(&ads.host, ads.port) } });
    let mut cluster = json!({
        "name": CLUSTER,
        "type": "LOGICAL_DNS",
        "connect_timeout": seconds(ads.connect_timeout),
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
        "typed_extension_protocol_options": { OPTIONS: {
            "@type": format!("type.googleapis.com/{OPTIONS}"),
            "explicit_http_config": {
                "http2_protocol_options": { "connection_keepalive": keepalive },
            },
        }},
    });
    if ads.tls.is_some() {
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": { "@type": format!("type.googleapis.com/{TLS}") },
        });
    }
    cluster
}

/// proto3 JSON of a duration.
fn seconds(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        millis => format!("{}.{millis:03}s", duration.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{bootstrap, file};

    #[test]
    fn what_is_made_up_reads_back_as_the_same_settings() {
        let mut settings = Settings::default();
        let Source::Scheduler(ads) = &mut settings.source else { panic!("the default") };
        ads.host = "10.0.0.1".to_owned();
        ads.connect_timeout = Duration::from_millis(1500);
        let text = settings.bootstrap_json().to_string();
        let document = file::documents("made", &text).expect("it is JSON").remove(0);
        let again = bootstrap::read("made", &document, false).expect("it is a bootstrap");
        assert_eq!(again.source, settings.source);
        assert_eq!(again.node, settings.node);
        assert_eq!(again.admin, settings.admin);
        assert_eq!(again.notices, []);
        assert_eq!(again.bootstrap_json(), again.bootstrap);
    }
}
