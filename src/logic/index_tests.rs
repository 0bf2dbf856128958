use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::logic::matching::full_match;
use crate::model::{Action, DirectResponse, HeaderMatcher, PathMatch, RouteMatch, Text};

fn route(path: PathMatch, headers: Vec<HeaderMatcher>, fraction: Option<(u32, u32)>) -> Arc<Route> {
    Arc::new(Route {
        name: "".into(),
        matcher: RouteMatch {
            path,
            case_sensitive: true,
            headers: headers.into(),
            grpc_only: false,
            fraction,
        },
        action: Action::Direct(DirectResponse { status: 200, body: Bytes::new() }),
        request_headers: None,
        response_headers: None,
    })
}

fn exact(name: &str, value: &str) -> HeaderMatcher {
    let rule = StringMatch::Exact { value: value.as_bytes().into(), ignore_case: false };
    matcher(name, HeaderMatch::Value(rule))
}

fn matcher(name: &str, rule: HeaderMatch) -> HeaderMatcher {
    HeaderMatcher { name: name.into(), rule, invert: false, missing_as_empty: false }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.as_bytes().into())
}

fn request(path: &str, lines: &[(String, String)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_path(path.as_bytes());
    for (name, value) in lines {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    head
}

/// The specification: walk the table.
fn naive(routes: &[Arc<Route>], head: &RequestHead, draw: u64) -> Option<usize> {
    routes.iter().position(|r| r.matcher.matches(head, draw))
}

fn indexed(routes: &[Arc<Route>], head: &RequestHead, draw: u64) -> Option<usize> {
    let found = RouteIndex::build(routes).find(routes, head, draw)?;
    routes.iter().position(|r| Arc::ptr_eq(r, found))
}

fn any_matcher() -> impl Strategy<Value = HeaderMatcher> {
    let name =
        prop_oneof![4 => Just("seldon-model"), 1 => Just("x-seldon-route"), 1 => Just(":path")];
    let value = "[ab]{0,2}";
    let rule = (0..9, value).prop_map(|(kind, text)| {
        let value = Text::from(text.as_str());
        HeaderMatch::Value(match kind {
            0 => return HeaderMatch::Present(true),
            1 => return HeaderMatch::Present(false),
            2 => StringMatch::Exact { value, ignore_case: true },
            3 => StringMatch::Prefix { value, ignore_case: false },
            4 => StringMatch::Contains { value, ignore_case: false },
            5 => StringMatch::Regex(full_match(&format!("{text}|b")).unwrap()),
            _ => StringMatch::Exact { value, ignore_case: false },
        })
    });
    (name, rule, prop::bool::weighted(0.15), prop::bool::weighted(0.15)).prop_map(
        |(name, rule, invert, missing_as_empty)| HeaderMatcher {
            name: name.into(),
            rule,
            invert,
            missing_as_empty,
        },
    )
}

fn any_route() -> impl Strategy<Value = Arc<Route>> {
    let path = prop_oneof![Just("/"), Just("/v2"), Just("/inference")];
    let fraction = prop::option::weighted(0.2, (0u32..3, Just(2u32)));
    (path, prop::collection::vec(any_matcher(), 0..4), fraction)
        .prop_map(|(path, headers, fraction)| route(prefix(path), headers, fraction))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The index gives the answer of the ordered scan for every table.
    #[test]
    fn the_index_answers_as_an_ordered_scan(
        routes in prop::collection::vec(any_route(), 0..24),
        path in prop_oneof![Just("/"), Just("/v2/x"), Just("/inference.x")],
        models in prop::collection::vec("[abAB]{0,2}", 0..4),
        route_lines in prop::collection::vec("[ab]{0,2}", 0..2),
        draw in any::<u64>(),
    ) {
        let lines = models.into_iter().map(|v| ("seldon-model".to_owned(), v));
        let lines: Vec<_> =
            lines.chain(route_lines.into_iter().map(|v| ("x-seldon-route".to_owned(), v))).collect();
        let head = request(path, &lines);
        prop_assert_eq!(indexed(&routes, &head, draw), naive(&routes, &head, draw));
    }
}

#[test]
fn routes_without_the_header_keep_their_place_among_the_others() {
    let routes = [
        route(prefix("/v2"), vec![exact("seldon-model", "a")], None),
        route(prefix("/admin"), vec![], None),
        route(prefix("/"), vec![exact("seldon-model", "a")], None),
        route(prefix("/"), vec![], None),
        route(prefix("/never"), vec![exact("seldon-model", "b")], None),
    ];
    let a = [("seldon-model".to_owned(), "a".to_owned())];
    let both = [("seldon-model".to_owned(), "b".to_owned()), a[0].clone()];
    for (path, lines, want) in [
        ("/v2", &a[..], 0),
        ("/admin", &a, 1),
        ("/x", &a, 2),
        ("/x", &[], 3),
        ("/never", &both, 2),
        ("/v2", &both, 0),
    ] {
        assert_eq!(indexed(&routes, &request(path, lines), 0), Some(want), "{path}");
    }
}

/// The scheduler's shape: an HTTP and a gRPC route a model.
fn scheduler_table(models: usize) -> Vec<Arc<Route>> {
    (0..models)
        .flat_map(|i| {
            let headers = || {
                vec![
                    exact("seldon-model", &format!("model-{i}")),
                    matcher("x-seldon-route", HeaderMatch::Present(false)),
                ]
            };
            let grpc = prefix("/inference.GRPCInferenceService");
            [route(prefix("/v2"), headers(), None), route(grpc, headers(), None)]
        })
        .collect()
}

#[test]
fn a_large_table_is_small_and_complete() {
    let routes = scheduler_table(20_000);
    let started = Instant::now();
    let index = RouteIndex::build(&routes);
    let took = started.elapsed();
    // 4 bytes a route, at most 10 bytes a model in the table of heads.
    assert_eq!(index.next.len(), routes.len());
    assert!(index.heads.allocation_size() <= 20_000 * 10, "{}", index.heads.allocation_size());
    assert!(index.rest.is_empty());
    for i in [0, 1, 777, 19_999] {
        let line = [("seldon-model".to_owned(), format!("model-{i}"))];
        let at = |path: &str| {
            let found = index.find(&routes, &request(path, &line), 0).unwrap();
            routes.iter().position(|r| Arc::ptr_eq(r, found)).unwrap()
        };
        assert_eq!(at("/v2/models/x/infer"), 2 * i);
        assert_eq!(at("/inference.GRPCInferenceService/ModelInfer"), 2 * i + 1);
    }
    println!("built {} routes in {took:?}", routes.len());
}

#[test]
fn a_list_that_is_not_the_indexed_one_does_no_harm() {
    let index = RouteIndex::build(&scheduler_table(4));
    let line = [("seldon-model".to_owned(), "model-3".to_owned())];
    assert!(index.find(&[], &request("/v2", &line), 0).is_none());
}

fn table(domains: &[&str]) -> RouteTable {
    RouteTable {
        virtual_hosts: domains
            .iter()
            .map(|d| VirtualHost {
                name: (*d).to_owned(),
                domains: vec![(*d).to_owned()],
                ..VirtualHost::default()
            })
            .collect(),
        ..RouteTable::default()
    }
}

#[test]
fn virtual_hosts_are_chosen_as_observed_on_envoy() {
    let table = table(&["*", "a.com", "*.a.com", "*b.a.com", "a.*", "a.c*", "*com", "x.com:81"]);
    for (authority, want) in [
        ("a.com", "a.com"),
        ("A.com", "a.com"),
        ("x.a.com", "*.a.com"),
        ("b.a.com", "*.a.com"),
        ("bb.a.com", "*b.a.com"),
        ("a.org", "a.*"),
        ("a.c.org", "a.c*"),
        ("com", "*"),
        ("xcom", "*com"),
        ("x.com:81", "x.com:81"),
        ("x.com", "*com"),
        (".a.com", "*com"),
        ("a.", "*"),
        ("a.com:80", "a.c*"),
        ("", "*"),
    ] {
        let got = table.host_for(authority.as_bytes()).map(|h| h.name.as_str());
        assert_eq!(got, Some(want), "{authority}");
    }
}

#[test]
fn without_a_default_host_an_unknown_authority_has_none() {
    assert!(table(&["a.com"]).host_for(b"b.com").is_none());
    assert!(table(&[]).host_for(b"b.com").is_none());
    assert!(table(&["*"]).host_for(b"").is_some());
}
