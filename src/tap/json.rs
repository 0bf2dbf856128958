//! The file's format: `TraceWrapper` as protobuf's JSON printer writes it with
//! one blank per level and default values printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{TapBody, Trace};
use crate::headers::{Headers, Scheme};

/// The content of a trace's file.
pub(super) fn render(trace: &Trace<'_>) -> Vec<u8> {
    let mut out = String::with_capacity(4096);
    out.push_str("{\n \"http_buffered_trace\": {\n  \"request\": {\n");
    let head = trace.request;
    let scheme: &[u8] = match head.scheme {
        Scheme::Http => b"http",
        Scheme::Https => b"https",
    };
    let pseudo: [(&[u8], &[u8]); 4] = [
        (b":authority", head.authority()),
        (b":path", head.path()),
        (b":method", head.method()),
        (b":scheme", scheme),
    ];
    message(&mut out, &pseudo, &head.headers, trace.request_body, trace.request_trailers);
    out.push_str("  }");
    if let Some(head) = trace.response {
        out.push_str(",\n  \"response\": {\n");
        let status = head.status.to_string();
        let pseudo: [(&[u8], &[u8]); 1] = [(b":status", status.as_bytes())];
        message(&mut out, &pseudo, &head.headers, trace.response_body, trace.response_trailers);
        out.push_str("  }");
    }
    out.push_str("\n }\n}\n");
    out.into_bytes()
}

fn message(
    out: &mut String,
    pseudo: &[(&[u8], &[u8])],
    headers: &Headers,
    body: &TapBody,
    trailers: Option<&Headers>,
) {
    let fields = headers.iter().map(|f| (f.name, f.value));
    list(out, "headers", pseudo.iter().copied().chain(fields));
    out.push_str(",\n");
    if !body.bytes.is_empty() {
        out.push_str("   \"body\": {\n    \"as_bytes\": \"");
        STANDARD.encode_string(&body.bytes, out);
        out.push_str("\",\n    \"truncated\": ");
        out.push_str(if body.truncated { "true" } else { "false" });
        out.push_str("\n   },\n");
    }
    let trailers = trailers.map(Headers::iter).into_iter().flatten();
    list(out, "trailers", trailers.map(|f| (f.name, f.value)));
    out.push('\n');
}

fn list<'a>(out: &mut String, name: &str, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    out.push_str("   \"");
    out.push_str(name);
    out.push_str("\": [");
    let mut any = false;
    for (name, value) in fields {
        out.push_str(if any { ",\n    {\n" } else { "\n    {\n" });
        any = true;
        out.push_str("     \"key\": \"");
        escape(out, name);
        out.push_str("\",\n     \"value\": \"");
        escape(out, value);
        out.push_str("\",\n     \"raw_value\": \"\"\n    }");
    }
    out.push_str(if any { "\n   ]" } else { "]" });
}

/// Appends a string's inside; each byte that is not UTF-8 is `!`.
fn escape(out: &mut String, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if is_escaped(c) => {
                    use std::fmt::Write as _;
                    // Writing into memory cannot fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
}

/// Characters that protobuf's printer escapes for safety: controls, the angle
/// brackets, invisible and direction marks.
fn is_escaped(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '<'
            | '>'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}
