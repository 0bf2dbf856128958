//! An idle timer that costs nothing while there is activity: a touch stores a
//! time, the runtime's timer is only moved when it fires early.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// What a limit of zero (off, as Envoy has it) becomes: longer than any process.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Fires when nothing was touched for `limit`; never if that is zero.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    sleep: Pin<Box<Sleep>>,
    limit: Duration,
    last: Instant,
}

impl IdleTimer {
    /// A timer that starts now.
    pub(crate) fn new(limit: Duration) -> Self {
        let last = Instant::now();
        let limit = or_never(limit);
        Self { sleep: Box::pin(tokio::time::sleep_until(last + limit)), limit, last }
    }

    /// Starts anew with another limit.
    pub(crate) fn restart(&mut self, limit: Duration) {
        let limit = or_never(limit);
        self.last = Instant::now();
        self.limit = limit;
        if self.sleep.deadline() > self.last + limit {
            self.sleep.as_mut().reset(self.last + limit);
        }
    }

    /// Notes activity.
    pub(crate) fn touch(&mut self) {
        self.last = Instant::now();
    }

    /// Ready once the limit has passed since the last activity.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// A route's timeout: counts from the end of the request (Envoy:
/// `RouteAction.timeout`), so that a slow upload does not use it up.
#[derive(Debug, Default)]
pub(crate) struct RouteTimeout {
    limit: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl RouteTimeout {
    /// A timeout of so long; none: never.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, sleep: None }
    }

    /// Ready once the limit has passed since `completed`, the end of the
    /// request.
    pub(crate) fn poll_expired(
        &mut self,
        completed: Option<std::time::Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let (Some(limit), Some(completed)) = (self.limit, completed) else {
            return Poll::Pending;
        };
        let due = Instant::from_std(completed) + limit;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due))).as_mut().poll(cx)
    }
}

fn or_never(limit: Duration) -> Duration {
    if limit.is_zero() { NEVER } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn activity_puts_the_end_off() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(7)).await;
        timer.touch();
        poll_fn(|cx| timer.poll_expired(cx)).await;
        assert!(start.elapsed() >= Duration::from_secs(17));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_off() {
        let mut timer = IdleTimer::new(Duration::ZERO);
        let expired = poll_fn(|cx| timer.poll_expired(cx));
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, expired).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_limit_takes_effect() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Duration::from_secs(3600));
        timer.restart(Duration::from_secs(5));
        poll_fn(|cx| timer.poll_expired(cx)).await;
        assert!(start.elapsed() < Duration::from_secs(6));
    }
}
