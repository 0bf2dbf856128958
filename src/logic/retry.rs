//! Whether a failed attempt is made again, and when (Envoy: `RetryStateImpl`).

use std::time::Duration;

use crate::headers::{HeaderId, ResponseHead};
use crate::model::{RetryOn, RetryPolicy};

/// How an attempt ended before anything of it went to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Response headers came.
    Response {
        /// HTTP status.
        status: u16,
        /// `x-envoy-ratelimited` was among them: never tried again.
        ratelimited: bool,
        /// `grpc-status` among the headers (a trailers-only answer).
        grpc_status: Option<u32>,
    },
    /// No response headers came.
    Reset(ResetKind),
}

/// Why an attempt ended without response headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// Connection refused, unreachable, TLS handshake failed.
    ConnectFailure,
    /// Connection not made in time.
    ConnectTimeout,
    /// The upstream closed the connection.
    Termination,
    /// HTTP/2 RST_STREAM other than REFUSED_STREAM.
    RemoteReset,
    /// HTTP/2 REFUSED_STREAM, or GOAWAY below the stream.
    RemoteRefused,
    /// A response that cannot be read.
    ProtocolError,
    /// A circuit breaker: never tried again.
    Overflow,
}

impl Outcome {
    /// The outcome that response headers stand for.
    #[must_use]
    pub fn of_response(head: &ResponseHead) -> Self {
        let grpc_status = head.headers.first(HeaderId::GrpcStatus);
        Self::Response {
            status: head.status,
            ratelimited: head.headers.has(HeaderId::XEnvoyRatelimited),
            grpc_status: grpc_status
                .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()),
        }
    }
}

impl RetryPolicy {
    /// True if the policy's conditions cover this outcome.
    #[must_use]
    pub fn covers(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Response { ratelimited: true, .. } => false,
            Outcome::Response { status, grpc_status, .. } => {
                let on = &self.on;
                (on.server_error && (500..600).contains(&status))
                    || (on.gateway_error && (502..=504).contains(&status))
                    || (on.retriable_4xx && status == 409)
                    || (on.retriable_status_codes && self.status_codes.contains(&status))
                    || grpc_status
                        .and_then(|code| 1u32.checked_shl(code))
                        .is_some_and(|bit| on.grpc_statuses & bit != 0)
            }
            Outcome::Reset(kind) => covers_reset(&self.on, kind),
        }
    }

    /// How long to wait before retry number `retry` (from 1): uniform in
    /// [0, min(`base` x 2^(retry-1), `max`)), in whole milliseconds; `draw` is a
    /// uniform random number (Envoy: `JitteredExponentialBackOffStrategy`).
    #[must_use]
    pub fn back_off(&self, retry: u32, draw: u64) -> Duration {
        let doublings = retry.saturating_sub(1).min(31);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.max);
        let ceiling = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(draw % ceiling.max(1))
    }
}

fn covers_reset(on: &RetryOn, kind: ResetKind) -> bool {
    if kind == ResetKind::Overflow {
        return false;
    }
    on.server_error
        || on.gateway_error
        || on.reset
        || (on.refused_stream && kind == ResetKind::RemoteRefused)
        || (on.connect_failure
            && matches!(kind, ResetKind::ConnectFailure | ResetKind::ConnectTimeout))
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass the outcome on. `after_retry`: an earlier retry is to be counted as
    /// a success (`upstream_rq_retry_success`).
    Pass {
        /// A retry was made before, and this outcome is none to retry.
        after_retry: bool,
    },
    /// Pass the outcome on, flag `URX` (`upstream_rq_retry_limit_exceeded`).
    LimitExceeded,
    /// Pass the outcome on, flag `UO` (`upstream_rq_retry_overflow`): the
    /// cluster's retry budget is used up.
    Overflow,
    /// Try again after this time (`upstream_rq_retry`). The retry counts against
    /// the budget from now until its attempt ends.
    Retry(Duration),
}

/// The retries of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    made: u32,
}

impl Retries {
    /// Retries made so far.
    #[must_use]
    pub fn made(self) -> u32 {
        self.made
    }

    /// Judges an attempt. `budget_free` asks whether the cluster may have one
    /// more retry outstanding and takes the place if so; it is asked only if the
    /// retry would otherwise be made.
    pub fn judge(
        &mut self,
        policy: &RetryPolicy,
        outcome: Outcome,
        draw: u64,
        budget_free: impl FnOnce() -> bool,
    ) -> Verdict {
        if !policy.covers(outcome) {
            return Verdict::Pass { after_retry: self.made > 0 };
        }
        if self.made >= policy.retries {
            return Verdict::LimitExceeded;
        }
        // Envoy counts the retry as used even if the budget then refuses it.
        self.made += 1;
        if budget_free() {
            Verdict::Retry(policy.back_off(self.made, draw))
        } else {
            Verdict::Overflow
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy {
            on,
            retries: 5,
            base: Duration::from_millis(500),
            max: Duration::from_secs(5),
            status_codes: vec![418],
        }
    }

    /// `retry_on: 5xx,connect-failure`, as the scheduler sends it.
    fn seldon() -> RetryPolicy {
        policy(RetryOn { server_error: true, connect_failure: true, ..RetryOn::default() })
    }

    fn status(status: u16) -> Outcome {
        Outcome::Response { status, ratelimited: false, grpc_status: None }
    }

    const RESETS: [ResetKind; 7] = [
        ResetKind::ConnectFailure,
        ResetKind::ConnectTimeout,
        ResetKind::Termination,
        ResetKind::RemoteReset,
        ResetKind::RemoteRefused,
        ResetKind::ProtocolError,
        ResetKind::Overflow,
    ];

    #[test]
    fn the_scheduler_s_policy_retries_what_envoy_retries() {
        for code in [500, 502, 503, 504, 599] {
            assert!(seldon().covers(status(code)), "{code}");
        }
        for code in [100, 200, 302, 404, 409, 418, 429, 499, 600] {
            assert!(!seldon().covers(status(code)), "{code}");
        }
        for kind in RESETS {
            assert_eq!(seldon().covers(Outcome::Reset(kind)), kind != ResetKind::Overflow);
        }
    }

    #[test]
    fn flags_of_the_answer() {
        let mut head = ResponseHead { status: 503, ..ResponseHead::default() };
        head.headers.push(b"x-envoy-overloaded", b"true");
        assert!(seldon().covers(Outcome::of_response(&head)));
        head.headers.push(b"x-envoy-ratelimited", b"true");
        assert!(!seldon().covers(Outcome::of_response(&head)));
        // Trailers-only gRPC errors are judged by HTTP status, unless asked for.
        let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
        head.headers.push(b"grpc-status", b"14");
        let outcome = Outcome::of_response(&head);
        assert!(!seldon().covers(outcome));
        assert!(policy(RetryOn { grpc_statuses: 1 << 14, ..RetryOn::default() }).covers(outcome));
        let odd = Outcome::Response { status: 200, ratelimited: false, grpc_status: Some(99) };
        assert!(!policy(RetryOn { grpc_statuses: u32::MAX, ..RetryOn::default() }).covers(odd));
    }

    #[test]
    fn each_condition_covers_its_own() {
        let none = RetryOn::default();
        let resets = |on: RetryOn| {
            let covered = RESETS.map(|kind| policy(on).covers(Outcome::Reset(kind)));
            covered.map(|c| if c { '#' } else { '.' }).iter().collect::<String>()
        };
        assert_eq!(resets(none), ".......");
        assert_eq!(resets(RetryOn { connect_failure: true, ..none }), "##.....");
        assert_eq!(resets(RetryOn { refused_stream: true, ..none }), "....#..");
        assert_eq!(resets(RetryOn { reset: true, ..none }), "######.");
        assert_eq!(resets(RetryOn { gateway_error: true, ..none }), "######.");
        let gateway = policy(RetryOn { gateway_error: true, ..none });
        assert_eq!([500, 502, 505].map(|c| gateway.covers(status(c))), [false, true, false]);
        assert!(policy(RetryOn { retriable_4xx: true, ..none }).covers(status(409)));
        let codes = policy(RetryOn { retriable_status_codes: true, ..none });
        assert_eq!([418, 500].map(|c| codes.covers(status(c))), [true, false]);
    }

    #[test]
    fn six_attempts_then_the_limit() {
        let (policy, mut retries) = (seldon(), Retries::default());
        for retry in 1..=5 {
            let verdict = retries.judge(&policy, status(503), 123, || true);
            assert_eq!(verdict, Verdict::Retry(Duration::from_millis(123)), "{retry}");
        }
        assert_eq!(retries.judge(&policy, status(503), 0, || true), Verdict::LimitExceeded);
        let passed = retries.judge(&policy, status(200), 0, || true);
        assert_eq!(passed, Verdict::Pass { after_retry: true });
        let first = Retries::default().judge(&policy, status(404), 0, || true);
        assert_eq!(first, Verdict::Pass { after_retry: false });
    }

    #[test]
    fn the_budget_is_asked_only_for_a_retry() {
        let policy = seldon();
        let verdict = Retries::default().judge(&policy, status(503), 0, || false);
        assert_eq!(verdict, Verdict::Overflow);
        let mut used_up = Retries { made: 5 };
        let unasked = || -> bool { panic!("asked") };
        assert_eq!(used_up.judge(&policy, status(503), 0, unasked), Verdict::LimitExceeded);
    }

    proptest! {
        #[test]
        fn back_off_stays_below_its_ceiling(retry in 1u32..200, draw: u64) {
            let caps = [500, 1000, 2000, 4000, 5000];
            let cap = caps[(retry as usize - 1).min(4)];
            prop_assert!(seldon().back_off(retry, draw) < Duration::from_millis(cap));
            prop_assert_eq!(seldon().back_off(retry, cap - 1), Duration::from_millis(cap - 1));
        }
    }
}
