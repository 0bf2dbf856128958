//! The table of flags: names, values, effect and documentation.

/// One flag.
#[derive(Debug)]
pub struct FlagSpec {
    /// Long name without dashes.
    pub name: &'static str,
    /// Short form.
    pub short: Option<char>,
    /// Name of the value; empty: the flag takes none.
    pub value: &'static str,
    /// Commands that take it; empty: all.
    pub commands: &'static [&'static str],
    /// May be given more than once.
    pub repeatable: bool,
    /// What it does here.
    pub effect: Effect,
    /// Meaning, with unit and default.
    pub doc: &'static str,
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Radiant's own.
    Own,
    /// Envoy's, with Envoy's meaning.
    Envoy,
    /// Envoy's, accepted with a notice; the text says why it can do nothing.
    Nothing(&'static str),
    /// Envoy's, refused by name; the text says why.
    Refused(&'static str),
}

impl FlagSpec {
    const fn new(
        name: &'static str,
        value: &'static str,
        effect: Effect,
        doc: &'static str,
    ) -> Self {
        Self { name, short: None, value, commands: &[], repeatable: false, effect, doc }
    }

    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn of(mut self, commands: &'static [&'static str]) -> Self {
        self.commands = commands;
        self
    }

    const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

const fn own(name: &'static str, value: &'static str, doc: &'static str) -> FlagSpec {
    FlagSpec::new(name, value, Effect::Own, doc)
}

const fn envoy(name: &'static str, value: &'static str, doc: &'static str) -> FlagSpec {
    FlagSpec::new(name, value, Effect::Envoy, doc)
}

const fn nothing(name: &'static str, value: &'static str, why: &'static str) -> FlagSpec {
    FlagSpec::new(name, value, Effect::Nothing(why), "")
}

const fn refused(name: &'static str, value: &'static str, why: &'static str) -> FlagSpec {
    FlagSpec::new(name, value, Effect::Refused(why), "").repeatable()
}

const NO_HOT_RESTART: &str = "there is no hot restart";

/// Every flag that is known.
pub const FLAGS: &[FlagSpec] = &[
    envoy(
        "config-path",
        "FILE",
        "An Envoy v3 bootstrap (YAML or JSON) or a native file, told apart by content. Without it the environment says where the scheduler is.",
    )
    .short('c'),
    envoy(
        "config-yaml",
        "YAML",
        "Bootstrap text. Laid over the bootstrap of `-c`: lists are appended, other fields replaced.",
    ),
    envoy(
        "concurrency",
        "N",
        "Worker threads, 1 to 512. Default: the CPU limit of the cgroup, rounded up.",
    ),
    envoy(
        "log-level",
        "LEVEL",
        "trace, debug, info, warning (warn), error, critical (as error) or off. Default: info. `POST /logging` changes it at run time.",
    )
    .short('l'),
    envoy(
        "component-log-level",
        "NAME:LEVEL,...",
        "Levels of single modules of Radiant (`xds:debug,admin:trace`).",
    ),
    envoy("log-path", "FILE", "File that the log is appended to. Default: standard error."),
    envoy(
        "log-format",
        "text|json",
        "Form of a log line. Default: text. Envoy's patterns are accepted and have no effect.",
    ),
    envoy(
        "drain-time-s",
        "SECONDS",
        "Upper bound of draining after SIGTERM. Default: 60 (Envoy's 600 is longer than any pod's grace period).",
    ),
    envoy(
        "service-node",
        "ID",
        "Node id towards the scheduler. Default: `test-id`, the only id that Seldon's scheduler gives routes to.",
    ),
    envoy(
        "service-cluster",
        "NAME",
        "Node cluster, shown by `/ready` on the utility listener. Default: `test-cluster`.",
    ),
    envoy("admin-address-path", "FILE", "File that the bound admin address is written to."),
    envoy(
        "allow-unknown-static-fields",
        "",
        "Unknown fields of a bootstrap are named in a warning instead of being refused.",
    ),
    envoy("allow-unknown-fields", "", "The same, by its older name."),
    envoy("mode", "serve|validate", "`validate` does what `check` does. Default: serve."),
    envoy("restart-epoch", "0", "Only 0: there is no hot restart."),
    envoy("local-address-ip-version", "v4|v6", "Accepted; nothing depends on it."),
    own(
        "admin-address",
        "ADDRESS",
        "Admin address; port 0: a free one. Default: 127.0.0.1:9901, or the bootstrap's.",
    ),
    own(
        "utility-address",
        "ADDRESS",
        "Address of `/ready` and the statistics; port 0: a free one. Default: 0.0.0.0:9003, or the bootstrap's.",
    ),
    own(
        "removed-cluster-grace",
        "DURATION",
        "How long a removed cluster serves on while a route table still names it (500ms, 30s, 5m). Default: 30s. 0: not at all, as Envoy. Cures 503s while a version rolls.",
    ),
    own(
        "saved-snapshot",
        "FILE",
        "Save the accepted resources here, and serve them, marked stale, when the scheduler is away at start. Default: off. Cures the outage of a proxy that restarts without its scheduler.",
    ),
    own(
        "json-access-log",
        "FILE",
        "Log every request as a JSON object: time, model, route, arm, attempts, response flags and more (docs/operations.md). `-`: standard output. Beside the access logs that the scheduler configures. Default: off.",
    ),
    own(
        "rewrite",
        "",
        "Put the chosen arm's model name into the request: REST path with a scheduler, REST path and gRPC `model_name` with a native file. Default: off. Cures the agent's 404 on `/v2/models/<name>.experiment/infer`.",
    ),
    own(
        "refuse-ambiguous-requests",
        "",
        "Refuse what two proxies in a row could read differently: a `transfer-encoding` that says `chunked` only once its lines are joined (501; 502 for an answer), and an upgrade (`upgrade: websocket`) whose route is found by the model's name in the path (403). Default: off, as Envoy, which takes such messages for body-less and passes such upgrades on. Cures requests that reach a model server past all routing (request smuggling).",
    ),
    own(
        "port",
        "PORT",
        "Data port of the demo; 0: free ports for everything. Default: 9000 (and 9003, 9901).",
    )
    .of(&["demo"]),
    own("models", "N", "Models beside the demo's own. Default: 0.").of(&["demo"]),
    own("no-proxy", "", "Scheduler and model servers only, to try another proxy.").of(&["demo"]),
    own("reference", "", "Print this reference.").of(&["check"]),
    own("version", "", "Print the version."),
    own("help", "", "Print the usage.").short('h'),
    nothing("base-id", "N", NO_HOT_RESTART),
    nothing("use-dynamic-base-id", "", NO_HOT_RESTART),
    nothing("disable-hot-restart", "", NO_HOT_RESTART),
    nothing("parent-shutdown-time-s", "SECONDS", NO_HOT_RESTART),
    nothing("skip-hot-restart-parent-stats", "", NO_HOT_RESTART),
    nothing("skip-hot-restart-on-no-parent", "", NO_HOT_RESTART),
    nothing("socket-path", "PATH", NO_HOT_RESTART),
    nothing("socket-mode", "MODE", NO_HOT_RESTART),
    nothing("drain-strategy", "NAME", "draining asks every connection to close at its next reply"),
    nothing("service-zone", "ZONE", "there is no zone-aware balancing"),
    nothing("cpuset-threads", "", "workers follow CPU set and CPU limit by default"),
    nothing("enable-core-dump", "", "core dumps follow the container's limits"),
    nothing("enable-mutex-tracing", "", "there is no mutex contention to trace"),
    nothing("enable-fine-grain-logging", "", "levels are set per module"),
    nothing("log-format-escaped", "", "log lines never contain raw line breaks"),
    nothing("log-stacktrace-single-entry", "", "a log entry is one line"),
    nothing("skip-deprecated-logs", "", "deprecated fields are named once, at start"),
    nothing("ignore-unknown-dynamic-fields", "", "unknown fields of resources are ignored"),
    nothing("file-flush-interval-msec", "N", "access logs are flushed by their own rule"),
    nothing("file-flush-min-size-kb", "N", "access logs are flushed by their own rule"),
    refused("reject-unknown-dynamic-fields", "", "unknown fields of resources are ignored"),
    refused("stats-tag", "TAG:VALUE", "statistics have fixed labels"),
    refused("disable-extensions", "NAMES", "there are no extensions"),
    refused("base-id-path", "FILE", NO_HOT_RESTART),
    refused("hot-restart-version", "", NO_HOT_RESTART),
];

/// The text of `--help`.
#[must_use]
pub fn usage() -> String {
    let mut text = String::from(
        "Radiant: the inference data plane of a Seldon Core 2 mesh\n\n\
         usage: radiant [run] [options]     serve (routes from the scheduler or from -c FILE)\n\
        \x20      radiant demo [options]      proxy, scheduler and model servers in one process\n\
        \x20      radiant check FILE          say what FILE means, or what is wrong with it\n\noptions:\n",
    );
    for flag in FLAGS.iter().filter(|f| matches!(f.effect, Effect::Own | Effect::Envoy)) {
        let short = flag.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
        let head = format!("  {short}--{} {}", flag.name, flag.value);
        text.push_str(&format!("{head:<44} {}\n", first_sentence(flag.doc)));
    }
    text.push_str("\nFlags of Envoy that are accepted without effect, environment variables and file\nformats: docs/configuration.md\n");
    text
}

fn first_sentence(doc: &str) -> &str {
    doc.find(". ").map_or(doc, |end| &doc[..=end])
}
