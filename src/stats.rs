//! Counters, gauges and histograms, sharded by worker.
//!
//! Every cell has **one writing thread**: its worker, or the control thread for
//! shard 0. So an increment is a load and a store, not a locked instruction;
//! readers add the shards up. Shards of a cluster are made when the cluster
//! first sees traffic: a model that nobody calls costs one pointer.
//!
//! Names follow Envoy's statistics (`cluster.<name>.<field>`,
//! `http.<prefix>.<field>`); `crate::admin` turns them into text.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::tls::accounts::TlsStats;

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

/// Counters by response code, few codes per cluster; grows by links.
#[derive(Debug, Default)]
pub struct CodeCounters {
    cells: [(AtomicU32, Counter); 6],
    more: OnceLock<Box<CodeCounters>>,
}

impl CodeCounters {
    /// Adds one to this status code.
    pub fn inc(&self, code: u16) {
        let code = u32::from(code);
        for (cell, counter) in &self.cells {
            let held = cell.load(Ordering::Relaxed);
            if held == code || held == 0 {
                cell.store(code, Ordering::Relaxed);
                return counter.inc();
            }
        }
        self.more.get_or_init(Box::default).inc(u16::try_from(code).unwrap_or(0));
    }

    /// Back to zero (`/reset_counters`).
    pub fn reset(&self) {
        self.cells.iter().for_each(|(_, counter)| counter.reset());
        if let Some(more) = self.more.get() {
            more.reset();
        }
    }

    /// Calls `visit` with every code seen and its count.
    pub fn each(&self, visit: &mut impl FnMut(u16, u64)) {
        for (cell, counter) in &self.cells {
            let code = cell.load(Ordering::Relaxed);
            if code != 0 {
                visit(u16::try_from(code).unwrap_or(0), counter.value());
            }
        }
        if let Some(more) = self.more.get() {
            more.each(visit);
        }
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

/// One metric of a shard, for exposition.
#[derive(Debug)]
pub enum Metric<'a> {
    Counter(&'a Counter),
    Gauge(&'a Gauge),
    Histogram(&'a Histogram),
}

macro_rules! shard {
    (
        $(#[$doc:meta])* $name:ident
        counters { $($counter:ident)* }
        gauges { $($gauge:ident)* }
        histograms { $($histogram:ident)* }
        groups { $($group:ident : $kind:ty)* }
    ) => {
        $(#[$doc])*
        // In the order written: what every request counts stands together, so
        // that a model's first request in a while misses few cache lines.
        #[repr(C)]
        #[derive(Debug, Default)]
        #[allow(missing_docs)]
        pub struct $name {
            $(pub $counter: $crate::stats::Counter,)*
            $(pub $gauge: $crate::stats::Gauge,)*
            $(pub $histogram: $crate::stats::Histogram,)*
            $(pub $group: $kind,)*
        }

        impl $name {
            /// Its counters by name.
            pub const COUNTERS: &'static [(&'static str, fn(&Self) -> &$crate::stats::Counter)] =
                &[$((stringify!($counter), |s| &s.$counter)),*];
            /// Its gauges by name.
            pub const GAUGES: &'static [(&'static str, fn(&Self) -> &$crate::stats::Gauge)] =
                &[$((stringify!($gauge), |s| &s.$gauge)),*];
            /// Its histograms by name.
            pub const HISTOGRAMS: &'static [(&'static str, fn(&Self) -> &$crate::stats::Histogram)] =
                &[$((stringify!($histogram), |s| &s.$histogram)),*];

            /// Calls `visit` with the name and value of every metric, groups aside.
            pub fn each(&self, visit: &mut impl FnMut(&'static str, $crate::stats::Metric<'_>)) {
                $(visit(stringify!($counter), $crate::stats::Metric::Counter(&self.$counter));)*
                $(visit(stringify!($gauge), $crate::stats::Metric::Gauge(&self.$gauge));)*
                $(visit(stringify!($histogram), $crate::stats::Metric::Histogram(&self.$histogram));)*
            }
        }
    };
}

pub(crate) use shard;

shard! {
    /// `cluster.<name>.*` of one worker.
    ClusterShard
    counters {
        upstream_cx_total upstream_cx_http1_total upstream_cx_http2_total
        upstream_cx_connect_fail upstream_cx_connect_timeout
        upstream_cx_destroy upstream_cx_destroy_local upstream_cx_destroy_remote
        upstream_cx_destroy_with_active_rq upstream_cx_destroy_local_with_active_rq
        upstream_cx_destroy_remote_with_active_rq
        upstream_cx_none_healthy upstream_cx_overflow upstream_cx_protocol_error
        upstream_cx_idle_timeout upstream_cx_max_requests
        upstream_cx_rx_bytes_total upstream_cx_tx_bytes_total
        upstream_rq_pending_total upstream_rq_pending_overflow
        upstream_rq_pending_failure_eject upstream_rq_cancelled upstream_rq_timeout
        upstream_rq_per_try_timeout upstream_rq_rx_reset upstream_rq_tx_reset
        upstream_rq_retry upstream_rq_retry_success upstream_rq_retry_overflow
        upstream_rq_retry_limit_exceeded upstream_rq_retry_backoff_exponential
        retry_or_shadow_abandoned
        upstream_rq_total
    }
    gauges { upstream_rq_active upstream_cx_active upstream_rq_pending_active }
    histograms {}
    groups {
        external: ResponseGroup
        internal: Lazy<ResponseGroup>
        retry: Lazy<ResponseGroup>
        connections: Lazy<ConnectionTimes>
    }
}

shard! {
    /// Times of a cluster's connections; most clusters use those of others.
    ConnectionTimes
    counters {}
    gauges {}
    histograms { upstream_cx_connect_ms upstream_cx_length_ms }
    groups { tls: Lazy<TlsStats> }
}

shard! {
    /// `upstream_rq_xx` of a cluster: `external.`, `internal.`, `retry.`; without
    /// a prefix it is the first two together.
    ResponseGroup
    counters {
        upstream_rq_completed upstream_rq_1xx upstream_rq_2xx upstream_rq_3xx
        upstream_rq_4xx upstream_rq_5xx
    }
    gauges {}
    histograms { upstream_rq_time }
    groups { upstream_rq: CodeCounters }
}

impl ResponseGroup {
    /// Counts a final answer; `elapsed` is none for answers made by the proxy.
    pub fn record(&self, status: u16, elapsed: Option<Duration>) {
        self.upstream_rq_completed.inc();
        match status / 100 {
            1 => self.upstream_rq_1xx.inc(),
            2 => self.upstream_rq_2xx.inc(),
            3 => self.upstream_rq_3xx.inc(),
            4 => self.upstream_rq_4xx.inc(),
            5 => self.upstream_rq_5xx.inc(),
            _ => {}
        }
        self.upstream_rq.inc(status);
        if let Some(elapsed) = elapsed {
            self.upstream_rq_time.record(elapsed);
        }
    }
}

shard! {
    /// `http.<stat_prefix>.*` of one worker.
    ListenerShard
    counters {
        downstream_cx_total downstream_cx_http1_total downstream_cx_http2_total
        downstream_cx_ssl_total downstream_cx_destroy downstream_cx_destroy_local
        downstream_cx_destroy_remote downstream_cx_destroy_active_rq
        downstream_cx_destroy_local_active_rq downstream_cx_destroy_remote_active_rq
        downstream_cx_protocol_error downstream_cx_idle_timeout downstream_cx_drain_close
        downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total
        downstream_rq_total downstream_rq_http1_total downstream_rq_http2_total
        downstream_rq_completed downstream_rq_1xx downstream_rq_2xx downstream_rq_3xx
        downstream_rq_4xx downstream_rq_5xx
        downstream_rq_rx_reset downstream_rq_tx_reset downstream_rq_too_large
        downstream_rq_idle_timeout downstream_rq_timeout downstream_rq_non_relative_path
        downstream_rq_ws_on_non_ws_route downstream_rq_response_before_rq_complete
        downstream_rq_failed_path_normalization
        no_route no_cluster rq_direct_response rq_total rq_retry_skipped_request_not_complete
        lua_errors tap_rq_tapped
    }
    gauges {
        downstream_cx_active downstream_cx_http1_active downstream_cx_http2_active
        downstream_cx_ssl_active downstream_rq_active
    }
    histograms { downstream_rq_time downstream_cx_length_ms }
    groups { tls: Lazy<TlsStats> }
}

impl ListenerShard {
    /// Counts a reply to the client (`rq_xx`, `rq_completed`).
    pub fn replied(&self, status: u16) {
        self.downstream_rq_completed.inc();
        match status / 100 {
            1 => self.downstream_rq_1xx.inc(),
            2 => self.downstream_rq_2xx.inc(),
            3 => self.downstream_rq_3xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

/// A part per shard, each made when its thread first uses it. Those of few
/// workers are found without a detour.
#[derive(Debug)]
pub struct PerShard<T> {
    first: [Lazy<T>; 3],
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
        if let Some(part) = self.first.get(shard.index) {
            return part.make();
        }
        let more = self.more.get_or_init(|| (0..shard.of).map(|_| Lazy::default()).collect());
        more[shard.index.min(more.len() - 1)].make()
    }

    /// All parts that were used.
    pub fn used(&self) -> impl Iterator<Item = &T> {
        let more = self.more.get().into_iter().flatten();
        self.first.iter().chain(more).filter_map(Lazy::get)
    }
}

/// Shards of a cluster, made at first use.
#[derive(Debug, Default)]
pub struct ClusterStats {
    shards: PerShard<ClusterShard>,
}

impl ClusterStats {
    /// The calling thread's shard.
    pub fn shard(&self, shard: Shard) -> &ClusterShard {
        self.shards.of(shard)
    }

    /// All shards that were used; none if the cluster saw no traffic.
    pub fn shards(&self) -> impl Iterator<Item = &ClusterShard> {
        self.shards.used()
    }

    /// True if the cluster saw no traffic.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.shards().next().is_none()
    }
}

/// Shards of a listener (connection manager).
#[derive(Debug)]
pub struct ListenerStats {
    /// Envoy: `stat_prefix`.
    pub prefix: String,
    /// Address as in Envoy's `listener.<address>` scope: `0.0.0.0_9000`.
    pub address: String,
    shards: Box<[ListenerShard]>,
}

impl ListenerStats {
    /// The calling thread's shard.
    #[must_use]
    pub fn shard(&self, shard: Shard) -> &ListenerShard {
        &self.shards[shard.index.min(self.shards.len() - 1)]
    }

    /// All shards.
    #[must_use]
    pub fn shards(&self) -> &[ListenerShard] {
        &self.shards
    }
}

/// Control-plane counters of one subscription type (written by the control
/// thread).
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct SubscriptionStats {
    pub update_attempt: Counter,
    pub update_success: Counter,
    pub update_failure: Counter,
    pub update_rejected: Counter,
    pub update_empty: Counter,
    pub init_fetch_timeout: Counter,
    pub update_duration: Histogram,
    pub update_time_ms: Gauge,
}

/// Control-plane and server statistics (written by the control thread).
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ControlStats {
    pub cds: SubscriptionStats,
    pub lds: SubscriptionStats,
    pub rds: SubscriptionStats,
    pub sds: SubscriptionStats,
    pub cluster_added: Counter,
    pub cluster_modified: Counter,
    pub cluster_removed: Counter,
    pub cluster_updated: Counter,
    pub active_clusters: Gauge,
    pub warming_clusters: Gauge,
    pub listener_added: Counter,
    pub listener_modified: Counter,
    pub listener_removed: Counter,
    pub listener_in_place_updated: Counter,
    pub listener_create_failure: Counter,
    pub listeners_active: Gauge,
    pub listeners_warming: Gauge,
    pub listeners_draining: Gauge,
    pub connected_state: Gauge,
    /// 1 while a saved snapshot serves and the scheduler has not answered.
    pub config_stale: Gauge,
    pub dns_update_attempt: Counter,
    pub dns_update_success: Counter,
    pub dns_update_failure: Counter,
    pub dns_update_empty: Counter,
}

/// The root: listeners by prefix, control statistics. Clusters keep their own
/// ([`crate::model::ClusterSlot::stats`]).
#[derive(Debug)]
pub struct Stats {
    /// Number of shards: workers plus one.
    pub shards: usize,
    /// Control thread.
    pub control: ControlStats,
    listeners: Mutex<Vec<Arc<ListenerStats>>>,
}

impl Stats {
    /// Statistics for `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            shards: workers + 1,
            control: ControlStats::default(),
            listeners: Mutex::new(Vec::new()),
        }
    }

    /// The statistics of a listener, kept when the listener is replaced.
    /// `address` is its socket address, `stat_prefix` its name in Envoy's stats.
    pub fn listener(&self, stat_prefix: &str, address: std::net::SocketAddr) -> Arc<ListenerStats> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = listeners.iter().find(|l| l.prefix == stat_prefix) {
            return Arc::clone(found);
        }
        let stats = Arc::new(ListenerStats {
            prefix: stat_prefix.to_owned(),
            address: address.to_string().replace(':', "_"),
            shards: (0..self.shards).map(|_| ListenerShard::default()).collect(),
        });
        listeners.push(Arc::clone(&stats));
        stats
    }

    /// All listeners, in the order of their first use.
    #[must_use]
    pub fn listeners(&self) -> Vec<Arc<ListenerStats>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let mut seen = Vec::new();
        codes.each(&mut |code, n| seen.push((code, n)));
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

    #[test]
    fn an_idle_cluster_has_no_shards() {
        let stats = ClusterStats::default();
        assert!(stats.is_idle());
        stats.shard(Shard { index: 2, of: 3 }).upstream_rq_total.inc();
        assert!(!stats.is_idle());
        assert_eq!(stats.shards().map(|s| s.upstream_rq_total.value()).collect::<Vec<_>>(), [1]);
    }
}
