//! YAML (and so JSON) as a tree that remembers lines, so that every complaint
//! about a value can say where it stands.
//!
//! YAML 1.2 core schema: `yes` is a string. Aliases are expanded within
//! [`MAX_NODES`]; a repeated key is an error.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

/// Nodes of one file, aliases expanded: a bound against nested aliases. A file
/// of 10,000 models has about 200,000.
const MAX_NODES: usize = 2_000_000;
/// Nesting; Envoy's deepest messages need about 30.
const MAX_DEPTH: usize = 128;

/// A value and its line, from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    List(Vec<Node>),
    /// In the order of the file; keys differ.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Node,
}

/// Why a text is no YAML.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct YamlError {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Node {
    /// The value of a key, if this is a map that has it.
    pub(super) fn at(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|e| e.key == key).map(|e| &e.value)
    }

    /// The entries of a map; nothing else has any.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What the value is, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(b) => format!("'{b}'"),
            Kind::Number(n) => format!("'{n}'"),
            Kind::String(s) if s.chars().count() > 60 => {
                format!("'{}...'", s.chars().take(60).collect::<String>())
            }
            Kind::String(s) => format!("'{s}'"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
        }
    }

    /// Lays `other` over this: maps are merged, lists appended, the rest
    /// replaced (protobuf's merge).
    pub(super) fn merge(&mut self, other: Node) {
        match (&mut self.kind, other.kind) {
            (Kind::Map(mine), Kind::Map(theirs)) => {
                for entry in theirs {
                    match mine.iter_mut().find(|e| e.key == entry.key) {
                        Some(existing) => existing.value.merge(entry.value),
                        None => mine.push(entry),
                    }
                }
            }
            (Kind::List(mine), Kind::List(theirs)) => mine.extend(theirs),
            (mine, theirs) => *mine = theirs,
        }
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Number(n) => Value::Number(n.clone()),
            Kind::String(s) => Value::String(s.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Kind::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
            }
        }
    }

    fn size(&self) -> usize {
        1 + match &self.kind {
            Kind::List(items) => items.iter().map(Node::size).sum(),
            Kind::Map(entries) => entries.iter().map(|e| e.value.size()).sum(),
            _ => 0,
        }
    }
}

/// The documents of a text, empty ones left out.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, YamlError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| YamlError {
            line: e.marker().line(),
            message: format!("not YAML: {}", e.info()),
        })?;
        builder.event(event, span.start)?;
    }
    Ok(builder.documents)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

/// A collection that is being read.
struct Open {
    line: usize,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, keys: HashMap<String, usize>, key: Option<(String, usize)> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: Marker) -> Result<(), YamlError> {
        let line = at.line();
        match event {
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(error(line, "an alias before the end of its anchor"));
                };
                self.nodes = self.nodes.saturating_add(node.size());
                return self.finish(node, 0);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = if self.at_key() {
                    Kind::String(text.into_owned())
                } else {
                    scalar(&text, style, tag.as_deref()).map_err(|m| error(line, &m))?
                };
                return self.finish(Node { line, kind }, anchor);
            }
            Event::SequenceStart(anchor, _) => {
                return self.push(Open { line, anchor, content: Content::List(Vec::new()) });
            }
            Event::MappingStart(anchor, _) => {
                let content = Content::Map { entries: Vec::new(), keys: HashMap::new(), key: None };
                return self.push(Open { line, anchor, content });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let kind = match open.content {
                        Content::List(items) => Kind::List(items),
                        Content::Map { entries, .. } => Kind::Map(entries),
                    };
                    return self.finish(Node { line: open.line, kind }, open.anchor);
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn push(&mut self, open: Open) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(error(open.line, "nested too deeply"));
        }
        self.open.push(open);
        Ok(())
    }

    /// The next value is a key of a map. A key is its text: `1.10` is not `1.1`.
    fn at_key(&self) -> bool {
        self.open.last().is_some_and(|o| matches!(o.content, Content::Map { key: None, .. }))
    }

    /// Puts a complete value where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(error(node.line, "too many values"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            if node.kind != Kind::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut parent.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, keys, key } => match key.take() {
                None => *key = Some((key_text(&node)?, node.line)),
                Some((name, line)) => {
                    if let Some(first) = keys.insert(name.clone(), line) {
                        let message = format!("'{name}' stands here and in line {first}");
                        return Err(error(line, &message));
                    }
                    entries.push(Entry { key: name, line, value: node });
                }
            },
        }
        Ok(())
    }
}

fn error(line: usize, message: &str) -> YamlError {
    YamlError { line, message: message.to_owned() }
}

fn key_text(node: &Node) -> Result<String, YamlError> {
    match &node.kind {
        Kind::String(s) => Ok(s.clone()),
        _ => Err(error(node.line, &format!("{} cannot be a key", node.describe()))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Kind, String> {
    if let Some(tag) = tag {
        let name = tag.suffix.as_str();
        return match name {
            "str" | "!" | "" => Ok(Kind::String(text.to_owned())),
            "int" | "float" | "bool" | "null" => Ok(plain(text)),
            _ => Err(format!("the tag '{}{name}' is not understood", tag.handle)),
        };
    }
    match style {
        ScalarStyle::Plain => Ok(plain(text)),
        _ => Ok(Kind::String(text.to_owned())),
    }
}

/// The core schema's reading of an unquoted scalar.
fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Kind::String(text.to_owned()), Kind::Number)
}

fn number(text: &str) -> Option<serde_json::Number> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Into::into);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Into::into);
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let text = text.strip_prefix('+').unwrap_or(text);
        if let Ok(n) = text.parse::<u64>() {
            return Some(n.into());
        }
        if let Ok(n) = text.parse::<i64>() {
            return Some(n.into());
        }
    }
    let shape = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    if !shape {
        return None;
    }
    text.parse::<f64>().ok().and_then(serde_json::Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Node {
        let mut all = documents(text).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("a: 1", json!({"a": 1})),
            ("a: -1", json!({"a": -1})),
            ("a: 0x1f", json!({"a": 31})),
            ("a: 1.5", json!({"a": 1.5})),
            ("a: 1e3", json!({"a": 1000.0})),
            ("a: '1'", json!({"a": "1"})),
            ("a: \"true\"", json!({"a": "true"})),
            ("a: true", json!({"a": true})),
            ("a: yes", json!({"a": "yes"})),
            ("a: 1s", json!({"a": "1s"})),
            ("a: 0.25s", json!({"a": "0.25s"})),
            ("a: 127.0.0.1", json!({"a": "127.0.0.1"})),
            ("a: 1.2.3", json!({"a": "1.2.3"})),
            ("a: 1e", json!({"a": "1e"})),
            ("a: .", json!({"a": "."})),
            ("a:", json!({"a": null})),
            ("a: ~", json!({"a": null})),
            ("a: !!str 5", json!({"a": "5"})),
            ("1: x", json!({"1": "x"})),
            ("{\"a\": [1, {\"b\": null}]}", json!({"a": [1, {"b": null}]})),
            ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
            ("1.10: 18446744073709551616", json!({"1.10": 18446744073709551616.0})),
        ] {
            assert_eq!(one(text).to_json().to_string(), expected.to_string(), "{text:?}");
        }
    }

    #[test]
    fn lines_are_remembered() {
        let node = one("# head\na:\n  b: 1\n  c:\n  - x\n  - y: 2\n");
        let a = node.at("a").unwrap();
        assert_eq!(node.entries()[0].line, 2);
        assert_eq!(a.entries()[1].line, 4);
        let Kind::List(items) = &a.at("c").unwrap().kind else { panic!() };
        assert_eq!((items[0].line, items[1].line), (5, 6));
    }

    #[test]
    fn documents_are_told_apart_and_empty_ones_left_out() {
        let all = documents("---\na: 1\n---\n# nothing\n---\nb: 2\n").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].line, 6);
        assert_eq!(documents("").unwrap(), []);
        assert_eq!(documents("# only a comment\n").unwrap(), []);
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, line, part) in [
            ("a: 1\nb: [1, 2\n", 3, "not YAML"),
            ("a: 1\nb: 2\na: 3\n", 3, "'a' stands here and in line 1"),
            ("a: 1\nb: *nobody\n", 2, "not YAML"),
            ("a: !thing 1\n", 1, "the tag '!thing' is not understood"),
            ("[a]: 1\n", 1, "a list cannot be a key"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.message.contains(part), "{text:?}: {error:?}");
            assert_eq!(error.line, line, "{text:?}: {error:?}");
        }
    }

    #[test]
    fn nested_aliases_are_bounded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let alias = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(", ")));
        }
        assert_eq!(documents(&text).unwrap_err().message, "too many values");
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert!(documents(&deep).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ -~\n]{0,200}") {
            let _ = documents(&text);
        }
    }
}
