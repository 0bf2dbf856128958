//! The operators that are known, and how their arguments are read.

use super::strftime::TimeFormat;
use super::{Command, FormatError};

/// One command operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Header(Source, HeaderOperator),
    StartTime(TimeFormat),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
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
    /// Known to Envoy, without a value here (tracing, client certificates).
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
        let refuse =
            |reason| FormatError::Argument { name: command.name.to_owned(), position, reason };
        let argument = command.argument;
        let header = |source| match argument.and_then(HeaderOperator::parse) {
            Some(header) => Ok(Self::Header(source, header)),
            None => Err(refuse("a header name is needed, with at most one alternative")),
        };
        let with_argument = match command.name {
            "REQ" => header(Source::Request)?,
            "RESP" => header(Source::Response)?,
            "TRAILER" => header(Source::Trailer)?,
            "START_TIME" => Self::StartTime(
                TimeFormat::parse(argument.unwrap_or_default())
                    .ok_or_else(|| refuse("unknown time conversion"))?,
            ),
            "GRPC_STATUS" => Self::GrpcStatus(match argument.unwrap_or_default() {
                "" | "CAMEL_STRING" => GrpcForm::Camel,
                "SNAKE_STRING" => GrpcForm::Snake,
                "NUMBER" => GrpcForm::Number,
                _ => return Err(refuse("expected CAMEL_STRING, SNAKE_STRING or NUMBER")),
            }),
            "ENVIRONMENT" => {
                let name = argument.filter(|a| !a.is_empty());
                let name = name.ok_or_else(|| refuse("the name of a variable is needed"))?;
                std::env::var(name).map_or(Self::Missing, |v| Self::Constant(v.into()))
            }
            name => {
                let operator = Self::without_argument(name)
                    .ok_or_else(|| FormatError::Unknown { name: name.to_owned(), position })?;
                if argument.is_some() {
                    return Err(refuse("it takes no argument"));
                }
                operator
            }
        };
        Ok(with_argument)
    }

    fn without_argument(name: &str) -> Option<Self> {
        use AddressPart::{Ip, Port, Whole};
        Some(match name {
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
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
            "VIRTUAL_CLUSTER_NAME" => Self::Missing,
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
                Self::DownstreamRemote(Whole)
            }
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
            | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemote(Ip),
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => {
                Self::DownstreamRemote(Port)
            }
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::DownstreamLocal(Whole),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::DownstreamLocal(Ip),
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocal(Port),
            "CONNECTION_ID" => Self::ConnectionId,
            "REQUESTED_SERVER_NAME" => Self::ServerName,
            "DOWNSTREAM_TLS_VERSION" => Self::TlsVersion,
            "CONNECTION_TERMINATION_DETAILS" => Self::TerminationDetails,
            "HOSTNAME" => Self::Hostname,
            "TRACE_ID"
            | "SPAN_ID"
            | "DOWNSTREAM_TRANSPORT_FAILURE_REASON"
            | "DOWNSTREAM_TLS_CIPHER"
            | "DOWNSTREAM_TLS_SESSION_ID"
            | "DOWNSTREAM_PEER_SUBJECT"
            | "DOWNSTREAM_PEER_ISSUER"
            | "DOWNSTREAM_PEER_URI_SAN"
            | "DOWNSTREAM_PEER_SERIAL"
            | "DOWNSTREAM_PEER_FINGERPRINT_256"
            | "FILTER_CHAIN_NAME" => Self::Missing,
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
        let mut names = argument.split('?').map(|name| name.to_ascii_lowercase().into_boxed_str());
        let name = names.next().filter(|name| !name.is_empty())?;
        let alternative = names.next();
        if names.next().is_some() || alternative.as_deref() == Some("") {
            return None;
        }
        Some(Self { name, alternative })
    }
}
