//! Which requests are logged (Envoy: `AccessLogFilter`).

use crate::logic::format::{LogContext, answer_status};
use crate::logic::matching::any_line;
use crate::model::{LogFilter, LogFilterHeader, StatusOp};

/// gRPC UNKNOWN: what an answer without any status counts as.
const UNKNOWN: u32 = 2;

impl LogFilter {
    /// True if the request is to be logged.
    #[must_use]
    pub fn passes(&self, context: &LogContext<'_>) -> bool {
        match self {
            Self::Status(op, value) => {
                let status = u32::from(context.status);
                match op {
                    StatusOp::Eq => status == *value,
                    StatusOp::Ge => status >= *value,
                    StatusOp::Le => status <= *value,
                    StatusOp::Ne => status != *value,
                }
            }
            Self::Header(header) => header.passes(context),
            Self::GrpcStatus(statuses, exclude) => {
                statuses.contains(&answer_status(context).unwrap_or(UNKNOWN)) != *exclude
            }
            Self::And(filters) => filters.iter().all(|f| f.passes(context)),
            Self::Or(filters) => filters.iter().any(|f| f.passes(context)),
            Self::Always => true,
        }
    }
}

impl LogFilterHeader {
    /// As a route's header matcher: a value rule on an absent header is false,
    /// inverted or not.
    fn passes(&self, context: &LogContext<'_>) -> bool {
        let test = |line: &[u8]| self.value.as_ref().is_none_or(|rule| rule.matches(line));
        let found = context.request.and_then(|head| any_line(head, self.name.as_bytes(), test));
        match (&self.value, found) {
            (None, found) => found.is_some() != self.invert,
            (Some(_), None) => false,
            (Some(_), Some(matched)) => matched != self.invert,
        }
    }
}
