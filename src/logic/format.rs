//! Envoy's command operators (`%REQ(...)%`), parsed once.

/// A parsed format string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {}
