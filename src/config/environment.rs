//! Environment variables, as Seldon's manifests set them.

use super::settings::{
    AdsSettings, AdsTls, ClientIdentity, ConfigError, Notice, Problem, Settings, Source,
};

/// One variable, for the reference.
#[derive(Debug)]
pub struct VariableSpec {
    /// Name.
    pub name: &'static str,
    /// Value when unset.
    pub default: &'static str,
    /// Meaning.
    pub doc: &'static str,
}

/// Every variable that is read.
pub const VARIABLES: &[VariableSpec] = &[
    VariableSpec {
        name: "SELDON_SCHEDULER_HOST",
        default: "seldon-scheduler",
        doc: "Host of the scheduler's xDS server. Overrides the ADS cluster's address in a bootstrap.",
    },
    VariableSpec {
        name: "SELDON_SCHEDULER_PORT",
        default: "9002",
        doc: "Port of the scheduler's xDS server, 1 to 65535. Overrides the ADS cluster's port in a bootstrap.",
    },
    VariableSpec {
        name: "ENVOY_SECURITY_PROTOCOL",
        default: "PLAINTEXT",
        doc: "`PLAINTEXT` or `SSL`: TLS towards the scheduler. `SSL` needs the three variables below, unless a bootstrap configures TLS.",
    },
    VariableSpec {
        name: "ENVOY_XDS_CLIENT_TLS_CRT",
        default: "",
        doc: "Client certificate chain towards the scheduler, PEM content.",
    },
    VariableSpec {
        name: "ENVOY_XDS_CLIENT_TLS_KEY",
        default: "",
        doc: "Private key of that certificate, PEM content.",
    },
    VariableSpec {
        name: "ENVOY_XDS_SERVER_TLS_CA",
        default: "",
        doc: "CA that the scheduler's certificate must come from, PEM content. The name in the certificate is not checked, as with Envoy.",
    },
];

/// The variables' values; an empty value counts as unset, since manifests fill
/// them from optional secrets.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    host: Option<String>,
    port: Option<String>,
    security_protocol: Option<String>,
    client_certificate: Option<String>,
    client_key: Option<String>,
    server_ca: Option<String>,
}

impl Environment {
    /// The process's own.
    #[must_use]
    pub fn from_process() -> Self {
        Self::from_fn(|name| std::env::var(name).ok())
    }

    /// From any source of variables, for tests.
    pub fn from_fn(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|v| !v.is_empty());
        Self {
            host: set("SELDON_SCHEDULER_HOST"),
            port: set("SELDON_SCHEDULER_PORT"),
            security_protocol: set("ENVOY_SECURITY_PROTOCOL"),
            client_certificate: set("ENVOY_XDS_CLIENT_TLS_CRT"),
            client_key: set("ENVOY_XDS_CLIENT_TLS_KEY"),
            server_ca: set("ENVOY_XDS_SERVER_TLS_CA"),
        }
    }

    /// Lays the variables over what a file said.
    pub(super) fn apply(&self, settings: &mut Settings) -> Result<(), ConfigError> {
        match &mut settings.source {
            Source::Scheduler(ads) => {
                let problems = self.apply_ads(ads, &mut settings.notices);
                if problems.is_empty() { Ok(()) } else { Err(problems.into()) }
            }
            Source::File(_) | Source::Static => {
                for (name, value) in
                    [("SELDON_SCHEDULER_HOST", &self.host), ("SELDON_SCHEDULER_PORT", &self.port)]
                {
                    if value.is_some() {
                        settings.notices.push(Notice {
                            setting: name.to_owned(),
                            message: "no effect: the file given with -c names no scheduler"
                                .to_owned(),
                        });
                    }
                }
                Ok(())
            }
        }
    }

    fn apply_ads(&self, ads: &mut AdsSettings, notices: &mut Vec<Notice>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(host) = &self.host {
            if host.contains(|c: char| c.is_whitespace() || c == '/') {
                problems.push(Problem::new(
                    "SELDON_SCHEDULER_HOST",
                    format!("'{host}' is not a host name or address"),
                ));
            }
            ads.host.clone_from(host);
        }
        if let Some(port) = &self.port {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => ads.port = port,
                _ => problems.push(Problem::new(
                    "SELDON_SCHEDULER_PORT",
                    format!("'{port}' is not a port (1 to 65535)"),
                )),
            }
        }
        match self.security_protocol.as_deref() {
            None => {}
            Some("PLAINTEXT") if ads.tls.is_some() => notices.push(Notice {
                setting: "ENVOY_SECURITY_PROTOCOL".to_owned(),
                message: "PLAINTEXT has no effect: the bootstrap configures TLS".to_owned(),
            }),
            Some("PLAINTEXT") => {}
            Some("SSL") if ads.tls.is_some() => {}
            Some("SSL") => match self.tls() {
                Ok(tls) => ads.tls = Some(tls),
                Err(missing) => problems.extend(missing),
            },
            Some(other) => problems.push(Problem::new(
                "ENVOY_SECURITY_PROTOCOL",
                format!("'{other}' is neither PLAINTEXT nor SSL"),
            )),
        }
        problems
    }

    fn tls(&self) -> Result<AdsTls, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut pem = |name: &str, value: &Option<String>, label: &str| match value {
            Some(text) if text.contains("-----BEGIN") => text.clone().into_bytes(),
            Some(_) => {
                problems.push(Problem::new(name, format!("is not the PEM content of a {label}")));
                Vec::new()
            }
            None => {
                problems.push(Problem::new(name, "is needed with ENVOY_SECURITY_PROTOCOL=SSL"));
                Vec::new()
            }
        };
        let certificate = pem("ENVOY_XDS_CLIENT_TLS_CRT", &self.client_certificate, "certificate");
        let key = pem("ENVOY_XDS_CLIENT_TLS_KEY", &self.client_key, "private key");
        let trusted_ca = pem("ENVOY_XDS_SERVER_TLS_CA", &self.server_ca, "certificate");
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(AdsTls {
            trusted_ca: Some(trusted_ca),
            client: Some(ClientIdentity { certificate, key }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let environment = Environment::from_fn(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        });
        let mut settings = Settings::default();
        environment.apply(&mut settings).map_err(|e| e.to_string())?;
        Ok(settings)
    }

    fn ads(settings: &Settings) -> &AdsSettings {
        match &settings.source {
            Source::Scheduler(ads) => ads,
            other => panic!("{other:?}"),
        }
    }

    const PEM: &str = "-----BEGIN CERTIFICATE-----\n";

    #[test]
    fn nothing_set_means_seldons_defaults() {
        let settings = apply(&[("SELDON_SCHEDULER_HOST", "")]).unwrap();
        assert_eq!(*ads(&settings), AdsSettings::default());
        assert_eq!((ads(&settings).host.as_str(), ads(&settings).port), ("seldon-scheduler", 9002));
        assert_eq!(settings.node, crate::plane::Node::default());
    }

    #[test]
    fn the_seeds_variables_are_honoured() {
        let settings = apply(&[
            ("SELDON_SCHEDULER_HOST", "scheduler.seldon-mesh"),
            ("SELDON_SCHEDULER_PORT", "19002"),
            ("ENVOY_SECURITY_PROTOCOL", "PLAINTEXT"),
        ])
        .unwrap();
        let ads = ads(&settings);
        assert_eq!((ads.host.as_str(), ads.port), ("scheduler.seldon-mesh", 19002));
        assert_eq!(ads.tls, None);
    }

    #[test]
    fn ssl_takes_pem_content() {
        let settings = apply(&[
            ("ENVOY_SECURITY_PROTOCOL", "SSL"),
            ("ENVOY_XDS_CLIENT_TLS_KEY", "-----BEGIN PRIVATE KEY-----\n"),
            ("ENVOY_XDS_CLIENT_TLS_CRT", PEM),
            ("ENVOY_XDS_SERVER_TLS_CA", PEM),
        ])
        .unwrap();
        let tls = ads(&settings).tls.as_ref().unwrap();
        assert_eq!(tls.trusted_ca.as_deref(), Some(PEM.as_bytes()));
        assert!(tls.client.is_some());
        assert!(!format!("{settings:?}").contains("PRIVATE"), "keys stay out of logs");
    }

    #[test]
    fn wrong_values_are_named() {
        for (variables, expected) in [
            (
                &[("SELDON_SCHEDULER_PORT", "70000")][..],
                "SELDON_SCHEDULER_PORT: '70000' is not a port (1 to 65535)",
            ),
            (
                &[("SELDON_SCHEDULER_PORT", "0")],
                "SELDON_SCHEDULER_PORT: '0' is not a port (1 to 65535)",
            ),
            (
                &[("SELDON_SCHEDULER_HOST", "http://x")],
                "SELDON_SCHEDULER_HOST: 'http://x' is not a host name or address",
            ),
            (
                &[("ENVOY_SECURITY_PROTOCOL", "ssl")],
                "ENVOY_SECURITY_PROTOCOL: 'ssl' is neither PLAINTEXT nor SSL",
            ),
            (
                &[
                    ("ENVOY_SECURITY_PROTOCOL", "SSL"),
                    ("ENVOY_XDS_CLIENT_TLS_KEY", "/tmp/certs/tls.key"),
                    ("ENVOY_XDS_CLIENT_TLS_CRT", PEM),
                ],
                "ENVOY_XDS_CLIENT_TLS_KEY: is not the PEM content of a private key\n\
                 ENVOY_XDS_SERVER_TLS_CA: is needed with ENVOY_SECURITY_PROTOCOL=SSL",
            ),
        ] {
            assert_eq!(apply(variables).unwrap_err(), expected);
        }
    }
}
