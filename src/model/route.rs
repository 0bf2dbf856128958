//! Route tables (Envoy: `config.route.v3.RouteConfiguration`).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use regex::bytes::Regex;
use smallvec::SmallVec;

use super::Text;
use super::cluster::NamedSlot;
use crate::logic::index::RouteIndex;
use crate::seldon_stats::SeldonSeries;

/// A route table, compiled: what one `RouteConfiguration` says.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Resource name (`listener_0`).
    pub name: String,
    /// Virtual hosts, in order.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Table-level mutations, applied last.
    pub request_headers: HeaderMutations,
    /// Table-level mutations, applied last.
    pub response_headers: HeaderMutations,
}

/// Routes of a set of domains (Envoy: `VirtualHost`).
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Name, for logs.
    pub name: String,
    /// Domains as written: exact, `*.suffix`, `prefix.*`, or `*`.
    pub domains: Vec<String>,
    /// Routes: the first in table order that matches wins.
    pub routes: RouteIndex,
    /// Host-level mutations, applied after the route's.
    pub request_headers: HeaderMutations,
    /// Host-level mutations, applied after the route's.
    pub response_headers: HeaderMutations,
}

/// One route (Envoy: `Route`). Shared between successive tables when its bytes
/// did not change.
///
/// With one target and short names it is one piece of memory: a request for a
/// model that was quiet for a while reads it whole, and nothing beside it.
#[derive(Debug)]
pub struct Route {
    /// Conditions, all of which must hold.
    pub matcher: RouteMatch,
    /// What to do.
    pub action: Action,
    /// Route-level mutations; none if there is nothing to do.
    pub request_headers: Option<Box<HeaderMutations>>,
    /// Route-level mutations; none if there is nothing to do.
    pub response_headers: Option<Box<HeaderMutations>>,
    /// `Route.name`, possibly empty.
    pub name: Box<str>,
}

/// Envoy: `RouteMatch`.
#[derive(Debug)]
pub struct RouteMatch {
    /// On the raw path.
    pub path: PathMatch,
    /// False: the path is compared without regard to ASCII case.
    pub case_sensitive: bool,
    /// All must match.
    pub headers: SmallVec<[HeaderMatcher; 2]>,
    /// Envoy: `RouteMatch.grpc`: only requests with a gRPC content type.
    pub grpc_only: bool,
    /// Envoy: `runtime_fraction`: share of requests, in parts of `.1`; none: all.
    pub fraction: Option<(u32, u32)>,
}

/// How the path is compared.
#[derive(Debug)]
pub enum PathMatch {
    /// Prefix of the path with its query.
    Prefix(Text),
    /// The whole path without its query.
    Exact(Text),
    /// Full match on the path without its query.
    Regex(Regex),
    /// Envoy: `path_separated_prefix`.
    SeparatedPrefix(Text),
}

/// Envoy: `HeaderMatcher`. The name is lower case and may be a pseudo header
/// (`:method`, `:path`, `:authority`, `:scheme`).
#[derive(Debug)]
pub struct HeaderMatcher {
    /// Lower-case name.
    pub name: Arc<str>,
    /// What the value must be.
    pub rule: HeaderMatch,
    /// Envoy: `invert_match`. A value rule on an absent header stays false.
    pub invert: bool,
    /// Envoy: `treat_missing_header_as_empty`.
    pub missing_as_empty: bool,
}

/// What a header's value must be.
#[derive(Debug)]
pub enum HeaderMatch {
    /// `present_match`: must be there (true) or absent (false); an empty value
    /// counts as present.
    Present(bool),
    /// Any line matches on its own.
    Value(StringMatch),
    /// A decimal integer in `[start, end)`.
    Range(i64, i64),
}

/// Envoy: `StringMatcher`. `ignore_case` patterns are stored in lower case.
#[derive(Debug)]
pub enum StringMatch {
    Exact {
        value: Text,
        ignore_case: bool,
    },
    Prefix {
        value: Text,
        ignore_case: bool,
    },
    Suffix {
        value: Text,
        ignore_case: bool,
    },
    Contains {
        value: Text,
        ignore_case: bool,
    },
    /// Full match.
    Regex(Regex),
}

/// What a matched route does.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most routes forward; a box is a cache line more per request"
)]
pub enum Action {
    /// Forward to a cluster.
    Forward(Forward),
    /// Answer at once.
    Direct(DirectResponse),
}

/// Envoy: `DirectResponseAction`.
#[derive(Debug)]
pub struct DirectResponse {
    /// Status code.
    pub status: u16,
    /// Body, possibly empty.
    pub body: Bytes,
}

/// Envoy: `RouteAction` with `cluster` or `weighted_clusters`.
#[derive(Debug)]
pub struct Forward {
    /// At least one, in order; a plain `cluster` is one target of weight 1.
    pub targets: SmallVec<[WeightedTarget; 1]>,
    /// Sum of the weights, more than 0.
    pub total_weight: u64,
    /// Envoy: `RouteAction.timeout`; none: no limit (0s).
    pub timeout: Option<Duration>,
    /// Retry policy, if any.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Mirrors.
    pub mirrors: Box<[Mirror]>,
    /// What the scheduler does not ask for; none if nobody does.
    pub unusual: Option<Box<Unusual>>,
}

/// Fields of `RouteAction` that few routes have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unusual {
    /// Envoy: `RouteAction.idle_timeout`, overrides the listener's stream idle
    /// timeout.
    pub idle_timeout: Option<Duration>,
    /// Envoy: `prefix_rewrite`, replaces the matched prefix.
    pub prefix_rewrite: Option<Text>,
    /// Envoy: `host_rewrite_literal`.
    pub host_rewrite: Option<Text>,
}

/// Envoy: `WeightedCluster.ClusterWeight`.
#[derive(Debug)]
pub struct WeightedTarget {
    /// Where the request goes. The slot may be empty (unknown cluster: 503 NC).
    pub cluster: NamedSlot,
    /// Relative weight; 0 is never chosen.
    pub weight: u32,
    /// Target-level mutations, applied first.
    pub request_headers: HeaderMutations,
    /// Target-level mutations, applied first.
    pub response_headers: HeaderMutations,
    /// Model name to put into the REST path and the gRPC `model_name`
    /// (`rewrite`); none: the request is forwarded as it is.
    pub rewrite_model: Option<Arc<str>>,
    /// `seldon_*` metrics of this arm, looked up at its first request.
    pub series: OnceLock<Arc<SeldonSeries>>,
}

/// Envoy: `RequestMirrorPolicy`.
#[derive(Debug)]
pub struct Mirror {
    /// Where the copy goes.
    pub cluster: NamedSlot,
    /// Share of requests: numerator and denominator.
    pub fraction: (u32, u32),
}

/// Envoy: `RetryPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Most retries after the first attempt.
    pub retries: u32,
    /// First back-off ceiling.
    pub base: Duration,
    /// Highest back-off ceiling (Envoy: 10 times `base` unless given).
    pub max: Duration,
    /// Envoy: `retriable_status_codes`.
    pub status_codes: Vec<u16>,
}

/// Conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// Any 5xx, and everything that `reset` and `connect_failure` cover.
    pub server_error: bool,
    /// 502, 503, 504, and resets.
    pub gateway_error: bool,
    /// Any reset before response headers.
    pub reset: bool,
    /// Connection not made.
    pub connect_failure: bool,
    /// HTTP/2 REFUSED_STREAM, or GOAWAY below the stream.
    pub refused_stream: bool,
    /// 409.
    pub retriable_4xx: bool,
    /// `RetryPolicy::status_codes`.
    pub retriable_status_codes: bool,
    /// gRPC status in trailers-only answers: cancelled, deadline-exceeded,
    /// resource-exhausted, unavailable, internal (bit = status code).
    pub grpc_statuses: u32,
}

/// Removals, then additions, of one level.
#[derive(Debug, Default)]
pub struct HeaderMutations {
    /// Lower-case names; none if there are none.
    pub remove: Option<Arc<[Arc<str>]>>,
    /// In order.
    pub add: SmallVec<[HeaderAdd; 1]>,
}

impl HeaderMutations {
    /// True if there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_none() && self.add.is_empty()
    }

    /// Names to remove.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        self.remove.iter().flat_map(|names| names.iter()).map(|name| &**name)
    }
}

/// Envoy: `HeaderValueOption`.
#[derive(Debug)]
pub struct HeaderAdd {
    /// Lower-case name.
    pub name: Arc<str>,
    /// Value.
    pub value: HeaderValue,
    /// What to do if the field is there already.
    pub action: AppendAction,
    /// Envoy: `keep_empty_value`; otherwise an empty value adds nothing.
    pub keep_empty: bool,
}

/// A value to add: text, or text with command operators.
#[derive(Debug)]
pub enum HeaderValue {
    /// As it is, `%%` already replaced.
    Plain(Text),
    /// Formatted per request (`crate::logic::format`).
    Format(Box<crate::logic::format::Format>),
}

/// Envoy: `HeaderValueOption.HeaderAppendAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// A new line, or the first.
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

impl PathMatch {
    /// The path with its matched part replaced (Envoy: `prefix_rewrite`).
    #[must_use]
    pub fn replace_prefix(&self, path: &[u8], with: &[u8]) -> Vec<u8> {
        let matched = match self {
            Self::Prefix(prefix) | Self::SeparatedPrefix(prefix) | Self::Exact(prefix) => {
                prefix.len()
            }
            Self::Regex(_) => crate::logic::matching::without_query(path).len(),
        };
        [with, path.get(matched..).unwrap_or_default()].concat()
    }
}

impl Route {
    /// The experiment (empty if the name that is called is none) and the model
    /// without version that a target of this route stands for, for metrics.
    #[must_use]
    pub fn seldon_names(&self, target: &WeightedTarget) -> (String, String) {
        let called = self.matcher.headers.iter().find_map(|header| match &header.rule {
            HeaderMatch::Value(StringMatch::Exact { value, .. })
                if &*header.name == "seldon-model" =>
            {
                Some(String::from_utf8_lossy(value).into_owned())
            }
            _ => None,
        });
        let experiment = called.as_deref().and_then(|name| name.strip_suffix(".experiment"));
        let label = [Some(&target.request_headers), self.request_headers.as_deref()]
            .into_iter()
            .flatten()
            .flat_map(|mutations| mutations.add.iter())
            .find_map(|add| match &add.value {
                HeaderValue::Plain(value) if &*add.name == "seldon-internal-model" => {
                    Some(String::from_utf8_lossy(value).into_owned())
                }
                _ => None,
            })
            .unwrap_or_else(|| target.cluster.name.to_string());
        let model = match label.rsplit_once('_') {
            Some((model, version)) if version.bytes().all(|b| b.is_ascii_digit()) => model,
            _ => &label,
        };
        (experiment.unwrap_or_default().to_owned(), model.to_owned())
    }
}

impl RouteTable {
    /// Number of routes of all virtual hosts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.virtual_hosts.iter().map(|v| v.routes.len()).sum()
    }

    /// True if there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route with one target: eight cache lines, allocator's size classes
    /// included. It is what a request for a quiet model reads.
    #[test]
    fn a_route_is_small() {
        assert!(size_of::<Route>() + 2 * size_of::<usize>() <= 512, "{}", size_of::<Route>());
    }
}
