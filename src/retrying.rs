//! Retries of one request: the policy's decision ([`crate::logic::retry`]), the
//! cluster's budget, the statistics.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::flags::ResponseFlag;
use crate::logic::retry::{self, Outcome};
use crate::model::{Cluster, Forward, RetryPolicy, WeightedTarget};
use crate::record::Record;
use crate::request_body::RequestBody;
use crate::worker::Worker;

/// Retries of one request under its route's policy and its cluster's budget.
pub(crate) struct Retrying<'a> {
    policy: Option<&'a RetryPolicy>,
    target: &'a WeightedTarget,
    limit: u32,
    retries: retry::Retries,
    /// A place in the cluster's budget is taken.
    held: bool,
}

impl<'a> Retrying<'a> {
    /// No retry made yet.
    pub(crate) fn new(forward: &'a Forward, target: &'a WeightedTarget, cluster: &Cluster) -> Self {
        Self {
            policy: forward.retry.as_deref(),
            target,
            limit: cluster.limits.max_retries,
            retries: retry::Retries::default(),
            held: false,
        }
    }

    /// Judges an attempt: how long to wait before the next, or none.
    pub(crate) fn judge(
        &mut self,
        outcome: Outcome,
        body: &RequestBody,
        worker: &Worker,
        record: &mut Record<'_>,
    ) -> Option<Duration> {
        self.release();
        let policy = self.policy.filter(|_| body.can_replay())?;
        let stats = self.target.cluster.stats.shard(worker.shard);
        let mut retries = self.retries;
        let verdict = retries.judge(policy, outcome, worker.draw(), || self.take_budget());
        self.retries = retries;
        match verdict {
            retry::Verdict::Pass { after_retry } => {
                if after_retry {
                    stats.upstream_rq_retry_success.inc();
                }
                None
            }
            retry::Verdict::LimitExceeded => {
                record.flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
                stats.upstream_rq_retry_limit_exceeded.inc();
                None
            }
            retry::Verdict::Overflow => {
                record.flags.set(ResponseFlag::UpstreamOverflow);
                stats.upstream_rq_retry_overflow.inc();
                None
            }
            retry::Verdict::Retry(pause) => {
                if let Outcome::Response { status, .. } = outcome {
                    stats.retry.make().record(status, None);
                }
                Some(pause)
            }
        }
    }

    /// The wait before a retry is over.
    pub(crate) fn begin(&self, worker: &Worker) {
        let stats = self.target.cluster.stats.shard(worker.shard);
        stats.upstream_rq_retry.inc();
        stats.upstream_rq_retry_backoff_exponential.inc();
    }

    /// Retries made so far.
    pub(crate) fn made(&self) -> u32 {
        self.retries.made()
    }

    fn take_budget(&mut self) -> bool {
        let outstanding = &self.target.cluster.usage.retries;
        self.held = outstanding.fetch_add(1, Relaxed) < self.limit;
        if !self.held {
            outstanding.fetch_sub(1, Relaxed);
        }
        self.held
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            self.target.cluster.usage.retries.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.release();
    }
}
