//! The accepted resources as they came, for `/config_dump`, for the saved
//! snapshot and for `initial_resource_versions`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use bytes::Bytes;

use super::RawTable;

/// A protobuf message.
#[derive(Clone, Debug)]
pub enum RawValue {
    /// As it came.
    Message(Bytes),
    /// A route table, which changes where it is.
    Table(Arc<RwLock<RawTable>>),
}

impl RawValue {
    /// The message as it is now.
    #[must_use]
    pub fn message(&self) -> Bytes {
        match self {
            Self::Message(bytes) => bytes.clone(),
            Self::Table(table) => {
                table.read().unwrap_or_else(PoisonError::into_inner).message().into()
            }
        }
    }
}

/// One accepted resource.
#[derive(Clone, Debug)]
pub struct RawResource {
    /// Version as the control plane gave it; opaque.
    pub version: String,
    /// The `Any`'s value, of the set's type.
    pub value: RawValue,
    /// When it was accepted.
    pub updated: SystemTime,
}

impl RawResource {
    /// The resource as it is now, whatever becomes of it.
    #[must_use]
    pub fn fixed(&self) -> Self {
        Self { value: RawValue::Message(self.value.message()), ..self.clone() }
    }
}

/// The accepted resources of one type.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    /// `system_version_info` of the last accepted response.
    pub version_info: String,
    /// By resource name.
    pub by_name: BTreeMap<String, RawResource>,
}

/// The accepted resources of every type.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub clusters: ResourceSet,
    pub listeners: ResourceSet,
    pub routes: ResourceSet,
    pub secrets: ResourceSet,
}
