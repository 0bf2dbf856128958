//! Replays what the real Envoy 1.40 answered to odd HTTP/1 messages
//! (`tests/data/http1/`, recorded by `record.py` there) through the codec and
//! the header rules, wired as a connection would wire them.

use radiant::edge;
use radiant::headers::{RequestHead, ResponseHead};
use radiant::http1::body::{BodyDecoder, CHUNK_END, LAST_CHUNK, chunk_head};
use radiant::http1::write::{self, Coding, ResponseFraming};
use radiant::http1::{BodyLength, Detected, HeadLimits, Parsed, detect, request, response};
use radiant::local_reply::{LocalReply, RequestForm, UpstreamError};
use serde_json::Value;
use table::bytes;

#[path = "data/http1/table.rs"]
mod table;

/// What `--refuse-ambiguous-requests` refuses: Envoy takes a message whose joined
/// codings say `chunked`, but not on the last line as received, for body-less,
/// and its body for the next request.
const AMBIGUOUS: [&str; 3] = ["te with cr inside", "te cr inside", "te chunked then empty"];

const DATE: &[u8; 29] = b"Thu, 01 Jan 1970 00:00:00 NOW";

struct Case {
    name: String,
    input: Vec<u8>,
    parts: usize,
    eof: bool,
    to_head: bool,
    out: Vec<u8>,
    closed: bool,
    up: Vec<u8>,
    log: Vec<String>,
}

fn cases(file: &str) -> Vec<Case> {
    table::rows(file).iter().map(case).collect()
}

fn case(row: &Value) -> Case {
    let parts = table::parts(row);
    let list = |key: &str| row[key].as_array().cloned().unwrap_or_default();
    Case {
        name: table::name(row),
        parts: parts.len(),
        input: parts.concat(),
        eof: row["eof"] == true,
        to_head: row["method"] == "HEAD",
        out: bytes(&row["out"]),
        closed: row["closed"] == true,
        up: list("up").iter().flat_map(bytes).collect(),
        log: list("log").iter().filter_map(|l| l.as_str().map(str::to_owned)).collect(),
    }
}

/// What the simulated connections saw.
#[derive(Default)]
struct Outcome {
    out: Vec<u8>,
    closed: bool,
    up: Vec<u8>,
    log: Vec<String>,
    /// A body was refused: how much of it went on before is a matter of timing.
    cut: bool,
}

impl Outcome {
    fn reply(&mut self, reply: &LocalReply, form: RequestForm, routed: bool, close: bool) {
        let mut head = ResponseHead::default();
        reply.begin(form, &mut head);
        if routed {
            head.headers.push(b"x-seldon-route", b":m_1:");
        }
        let body = reply.finish(form, DATE, &mut head);
        let close = close || reply.close;
        let to_head = form.head && reply.follows_request;
        let framing = ResponseFraming { close, to_head, has_body: !body.is_empty() };
        write::response(&mut self.out, &head, framing);
        self.out.extend_from_slice(&body);
        let status = head.status;
        self.log.push(format!("{status} {} {}", reply.flags, reply.details));
        self.closed = close;
    }
}

fn serve_client(input: &[u8], limits: &HeadLimits) -> Outcome {
    let mut o = Outcome::default();
    let mut rest = input;
    let mut parser = request::Parser::default();
    let mut head = RequestHead::default();
    while !o.closed {
        let (consumed, body, info) = match parser.parse(rest, limits, &mut head) {
            Ok(Parsed::Partial) => break,
            Ok(Parsed::Complete { consumed, body, info }) => (consumed, body, info),
            Err(error) => {
                o.reply(&error.reply(), RequestForm::default(), false, true);
                break;
            }
        };
        rest = &rest[consumed..];
        if info.expect_continue {
            o.out.extend_from_slice(write::CONTINUE);
        }
        let form = RequestForm { grpc: edge::wants_grpc_reply(&head), head: info.is_head };
        let close = info.wants_close || body != BodyLength::None;
        if let Err(refusal) = edge::admit(&head, info.has_host) {
            o.reply(&refusal.reply(), form, false, close);
            continue;
        }
        edge::to_upstream(&mut head);
        if !head.path().starts_with(b"/") || !edge::is_routable(&head) {
            o.reply(&LocalReply::no_route(), form, false, close);
            continue;
        }
        if info.upgrade {
            o.reply(&LocalReply::upgrade_refused(), form, true, close);
            continue;
        }
        head.headers.push(b"seldon-internal-model", b"m_1");
        let coding = write::request(&mut o.up, &head, body != BodyLength::None);
        match pass_body(&mut rest, body, coding, &mut o.up) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                o.cut = true;
                o.reply(&error.reply(), form, true, true);
                break;
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let limits = &HeadLimits::RESPONSE;
        serve_upstream(&mut o, limits, answer, false, info.is_head, info.wants_close);
    }
    o
}

/// Copies a body in one chunk; says whether it is complete.
fn pass_body(
    rest: &mut &[u8],
    length: BodyLength,
    coding: Coding,
    out: &mut Vec<u8>,
) -> Result<bool, radiant::http1::ChunkError> {
    let mut decoder = BodyDecoder::new(length, HeadLimits::REQUEST.max_bytes);
    let mut data = Vec::new();
    let done = loop {
        let step = decoder.decode(rest)?;
        data.extend_from_slice(&rest[step.skip..step.skip + step.data]);
        *rest = &rest[step.skip + step.data..];
        if step.done || step.skip + step.data == 0 {
            break step.done;
        }
    };
    write_body(out, &data, coding, done);
    Ok(done)
}

fn write_body(out: &mut Vec<u8>, data: &[u8], coding: Coding, done: bool) {
    if coding == Coding::Plain {
        out.extend_from_slice(data);
        return;
    }
    if !data.is_empty() {
        out.extend_from_slice(chunk_head(data.len()).as_ref());
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
    if done {
        out.extend_from_slice(LAST_CHUNK);
    }
}

fn serve_upstream(
    o: &mut Outcome,
    limits: &HeadLimits,
    input: &[u8],
    eof: bool,
    to_head: bool,
    close: bool,
) {
    let mut rest = input;
    let mut parser = response::Parser::default();
    let mut head = ResponseHead::default();
    let form = RequestForm { grpc: false, head: to_head };
    let body = loop {
        match parser.parse(rest, limits, to_head, &mut head) {
            Ok(Parsed::Complete { consumed, body, info }) => {
                rest = &rest[consumed..];
                if !info.interim {
                    break body;
                }
            }
            Ok(Parsed::Partial) if !eof => return,
            Ok(Parsed::Partial) if !parser.has_begun() => {
                let error = UpstreamError::ConnectionTermination;
                return o.reply(&error.reply(false), form, true, close);
            }
            Ok(Parsed::Partial) | Err(_) => {
                let error = UpstreamError::ProtocolError;
                return o.reply(&error.reply(false), form, true, close);
            }
        }
    };
    edge::from_upstream(&mut head, Some(0));
    head.headers.push(b"x-seldon-route", b":m_1:");
    edge::to_downstream(&mut head, DATE);
    let framing = ResponseFraming { close, to_head, has_body: body != BodyLength::None };
    let coding = write::response(&mut o.out, &head, framing);
    o.closed = close;

    let mut decoder = BodyDecoder::new(body, HeadLimits::RESPONSE.max_bytes);
    let mut data = Vec::new();
    let done = loop {
        match decoder.decode(rest) {
            Ok(step) => {
                data.extend_from_slice(&rest[step.skip..step.skip + step.data]);
                rest = &rest[step.skip + step.data..];
                if step.done || step.skip + step.data == 0 {
                    break step.done;
                }
            }
            Err(_) => {
                o.cut = true;
                o.closed = true;
                return;
            }
        }
    };
    let ended = eof && !done;
    write_body(&mut o.out, &data, coding, done || (ended && decoder.may_end_here()));
    o.closed |= ended && !decoder.may_end_here();
}

/// Bytes with every chunked body in one chunk, so that how bodies were cut does
/// not matter.
fn one_chunk(mut raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") {
        let (head, rest) = raw.split_at(end + 4);
        out.extend_from_slice(head);
        raw = rest;
        let marker: &[u8] = b"\r\ntransfer-encoding: chunked\r\n";
        if head.windows(marker.len()).any(|w| w == marker) {
            let pass = pass_body(&mut raw, BodyLength::Chunked, Coding::Chunked, &mut out);
            pass.expect("what was written is well-formed");
        }
    }
    out.extend_from_slice(raw);
    out
}

fn show(raw: &[u8]) -> String {
    let text: String = raw.iter().map(|&b| b as char).collect();
    text.replace("\r\n", "|").chars().take(400).collect()
}

fn normal(raw: &[u8]) -> Vec<u8> {
    let text: String = raw.iter().map(|&b| b as char).collect();
    let text = text.replace(&*String::from_utf8_lossy(DATE), "NOW");
    text.chars().map(|c| c as u8).collect()
}

fn compare(case: &Case, mut got: Outcome, failures: &mut Vec<String>) {
    got.out = normal(&got.out);
    let mut wrong = Vec::new();
    let (out, want) = (one_chunk(&got.out), one_chunk(&case.out));
    if out != want && !(got.cut && want.starts_with(&out)) {
        wrong.push(format!("out  {}\n want {}", show(&out), show(&want)));
    }
    if got.closed != case.closed {
        wrong.push(format!("closed {} want {}", got.closed, case.closed));
    }
    if !got.cut && one_chunk(&got.up) != one_chunk(&case.up) {
        wrong.push(format!("up   {}\n want {}", show(&got.up), show(&case.up)));
    }
    let local = |l: &&String| {
        !["via_upstream", "remote_disconnect"].iter().any(|end| l.ends_with(end))
            && !l.contains("after_response_started")
    };
    // Envoy names the later of two faults if both arrived in one read.
    let one_fault = |l: &String| l.replace("http1.invalid_characters", "http1.codec_error");
    let want: Vec<String> = case.log.iter().filter(local).map(one_fault).collect();
    if got.log.iter().filter(local).map(one_fault).collect::<Vec<_>>() != want
        && !case.log.iter().any(|l| l.contains("after_response_started"))
    {
        wrong.push(format!("log {:?} want {:?}", got.log, case.log));
    }
    if !wrong.is_empty() {
        failures.push(format!("{} ({})\n {}", case.name, show(&case.input), wrong.join("\n ")));
    }
}

#[test]
fn requests_are_answered_as_by_envoy() {
    let cases = cases("requests.jsonl");
    assert!(cases.len() > 900);
    let mut failures = Vec::new();
    for case in &cases {
        if detect(&case.input) == Detected::Http2 {
            assert!(case.out.is_empty() && case.closed, "{}", case.name);
            continue;
        }
        compare(case, serve_client(&case.input, &HeadLimits::REQUEST), &mut failures);
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn responses_are_passed_on_as_by_envoy() {
    let cases = cases("responses.jsonl");
    assert!(cases.len() > 350);
    let mut failures = Vec::new();
    for case in &cases {
        let mut got = Outcome::default();
        let limits = &HeadLimits::RESPONSE;
        serve_upstream(&mut got, limits, &case.input, case.eof, case.to_head, false);
        compare(case, got, &mut failures);
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn ambiguous_codings_are_refused_if_that_is_wanted() {
    let strict = |limits| HeadLimits { refuse_ambiguous: true, ..limits };
    for case in cases("requests.jsonl").iter().filter(|c| AMBIGUOUS.contains(&c.name.as_str())) {
        let got = serve_client(&case.input, &strict(HeadLimits::REQUEST));
        assert!(got.out.starts_with(b"HTTP/1.1 501 ") && got.closed, "{}", case.name);
        assert!(got.up.is_empty());
    }
    for case in cases("responses.jsonl").iter().filter(|c| AMBIGUOUS.contains(&c.name.as_str())) {
        let mut got = Outcome::default();
        let limits = &strict(HeadLimits::RESPONSE);
        serve_upstream(&mut got, limits, &case.input, case.eof, false, false);
        assert!(got.out.starts_with(b"HTTP/1.1 502 "), "{}", case.name);
    }
}

/// However the bytes arrive, the answer is the same.
#[test]
fn splits_do_not_matter() {
    for case in cases("requests.jsonl") {
        let mut whole = RequestHead::default();
        let at_once = request::parse(&case.input, &HeadLimits::REQUEST, &mut whole);
        let mut parser = request::Parser::default();
        let mut head = RequestHead::default();
        let step = if case.input.len() > 2000 { 997 } else { 1 };
        let mut end = 0;
        let piecewise = loop {
            end = (end + step).min(case.input.len());
            let got = parser.parse(&case.input[..end], &HeadLimits::REQUEST, &mut head);
            if end == case.input.len() || got != Ok(Parsed::Partial) {
                break got;
            }
        };
        assert_eq!(piecewise, at_once, "{} in {} parts", case.name, case.parts);
        if matches!(at_once, Ok(Parsed::Complete { .. })) {
            assert_eq!(head.path(), whole.path(), "{}", case.name);
            assert_eq!(head.authority(), whole.authority(), "{}", case.name);
            assert!(head.headers.iter().eq(whole.headers.iter()), "{}", case.name);
        }
    }
}
