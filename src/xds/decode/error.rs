//! Why a resource was refused, and helpers to refuse fields by name.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

/// A resource that is not understood or not supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field inside the resource, `virtual_hosts[0].routes[3].route`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Invalid {
    /// An error of the message itself; callers add where it is.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { field: String::new(), reason: reason.into() }
    }

    /// A field whose meaning this proxy does not have.
    pub(super) fn unsupported(field: &str) -> Self {
        Self::new("not supported").at(field)
    }

    /// Puts `field` in front of the path.
    #[must_use]
    pub fn at(mut self, field: &str) -> Self {
        let rest = std::mem::take(&mut self.field);
        self.field = match rest.as_bytes().first() {
            None => field.to_owned(),
            Some(b'[') => format!("{field}{rest}"),
            Some(_) => format!("{field}.{rest}"),
        };
        self
    }

    /// Puts `field[index]` in front of the path.
    #[must_use]
    pub(super) fn at_index(self, field: &str, index: usize) -> Self {
        self.at(&format!("{field}[{index}]"))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.field.is_empty() {
            write!(f, " [{}]", self.field)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Adds the place to an error on its way up.
pub(super) trait At<T> {
    fn at(self, field: &str) -> Result<T, Invalid>;
    fn at_index(self, field: &str, index: usize) -> Result<T, Invalid>;
}

impl<T> At<T> for Result<T, Invalid> {
    fn at(self, field: &str) -> Self {
        self.map_err(|e| e.at(field))
    }

    fn at_index(self, field: &str, index: usize) -> Self {
        self.map_err(|e| e.at_index(field, index))
    }
}

/// True for a field that was left out (or has its default, which proto3 does
/// not tell apart).
pub(super) trait Unset {
    fn is_unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T> Unset for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Unset for HashMap<K, V> {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl Unset for String {
    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl Unset for bool {
    fn is_unset(&self) -> bool {
        !self
    }
}

impl Unset for i32 {
    fn is_unset(&self) -> bool {
        *self == 0
    }
}

impl Unset for u32 {
    fn is_unset(&self) -> bool {
        *self == 0
    }
}

impl Unset for i64 {
    fn is_unset(&self) -> bool {
        *self == 0
    }
}

/// `refuse!(message; a, b)`: an error for the first of these fields that is set.
macro_rules! refuse {
    ($message:expr; $($field:ident),+ $(,)?) => {
        $(if !$crate::xds::decode::error::Unset::is_unset(&$message.$field) {
            return Err($crate::xds::decode::Invalid::unsupported(
                stringify!($field).trim_start_matches("r#"),
            ));
        })+
    };
}

/// `overlook!(message, "Message"; a, b)`: a warning, once, for each of these
/// fields that is set.
macro_rules! overlook {
    ($message:expr, $name:literal; $($field:ident),+ $(,)?) => {
        $(if !$crate::xds::decode::error::Unset::is_unset(&$message.$field) {
            $crate::xds::decode::error::warn_once(concat!($name, ".", stringify!($field)), "has no effect here");
        })+
    };
}

pub(super) use {overlook, refuse};

/// Most different warnings; more say nothing new.
const WARNINGS: usize = 256;

/// Logs a warning unless the same was logged before.
pub(super) fn warn_once(what: &str, why: &str) {
    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() >= WARNINGS || seen.iter().any(|s| s == what) {
        return;
    }
    seen.push(what.to_owned());
    drop(seen);
    tracing::warn!("{what} {why}");
}
