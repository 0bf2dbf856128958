//! Envoy's command operators (`%REQ(...)%`), parsed once.

/// A parsed format string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {}

/// A format that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub String);

impl Format {
    /// Parses a format string.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(_: &str) -> Result<Self, FormatError> {
        Ok(Self {})
    }
}
