//! `radiant check FILE`: what a configuration means, in words.

use std::fmt::Write;

use super::environment::Environment;
use super::flags::Flags;
use super::native::NativeFile;
use super::settings::{AdsSettings, ConfigError, Settings, Source, XdsVariant, load};
use crate::model::{AccessLogSink, ResourceSet};
use crate::seldon::{Backend, Experiment, ExperimentKind};

/// Describes what flags, environment and file mean together.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn check(flags: &Flags, environment: &Environment) -> Result<String, ConfigError> {
    let settings = load(flags, environment)?;
    let mut out = String::new();
    match &settings.source {
        Source::Scheduler(ads) => scheduler(&mut out, ads),
        Source::File(path) => line(
            &mut out,
            "source",
            &format!("{} (native file, changes are followed)", path.display()),
        ),
        Source::Static => line(&mut out, "source", "the bootstrap's static resources"),
    }
    common(&mut out, &settings);
    if let Source::File(path) = &settings.source {
        let text = super::file::text(path)?;
        native(&mut out, &NativeFile::parse(&path.display().to_string(), &text)?);
    }
    names(&mut out, "static clusters", &settings.static_resources.clusters);
    names(&mut out, "static listeners", &settings.static_resources.listeners);
    names(&mut out, "static secrets", &settings.static_resources.secrets);
    for notice in &settings.notices {
        let _ = writeln!(out, "warning: {notice}");
    }
    Ok(out)
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{:<12} {value}", format!("{name}:"));
}

fn scheduler(out: &mut String, ads: &AdsSettings) {
    let variant = match ads.variant {
        XdsVariant::Delta => "delta",
        XdsVariant::StateOfTheWorld => "state of the world",
    };
    line(out, "source", &format!("scheduler {}:{}, {variant} ADS", ads.host, ads.port));
    let security = match &ads.tls {
        None => "plain text".to_owned(),
        Some(tls) => {
            let check = if tls.trusted_ca.is_some() { "CA checked" } else { "server not checked" };
            let own = if tls.client.is_some() { ", with a client certificate" } else { "" };
            format!("TLS, {check}{own}")
        }
    };
    line(out, "security", &security);
    let timing = format!(
        "connect timeout {:?}, keep-alive {:?}, keep-alive timeout {:?}",
        ads.connect_timeout, ads.keepalive_interval, ads.keepalive_timeout
    );
    line(out, "connection", &timing);
}

fn common(out: &mut String, settings: &Settings) {
    let node = &settings.node;
    line(out, "node", &format!("{}, cluster {}", node.id, node.cluster));
    let admin = settings.admin.map_or("none".to_owned(), |a| a.to_string());
    line(out, "admin", &admin);
    let utility = settings.utility.as_ref().map_or("none".to_owned(), |u| {
        format!("{} (/ready, /stats/prometheus, /metrics)", u.address)
    });
    line(out, "utility", &utility);
    line(out, "workers", &settings.workers.to_string());
    line(out, "rewrite", if settings.rewrite { "on" } else { "off" });
    if settings.refuse_ambiguous {
        line(out, "ambiguous", "refused");
    }
    if let Some(path) = &settings.saved_snapshot {
        line(out, "saved", &path.display().to_string());
    }
    match &settings.json_access_log {
        Some(AccessLogSink::File(path)) => line(out, "JSON log", path),
        Some(_) => line(out, "JSON log", "standard output"),
        None => {}
    }
}

fn names(out: &mut String, title: &str, set: &ResourceSet) {
    if set.by_name.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    for name in set.by_name.keys() {
        let _ = writeln!(out, "  {name}");
    }
}

fn native(out: &mut String, file: &NativeFile) {
    let listeners = &file.listeners;
    let _ = writeln!(out, "listeners:");
    let _ = writeln!(out, "  requests {}:{}", listeners.http_host, listeners.http_port);
    if file.mesh.experiments.iter().any(|e| e.mirror.is_some()) {
        let _ = writeln!(out, "  mirrors  {}:{}", listeners.mirror_host, listeners.mirror_port);
    }
    if !file.mesh.models.is_empty() {
        let _ = writeln!(out, "models:");
    }
    for model in &file.mesh.models {
        let latest = &model.latest;
        let called = match &latest.rewrite {
            Some(name) if *name != latest.name => format!(" (on its servers: {name})"),
            _ => String::new(),
        };
        let _ = writeln!(out, "  {}{called}: {}", latest.name, endpoints(&latest.backends));
    }
    if !file.mesh.pipelines.is_empty() {
        let _ = writeln!(out, "pipelines:");
    }
    for pipeline in &file.mesh.pipelines {
        let _ = writeln!(out, "  {}: {}", pipeline.name, endpoints(&pipeline.gateways));
    }
    if !file.mesh.experiments.is_empty() {
        let _ = writeln!(out, "experiments:");
    }
    file.mesh.experiments.iter().for_each(|e| experiment(out, e));
}

fn experiment(out: &mut String, experiment: &Experiment) {
    let kind = match experiment.kind {
        ExperimentKind::Model => "models",
        ExperimentKind::Pipeline => "pipelines",
    };
    let default = experiment
        .default
        .as_ref()
        .map_or(String::new(), |d| format!(", also for requests to {d}"));
    let _ = writeln!(out, "  {}.experiment, of {kind}{default}", experiment.name);
    let sum: u64 = experiment.candidates.iter().map(|(_, w)| u64::from(*w)).sum();
    for (name, weight) in &experiment.candidates {
        let share = f64::from(*weight) * 100.0 / sum.max(1) as f64;
        let _ = writeln!(out, "    {share:>6.2} %  {name}");
    }
    if let Some((name, percent)) = &experiment.mirror {
        let _ = writeln!(out, "    copies of {percent} % go to {name}");
    }
}

fn endpoints(backends: &[Backend]) -> String {
    let each = backends.iter().flat_map(|b| {
        let host = match b.host.contains(':') {
            true => format!("[{}]", b.host),
            false => b.host.clone(),
        };
        let http = b.http_port.map(|p| format!("http {host}:{p}"));
        let grpc = b.grpc_port.map(|p| format!("grpc {host}:{p}"));
        http.into_iter().chain(grpc)
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(path: &str) -> String {
        let root = env!("CARGO_MANIFEST_DIR");
        let flags = Flags {
            config_path: Some(format!("{root}/{path}").into()),
            concurrency: Some(2),
            ..Flags::default()
        };
        let text = check(&flags, &Environment::default()).map_err(|e| e.to_string()).unwrap();
        text.replace(&format!("{root}/"), "")
    }

    #[test]
    fn a_bootstrap_in_words() {
        assert_eq!(
            described("config/envoy.yaml"),
            "source:      scheduler seldon-scheduler:9002, delta ADS\n\
             security:    plain text\n\
             connection:  connect timeout 1s, keep-alive 60s, keep-alive timeout 2s\n\
             node:        test-id, cluster test-cluster\n\
             admin:       127.0.0.1:9901\n\
             utility:     0.0.0.0:9003 (/ready, /stats/prometheus, /metrics)\n\
             workers:     2\n\
             rewrite:     off\n"
        );
    }

    #[test]
    fn a_native_file_in_words() {
        assert_eq!(
            described("config/radiant.yaml"),
            "source:      config/radiant.yaml (native file, changes are followed)\n\
             node:        test-id, cluster test-cluster\n\
             admin:       127.0.0.1:9901\n\
             utility:     0.0.0.0:9003 (/ready, /stats/prometheus, /metrics)\n\
             workers:     2\n\
             rewrite:     on\n\
             listeners:\n\
            \x20 requests 0.0.0.0:9000\n\
             models:\n\
            \x20 baseline-predictor: http 127.0.0.1:8081, grpc 127.0.0.1:8091\n\
            \x20 enhanced-predictor: http 127.0.0.1:8082, grpc 127.0.0.1:8092\n\
             experiments:\n\
            \x20 financial-ab-test-experiment.experiment, of models, also for requests to baseline-predictor\n\
            \x20    70.00 %  baseline-predictor\n\
            \x20    30.00 %  enhanced-predictor\n"
        );
    }
}
