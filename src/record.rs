//! What is kept of a request for its statistics and its access log line.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use crate::clock;
use crate::downstream::Connection;
use crate::exchange::DownstreamError;
use crate::flags::{ResponseFlag, ResponseFlags};
use crate::headers::{Headers, RequestHead, ResponseHead};
use crate::local_reply::LocalReply;
use crate::logic::format::LogContext;
use crate::model::{Listener, Route, WeightedTarget};

/// Facts of one request, gathered on its way.
#[derive(Debug)]
pub(crate) struct Record<'r> {
    pub(crate) started: Instant,
    /// The client speaks HTTP/2.
    http2: bool,
    pub(crate) status: u16,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) attempts: u32,
    pub(crate) upstream: Option<SocketAddr>,
    /// Why the transport of the last attempt failed.
    pub(crate) transport: Option<String>,
    /// The request was refused before it got a scheme (HTTP/1).
    pub(crate) schemeless: bool,
    /// The request names no host.
    pub(crate) nameless: bool,
    /// Body bytes to the client.
    pub(crate) sent: u64,
    /// Body bytes from the client.
    pub(crate) received: u64,
    /// An answer's head has left.
    pub(crate) replied: bool,
    /// The answer is in the statistics already.
    pub(crate) counted: bool,
    /// That was before its request was complete.
    pub(crate) early: bool,
    /// It was counted as reset.
    pub(crate) reset: bool,
    /// The connection ends with this answer.
    pub(crate) close: bool,
    /// When the upstream's head came.
    pub(crate) first_byte: Option<Instant>,
    route: Option<&'r Route>,
    target: Option<&'r WeightedTarget>,
}

/// What a log line shows of both ends of a request.
#[derive(Clone, Copy)]
pub(crate) struct LogEnds<'a> {
    pub(crate) request: &'a RequestHead,
    pub(crate) response: &'a ResponseHead,
    pub(crate) trailers: Option<&'a Headers>,
    /// When the request was there in full.
    pub(crate) completed: Option<Instant>,
}

impl<'r> Record<'r> {
    pub(crate) fn new(http2: bool) -> Self {
        Self {
            started: clock::now(),
            http2,
            status: 0,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            attempts: 0,
            upstream: None,
            transport: None,
            schemeless: false,
            nameless: false,
            sent: 0,
            received: 0,
            replied: false,
            counted: false,
            early: false,
            reset: false,
            close: false,
            first_byte: None,
            route: None,
            target: None,
        }
    }

    /// Notes the answer to bytes that are no request.
    pub(crate) fn refused(&mut self, reply: &LocalReply) {
        self.status = reply.status;
        self.flags = reply.flags;
        self.details = reply.details.clone();
        self.replied = true;
    }

    /// Notes that the client left.
    pub(crate) fn left(&mut self, error: DownstreamError) {
        self.flags.set(error.flag());
        self.details = Cow::Borrowed(match error {
            DownstreamError::Gone => "downstream_remote_disconnect",
            DownstreamError::Reset => "http2.remote_reset",
            DownstreamError::Malformed(_) | DownstreamError::Protocol => return,
        });
    }

    /// Notes the route's choice.
    pub(crate) fn chose(&mut self, route: &'r Route, target: Option<&'r WeightedTarget>) {
        self.route = Some(route);
        self.target = target;
    }

    /// The facts so far, for format strings.
    pub(crate) fn context<'a>(
        &'a self,
        connection: &'a Connection,
        request: Option<&'a RequestHead>,
        response: Option<&'a ResponseHead>,
    ) -> LogContext<'a> {
        LogContext {
            request,
            response,
            start: SystemTime::UNIX_EPOCH,
            protocol: Some(if self.http2 { "HTTP/2" } else { "HTTP/1.1" }),
            status: self.status,
            attempts: self.attempts,
            upstream_host: self.upstream,
            upstream_failure: self.transport.as_deref(),
            schemeless: self.schemeless,
            nameless: self.nameless,
            upstream_cluster: self.target.map(|target| target.cluster.name.as_str()),
            route_name: self.route.map(|route| &*route.name),
            downstream_remote: Some(connection.remote),
            downstream_local: Some(connection.local),
            connection_id: connection.id,
            server_name: connection.server_name.as_deref(),
            tls_version: connection.tls_version,
            ..LogContext::default()
        }
    }

    /// Writes the access log lines of a request of which no head could be read
    /// (HTTP/2).
    pub(crate) fn log_unread(connection: &Connection, listener: &Listener, flag: ResponseFlag) {
        if listener.config.access_logs.is_empty() {
            return;
        }
        let record = Self::new(true);
        let context = LogContext {
            start: connection.worker.time_of_day(record.started),
            flags: flag.as_str(),
            duration: Some(clock::since(record.started)),
            ..record.context(connection, None, None)
        };
        connection.worker.logs.borrow_mut().log(&listener.config.access_logs, &context);
    }

    /// Writes the access log lines of a request that has ended.
    pub(crate) fn log(&self, connection: &Connection, listener: &Listener, ends: LogEnds<'_>) {
        let mut logs = connection.worker.logs.borrow_mut();
        if !logs.wants(&listener.config.access_logs) {
            return;
        }
        let elapsed = clock::since(self.started);
        let flags = self.flags.to_string();
        let context = LogContext {
            start: connection.worker.time_of_day(self.started),
            flags: &flags,
            details: Some(&self.details),
            bytes_received: self.received,
            response_tx_duration: self.first_byte.map(|at| (self.started + elapsed) - at),
            bytes_sent: self.sent,
            duration: Some(elapsed),
            request_duration: ends.completed.map(|at| at - self.started),
            response_duration: self.first_byte.map(|at| at - self.started),
            trailers: ends.trailers,
            // Bytes that are no request have no headers either.
            ..self.context(
                connection,
                Some(ends.request).filter(|head| !head.method().is_empty()),
                self.replied.then_some(ends.response),
            )
        };
        logs.log(&listener.config.access_logs, &context);
    }
}
