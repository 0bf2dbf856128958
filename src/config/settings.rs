//! [`Settings`]: the one result of all sources of configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::environment::Environment;
use super::flags::Flags;
use crate::model::{AccessLogSink, Resources};
use crate::plane::Node;

/// Everything that a process needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Identity towards the scheduler (Envoy: `node`).
    pub node: Node,
    /// Where listeners, routes and clusters come from.
    pub source: Source,
    /// Clusters and listeners of a bootstrap's `static_resources`, without the
    /// ADS cluster, the admin cluster and the utility listener. Empty unless a
    /// bootstrap has some. To be applied before the first dynamic resources,
    /// and never removed.
    pub static_resources: Resources,
    /// Admin address; 127.0.0.1:9901. `None`: a bootstrap without `admin`.
    pub admin: Option<SocketAddr>,
    /// File that the bound admin address is written to (port 0), if any.
    pub admin_address_path: Option<PathBuf>,
    /// The utility listener; `None`: a bootstrap without one.
    pub utility: Option<UtilityListener>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Upper bound of draining after SIGTERM or `/quitquitquit`.
    pub drain_time: Duration,
    /// How long a removed cluster serves on while a published table names it;
    /// zero: not at all, as Envoy.
    pub removed_cluster_grace: Duration,
    /// Put the chosen arm's model name into the request.
    pub rewrite: bool,
    /// Refuse requests and answers of which another proxy could read something
    /// else, where Envoy forwards them.
    pub refuse_ambiguous: bool,
    /// Where accepted resources are saved and loaded from, if at all.
    pub saved_snapshot: Option<PathBuf>,
    /// Where every request is logged as JSON, if anywhere.
    pub json_access_log: Option<AccessLogSink>,
    /// Logging.
    pub log: LogSettings,
    /// The bootstrap in proto3 JSON, for `/config_dump`; `Null` without one:
    /// [`Settings::bootstrap_json`] then makes one of the settings.
    pub bootstrap: serde_json::Value,
    /// What was given, is known, and has no effect here. To be logged as
    /// warnings once logging works.
    pub notices: Vec<Notice>,
}

/// Where resources come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The scheduler, over ADS.
    Scheduler(Box<AdsSettings>),
    /// A native file, watched for changes.
    File(PathBuf),
    /// Only the bootstrap's static resources.
    Static,
}

/// How to reach the scheduler's xDS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdsSettings {
    /// Host name or address.
    pub host: String,
    /// Port; 9002.
    pub port: u16,
    /// TLS towards the scheduler, if any.
    pub tls: Option<AdsTls>,
    /// Envoy: `Cluster.connect_timeout`; 1 s.
    pub connect_timeout: Duration,
    /// HTTP/2 PING interval; 60 s. The scheduler cuts clients that ping more
    /// often, so the client adds jitter on top and never goes below 60 s.
    pub keepalive_interval: Duration,
    /// HTTP/2 PING timeout; 2 s.
    pub keepalive_timeout: Duration,
    /// Envoy: `ApiConfigSource.api_type`; delta.
    pub variant: XdsVariant,
}

impl Default for AdsSettings {
    fn default() -> Self {
        Self {
            host: "seldon-scheduler".to_owned(),
            port: 9002,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(2),
            variant: XdsVariant::Delta,
        }
    }
}

/// Which ADS method is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdsVariant {
    /// `DeltaAggregatedResources` (Envoy: `DELTA_GRPC`).
    Delta,
    /// `StreamAggregatedResources` (Envoy: `GRPC`).
    StateOfTheWorld,
}

/// TLS towards the scheduler. The server's chain is verified against
/// `trusted_ca` without a name check, as Envoy does by Seldon's bootstrap;
/// ALPN `h2` is offered, no
/// server name is sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AdsTls {
    /// PEM; `None`: the server is not verified (Envoy: no validation context).
    pub trusted_ca: Option<Vec<u8>>,
    /// Certificate to present, if any.
    pub client: Option<ClientIdentity>,
}

/// A client certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM certificate chain.
    pub certificate: Vec<u8>,
    /// PEM private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for AdsTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdsTls")
            .field("trusted_ca", &self.trusted_ca.is_some())
            .field("client", &self.client.is_some())
            .finish()
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity")
    }
}

/// The listener of `/ready` and the statistics (:9003).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UtilityListener {
    /// Resource name, for statistics and `/listeners`.
    pub name: String,
    /// 0.0.0.0:9003.
    pub address: SocketAddr,
    /// Envoy: `HttpConnectionManager.stat_prefix`.
    pub stat_prefix: String,
}

impl UtilityListener {
    /// The utility listener of Seldon's bootstrap.
    #[must_use]
    pub fn seldon() -> Self {
        Self {
            name: "util_endpoint".to_owned(),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9003),
            stat_prefix: "util_endpoint_http".to_owned(),
        }
    }
}

/// Admin address unless told otherwise: loopback, port 9901.
pub(super) const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// Logging of the process itself (not the access log).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Level of everything that `components` does not name.
    pub level: tracing::level_filters::LevelFilter,
    /// `--component-log-level`: module names of Radiant with their levels.
    pub components: Vec<(String, tracing::level_filters::LevelFilter)>,
    /// Form of a line.
    pub format: LogFormat,
    /// File to append to; `None`: standard error.
    pub path: Option<PathBuf>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: tracing::level_filters::LevelFilter::INFO,
            components: Vec::new(),
            format: LogFormat::Text,
            path: None,
        }
    }
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Something that was given, is known, and has no effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Flag, variable, or file with field path.
    pub setting: String,
    /// Why it has no effect.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Flag, variable, or `file:line: field.path`.
    pub setting: String,
    /// What is wrong, with the value.
    pub message: String,
}

impl Problem {
    pub(super) fn new(setting: impl Into<String>, message: impl Into<String>) -> Self {
        Self { setting: setting.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.setting.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.setting, self.message)
    }
}

/// Everything that is wrong with the configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the input.
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl From<Vec<Problem>> for ConfigError {
    fn from(problems: Vec<Problem>) -> Self {
        Self { problems }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Brings flags, environment and the file together.
///
/// # Errors
/// Every setting that is wrong, by name and with its value.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Settings, ConfigError> {
    let mut settings = super::file::settings(flags)?;
    settings.notices.splice(0..0, flags.notices.iter().cloned());
    environment.apply(&mut settings)?;
    flags.apply(&mut settings);
    Ok(settings)
}

impl Default for Settings {
    /// What an image swap without any flag or variable means.
    fn default() -> Self {
        Self {
            node: Node::default(),
            source: Source::Scheduler(Box::default()),
            static_resources: Resources::default(),
            admin: Some(DEFAULT_ADMIN),
            admin_address_path: None,
            utility: Some(UtilityListener::seldon()),
            workers: 1,
            drain_time: Duration::from_secs(60),
            removed_cluster_grace: Duration::from_secs(30),
            rewrite: false,
            refuse_ambiguous: false,
            saved_snapshot: None,
            json_access_log: None,
            log: LogSettings::default(),
            bootstrap: serde_json::Value::Null,
            notices: Vec::new(),
        }
    }
}
