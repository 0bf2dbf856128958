use proptest::prelude::*;

use super::*;
use crate::model::HeaderAdd;

fn add(name: &str, value: &str, action: AppendAction) -> HeaderAdd {
    let value = HeaderValue::parse(value).unwrap();
    HeaderAdd { name: name.into(), value, action, keep_empty: false }
}

fn level(remove: &[&str], add: Vec<HeaderAdd>) -> HeaderMutations {
    let remove = (!remove.is_empty()).then(|| remove.iter().map(|n| (*n).into()).collect());
    HeaderMutations { remove, add: add.into() }
}

fn request(lines: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    for (name, value) in lines {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn lines(headers: &Headers) -> Vec<String> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    headers.iter().map(|f| format!("{}: {}", text(f.name), text(f.value))).collect()
}

fn apply(head: &mut RequestHead, levels: &[HeaderMutations]) -> Vec<String> {
    apply_request(head, levels, &LogContext::default(), &mut Vec::new());
    lines(&head.headers)
}

use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};

/// The very request and answer seen with Envoy 1.40.
#[test]
fn one_level_writes_what_envoy_writes() {
    let mut keep = add("x-keep", "%REQ(x-none)%", AppendIfExistsOrAdd);
    keep.keep_empty = true;
    let level = level(
        &["x-gone"],
        vec![
            add("x-a", "new", AppendIfExistsOrAdd),
            add("x-ow", "ow", OverwriteIfExistsOrAdd),
            add("x-owe", "owe", OverwriteIfExists),
            add("x-abs", "1", AddIfAbsent),
            add("x-abs", "2", AddIfAbsent),
            add("x-missing", "%REQ(x-none)%", AppendIfExistsOrAdd),
            add("x-missing2", "a%REQ(x-none)%b", AppendIfExistsOrAdd),
            keep,
            add("x-seen", "%REQ(x-ow)%|%REQ(x-a)%|%REQ(x-gone)%", AppendIfExistsOrAdd),
            add("x-len", "%REQ(x-a):2%", AppendIfExistsOrAdd),
            add("x-pc", "100%%", AppendIfExistsOrAdd),
            add("x-code", "%RESPONSE_CODE%", AppendIfExistsOrAdd),
            add("x-flags", "%RESPONSE_FLAGS%", AppendIfExistsOrAdd),
        ],
    );
    let mut head = request(&[
        ("x-gone", "g"),
        ("x-a", "old"),
        ("x-ow", "1"),
        ("x-b", "b"),
        ("x-ow", "2"),
        ("x-owe", "3"),
    ]);
    let want = "x-a: old\nx-b: b\nx-ow: ow\nx-owe: owe\nx-a: new\nx-abs: 1\nx-abs: 2\n\
                x-missing2: ab\nx-keep: \nx-seen: 1|old|\nx-len: ol\nx-pc: 100%\nx-code: 0\n\
                x-flags: -";
    assert_eq!(apply(&mut head, &[level]).join("\n"), want);
}

#[test]
fn model_routes_replace_the_internal_model_and_pipeline_routes_do_not() {
    let add = || vec![add("seldon-internal-model", "m_1", AppendIfExistsOrAdd)];
    let forged = [("seldon-internal-model", "forged")];
    let model = level(&["seldon-internal-model"], add());
    assert_eq!(apply(&mut request(&forged), &[model]), ["seldon-internal-model: m_1"]);
    let pipeline = level(&[], add());
    let want = ["seldon-internal-model: forged", "seldon-internal-model: m_1"];
    assert_eq!(apply(&mut request(&forged), &[pipeline]), want);
}

#[test]
fn levels_apply_one_after_another() {
    let target = level(&[], vec![add("x", "target", AppendIfExistsOrAdd)]);
    let route = level(&["x"], vec![add("x", "route", AppendIfExistsOrAdd)]);
    let host = level(&[], vec![add("x", "host", AddIfAbsent)]);
    let table = level(&[], vec![add("x", "table:%REQ(x)%", OverwriteIfExists)]);
    let got = apply(&mut request(&[]), &[target, route, host, table]);
    assert_eq!(got, ["x: table:route"]);
}

#[test]
fn standard_names_are_joined_each_side_has_its_own() {
    let level = level(
        &[],
        vec![
            add("accept", "z", AppendIfExistsOrAdd),
            add("etag", "z", AppendIfExistsOrAdd),
            add("x-seldon-route", "z", AppendIfExistsOrAdd),
        ],
    );
    let there = [("accept", "u"), ("etag", "u"), ("x-seldon-route", "u")];
    let got = apply(&mut request(&there), std::slice::from_ref(&level));
    let want = ["accept: u,z", "etag: u", "x-seldon-route: u", "etag: z", "x-seldon-route: z"];
    assert_eq!(got, want);

    let mut head = ResponseHead { headers: request(&there).headers, status: 200 };
    apply_response(&mut head, [&level], &LogContext::default(), &mut Vec::new());
    let want = ["accept: u", "etag: u,z", "x-seldon-route: u", "accept: z", "x-seldon-route: z"];
    assert_eq!(lines(&head.headers), want);
}

#[test]
fn joining_with_an_empty_value_adds_no_comma() {
    let mut headers = Headers::default();
    append(&mut headers, Side::Request, b"accept", b"");
    append(&mut headers, Side::Request, b"accept", b"a");
    append(&mut headers, Side::Request, b"accept", b"");
    assert_eq!(lines(&headers), ["accept: a"]);
}

#[test]
fn response_values_see_the_response() {
    let level = level(&[], vec![add("x-copy", "%RESP(x-up)%", AppendIfExistsOrAdd)]);
    let mut head = ResponseHead { headers: request(&[("x-up", "1")]).headers, status: 200 };
    apply_response(&mut head, [&level], &LogContext::default(), &mut Vec::new());
    assert_eq!(lines(&head.headers), ["x-up: 1", "x-copy: 1"]);
}

fn any_action() -> impl Strategy<Value = AppendAction> {
    prop_oneof![
        Just(AppendIfExistsOrAdd),
        Just(AddIfAbsent),
        Just(OverwriteIfExistsOrAdd),
        Just(OverwriteIfExists)
    ]
}

/// The specification on a plain list.
fn naive(
    list: &mut Vec<(String, String)>,
    remove: &[String],
    adds: &[(String, String, AppendAction)],
) {
    list.retain(|(n, _)| !remove.contains(n));
    let before = list.clone();
    let exists = |n: &String| before.iter().any(|(m, _)| m == n);
    for (n, v, _) in adds.iter().filter(|(n, v, a)| {
        !v.is_empty() && (*a == OverwriteIfExistsOrAdd || (*a == OverwriteIfExists && exists(n)))
    }) {
        list.retain(|(m, _)| m != n);
        list.push((n.clone(), v.clone()));
    }
    for (n, v, _) in adds.iter().filter(|(n, v, a)| {
        !v.is_empty() && (*a == AppendIfExistsOrAdd || (*a == AddIfAbsent && !exists(n)))
    }) {
        list.push((n.clone(), v.clone()));
    }
}

proptest! {
    #[test]
    fn any_levels_agree_with_the_list(
        start in prop::collection::vec(("[abc]", "[xy]{0,2}"), 0..5),
        levels in prop::collection::vec(
            (
                prop::collection::vec("[abc]", 0..2),
                prop::collection::vec(("[abc]", "[xy]{0,2}", any_action()), 0..4),
            ),
            0..4,
        ),
    ) {
        let mut want = start.clone();
        let start: Vec<_> = start.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut head = request(&start);
        let compiled: Vec<_> = levels
            .iter()
            .map(|(remove, adds)| {
                let remove: Vec<_> = remove.iter().map(String::as_str).collect();
                level(&remove, adds.iter().map(|(n, v, a)| add(n, v, *a)).collect())
            })
            .collect();
        for (remove, adds) in &levels {
            naive(&mut want, remove, adds);
        }
        let want: Vec<_> = want.into_iter().map(|(n, v)| format!("{n}: {v}")).collect();
        prop_assert_eq!(apply(&mut head, &compiled), want);
    }
}
