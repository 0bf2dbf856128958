use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::connection::Accepted;
use super::frame::{self, FrameHead, HEAD_LEN, PREFACE, flag, kind};
use super::hpack::Encoder;
use super::probe::{self, Outcome};
use super::*;
use crate::headers::{HeaderField, HeaderId, RequestHead, ResponseHead};

const USUAL: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "h")];

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        Encoder::field(&mut out, HeaderField { id: HeaderId::Other, name, value });
    }
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, kind, flags, stream, payload);
    out
}

fn get(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block(&USUAL))
}

/// A client's first bytes, and these frames.
fn hello(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(kind::SETTINGS, 0, 0, &[]), &frames.concat()].concat()
}

/// Frames of an output: kind, flags, stream, payload.
fn frames(mut output: &[u8]) -> Vec<(FrameHead, &[u8])> {
    let mut all = Vec::new();
    while let Some(head) = FrameHead::parse(output) {
        all.push((head, &output[HEAD_LEN..HEAD_LEN + head.len]));
        output = &output[HEAD_LEN + head.len..];
    }
    assert!(output.is_empty(), "half a frame");
    all
}

fn goaway(outcome: &Outcome) -> Option<(u32, u32, String)> {
    let all = frames(&outcome.output);
    let (_, payload) = all.iter().find(|(head, _)| head.kind == kind::GOAWAY)?;
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four"));
    Some((number(0), number(4), String::from_utf8_lossy(&payload[8..]).into_owned()))
}

/// What the real Envoy 1.40 does with each: a connection closed without any
/// frame, not even SETTINGS.
#[test]
fn violations_that_close_the_connection_without_a_word() {
    let headers = |fields: &[(&str, &str)]| {
        frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(fields))
    };
    let open = || get(1, 0);
    let setting = |id: u16, value: u32| {
        frame(kind::SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
    };
    let number = |n: u32| n.to_be_bytes();
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("no authority", vec![headers(&USUAL[..3])]),
        ("upper case", vec![headers(&[&USUAL[..], &[("X-A", "b")]].concat())]),
        ("even stream", vec![get(2, flag::END_STREAM)]),
        ("window of 2^31", vec![setting(4, 1 << 31)]),
        ("frame size", vec![setting(5, 100)]),
        ("push", vec![frame(kind::PUSH_PROMISE, 4, 1, &number(2))]),
        ("no increment", vec![frame(kind::WINDOW_UPDATE, 0, 0, &number(0))]),
        ("overflow", vec![frame(kind::WINDOW_UPDATE, 0, 0, &number(0x7fff_ffff))]),
        ("update of an idle stream", vec![frame(kind::WINDOW_UPDATE, 0, 1, &number(1))]),
        ("no increment of a stream", vec![open(), frame(kind::WINDOW_UPDATE, 0, 1, &number(0))]),
        (
            "overflow of a stream",
            vec![open(), frame(kind::WINDOW_UPDATE, 0, 1, &number(0x7fff_ffff))],
        ),
        ("reset of an idle stream", vec![frame(kind::RST_STREAM, 0, 1, &number(1))]),
        ("reset of stream 0", vec![frame(kind::RST_STREAM, 0, 0, &number(1))]),
        ("headers after the end", vec![get(1, flag::END_STREAM), get(1, flag::END_STREAM)]),
        (
            "trailers that end nothing",
            vec![open(), frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&[("a", "b")]))],
        ),
        ("pseudo-header in trailers", vec![open(), headers(&[(":path", "b")])]),
        ("upper case in trailers", vec![open(), headers(&[("A", "b")])]),
        (
            "depends on itself",
            vec![frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM | flag::PRIORITY,
                1,
                &[&[0, 0, 0, 1, 0], &block(&USUAL)[..]].concat(),
            )],
        ),
        ("two empty frames", vec![open(), frame(0, 0, 1, &[]), frame(0, 0, 1, &[])]),
        ("length and no body", vec![headers(&[&USUAL[..], &[("content-length", "5")]].concat())]),
        ("a thousand settings", vec![frame(kind::SETTINGS, 0, 0, &[]); 1500]),
    ];
    for (name, frames) in cases {
        let outcome = probe::server(&hello(&frames), usize::MAX);
        assert!(outcome.output.is_empty(), "{name}: {outcome:?}");
        let error = outcome.events.last().expect("an error");
        assert!(error.starts_with("Silent"), "{name}: {outcome:?}");
    }
    assert!(probe::server(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 7).output.is_empty());
}

/// What the real Envoy 1.40 does with each: SETTINGS and GOAWAY, with these
/// words.
#[test]
fn violations_that_are_told() {
    let cases: Vec<(Vec<Vec<u8>>, u32, u32, &str)> = vec![
        (vec![frame(kind::DATA, 0, 0, b"x")], 0, 1, "DATA: stream_id == 0"),
        (vec![frame(kind::DATA, 0, 1, b"x")], 0, 1, "DATA: stream in idle"),
        (vec![frame(kind::DATA, 0, 1, &[0; 16_385])], 0, 6, "too large frame size"),
        (vec![frame(kind::HEADERS, 5, 1, &[0xff; 5])], 1, 9, ""),
        (vec![frame(kind::HEADERS, 5, 1, &[0x80])], 1, 9, ""),
        (vec![frame(kind::PING, 0, 0, b"xxx")], 0, 6, ""),
        (vec![frame(kind::SETTINGS, 0, 0, b"xxx")], 0, 6, ""),
        (vec![frame(kind::SETTINGS, 1, 0, b"xxxxxx")], 0, 6, ""),
        (vec![frame(kind::PRIORITY, 0, 1, b"xxx")], 0, 6, ""),
        (vec![frame(kind::CONTINUATION, 4, 1, b"")], 0, 1, "CONTINUATION: unexpected"),
        (
            vec![get(1, flag::END_STREAM), frame(kind::DATA, 0, 1, b"x")],
            1,
            5,
            "DATA: stream in half-closed(remote)",
        ),
        (
            vec![frame(kind::HEADERS, 0xd, 1, &[&[0xff], &block(&USUAL)[..]].concat())],
            0,
            1,
            "HEADERS: invalid padding",
        ),
    ];
    for (input, last, code, why) in cases {
        let outcome = probe::server(&hello(&input), usize::MAX);
        assert_eq!(goaway(&outcome), Some((last, code, why.to_owned())), "{why}");
        let kinds: Vec<u8> = frames(&outcome.output).iter().map(|(head, _)| head.kind).collect();
        assert_eq!(kinds, [kind::SETTINGS, kind::GOAWAY], "{why}");
    }
    let outcome = probe::server(&[PREFACE, &frame(kind::PING, 0, 0, &[0; 8])].concat(), 1);
    assert_eq!(goaway(&outcome), Some((0, 1, "SETTINGS expected".to_owned())));
}

#[test]
fn a_body_that_is_not_as_long_as_declared_resets_its_stream_only() {
    for body in [&b"x"[..], b"xxxx"] {
        let fields = [&USUAL[..], &[("content-length", "2")]].concat();
        let input = hello(&[
            frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields)),
            frame(kind::DATA, flag::END_STREAM, 1, body),
            frame(kind::PING, 0, 0, b"question"),
        ]);
        let outcome = probe::server(&input, usize::MAX);
        let all = frames(&outcome.output);
        let reset = all.iter().find(|(head, _)| head.kind == kind::RST_STREAM).expect("a reset");
        assert_eq!((reset.0.stream, reset.1), (1, &[0, 0, 0, 1][..]));
        assert!(all.iter().any(|(head, _)| head.kind == kind::PING && head.flags == flag::ACK));
    }
}

#[test]
fn header_lists_over_a_limit_reset_their_stream_only() {
    let many: Vec<(&str, &str)> = [&USUAL[..], &[("x-a", "b"); 20]].concat();
    let input = hello(&[
        frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(&many)),
        get(3, flag::END_STREAM),
    ]);
    let outcome = probe::server(&input, usize::MAX);
    let all = frames(&outcome.output);
    let reset = all.iter().find(|(head, _)| head.kind == kind::RST_STREAM).expect("a reset");
    assert_eq!((reset.0.stream, reset.1), (1, &[0, 0, 0, 2][..]));
    assert_eq!(outcome.events[0], "TooLarge");
    assert_eq!(outcome.events[1], "request true");
}

#[test]
fn streams_over_the_limit_are_refused() {
    let requests: Vec<Vec<u8>> = (0..1030).map(|n| get(2 * n + 1, 0)).collect();
    let outcome = probe::server(&hello(&requests), usize::MAX);
    let refused: Vec<u32> = frames(&outcome.output)
        .iter()
        .filter(|(head, payload)| head.kind == kind::RST_STREAM && payload == &[0, 0, 0, 7])
        .map(|(head, _)| head.stream)
        .collect();
    assert_eq!(refused, [2049, 2051, 2053, 2055, 2057, 2059]);
}

#[test]
fn a_flood_of_resets_ends_the_connection() {
    let pair = |n: u32| [get(2 * n + 1, 0), frame(kind::RST_STREAM, 0, 2 * n + 1, &[0; 4])];
    let flood = |pairs: u32| {
        let all: Vec<Vec<u8>> = (0..pairs).flat_map(pair).collect();
        probe::server(&hello(&all), usize::MAX).events.last().cloned().unwrap_or_default()
    };
    assert!(flood(250).contains("premature"), "{}", flood(250));
    assert!(!flood(200).contains("premature"));
}

#[test]
fn long_header_blocks_go_on_in_continuations() {
    let head = {
        let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
        head.headers.push(b"x-long", &[b'a'; 40_000]);
        head
    };
    let (mut down, mut up) = pair();
    let request = RequestHead::clone(&usual());
    let stream = StreamHandle::open(&up, &request, true).expect("open");
    exchange(&mut up, &mut down);
    let served = accept(&down).expect("a request");
    served.send_response(&head, true);
    exchange(&mut up, &mut down);
    let mut got = ResponseHead::default();
    let cx = Context::from_waker(Waker::noop());
    assert_eq!(stream.poll_head(&cx, &mut got), Poll::Ready(Ok(Some(true))));
    assert_eq!(got.headers.first_named(b"x-long").map(<[u8]>::len), Some(40_000));
}

fn usual() -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"POST");
    head.set_path(b"/x");
    head.set_authority(b"h");
    head
}

fn pair() -> (Shared, Shared) {
    let limits = ListLimits { fields: 100, bytes: 61_440 };
    let new = |role| Rc::new(RefCell::new(Connection::new(role, limits, Instant::now())));
    (new(Role::Server), new(Role::Client))
}

/// Moves bytes between two ends until both are quiet.
fn exchange(a: &mut Shared, b: &mut Shared) {
    loop {
        let mut moved = false;
        for (from, to) in [(&*a, &*b), (&*b, &*a)] {
            let bytes = from.borrow_mut().out.take_all();
            from.borrow_mut().flushed();
            moved |= !bytes.is_empty();
            let mut input = BytesMut::from(&bytes[..]);
            let mut to = to.borrow_mut();
            to.receive(&mut input).expect("valid frames");
            assert!(input.is_empty());
            to.batch_end();
            from.borrow_mut().pump();
        }
        if !moved {
            return;
        }
    }
}

fn accept(server: &Shared) -> Option<StreamHandle> {
    let accepted = server.borrow_mut().accept();
    match accepted {
        Some(Accepted::Request { key, .. }) => Some(StreamHandle::new(server, key)),
        _ => None,
    }
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

/// Frames that make sense now and then.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(block(&USUAL)),
        Just(block(&[("grpc-status", "0")])),
        Just(vec![0x88]),
        any::<u32>().prop_map(|n| n.to_be_bytes().to_vec()),
        Just(vec![0; 8]),
    ];
    (0u8..11, any::<u8>(), 0u32..8, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags & 0x2d, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However the bytes are cut, the same happens.
    #[test]
    fn cuts_do_not_matter(
        frames in prop::collection::vec(any_frame(), 0..12),
        step in 1usize..60,
    ) {
        let input = hello(&frames);
        prop_assert_eq!(probe::server(&input, step), probe::server(&input, usize::MAX));
        let input = [frame(kind::SETTINGS, 0, 0, &[]), frames.concat()].concat();
        prop_assert_eq!(probe::client(&input, step), probe::client(&input, usize::MAX));
    }

    /// Two ends with small windows, many streams and bodies both ways: every byte
    /// arrives, in order, and the windows are back where they were.
    #[test]
    fn bodies_arrive_whole(
        // A round a window: the rounds below are enough for these.
        window in 16u32..70_000,
        bodies in prop::collection::vec((0usize..60_000, 0usize..60_000, 1usize..20_000), 1..6),
        greedy in any::<bool>(),
    ) {
        let (mut down, mut up) = pair();
        exchange(&mut up, &mut down);
        for end in [&down, &up] {
            // A small window of the peer's, whatever it announced.
            let payload = [&4u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
            let mut input = BytesMut::from(&frame(kind::SETTINGS, 0, 0, &payload)[..]);
            end.borrow_mut().receive(&mut input).expect("valid");
        }
        let cx = Context::from_waker(Waker::noop());
        let head = usual();
        let mut streams = Vec::new();
        for (index, (sent, answered, step)) in bodies.iter().copied().enumerate() {
            let client = StreamHandle::open(&up, &head, false).expect("open");
            exchange(&mut up, &mut down);
            let server = accept(&down).expect("a request");
            server.send_response(&ResponseHead { status: 200, ..Default::default() }, false);
            let send = |handle: &StreamHandle, body: &[u8]| {
                for piece in body.chunks(step) {
                    handle.send_data(Bytes::copy_from_slice(piece));
                }
                handle.finish(None);
                let _ = handle.poll_flush(&cx);
            };
            let bodies = [pattern(index, sent), pattern(index + 1, answered)];
            send(&client, &bodies[0]);
            send(&server, &bodies[1]);
            streams.push(([server, client], bodies, [Vec::new(), Vec::new()], [false, false]));
        }
        for _ in 0..10_000 {
            exchange(&mut up, &mut down);
            for (handles, _, got, ended) in &mut streams {
                for end in 0..2 {
                    while let Poll::Ready(next) = handles[end].poll_data(&cx) {
                        let Some(data) = next else { ended[end] = true; break };
                        let data = data.expect("no early end");
                        got[end].extend_from_slice(&data);
                        // The window as small as it was: give it back by hand.
                        let peer = if end == 0 { &up } else { &down };
                        give_back(peer, &handles[end], data.len());
                        if !greedy { break }
                    }
                    let _ = handles[end].poll_flush(&cx);
                }
            }
            if streams.iter().all(|(.., ended)| ended[0] && ended[1]) { break }
        }
        for (_, bodies, got, ended) in &streams {
            prop_assert_eq!(*ended, [true, true]);
            prop_assert_eq!(got, bodies);
        }
        prop_assert_eq!(down.borrow().open_streams() + up.borrow().open_streams(), 0);
    }
}

/// A WINDOW_UPDATE for a stream to its sender.
fn give_back(sender: &Shared, receiver: &StreamHandle, bytes: usize) {
    let by = u32::try_from(bytes).expect("small").to_be_bytes();
    let update = frame(kind::WINDOW_UPDATE, 0, receiver.id(), &by);
    let mut sender = sender.borrow_mut();
    sender.receive(&mut BytesMut::from(&update[..])).expect("valid");
    sender.pump();
}

#[test]
fn large_and_small_streams_take_turns() {
    let (mut down, mut up) = pair();
    exchange(&mut up, &mut down);
    let handles: Vec<_> =
        (0..3).map(|_| StreamHandle::open(&up, &usual(), false).expect("open")).collect();
    let cx = Context::from_waker(Waker::noop());
    for handle in &handles {
        handle.send_data(Bytes::from(vec![b'x'; 1 << 20]));
        let _ = handle.poll_flush(&cx);
    }
    let mut sent = [0usize; 6];
    for _ in 0..4 {
        let bytes = up.borrow_mut().out.take_all();
        up.borrow_mut().pump();
        for (head, payload) in frames(&bytes) {
            if head.kind == kind::DATA {
                sent[head.stream as usize] += payload.len();
            }
        }
    }
    let (one, two, three) = (sent[1], sent[3], sent[5]);
    assert!(two.abs_diff(three) <= 16_384 && one <= two + (256 << 10) + 16_384, "{sent:?}");
    assert!(two > 100_000, "{sent:?}");
}

#[test]
fn a_goaway_refuses_later_streams_only() {
    let (mut down, mut up) = pair();
    let early = StreamHandle::open(&up, &usual(), false).expect("open");
    exchange(&mut up, &mut down);
    let served = accept(&down).expect("a request");
    down.borrow_mut().go_away_now();
    let late = StreamHandle::open(&up, &usual(), true).expect("open");
    exchange(&mut up, &mut down);
    let cx = Context::from_waker(Waker::noop());
    assert_eq!(late.poll_ended(&cx), Poll::Ready(Ended::Refused));
    assert!(early.poll_ended(&cx).is_pending());
    assert!(accept(&down).is_none());
    assert!(StreamHandle::open(&up, &usual(), true).is_err());
    served.send_response(&ResponseHead { status: 204, ..Default::default() }, true);
    exchange(&mut up, &mut down);
    let mut head = ResponseHead::default();
    assert_eq!(early.poll_head(&cx, &mut head), Poll::Ready(Ok(Some(true))));
}

#[test]
fn nothing_follows_a_head_that_is_all() {
    let (mut down, mut up) = pair();
    let client = StreamHandle::open(&up, &usual(), false).expect("open");
    exchange(&mut up, &mut down);
    let server = accept(&down).expect("a request");
    server.send_response(&ResponseHead { status: 204, ..Default::default() }, true);
    let cx = Context::from_waker(Waker::noop());
    server.send_data(Bytes::from_static(b"x"));
    server.finish(None);
    assert_eq!(server.poll_flush(&cx), Poll::Ready(Ok(())));
    let bytes = down.borrow_mut().out.take_all();
    let kinds: Vec<u8> = frames(&bytes).iter().map(|(head, _)| head.kind).collect();
    assert_eq!(kinds, [kind::HEADERS]);
    drop(client);
}
