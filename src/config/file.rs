//! The file of `-c`: bootstrap or native, told apart by content.

use std::path::{Path, PathBuf};

use super::flags::Flags;
use super::native::NativeFile;
use super::settings::{ConfigError, Problem, Settings, Source};
use super::yaml::{Kind, Node};
use super::{bootstrap, yaml};

/// Bytes of a configuration file; 10,000 models need about 5 MiB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A configuration file's text.
///
/// # Errors
/// It cannot be read, is too long, or is no UTF-8; the file is named.
pub(super) fn text(path: &Path) -> Result<String, Problem> {
    let wrong = |message: String| Problem::new(path.display().to_string(), message);
    let metadata = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(wrong(format!("{} bytes are too many", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    String::from_utf8(bytes).map_err(|_| wrong("is no UTF-8 text".to_owned()))
}

/// Documents of a text, with the file's name on an error.
pub(super) fn documents(name: &str, text: &str) -> Result<Vec<Node>, Problem> {
    yaml::documents(text).map_err(|e| Problem::new(format!("{name}:{}", e.line), e.message))
}

/// What a file is.
pub(super) enum Content {
    /// An Envoy bootstrap.
    Bootstrap(Node),
    /// Documents with `kind`.
    Native(Vec<Node>),
}

/// Tells a bootstrap from a native file: a native file's documents have a
/// `kind`, a bootstrap is one map with a field of `Bootstrap`.
pub(super) fn content(name: &str, mut documents: Vec<Node>) -> Result<Content, Problem> {
    let native = documents.iter().any(|d| d.at("kind").is_some());
    if native {
        return Ok(Content::Native(documents));
    }
    match documents.len() {
        0 => Err(Problem::new(name, "is empty")),
        1 if bootstrap::looks_like(&documents[0]) => Ok(Content::Bootstrap(documents.remove(0))),
        _ => {
            let message = "is neither an Envoy bootstrap (node, admin, static_resources, \
                           dynamic_resources) nor a native file (documents with 'kind')";
            Err(Problem::new(format!("{name}:{}", documents[0].line), message))
        }
    }
}

/// Settings of the files that the flags name; the defaults without any.
pub(super) fn settings(flags: &Flags) -> Result<Settings, ConfigError> {
    let mut bootstrap: Option<(String, Node)> = None;
    if let Some(path) = &flags.config_path {
        let name = path.display().to_string();
        match content(&name, documents(&name, &text(path)?)?)? {
            Content::Bootstrap(node) => bootstrap = Some((name, node)),
            Content::Native(_) if flags.config_yaml.is_some() => {
                let message = "can only be laid over a bootstrap, not over a native file";
                return Err(Problem::new("--config-yaml", message).into());
            }
            Content::Native(documents) => return native(path.clone(), &name, &documents),
        }
    }
    if let Some(text) = &flags.config_yaml {
        let name = "--config-yaml";
        let mut documents = documents(name, text)?;
        let (1, Some(Node { kind: Kind::Map(_), .. })) = (documents.len(), documents.first())
        else {
            return Err(Problem::new(name, "is not one map").into());
        };
        let over = documents.remove(0);
        match &mut bootstrap {
            Some((_, node)) => node.merge(over),
            None => bootstrap = Some((name.to_owned(), over)),
        }
    }
    match bootstrap {
        Some((name, node)) => bootstrap::read(&name, &node, flags.allow_unknown_fields),
        None => Ok(Settings::default()),
    }
}

fn native(path: PathBuf, name: &str, documents: &[Node]) -> Result<Settings, ConfigError> {
    let file = NativeFile::from_documents(name, documents)?;
    let mut settings = Settings {
        source: Source::File(path),
        rewrite: file.rewrite,
        notices: file.notices,
        ..Settings::default()
    };
    settings.admin = file.admin.or(settings.admin);
    if let (Some(utility), Some(address)) = (&mut settings.utility, file.utility) {
        utility.address = address;
    }
    Ok(settings)
}
