//! An idle timer that costs nothing while there is activity: a touch stores a
//! time, the runtime's timer is only moved when it fires early.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::clock;

/// What a limit of zero (off, as Envoy has it) becomes: longer than any process.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Fires when nothing was touched for `limit`; never if that is zero.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    alarm: Alarm,
    limit: Duration,
    last: Instant,
}

#[derive(Debug)]
enum Alarm {
    /// An entry of the runtime's own.
    Own(Pin<Box<Sleep>>),
    /// A place among the timers of a connection, once it waits.
    Shared(Rc<Timers>, Option<usize>),
}

impl IdleTimer {
    /// A timer that starts now.
    pub(crate) fn new(limit: Duration) -> Self {
        let last = now();
        let limit = or_never(limit);
        Self { alarm: Alarm::Own(Box::pin(tokio::time::sleep_until(last + limit))), limit, last }
    }

    /// The same at the cost of a place among `timers`, whose owner wakes it.
    pub(crate) fn shared(timers: &Rc<Timers>, limit: Duration) -> Self {
        let alarm = Alarm::Shared(Rc::clone(timers), None);
        Self { alarm, limit: or_never(limit), last: now() }
    }

    /// Starts anew with another limit.
    pub(crate) fn restart(&mut self, limit: Duration) {
        self.limit = or_never(limit);
        self.last = now();
        let due = self.last + self.limit;
        match &mut self.alarm {
            Alarm::Own(sleep) if sleep.deadline() > due => sleep.as_mut().reset(due),
            Alarm::Shared(timers, Some(place)) => timers.bring_forward(*place, due),
            _ => {}
        }
    }

    /// Notes activity.
    pub(crate) fn touch(&mut self) {
        self.last = now();
    }

    /// Ready once the limit has passed since the last activity.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.last + self.limit;
        if let Alarm::Shared(timers, _) = &self.alarm
            && timers.0.borrow().orphaned
        {
            self.alarm = Alarm::Own(Box::pin(tokio::time::sleep_until(due)));
        }
        match &mut self.alarm {
            Alarm::Own(sleep) => {
                while sleep.as_mut().poll(cx).is_ready() {
                    if due <= Instant::now() {
                        return Poll::Ready(());
                    }
                    sleep.as_mut().reset(due);
                }
                Poll::Pending
            }
            Alarm::Shared(timers, place) => {
                if place.is_some_and(|place| timers.waits(place, cx)) {
                    return Poll::Pending;
                }
                if due <= now() {
                    return Poll::Ready(());
                }
                *place = Some(timers.wait(*place, due, cx));
                Poll::Pending
            }
        }
    }
}

impl Drop for IdleTimer {
    fn drop(&mut self) {
        if let Alarm::Shared(timers, Some(place)) = &self.alarm {
            timers.leave(*place);
        }
    }
}

/// The idle timers of many streams behind one entry of the runtime's. Streams
/// come and go without touching that: it fires for the earliest of those that
/// waited when it was set.
#[derive(Debug, Default)]
pub(crate) struct Timers(RefCell<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<(Instant, Waker)>>,
    free: Vec<usize>,
    /// No place is due before this.
    next: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    owner: Option<Waker>,
    /// The owner has ended before its streams.
    orphaned: bool,
}

impl Timers {
    /// The owner ends: those that wait see to themselves.
    pub(crate) fn orphan(&self) {
        let waiting = &mut *self.0.borrow_mut();
        waiting.orphaned = true;
        for (_, waker) in waiting.places.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Wakes the timers that are due. To be polled by the task that owns them.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) {
        let waiting = &mut *self.0.borrow_mut();
        match &mut waiting.owner {
            Some(owner) => owner.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        while let Some(next) = waiting.next {
            let sleep =
                waiting.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            let now = Instant::now();
            for place in &mut waiting.places {
                if let Some((_, waker)) = place.take_if(|(due, _)| *due <= now) {
                    waker.wake();
                }
            }
            waiting.next = waiting.places.iter().flatten().map(|(due, _)| *due).min();
        }
    }

    /// True if a place waits for this task, and has not fired.
    fn waits(&self, place: usize, cx: &Context<'_>) -> bool {
        let waiting = self.0.borrow();
        let held = waiting.places.get(place).and_then(Option::as_ref);
        held.is_some_and(|(_, waker)| waker.will_wake(cx.waker()))
    }

    /// Waits at a place, a new one if there is none.
    fn wait(&self, place: Option<usize>, due: Instant, cx: &Context<'_>) -> usize {
        let waiting = &mut *self.0.borrow_mut();
        let place = place.or_else(|| waiting.free.pop()).unwrap_or_else(|| {
            waiting.places.push(None);
            waiting.places.len() - 1
        });
        waiting.places[place] = Some((due, cx.waker().clone()));
        waiting.advance(due);
        place
    }

    /// A place is due earlier than it said, if it waits.
    fn bring_forward(&self, place: usize, to: Instant) {
        let waiting = &mut *self.0.borrow_mut();
        if let Some(Some((due, _))) = waiting.places.get_mut(place)
            && *due > to
        {
            *due = to;
            waiting.advance(to);
        }
    }

    fn leave(&self, place: usize) {
        let waiting = &mut *self.0.borrow_mut();
        if let Some(held) = waiting.places.get_mut(place) {
            *held = None;
            waiting.free.push(place);
        }
    }
}

impl Waiting {
    fn advance(&mut self, due: Instant) {
        if self.next.is_none_or(|next| due < next) {
            self.next = Some(due);
            if let Some(owner) = &self.owner {
                owner.wake_by_ref();
            }
        }
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

/// The running task's time, see [`clock::now`].
fn now() -> Instant {
    Instant::from_std(clock::now())
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

    /// Runs the owner of `timers` beside a timer until that has expired.
    async fn expire(timers: &Rc<Timers>, timer: &mut IdleTimer) {
        poll_fn(|cx| {
            let expired = timer.poll_expired(cx);
            timers.poll(cx);
            expired
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn shared_timers_fire_each_at_its_time() {
        let start = Instant::now();
        let timers = Rc::new(Timers::default());
        let seconds = |n| IdleTimer::shared(&timers, Duration::from_secs(n));
        let (mut long, mut short, mut off) = (seconds(300), seconds(2), seconds(0));
        poll_fn(|cx| Poll::Ready(long.poll_expired(cx).is_pending())).await;
        poll_fn(|cx| Poll::Ready(off.poll_expired(cx).is_pending())).await;
        expire(&timers, &mut short).await;
        assert!((2..3).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        drop(short);
        tokio::time::advance(Duration::from_secs(100)).await;
        long.touch();
        expire(&timers, &mut long).await;
        assert!((402..403).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let mut again = seconds(3600);
        poll_fn(|cx| Poll::Ready(again.poll_expired(cx).is_pending())).await;
        again.restart(Duration::from_secs(5));
        expire(&timers, &mut again).await;
        assert!((407..408).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let day = Duration::from_secs(24 * 3600);
        assert!(tokio::time::timeout(day, expire(&timers, &mut off)).await.is_err());
        let start = Instant::now();
        let mut left = seconds(5);
        poll_fn(|cx| Poll::Ready(left.poll_expired(cx).is_pending())).await;
        timers.orphan();
        poll_fn(|cx| left.poll_expired(cx)).await;
        assert!((5..6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }
}
