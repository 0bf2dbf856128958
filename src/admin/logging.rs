//! Log levels that can be changed while running (`/logging`).
//!
//! Envoy's names for levels and, where there is a counterpart, for loggers;
//! each logger is one or more tracing targets.

use std::fs::OpenOptions;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry, reload};

use super::query::Query;
use crate::config::{LogFormat, LogSettings};

/// A log level by Envoy's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl Level {
    /// By name; `warn` is `warning`, as on Envoy's command line.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warning" | "warn" => Self::Warning,
            "error" => Self::Error,
            "critical" => Self::Critical,
            "off" => Self::Off,
            _ => return None,
        })
    }

    /// As `/logging` prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The level that lets as much through.
    fn of_filter(filter: LevelFilter) -> Self {
        match filter {
            LevelFilter::TRACE => Self::Trace,
            LevelFilter::DEBUG => Self::Debug,
            LevelFilter::INFO => Self::Info,
            LevelFilter::WARN => Self::Warning,
            LevelFilter::ERROR => Self::Error,
            LevelFilter::OFF => Self::Off,
        }
    }

    /// Nothing is logged as critical, so that level shows errors.
    fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error | Self::Critical => LevelFilter::ERROR,
            Self::Off => LevelFilter::OFF,
        }
    }
}

/// Logger names and the tracing targets behind them. The last two have a
/// meaning of their own: `misc` is everything else here, `deps` is libraries.
const LOGGERS: [(&str, &[&str]); 19] = [
    ("admin", &["radiant::admin"]),
    ("config", &["radiant::config", "radiant::xds"]),
    ("conn_handler", &["radiant::worker"]),
    ("connection", &["radiant::listener"]),
    ("dns", &["radiant::dns"]),
    ("file", &["radiant::access_log"]),
    ("filter", &["radiant::logic"]),
    ("grpc", &["radiant::xds::stream"]),
    ("http", &["radiant::http1"]),
    ("http2", &["radiant::http2"]),
    ("main", &["radiant::run", "radiant::drain"]),
    ("pool", &["radiant::pool"]),
    ("router", &["radiant::router"]),
    ("secret", &["radiant::tls"]),
    ("stats", &["radiant::stats", "radiant::seldon_stats"]),
    ("tap", &["radiant::tap"]),
    ("upstream", &["radiant::upstream"]),
    ("misc", &["radiant"]),
    (
        "deps",
        &[
            "h2",
            "hickory_proto",
            "hickory_resolver",
            "hyper",
            "hyper_util",
            "rustls",
            "tonic",
            "tower",
        ],
    ),
];

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
usage: /logging?group=<group_name>:<level> (change group of loggers)
levels: trace debug info warning error critical off \n";

type Apply = Box<dyn Fn(Targets) + Send + Sync>;

/// The levels in force; clones are the same.
#[derive(Clone)]
pub struct LogControl {
    inner: Arc<Inner>,
}

struct Inner {
    levels: Mutex<[Level; LOGGERS.len()]>,
    apply: Apply,
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogControl").finish()
    }
}

/// Installs the process's logging, to standard error or a file, and returns its
/// control.
///
/// A second call leaves the first logging in place and controls nothing.
///
/// # Errors
/// The log file cannot be opened.
pub fn init_logging(settings: &LogSettings) -> io::Result<LogControl> {
    let writer = match &settings.path {
        None => BoxMakeWriter::new(io::stderr),
        Some(path) => {
            BoxMakeWriter::new(Mutex::new(OpenOptions::new().append(true).create(true).open(path)?))
        }
    };
    let (subscriber, control) = subscriber(settings, writer);
    // An error means that logging is installed already (tests).
    let _ = subscriber.try_init();
    Ok(control)
}

type Boxed = Box<dyn Subscriber + Send + Sync>;

fn subscriber<W>(settings: &LogSettings, writer: W) -> (Boxed, LogControl)
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let level = Level::of_filter(settings.level);
    let components: Vec<(String, LevelFilter)> = settings
        .components
        .iter()
        .map(|(name, level)| (format!("radiant::{name}"), *level))
        .collect();
    let with_components = move |targets: Targets| targets.with_targets(components.iter().cloned());
    let (filter, handle) = reload::Layer::new(with_components(targets(&uniform(level))));
    let registry = registry().with(filter);
    let subscriber: Boxed = match settings.format {
        LogFormat::Json => Box::new(registry.with(fmt::layer().json().with_writer(writer))),
        LogFormat::Text => {
            Box::new(registry.with(fmt::layer().with_ansi(false).with_writer(writer)))
        }
    };
    // An error means that the subscriber is gone, and its log with it.
    let apply = move |targets| drop(handle.reload(with_components(targets)));
    (subscriber, LogControl::new(level, Box::new(apply)))
}

impl LogControl {
    fn new(level: Level, apply: Apply) -> Self {
        Self { inner: Arc::new(Inner { levels: Mutex::new(uniform(level)), apply }) }
    }

    /// A control of nothing, for a process that logs in another way.
    #[must_use]
    pub fn detached(level: Level) -> Self {
        Self::new(level, Box::new(|_| {}))
    }

    /// Sets every logger.
    pub fn set_level(&self, level: Level) {
        self.change(|levels| *levels = uniform(level));
    }

    /// The level of what is not told apart (`misc`).
    #[must_use]
    pub fn level(&self) -> Level {
        let levels = self.inner.levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels[LOGGERS.len() - 2]
    }

    fn change(&self, change: impl FnOnce(&mut [Level; LOGGERS.len()])) {
        let mut levels = self.inner.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        (self.inner.apply)(targets(&levels));
    }

    /// Applies the parameters of `/logging`.
    ///
    /// # Errors
    ///
    /// Envoy's text of the reason; nothing has changed then.
    pub(super) fn apply_query(&self, query: &Query) -> Result<(), String> {
        let (key, value) = match query.pairs() {
            [] => return Ok(()),
            [(key, value)] => (key.as_str(), value.as_str()),
            _ => return Err("invalid number of parameters".to_owned()),
        };
        match key {
            "level" | "paths" if value.is_empty() => Ok(()),
            "level" => {
                self.set_level(level_of(value)?);
                Ok(())
            }
            "paths" => self.apply_pairs(value),
            "group" => Err("this function requires fine-grain logging to be enabled".to_owned()),
            logger => self.apply_one(&[(logger_of(logger)?, level_of(value)?)]),
        }
    }

    fn apply_pairs(&self, value: &str) -> Result<(), String> {
        let pairs = value.split(',').map(|pair| {
            let (logger, level) =
                pair.split_once(':').ok_or("error while parsing level:name pair".to_owned())?;
            Ok((logger_of(logger)?, level_of(level)?))
        });
        self.apply_one(&pairs.collect::<Result<Vec<_>, String>>()?)
    }

    fn apply_one(&self, pairs: &[(usize, Level)]) -> Result<(), String> {
        self.change(|levels| pairs.iter().for_each(|(i, level)| levels[*i] = *level));
        Ok(())
    }

    /// `active loggers:` and the list.
    pub(super) fn active(&self) -> String {
        let levels = self.inner.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::from("active loggers:\n");
        for ((name, _), level) in LOGGERS.iter().zip(levels.iter()) {
            out += &format!("  {name}: {}\n", level.name());
        }
        out.push('\n');
        out
    }

    /// The text of a 400.
    pub(super) fn failure(&self, reason: &str) -> String {
        format!("error: {reason}\n\n{USAGE}{}", self.active())
    }
}

/// All loggers at one level; libraries speak up only when asked by name or at
/// `trace`, or a request at `debug` would log a page of frames.
fn uniform(level: Level) -> [Level; LOGGERS.len()] {
    let mut levels = [level; LOGGERS.len()];
    if matches!(level, Level::Debug | Level::Info) {
        levels[LOGGERS.len() - 1] = Level::Warning;
    }
    levels
}

fn targets(levels: &[Level; LOGGERS.len()]) -> Targets {
    let misc = levels[LOGGERS.len() - 2].filter();
    let named = LOGGERS.iter().zip(levels);
    let pairs = named.flat_map(|((_, targets), level)| {
        targets.iter().map(|target| ((*target).to_owned(), level.filter()))
    });
    Targets::new().with_default(misc).with_targets(pairs)
}

fn level_of(name: &str) -> Result<Level, String> {
    Level::from_name(name).ok_or_else(|| "unknown logger level".to_owned())
}

fn logger_of(name: &str) -> Result<usize, String> {
    let found = LOGGERS.iter().position(|(logger, _)| *logger == name);
    found.ok_or_else(|| "unknown logger name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> (LogControl, Arc<Mutex<Option<Targets>>>) {
        let applied = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&applied);
        let apply = move |targets| *seen.lock().unwrap() = Some(targets);
        (LogControl::new(Level::Info, Box::new(apply)), applied)
    }

    #[test]
    fn levels_change_together_and_one_by_one() {
        let (control, applied) = control();
        let enabled = |target: &str, level: &tracing::Level| {
            applied.lock().unwrap().as_ref().is_some_and(|t| t.would_enable(target, level))
        };
        control.apply_query(&Query::parse("level=debug")).unwrap();
        assert!(enabled("radiant::pool", &tracing::Level::DEBUG));
        assert!(!enabled("h2::frame", &tracing::Level::DEBUG));
        control.apply_query(&Query::parse("pool=off")).unwrap();
        assert!(!enabled("radiant::pool", &tracing::Level::ERROR));
        assert!(enabled("radiant::router", &tracing::Level::DEBUG));
        control.apply_query(&Query::parse("paths=pool:warn,deps:trace")).unwrap();
        assert!(enabled("radiant::pool", &tracing::Level::WARN));
        assert!(enabled("h2::frame", &tracing::Level::TRACE));
        let active = control.active();
        assert!(active.starts_with("active loggers:\n  admin: debug\n"), "{active}");
        assert!(active.contains("  pool: warning\n") && active.ends_with("\n\n"), "{active}");
    }

    #[test]
    fn a_running_log_changes_its_level() {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
        let (subscriber, control) = subscriber(&settings, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("one");
            control.set_level(Level::Debug);
            tracing::debug!("two");
            control.set_level(Level::Off);
            tracing::error!("three");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["fields"]["message"], "two");
        assert_eq!(line["level"], "DEBUG");
    }

    #[test]
    fn what_is_unknown_changes_nothing() {
        let (control, applied) = control();
        for (query, reason) in [
            ("level=loud", "unknown logger level"),
            ("nobody=info", "unknown logger name"),
            ("paths=pool:info,nobody:info", "unknown logger name"),
            ("paths=pool", "error while parsing level:name pair"),
            ("level=info&pool=info", "invalid number of parameters"),
            ("group=http:info", "this function requires fine-grain logging to be enabled"),
        ] {
            assert_eq!(control.apply_query(&Query::parse(query)).unwrap_err(), reason);
        }
        control.apply_query(&Query::parse("level=")).unwrap();
        assert!(applied.lock().unwrap().is_none());
        let text = control.failure("unknown logger level");
        assert!(text.starts_with("error: unknown logger level\n\nusage: /logging?<name>="));
    }
}
