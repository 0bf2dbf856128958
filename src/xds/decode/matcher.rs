//! Conditions on paths and headers.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as ty;
use regex::bytes::Regex;

use super::Invalid;
use super::error::{At, Unset, overlook, refuse};
use super::scalar::fraction;
use super::table::Session;
use crate::logic::matching::full_match;
use crate::model::{HeaderMatch, HeaderMatcher, PathMatch, RouteMatch, StringMatch, Text};

pub(super) fn route_match(
    m: &pb::RouteMatch,
    session: &Session<'_>,
) -> Result<RouteMatch, Invalid> {
    refuse!(m; query_parameters, cookies, tls_context, dynamic_metadata, filter_state);
    let headers = m.headers.iter().enumerate();
    let headers = headers
        .map(|(i, h)| header_matcher(h, session).at_index("headers", i))
        .collect::<Result<_, _>>()?;
    let share = m.runtime_fraction.as_ref();
    if share.is_some_and(|f| f.default_value.is_none()) {
        return Err(Invalid::new("value is required").at("runtime_fraction.default_value"));
    }
    Ok(RouteMatch {
        path: path_match(m.path_specifier.as_ref())?,
        case_sensitive: m.case_sensitive.is_none_or(|v| v.value),
        headers,
        grpc_only: m.grpc.is_some(),
        fraction: share.and_then(|f| f.default_value.as_ref()).map(fraction),
    })
}

fn path_match(path: Option<&pb::route_match::PathSpecifier>) -> Result<PathMatch, Invalid> {
    use pb::route_match::PathSpecifier;
    Ok(match path {
        Some(PathSpecifier::Prefix(p)) => PathMatch::Prefix(p.as_str().into()),
        Some(PathSpecifier::Path(p)) => PathMatch::Exact(p.as_str().into()),
        Some(PathSpecifier::SafeRegex(r)) => PathMatch::Regex(regex(r).at("safe_regex")?),
        Some(PathSpecifier::PathSeparatedPrefix(p)) => {
            PathMatch::SeparatedPrefix(p.as_str().into())
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            return Err(Invalid::unsupported("connect_matcher"));
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            return Err(Invalid::unsupported("path_match_policy"));
        }
        None => return Err(Invalid::new("value is required").at("path_specifier")),
    })
}

pub(super) fn header_matcher(
    m: &pb::HeaderMatcher,
    session: &Session<'_>,
) -> Result<HeaderMatcher, Invalid> {
    if m.name.is_unset() {
        return Err(Invalid::new("value length must be at least 1 characters").at("name"));
    }
    Ok(HeaderMatcher {
        name: session.name(&m.name.to_ascii_lowercase()),
        rule: header_rule(m)?,
        invert: m.invert_match,
        missing_as_empty: m.treat_missing_header_as_empty,
    })
}

pub(super) fn header_rule(m: &pb::HeaderMatcher) -> Result<HeaderMatch, Invalid> {
    use pb::header_matcher::HeaderMatchSpecifier as Spec;
    let value = |s: &str| Text::from(s);
    Ok(match &m.header_match_specifier {
        None => HeaderMatch::Present(true),
        Some(Spec::PresentMatch(present)) => HeaderMatch::Present(*present),
        Some(Spec::RangeMatch(range)) => HeaderMatch::Range(range.start, range.end),
        Some(Spec::StringMatch(s)) => HeaderMatch::Value(string_match(s).at("string_match")?),
        Some(Spec::SafeRegexMatch(r)) => {
            HeaderMatch::Value(StringMatch::Regex(regex(r).at("safe_regex_match")?))
        }
        // The deprecated spellings.
        Some(Spec::ExactMatch(s)) => {
            HeaderMatch::Value(StringMatch::Exact { value: value(s), ignore_case: false })
        }
        Some(Spec::PrefixMatch(s)) => {
            HeaderMatch::Value(StringMatch::Prefix { value: value(s), ignore_case: false })
        }
        Some(Spec::SuffixMatch(s)) => {
            HeaderMatch::Value(StringMatch::Suffix { value: value(s), ignore_case: false })
        }
        Some(Spec::ContainsMatch(s)) => {
            HeaderMatch::Value(StringMatch::Contains { value: value(s), ignore_case: false })
        }
    })
}

fn string_match(m: &ty::StringMatcher) -> Result<StringMatch, Invalid> {
    use ty::string_matcher::MatchPattern;
    let ignore_case = m.ignore_case;
    let value = |s: &str| -> Text {
        if ignore_case { s.to_ascii_lowercase().as_str().into() } else { s.into() }
    };
    let not_empty = |s: &str, field: &str| {
        if s.is_empty() {
            return Err(Invalid::new("value length must be at least 1 characters").at(field));
        }
        Ok(value(s))
    };
    Ok(match &m.match_pattern {
        Some(MatchPattern::Exact(s)) => StringMatch::Exact { value: value(s), ignore_case },
        Some(MatchPattern::Prefix(s)) => {
            StringMatch::Prefix { value: not_empty(s, "prefix")?, ignore_case }
        }
        Some(MatchPattern::Suffix(s)) => {
            StringMatch::Suffix { value: not_empty(s, "suffix")?, ignore_case }
        }
        Some(MatchPattern::Contains(s)) => {
            StringMatch::Contains { value: not_empty(s, "contains")?, ignore_case }
        }
        // Envoy: `ignore_case` has no effect on a regex.
        Some(MatchPattern::SafeRegex(r)) => StringMatch::Regex(regex(r).at("safe_regex")?),
        Some(MatchPattern::Custom(_)) => return Err(Invalid::unsupported("custom")),
        None => return Err(Invalid::new("value is required").at("match_pattern")),
    })
}

/// A regex that must match the whole input.
pub(super) fn regex(m: &ty::RegexMatcher) -> Result<Regex, Invalid> {
    overlook!(m, "RegexMatcher"; engine_type);
    let invalid = |e: regex::Error| Invalid::new(format!("invalid regex: {e}")).at("regex");
    if m.regex.is_empty() {
        return Err(Invalid::new("value length must be at least 1 characters").at("regex"));
    }
    full_match(&m.regex).map_err(invalid)
}

/// An owned, lower-case header name.
pub(super) fn lower(name: &str) -> Arc<str> {
    name.to_ascii_lowercase().into()
}
