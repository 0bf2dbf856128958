//! The cells that statistics are made of. Each has one writing thread, so that an
//! increment is a load and a store, not a locked instruction.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Which shard a thread writes. Shard 0 is the control thread's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// 0 for the control thread, 1.. for workers.
    pub index: usize,
    /// Number of shards: workers plus one.
    pub of: usize,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value since start or the last reset.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Back to zero (`/reset_counters`); may lose an increment in flight.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A gauge with one writer. One shard's part may be negative.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    /// This shard's part, to be added up with wrapping.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Upper bounds of Envoy's default histogram buckets, in milliseconds.
pub const BUCKETS_MS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram of durations in milliseconds with one writer.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Histogram {
    sum_us: Counter,
    buckets: [Counter; BUCKETS_MS.len() + 1],
}

impl Histogram {
    /// Records one duration, rounded down to whole milliseconds as Envoy does.
    pub fn record(&self, elapsed: Duration) {
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.record_ms(ms);
    }

    /// Records one value in milliseconds.
    pub fn record_ms(&self, ms: u64) {
        #[allow(clippy::cast_precision_loss)]
        let value = ms as f64;
        let bucket = BUCKETS_MS.iter().position(|b| value <= *b).unwrap_or(BUCKETS_MS.len());
        self.buckets[bucket].inc();
        self.sum_us.add(ms.saturating_mul(1000));
    }

    /// Counts per bucket (not cumulative; the last is above every bound) and
    /// the sum in milliseconds.
    #[must_use]
    pub fn read(&self) -> ([u64; BUCKETS_MS.len() + 1], f64) {
        #[allow(clippy::cast_precision_loss)]
        let sum = self.sum_us.value() as f64 / 1000.0;
        (std::array::from_fn(|i| self.buckets[i].value()), sum)
    }
}

/// Counters by response code. Most clusters answer with one code; the others
/// grow by links.
#[repr(C)]
#[derive(Debug, Default)]
pub struct CodeCounters {
    first: (AtomicU32, Counter),
    more: Lazy<MoreCodes>,
}

/// The codes after the first.
#[derive(Debug, Default)]
struct MoreCodes {
    cells: [(AtomicU32, Counter); 5],
    more: Lazy<MoreCodes>,
}

/// Adds one to `code` if this cell is its own or free.
fn count_code((held, counter): &(AtomicU32, Counter), code: u32) -> bool {
    let there = held.load(Ordering::Relaxed);
    if there == 0 {
        held.store(code, Ordering::Relaxed);
    } else if there != code {
        return false;
    }
    counter.inc();
    true
}

impl CodeCounters {
    /// Adds one to this status code.
    pub fn inc(&self, code: u16) {
        let code = u32::from(code);
        if count_code(&self.first, code) {
            return;
        }
        let mut link = self.more.make();
        while !link.cells.iter().any(|cell| count_code(cell, code)) {
            link = link.more.make();
        }
    }

    /// Back to zero (`/reset_counters`).
    pub fn reset(&self) {
        self.cells().for_each(|(_, counter)| counter.reset());
    }

    /// Every code seen and its count.
    pub fn each(&self) -> impl Iterator<Item = (u16, u64)> {
        let seen = |(code, n): &(AtomicU32, Counter)| {
            let code = u16::try_from(code.load(Ordering::Relaxed)).unwrap_or(0);
            (code != 0).then_some((code, n.value()))
        };
        self.cells().filter_map(seen)
    }

    fn cells(&self) -> impl Iterator<Item = &(AtomicU32, Counter)> {
        let links = std::iter::successors(self.more.get(), |link| link.more.get());
        std::iter::once(&self.first).chain(links.flat_map(|link| &link.cells))
    }
}

/// A part that is made at its first use, so that what is rare costs a pointer.
#[derive(Debug)]
pub struct Lazy<T>(OnceLock<Box<T>>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Default> Lazy<T> {
    /// The part, made if need be.
    pub fn make(&self) -> &T {
        self.0.get_or_init(Box::default)
    }

    /// The part, if it was ever used.
    pub fn get(&self) -> Option<&T> {
        self.0.get().map(|part| &**part)
    }
}

/// A part per shard, each made when its thread first uses it. Those of the first
/// workers are found without a detour.
#[repr(C)]
#[derive(Debug)]
pub struct PerShard<T> {
    /// Of workers 1 to 3.
    first: [Lazy<T>; 3],
    /// By shard.
    more: OnceLock<Box<[Lazy<T>]>>,
}

impl<T> Default for PerShard<T> {
    fn default() -> Self {
        Self { first: Default::default(), more: OnceLock::new() }
    }
}

impl<T: Default> PerShard<T> {
    /// The calling thread's part.
    pub fn of(&self, shard: Shard) -> &T {
        if let Some(part) = self.first.get(shard.index.wrapping_sub(1)) {
            return part.make();
        }
        let more = self.more.get_or_init(|| (0..shard.of).map(|_| Lazy::default()).collect());
        more[shard.index.min(more.len() - 1)].make()
    }

    /// The calling thread's part, if it was used.
    pub fn get(&self, shard: Shard) -> Option<&T> {
        self.first.get(shard.index.wrapping_sub(1))?.get()
    }

    /// All parts that were used.
    pub fn used(&self) -> impl Iterator<Item = &T> {
        let more = self.more.get().into_iter().flatten();
        self.first.iter().chain(more).filter_map(Lazy::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_counters_grow_beyond_their_cells() {
        let codes = CodeCounters::default();
        for code in 200..220 {
            codes.inc(code);
            codes.inc(code);
        }
        let seen: Vec<_> = codes.each().collect();
        assert_eq!(seen, (200..220).map(|c| (c, 2)).collect::<Vec<_>>());
    }

    #[test]
    fn histogram_bounds_are_inclusive() {
        let h = Histogram::default();
        for ms in [0, 1, 5, 6, 4_000_000] {
            h.record_ms(ms);
        }
        let (buckets, sum) = h.read();
        assert_eq!((buckets[0], buckets[1], buckets[2], buckets[3], buckets[19]), (1, 1, 1, 1, 1));
        assert!((sum - 4_000_012.0).abs() < 1e-6);
    }
}
