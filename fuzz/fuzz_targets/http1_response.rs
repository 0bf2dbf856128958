//! A response head never panics and does not depend on how its bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::edge;
use radiant::headers::ResponseHead;
use radiant::http1::write::ResponseFraming;
use radiant::http1::{BodyLength, HeadLimits, Parsed, response, write};

const LIMITS: HeadLimits = HeadLimits { max_bytes: 2048, max_fields: 20, ..HeadLimits::RESPONSE };

fuzz_target!(|input: &[u8]| {
    let to_head = input.len() % 2 == 1;
    let mut head = ResponseHead::default();
    let at_once = response::parse(input, &LIMITS, to_head, &mut head);
    let mut parser = response::Parser::default();
    let mut split = parser.parse(&input[..input.len() / 2], &LIMITS, to_head, &mut head);
    if split == Ok(Parsed::Partial) {
        split = parser.parse(input, &LIMITS, to_head, &mut head);
    }
    assert_eq!(split, at_once);

    if let Ok(Parsed::Complete { body, .. }) = at_once {
        edge::from_upstream(&mut head, Some(7));
        edge::to_downstream(&mut head, b"Thu, 01 Jan 1970 00:00:00 GMT");
        let has_body = body != BodyLength::None;
        let framing = ResponseFraming { close: false, to_head, has_body };
        write::response(&mut Vec::new(), &head, framing);
    }
});
