//! Requests that two parsers may cut at different places: every way of
//! obscuring a length, with a second request in what one of them takes for the
//! body.

use super::Message;
use crate::recorder::Answer;

/// Header lines that name a length or a coding in odd ways.
const LENGTHS: [&str; 44] = [
    "content-length: 5",
    "content-length: +5",
    "content-length: -5",
    "content-length: 05",
    "content-length: 5 ",
    "content-length:\t5",
    "content-length: 0x5",
    "content-length: 5,5",
    "content-length: 5, 6",
    "content-length: 5;",
    "content-length: 5.0",
    "content-length: 5e0",
    "content-length: \"5\"",
    "content-length:",
    "content-length: 5\r\n 0",
    "content-length: 18446744073709551621",
    "content-length : 5",
    " content-length: 5",
    "content_length: 5",
    "content-length\x00: 5",
    "content-length: 5\r\ncontent-length: 5",
    "content-length: 5\r\ncontent-length: 0",
    "content-length: 0\r\ncontent-length: 5",
    "content-length: 5\r\nContent-Length: 6",
    "content-length: 5\nx: y",
    "content-length: 5\rx: y",
    "x: y\rcontent-length: 5",
    "x: y\ncontent-length: 5",
    "transfer-encoding: chunked\r\ncontent-length: 5",
    "content-length: 5\r\ntransfer-encoding: chunked",
    "content-length: 5\r\ntransfer-encoding: identity",
    "content-length: 5\r\ntransfer-encoding:",
    "content-length: 5\r\ntransfer-encoding: x",
    "content-length: 5\r\ntransfer_encoding: chunked",
    "content-length: 5\r\ntransfer-encoding : chunked",
    "content-length: 5\r\n transfer-encoding: chunked",
    "content-length: 5\r\nx: y\r\n\ttransfer-encoding: chunked",
    "content-length: 5\nTransfer-Encoding: chunked",
    "content-length: 5\rTransfer-Encoding: chunked",
    "content-length: 5\r\n\x00transfer-encoding: chunked",
    "content-length: 5\r\ntransfer-encoding\x0b: chunked",
    "content-length: 5\r\nconnection: content-length",
    "transfer-encoding: chunked\r\nconnection: transfer-encoding",
    "connection: close, content-length\r\ncontent-length: 5",
];

/// The ways to write `chunked`.
const CODINGS: [&str; 28] = [
    "chunked",
    "Chunked",
    "CHUNKED",
    " chunked",
    "chunked ",
    "\tchunked",
    "chunked\t",
    "chunked,",
    ",chunked",
    "chunked, chunked",
    "chunked,identity",
    "identity, chunked",
    "identity",
    "gzip, chunked",
    "chunked, gzip",
    "chunked;q=1",
    "\"chunked\"",
    "'chunked'",
    "xchunked",
    "chunkedx",
    "chunk",
    "chunked\x0b",
    "\x0cchunked",
    "ch\u{75}nked\x00",
    "chunked\r\n x",
    "\r\n chunked",
    "cow\r\ntransfer-encoding: chunked",
    "chunked\r\ntransfer-encoding: cow",
];

/// Chunked bodies that end at different places for different parsers.
const CHUNKS: [&str; 40] = [
    "0\r\n\r\n",
    "00\r\n\r\n",
    "0;a=b\r\n\r\n",
    "0 \r\n\r\n",
    " 0\r\n\r\n",
    "0\n\n",
    "0\n\r\n",
    "0\r\n\n",
    "0\r\n\r",
    "0\r\r\n\r\n",
    "+0\r\n\r\n",
    "-0\r\n\r\n",
    "0x0\r\n\r\n",
    "\r\n0\r\n\r\n",
    "1\r\na\r\n0\r\n\r\n",
    "1\na\n0\n\n",
    "1\r\na0\r\n\r\n",
    "1\r\nab\r\n0\r\n\r\n",
    "2\r\na\r\n0\r\n\r\n",
    "1 \r\na\r\n0\r\n\r\n",
    "1\t\r\na\r\n0\r\n\r\n",
    "1;\r\na\r\n0\r\n\r\n",
    "1;x=\"\r\n\"\r\na\r\n0\r\n\r\n",
    "1;x\ny\r\na\r\n0\r\n\r\n",
    "1;x\ry\r\na\r\n0\r\n\r\n",
    "1;\x00\r\na\r\n0\r\n\r\n",
    "1,\r\na\r\n0\r\n\r\n",
    "g\r\na\r\n0\r\n\r\n",
    "1g\r\na\r\n0\r\n\r\n",
    "0000000000000001\r\na\r\n0\r\n\r\n",
    "00000000000000001\r\na\r\n0\r\n\r\n",
    "10000000000000001\r\na\r\n0\r\n\r\n",
    "ffffffffffffffff\r\na\r\n0\r\n\r\n",
    "fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "\u{663}\r\nabc\r\n0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "0\r\ncontent-length: 9\r\n\r\n",
    "0\r\nx : y\r\n\r\n",
    "0\r\n x\r\n\r\n",
    "0\r\nx\r\n\r\n",
];

/// The request that nobody sent.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";

pub fn messages() -> Vec<Message> {
    let mut messages = Vec::new();
    let mut add = |kind: &str, what: &str, raw: String| {
        let name = format!("corpus/smuggling/{kind} {}", what.escape_debug());
        // The tables are Latin-1 but for one digit.
        let parts = vec![raw.into_bytes()];
        messages.push(Message { name, parts, answer: Answer::ok(), to_head: false });
    };
    for length in LENGTHS {
        for (method, body) in [("POST", "0\r\n\r\n"), ("POST", "abcde"), ("GET", "abcde")] {
            let kind = format!("length, {method} {}", body.escape_debug());
            let head = format!("{method} /a HTTP/1.1\r\nhost: h\r\n{length}\r\n\r\n");
            add(&kind, length, format!("{head}{body}{SECOND}"));
        }
    }
    for coding in CODINGS {
        let head = format!("POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding:{coding}\r\n");
        add("coding", coding, format!("{head}\r\n0\r\n\r\n{SECOND}"));
        add(
            "coding and length",
            coding,
            format!("{head}content-length: 5\r\n\r\n0\r\n\r\n{SECOND}"),
        );
    }
    for chunks in CHUNKS {
        let head = "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
        add("chunks", chunks, format!("{head}{chunks}{SECOND}"));
    }
    messages
}
