//! Busy workers give way to a configuration that has waited too long for their core.
//!
//! The control thread is nicer than the workers, so that no request waits for a table.
//! On a core that a worker saturates this leaves it a tenth of the time, some
//! milliseconds after dozens, and a thread may not take its nice value back without a
//! privilege. So, once a response of the scheduler that is coming in has been without a
//! core for longer than [`LATE`], workers that are busy on the core that the control
//! thread waits for leave it for as long as they had it, until the response is in force.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::plane::Plane;

/// So long the control thread may be without a core.
const LATE: Duration = Duration::from_millis(3);
/// The longest time that a worker leaves its core at once.
const LONGEST: Duration = Duration::from_millis(1);

/// What the control thread has to do with a response; written by it, read by workers.
#[derive(Debug)]
pub(crate) struct Urgency {
    zero: Instant,
    /// A response is coming in.
    response: AtomicBool,
    /// The thread's last sign of life meanwhile, in nanoseconds after `zero`.
    alive: AtomicU64,
    /// It has been late for this response.
    late: AtomicBool,
    thread: OnceLock<Option<Thread>>,
}

impl Default for Urgency {
    fn default() -> Self {
        Self {
            zero: Instant::now(),
            response: AtomicBool::default(),
            alive: AtomicU64::default(),
            late: AtomicBool::default(),
            thread: OnceLock::new(),
        }
    }
}

impl Urgency {
    /// The control thread runs.
    pub(crate) fn sign_of_life(&self) {
        if self.has_response() {
            self.alive.store(self.nanos(Instant::now()), Ordering::Relaxed);
        }
    }

    fn has_response(&self) -> bool {
        self.response.load(Ordering::Relaxed)
    }

    /// True if the control thread should have the core that the caller runs on.
    fn is_late(&self, now: Instant) -> bool {
        let silent = self.nanos(now).saturating_sub(self.alive.load(Ordering::Relaxed));
        if !self.late.load(Ordering::Relaxed) && silent < LATE.as_nanos() as u64 {
            return false;
        }
        let late = self.thread.get().is_some_and(|t| t.as_ref().is_some_and(Thread::waits_here));
        if late {
            self.late.store(true, Ordering::Relaxed);
        }
        late
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.zero).as_nanos() as u64
    }
}

/// A thread's state, as proc(5) has it in `/proc/pid/task/tid/stat`.
#[derive(Debug)]
struct Thread(File);

impl Thread {
    fn calling() -> Option<Self> {
        File::open("/proc/thread-self/stat").ok().map(Self)
    }

    /// True if it has something to do, and waits for the core of the caller, another
    /// thread.
    fn waits_here(&self) -> bool {
        let mut line = [0; 512];
        let Ok(len) = self.0.read_at(&mut line, 0) else { return false };
        let runnable_on = std::str::from_utf8(&line[..len]).ok().and_then(runnable_on);
        runnable_on.is_some_and(|core| core == rustix::thread::sched_getcpu())
    }
}

/// The core on which a thread runs or waits for its turn, by its line of `stat`; none
/// if it has nothing to do.
fn runnable_on(stat: &str) -> Option<usize> {
    // The name before may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace();
    // Fields 3, `state`, and 39, `processor`.
    (fields.next()? == "R").then(|| fields.nth(35)?.parse().ok())?
}

/// Tells of the responses of a stream, on the thread that takes them in.
pub(crate) struct Responses(Arc<Plane>);

impl Responses {
    /// For the calling thread, the only one of its plane.
    pub(crate) fn new(plane: Arc<Plane>) -> Self {
        plane.urgency.thread.get_or_init(Thread::calling);
        Self(plane)
    }

    /// Part of a response is there, and more is to come.
    pub(crate) fn more_to_come(&self) {
        self.0.urgency.response.store(true, Ordering::Relaxed);
        self.0.urgency.sign_of_life();
    }

    /// What came in is in force.
    pub(crate) fn over(&self) {
        self.0.urgency.response.store(false, Ordering::Relaxed);
        self.0.urgency.late.store(false, Ordering::Relaxed);
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.over();
    }
}

/// What a worker does, as far as it is known while a response is coming in.
#[derive(Clone, Copy)]
enum Pace {
    Unknown,
    WaitsSince(Instant),
    RunsSince { begin: Instant, waited: Duration },
}

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::Unknown) };
}

/// A worker has nothing to do until something comes.
pub(crate) fn before_wait(urgency: &Urgency) {
    if !urgency.has_response() {
        return PACE.set(Pace::Unknown);
    }
    let mut now = Instant::now();
    if let Pace::RunsSince { begin, waited } = PACE.get()
        && let Some(time) = leave_for(now - begin, waited)
        && urgency.is_late(now)
    {
        std::thread::sleep(time);
        now = Instant::now();
    }
    PACE.set(Pace::WaitsSince(now));
}

/// Something has come for a worker.
pub(crate) fn after_wait() {
    if let Pace::WaitsSince(since) = PACE.get() {
        let begin = Instant::now();
        PACE.set(Pace::RunsSince { begin, waited: begin - since });
    }
}

/// How long a worker leaves its core that ran for so long after it had waited for so
/// long; none if others had the core for longer than it.
fn leave_for(ran: Duration, waited: Duration) -> Option<Duration> {
    (waited < ran).then_some(ran.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Node;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_busy_workers_leave_and_never_for_long() {
        assert_eq!(leave_for(MS / 5, MS / 100), Some(MS / 5));
        assert_eq!(leave_for(5 * MS, MS), Some(LONGEST));
        assert_eq!(leave_for(MS / 5, 2 * MS), None);
    }

    #[test]
    fn a_response_is_urgent_until_it_is_in_force() {
        let plane = Plane::new(1, Node::default());
        let responses = Responses::new(Arc::clone(&plane));
        assert!(!plane.urgency.has_response());
        responses.more_to_come();
        assert!(plane.urgency.has_response());
        plane.urgency.late.store(true, Ordering::Relaxed);
        responses.over();
        assert!(!plane.urgency.has_response() && !plane.urgency.late.load(Ordering::Relaxed));
        responses.more_to_come();
        drop(responses);
        assert!(!plane.urgency.has_response(), "a stream that ended has nothing urgent");
    }

    #[test]
    fn late_is_who_was_silent_and_waits_for_this_core() {
        let plane = Plane::new(1, Node::default());
        let urgency = &plane.urgency;
        let responses = Responses::new(Arc::clone(&plane));
        responses.more_to_come();
        let now = Instant::now();
        // The thread that tells is the one that asks: it has this core.
        assert!(!urgency.is_late(now), "it has just been heard of");
        // It may change cores while it looks.
        assert!((0..100).any(|_| urgency.is_late(now + 2 * LATE)));
        assert!((0..100).any(|_| urgency.is_late(now)), "what was late stays late");
        responses.over();
        assert!(!urgency.is_late(now));
    }

    #[test]
    fn a_line_of_stat_says_who_waits_where() {
        let line = |state: &str, core: usize| {
            let zeros = "0 ".repeat(35);
            format!("17 (con) S) trol) {state} {zeros}{core} 0 0 0\n")
        };
        assert_eq!(runnable_on(&line("R", 3)), Some(3));
        assert_eq!(runnable_on(&line("S", 3)), None);
        assert_eq!(runnable_on("17 (control) R 1 2"), None);
        assert_eq!(runnable_on(""), None);
    }
}
