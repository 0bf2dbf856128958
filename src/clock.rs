//! The time as a worker's tasks see it. Reading the clock costs some 30 ns, and a
//! request asks for it a dozen times: a task's time is read once, when it is
//! resumed, and stands until it waits again. What it leaves out is the microseconds
//! that the task itself has computed since.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

thread_local! {
    /// When the running task was resumed; none outside of those of [`spawn`].
    static RESUMED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When the running task was resumed; outside of a task of [`spawn`], now.
pub(crate) fn now() -> Instant {
    RESUMED.get().unwrap_or_else(read)
}

/// Time since then, as [`now`] sees it.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Runs a task on this thread, with a time of its own.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    tokio::task::spawn_local(Timed(Box::pin(task)))
}

/// A task with a time of its own. The runtime moves a task several times; a box is
/// moved at less cost.
struct Timed<F>(Pin<Box<F>>);

impl<F: Future<Output = ()>> Future for Timed<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let _running = Running::start();
        self.0.as_mut().poll(cx)
    }
}

/// The runtime's clock, which tests can stop.
fn read() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A task runs; also its panic ends that.
struct Running;

impl Running {
    fn start() -> Self {
        RESUMED.set(Some(read()));
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RESUMED.set(None);
    }
}

/// The time of day, read once a second. A step of the system's clock shows within
/// that.
#[derive(Debug)]
pub(crate) struct WallClock {
    read: Instant,
    time: SystemTime,
    /// When the second of `time` is over.
    over: Instant,
    date: [u8; 29],
}

impl WallClock {
    pub(crate) fn new() -> Self {
        let (read, time) = (now(), SystemTime::now());
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(1) - Duration::from_nanos(since.subsec_nanos().into());
        Self { read, time, over: read + left, date: crate::date::http_date(since.as_secs()) }
    }

    fn renew(&mut self) {
        if now() >= self.over {
            *self = Self::new();
        }
    }

    /// The second of now as `date` writes it.
    pub(crate) fn date(&mut self) -> [u8; 29] {
        self.renew();
        self.date
    }

    /// The time of day at a moment not after [`now`].
    pub(crate) fn at(&mut self, moment: Instant) -> SystemTime {
        self.renew();
        if moment >= self.read {
            self.time + (moment - self.read)
        } else {
            self.time - (self.read - moment)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    const STEP: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_task_has_one_time_until_it_waits() {
        let (outside, seen) = (now(), Rc::new(Cell::new(None)));
        let task = {
            let seen = Rc::clone(&seen);
            async move {
                let first = now();
                seen.set(Some(first));
                tokio::time::sleep(STEP).await;
                assert_eq!(since(first), STEP);
            }
        };
        tokio::task::LocalSet::new()
            .run_until(async { spawn(task).await.expect("no panic") })
            .await;
        assert_eq!(seen.get(), Some(outside));
        assert_eq!(since(outside), STEP, "outside of tasks the clock is read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_the_time_of_its_task() {
        let local = tokio::task::LocalSet::new();
        let failed = local.run_until(async { spawn(async { panic!("expected") }).await }).await;
        assert!(failed.is_err());
        assert_eq!(RESUMED.get(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_follows_the_clock() {
        let mut wall = WallClock::new();
        let (first, read, time) = (wall.date(), wall.read, wall.time);
        assert_eq!(wall.at(read - STEP), time - STEP);
        assert_eq!(wall.at(read), time);
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        assert_eq!(first, crate::date::http_date(seconds));
        tokio::time::advance(Duration::from_secs(1)).await;
        wall.date();
        assert!(wall.read > read, "a second later it is read again");
    }
}
