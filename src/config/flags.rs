//! The command line: commands, Radiant's own flags and Envoy's.
//!
//! One table, [`FLAGS`], drives parsing, `--help` and the reference. A flag of
//! Envoy that would change what the proxy does and is not implemented is
//! refused by name; one that changes nothing that anybody can see is accepted
//! with a notice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::settings::{LogFormat, LogSettings, Notice, Problem, Settings, Source};
use super::spec::{Effect, FLAGS, FlagSpec};
use crate::model::AccessLogSink;

/// What the process is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Serve.
    Run(Box<Flags>),
    /// Proxy, scheduler and model servers in one process.
    Demo(DemoFlags, Box<Flags>),
    /// Say what a configuration means, or what is wrong with it.
    Check(Box<Flags>),
    /// Print the configuration reference.
    Reference,
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
}

/// Flags of `demo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DemoFlags {
    /// `--port`: the data port; 0: free ports for everything. `None`: 9000.
    pub port: Option<u16>,
    /// `--models`: models beside the demo's own. `None`: none.
    pub models: Option<usize>,
    /// `--no-proxy`: scheduler and model servers only, for another proxy.
    pub no_proxy: bool,
}

/// Flags of `run` and `check`, parsed; `None` where not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `-c`: Envoy bootstrap or native file. `check FILE` sets it too.
    pub config_path: Option<PathBuf>,
    /// `--config-yaml`: bootstrap text, laid over that of `-c`.
    pub config_yaml: Option<String>,
    /// `--allow-unknown-static-fields`: unknown fields are notices, not errors.
    pub allow_unknown_fields: bool,
    /// `--concurrency`: worker threads.
    pub concurrency: Option<usize>,
    /// `-l`.
    pub log_level: Option<LevelFilter>,
    /// `--component-log-level`.
    pub components: Vec<(String, LevelFilter)>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--log-path`.
    pub log_path: Option<PathBuf>,
    /// `--drain-time-s`.
    pub drain_time: Option<Duration>,
    /// `--service-node`.
    pub service_node: Option<String>,
    /// `--service-cluster`.
    pub service_cluster: Option<String>,
    /// `--admin-address`.
    pub admin: Option<SocketAddr>,
    /// `--admin-address-path`.
    pub admin_address_path: Option<PathBuf>,
    /// `--utility-address`.
    pub utility: Option<SocketAddr>,
    /// `--removed-cluster-grace`.
    pub removed_cluster_grace: Option<Duration>,
    /// `--saved-snapshot`.
    pub saved_snapshot: Option<PathBuf>,
    /// `--json-access-log`.
    pub json_access_log: Option<AccessLogSink>,
    /// `--rewrite`.
    pub rewrite: bool,
    /// `--refuse-ambiguous-requests`.
    pub refuse_ambiguous: bool,
    /// Accepted, without effect.
    pub notices: Vec<Notice>,
}

impl Flags {
    /// Lays the flags over what file and environment said.
    pub(super) fn apply(&self, settings: &mut Settings) {
        settings.workers = self.concurrency.unwrap_or_else(super::default_workers);
        let node = &mut settings.node;
        node.id = self.service_node.clone().unwrap_or_else(|| std::mem::take(&mut node.id));
        node.cluster =
            self.service_cluster.clone().unwrap_or_else(|| std::mem::take(&mut node.cluster));
        settings.drain_time = self.drain_time.unwrap_or(settings.drain_time);
        settings.removed_cluster_grace =
            self.removed_cluster_grace.unwrap_or(settings.removed_cluster_grace);
        settings.admin = self.admin.or(settings.admin);
        settings.admin_address_path.clone_from(&self.admin_address_path);
        settings.rewrite |= self.rewrite;
        settings.refuse_ambiguous |= self.refuse_ambiguous;
        settings.saved_snapshot.clone_from(&self.saved_snapshot);
        settings.json_access_log.clone_from(&self.json_access_log);
        settings.log = LogSettings {
            level: self.log_level.unwrap_or(settings.log.level),
            components: self.components.clone(),
            format: self.log_format.unwrap_or(settings.log.format),
            path: self.log_path.clone().or_else(|| settings.log.path.take()),
        };
        if let Some(address) = self.utility {
            settings.utility.get_or_insert_with(super::UtilityListener::seldon).address = address;
        }
        if settings.saved_snapshot.is_some() && !matches!(settings.source, Source::Scheduler(_)) {
            settings.notices.push(Notice {
                setting: "--saved-snapshot".to_owned(),
                message: "no effect: the resources come from a file".to_owned(),
            });
        }
    }
}

/// Parses `argv`, program name first.
///
/// # Errors
/// The first argument that is unknown, not supported, or has a wrong value.
pub fn parse<I: IntoIterator<Item = String>>(argv: I) -> Result<Command, Problem> {
    let mut argv = argv.into_iter().peekable();
    let program = argv.next().unwrap_or_default();
    let as_envoy = program.rsplit('/').next() == Some("envoy");
    let mut name = "run".to_owned();
    if !as_envoy && let Some(first) = argv.peek().filter(|a| !a.starts_with('-')) {
        match first.as_str() {
            "run" | "demo" | "check" => name.clone_from(first),
            other => {
                return Err(Problem::new(
                    "",
                    format!("unknown command '{other}' (run, demo or check)"),
                ));
            }
        }
        argv.next();
    }
    let mut state = Parsing { command: name, ..Parsing::default() };
    while let Some(argument) = argv.next() {
        state.argument(&argument, &mut argv)?;
        if state.done {
            break;
        }
    }
    state.finish()
}

#[derive(Default)]
struct Parsing {
    command: String,
    flags: Flags,
    demo: DemoFlags,
    version: bool,
    help: bool,
    reference: bool,
    validate: bool,
    done: bool,
    seen: Vec<&'static str>,
}

impl Parsing {
    fn argument(
        &mut self,
        argument: &str,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), Problem> {
        if argument == "--" || argument == "--ignore_rest" {
            self.done = true;
            return Ok(());
        }
        let Some((spec, inline)) = find(argument)? else {
            return self.positional(argument);
        };
        let shown = format!("--{}", spec.name);
        if !spec.commands.is_empty() && !spec.commands.contains(&self.command.as_str()) {
            return Err(Problem::new(
                "",
                format!("option '{shown}' belongs to '{}'", spec.commands.join("', '")),
            ));
        }
        if self.seen.contains(&spec.name) && !spec.repeatable {
            return Err(Problem::new("", format!("option '{shown}' is given twice")));
        }
        self.seen.push(spec.name);
        let value = match (spec.value.is_empty(), inline) {
            (true, None) => String::new(),
            (true, Some(_)) => {
                return Err(Problem::new("", format!("option '{shown}' takes no value")));
            }
            (false, Some(value)) => value,
            (false, None) => rest
                .next()
                .ok_or_else(|| Problem::new("", format!("option '{shown}' needs a value")))?,
        };
        match spec.effect {
            Effect::Own => self.set_own(spec.name, &value),
            Effect::Envoy => self.set_envoy(spec.name, &value),
            Effect::Nothing(why) => {
                self.flags
                    .notices
                    .push(Notice { setting: shown, message: format!("no effect: {why}") });
                Ok(())
            }
            Effect::Refused(why) => {
                Err(Problem::new("", format!("option '{shown}' of Envoy is not supported: {why}")))
            }
        }
    }

    fn positional(&mut self, argument: &str) -> Result<(), Problem> {
        if self.command == "check" && self.flags.config_path.is_none() {
            self.flags.config_path = Some(PathBuf::from(argument));
            return Ok(());
        }
        Err(Problem::new("", format!("unexpected argument '{argument}'")))
    }

    /// A flag of Envoy.
    fn set_envoy(&mut self, name: &'static str, value: &str) -> Result<(), Problem> {
        let flags = &mut self.flags;
        let wrong = |expected: &str| wrong_value(name, value, expected);
        match name {
            "config-path" => flags.config_path = Some(path(name, value)?),
            "config-yaml" => flags.config_yaml = Some(value.to_owned()),
            "allow-unknown-static-fields" | "allow-unknown-fields" => {
                flags.allow_unknown_fields = true;
            }
            "concurrency" => {
                let n: u32 = value.parse().map_err(|_| wrong("a number of worker threads"))?;
                if n > MAX_WORKERS {
                    return Err(wrong("a number of worker threads up to 512"));
                }
                // Envoy: 0 runs one worker.
                flags.concurrency = Some(n.max(1) as usize);
            }
            "log-level" => flags.log_level = Some(level(value).ok_or_else(|| wrong(LEVELS))?),
            "component-log-level" => {
                for part in value.split(',').filter(|p| !p.is_empty()) {
                    let (component, l) =
                        part.split_once(':').ok_or_else(|| wrong("name:level,name:level"))?;
                    let l = level(l).ok_or_else(|| wrong(LEVELS))?;
                    flags.components.push((component.to_owned(), l));
                }
            }
            "log-format" => match value {
                "text" => flags.log_format = Some(LogFormat::Text),
                "json" => flags.log_format = Some(LogFormat::Json),
                _ => flags.notices.push(Notice {
                    setting: "--log-format".to_owned(),
                    message: "no effect: 'text' and 'json' are understood, not Envoy's patterns"
                        .to_owned(),
                }),
            },
            "log-path" => flags.log_path = Some(path(name, value)?),
            "drain-time-s" => {
                let seconds: u32 = value.parse().map_err(|_| wrong("a number of seconds"))?;
                flags.drain_time = Some(Duration::from_secs(u64::from(seconds)));
            }
            "service-node" => flags.service_node = Some(value.to_owned()),
            "service-cluster" => flags.service_cluster = Some(value.to_owned()),
            "admin-address-path" => flags.admin_address_path = Some(path(name, value)?),
            "mode" => match value {
                "serve" => {}
                "validate" => self.validate = true,
                _ => return Err(wrong("'serve' or 'validate'")),
            },
            "restart-epoch" if value == "0" => {}
            "restart-epoch" => return Err(wrong("0; there is no hot restart")),
            "local-address-ip-version" if matches!(value, "v4" | "v6") => {}
            "local-address-ip-version" => return Err(wrong("'v4' or 'v6'")),
            other => return Err(Problem::new("", format!("unknown option '--{other}'"))),
        }
        Ok(())
    }

    /// A flag of Radiant.
    fn set_own(&mut self, name: &'static str, value: &str) -> Result<(), Problem> {
        let flags = &mut self.flags;
        let wrong = |expected: &str| wrong_value(name, value, expected);
        match name {
            "admin-address" => flags.admin = Some(value.parse().map_err(|_| wrong(ADDRESS))?),
            "utility-address" => flags.utility = Some(value.parse().map_err(|_| wrong(ADDRESS))?),
            "removed-cluster-grace" => {
                flags.removed_cluster_grace = Some(duration(value).ok_or_else(|| wrong(DURATION))?);
            }
            "saved-snapshot" => flags.saved_snapshot = Some(path(name, value)?),
            "json-access-log" => {
                flags.json_access_log = Some(match value {
                    "" => return Err(wrong("a path")),
                    "-" => AccessLogSink::Stdout,
                    path => AccessLogSink::File(path.to_owned()),
                });
            }
            "rewrite" => flags.rewrite = true,
            "refuse-ambiguous-requests" => flags.refuse_ambiguous = true,
            "port" => self.demo.port = Some(value.parse().map_err(|_| wrong("a port"))?),
            "models" => self.demo.models = Some(value.parse().map_err(|_| wrong("a number"))?),
            "no-proxy" => self.demo.no_proxy = true,
            "reference" => self.reference = true,
            "version" => self.version = true,
            "help" => self.help = true,
            other => return Err(Problem::new("", format!("unknown option '--{other}'"))),
        }
        Ok(())
    }

    fn finish(self) -> Result<Command, Problem> {
        if self.help {
            return Ok(Command::Help);
        }
        if self.version {
            return Ok(Command::Version);
        }
        if self.reference {
            return Ok(Command::Reference);
        }
        let flags = Box::new(self.flags);
        match self.command.as_str() {
            "demo" => Ok(Command::Demo(self.demo, flags)),
            "check" if flags.config_path.is_none() && flags.config_yaml.is_none() => {
                Err(Problem::new("", "check needs a file"))
            }
            "check" => Ok(Command::Check(flags)),
            _ if self.validate => Ok(Command::Check(flags)),
            _ => Ok(Command::Run(flags)),
        }
    }
}

/// The flag of an argument and its value after `=`; `None` for a positional.
fn find(argument: &str) -> Result<Option<(&'static FlagSpec, Option<String>)>, Problem> {
    let unknown = |shown: &str| Problem::new("", format!("unknown option '{shown}'"));
    if let Some(long) = argument.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let spec =
            FLAGS.iter().find(|f| f.name == name).ok_or_else(|| unknown(&format!("--{name}")))?;
        return Ok(Some((spec, value)));
    }
    let Some(short) = argument.strip_prefix('-').filter(|s| !s.is_empty()) else {
        return Ok(None);
    };
    let mut chars = short.chars();
    let letter = chars.next();
    let spec = FLAGS
        .iter()
        .find(|f| f.short.is_some() && f.short == letter)
        .ok_or_else(|| unknown(argument))?;
    let rest = chars.as_str();
    // `-cFILE` and `-c=FILE`, as Envoy's parser takes them.
    let value = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest).to_owned());
    Ok(Some((spec, value)))
}

fn wrong_value(name: &str, value: &str, expected: &str) -> Problem {
    Problem::new("", format!("option '--{name}': '{value}' is not {expected}"))
}

fn path(name: &str, value: &str) -> Result<PathBuf, Problem> {
    match value {
        "" => Err(wrong_value(name, value, "a path")),
        _ => Ok(PathBuf::from(value)),
    }
}

/// More workers than this is a mistake: each costs a runtime and its shards.
const MAX_WORKERS: u32 = 512;
const LEVELS: &str = "a level (trace, debug, info, warning, warn, error, critical, off)";
const ADDRESS: &str = "an address (127.0.0.1:9901)";
const DURATION: &str = "a duration (500ms, 30s, 5m; 0)";

/// Envoy's level names. `critical` has no counterpart and means `error`.
fn level(text: &str) -> Option<LevelFilter> {
    Some(match text {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warning" | "warn" => LevelFilter::WARN,
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => return None,
    })
}

/// `500ms`, `30s`, `5m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
