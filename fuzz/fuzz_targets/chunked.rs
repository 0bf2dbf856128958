//! A chunked body never panics and does not depend on how its bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::http1::ChunkError;
use radiant::http1::body::ChunkedDecoder;

fn decode(input: &[u8], step: usize) -> (Vec<u8>, Result<Option<usize>, ChunkError>) {
    let mut decoder = ChunkedDecoder::new(200);
    let mut data = Vec::new();
    let mut at = 0;
    let mut end = 0;
    loop {
        end = (end + step).clamp(at, input.len());
        loop {
            match decoder.decode(&input[at..end]) {
                Err(error) => return (data, Err(error)),
                Ok(part) => {
                    data.extend_from_slice(&input[at + part.skip..at + part.skip + part.data]);
                    at += part.skip + part.data;
                    if part.done {
                        return (data, Ok(Some(at)));
                    }
                    if part.skip + part.data == 0 {
                        break;
                    }
                }
            }
        }
        if end == input.len() {
            return (data, Ok(None));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    assert_eq!(decode(input, 1), decode(input, input.len().max(1)));
});
