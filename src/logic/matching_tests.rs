//! Tables observed on Envoy 1.40 (one route a matcher, direct responses).

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn head(lines: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"GET");
    head.set_path(b"/v2/models/m/infer?q");
    head.set_authority(b"hh");
    for (name, value) in lines {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn matcher(name: &str, rule: HeaderMatch) -> HeaderMatcher {
    HeaderMatcher { name: name.into(), rule, invert: false, missing_as_empty: false }
}

fn inverted(mut m: HeaderMatcher) -> HeaderMatcher {
    m.invert = true;
    m
}

fn missing_as_empty(mut m: HeaderMatcher) -> HeaderMatcher {
    m.missing_as_empty = true;
    m
}

fn exact(value: &str) -> HeaderMatch {
    HeaderMatch::Value(StringMatch::Exact { value: value.as_bytes().into(), ignore_case: false })
}

fn regex(pattern: &str) -> HeaderMatch {
    HeaderMatch::Value(StringMatch::Regex(full_match(pattern).unwrap()))
}

/// Requests with these lines of header `h`, in the order of the columns below.
const LINES: [&[&str]; 12] = [
    &[],
    &[""],
    &["a"],
    &["b"],
    &["a", "b"],
    &["b", "c"],
    &["5", "b"],
    &["ab"],
    &["-5"],
    &["+5"],
    &["5x"],
    &["10"],
];

#[test]
fn header_rules_are_those_of_envoy() {
    let range = || HeaderMatch::Range(-5, 10);
    let present = HeaderMatch::Present;
    let contains = StringMatch::Contains { value: b"ab"[..].into(), ignore_case: true };
    let h = |rule| matcher("h", rule);
    for (what, matcher, want) in [
        ("exact, inverted", inverted(h(exact("a"))), ".#.#.#######"),
        ("present", h(present(true)), ".###########"),
        ("present, inverted", inverted(h(present(true))), "#..........."),
        ("absent", h(present(false)), "#..........."),
        ("absent, inverted", inverted(h(present(false))), ".###########"),
        ("present, missing as empty", missing_as_empty(h(present(true))), "############"),
        ("absent, missing as empty", missing_as_empty(h(present(false))), "............"),
        ("exact, missing as empty", missing_as_empty(h(exact("a"))), "..#.#......."),
        (
            "exact, missing as empty, inverted",
            inverted(missing_as_empty(h(exact("a")))),
            "##.#.#######",
        ),
        ("range", h(range()), "......#.##.."),
        ("range, inverted", inverted(h(range())), ".#####.#..##"),
        (
            "range, missing as empty, inverted",
            inverted(missing_as_empty(h(range()))),
            "######.#..##",
        ),
        ("regex", h(regex("a|ab")), "..#.#..#...."),
        ("regex, inverted", inverted(h(regex("a|ab"))), ".#.#.##.####"),
        ("contains, ignoring case", h(HeaderMatch::Value(contains)), ".......#...."),
    ] {
        let got: String = LINES
            .iter()
            .map(|values| {
                let lines: Vec<_> = values.iter().map(|v| ("h", *v)).collect();
                if matcher.matches(&head(&lines)) { '#' } else { '.' }
            })
            .collect();
        assert_eq!(got, want, "{what}");
    }
}

#[test]
fn pseudo_headers_are_always_one_line() {
    let head = head(&[]);
    for (name, value, want) in [
        (":method", "GET", true),
        (":method", "POST", false),
        (":path", "/v2/models/m/infer?q", true),
        (":authority", "hh", true),
        ("host", "hh", true),
        (":scheme", "http", true),
        (":nothing", "", false),
    ] {
        assert_eq!(matcher(name, exact(value)).matches(&head), want, "{name} {value}");
    }
    assert!(matcher(":nothing", HeaderMatch::Present(false)).matches(&head));
}

#[test]
fn string_rules_with_and_without_case() {
    let of = |kind: &str, value: &str, ignore_case: bool| {
        let value = value.as_bytes().into();
        match kind {
            "exact" => StringMatch::Exact { value, ignore_case },
            "prefix" => StringMatch::Prefix { value, ignore_case },
            "suffix" => StringMatch::Suffix { value, ignore_case },
            _ => StringMatch::Contains { value, ignore_case },
        }
    };
    for (kind, pattern, line, plain, ignoring) in [
        ("exact", "ab", "ab", true, true),
        ("exact", "ab", "aB", false, true),
        ("exact", "ab", "abc", false, false),
        ("prefix", "ab", "abc", true, true),
        ("prefix", "ab", "ABc", false, true),
        ("prefix", "ab", "a", false, false),
        ("suffix", "bc", "abc", true, true),
        ("suffix", "bc", "aBC", false, true),
        ("suffix", "bc", "c", false, false),
        ("contains", ":m_1:", ":a_1: :m_1:", true, true),
        ("contains", ":m_1:", ":M_1:", false, true),
        ("contains", "", "", true, true),
        ("contains", "abc", "ab", false, false),
    ] {
        assert_eq!(of(kind, pattern, false).matches(line.as_bytes()), plain, "{kind} {line}");
        assert_eq!(of(kind, pattern, true).matches(line.as_bytes()), ignoring, "{kind} {line}");
    }
}

#[test]
fn only_a_prefix_sees_the_query() {
    let bytes = |s: &str| s.as_bytes().into();
    for (rule, case_sensitive, hits, misses) in [
        (
            PathMatch::Prefix(bytes("/v2")),
            true,
            &["/v2", "/v2xyz", "/v2?x"][..],
            &["/V2", "/v"][..],
        ),
        (PathMatch::Prefix(bytes("/v2?x")), true, &["/v2?xy"], &["/v2"]),
        (PathMatch::Exact(bytes("/exact")), true, &["/exact", "/exact?x=1"], &["/exact/", "/e"]),
        (PathMatch::Exact(bytes("/CaSe")), false, &["/case", "/cAsE?x"], &["/case/"]),
        (
            PathMatch::Regex(full_match("/re/(a|ab)").unwrap()),
            true,
            &["/re/a", "/re/ab", "/re/a?x"],
            &["/re/abc", "x/re/a"],
        ),
        (
            PathMatch::SeparatedPrefix(bytes("/sep")),
            true,
            &["/sep", "/sep/", "/sep?x", "/sep/y"],
            &["/sepx", "/Sep"],
        ),
    ] {
        for path in hits {
            assert!(rule.matches(path.as_bytes(), case_sensitive), "{rule:?} {path}");
        }
        for path in misses {
            assert!(!rule.matches(path.as_bytes(), case_sensitive), "{rule:?} {path}");
        }
    }
}

#[test]
fn a_route_needs_all_of_its_conditions() {
    let rule = |fraction, grpc_only| RouteMatch {
        path: PathMatch::Prefix(b"/v2"[..].into()),
        case_sensitive: true,
        headers: smallvec::smallvec![matcher("seldon-model", exact("m"))],
        grpc_only,
        fraction,
    };
    let plain = head(&[("seldon-model", "foo"), ("seldon-model", "m")]);
    let grpc = head(&[("seldon-model", "m"), ("content-type", "application/grpc")]);
    assert!(rule(None, false).matches(&plain, 0));
    assert!(!rule(None, false).matches(&head(&[("seldon-model", "foo,m")]), 0));
    assert!(!rule(None, true).matches(&plain, 0));
    assert!(rule(None, true).matches(&grpc, 0));
    let half = rule(Some((1, 2)), false);
    assert!(half.matches(&plain, 4));
    assert!(!half.matches(&plain, 5));
    assert!(!rule(Some((0, 100)), false).matches(&plain, 0));
}

proptest! {
    /// Whatever a client sends, matching neither panics nor disagrees with the
    /// obvious formulation.
    #[test]
    fn string_rules_agree_with_the_obvious(
        line in prop::collection::vec(prop::sample::select(b"abAB:\xff".to_vec()), 0..8),
        pattern in prop::collection::vec(prop::sample::select(b"ab:".to_vec()), 0..4),
        ignore_case: bool,
    ) {
        let line_seen = if ignore_case { line.to_ascii_lowercase() } else { line.clone() };
        let value = crate::model::Text::from(pattern.as_slice());
        let is = |rule: StringMatch| rule.matches(&line);
        prop_assert_eq!(
            is(StringMatch::Exact { value: value.clone(), ignore_case }),
            line_seen == pattern
        );
        prop_assert_eq!(
            is(StringMatch::Prefix { value: value.clone(), ignore_case }),
            line_seen.starts_with(&pattern)
        );
        prop_assert_eq!(
            is(StringMatch::Suffix { value: value.clone(), ignore_case }),
            line_seen.ends_with(&pattern)
        );
        let contains = (0..=line_seen.len()).any(|i| line_seen[i..].starts_with(&pattern));
        prop_assert_eq!(is(StringMatch::Contains { value, ignore_case }), contains);
    }

    #[test]
    fn inverting_a_present_header_flips_the_answer(
        values in prop::collection::vec("[ab0-9]{0,3}", 1..4), pattern in "[ab]{0,2}", numeric: bool,
    ) {
        let lines: Vec<_> = values.iter().map(|v| ("h", v.as_str())).collect();
        let head = head(&lines);
        let rule = || if numeric { HeaderMatch::Range(0, 50) } else { exact(&pattern) };
        let (plain, flipped) = (matcher("h", rule()), inverted(matcher("h", rule())));
        prop_assert_ne!(plain.matches(&head), flipped.matches(&head));
        let name: Arc<str> = "absent".into();
        let absent = HeaderMatcher { name, ..inverted(matcher("h", rule())) };
        prop_assert!(!absent.matches(&head));
    }
}
