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
    let index = RouteIndex::build(routes.iter().map(Arc::clone));
    position(&index, routes, head, draw)
}

fn position(
    index: &RouteIndex,
    routes: &[Arc<Route>],
    head: &RequestHead,
    draw: u64,
) -> Option<usize> {
    let found = index.find(head, draw)?;
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
    let index = RouteIndex::build(routes.iter().map(Arc::clone));
    let slots: usize = index.buckets.iter().map(|bucket| bucket.len()).sum();
    // 64 to 128 bytes a model, of two routes, and four a route for its place.
    assert_eq!(size_of::<Option<Slot>>(), 16);
    assert!((4 * 20_000..=8 * 20_000).contains(&slots), "{slots}");
    assert_eq!((index.places.len(), index.len()), (routes.len(), routes.len()));
    assert!(index.rest.is_empty());
    for i in [0, 1, 777, 19_999] {
        let line = [("seldon-model".to_owned(), format!("model-{i}"))];
        let at = |path: &str| position(&index, &routes, &request(path, &line), 0);
        assert_eq!(at("/v2/models/x/infer"), Some(2 * i));
        assert_eq!(at("/inference.GRPCInferenceService/ModelInfer"), Some(2 * i + 1));
    }
    assert!(index.in_order().into_iter().zip(&routes).all(|(a, b)| Arc::ptr_eq(a, b)));
}

/// An editor, and which route has which id.
#[derive(Default)]
struct Editing {
    editor: IndexEditor,
    ids: Vec<(Arc<Route>, u32)>,
}

impl Editing {
    fn edit(&mut self, table: &[Arc<Route>]) -> RouteIndex {
        let held = |route: &Arc<Route>| {
            self.ids.iter().find(|(held, _)| Arc::ptr_eq(held, route)).map(|(_, id)| *id)
        };
        let new: Vec<_> = table.iter().filter(|route| held(route).is_none()).collect();
        let listed: Vec<_> = table.iter().map(|route| held(route).unwrap_or(NEW)).collect();
        let edited = self.editor.edit(listed.clone(), new.iter().copied().cloned().collect());
        assert_eq!(edited.added.len(), new.len());
        assert!(edited.ids.iter().zip(listed).all(|(id, was)| *id == was || was == NEW));
        self.ids.retain(|(_, id)| !edited.removed.contains(id));
        self.ids.extend(new.into_iter().map(Arc::clone).zip(edited.added));
        edited.index
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However a table became what it is, its index gives the answer of the
    /// ordered scan, and so does that of the table before.
    #[test]
    fn an_edited_index_answers_as_an_ordered_scan(
        pool in prop::collection::vec(any_route(), 1..40),
        tables in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..60), 1..6),
        lines in prop::collection::vec("[ab]{0,2}", 1..3),
        draw in any::<u64>(),
    ) {
        let lines: Vec<_> = lines.into_iter().map(|v| ("seldon-model".to_owned(), v)).collect();
        let head = request("/v2/x", &lines);
        let mut editing = Editing::default();
        let mut before: Option<(RouteIndex, Vec<Arc<Route>>)> = None;
        for picked in tables {
            let table: Vec<_> = picked.iter().map(|i| Arc::clone(i.get(&pool))).collect();
            let index = editing.edit(&table);
            let found = position(&index, &table, &head, draw);
            prop_assert_eq!(found, naive(&table, &head, draw));
            prop_assert_eq!(index.len(), table.len());
            if let Some((index, table)) = before.replace((index, table)) {
                prop_assert_eq!(position(&index, &table, &head, draw), naive(&table, &head, draw));
            }
        }
    }
}

#[test]
fn an_edit_writes_only_the_buckets_that_changed() {
    let mut table = scheduler_table(5_000);
    let mut editing = IndexEditor::default();
    let first = editing.edit(vec![NEW; table.len()], table.clone());
    // The scheduler's order of models is another one each time.
    let order: Vec<usize> = (0..5_000).map(|i| (i * 37 + 11) % 5_000).collect();
    let ids = order.iter().flat_map(|model| [2 * model, 2 * model + 1]);
    let mut listed: Vec<_> = ids.clone().map(|i| first.added[i]).collect();
    let shuffled = editing.edit(listed, Vec::new());
    let written = |a: &RouteIndex, b: &RouteIndex| {
        a.buckets.iter().zip(&b.buckets).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    };
    assert_eq!(written(&first.index, &shuffled.index), 0);
    // One model gets another route, another one's two change places.
    let changed = scheduler_table(1).remove(0);
    listed = ids.clone().map(|i| first.added[i]).collect();
    let place = order.iter().position(|model| *model == 0).unwrap() * 2;
    listed[place] = NEW;
    let swapped = order.iter().position(|model| *model == 4_999).unwrap() * 2;
    listed.swap(swapped, swapped + 1);
    let edited = editing.edit(listed, vec![Arc::clone(&changed)]);
    assert_eq!(edited.removed, [first.added[0]]);
    assert!(written(&shuffled.index, &edited.index) <= 2);
    table[0] = changed;
    for (model, want) in [(0, 0), (4_999, 9_998), (2_500, 5_000)] {
        let line = [("seldon-model".to_owned(), format!("model-{model}"))];
        let found = position(&edited.index, &table, &request("/v2/models/x", &line), 0);
        assert_eq!(found, Some(want));
    }
}

#[test]
fn a_table_that_shrinks_gives_its_buckets_back() {
    let table = scheduler_table(5_000);
    let mut editing = Editing::default();
    let large = editing.edit(&table);
    let small = editing.edit(&table[..20]);
    let none = editing.edit(&[]);
    let sizes = [large, small, none].map(|index| index.buckets.len());
    assert_eq!(sizes, [256, 1, 0]);
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
