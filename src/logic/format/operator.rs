//! The operators that are known, and how their arguments are read.

use super::strftime::TimeFormat;
use super::{Command, FormatError};

/// One command operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Header(Source, HeaderOperator),
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    GrpcStatus(GrpcForm),
    UpstreamHost,
    UpstreamRemote(AddressPart),
    UpstreamLocal(AddressPart),
    UpstreamCluster,
    UpstreamProtocol,
    UpstreamFailure,
    Attempts,
    RouteName,
    DownstreamRemote(AddressPart),
    DownstreamLocal(AddressPart),
    ConnectionId,
    ServerName,
    TlsVersion,
    TerminationDetails,
    Hostname,
    /// Known when parsed (`%ENVIRONMENT(X)%`).
    Constant(Box<str>),
    /// Without a value where there is no tracing and no virtual cluster.
    Missing,
}

/// Where a header operator looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Request,
    Response,
    Trailer,
}

/// `NAME?ALTERNATIVE`, both in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeaderOperator {
    pub(super) name: Box<str>,
    pub(super) alternative: Option<Box<str>>,
}

/// What of an address is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressPart {
    Whole,
    Ip,
    Port,
}

/// How a gRPC status is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

impl Operator {
    /// The operator of a command at byte `position` of its format string.
    pub(super) fn parse(command: &Command<'_>, position: usize) -> Result<Self, FormatError> {
        let name = command.name;
        let refuse =
            |reason: &str| FormatError::Argument { reason: format!("{name} {reason}"), position };
        let argument = command.argument.filter(|a| !a.is_empty());
        let needed = || argument.ok_or_else(|| refuse("requires parameters"));
        let header = |source| {
            let header = HeaderOperator::parse(needed()?);
            let reason = "needs a header name and at most one alternative";
            header.map(|h| Self::Header(source, h)).ok_or_else(|| refuse(reason))
        };
        let operator = match name {
            "REQ" => return header(Source::Request),
            "RESP" => return header(Source::Response),
            "TRAILER" => return header(Source::Trailer),
            "ENVIRONMENT" => {
                let value = std::env::var(needed()?);
                return Ok(value.map_or(Self::Missing, |v| Self::Constant(v.into())));
            }
            "START_TIME" => Self::StartTime(TimeFormat::parse(argument.unwrap_or_default())),
            "EMIT_TIME" => Self::EmitTime(TimeFormat::parse(argument.unwrap_or_default())),
            "GRPC_STATUS" => Self::GrpcStatus(match argument.unwrap_or_default() {
                "" | "CAMEL_STRING" => GrpcForm::Camel,
                "SNAKE_STRING" => GrpcForm::Snake,
                "NUMBER" => GrpcForm::Number,
                _ => return Err(refuse("only supports CAMEL_STRING, SNAKE_STRING or NUMBER")),
            }),
            _ => {
                let operator = Self::without_argument(name)
                    .ok_or_else(|| FormatError::Unknown { name: name.to_owned(), position })?;
                if argument.is_some() || command.max_length.is_some() {
                    return Err(refuse("does not take any parameters or length"));
                }
                operator
            }
        };
        if command.max_length.is_some() {
            return Err(refuse("does not allow length to be specified."));
        }
        Ok(operator)
    }

    fn without_argument(name: &str) -> Option<Self> {
        use AddressPart::{Ip, Port, Whole};
        Some(match name {
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "RESPONSE_FLAGS_LONG" => Self::ResponseFlagsLong,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "REQUEST_DURATION" => Self::RequestDuration,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "RESPONSE_TX_DURATION" => Self::ResponseTxDuration,
            "GRPC_STATUS_NUMBER" => Self::GrpcStatus(GrpcForm::Number),
            "UPSTREAM_HOST" => Self::UpstreamHost,
            "UPSTREAM_REMOTE_ADDRESS" => Self::UpstreamRemote(Whole),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::UpstreamRemote(Ip),
            "UPSTREAM_REMOTE_PORT" => Self::UpstreamRemote(Port),
            "UPSTREAM_LOCAL_ADDRESS" => Self::UpstreamLocal(Whole),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::UpstreamLocal(Ip),
            "UPSTREAM_LOCAL_PORT" => Self::UpstreamLocal(Port),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Self::UpstreamCluster,
            "UPSTREAM_PROTOCOL" => Self::UpstreamProtocol,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::UpstreamFailure,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::Attempts,
            "ROUTE_NAME" => Self::RouteName,
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
                Self::DownstreamRemote(Whole)
            }
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
            | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemote(Ip),
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => {
                Self::DownstreamRemote(Port)
            }
            "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => {
                Self::DownstreamLocal(Whole)
            }
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"
            | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocal(Ip),
            "DOWNSTREAM_LOCAL_PORT" | "DOWNSTREAM_DIRECT_LOCAL_PORT" => Self::DownstreamLocal(Port),
            "CONNECTION_ID" => Self::ConnectionId,
            "REQUESTED_SERVER_NAME" => Self::ServerName,
            "DOWNSTREAM_TLS_VERSION" => Self::TlsVersion,
            "CONNECTION_TERMINATION_DETAILS" => Self::TerminationDetails,
            "HOSTNAME" => Self::Hostname,
            "TRACE_ID"
            | "SPAN_ID"
            | "VIRTUAL_CLUSTER_NAME"
            | "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Self::Missing,
            _ => return None,
        })
    }

    /// True if Envoy writes the value as a JSON number.
    pub(super) fn is_number(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::Duration
                | Self::RequestDuration
                | Self::ResponseDuration
                | Self::ResponseTxDuration
                | Self::GrpcStatus(GrpcForm::Number)
                | Self::Attempts
                | Self::ConnectionId
                | Self::UpstreamRemote(AddressPart::Port)
                | Self::UpstreamLocal(AddressPart::Port)
                | Self::DownstreamRemote(AddressPart::Port)
                | Self::DownstreamLocal(AddressPart::Port)
        )
    }
}

impl HeaderOperator {
    fn parse(argument: &str) -> Option<Self> {
        let is_name = |b: u8| b.is_ascii_graphic() && !b"()<>@,;\\\"/[]={}".contains(&b);
        let mut names = argument.split('?').map(|name| name.to_ascii_lowercase().into_boxed_str());
        let name = names.next()?;
        let alternative = names.next().filter(|name| !name.is_empty());
        let valid = names.next().is_none()
            && [Some(&name), alternative.as_ref()]
                .into_iter()
                .flatten()
                .all(|n| n.bytes().all(is_name));
        valid.then_some(Self { name, alternative })
    }
}
