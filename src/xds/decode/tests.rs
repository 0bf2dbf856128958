//! What is understood, and what is refused by name.

#![allow(clippy::unwrap_used, clippy::type_complexity)] // a failed unwrap is a failed test

use std::sync::Arc;

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as cl;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as li;
use envoy_types::pb::envoy::config::route::v3 as rt;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::matcher::v3 as ty;
use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration as PbDuration, Struct, UInt32Value, Value, value::Kind,
};
use prost::Message;

use super::*;
use crate::model::*;
use crate::seldon;

fn compile(config: &rt::RouteConfiguration) -> Result<Arc<RouteTable>, Invalid> {
    compile_with(config, false)
}

fn compile_with(
    config: &rt::RouteConfiguration,
    rewrite: bool,
) -> Result<Arc<RouteTable>, Invalid> {
    let clusters = Clusters::default();
    let cx = RouteContext { clusters: &clusters, rewrite };
    let bytes = Bytes::from(config.encode_to_vec());
    table(&bytes, &cx, &mut RouteCache::default())
}

fn config(routes: Vec<rt::Route>) -> rt::RouteConfiguration {
    rt::RouteConfiguration {
        name: "t".to_owned(),
        virtual_hosts: vec![rt::VirtualHost {
            name: "v".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..rt::VirtualHost::default()
        }],
        ..rt::RouteConfiguration::default()
    }
}

fn plain_action() -> rt::RouteAction {
    rt::RouteAction {
        cluster_specifier: Some(rt::route_action::ClusterSpecifier::Cluster("c".to_owned())),
        ..rt::RouteAction::default()
    }
}

fn plain_route() -> rt::Route {
    rt::Route {
        r#match: Some(rt::RouteMatch {
            path_specifier: Some(rt::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..rt::RouteMatch::default()
        }),
        action: Some(rt::route::Action::Route(plain_action())),
        ..rt::Route::default()
    }
}

/// A plain route with an edited action.
fn acting(edit: impl FnOnce(&mut rt::RouteAction)) -> rt::Route {
    let mut action = plain_action();
    edit(&mut action);
    rt::Route { action: Some(rt::route::Action::Route(action)), ..plain_route() }
}

fn matching(edit: impl FnOnce(&mut rt::RouteMatch)) -> rt::Route {
    let mut route = plain_route();
    edit(route.r#match.as_mut().unwrap());
    route
}

fn edited(edit: impl FnOnce(&mut rt::Route)) -> rt::Route {
    let mut route = plain_route();
    edit(&mut route);
    route
}

fn routes(table: &RouteTable) -> Vec<&Arc<Route>> {
    table.virtual_hosts[0].routes.in_order()
}

fn forward(route: rt::Route) -> Forward {
    let table = compile(&config(vec![route])).unwrap();
    let route = Arc::clone(routes(&table)[0]);
    drop(table);
    match Arc::try_unwrap(route).map(|r| r.action) {
        Ok(Action::Forward(forward)) => forward,
        _ => panic!("not a forward"),
    }
}

fn seconds(seconds: i64) -> Option<PbDuration> {
    Some(PbDuration { seconds, nanos: 0 })
}

#[test]
fn defaults_of_a_route_are_envoys() {
    let f = forward(plain_route());
    assert_eq!(f.timeout, Some(Duration::from_secs(15)));
    assert_eq!((f.unusual, f.retry, f.total_weight), (None, None, 1));
    assert_eq!(forward(acting(|a| a.timeout = seconds(0))).timeout, None);
    let idle = forward(acting(|a| a.idle_timeout = seconds(7))).unusual.unwrap().idle_timeout;
    assert_eq!(idle, Some(Duration::from_secs(7)));
}

#[test]
fn retry_policies_have_envoys_defaults_and_bounds() {
    let retry = |edit: fn(&mut rt::RetryPolicy)| {
        let mut policy =
            rt::RetryPolicy { retry_on: "5xx, connect-failure".to_owned(), ..Default::default() };
        edit(&mut policy);
        compile(&config(vec![acting(|a| a.retry_policy = Some(policy))]))
    };
    let table = retry(|_| {}).unwrap();
    let Action::Forward(f) = &routes(&table)[0].action else { panic!() };
    let policy = f.retry.as_ref().unwrap();
    assert!(policy.on.server_error && policy.on.connect_failure);
    assert_eq!(
        (policy.retries, policy.base, policy.max),
        (1, Duration::from_millis(25), Duration::from_millis(250))
    );
    let error = retry(|p| {
        p.retry_back_off = Some(rt::retry_policy::RetryBackOff {
            base_interval: seconds(2),
            max_interval: seconds(1),
        });
    });
    assert_eq!(
        error.unwrap_err().reason,
        "retry_policy.max_interval must greater than or equal to the base_interval"
    );
    assert!(retry(|p| p.retry_on = "unavailable,internal".to_owned()).is_ok());
    assert!(retry(|p| p.retry_on = "retriable-headers".to_owned()).is_err());
}

#[test]
fn every_matcher_kind_is_understood() {
    use rt::header_matcher::HeaderMatchSpecifier as Spec;
    use ty::string_matcher::MatchPattern;
    let string = |pattern, ignore_case| {
        Some(Spec::StringMatch(ty::StringMatcher { match_pattern: Some(pattern), ignore_case }))
    };
    let regex = ty::RegexMatcher { regex: "a|b".to_owned(), engine_type: None };
    let range = envoy_types::pb::envoy::r#type::v3::Int64Range { start: 1, end: 5 };
    let specs = [
        None,
        Some(Spec::PresentMatch(false)),
        Some(Spec::RangeMatch(range)),
        string(MatchPattern::Exact("X".to_owned()), true),
        string(MatchPattern::Prefix("X".to_owned()), false),
        string(MatchPattern::Suffix("X".to_owned()), false),
        string(MatchPattern::Contains("X".to_owned()), true),
        string(MatchPattern::SafeRegex(regex.clone()), false),
        Some(Spec::ExactMatch("X".to_owned())),
        Some(Spec::SafeRegexMatch(regex)),
    ];
    let headers = specs.into_iter().map(|header_match_specifier| rt::HeaderMatcher {
        name: "X-A".to_owned(),
        invert_match: true,
        treat_missing_header_as_empty: true,
        header_match_specifier,
    });
    let route = matching(|m| m.headers = headers.collect());
    let table = compile(&config(vec![route])).unwrap();
    let headers = &routes(&table)[0].matcher.headers;
    assert!(headers.iter().all(|h| &*h.name == "x-a" && h.invert && h.missing_as_empty));
    assert!(matches!(headers[0].rule, HeaderMatch::Present(true)));
    assert!(matches!(headers[2].rule, HeaderMatch::Range(1, 5)));
    let HeaderMatch::Value(StringMatch::Exact { value, ignore_case: true }) = &headers[3].rule
    else {
        panic!("{:?}", headers[3])
    };
    assert_eq!(&**value, b"x");
    let HeaderMatch::Value(StringMatch::Regex(regex)) = &headers[7].rule else { panic!() };
    assert!(regex.is_match(b"a") && !regex.is_match(b"ab"));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    use rt::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let any = || [("f".to_owned(), Any::default())].into();
    let cases: Vec<(rt::Route, &str)> = vec![
        (edited(|r| r.action = None), "virtual_hosts[0].routes[0].action"),
        (edited(|r| r.r#match = None), "virtual_hosts[0].routes[0].match"),
        (edited(|r| r.typed_per_filter_config = any()), "typed_per_filter_config"),
        (edited(|r| r.action = Some(rt::route::Action::Redirect(Default::default()))), "redirect"),
        (matching(|m| m.path_specifier = None), "match.path_specifier"),
        (matching(|m| m.query_parameters.push(Default::default())), "match.query_parameters"),
        (matching(|m| m.headers.push(Default::default())), "match.headers[0].name"),
        (acting(|a| a.cluster_specifier = None), "route.cluster_specifier"),
        (
            acting(|a| a.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into()))),
            "route.cluster_header",
        ),
        (
            acting(|a| {
                a.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(Default::default()))
            }),
            "route.weighted_clusters.clusters",
        ),
        (acting(|a| a.timeout = seconds(-1)), "route.timeout"),
        (acting(|a| a.regex_rewrite = Some(Default::default())), "route.regex_rewrite"),
        (acting(|a| a.max_stream_duration = Some(Default::default())), "route.max_stream_duration"),
        (acting(|a| a.hedge_policy = Some(Default::default())), "route.hedge_policy"),
        (
            acting(|a| {
                a.host_rewrite_specifier =
                    Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }));
            }),
            "route.auto_host_rewrite",
        ),
        (
            edited(|r| r.request_headers_to_remove.push("Host".to_owned())),
            "request_headers_to_remove[0]",
        ),
        (
            edited(|r| r.request_headers_to_add.push(add("x", "%NO_SUCH%"))),
            "request_headers_to_add[0].header.value",
        ),
        (
            edited(|r| r.request_headers_to_add.push(add(":path", "/"))),
            "request_headers_to_add[0].header.key",
        ),
    ];
    for (route, field) in cases {
        let error = compile(&config(vec![route])).unwrap_err();
        assert!(error.field.ends_with(field), "{field}: {error}");
        assert!(error.field.starts_with("virtual_hosts[0].routes[0]"), "{error}");
    }
    let mut twice = config(Vec::new());
    twice.virtual_hosts.push(twice.virtual_hosts[0].clone());
    let error = compile(&twice).unwrap_err();
    assert_eq!(error.reason, "Only a single wildcard domain is permitted");
}

fn add(key: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        ..core::HeaderValueOption::default()
    }
}

#[test]
fn header_values_are_plain_unless_they_hold_operators() {
    let route = edited(|r| {
        r.request_headers_to_add = vec![
            add("A", "plain"),
            add("B", "100%%"),
            add("C", "%PROTOCOL%"),
            core::HeaderValueOption { append: Some(BoolValue { value: false }), ..add("D", "x") },
            core::HeaderValueOption { append_action: 3, keep_empty_value: true, ..add("E", "") },
        ];
    });
    let table = compile(&config(vec![route])).unwrap();
    let adds = &routes(&table)[0].request_headers.as_ref().unwrap().add;
    let plain = |i: usize| match &adds[i].value {
        HeaderValue::Plain(value) => String::from_utf8_lossy(value).into_owned(),
        HeaderValue::Format(_) => "format".to_owned(),
    };
    assert_eq!([0, 1, 2].map(plain), ["plain", "100%", "format"]);
    assert_eq!(&*adds[0].name, "a");
    assert_eq!(adds[3].action, AppendAction::OverwriteIfExistsOrAdd);
    assert_eq!((adds[4].action, adds[4].keep_empty), (AppendAction::OverwriteIfExists, true));
}

#[test]
fn a_route_inherits_retries_and_mirrors() {
    let mirror = |name: &str| rt::route_action::RequestMirrorPolicy {
        cluster: name.to_owned(),
        ..Default::default()
    };
    let mut config = config(vec![plain_route()]);
    config.request_mirror_policies = vec![mirror("table")];
    let names = |config: &rt::RouteConfiguration| -> (Vec<String>, bool) {
        let table = compile(config).unwrap();
        let Action::Forward(f) = &routes(&table)[0].action else { panic!() };
        assert!(f.mirrors.iter().all(|m| m.fraction == (100, 100)));
        (f.mirrors.iter().map(|m| m.cluster.name.to_string()).collect(), f.retry.is_some())
    };
    assert_eq!(names(&config), (vec!["table".to_owned()], false));
    config.virtual_hosts[0].request_mirror_policies = vec![mirror("host")];
    config.virtual_hosts[0].retry_policy = Some(rt::RetryPolicy::default());
    assert_eq!(names(&config), (vec!["host".to_owned()], true));
}

#[test]
fn unchanged_routes_are_reused_and_what_they_inherit_is_part_of_them() {
    let clusters = Clusters::default();
    let cx = RouteContext { clusters: &clusters, rewrite: false };
    let named = |name: &str| rt::Route { name: name.to_owned(), ..plain_route() };
    let mut cache = RouteCache::default();
    let mut build = |config: &rt::RouteConfiguration| {
        table(&Bytes::from(config.encode_to_vec()), &cx, &mut cache).unwrap()
    };
    let before = build(&config(vec![named("a"), named("b")]));
    let after = build(&config(vec![named("b"), named("x"), named("a")]));
    let route = |table: &RouteTable, i: usize| Arc::clone(routes(table)[i]);
    assert!(Arc::ptr_eq(&route(&before, 0), &route(&after, 2)));
    assert!(Arc::ptr_eq(&route(&before, 1), &route(&after, 0)));
    let mut other = config(vec![named("a")]);
    other.virtual_hosts[0].retry_policy = Some(rt::RetryPolicy::default());
    let inheriting = build(&other);
    assert!(!Arc::ptr_eq(&route(&after, 2), &route(&inheriting, 0)));
}

fn rewrites(config: &rt::RouteConfiguration, rewrite: bool) -> Vec<Option<String>> {
    let table = compile_with(config, rewrite).unwrap();
    let routes = routes(&table);
    let targets = routes.iter().flat_map(|r| match &r.action {
        Action::Forward(f) => f.targets.iter(),
        Action::Direct(_) => panic!("direct"),
    });
    targets.map(|t| t.rewrite_model.as_deref().map(str::to_owned)).collect()
}

#[test]
fn the_model_name_to_write_comes_from_metadata_or_from_the_label() {
    let text = |s: &str| Value { kind: Some(Kind::StringValue(s.to_owned())) };
    let structure = |fields: Vec<(&str, Value)>| Struct {
        fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
    };
    let by_cluster =
        Value { kind: Some(Kind::StructValue(structure(vec![("c", text("iris_3"))]))) };
    let metadata = |rewrite: Value| core::Metadata {
        filter_metadata: [("radiant".to_owned(), structure(vec![("rewrite", rewrite)]))].into(),
        ..core::Metadata::default()
    };
    let route = edited(|r| r.metadata = Some(metadata(by_cluster)));
    assert_eq!(rewrites(&config(vec![route]), false), [Some("iris_3".to_owned())]);
    let malformed = edited(|r| r.metadata = Some(metadata(text("x"))));
    assert!(compile(&config(vec![malformed])).is_err());

    let labelled = |label: &str| {
        edited(|r| r.request_headers_to_add.push(add("Seldon-Internal-Model", label)))
    };
    let labels = ["iris_1", "my_model_12", "p.pipeline", "_1", "iris_x"].map(labelled);
    let labels = config(labels.to_vec());
    assert_eq!(rewrites(&labels, false), [const { None }; 5]);
    let want = [Some("iris"), Some("my_model"), None, None, None].map(|m| m.map(str::to_owned));
    assert_eq!(rewrites(&labels, true), want);
}

fn good_cluster() -> cl::Cluster {
    let [first, _] = seldon::mirror_clusters("10.0.0.1", 9001);
    first
}

#[test]
fn clusters_are_understood_or_refused_by_name() {
    let decode = |edit: &dyn Fn(&mut cl::Cluster)| {
        let mut message = good_cluster();
        edit(&mut message);
        cluster(&Bytes::from(message.encode_to_vec()))
    };
    let good = decode(&|_| {}).unwrap();
    assert_eq!(good.limits.max_retries, 5);
    assert_eq!(
        (good.connect_timeout, good.refresh),
        (Duration::from_secs(5), Duration::from_secs(2))
    );
    let cases: [(&dyn Fn(&mut cl::Cluster), &str); 8] = [
        (&|c| c.connect_timeout = seconds(-1), "connect_timeout"),
        (&|c| c.connect_timeout = seconds(0), "connect_timeout"),
        (&|c| c.outlier_detection = Some(Default::default()), "outlier_detection"),
        (&|c| c.lb_policy = cl::cluster::LbPolicy::RingHash as i32, "lb_policy"),
        (&|c| c.load_assignment = None, "load_assignment"),
        (&|c| c.cluster_discovery_type = Some(cl::cluster::ClusterDiscoveryType::Type(3)), "type"),
        (&|c| c.name.clear(), "name"),
        (
            &|c| {
                c.transport_socket =
                    Some(core::TransportSocket { name: "tls".to_owned(), ..Default::default() })
            },
            "transport_socket",
        ),
    ];
    for (edit, field) in cases {
        assert_eq!(decode(edit).unwrap_err().field, field);
    }
    let weighted = decode(&|c| {
        let endpoints = &mut c.load_assignment.as_mut().unwrap().endpoints[0].lb_endpoints;
        endpoints.push(endpoints[0].clone());
        endpoints[0].load_balancing_weight = Some(UInt32Value { value: 7 });
    });
    assert!(weighted.unwrap_err().field.ends_with("load_balancing_weight"));
}

fn with_manager(
    edit: impl FnOnce(&mut hcm::HttpConnectionManager),
) -> Result<DecodedListener, Invalid> {
    let mut message = seldon::listeners(&seldon::ListenerOptions::default()).remove(0);
    let filter = &mut message.filter_chains[0].filters[0];
    let Some(li::filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else { panic!() };
    let mut manager = hcm::HttpConnectionManager::decode(&*any.value).unwrap();
    edit(&mut manager);
    any.value = manager.encode_to_vec();
    listener(&Bytes::from(message.encode_to_vec()))
}

#[test]
fn the_schedulers_listener_is_understood() {
    let decoded = with_manager(|_| {}).unwrap();
    assert_eq!(decoded.routes, RouteSource::Named("listener_0".to_owned()));
    let config = decoded.config;
    assert_eq!(
        (&*config.name, &*config.stat_prefix, config.address.port()),
        ("seldon_http", "seldon_http", 9000)
    );
    assert!(config.header_filter);
    let tap = config.tap.unwrap();
    assert_eq!(tap.path_prefix, "/tmp/request-log");
    assert_eq!(tap.request_header.as_deref(), Some("seldon-logging"));
    assert_eq!(tap.response_header.as_deref(), Some("seldon-logging"));
    let Some(LogFilter::Or(either)) = &config.access_logs[0].filter else { panic!() };
    assert_eq!(either.len(), 2);
}

#[test]
fn listeners_are_refused_by_name() {
    let cases: [(&dyn Fn(&mut hcm::HttpConnectionManager), &str, &str); 6] = [
        (
            &|m| drop(m.http_filters.pop()),
            "http_filters",
            "Error: non-terminal filter named envoy.filters.http.lua of type envoy.filters.http.lua \
             is the last filter in a http filter chain.",
        ),
        (&|m| m.http_filters.clear(), "http_filters", "no http filters"),
        (
            &|m| m.use_remote_address = Some(BoolValue { value: true }),
            "use_remote_address",
            "not supported",
        ),
        (&|m| m.route_specifier = None, "route_specifier", "value is required"),
        (&|m| m.merge_slashes = true, "merge_slashes", "not supported"),
        (
            &|m| {
                let unknown = Any { type_url: "t/a.B".to_owned(), value: Vec::new() };
                m.http_filters[0].config_type =
                    Some(hcm::http_filter::ConfigType::TypedConfig(unknown));
            },
            "http_filters[0].typed_config",
            "HTTP filter 'a.B' is not supported",
        ),
    ];
    for (edit, field, reason) in cases {
        let error = with_manager(edit).unwrap_err();
        assert_eq!(error.field, format!("filter_chains[0].filters[0].typed_config.{field}"));
        assert_eq!(error.reason, reason);
    }
}

#[test]
fn an_inline_table_is_handed_on() {
    let decoded = with_manager(|m| {
        let table = config(vec![plain_route()]);
        m.route_specifier = Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table));
    });
    let decoded = decoded.unwrap();
    assert!(matches!(decoded.routes, RouteSource::Inline(_)));
    assert_eq!(decoded.config.kind, ListenerKind::Data { route_config: "t".to_owned() });
}

mod bytes_from_a_peer {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(bytes: &Bytes) {
        let clusters = Clusters::default();
        let cx = RouteContext { clusters: &clusters, rewrite: true };
        let _ = table(bytes, &cx, &mut RouteCache::default());
        let _ = cluster(bytes);
        let _ = listener(bytes);
        let _ = first_string(bytes, 1);
    }

    proptest! {
        #[test]
        fn never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decode_all(&Bytes::from(bytes));
        }

        #[test]
        fn never_panic_when_damaged(at in 0..4000_usize, to in any::<u8>(), cut in 0..4000_usize) {
            let good = seldon::listeners(&seldon::ListenerOptions::default()).remove(0);
            for mut bytes in [good.encode_to_vec(), config(vec![plain_route()]).encode_to_vec()] {
                let len = bytes.len();
                bytes[at % len] = to;
                bytes.truncate(len.max(cut) - cut.min(len - 1));
                decode_all(&Bytes::from(bytes));
            }
        }
    }

    #[test]
    fn an_accepted_table_can_be_shown() {
        let mut whole = config(vec![plain_route(), edited(|r| r.name = "b".to_owned())]);
        let clusters = Clusters::default();
        let cx = RouteContext { clusters: &clusters, rewrite: false };
        let mut cache = RouteCache::default();
        for _ in 0..2 {
            table(&whole.encode_to_vec(), &cx, &mut cache).unwrap();
            let shown = cache.raw().message();
            assert_eq!(rt::RouteConfiguration::decode(&*shown).unwrap(), whole);
            assert_eq!(first_string(&shown, 1), Some("t"));
            let routes = &mut whole.virtual_hosts[0].routes;
            routes.swap(0, 1);
            routes.push(edited(|r| r.name = "c".to_owned()));
            routes.remove(0);
        }
    }
}
