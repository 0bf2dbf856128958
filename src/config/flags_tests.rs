use super::*;

fn parsed(line: &str) -> Result<Command, String> {
    parse(line.split_whitespace().map(str::to_owned)).map_err(|e| e.to_string())
}

fn run(line: &str) -> Flags {
    match parsed(line).unwrap() {
        Command::Run(flags) => *flags,
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands() {
    assert_eq!(parsed("radiant").unwrap(), Command::Run(Box::default()));
    assert_eq!(parsed("radiant run").unwrap(), Command::Run(Box::default()));
    assert_eq!(parsed("/usr/local/bin/envoy").unwrap(), Command::Run(Box::default()));
    assert_eq!(parsed("radiant --version").unwrap(), Command::Version);
    assert_eq!(parsed("envoy --version -c x").unwrap(), Command::Version);
    assert_eq!(parsed("radiant demo --help").unwrap(), Command::Help);
    assert_eq!(parsed("radiant check --reference").unwrap(), Command::Reference);
    let Command::Check(flags) = parsed("radiant check a.yaml").unwrap() else { panic!() };
    assert_eq!(flags.config_path, Some(PathBuf::from("a.yaml")));
    let Command::Check(flags) = parsed("envoy --mode validate -c a.yaml").unwrap() else {
        panic!()
    };
    assert_eq!(flags.config_path, Some(PathBuf::from("a.yaml")));
    assert_eq!(
        parsed("radiant demo --port 0 --models 500 --no-proxy").unwrap(),
        Command::Demo(
            DemoFlags { port: Some(0), models: Some(500), no_proxy: true },
            Box::default()
        )
    );
}

#[test]
fn the_line_of_seldons_compose_file() {
    let flags = run("/usr/local/bin/envoy -c /etc/envoy-local.yaml");
    assert_eq!(flags.config_path, Some(PathBuf::from("/etc/envoy-local.yaml")));
    assert_eq!(flags.notices, []);
}

#[test]
fn every_way_to_give_a_value() {
    for line in [
        "envoy -c a --log-level debug",
        "envoy -ca -ldebug",
        "envoy -c=a -l=debug",
        "envoy --config-path a --log-level=debug",
        "envoy --config-path=a -l debug",
        "envoy -c a -l debug -- --nonsense",
        "radiant run -c a -l debug",
    ] {
        let flags = run(line);
        assert_eq!(flags.config_path, Some(PathBuf::from("a")), "{line}");
        assert_eq!(flags.log_level, Some(LevelFilter::DEBUG), "{line}");
    }
}

#[test]
fn values_reach_the_settings() {
    let flags = run(
        "radiant --concurrency 3 --drain-time-s 7 --service-node n --service-cluster c \
                     --removed-cluster-grace 0 --saved-snapshot /s --rewrite --refuse-ambiguous-requests --admin-address 127.0.0.1:0 \
                     --utility-address 127.0.0.1:1 --log-format json --log-path /l \
                     --component-log-level xds:trace,admin:off --admin-address-path /a",
    );
    let settings = super::super::load(&flags, &super::super::Environment::default()).unwrap();
    assert_eq!(settings.workers, 3);
    assert_eq!(settings.drain_time, Duration::from_secs(7));
    assert_eq!((settings.node.id.as_str(), settings.node.cluster.as_str()), ("n", "c"));
    assert_eq!(settings.removed_cluster_grace, Duration::ZERO);
    assert_eq!(settings.saved_snapshot, Some(PathBuf::from("/s")));
    assert!(settings.rewrite && settings.refuse_ambiguous);
    assert_eq!(settings.admin, Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(settings.admin_address_path, Some(PathBuf::from("/a")));
    assert_eq!(settings.utility.unwrap().address, "127.0.0.1:1".parse().unwrap());
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.log.path, Some(PathBuf::from("/l")));
    assert_eq!(
        settings.log.components,
        [("xds".to_owned(), LevelFilter::TRACE), ("admin".to_owned(), LevelFilter::OFF)]
    );
}

#[test]
fn an_image_swap_without_flags() {
    let settings =
        super::super::load(&run("envoy"), &super::super::Environment::default()).unwrap();
    assert_eq!(settings.node, crate::plane::Node::default());
    assert_eq!(settings.admin, Some("127.0.0.1:9901".parse().unwrap()));
    assert_eq!(settings.utility, Some(crate::config::UtilityListener::seldon()));
    assert_eq!(settings.removed_cluster_grace, Duration::from_secs(30));
    assert_eq!(settings.drain_time, Duration::from_secs(60));
    assert!(!settings.refuse_ambiguous);
    assert!(settings.workers >= 1 && !settings.rewrite && settings.saved_snapshot.is_none());
    assert_eq!(settings.notices, []);
}

#[test]
fn harmless_flags_are_named_in_a_notice() {
    let flags = run("envoy --base-id 1 --disable-hot-restart --parent-shutdown-time-s 900 \
                     --log-format [%Y] --drain-strategy immediate --restart-epoch 0");
    let named: Vec<_> = flags.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "--base-id: no effect: there is no hot restart",
            "--disable-hot-restart: no effect: there is no hot restart",
            "--parent-shutdown-time-s: no effect: there is no hot restart",
            "--log-format: no effect: 'text' and 'json' are understood, not Envoy's patterns",
            "--drain-strategy: no effect: draining asks every connection to close at its next reply",
        ]
    );
}

#[test]
fn mistakes_are_named() {
    for (line, expected) in [
        ("radiant --foo", "unknown option '--foo'"),
        ("radiant --foo=1", "unknown option '--foo'"),
        ("radiant -x", "unknown option '-x'"),
        ("radiant serve", "unknown command 'serve' (run, demo or check)"),
        ("envoy run", "unexpected argument 'run'"),
        ("radiant run x.yaml", "unexpected argument 'x.yaml'"),
        ("radiant check", "check needs a file"),
        ("radiant -c", "option '--config-path' needs a value"),
        ("radiant -c a -c b", "option '--config-path' is given twice"),
        ("radiant --rewrite=yes", "option '--rewrite' takes no value"),
        ("radiant --models 5", "option '--models' belongs to 'demo'"),
        (
            "radiant --concurrency two",
            "option '--concurrency': 'two' is not a number of worker threads",
        ),
        (
            "radiant --concurrency 100000",
            "option '--concurrency': '100000' is not a number of worker threads up to 512",
        ),
        (
            "radiant -l loud",
            "option '--log-level': 'loud' is not a level (trace, debug, info, warning, warn, error, critical, off)",
        ),
        ("radiant --drain-time-s -1", "option '--drain-time-s': '-1' is not a number of seconds"),
        (
            "radiant --removed-cluster-grace 3d",
            "option '--removed-cluster-grace': '3d' is not a duration (500ms, 30s, 5m; 0)",
        ),
        (
            "radiant --admin-address 9901",
            "option '--admin-address': '9901' is not an address (127.0.0.1:9901)",
        ),
        (
            "envoy --restart-epoch 1",
            "option '--restart-epoch': '1' is not 0; there is no hot restart",
        ),
        (
            "envoy --stats-tag a:b",
            "option '--stats-tag' of Envoy is not supported: statistics have fixed labels",
        ),
    ] {
        assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
    }
}

#[test]
fn durations() {
    for (text, expected) in [
        ("0", Some(0)),
        ("30s", Some(30_000)),
        ("30", Some(30_000)),
        ("250ms", Some(250)),
        ("2m", Some(120_000)),
        ("1h", Some(3_600_000)),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1.5s", None),
        ("99999999999999999999s", None),
    ] {
        assert_eq!(duration(text), expected.map(Duration::from_millis), "{text:?}");
    }
}

#[test]
fn the_usage_names_every_flag_with_an_effect() {
    let usage = super::super::usage();
    for flag in FLAGS.iter().filter(|f| matches!(f.effect, Effect::Own | Effect::Envoy)) {
        assert!(usage.contains(&format!("--{}", flag.name)), "{}", flag.name);
        assert!(!flag.doc.is_empty(), "{}", flag.name);
    }
}
