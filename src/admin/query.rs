//! Query parameters of admin requests.

use std::borrow::Cow;

/// The decoded parameters of a query string, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Splits `a=b&c` and decodes percent escapes; never fails.
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                (decode(key).into_owned(), decode(value).into_owned())
            })
            .collect();
        Self { pairs }
    }

    /// The first value of this parameter; empty if it has none.
    pub(super) fn first(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// True if the parameter is there, with or without a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.first(key).is_some()
    }

    /// All parameters.
    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(bytes[i]));
        i += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_split_and_decoded() {
        let query = Query::parse("usedonly&filter=a%2Eb%zz%4&x=1=2&&x=3");
        assert!(query.has("usedonly"));
        assert_eq!(query.first("usedonly"), Some(""));
        assert_eq!(query.first("filter"), Some("a.b%zz%4"));
        assert_eq!(query.first("x"), Some("1=2"));
        assert_eq!(query.first("y"), None);
        assert_eq!(query.pairs().len(), 4);
    }
}
