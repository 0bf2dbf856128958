//! F25: the formats that people put into access logs, text and JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::route::v3::route;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use envoy_types::util::pack_any;
use radiant::seldon::Mesh;

use super::extra::{eventually, listener, open_listener, remove_listener};
use super::{Case, case};
use crate::client::Client;
use crate::http2::{self, Act};
use crate::oracle::edit_manager;
use crate::probe::{Probe, model, set_cluster};
use crate::upstream::ok;

/// Operators whose values are the same in every run, by a name each.
const STEADY: &[(&str, &str)] = &[
    ("method", "%REQ(:METHOD)%"),
    ("alternative", "%REQ(X-MISSING?:PATH)%"),
    ("cut", "%REQ(USER-AGENT):5%"),
    ("agent", "%REQ(USER-AGENT)%"),
    ("missing", "%REQ(X-MISSING)%"),
    ("protocol", "%PROTOCOL%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("long flags", "%RESPONSE_FLAGS_LONG%"),
    ("received", "%BYTES_RECEIVED%"),
    ("sent", "%BYTES_SENT%"),
    ("route", "%ROUTE_NAME%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("host", "%UPSTREAM_HOST%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("grpc", "%GRPC_STATUS%"),
    ("grpc number", "%GRPC_STATUS(NUMBER)%"),
    ("grpc snake", "%GRPC_STATUS(SNAKE_STRING)%"),
    ("status", "%RESP(:STATUS)%"),
    ("server", "%RESP(SERVER)%"),
    ("trailer", "%TRAILER(X-T)%"),
    ("local port", "%DOWNSTREAM_LOCAL_PORT%"),
    ("local", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("virtual cluster", "%VIRTUAL_CLUSTER_NAME%"),
    ("server name", "%REQUESTED_SERVER_NAME%"),
    ("tls", "%DOWNSTREAM_TLS_VERSION%"),
    ("trace", "%TRACE_ID%"),
    ("percent", "100%%"),
    ("mixed", "%REQ(:METHOD)%-%RESPONSE_CODE%"),
    ("constant", "a \"b\" \\ c"),
];

/// One header or else another, cut or not.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("first", "%REQ(X-ONE?X-TWO)%"),
    ("second", "%REQ(X-NONE?X-TWO)%"),
    ("neither", "%REQ(X-NONE?X-NOBODY)%"),
    ("first cut", "%REQ(X-ONE?X-TWO):4%"),
    ("second cut", "%REQ(X-NONE?X-TWO):4%"),
    ("neither cut", "%REQ(X-NONE?X-NOBODY):1%"),
    ("cut to nothing", "%REQ(X-ONE):0%"),
    ("not that long", "%REQ(X-ONE):4000%"),
    ("empty", "%REQ(X-EMPTY?X-TWO)%"),
    ("repeated", "%REQ(X-SOME)%"),
    ("half a letter", "%REQ(X-LETTERS):3%"),
    ("letters", "%REQ(X-LETTERS)%"),
    ("half a letter behind signs", "%REQ(X-SIGNS):4%"),
    ("pseudo", "%REQ(:NONE?:PATH):3%"),
    ("mixed", "<%REQ(X-NONE?X-TWO):2%-%REQ(X-NONE?X-NOBODY):2%>"),
    ("answer first", "%RESP(X-ONE?X-TWO)%"),
    ("answer second", "%RESP(X-NONE?X-TWO)%"),
    ("answer neither", "%RESP(X-NONE?X-NOBODY)%"),
    ("answer cut", "%RESP(X-NONE?X-TWO):4%"),
    ("answer pseudo", "%RESP(:NONE?:STATUS):1%"),
    ("trailer first", "%TRAILER(X-ONE?X-TWO)%"),
    ("trailer second", "%TRAILER(X-NONE?X-TWO)%"),
    ("trailer neither", "%TRAILER(X-NONE?X-NOBODY)%"),
    ("trailer cut", "%TRAILER(X-NONE?X-TWO):4%"),
];

/// Why, in Envoy's words.
const REASONS: &[(&str, &str)] =
    &[("details", "%RESPONSE_CODE_DETAILS%"), ("failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%")];

/// Operators whose values are times: only their kind is compared.
const TIMES: &[(&str, &str)] = &[
    ("start", "%START_TIME%"),
    ("year", "%START_TIME(%Y)%"),
    ("duration", "%DURATION%"),
    ("request duration", "%REQUEST_DURATION%"),
    ("response duration", "%RESPONSE_DURATION%"),
    ("tx duration", "%RESPONSE_TX_DURATION%"),
];

#[allow(deprecated)] // people have the old fields, too
pub fn cases() -> Vec<Case> {
    vec![
        logged("F25/text", || log_format(Format::TextFormatSource(inline(&text(STEADY))))),
        logged("F25/text-format", || log_format(Format::TextFormat(text(STEADY)))),
        logged("F25/times", || log_format(Format::TextFormatSource(inline(&text(TIMES))))),
        logged("F25/reasons", || log_format(Format::TextFormatSource(inline(&text(REASONS))))),
        logged("F25/json", || log_format(Format::JsonFormat(object(STEADY)))),
        logged("F25/json-times", || log_format(Format::JsonFormat(object(TIMES)))),
        logged("F25/json-old", || AccessLogFormat::JsonFormat(object(STEADY))),
        logged("F25/text-old", || AccessLogFormat::Format(text(STEADY))),
        logged("F25/json-kinds", || {
            let mut all = object(&[("b", "%PROTOCOL%"), ("a", "%RESPONSE_CODE%")]);
            let of = |kind| Value { kind: Some(kind) };
            all.fields.insert("number".into(), of(Kind::NumberValue(1.5)));
            all.fields.insert("whole".into(), of(Kind::NumberValue(3.0)));
            all.fields.insert("bool".into(), of(Kind::BoolValue(true)));
            let inner = object(&[("z", "%REQ(:PATH)%"), ("c", "%BYTES_SENT%")]);
            all.fields.insert("nested".into(), of(Kind::StructValue(inner)));
            let values =
                vec![of(Kind::StringValue("%PROTOCOL%".into())), of(Kind::NumberValue(7.0))];
            all.fields.insert("list".into(), of(Kind::ListValue(ListValue { values })));
            log_format(Format::JsonFormat(all))
        }),
        logged("F25/no-host", || {
            let all = [("scheme", "%REQ(:SCHEME)%"), ("authority", "%REQ(:AUTHORITY)%")];
            log_format(Format::JsonFormat(object(&all)))
        }),
        case("F25/default", |p| run(p, None)),
        case("F25/alternatives", |p| {
            alternatives(p, log_format(Format::TextFormatSource(inline(&text(ALTERNATIVES)))));
        }),
        case("F25/json-alternatives", |p| {
            alternatives(p, log_format(Format::JsonFormat(object(ALTERNATIVES))));
        }),
    ]
}

fn text(all: &[(&str, &str)]) -> String {
    let each = all.iter().map(|(name, format)| format!("{name}={format}"));
    format!("{}\n", each.collect::<Vec<_>>().join("|"))
}

fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        watched_directory: None,
    }
}

fn log_format(format: Format) -> AccessLogFormat {
    let format = Some(format);
    AccessLogFormat::LogFormat(SubstitutionFormatString { format, ..Default::default() })
}

fn object(all: &[(&str, &str)]) -> Struct {
    let text = |format: &str| Value { kind: Some(Kind::StringValue(format.to_owned())) };
    Struct { fields: all.iter().map(|(n, f)| ((*n).to_owned(), text(f))).collect() }
}

fn logged(id: &str, format: impl Fn() -> AccessLogFormat + Send + Sync + 'static) -> Case {
    case(id, move |p| run(p, Some(format())))
}

/// A listener with one log of this format: its file and its port.
fn open(p: &mut Probe<'_>, format: Option<AccessLogFormat>) -> (PathBuf, u16) {
    let path = p.side.dir.join(format!("{}.log", p.id));
    let file = FileAccessLog { path: path.display().to_string(), access_log_format: format };
    let log = AccessLog {
        name: "file".to_owned(),
        filter: None,
        config_type: Some(ConfigType::TypedConfig(pack_any(file))),
    };
    let (mut listener, port) = listener(p);
    edit_manager(&mut listener, |manager| manager.access_log = vec![log]);
    open_listener(p, &listener, port);
    let refused = p.side.refused("type.googleapis.com/envoy.config.listener");
    p.note("refused", format!("{:?}", refused.iter().filter(|r| r.contains(&p.id)).count()));
    (path, port)
}

/// A log of this format, and requests of all sorts.
fn run(p: &mut Probe<'_>, format: Option<AccessLogFormat>) {
    let (path, port) = open(p, format);
    let upstream = p.upstream(ok());
    let mut models = vec![model(&p.id, &[upstream.port])];
    models.push(model(&format!("{}-gone", p.id), &[1]));
    p.mesh_with(&Mesh { models, ..Mesh::default() }, |route| {
        if let Some(route::Action::Route(action)) = &mut route.action {
            action.retry_policy = None;
        }
    });
    let without_host = ["GET /a HTTP/1.1\r\n\r\n", "GET /a HTTP/1.0\r\n\r\n"];
    let requests: &[&str] = if p.id.contains("no-host") { &without_host } else { REQUESTS };
    for request in requests {
        let mut client = Client::connect(port);
        client.send(p.fill(request));
        p.note("answer", client.reply(false).unwrap_or_default().line);
    }
    tell(p, &path, port, requests.len());
}

/// Notes the log's lines, a field a line, so that a difference is small.
fn tell(p: &mut Probe<'_>, path: &Path, port: u16, count: usize) {
    let lines = written(p, path, count);
    let times =
        path.to_string_lossy().contains("times") || path.to_string_lossy().contains("default");
    for line in lines {
        for field in line.split(['|', ',']) {
            let field = &field.replace(&format!("port={port}"), "port=*");
            let field = &field.replace(&format!("port\":{port}"), "port\":*");
            let field = if times { without_digits(field) } else { field.to_owned() };
            p.note("log", field);
        }
    }
    remove_listener(p);
}

/// The log's lines, once there are `count`.
fn written(p: &mut Probe<'_>, path: &Path, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let written = eventually(Duration::from_secs(5), || {
        p.side.admin("POST", "/reopen_logs");
        let text = std::fs::read(path).unwrap_or_default();
        lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        lines.len() >= count
    });
    p.expect(written, "write a line for each");
    lines
}

/// Answers of all sorts.
const REQUESTS: &[&str] = &[
    "POST /v2/models/{m}/infer?q=\"1\" HTTP/1.1\r\nhost: h\r\nuser-agent: a \"b\" \\ c\r\ncontent-length: 2\r\n\r\n{}",
    "GET /v2/models/{m}-gone/infer HTTP/1.1\r\nhost: h\r\n\r\n",
    "GET /v2/models/{m}-gone/infer HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\n\r\n",
    "GET /nowhere HTTP/1.1\r\nhost: h\r\nuser-agent: \u{e4}\u{f6}\r\n\r\n",
    "GARBAGE\r\n\r\n",
    "GET /a HTTP/1.0\r\nhost: h\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: h\r\nuser-agent: \x01\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nhost: h\r\n\r\n",
    "GET /v2/x HTTP/1.1\r\nhost: h\r\nseldon-model: {m}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
];

/// Runs of digits as one `#`.
fn without_digits(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

/// A log of this format; requests with the headers that it names, and without.
fn alternatives(p: &mut Probe<'_>, format: AccessLogFormat) {
    let (path, port) = open(p, Some(format));
    let fields =
        vec![("x-one", "a \"b\" \\ c"), ("x-two", "the \"2nd\""), ("x-some", "a"), ("x-some", "b")];
    let trailers = vec![("x-one", "t \"b\" \\ c"), ("x-two", "t \"2\" nd")];
    let upstream = http2::Upstream::start(vec![
        Act::Body,
        Act::Head(200, fields, false),
        Act::Data(b"ok".to_vec(), false),
        Act::Trailers(trailers),
    ]);
    let mesh = Mesh { models: vec![model(&p.id, &[upstream.port])], ..Mesh::default() };
    let cluster = format!("{}_1_grpc", p.id);
    p.mesh_with(&mesh, |route| set_cluster(route, &cluster));
    let headers = "x-one: a \"b\" \\ c\r\nx-two: the \"2nd\"\r\nx-empty:\r\nx-some: a\r\nx-some: b\r\nx-letters: \u{e4}\u{f6}\u{fc}\r\nx-signs: \"\\/\u{e4}\r\n";
    let requests = [
        format!("GET /v2/models/{{m}}/x HTTP/1.1\r\nhost: h\r\n{headers}\r\n"),
        "GET /v2/models/{m}/x HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
        "GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
    ];
    for request in &requests {
        let mut client = Client::connect(port);
        client.send(p.fill(request));
        p.note("answer", client.reply(false).unwrap_or_default().line);
    }
    tell(p, &path, port, requests.len());
}
