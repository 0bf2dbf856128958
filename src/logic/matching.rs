//! Whether a route matches a request (Envoy: `RouteMatch`, `HeaderMatcher`,
//! `StringMatcher`).
//!
//! Values are compared line by line: a matcher holds if any line of its header
//! matches on its own (lines are not joined with commas).

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};

use crate::headers::{RequestHead, Scheme};
use crate::model::{HeaderMatch, HeaderMatcher, PathMatch, RouteMatch, StringMatch};

/// Compiles a pattern so that it matches whole values only, as RE2 `FullMatch`
/// does (Envoy: `RegexMatcher`). Every [`Regex`] of a route must come from here.
///
/// # Errors
/// The pattern is not valid, or its program would exceed 10 MB.
pub fn full_match(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).build()
}

impl RouteMatch {
    /// True if every condition holds. `draw` is the request's uniform random
    /// number, for `runtime_fraction`.
    #[must_use]
    pub fn matches(&self, head: &RequestHead, draw: u64) -> bool {
        self.path.matches(head.path(), self.case_sensitive)
            && self.headers.iter().all(|m| m.matches(head))
            && (!self.grpc_only || head.is_grpc())
            && self.fraction.is_none_or(|(numerator, denominator)| {
                draw % u64::from(denominator.max(1)) < u64::from(numerator)
            })
    }
}

impl PathMatch {
    /// True if the raw path matches; a query belongs to the path for
    /// [`PathMatch::Prefix`] only.
    #[must_use]
    pub fn matches(&self, path: &[u8], case_sensitive: bool) -> bool {
        let equal = |a: &[u8], b: &[u8]| {
            if case_sensitive { a == b } else { a.eq_ignore_ascii_case(b) }
        };
        let starts = |p: &[u8], prefix: &[u8]| {
            p.get(..prefix.len()).is_some_and(|start| equal(start, prefix))
        };
        match self {
            Self::Prefix(prefix) => starts(path, prefix),
            Self::Exact(want) => equal(without_query(path), want),
            Self::Regex(regex) => regex.is_match(without_query(path)),
            Self::SeparatedPrefix(prefix) => {
                let path = without_query(path);
                starts(path, prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
        }
    }
}

/// The path up to its `?` (or `#`).
#[must_use]
pub fn without_query(path: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'?', b'#', path).unwrap_or(path.len());
    &path[..end]
}

impl HeaderMatcher {
    /// True if the request's header satisfies this matcher.
    #[must_use]
    pub fn matches(&self, head: &RequestHead) -> bool {
        let name = self.name.as_bytes();
        let value = |test: &dyn Fn(&[u8]) -> bool| {
            let found = any_line(head, name, test);
            let found = found.or_else(|| self.missing_as_empty.then(|| test(b"")));
            found.is_some_and(|matched| matched != self.invert)
        };
        match &self.rule {
            HeaderMatch::Present(wanted) => {
                let present = self.missing_as_empty || any_line(head, name, |_| true).is_some();
                (present == *wanted) != self.invert
            }
            HeaderMatch::Value(rule) => value(&|line| rule.matches(line)),
            HeaderMatch::Range(start, end) => {
                value(&|line| decimal(line).is_some_and(|n| n >= *start && n < *end))
            }
        }
    }
}

/// True if any line of the header passes; none if the header is absent.
pub(crate) fn any_line(head: &RequestHead, name: &[u8], test: impl Fn(&[u8]) -> bool) -> Option<bool> {
    match name {
        b":path" => Some(test(head.path())),
        b":method" => Some(test(head.method())),
        b":authority" | b"host" => Some(test(head.authority())),
        b":scheme" => Some(test(match head.scheme {
            Scheme::Http => b"http",
            Scheme::Https => b"https",
        })),
        _ => {
            let mut lines = head.headers.all_named(name);
            let first = lines.next()?;
            Some(test(first) || lines.any(test))
        }
    }
}

/// A whole decimal integer with an optional sign.
fn decimal(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl StringMatch {
    /// True if this one value matches.
    #[must_use]
    pub fn matches(&self, line: &[u8]) -> bool {
        let equal = |a: &[u8], b: &[u8], ignore_case: bool| {
            if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
        };
        match self {
            Self::Exact { value, ignore_case } => equal(line, value, *ignore_case),
            Self::Prefix { value, ignore_case } => {
                line.get(..value.len()).is_some_and(|start| equal(start, value, *ignore_case))
            }
            Self::Suffix { value, ignore_case } => line
                .len()
                .checked_sub(value.len())
                .is_some_and(|at| equal(&line[at..], value, *ignore_case)),
            Self::Contains { value, ignore_case: false } => memmem::find(line, value).is_some(),
            Self::Contains { value, ignore_case: true } => {
                value.is_empty()
                    || line.windows(value.len()).any(|part| part.eq_ignore_ascii_case(value))
            }
            Self::Regex(regex) => regex.is_match(line),
        }
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
