//! Whatever a client sends, nothing panics, and how its bytes arrive does not
//! matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::http2::{frame, probe};

fuzz_target!(|input: &[u8]| {
    let settings = [0, 0, 0, frame::kind::SETTINGS, 0, 0, 0, 0, 0];
    let input = [frame::PREFACE, &settings, input].concat();
    assert_eq!(probe::server(&input, 7), probe::server(&input, usize::MAX));
});
