use std::fs;

use super::*;
use crate::headers::{Headers, RequestHead, ResponseHead};
use crate::logic::format::Format;
use crate::model::{LogFilter, LogFilterHeader, StatusOp, StringMatch};

fn log(path: &std::path::Path, format: &str, filter: Option<LogFilter>) -> AccessLog {
    AccessLog {
        sink: AccessLogSink::File(path.to_str().unwrap().to_owned()),
        format: AccessLogFormat::Text(Format::parse(format).unwrap()),
        filter,
    }
}

fn status(status: u16) -> LogContext<'static> {
    LogContext { status, ..LogContext::default() }
}

/// The filter that the scheduler sends.
fn errors_only() -> LogFilter {
    let grpc = |invert| {
        LogFilter::Header(LogFilterHeader {
            name: "content-type".to_owned(),
            value: Some(StringMatch::Prefix {
                value: b"application/grpc"[..].into(),
                ignore_case: true,
            }),
            invert,
        })
    };
    LogFilter::Or(vec![
        LogFilter::And(vec![LogFilter::Status(StatusOp::Ge, 400), grpc(true)]),
        LogFilter::And(vec![LogFilter::GrpcStatus(vec![0], true), grpc(false)]),
    ])
}

#[test]
fn the_default_filter_logs_errors_of_requests_with_a_content_type() {
    for (content_type, status, grpc_status, want) in [
        (Some("application/json"), 404, None, true),
        (Some("application/json"), 399, None, false),
        // An inverted matcher is false when the header is absent.
        (None, 404, None, false),
        (None, 503, None, false),
        (Some("application/grpc"), 200, Some("0"), false),
        (Some("application/grpc"), 200, Some("14"), true),
        (Some("application/grpc"), 200, None, true),
        (Some("application/grpc-web"), 404, None, true),
        (Some("APPLICATION/GRPC"), 404, None, true),
        (Some("application/grpc"), 0, None, true),
    ] {
        let mut request = RequestHead::default();
        if let Some(value) = content_type {
            request.headers.push(b"content-type", value.as_bytes());
        }
        let mut trailers = Headers::default();
        if let Some(value) = grpc_status {
            trailers.push(b"grpc-status", value.as_bytes());
        }
        let response = ResponseHead { status, ..ResponseHead::default() };
        let context = LogContext {
            request: Some(&request),
            response: Some(&response),
            trailers: Some(&trailers),
            status,
            ..LogContext::default()
        };
        assert_eq!(errors_only().passes(&context), want, "{content_type:?} {status}");
    }
    assert!(!errors_only().passes(&status(400)), "no request was parsed");
}

#[test]
fn other_filters() {
    for (op, want) in [
        (StatusOp::Eq, [false, true, false]),
        (StatusOp::Ge, [false, true, true]),
        (StatusOp::Le, [true, true, false]),
        (StatusOp::Ne, [true, false, true]),
    ] {
        let filter = LogFilter::Status(op, 300);
        assert_eq!([299, 300, 301].map(|s| filter.passes(&status(s))), want, "{op:?}");
    }
    let present =
        |invert| LogFilter::Header(LogFilterHeader { name: "x".to_owned(), value: None, invert });
    let mut request = RequestHead::default();
    let context = LogContext { request: Some(&request), ..LogContext::default() };
    assert_eq!([false, true].map(|i| present(i).passes(&context)), [false, true]);
    request.headers.push(b"x", b"");
    let context = LogContext { request: Some(&request), ..LogContext::default() };
    assert_eq!([false, true].map(|i| present(i).passes(&context)), [true, false]);
    assert!(LogFilter::Always.passes(&status(0)));
}

const LIMIT: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn lines_of_all_workers_reach_the_file_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let logs = AccessLogs::start(NEVER).unwrap();
    let config = [log(&path, "%RESPONSE_CODE% line\n", None)];
    std::thread::scope(|scope| {
        for worker in 0..4u16 {
            let (mut log, config) = (logs.worker(), &config);
            scope.spawn(move || {
                for _ in 0..5000 {
                    log.log(config, &status(200 + worker));
                }
            });
        }
    });
    logs.flush(LIMIT);
    let text = fs::read_to_string(&path).unwrap();
    for worker in 0..4 {
        let line = format!("{} line", 200 + worker);
        assert_eq!(text.lines().filter(|l| **l == line).count(), 5000);
    }
    assert_eq!((text.lines().count(), logs.dropped()), (20_000, 0));
}

#[test]
fn filters_choose_per_log_and_json_lines_are_objects() {
    let dir = tempfile::tempdir().unwrap();
    let (text, json) = (dir.path().join("text"), dir.path().join("json"));
    let logs = AccessLogs::start(NEVER).unwrap();
    let field = |name: &str, format: &str| {
        (name.to_owned(), JsonFormat::Text(Format::parse(format).unwrap()))
    };
    let config = [
        log(&text, "%RESPONSE_CODE%\n", Some(LogFilter::Status(StatusOp::Ge, 400))),
        AccessLog {
            sink: AccessLogSink::File(json.to_str().unwrap().to_owned()),
            format: AccessLogFormat::Json(JsonFormat::Object(vec![
                field("code", "%RESPONSE_CODE%"),
                field("q\"", "%PROTOCOL%"),
            ])),
            filter: None,
        },
    ];
    let mut worker = logs.worker();
    worker.log(&config, &status(200));
    worker.log(&config, &status(500));
    logs.flush(LIMIT);
    assert_eq!(fs::read_to_string(&text).unwrap(), "500\n");
    let want = "{\"code\":200,\"q\\\"\":null}\n{\"code\":500,\"q\\\"\":null}\n";
    assert_eq!(fs::read_to_string(&json).unwrap(), want);
}

#[test]
fn a_moved_file_is_left_on_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
    let logs = AccessLogs::start(NEVER).unwrap();
    let config = [log(&path, "%RESPONSE_CODE%\n", None)];
    logs.prepare(&config).unwrap();
    assert!(path.exists());
    let mut worker = logs.worker();
    worker.log(&config, &status(1));
    logs.flush(LIMIT);
    fs::rename(&path, &moved).unwrap();
    worker.log(&config, &status(2));
    logs.flush(LIMIT);
    logs.reopen();
    worker.log(&config, &status(3));
    logs.flush(LIMIT);
    assert_eq!(fs::read_to_string(&moved).unwrap(), "1\n2\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
}

#[test]
fn what_is_buffered_is_written_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let logs = AccessLogs::start(NEVER).unwrap();
    let mut worker = logs.worker();
    worker.log(&[log(&path, "%RESPONSE_CODE%\n", None)], &status(7));
    drop(worker);
    drop(logs);
    assert_eq!(fs::read_to_string(&path).unwrap(), "7\n");
}

#[test]
fn a_sink_that_fails_costs_lines_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing").join("log");
    let logs = AccessLogs::start(NEVER).unwrap();
    let config = [log(&path, "%RESPONSE_CODE%\n", None)];
    let error = logs.prepare(&config).unwrap_err().to_string();
    assert!(error.contains("unable to open file"), "{error}");
    let mut worker = logs.worker();
    worker.log(&config, &status(1));
    worker.log(&config, &status(2));
    logs.flush(LIMIT);
    assert_eq!(logs.dropped(), 2);
}

#[test]
fn a_stuck_writer_costs_lines_not_memory() {
    // No writer at all: nothing empties the buffer.
    let logs = AccessLogs { shared: Arc::default(), native: None, writer: None };
    let format = format!("{}\n", "x".repeat(1023));
    let config = [log(std::path::Path::new("unused"), &format, None)];
    let mut worker = logs.worker();
    for _ in 0..1500 {
        worker.log(&config, &status(200));
    }
    assert_eq!(lock(&worker.buffers[0].1).len(), MAX_PENDING_BYTES);
    assert_eq!(logs.dropped(), 1500 - 1024);
}

#[test]
fn the_native_line_names_model_route_arm_attempts_and_flags() {
    let mut request = RequestHead::default();
    request.set_method(b"POST");
    request.set_path(b"/v2/models/x/infer?q=\"1\"");
    request.set_authority(b"h.example");
    request.headers.push(b"seldon-model", b"iris.experiment");
    request.headers.push(b"user-agent", b"a \"b\" \\ \x01 \xff");
    let mut response = ResponseHead::default();
    response.headers.push(b"x-envoy-upstream-service-time", b"12");
    let context = LogContext {
        request: Some(&request),
        response: Some(&response),
        status: 503,
        flags: "URX,UF",
        details: Some("upstream_reset_before_response_started{connection_termination}"),
        attempts: 6,
        route_name: Some("iris.experiment_http"),
        upstream_cluster: Some("iris_2_http"),
        upstream_host: Some(([10, 0, 0, 1], 9000).into()),
        duration: Some(Duration::from_millis(40)),
        start: std::time::UNIX_EPOCH + Duration::from_millis(1_234),
        ..LogContext::default()
    };
    let mut line = Vec::new();
    native::render(&context, &mut line);
    let text = String::from_utf8(line).unwrap();
    assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{text}");
    assert!(
        text.starts_with(
            "{\"time\":\"1970-01-01T00:00:01.234Z\",\"model\":\"iris.experiment\",\
         \"route\":\"iris.experiment_http\",\"arm\":\"iris_2\",\"cluster\":\"iris_2_http\",\
         \"attempts\":6,\"flags\":[\"URX\",\"UF\"],\"status\":503,\"grpc_status\":null,"
        ),
        "{text}"
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["path"], "/v2/models/x/infer?q=\"1\"");
    assert_eq!(value["user_agent"], "a \"b\" \\ \u{1} \u{fffd}");
    assert_eq!((&value["duration_ms"], &value["upstream_ms"]), (&40.into(), &12.into()));
    assert_eq!(value["upstream"], "10.0.0.1:9000");

    // What never was a request.
    let mut line = Vec::new();
    native::render(&LogContext::default(), &mut line);
    let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(
        (&value["model"], &value["method"], &value["flags"]),
        (&serde_json::Value::Null, &serde_json::Value::Null, &serde_json::json!([]),)
    );
}

#[test]
fn native_lines_go_beside_the_others_and_into_a_new_file_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own.json"), dir.path().join("other.log"));
    let logs = AccessLogs::start(FLUSH_EVERY).unwrap();
    let logs = logs.with_native(AccessLogSink::File(own.display().to_string())).unwrap();
    let mut worker = logs.worker();
    assert!(worker.wants(&[]));
    worker.log(&[log(&other, "%RESPONSE_CODE%\n", None)], &status(200));
    logs.flush(Duration::from_secs(10));
    let moved = dir.path().join("own.1");
    fs::rename(&own, &moved).unwrap();
    worker.log(&[], &status(201));
    logs.flush(Duration::from_secs(10));
    logs.reopen();
    worker.log(&[], &status(202));
    logs.flush(Duration::from_secs(10));
    let statuses = |path: &std::path::Path| -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let status =
            |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].as_u64();
        text.lines().filter_map(status).collect()
    };
    assert_eq!(fs::read_to_string(&other).unwrap(), "200\n");
    assert_eq!((statuses(&moved), statuses(&own)), (vec![200, 201], vec![202]));

    let nowhere = AccessLogSink::File("/nowhere/at/all".to_owned());
    assert!(AccessLogs::start(FLUSH_EVERY).unwrap().with_native(nowhere).is_err());
}
