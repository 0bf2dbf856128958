//! The accepted resources as they came, for `/config_dump`, for the saved
//! snapshot and for `initial_resource_versions`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::RawTable;

/// A protobuf message.
#[derive(Clone, Debug)]
pub enum RawValue {
    /// As it came.
    Message(Bytes),
    /// A route table, taken apart.
    Table(Arc<RawTable>),
}

impl RawValue {
    /// The message.
    #[must_use]
    pub fn message(&self) -> Bytes {
        match self {
            Self::Message(bytes) => bytes.clone(),
            Self::Table(table) => table.message().into(),
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
