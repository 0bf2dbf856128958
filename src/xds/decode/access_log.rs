//! Access logs.

use envoy_types::pb::envoy::config::accesslog::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::{
    SubstitutionFormatString, substitution_format_string::Format as Source,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat as FileFormat,
};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};

use super::Invalid;
use super::error::{At, overlook, refuse};
use super::listener::type_name;
use super::matcher::header_rule;
use super::scalar::{inline, unpack};
use crate::logic::format::Format;
use crate::model::{
    AccessLog, AccessLogFormat, AccessLogSink, HeaderMatch, JsonFormat, LogFilter, LogFilterHeader,
    StatusOp,
};

/// Envoy's default format (its documentation, "Default format string").
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
%PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

pub(super) fn access_log(log: &pb::AccessLog) -> Result<AccessLog, Invalid> {
    use pb::access_log::ConfigType;
    let (sink, format) = match &log.config_type {
        Some(ConfigType::TypedConfig(any)) => sink(any, &log.name).at("typed_config")?,
        None => return Err(Invalid::new("value is required").at("typed_config")),
    };
    let filter = log.filter.as_ref().map(log_filter).transpose().at("filter")?;
    Ok(AccessLog { sink, format, filter })
}

fn sink(any: &Any, name: &str) -> Result<(AccessLogSink, AccessLogFormat), Invalid> {
    match type_name(any) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            let log: FileAccessLog = unpack(any)?;
            if log.path.is_empty() {
                return Err(Invalid::new("value length must be at least 1 characters").at("path"));
            }
            let format = match &log.access_log_format {
                None => text(DEFAULT_FORMAT),
                Some(FileFormat::Format(f)) => text(f).at("format"),
                Some(FileFormat::JsonFormat(f)) => json(f).at("json_format"),
                Some(FileFormat::TypedJsonFormat(f)) => json(f).at("typed_json_format"),
                Some(FileFormat::LogFormat(f)) => substitution(f).at("log_format"),
            };
            Ok((AccessLogSink::File(log.path), format?))
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let log: StdoutAccessLog = unpack(any)?;
            let format = match &log.access_log_format {
                None => text(DEFAULT_FORMAT),
                Some(stdout_access_log::AccessLogFormat::LogFormat(f)) => substitution(f),
            };
            Ok((AccessLogSink::Stdout, format.at("log_format")?))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let log: StderrAccessLog = unpack(any)?;
            let format = match &log.access_log_format {
                None => text(DEFAULT_FORMAT),
                Some(stderr_access_log::AccessLogFormat::LogFormat(f)) => substitution(f),
            };
            Ok((AccessLogSink::Stderr, format.at("log_format")?))
        }
        _ => Err(Invalid::new(format!("access log '{name}' is not supported"))),
    }
}

fn substitution(f: &SubstitutionFormatString) -> Result<AccessLogFormat, Invalid> {
    refuse!(f; omit_empty_values, formatters);
    overlook!(f, "SubstitutionFormatString"; content_type, json_format_options);
    match &f.format {
        Some(Source::TextFormat(f)) => text(f).at("text_format"),
        Some(Source::TextFormatSource(source)) => {
            let bytes = inline(source).at("text_format_source")?;
            let format = std::str::from_utf8(&bytes)
                .map_err(|_| Invalid::new("not UTF-8").at("text_format_source"))?;
            text(format).at("text_format_source")
        }
        Some(Source::JsonFormat(f)) => json(f).at("json_format"),
        None => Err(Invalid::new("value is required").at("format")),
    }
}

fn text(format: &str) -> Result<AccessLogFormat, Invalid> {
    parse(format).map(AccessLogFormat::Text)
}

fn parse(format: &str) -> Result<Format, Invalid> {
    Format::parse(format).map_err(|e| Invalid::new(e.to_string()))
}

fn json(fields: &Struct) -> Result<AccessLogFormat, Invalid> {
    json_object(fields).map(AccessLogFormat::Json)
}

/// Fields in the order of their names, as Envoy writes them.
fn json_object(fields: &Struct) -> Result<JsonFormat, Invalid> {
    let each = fields.fields.iter();
    let each = each.map(|(name, value)| Ok((name.clone(), json_value(value).at(name)?)));
    let mut out = each.collect::<Result<Vec<_>, Invalid>>()?;
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(JsonFormat::Object(out))
}

fn json_value(value: &Value) -> Result<JsonFormat, Invalid> {
    Ok(match &value.kind {
        Some(Kind::StringValue(format)) => JsonFormat::Text(parse(format)?),
        Some(Kind::NumberValue(number)) => JsonFormat::Constant(number.to_string()),
        Some(Kind::BoolValue(value)) => JsonFormat::Constant(value.to_string()),
        Some(Kind::StructValue(fields)) => json_object(fields)?,
        Some(Kind::ListValue(list)) => {
            let each = list.values.iter().enumerate();
            let each = each.map(|(i, value)| json_value(value).at_index("values", i));
            JsonFormat::List(each.collect::<Result<_, _>>()?)
        }
        Some(Kind::NullValue(_)) | None => JsonFormat::Constant("null".to_owned()),
    })
}

fn log_filter(filter: &pb::AccessLogFilter) -> Result<LogFilter, Invalid> {
    use pb::access_log_filter::FilterSpecifier as Spec;
    let all = |filters: &[pb::AccessLogFilter]| -> Result<Vec<LogFilter>, Invalid> {
        let each = filters.iter().enumerate();
        each.map(|(i, f)| log_filter(f).at_index("filters", i)).collect()
    };
    let unsupported = |field: &str| Err(Invalid::unsupported(field));
    match &filter.filter_specifier {
        Some(Spec::StatusCodeFilter(f)) => status(f).at("status_code_filter"),
        Some(Spec::HeaderFilter(f)) => header(f).at("header_filter"),
        Some(Spec::GrpcStatusFilter(f)) => {
            let codes = f.statuses.iter().filter_map(|s| u32::try_from(*s).ok()).collect();
            Ok(LogFilter::GrpcStatus(codes, f.exclude))
        }
        Some(Spec::AndFilter(f)) => all(&f.filters).at("and_filter").map(LogFilter::And),
        Some(Spec::OrFilter(f)) => all(&f.filters).at("or_filter").map(LogFilter::Or),
        Some(Spec::NotHealthCheckFilter(_)) => Ok(LogFilter::Always),
        Some(Spec::DurationFilter(_)) => unsupported("duration_filter"),
        Some(Spec::TraceableFilter(_)) => unsupported("traceable_filter"),
        Some(Spec::RuntimeFilter(_)) => unsupported("runtime_filter"),
        Some(Spec::ResponseFlagFilter(_)) => unsupported("response_flag_filter"),
        Some(Spec::ExtensionFilter(_)) => unsupported("extension_filter"),
        Some(Spec::MetadataFilter(_)) => unsupported("metadata_filter"),
        Some(Spec::LogTypeFilter(_)) => unsupported("log_type_filter"),
        None => Err(Invalid::new("value is required").at("filter_specifier")),
    }
}

fn status(f: &pb::StatusCodeFilter) -> Result<LogFilter, Invalid> {
    use pb::comparison_filter::Op;
    let required = || Invalid::new("value is required").at("comparison");
    let comparison = f.comparison.as_ref().ok_or_else(required)?;
    let value = comparison.value.as_ref().ok_or_else(required)?.default_value;
    let op = match Op::try_from(comparison.op) {
        Ok(Op::Eq) => StatusOp::Eq,
        Ok(Op::Ge) => StatusOp::Ge,
        Ok(Op::Le) => StatusOp::Le,
        Ok(Op::Ne) => StatusOp::Ne,
        Err(_) => return Err(Invalid::unsupported("comparison.op")),
    };
    Ok(LogFilter::Status(op, value))
}

fn header(f: &pb::HeaderFilter) -> Result<LogFilter, Invalid> {
    let required = || Invalid::new("value is required").at("header");
    let header = f.header.as_ref().ok_or_else(required)?;
    refuse!(header; treat_missing_header_as_empty);
    let (value, invert) = match header_rule(header).at("header")? {
        HeaderMatch::Present(present) => (None, header.invert_match == present),
        HeaderMatch::Value(value) => (Some(value), header.invert_match),
        HeaderMatch::Range(..) => return Err(Invalid::unsupported("header.range_match")),
    };
    Ok(LogFilter::Header(LogFilterHeader { name: header.name.to_ascii_lowercase(), value, invert }))
}
