use proptest::prelude::*;

use super::*;

/// The format string that the scheduler sends.
const SELDON: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
    %PROTOCOL%\" %RESPONSE_CODE% %GRPC_STATUS_NUMBER% %RESPONSE_FLAGS% %BYTES_RECEIVED% \
    %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// 2026-11-22T15:56:03.192910Z, a Sunday: the time of a line seen on Envoy.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_362_963_192_910)
}

fn request(lines: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(b"POST");
    head.set_path(b"/v2/models/iris/infer?x=1");
    head.set_authority(b"h.example");
    for (name, value) in lines {
        head.headers.push(name.as_bytes(), value.as_bytes());
    }
    head
}

fn render(format: &str, context: &LogContext<'_>) -> String {
    let mut out = Vec::new();
    Format::parse(format).unwrap().render(context, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_scheduler_s_line() {
    let request =
        request(&[("user-agent", "k6"), ("x-request-id", "r1"), ("x-forwarded-for", "1")]);
    let mut response = ResponseHead { status: 503, ..ResponseHead::default() };
    response.headers.push(b"x-envoy-upstream-service-time", b"12");
    let context = LogContext {
        request: Some(&request),
        response: Some(&response),
        start: start(),
        protocol: Some("HTTP/1.1"),
        status: 503,
        flags: "URX,UF",
        bytes_received: 10,
        bytes_sent: 20,
        duration: Some(Duration::from_micros(34_999)),
        upstream_host: Some(([10, 0, 0, 1], 9000).into()),
        ..LogContext::default()
    };
    assert_eq!(
        render(SELDON, &context),
        "[2026-11-22T15:56:03.192Z] \"POST /v2/models/iris/infer?x=1 HTTP/1.1\" 503 - URX,UF 10 20 \
         34 12 \"1\" \"k6\" \"r1\" \"h.example\" \"10.0.0.1:9000\"\n"
    );
}

#[test]
fn an_unparsed_request_has_dashes() {
    let context = LogContext {
        start: start(),
        protocol: Some("HTTP/1.1"),
        status: 400,
        flags: "DPE",
        bytes_sent: 11,
        duration: Some(Duration::ZERO),
        ..LogContext::default()
    };
    assert_eq!(
        render(SELDON, &context),
        "[2026-11-22T15:56:03.192Z] \"- - HTTP/1.1\" 400 - DPE 0 11 0 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"
    );
}

#[test]
fn start_time_conversions_are_envoy_s() {
    let context = LogContext { start: start(), ..LogContext::default() };
    for (format, want) in [
        ("%START_TIME%", "2026-11-22T15:56:03.192Z"),
        ("%START_TIME(%s)%", "1795362963"),
        ("%START_TIME(%s.%3f)%", "1795362963.192"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %f %6f)%", "2026/11/22T15:56:03+0000 192910000 192910"),
        (
            "%START_TIME(%c|%x|%X|%r|%D|%F|%T|%R|%e|%p|%j|%u|%w|%G|%g|%V|%h|%Z|%E3S|%Ez|%3s)%",
            "Sun Nov 22 15:56:03 2026|11/22/26|15:56:03|03:56:03 PM|11/22/26|2026-11-22|15:56:03|\
             15:56|22|PM|326|7|0|2026|26|47|Nov|UTC|03.192|+00:00|1795362963",
        ),
        ("%START_TIME(%%)%", "%"),
    ] {
        assert_eq!(render(format, &context), want, "{format}");
    }
}

#[test]
fn headers_lengths_alternatives_and_addresses() {
    let request = request(&[("x-a", "first"), ("x-a", "second"), ("x-empty", "")]);
    let mut trailers = Headers::default();
    trailers.push(b"grpc-message", b"oops");
    let response = ResponseHead { status: 204, ..ResponseHead::default() };
    let context = LogContext {
        request: Some(&request),
        response: Some(&response),
        trailers: Some(&trailers),
        downstream_remote: Some(([10, 1, 2, 3], 4567).into()),
        upstream_host: "[::1]:80".parse().ok(),
        hostname: "pod",
        attempts: 3,
        route_name: Some(""),
        ..LogContext::default()
    };
    for (format, want) in [
        ("%REQ(X-A)%", "first"),
        ("%REQ(x-a):3%", "fir"),
        ("%REQ(x-a):0%", ""),
        ("%REQ(x-no?x-a)%", "first"),
        ("%REQ(x-empty?x-a)%|", "|"),
        ("%REQ(x-no?x-none)%", "-"),
        ("%REQ(host)%", "h.example"),
        ("%REQ(:scheme)%", "http"),
        ("%RESP(:status)%", "204"),
        ("%TRAILER(GRPC-MESSAGE)%", "oops"),
        ("%RESPONSE_CODE%", "0"),
        ("%RESPONSE_FLAGS%", "-"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.1.2.3:4567"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.2.3"),
        ("%DOWNSTREAM_REMOTE_PORT%", "4567"),
        ("%UPSTREAM_HOST%", "[::1]:80"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "::1"),
        ("%HOSTNAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %ROUTE_NAME%", "pod 3 -"),
        ("%ENVIRONMENT(NO_SUCH_VARIABLE_HERE)%", "-"),
        ("100%% %TRACE_ID% %DURATION%", "100% - -"),
    ] {
        assert_eq!(render(format, &context), want, "{format}");
    }
    let mut out = Vec::new();
    Format::parse("a%REQ(x-no)%b").unwrap().render_value(&context, &mut out);
    assert_eq!(out, b"ab");
}

#[test]
fn the_grpc_status_of_an_answer() {
    let grpc = request(&[("content-type", "application/grpc")]);
    let plain = request(&[]);
    let with = |value: Option<&str>| {
        let mut headers = Headers::default();
        if let Some(value) = value {
            headers.push(b"grpc-status", value.as_bytes());
        }
        headers
    };
    let format = "%GRPC_STATUS_NUMBER% %GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)%";
    for (request, trailer, header, status, want) in [
        (&grpc, Some("0"), None, 200, "0 OK OK"),
        (&grpc, Some("5"), Some("0"), 200, "5 NotFound NOT_FOUND"),
        (&grpc, None, Some("14"), 200, "14 Unavailable UNAVAILABLE"),
        (&grpc, None, Some("99"), 200, "99 99 99"),
        (&grpc, None, None, 404, "12 Unimplemented UNIMPLEMENTED"),
        // Seen on Envoy: an answer without a status is an error, even with 200.
        (&grpc, None, None, 200, "2 Unknown UNKNOWN"),
        (&grpc, None, None, 0, "- - -"),
        (&plain, Some("5"), None, 200, "- - -"),
    ] {
        let response = ResponseHead { status, headers: with(header) };
        let trailers = with(trailer);
        let context = LogContext {
            request: Some(request),
            response: Some(&response),
            trailers: Some(&trailers),
            status,
            ..LogContext::default()
        };
        assert_eq!(render(format, &context), want);
    }
}

#[test]
fn json_values_keep_their_type() {
    let request = request(&[("user-agent", "a\"b\u{e9}")]);
    let context = LogContext { request: Some(&request), status: 200, ..LogContext::default() };
    for (format, want) in [
        ("%RESPONSE_CODE%", "200"),
        ("%RESPONSE_DURATION%", "null"),
        ("%GRPC_STATUS%", "null"),
        ("%REQ(user-agent)%", "\"a\\\"b\u{e9}\""),
        ("%REQ(user-agent):1%", "\"a\""),
        ("a%REQ(x-none)%b", "\"a-b\""),
        ("code %RESPONSE_CODE%", "\"code 200\""),
        ("x", "\"x\""),
    ] {
        let mut out = Vec::new();
        Format::parse(format).unwrap().render_json(&context, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), want, "{format}");
    }
}

#[test]
fn plain_text_is_known_as_such() {
    assert_eq!(Format::parse("a%%b").unwrap().plain(), Some(&b"a%b"[..]));
    assert_eq!(Format::parse("").unwrap().plain(), Some(&b""[..]));
    assert_eq!(Format::parse("%PROTOCOL%").unwrap().plain(), None);
}

#[test]
fn errors_name_the_place() {
    for (format, want) in [
        ("ab %", "Incorrect configuration: ab %. Couldn't find valid command at position 3"),
        (
            "%protocol%",
            "Incorrect configuration: %protocol%. Couldn't find valid command at position 0",
        ),
        (
            "x%REQ(a%",
            "Incorrect configuration: x%REQ(a%. Couldn't find valid command at position 1",
        ),
        (
            "%REQ(a):x%",
            "Incorrect configuration: %REQ(a):x%. Couldn't find valid command at position 0",
        ),
        ("é%NOPE%", "Not supported field in StreamInfo: NOPE (at position 2)"),
        (
            "%REQ%",
            "Invalid operator REQ in format string at position 0: a header name is needed, with at \
             most one alternative",
        ),
        (
            "%PROTOCOL(x)%",
            "Invalid operator PROTOCOL in format string at position 0: it takes no argument",
        ),
        (
            "%START_TIME(%Q)%",
            "Invalid operator START_TIME in format string at position 0: unknown time conversion",
        ),
    ] {
        assert_eq!(Format::parse(format).unwrap_err().to_string(), want);
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(format in "[%A-Z_():0-9a?é ]{0,24}") {
        if let Ok(format) = Format::parse(&format) {
            format.render(&LogContext::default(), &mut Vec::new());
        }
    }

    #[test]
    fn text_without_percent_is_itself(text in "[^%]{0,24}") {
        prop_assert_eq!(render(&text, &LogContext::default()), text);
    }
}
