//! A request head never panics, does not depend on how its bytes arrive, and
//! what is forwarded of it reads the same way again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::edge;
use radiant::headers::RequestHead;
use radiant::http1::{BodyLength, HeadLimits, Parsed, request, write};

const LIMITS: HeadLimits = HeadLimits { max_bytes: 2048, max_fields: 20, ..HeadLimits::REQUEST };

fuzz_target!(|input: &[u8]| {
    let mut head = RequestHead::default();
    let at_once = request::parse(input, &LIMITS, &mut head);
    let mut parser = request::Parser::default();
    let mut split = parser.parse(&input[..input.len() / 2], &LIMITS, &mut head);
    if split == Ok(Parsed::Partial) {
        split = parser.parse(input, &LIMITS, &mut head);
    }
    assert_eq!(split, at_once);

    let Ok(Parsed::Complete { body, info, .. }) = at_once else {
        return;
    };
    let _ = edge::admit(&head, info.has_host);
    if info.upgrade || info.is_connect {
        return;
    }
    edge::to_upstream(&mut head);
    let mut out = Vec::new();
    write::request(&mut out, &head, body != BodyLength::None);
    let mut again = RequestHead::default();
    match request::parse(&out, &HeadLimits::REQUEST, &mut again) {
        Ok(Parsed::Complete { consumed, .. }) => assert_eq!(consumed, out.len()),
        other => panic!("{other:?}"),
    }
    assert_eq!(again.path(), head.path());
});
