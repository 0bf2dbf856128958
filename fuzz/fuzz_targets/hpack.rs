//! Header blocks never panic, and what is read of one can be written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::headers::{HeaderField, HeaderId};
use radiant::http2::hpack::{Decoder, Encoder, TABLE_SIZE};

type Fields = Vec<(Vec<u8>, Vec<u8>, HeaderId)>;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    decoder.decode(block, |f| fields.push((f.name.to_vec(), f.value.to_vec(), f.id))).ok()?;
    Some(fields)
}

fuzz_target!(|blocks: Vec<&[u8]>| {
    let mut decoder = Decoder::new(TABLE_SIZE);
    for block in blocks {
        let Some(fields) = decode(&mut decoder, block) else { return };
        let mut out = Vec::new();
        for (name, value, id) in &fields {
            Encoder::field(&mut out, HeaderField { id: *id, name, value });
        }
        assert_eq!(decode(&mut Decoder::new(0), &out), Some(fields));
    }
});
