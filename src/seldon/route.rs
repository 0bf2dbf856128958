//! Route tables: sticky routes of a name before its plain ones, REST and gRPC
//! by path prefix.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, Metadata, RuntimeFractionalPercent,
};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    WeightedCluster, route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Duration, Struct, UInt32Value, Value, value};

use super::cluster::{MIRROR_GRPC, MIRROR_HTTP};
use super::{Arm, ExperimentKind, METADATA_KEY, METADATA_REWRITE, RouteEntry};

/// Name of the table of listener `seldon_http`.
pub const ROUTE_TABLE: &str = "listener_0";
/// Name of the table of listener `seldon_mirrors`.
pub const MIRROR_TABLE: &str = "listener_1";
/// Virtual host of [`ROUTE_TABLE`].
pub const ROUTE_VIRTUAL_HOST: &str = "seldon_service";
/// Virtual host of [`MIRROR_TABLE`].
pub const MIRROR_VIRTUAL_HOST: &str = "seldon_mirror";

const SELDON_MODEL: &str = "seldon-model";
const SELDON_INTERNAL_MODEL: &str = "seldon-internal-model";
const SELDON_ROUTE: &str = "x-seldon-route";
const SELDON_LOGGING: &str = "Seldon-Logging";

/// The two ways to call a model.
#[derive(Clone, Copy)]
enum Call {
    Rest,
    Grpc,
}

impl Call {
    const BOTH: [Self; 2] = [Self::Rest, Self::Grpc];

    fn prefix(self) -> &'static str {
        match self {
            Self::Rest => "/v2",
            Self::Grpc => "/inference.GRPCInferenceService",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Rest => "http",
            Self::Grpc => "grpc",
        }
    }

    fn mirror_cluster(self) -> &'static str {
        match self {
            Self::Rest => MIRROR_HTTP,
            Self::Grpc => MIRROR_GRPC,
        }
    }

    fn cluster(self, arm: &Arm) -> String {
        format!("{}_{}", arm.cluster_prefix, self.suffix())
    }
}

/// A table of one virtual host with domain `*`. `name` is [`ROUTE_TABLE`] or
/// [`MIRROR_TABLE`]; any other name gets the virtual host of the first.
#[must_use]
pub fn route_table(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: virtual_host(name).to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Name of the virtual host of a table.
#[must_use]
pub fn virtual_host(table: &str) -> &'static str {
    if table == MIRROR_TABLE { MIRROR_VIRTUAL_HOST } else { ROUTE_VIRTUAL_HOST }
}

impl RouteEntry {
    /// This name's routes in `listener_0`, in order.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        if self.arms.len() > 1 {
            for arm in &self.arms {
                routes.extend(Call::BOTH.map(|call| self.sticky_route(call, arm)));
            }
        }
        if !self.arms.is_empty() {
            routes.extend(Call::BOTH.map(|call| self.plain_route(call)));
        }
        routes
    }

    /// This name's routes in `listener_1`: where the copies go, if any.
    #[must_use]
    pub fn mirror_routes(&self) -> Vec<Route> {
        let Some(mirror) = &self.mirror else { return Vec::new() };
        let route = |call: Call| {
            let action = self.weighted(call, std::slice::from_ref(mirror));
            let name = format!("{}_{}_mirror", self.key, call.suffix());
            self.route(
                call,
                name,
                self.absent_route_headers(),
                action,
                std::slice::from_ref(mirror),
            )
        };
        Call::BOTH.map(route).into()
    }

    fn plain_route(&self, call: Call) -> Route {
        let mut action = self.weighted(call, &self.arms);
        if let Some(mirror) = &self.mirror {
            action.request_mirror_policies = vec![RequestMirrorPolicy {
                cluster: call.mirror_cluster().to_owned(),
                runtime_fraction: Some(RuntimeFractionalPercent {
                    default_value: Some(FractionalPercent {
                        numerator: mirror.weight,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }];
        }
        let name = format!("{}_{}", self.key, call.suffix());
        let mut route = self.route(call, name, self.absent_route_headers(), action, &self.arms);
        if self.log_payloads {
            route.response_headers_to_add = vec![header(SELDON_LOGGING, "true")];
        }
        route
    }

    /// The route for a client that sends back the `x-seldon-route` of `arm`.
    /// The cluster of a sticky pipeline route is named after the route, so it
    /// never exists: that is what the scheduler sends.
    fn sticky_route(&self, call: Call, arm: &Arm) -> Route {
        let token = format!(":{}:", arm.label);
        let model = header_match(SELDON_MODEL, MatchPattern::Exact(self.key.clone()));
        let token_match = header_match(SELDON_ROUTE, MatchPattern::Contains(token.clone()));
        let (headers, cluster, retry_policy) = match self.kind {
            ExperimentKind::Model => (vec![model, token_match], call.cluster(arm), None),
            ExperimentKind::Pipeline => {
                let cluster = format!("{}_pipeline_{}", self.key, call.suffix());
                (vec![token_match, model], cluster, Some(retry_policy()))
            }
        };
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
            timeout: Some(Duration::default()),
            retry_policy,
            ..Default::default()
        };
        let name = format!("{}_{}_experiment", self.key, call.suffix());
        let mut route = self.route(call, name, headers, action, std::slice::from_ref(arm));
        let mut added = vec![header(SELDON_INTERNAL_MODEL, &arm.label)];
        if self.kind == ExperimentKind::Model {
            added.push(header(SELDON_MODEL, &arm.model));
        }
        route.response_headers_to_add = if self.log_payloads {
            // The scheduler puts the request's headers here, in place of
            // `x-seldon-route`.
            added.iter().cloned().chain([header(SELDON_LOGGING, "true")]).collect()
        } else {
            vec![header(SELDON_ROUTE, &token)]
        };
        route.request_headers_to_add = added;
        route
    }

    fn route(
        &self,
        call: Call,
        name: String,
        headers: Vec<HeaderMatcher>,
        action: RouteAction,
        arms: &[Arm],
    ) -> Route {
        Route {
            name,
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix(call.prefix().to_owned())),
                headers,
                ..Default::default()
            }),
            metadata: rewrite_metadata(call, arms),
            action: Some(route::Action::Route(action)),
            ..Default::default()
        }
    }

    fn absent_route_headers(&self) -> Vec<HeaderMatcher> {
        vec![
            header_match(SELDON_MODEL, MatchPattern::Exact(self.key.clone())),
            HeaderMatcher {
                name: SELDON_ROUTE.to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(false)),
                ..Default::default()
            },
        ]
    }

    fn weighted(&self, call: Call, arms: &[Arm]) -> RouteAction {
        let clusters = arms.iter().map(|arm| self.cluster_weight(call, arm)).collect();
        RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters,
                ..Default::default()
            })),
            timeout: Some(Duration::default()),
            retry_policy: Some(retry_policy()),
            ..Default::default()
        }
    }

    fn cluster_weight(&self, call: Call, arm: &Arm) -> ClusterWeight {
        ClusterWeight {
            name: call.cluster(arm),
            weight: Some(UInt32Value { value: arm.weight }),
            request_headers_to_add: vec![header(SELDON_INTERNAL_MODEL, &arm.label)],
            request_headers_to_remove: match self.kind {
                ExperimentKind::Model => vec![SELDON_INTERNAL_MODEL.to_owned()],
                ExperimentKind::Pipeline => Vec::new(),
            },
            response_headers_to_add: vec![header(SELDON_ROUTE, &format!(":{}:", arm.label))],
            ..Default::default()
        }
    }
}

fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        retry_on: "5xx,connect-failure".to_owned(),
        num_retries: Some(UInt32Value { value: 5 }),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(Duration { seconds: 0, nanos: 500_000_000 }),
            max_interval: None,
        }),
        ..Default::default()
    }
}

fn rewrite_metadata(call: Call, arms: &[Arm]) -> Option<Metadata> {
    let text = |name: &String| Value { kind: Some(value::Kind::StringValue(name.clone())) };
    let names: HashMap<String, Value> = arms
        .iter()
        .filter_map(|arm| Some((call.cluster(arm), text(arm.rewrite.as_ref()?))))
        .collect();
    if names.is_empty() {
        return None;
    }
    let names = Value { kind: Some(value::Kind::StructValue(Struct { fields: names })) };
    let ours = Struct { fields: HashMap::from([(METADATA_REWRITE.to_owned(), names)]) };
    Some(Metadata {
        filter_metadata: HashMap::from([(METADATA_KEY.to_owned(), ours)]),
        ..Default::default()
    })
}

fn header(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn header_match(name: &str, pattern: MatchPattern) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        })),
        ..Default::default()
    }
}
