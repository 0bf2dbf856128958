//! The model name from the path: the effect of the scheduler's Lua filter.
//!
//! Runs before route selection. The path is taken as it came: not decoded, the
//! query included.

use smallvec::SmallVec;

use crate::headers::{HeaderId, RequestHead};

/// What the filter did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request names its model or route, or its path says nothing.
    Unchanged,
    /// A `seldon-model` line was added.
    Added,
    /// The script fails (`/v2/pipelines/` and a name without `/` after it): the
    /// request goes on unchanged and `lua.errors` counts one.
    ScriptError,
}

const MODELS: &[u8] = b"/v2/models/";
const PIPELINES: &[u8] = b"/v2/pipelines/";

/// Adds `seldon-model` from the path if the request names neither a model nor a
/// route.
pub fn apply(head: &mut RequestHead) -> Outcome {
    if !is_blank(head, HeaderId::SeldonModel) || !is_blank(head, HeaderId::XSeldonRoute) {
        return Outcome::Unchanged;
    }
    let path = head.path();
    let mut name: SmallVec<[u8; 128]> = SmallVec::new();
    if let Some(rest) = path.strip_prefix(MODELS) {
        name.extend_from_slice(&rest[..memchr::memchr(b'/', rest).unwrap_or(rest.len())]);
    } else if let Some(rest) = path.strip_prefix(PIPELINES) {
        let Some(end) = memchr::memchr(b'/', rest) else {
            return Outcome::ScriptError;
        };
        name.extend_from_slice(&rest[..end]);
        name.extend_from_slice(b".pipeline");
    } else {
        return Outcome::Unchanged;
    }
    head.headers.push_known(HeaderId::SeldonModel, b"seldon-model", &name);
    Outcome::Added
}

/// True if the header is absent or one empty line. Lua reads the lines joined
/// with commas, so two empty lines are not blank.
fn is_blank(head: &RequestHead, id: HeaderId) -> bool {
    let mut lines = head.headers.all(id);
    lines.next().is_none_or(<[u8]>::is_empty) && lines.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(path: &[u8], headers: &[(&str, &str)]) -> (Outcome, Vec<String>) {
        let mut head = RequestHead::default();
        head.set_path(path);
        for (name, value) in headers {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        let outcome = apply(&mut head);
        let models = head.headers.all(HeaderId::SeldonModel);
        (outcome, models.map(|v| String::from_utf8_lossy(v).into_owned()).collect())
    }

    #[test]
    fn names_come_from_the_raw_path() {
        for (path, want) in [
            ("/v2/models/iris/infer", "iris"),
            ("/v2/models/iris", "iris"),
            ("/v2/models/iris?x=1", "iris?x=1"),
            ("/v2/models/iris?x=/y", "iris?x="),
            ("/v2/models/", ""),
            ("/v2/models//infer", ""),
            ("/v2/models/ir%69s/infer", "ir%69s"),
            ("/v2/pipelines/p/infer", "p.pipeline"),
            ("/v2/pipelines//infer", ".pipeline"),
            ("/v2/pipelines/p?x=/y", "p?x=.pipeline"),
        ] {
            assert_eq!(
                run(path.as_bytes(), &[]),
                (Outcome::Added, vec![want.to_owned()]),
                "{path}"
            );
        }
    }

    #[test]
    fn other_paths_say_nothing() {
        for path in ["/", "", "*", "/x/v2/models/iris/infer", "/V2/models/iris", "/v2/models"] {
            assert_eq!(run(path.as_bytes(), &[]), (Outcome::Unchanged, vec![]), "{path}");
        }
        for path in ["/v2/pipelines/p", "/v2/pipelines/", "/v2/pipelines/p?x"] {
            assert_eq!(run(path.as_bytes(), &[]), (Outcome::ScriptError, vec![]), "{path}");
        }
    }

    #[test]
    fn a_named_model_or_route_wins_over_the_path() {
        let path = b"/v2/models/iris/infer";
        let got = |headers: &[(&str, &str)]| run(path, headers);
        assert_eq!(got(&[("seldon-model", "a")]), (Outcome::Unchanged, vec!["a".into()]));
        assert_eq!(got(&[("x-seldon-route", ":a_1:")]), (Outcome::Unchanged, vec![]));
        assert_eq!(got(&[("x-seldon-route", "")]), (Outcome::Added, vec!["iris".into()]));
        let empty = ("seldon-model", "");
        assert_eq!(got(&[empty]), (Outcome::Added, vec![String::new(), "iris".into()]));
    }

    proptest! {
        /// Agrees with a splitting formulation on arbitrary bytes.
        #[test]
        fn any_path_is_handled(tail in prop::collection::vec(any::<u8>(), 0..40), pipeline: bool) {
            let mut path = if pipeline { PIPELINES.to_vec() } else { MODELS.to_vec() };
            path.extend_from_slice(&tail);
            let mut head = RequestHead::default();
            head.set_path(&path);
            let outcome = apply(&mut head);
            let first = tail.split(|b| *b == b'/').next().unwrap().to_vec();
            if pipeline && !tail.contains(&b'/') {
                prop_assert_eq!(outcome, Outcome::ScriptError);
                prop_assert!(head.headers.is_empty());
            } else {
                let want = if pipeline { [&first[..], b".pipeline"].concat() } else { first };
                prop_assert_eq!(outcome, Outcome::Added);
                prop_assert_eq!(head.headers.first(HeaderId::SeldonModel), Some(&want[..]));
            }
        }
    }
}
