//! Reads the tables beside this file: what the real Envoy did with odd HTTP/1
//! messages, one JSON object a line. Shared by test programs.

use serde_json::Value;

/// The rows of `file`.
pub(crate) fn rows(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/http1/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the table is in the repository");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The name of a row.
pub(crate) fn name(row: &Value) -> String {
    row["name"].as_str().unwrap_or_default().to_owned()
}

/// The input, in the parts in which it was sent.
pub(crate) fn parts(row: &Value) -> Vec<Vec<u8>> {
    match &row["in"] {
        Value::Array(parts) => parts.iter().map(bytes).collect(),
        one => vec![bytes(one)],
    }
}

/// Latin-1 text with `{{c*n}}` for runs.
pub(crate) fn bytes(text: &Value) -> Vec<u8> {
    let chars: Vec<u8> = text
        .as_str()
        .unwrap_or_default()
        .chars()
        .map(|c| u8::try_from(c).expect("latin-1"))
        .collect();
    let mut out = Vec::new();
    let mut rest = &chars[..];
    while let Some((&first, tail)) = rest.split_first() {
        if let Some((byte, count, after)) = run(rest) {
            out.resize(out.len() + count, byte);
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

fn run(text: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&byte, rest) = text.strip_prefix(b"{{")?.split_first()?;
    let rest = rest.strip_prefix(b"*")?;
    let end = rest.windows(2).position(|w| w == b"}}")?;
    let count = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((byte, count, &rest[end + 2..]))
}
