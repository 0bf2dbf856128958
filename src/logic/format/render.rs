//! Rendering of operators.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::LogContext;
use super::operator::{AddressPart, GrpcForm, HeaderOperator, Operator, Source};
use crate::headers::{HeaderId, Headers, RequestHead, Scheme};

impl Operator {
    /// Appends the value; false, and nothing appended, if it is missing.
    pub(super) fn render(&self, c: &LogContext<'_>, out: &mut Vec<u8>) -> bool {
        let value = match self {
            Self::Header(source, header) => return header.render(*source, c, out),
            Self::StartTime(format) => {
                format.render(c.start, out);
                return true;
            }
            Self::EmitTime(format) => {
                format.render(c.start + c.duration.unwrap_or_default(), out);
                return true;
            }
            Self::ResponseFlagsLong => return long_flags(c.flags, out),
            Self::ResponseCode => return number(u64::from(c.status), out),
            Self::BytesReceived => return number(c.bytes_received, out),
            Self::BytesSent => return number(c.bytes_sent, out),
            Self::Duration => return millis(c.duration, out),
            Self::RequestDuration => return millis(c.request_duration, out),
            Self::ResponseDuration => return millis(c.response_duration, out),
            Self::ResponseTxDuration => return millis(c.response_tx_duration, out),
            Self::Attempts => return number(u64::from(c.attempts), out),
            Self::ConnectionId => return number(c.connection_id, out),
            Self::GrpcStatus(form) => {
                return grpc_status(c).is_some_and(|status| grpc(status, *form, out));
            }
            Self::UpstreamHost => return address(c.upstream_host, AddressPart::Whole, out),
            Self::UpstreamRemote(part) => return address(c.upstream_host, *part, out),
            Self::UpstreamLocal(part) => return address(c.upstream_local, *part, out),
            Self::DownstreamRemote(part) => return address(c.downstream_remote, *part, out),
            Self::DownstreamLocal(part) => return address(c.downstream_local, *part, out),
            Self::Protocol => c.protocol,
            Self::ResponseCodeDetails => c.details,
            // Never missing: without flags it is a dash, in header values too.
            Self::ResponseFlags => Some(if c.flags.is_empty() { "-" } else { c.flags }),
            Self::UpstreamCluster => c.upstream_cluster,
            Self::UpstreamProtocol => c.upstream_protocol,
            Self::UpstreamFailure => c.upstream_failure,
            Self::RouteName => c.route_name.filter(|name| !name.is_empty()),
            Self::ServerName => c.server_name,
            Self::TlsVersion => c.tls_version,
            Self::TerminationDetails => c.termination_details,
            Self::Hostname => Some(c.hostname).filter(|name| !name.is_empty()),
            Self::Constant(value) => Some(&**value),
            Self::Missing => None,
        };
        value.is_some_and(|value| text(value.as_bytes(), out))
    }
}

impl HeaderOperator {
    fn render(&self, source: Source, c: &LogContext<'_>, out: &mut Vec<u8>) -> bool {
        let names = std::iter::once(&self.name).chain(&self.alternative);
        for name in names {
            let name = name.as_bytes();
            let found = match source {
                Source::Request => c.request.and_then(|head| request_value(head, name, c)),
                Source::Response if name == b":status" => match c.response {
                    Some(response) => return number(u64::from(response.status), out),
                    None => None,
                },
                Source::Response => c.response.and_then(|head| first(&head.headers, name)),
                Source::Trailer => c.trailers.and_then(|trailers| first(trailers, name)),
            };
            if let Some(value) = found {
                return text(value, out);
            }
        }
        false
    }
}

/// The first line of a request header, pseudo headers included.
fn request_value<'a>(head: &'a RequestHead, name: &[u8], c: &LogContext<'_>) -> Option<&'a [u8]> {
    match name {
        b":method" => Some(head.method()),
        b":path" => Some(head.path()),
        // An empty authority is a value, one that nobody named is not.
        b":authority" | b"host" if !head.method().is_empty() && !c.nameless => {
            return Some(head.authority());
        }
        b":authority" | b"host" => None,
        b":scheme" if c.schemeless => None,
        b":scheme" => Some(match head.scheme {
            Scheme::Http => &b"http"[..],
            Scheme::Https => b"https",
        }),
        _ => return first(&head.headers, name),
    }
    .filter(|value| !value.is_empty())
}

fn first<'a>(headers: &'a Headers, name: &[u8]) -> Option<&'a [u8]> {
    let id = HeaderId::of(name);
    headers.iter().find(|f| f.id == id && f.name == name).map(|f| f.value)
}

fn text(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value);
    true
}

/// Flags by their long names; a dash without any, as the short ones.
fn long_flags(flags: &str, out: &mut Vec<u8>) -> bool {
    for (i, flag) in flags.split(',').enumerate() {
        if i > 0 {
            out.push(b',');
        }
        text(long_flag(flag).as_bytes(), out);
    }
    true
}

fn long_flag(flag: &str) -> &str {
    match flag {
        "" => "-",
        "DC" => "DownstreamConnectionTermination",
        "DPE" => "DownstreamProtocolError",
        "DR" => "DownstreamRemoteReset",
        "LR" => "LocalReset",
        "NC" => "NoClusterFound",
        "NR" => "NoRouteFound",
        "SI" => "StreamIdleTimeout",
        "UC" => "UpstreamConnectionTermination",
        "UF" => "UpstreamConnectionFailure",
        "UH" => "NoHealthyUpstream",
        "UO" => "UpstreamOverflow",
        "UPE" => "UpstreamProtocolError",
        "UR" => "UpstreamRemoteReset",
        "URX" => "UpstreamRetryLimitExceeded",
        "UT" => "UpstreamRequestTimeout",
        other => other,
    }
}

fn number(value: u64, out: &mut Vec<u8>) -> bool {
    text(itoa::Buffer::new().format(value).as_bytes(), out)
}

fn millis(value: Option<Duration>, out: &mut Vec<u8>) -> bool {
    value.is_some_and(|d| number(u64::try_from(d.as_millis()).unwrap_or(u64::MAX), out))
}

fn address(value: Option<SocketAddr>, part: AddressPart, out: &mut Vec<u8>) -> bool {
    // Writing into memory cannot fail.
    value.is_some_and(|address| match part {
        AddressPart::Whole => write!(out, "{address}").is_ok(),
        AddressPart::Ip => write!(out, "{}", address.ip()).is_ok(),
        AddressPart::Port => number(u64::from(address.port()), out),
    })
}

fn grpc(status: u32, form: GrpcForm, out: &mut Vec<u8>) -> bool {
    let name = match form {
        GrpcForm::Number => None,
        GrpcForm::Camel => grpc_status_name(status),
        GrpcForm::Snake => usize::try_from(status).ok().and_then(|i| SNAKE.get(i)).copied(),
    };
    match name {
        Some(name) => text(name.as_bytes(), out),
        None => number(u64::from(status), out),
    }
}

/// The gRPC status of an answer to a gRPC request, as [`answer_status`]; none
/// for other requests.
#[must_use]
pub fn grpc_status(c: &LogContext<'_>) -> Option<u32> {
    c.request.filter(|head| head.is_grpc()).and_then(|_| answer_status(c))
}

/// The gRPC status of an answer, whatever the request: from the trailers, else
/// from the response head, else by the HTTP status; none if there was no answer
/// (Envoy: `Grpc::Common::getGrpcStatus`).
#[must_use]
pub fn answer_status(c: &LogContext<'_>) -> Option<u32> {
    let of = |headers: &Headers| {
        let value = headers.first(HeaderId::GrpcStatus)?;
        std::str::from_utf8(value).ok()?.parse::<u32>().ok()
    };
    let given = c.trailers.and_then(of).or_else(|| c.response.and_then(|r| of(&r.headers)));
    given.or(match c.status {
        0 => None,
        400 => Some(13),
        401 => Some(16),
        403 => Some(7),
        404 => Some(12),
        429 | 502 | 503 | 504 => Some(14),
        _ => Some(2),
    })
}

const SNAKE: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Envoy's name of a gRPC status (`NotFound`); none if it has none.
#[must_use]
pub fn grpc_status_name(status: u32) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(status).ok().and_then(|i| NAMES.get(i)).copied()
}
