//! Counters, gauges and histograms, sharded by worker.
//!
//! Every cell has **one writing thread**: its worker, or the control thread for
//! shard 0. So an increment is a load and a store, not a locked instruction;
//! readers add the shards up. Shards of a cluster are made when the cluster
//! first sees traffic: a model that nobody calls costs one pointer.
//!
//! Names follow Envoy's statistics (`cluster.<name>.<field>`,
//! `http.<prefix>.<field>`); `crate::admin` turns them into text.

mod cells;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use cells::{BUCKETS_MS, CodeCounters, Counter, Gauge, Histogram, Lazy, PerShard, Shard};

use crate::tls::accounts::TlsStats;

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
        first { $($first:ident)* }
        gauges { $($gauge:ident)* }
        groups { $($group:ident : $kind:ty)* }
        counters { $($counter:ident)* }
        histograms { $($histogram:ident)* }
    ) => {
        $(#[$doc])*
        // In the order written, from the start of a cache line: what every
        // request counts stands first, so that a model's first request in a
        // while misses one or two lines.
        #[repr(C, align(64))]
        #[derive(Debug, Default)]
        #[allow(missing_docs)]
        pub struct $name {
            $(pub $first: $crate::stats::Counter,)*
            $(pub $gauge: $crate::stats::Gauge,)*
            $(pub $group: $kind,)*
            $(pub $counter: $crate::stats::Counter,)*
            $(pub $histogram: $crate::stats::Histogram,)*
        }

        impl $name {
            /// Its counters by name.
            pub const COUNTERS: &'static [(&'static str, fn(&Self) -> &$crate::stats::Counter)] = &[
                $((stringify!($first), |s| &s.$first),)*
                $((stringify!($counter), |s| &s.$counter)),*
            ];
            /// Its gauges by name.
            pub const GAUGES: &'static [(&'static str, fn(&Self) -> &$crate::stats::Gauge)] =
                &[$((stringify!($gauge), |s| &s.$gauge)),*];
            /// Its histograms by name.
            pub const HISTOGRAMS: &'static [(&'static str, fn(&Self) -> &$crate::stats::Histogram)] =
                &[$((stringify!($histogram), |s| &s.$histogram)),*];

            /// Calls `visit` with the name and value of every metric, groups aside.
            pub fn each(&self, visit: &mut impl FnMut(&'static str, $crate::stats::Metric<'_>)) {
                $(visit(stringify!($first), $crate::stats::Metric::Counter(&self.$first));)*
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
    first { upstream_rq_total }
    gauges { upstream_rq_active upstream_cx_active upstream_rq_pending_active }
    groups {
        external: ResponseGroup
        internal: Lazy<ResponseGroup>
        retry: Lazy<ResponseGroup>
        connections: Lazy<ConnectionTimes>
    }
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
    }
    histograms {}
}

shard! {
    /// Times of a cluster's connections; most clusters use those of others.
    ConnectionTimes
    first {}
    gauges {}
    groups { tls: Lazy<TlsStats> }
    counters {}
    histograms { upstream_cx_connect_ms upstream_cx_length_ms }
}

/// `upstream_rq_xx` of a cluster: `external.`, `internal.`, `retry.`; without a
/// prefix it is the first two together. Completed answers and their classes are
/// sums of the codes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ResponseGroup {
    /// `upstream_rq_<code>`.
    pub codes: CodeCounters,
    /// `upstream_rq_time`.
    pub time: Histogram,
}

impl ResponseGroup {
    /// Counts a final answer; `elapsed` is none for answers made by the proxy.
    pub fn record(&self, status: u16, elapsed: Option<Duration>) {
        self.codes.inc(status);
        if let Some(elapsed) = elapsed {
            self.time.record(elapsed);
        }
    }

    /// `upstream_rq_completed`.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.codes.each().map(|(_, n)| n).fold(0, u64::wrapping_add)
    }

    /// `upstream_rq_<class>xx`; `class` is the first digit of the code.
    #[must_use]
    pub fn class(&self, class: u16) -> u64 {
        let of_class = self.codes.each().filter(|(code, _)| code / 100 == class);
        of_class.map(|(_, n)| n).fold(0, u64::wrapping_add)
    }
}

shard! {
    /// `http.<stat_prefix>.*` of one worker.
    ListenerShard
    first {}
    gauges {
        downstream_cx_active downstream_cx_http1_active downstream_cx_http2_active
        downstream_cx_ssl_active downstream_rq_active
    }
    groups { tls: Lazy<TlsStats> }
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
    histograms { downstream_rq_time downstream_cx_length_ms }
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

    /// Reads the calling thread's shard, so that it is in the cache when the
    /// request's end needs it.
    pub fn touch(&self, shard: Shard) {
        if let Some(shard) = self.shards.get(shard) {
            std::hint::black_box(shard.upstream_rq_total.value());
        }
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
    fn an_idle_cluster_has_no_shards() {
        let stats = ClusterStats::default();
        assert!(stats.is_idle());
        stats.shard(Shard { index: 2, of: 3 }).upstream_rq_total.inc();
        assert!(!stats.is_idle());
        assert_eq!(stats.shards().map(|s| s.upstream_rq_total.value()).collect::<Vec<_>>(), [1]);
    }
}
