//! (being written)

/// Taps.
#[derive(Clone, Debug, Default)]
pub struct Taps {}
