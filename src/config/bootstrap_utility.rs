//! The utility listener of a bootstrap: `/ready` by the health check filter,
//! `/stats` by a route to the admin address.

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;

use super::bootstrap::Meaning;
use super::settings::UtilityListener;

const HEALTH_CHECK: &str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";

/// The connection manager, if the listener has a health check filter, or if all
/// its routes lead to the admin address (older bootstraps of Seldon).
pub(super) fn manager(
    listener: &Listener,
    admin_clusters: &[&str],
) -> Option<HttpConnectionManager> {
    let filter = listener.filter_chains.first()?.filters.first()?;
    let filter::ConfigType::TypedConfig(any) = filter.config_type.as_ref()? else { return None };
    if !any.type_url.ends_with(".HttpConnectionManager") {
        return None;
    }
    let manager = HttpConnectionManager::decode(any.value.as_slice()).ok()?;
    (health_check(&manager).is_some() || only_admin(&manager, admin_clusters)).then_some(manager)
}

fn only_admin(manager: &HttpConnectionManager, admin_clusters: &[&str]) -> bool {
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { return false };
    let mut routes = table.virtual_hosts.iter().flat_map(|h| &h.routes).peekable();
    routes.peek().is_some()
        && routes.all(|r| cluster(r).is_some_and(|c| admin_clusters.contains(&c)))
}

fn health_check(manager: &HttpConnectionManager) -> Option<(usize, HealthCheck)> {
    manager.http_filters.iter().enumerate().find_map(|(i, f)| match &f.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) if any.type_url.ends_with(HEALTH_CHECK) => {
            Some((i, HealthCheck::decode(any.value.as_slice()).ok()?))
        }
        _ => None,
    })
}

/// Reads the listener at `path`.
pub(super) fn read(
    meaning: &mut Meaning<'_>,
    listener: &Listener,
    manager: &HttpConnectionManager,
    admin_clusters: &[&str],
    path: &str,
) -> Option<UtilityListener> {
    let Some(address) = &listener.address else {
        meaning.problem(&format!("{path}.address"), "is missing");
        return None;
    };
    let address = meaning.socket_address(address, &format!("{path}.address"));
    let path = format!("{path}.filter_chains[0].filters[0].typed_config");
    if let Some((i, check)) = health_check(manager) {
        let path = format!("{path}.http_filters[{i}].typed_config");
        if check.pass_through_mode.unwrap_or_default().value {
            meaning.problem(&format!("{path}.pass_through_mode"), "must be false");
        }
        if !check.cluster_min_healthy_percentages.is_empty() {
            let path = format!("{path}.cluster_min_healthy_percentages");
            meaning.problem(&path, "is not supported");
        }
        if !matches!(check.headers.as_slice(), [only] if is_ready_path(only)) {
            let message = "only ':path' exactly '/ready' is supported";
            meaning.problem(&format!("{path}.headers"), message);
        }
    }
    match &manager.route_specifier {
        Some(RouteSpecifier::RouteConfig(table)) => {
            for (h, host) in table.virtual_hosts.iter().enumerate() {
                for (r, route) in host.routes.iter().enumerate() {
                    if !is_statistics(route, admin_clusters) {
                        let path = format!("{path}.route_config.virtual_hosts[{h}].routes[{r}]");
                        meaning.notice(
                            &path,
                            "no effect: the utility listener serves /ready, /stats and /metrics",
                        );
                    }
                }
            }
        }
        _ => meaning.problem(&format!("{path}.route_config"), "is missing"),
    }
    let name = match listener.name.as_str() {
        "" => UtilityListener::seldon().name,
        name => name.to_owned(),
    };
    Some(UtilityListener { name, address: address?, stat_prefix: manager.stat_prefix.clone() })
}

#[allow(deprecated)]
fn is_ready_path(matcher: &HeaderMatcher) -> bool {
    let exact = match &matcher.header_match_specifier {
        Some(HeaderMatchSpecifier::ExactMatch(text)) => Some(text),
        Some(HeaderMatchSpecifier::StringMatch(m)) => match &m.match_pattern {
            Some(MatchPattern::Exact(text)) => Some(text),
            _ => None,
        },
        _ => None,
    };
    matcher.name == ":path" && exact.is_some_and(|e| e == "/ready") && !matcher.invert_match
}

/// Prefix `/stats` or `/ready` to the admin address.
fn is_statistics(route: &Route, admin_clusters: &[&str]) -> bool {
    let prefix = route.r#match.as_ref().and_then(|m| m.path_specifier.as_ref());
    matches!(prefix, Some(route_match::PathSpecifier::Prefix(p)) if p == "/stats" || p == "/ready")
        && cluster(route).is_some_and(|c| admin_clusters.contains(&c))
}

fn cluster(route: &Route) -> Option<&str> {
    match &route.action {
        Some(route::Action::Route(action)) => match &action.cluster_specifier {
            Some(route_action::ClusterSpecifier::Cluster(name)) => Some(name.as_str()),
            _ => None,
        },
        _ => None,
    }
}
