//! Whatever an upstream sends, nothing panics, and how its bytes arrive does not
//! matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::http2::{frame, probe};

fuzz_target!(|input: &[u8]| {
    let settings = [0, 0, 0, frame::kind::SETTINGS, 0, 0, 0, 0, 0];
    let input = [&settings, input].concat();
    assert_eq!(probe::client(&input, 7), probe::client(&input, usize::MAX));
});
