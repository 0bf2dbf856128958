//! Retry policies.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;

use super::Invalid;
use super::error::{At, overlook, refuse, warn_once};
use super::scalar::{duration, limit, wrapped};
use crate::model::{RetryOn, RetryPolicy};

/// Envoy's default base interval.
const BASE: Duration = Duration::from_millis(25);

pub(super) fn retry_policy(p: &pb::RetryPolicy) -> Result<RetryPolicy, Invalid> {
    refuse!(p; per_try_idle_timeout, retry_priority, retry_options_predicates,
        rate_limited_retry_back_off, retriable_headers, retriable_request_headers);
    overlook!(p, "RetryPolicy"; retry_host_predicate, host_selection_retry_max_attempts,
        refresh_cluster_on_retry);
    if limit(p.per_try_timeout.as_ref(), "per_try_timeout")?.is_some() {
        return Err(Invalid::unsupported("per_try_timeout"));
    }
    let (base, max) = match &p.retry_back_off {
        None => (BASE, BASE * 10),
        Some(back_off) => intervals(back_off).at("retry_back_off")?,
    };
    let code = |c: &u32| {
        let valid = u16::try_from(*c).ok().filter(|c| (100..600).contains(c));
        valid.ok_or_else(|| Invalid::new(format!("{c} is no status code")))
    };
    let codes = p.retriable_status_codes.iter().map(code).collect::<Result<_, _>>();
    Ok(RetryPolicy {
        on: retry_on(&p.retry_on).at("retry_on")?,
        retries: wrapped(p.num_retries, 1),
        base,
        max,
        status_codes: codes.at("retriable_status_codes")?,
    })
}

fn intervals(b: &pb::retry_policy::RetryBackOff) -> Result<(Duration, Duration), Invalid> {
    let required = || Invalid::new("value is required").at("base_interval");
    let base = duration(b.base_interval.ok_or_else(required)?).at("base_interval")?;
    if base.is_zero() {
        return Err(Invalid::new("value must be greater than 0s").at("base_interval"));
    }
    // Envoy rounds up to a millisecond.
    let base = base.max(Duration::from_millis(1));
    let max = match b.max_interval {
        Some(max) => duration(max).at("max_interval")?,
        None => base.saturating_mul(10),
    };
    if max < base {
        return Err(Invalid::new(
            "retry_policy.max_interval must greater than or equal to the base_interval",
        ));
    }
    Ok((base, max))
}

fn retry_on(text: &str) -> Result<RetryOn, Invalid> {
    let mut on = RetryOn::default();
    for token in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        match token {
            "5xx" => on.server_error = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "connect-failure" => on.connect_failure = true,
            "refused-stream" => on.refused_stream = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "retriable-status-codes" => on.retriable_status_codes = true,
            "cancelled" => on.grpc_statuses |= 1 << 1,
            "deadline-exceeded" => on.grpc_statuses |= 1 << 4,
            "resource-exhausted" => on.grpc_statuses |= 1 << 8,
            "internal" => on.grpc_statuses |= 1 << 13,
            "unavailable" => on.grpc_statuses |= 1 << 14,
            "envoy-ratelimited" | "reset-before-request" | "retriable-headers" => {
                return Err(Invalid::new(format!("'{token}' is not supported")));
            }
            // As Envoy does with words that it does not know.
            other => warn_once(&format!("retry_on '{other}'"), "has no effect"),
        }
    }
    Ok(on)
}
