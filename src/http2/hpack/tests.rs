use proptest::prelude::*;

use super::*;
use crate::headers::{HeaderField, HeaderId};

fn list(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.decode(block, |f| fields.push((text(f.name), text(f.value))))?;
    Ok(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// Decodes blocks of one connection, and compares them and the table's size.
fn story(table: usize, blocks: &[(&str, &str, usize)]) {
    let mut decoder = Decoder::new(table);
    for (block, want, size) in blocks {
        let got = list(&mut decoder, &hex(block)).expect("a valid block");
        let got: Vec<String> = got.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(got, want.split(" | ").collect::<Vec<_>>());
        assert_eq!(decoder.table_size(), *size);
    }
}

#[test]
fn rfc7541_c2_single_fields() {
    story(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key: custom-header",
            55,
        )],
    );
    story(4096, &[("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path", 0)]);
    story(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret", 0)]);
    story(4096, &[("82", ":method: GET", 0)]);
}

const REQUESTS: [&str; 3] = [
    ":method: GET | :scheme: http | :path: / | :authority: www.example.com",
    ":method: GET | :scheme: http | :path: / | :authority: www.example.com | cache-control: no-cache",
    ":method: GET | :scheme: https | :path: /index.html | :authority: www.example.com | custom-key: custom-value",
];

#[test]
fn rfc7541_c3_requests() {
    story(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUESTS[0], 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1], 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                REQUESTS[2],
                164,
            ),
        ],
    );
}

#[test]
fn rfc7541_c4_requests_with_huffman() {
    story(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0], 57),
            ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1], 110),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUESTS[2], 164),
        ],
    );
}

const RESPONSES: [&str; 3] = [
    ":status: 302 | cache-control: private | date: Mon, 21 Oct 2013 20:13:21 GMT | location: https://www.example.com",
    ":status: 307 | cache-control: private | date: Mon, 21 Oct 2013 20:13:21 GMT | location: https://www.example.com",
    ":status: 200 | cache-control: private | date: Mon, 21 Oct 2013 20:13:22 GMT | location: https://www.example.com | content-encoding: gzip | set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
];

#[test]
fn rfc7541_c5_responses_that_push_out_entries() {
    story(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
                 6c65 2e63 6f6d",
                RESPONSES[0],
                222,
            ),
            ("4803 3330 37c1 c0bf", RESPONSES[1], 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
                 3d31",
                RESPONSES[2],
                215,
            ),
        ],
    );
}

#[test]
fn rfc7541_c6_responses_with_huffman() {
    story(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                RESPONSES[0],
                222,
            ),
            ("4883 640e ffc1 c0bf", RESPONSES[1], 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                RESPONSES[2],
                215,
            ),
        ],
    );
}

#[test]
fn broken_blocks_are_refused() {
    let broken = ["80", "c0", "ff", "ff ff ff ff ff 7f", "00 05 61", "82 20", "3f e2 1f", "40 81"];
    for block in broken {
        let refused = list(&mut Decoder::new(4096), &hex(block));
        assert_eq!(refused, Err(HpackError), "{block}");
    }
    // A smaller table at the beginning is fine, and back to the whole.
    assert_eq!(list(&mut Decoder::new(4096), &hex("20 3f e1 1f")), Ok(vec![]));
}

#[test]
fn a_smaller_table_of_the_peer_is_acknowledged_once() {
    let mut encoder = Encoder::default();
    encoder.limit(0);
    let mut out = Vec::new();
    encoder.begin(&mut out);
    assert_eq!(out, [0x20]);
    encoder.begin(&mut out);
    assert_eq!(out, [0x20]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            let _ = list(&mut decoder, &block);
        }
        prop_assert!(decoder.table_size() <= 4096);
    }

    #[test]
    fn what_was_encoded_is_decoded(
        status in 100u16..1000,
        path: Vec<u8>,
        fields in prop::collection::vec(("[a-z-]{1,20}|content-type|date|via", any::<Vec<u8>>()), 0..20),
    ) {
        let mut out = Vec::new();
        Encoder::status(&mut out, status);
        Encoder::path(&mut out, &path);
        Encoder::authority(&mut out, &path);
        Encoder::method(&mut out, &path);
        for (name, value) in &fields {
            let id = HeaderId::of(name.as_bytes());
            Encoder::field(&mut out, HeaderField { id, name: name.as_bytes(), value });
        }
        let mut got: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        Decoder::new(4096)
            .decode(&out, |f| got.push((f.name.to_vec(), f.value.to_vec())))
            .expect("a valid block");
        let mut want = vec![
            (b":status".to_vec(), status.to_string().into_bytes()),
            (b":path".to_vec(), path.clone()),
            (b":authority".to_vec(), path.clone()),
            (b":method".to_vec(), path),
        ];
        want.extend(fields.into_iter().map(|(n, v)| (n.into_bytes(), v)));
        prop_assert_eq!(got, want);
    }
}
