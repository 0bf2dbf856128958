//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: within a length, codes rise with the symbol. So the
//! lengths are the whole table, and everything else is computed from them when
//! the program is compiled.

/// Bits of each symbol's code; 256 is the end of a string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const EOS: usize = 256;
const LONGEST: usize = 30;
/// Bits that the first look decides.
const FAST_BITS: u32 = 10;

struct Code {
    /// Symbols by code.
    sorted: [u16; 257],
    /// For each length: the first code of it, and that code's place in `sorted`.
    first: [(u32, u16); LONGEST + 1],
    /// For each length: the codes from here on, flush left in 32 bits, are longer.
    limit: [u64; LONGEST + 1],
    /// Symbol and length of short codes, by their first bits; length 0: longer.
    fast: [(u8, u8); 1 << FAST_BITS],
    /// Code and length of each byte.
    encode: [(u32, u8); 256],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        sorted: [0; 257],
        first: [(0, 0); LONGEST + 1],
        limit: [0; LONGEST + 1],
        fast: [(0, 0); 1 << FAST_BITS],
        encode: [(0, 0); 256],
    };
    let (mut next, mut place, mut length) = (0u32, 0usize, 1usize);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = (next, place as u16);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.sorted[place] = symbol as u16;
                if symbol != EOS {
                    code.encode[symbol] = (next, length as u8);
                    if length as u32 <= FAST_BITS {
                        let spare = FAST_BITS - length as u32;
                        let mut at = (next << spare) as usize;
                        let end = ((next + 1) << spare) as usize;
                        while at < end {
                            code.fast[at] = (symbol as u8, length as u8);
                            at += 1;
                        }
                    }
                }
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        code.limit[length] = (next as u64) << (32 - length);
        length += 1;
    }
    code
}

/// Not Huffman-coded text: wrong padding, or the end-of-string symbol in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHuffman;

/// Appends the decoded text of `input` to `out`.
///
/// # Errors
/// [`BadHuffman`].
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), BadHuffman> {
    out.reserve(input.len() * 2);
    // Undecoded bits, flush left.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut input = input.iter();
    loop {
        while count <= 56 {
            let Some(&byte) = input.next() else { break };
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let (symbol, length) = CODE.fast[(bits >> (64 - FAST_BITS)) as usize];
        let (symbol, length) = match length {
            0 => long(bits)?,
            _ => (symbol, u32::from(length)),
        };
        if length > count {
            // The rest is padding: fewer than eight bits, all ones.
            let ones = count < 8 && bits == !(u64::MAX >> count);
            return if ones { Ok(()) } else { Err(BadHuffman) };
        }
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
}

#[cold]
fn long(bits: u64) -> Result<(u8, u32), BadHuffman> {
    let top = bits >> 32;
    for length in FAST_BITS as usize + 1..=LONGEST {
        if top < CODE.limit[length] {
            let (first, place) = CODE.first[length];
            let offset = (top >> (32 - length)) as usize - first as usize;
            let symbol = CODE.sorted[usize::from(place) + offset];
            let symbol = u8::try_from(symbol).map_err(|_| BadHuffman)?;
            return Ok((symbol, u32::try_from(length).unwrap_or(u32::MAX)));
        }
    }
    Err(BadHuffman)
}

/// Appends the code of `text` to `out`.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u64, 0u32);
    for &byte in text {
        let (code, length) = CODE.encode[usize::from(byte)];
        bits = (bits << length) | u64::from(code);
        count += u32::from(length);
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        let pad = 8 - count;
        out.push(((bits << pad) as u8) | (0xff >> count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, BadHuffman> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text: Vec<u8>) {
            let mut code = Vec::new();
            encode(&text, &mut code);
            prop_assert_eq!(decoded(&code), Ok(text));
        }

        /// Accepted text is coded in one way only.
        #[test]
        fn decoding_is_exact(code: Vec<u8>) {
            if let Ok(text) = decoded(&code) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, code);
            }
        }
    }

    #[test]
    fn the_rfcs_example() {
        let code = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&code), Ok(b"www.example.com".to_vec()));
    }

    #[test]
    fn padding_and_end_of_string_are_checked() {
        assert_eq!(decoded(&[0xff]), Err(BadHuffman));
        assert_eq!(decoded(&[0b0000_0000]), Err(BadHuffman));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(BadHuffman));
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
    }
}
