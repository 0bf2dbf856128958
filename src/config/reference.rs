//! The configuration reference (`docs/configuration.md`), made of the tables
//! that the code itself works by.

use std::fmt::Write;

use super::environment::VARIABLES;
use super::fields::{ADS_CLUSTER_FIELDS, BOOTSTRAP_FIELDS, FieldEffect, FieldSpec, UTILITY_FIELDS};
use super::native_fields::NATIVE_FIELDS;
use super::spec::{Effect, FLAGS, FlagSpec};

const HEAD: &str = "\
# Configuration

Made by `radiant check --reference`; a test compares this file with the code.

Radiant takes its settings from flags, the environment, and a file given with
`-c`. The stronger source first: flags, environment, file, defaults. Whatever is
wrong is named (flag, variable, or file with line and field) and ends the
process with exit code 1 before anything starts. What is known and has no effect
is named in a warning.

Without any file and flag, Radiant is what the image of `seldon-envoy` is: routes
from `seldon-scheduler:9002`, requests on 9000 and 9001, statistics on 9003,
admin on 127.0.0.1:9901.

`radiant check FILE` says what a file means, or what is wrong with it.
";

const UTILITY: &str = "
### Utility listener

The first static listener with a health check filter, or all of whose routes lead
to the admin address. `/ready`, `/stats` (with all below it) and `/metrics` are
answered.

";

const NATIVE: &str = "
## Native file

YAML documents with a `kind`, as written for Seldon Core 2, and one `Radiant`
document for settings. Example: [`config/radiant.yaml`](../config/radiant.yaml).
The file is looked at every second; a change takes effect without a restart
(except the addresses that say so), a bad edit is logged with line and field
while the last good file serves. Unknown fields are refused.

The listener for mirrored requests is only there if an experiment has a mirror.
Payloads can only be logged (`Seldon-Logging`) if a model has `logger` or
`tapPathPrefix` is set.
";

const SAVED: &str = "
## Saved snapshot

`--saved-snapshot FILE`: after each accepted change, the resources are written to
FILE (as a whole, by renaming; mode 0600, since with TLS they hold private keys).
At start they are served, marked stale, until the scheduler answers. A file that
is damaged in any byte is refused with the reason in the log, and the start goes
on without it. The directory must be writable and outlive the pod's restart.
";

/// The reference in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    out.push_str("\n## Flags\n");
    flags(&mut out, "Radiant's own", |f| f.effect == Effect::Own);
    flags(&mut out, "Envoy's, with Envoy's meaning", |f| f.effect == Effect::Envoy);
    out.push_str("\n### Envoy's, accepted without effect\n\nEach is named in a warning.\n\n");
    reasons(&mut out, |e| match e {
        Effect::Nothing(why) => Some(why),
        _ => None,
    });
    out.push_str("\n### Envoy's, refused by name\n\nAny other option is refused as unknown.\n\n");
    reasons(&mut out, |e| match e {
        Effect::Refused(why) => Some(why),
        _ => None,
    });
    out.push_str("\n## Environment\n\nAn empty value counts as unset.\n\n");
    out.push_str("| variable | default | meaning |\n|---|---|---|\n");
    for v in VARIABLES {
        let default = if v.default.is_empty() { String::new() } else { format!("`{}`", v.default) };
        let _ = writeln!(out, "| `{}` | {default} | {} |", v.name, v.doc);
    }
    out.push_str(
        "\n## Envoy bootstrap\n\nEnvoy's v3 bootstrap, YAML or JSON, in the shape that Seldon ships. \
         Examples:\n[`config/envoy.yaml`](../config/envoy.yaml), \
         [`config/envoy-tls.yaml`](../config/envoy-tls.yaml). A field that Envoy does not\nknow is \
         refused with its path; one that stands in no table here is known and has no\neffect.\n\n",
    );
    fields(&mut out, BOOTSTRAP_FIELDS);
    out.push_str("\n### ADS cluster\n\nThe static cluster that `ads_config` names.\n\n");
    fields(&mut out, ADS_CLUSTER_FIELDS);
    out.push_str(UTILITY);
    fields(&mut out, UTILITY_FIELDS);
    out.push_str(NATIVE);
    for (kind, title) in [
        ("", "Every document"),
        ("Model", "`kind: Model`"),
        ("Experiment", "`kind: Experiment`"),
        ("Pipeline", "`kind: Pipeline`"),
        ("Radiant", "`kind: Radiant`"),
    ] {
        let _ = write!(out, "\n### {title}\n\n| field | meaning |\n|---|---|\n");
        for f in NATIVE_FIELDS.iter().filter(|f| f.kind == kind) {
            let _ = writeln!(out, "| `{}` | {} |", f.path, meaning(f.effect, f.doc));
        }
    }
    out.push_str(SAVED);
    out
}

fn flags(out: &mut String, title: &str, which: impl Fn(&FlagSpec) -> bool) {
    let _ = write!(out, "\n### {title}\n\n| flag | meaning |\n|---|---|\n");
    for f in FLAGS.iter().filter(|f| which(f)) {
        let short = f.short.map_or(String::new(), |c| format!("`-{c}`, "));
        let value = match f.value {
            "" => String::new(),
            value => format!(" {}", value.replace('|', "\\|")),
        };
        let of = match f.commands {
            [] => String::new(),
            commands => format!(" (`{}` only)", commands.join("`, `")),
        };
        let _ = writeln!(out, "| {short}`--{}{value}` | {}{of} |", f.name, f.doc);
    }
}

fn reasons(out: &mut String, of: impl Fn(Effect) -> Option<&'static str>) {
    out.push_str("| flag | why |\n|---|---|\n");
    for f in FLAGS {
        if let Some(why) = of(f.effect) {
            let _ = writeln!(out, "| `--{}` | {why} |", f.name);
        }
    }
}

fn fields(out: &mut String, table: &[FieldSpec]) {
    out.push_str("| field | meaning |\n|---|---|\n");
    for f in table {
        let _ = writeln!(out, "| `{}` | {} |", f.path, meaning(f.effect, f.doc));
    }
}

fn meaning(effect: FieldEffect, doc: &str) -> String {
    match effect {
        FieldEffect::Used => doc.to_owned(),
        FieldEffect::Natural => format!("{doc} (Nothing to follow; no warning.)"),
        FieldEffect::Nothing => format!("No effect, with a warning: {doc}."),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == super::reference(),
            "write it anew: cargo run -- check --reference > docs/configuration.md"
        );
    }
}
