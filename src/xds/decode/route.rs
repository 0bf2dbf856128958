//! One route.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use smallvec::{SmallVec, smallvec};

use super::Invalid;
use super::error::{At, Unset, overlook, refuse, warn_once};
use super::header::{if_any, mutations};
use super::matcher::route_match;
use super::scalar::{duration, duration_or, fraction, inline};
use super::table::Session;
use crate::model::{
    Action, DirectResponse, Forward, HeaderMutations, HeaderValue, Mirror, Route, Text, Unusual,
    WeightedTarget,
};

/// Envoy: `RouteAction.timeout` when unset.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Metadata namespace that only this proxy reads.
const METADATA: &str = "radiant";

pub(super) fn route(r: &pb::Route, session: &Session<'_>) -> Result<Route, Invalid> {
    refuse!(r; typed_per_filter_config, route_specifiers);
    overlook!(r, "Route"; decorator, tracing, per_request_buffer_limit_bytes, stat_prefix,
        request_body_buffer_limit);
    let matcher =
        r.r#match.as_ref().ok_or_else(|| Invalid::new("value is required").at("match"))?;
    let request_headers = mutations(
        ("request_headers_to_add", &r.request_headers_to_add),
        ("request_headers_to_remove", &r.request_headers_to_remove),
        session,
    )?;
    let rewrite = Rewrite {
        by_cluster: rewrite_metadata(r)?,
        route_label: session.rewrite.then(|| internal_model(&request_headers)).flatten(),
        derive: session.rewrite,
    };
    Ok(Route {
        name: r.name.as_str().into(),
        matcher: route_match(matcher, session).at("match")?,
        action: action(r.action.as_ref(), &rewrite, session)?,
        request_headers: if_any(request_headers),
        response_headers: if_any(mutations(
            ("response_headers_to_add", &r.response_headers_to_add),
            ("response_headers_to_remove", &r.response_headers_to_remove),
            session,
        )?),
    })
}

fn action(
    action: Option<&pb::route::Action>,
    rewrite: &Rewrite<'_>,
    session: &Session<'_>,
) -> Result<Action, Invalid> {
    use pb::route::Action as Pb;
    match action {
        Some(Pb::Route(a)) => forward(a, rewrite, session).at("route").map(Action::Forward),
        Some(Pb::DirectResponse(d)) => direct(d).at("direct_response").map(Action::Direct),
        Some(Pb::Redirect(_)) => Err(Invalid::unsupported("redirect")),
        Some(Pb::FilterAction(_)) => Err(Invalid::unsupported("filter_action")),
        Some(Pb::NonForwardingAction(_)) => Err(Invalid::unsupported("non_forwarding_action")),
        None => Err(Invalid::new("value is required").at("action")),
    }
}

fn direct(d: &pb::DirectResponseAction) -> Result<DirectResponse, Invalid> {
    refuse!(d; body_format);
    let status = u16::try_from(d.status).ok().filter(|s| (200..600).contains(s));
    let status =
        status.ok_or_else(|| Invalid::new("value must be inside range [200, 600)").at("status"))?;
    let body = d.body.as_ref().map(inline).transpose().at("body")?.unwrap_or_default();
    Ok(DirectResponse { status, body })
}

fn forward(
    a: &pb::RouteAction,
    rewrite: &Rewrite<'_>,
    session: &Session<'_>,
) -> Result<Forward, Invalid> {
    refuse!(a; cluster_not_found_response_code, metadata_match, regex_rewrite,
        path_rewrite_policy, path_rewrite, append_x_forwarded_host, retry_policy_typed_config,
        max_grpc_timeout, grpc_timeout_offset, upgrade_configs, internal_redirect_policy,
        internal_redirect_action, hedge_policy, max_stream_duration);
    overlook!(a, "RouteAction"; flush_timeout, early_data_policy, priority, rate_limits,
        include_vh_rate_limits, hash_policy, cors, max_internal_redirects);
    let targets = targets(a, rewrite, session)?;
    let total_weight: u64 = targets.iter().map(|t| u64::from(t.weight)).sum();
    if total_weight == 0 {
        return Err(Invalid::new("Sum of weights in the weighted_cluster must be greater than 0.")
            .at("weighted_clusters"));
    }
    if total_weight > u64::from(u32::MAX) {
        return Err(Invalid::new("The sum of weights of all weighted clusters exceeds 4294967295")
            .at("weighted_clusters"));
    }
    let retry = match &a.retry_policy {
        Some(policy) => Some(session.retry(policy).at("retry_policy")?),
        None => session.inherited.retry.clone(),
    };
    let mirrors = if a.request_mirror_policies.is_empty() {
        session.inherited.mirrors.iter().map(|m| mirror(m, session)).collect::<Result<_, _>>()?
    } else {
        let each = a.request_mirror_policies.iter().enumerate();
        each.map(|(i, m)| mirror(m, session).at_index("request_mirror_policies", i))
            .collect::<Result<_, _>>()?
    };
    let timeout = duration_or(a.timeout.as_ref(), "timeout", TIMEOUT)?;
    Ok(Forward {
        targets,
        total_weight,
        timeout: Some(timeout).filter(|t| !t.is_zero()),
        retry,
        mirrors,
        unusual: unusual(a)?,
    })
}

fn unusual(a: &pb::RouteAction) -> Result<Option<Box<Unusual>>, Invalid> {
    let prefix = Some(&a.prefix_rewrite).filter(|p| !p.is_empty());
    let unusual = Unusual {
        idle_timeout: a.idle_timeout.map(duration).transpose().at("idle_timeout")?,
        prefix_rewrite: prefix.map(|p| p.as_str().into()),
        host_rewrite: host_rewrite(a.host_rewrite_specifier.as_ref())?,
    };
    Ok((unusual != Unusual::default()).then(|| Box::new(unusual)))
}

fn host_rewrite(
    spec: Option<&pb::route_action::HostRewriteSpecifier>,
) -> Result<Option<Text>, Invalid> {
    use pb::route_action::HostRewriteSpecifier as Spec;
    match spec {
        None => Ok(None),
        Some(Spec::HostRewriteLiteral(host) | Spec::HostRewrite(host)) => {
            Ok(Some(host).filter(|h| !h.is_empty()).map(|h| h.as_str().into()))
        }
        Some(Spec::AutoHostRewrite(on)) if !on.value => Ok(None),
        Some(Spec::AutoHostRewrite(_)) => Err(Invalid::unsupported("auto_host_rewrite")),
        Some(Spec::HostRewriteHeader(_)) => Err(Invalid::unsupported("host_rewrite_header")),
        Some(Spec::HostRewritePathRegex(_)) => Err(Invalid::unsupported("host_rewrite_path_regex")),
    }
}

fn targets(
    a: &pb::RouteAction,
    rewrite: &Rewrite<'_>,
    session: &Session<'_>,
) -> Result<SmallVec<[WeightedTarget; 1]>, Invalid> {
    use pb::route_action::ClusterSpecifier as Spec;
    match &a.cluster_specifier {
        Some(Spec::Cluster(name)) if name.is_empty() => {
            Err(Invalid::new("value length must be at least 1 characters").at("cluster"))
        }
        Some(Spec::Cluster(name)) => Ok(smallvec![WeightedTarget {
            cluster: session.slot(name),
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            rewrite_model: rewrite.model(name, None, session),
            series: OnceLock::new(),
        }]),
        Some(Spec::WeightedClusters(w)) => weighted(w, rewrite, session).at("weighted_clusters"),
        Some(Spec::ClusterHeader(_)) => Err(Invalid::unsupported("cluster_header")),
        Some(Spec::ClusterSpecifierPlugin(_)) => {
            Err(Invalid::unsupported("cluster_specifier_plugin"))
        }
        Some(Spec::InlineClusterSpecifierPlugin(_)) => {
            Err(Invalid::unsupported("inline_cluster_specifier_plugin"))
        }
        None => Err(Invalid::new("value is required").at("cluster_specifier")),
    }
}

fn weighted(
    w: &pb::WeightedCluster,
    rewrite: &Rewrite<'_>,
    session: &Session<'_>,
) -> Result<SmallVec<[WeightedTarget; 1]>, Invalid> {
    // `total_weight` has no effect in Envoy either.
    refuse!(w; random_value_specifier);
    overlook!(w, "WeightedCluster"; runtime_key_prefix);
    let each = w.clusters.iter().enumerate();
    let targets: Result<SmallVec<[_; 1]>, _> =
        each.map(|(i, c)| weighted_target(c, rewrite, session).at_index("clusters", i)).collect();
    targets.and_then(|t| {
        if t.is_empty() {
            return Err(Invalid::new("value must contain at least 1 item(s)").at("clusters"));
        }
        Ok(t)
    })
}

fn weighted_target(
    c: &pb::weighted_cluster::ClusterWeight,
    rewrite: &Rewrite<'_>,
    session: &Session<'_>,
) -> Result<WeightedTarget, Invalid> {
    refuse!(c; cluster_header, metadata_match, typed_per_filter_config, host_rewrite_specifier);
    if c.name.is_unset() {
        return Err(Invalid::new("At least one of name or cluster_header need to be specified"));
    }
    let weight = c.weight.ok_or_else(|| Invalid::new("value is required").at("weight"))?;
    let request_headers = mutations(
        ("request_headers_to_add", &c.request_headers_to_add),
        ("request_headers_to_remove", &c.request_headers_to_remove),
        session,
    )?;
    let label = rewrite.derive.then(|| internal_model(&request_headers)).flatten();
    Ok(WeightedTarget {
        cluster: session.slot(&c.name),
        weight: weight.value,
        rewrite_model: rewrite.model(&c.name, label.as_deref(), session),
        series: OnceLock::new(),
        request_headers,
        response_headers: mutations(
            ("response_headers_to_add", &c.response_headers_to_add),
            ("response_headers_to_remove", &c.response_headers_to_remove),
            session,
        )?,
    })
}

fn mirror(
    m: &pb::route_action::RequestMirrorPolicy,
    session: &Session<'_>,
) -> Result<Mirror, Invalid> {
    refuse!(m; cluster_header, disable_shadow_host_suffix_append, request_headers_mutations,
        host_rewrite_literal);
    overlook!(m, "RequestMirrorPolicy"; trace_sampled);
    if m.cluster.is_unset() {
        return Err(Invalid::new("value length must be at least 1 characters").at("cluster"));
    }
    let share = m.runtime_fraction.as_ref().and_then(|f| f.default_value.as_ref());
    Ok(Mirror { cluster: session.slot(&m.cluster), fraction: share.map_or((100, 100), fraction) })
}

/// Where the model name comes from that is put into the request.
struct Rewrite<'a> {
    /// `metadata.filter_metadata["radiant"].rewrite`: model by cluster.
    by_cluster: Option<&'a Struct>,
    /// `seldon-internal-model` that the route itself adds.
    route_label: Option<String>,
    derive: bool,
}

impl Rewrite<'_> {
    fn model(&self, cluster: &str, label: Option<&str>, session: &Session<'_>) -> Option<Arc<str>> {
        let given = self.by_cluster.and_then(|s| s.fields.get(cluster)?.kind.as_ref());
        if let Some(Kind::StringValue(model)) = given {
            return Some(session.name(model));
        }
        let label = label.or(self.route_label.as_deref())?;
        model_of(label).map(|model| session.name(model))
    }
}

/// The model's name in a version label `<model>_<version>`. Pipelines' labels
/// (`<name>.pipeline`) have none: their requests keep their path.
fn model_of(label: &str) -> Option<&str> {
    let (model, version) = label.rsplit_once('_')?;
    let is_number = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
    (is_number && !model.is_empty()).then_some(model)
}

fn internal_model(headers: &HeaderMutations) -> Option<String> {
    let add = headers.add.iter().find(|a| &*a.name == "seldon-internal-model")?;
    match &add.value {
        HeaderValue::Plain(label) => String::from_utf8(label.to_vec()).ok(),
        HeaderValue::Format(_) => None,
    }
}

fn rewrite_metadata(r: &pb::Route) -> Result<Option<&Struct>, Invalid> {
    let Some(metadata) = &r.metadata else { return Ok(None) };
    let Some(ours) = metadata.filter_metadata.get(METADATA) else {
        warn_once("Route.metadata", "has no effect here");
        return Ok(None);
    };
    let malformed = || {
        Invalid::new("a mapping of cluster to model name is required")
            .at("metadata.filter_metadata[radiant].rewrite")
    };
    match ours.fields.get("rewrite").and_then(|v| v.kind.as_ref()) {
        None => Ok(None),
        Some(Kind::StructValue(by_cluster)) => {
            let is_text = |v: &envoy_types::pb::google::protobuf::Value| {
                matches!(v.kind, Some(Kind::StringValue(_)))
            };
            if by_cluster.fields.values().all(is_text) {
                Ok(Some(by_cluster))
            } else {
                Err(malformed())
            }
        }
        Some(_) => Err(malformed()),
    }
}
