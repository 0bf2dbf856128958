//! A change of resources, and what became of it.

use bytes::Bytes;

use super::decode::TableScan;
use crate::model::RawResource;

pub use crate::logic::ads::ResourceType;

/// Resources of one type that came together.
#[derive(Clone, Debug)]
pub struct Update {
    /// The type of all of them.
    pub kind: ResourceType,
    /// New or changed resources.
    pub resources: Vec<Resource>,
    /// Route tables that were taken apart while they came in.
    pub tables: Vec<Table>,
    /// Names that are gone. Ignored for routes and secrets, as in Envoy.
    pub removed: Vec<String>,
    /// `system_version_info`; opaque.
    pub version_info: String,
    /// True if `resources` is everything of the type: whatever is not listed is
    /// removed (state-of-the-world responses, file mode).
    pub complete: bool,
}

impl Update {
    /// An update that adds or changes `resources` and removes nothing.
    #[must_use]
    pub fn new(kind: ResourceType, resources: Vec<Resource>) -> Self {
        Self {
            kind,
            resources,
            tables: Vec::new(),
            removed: Vec::new(),
            version_info: String::new(),
            complete: false,
        }
    }

    /// The whole state of a type.
    #[must_use]
    pub fn complete(kind: ResourceType, resources: Vec<Resource>) -> Self {
        Self { complete: true, ..Self::new(kind, resources) }
    }
}

/// One resource as it came.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name, the same as in the message.
    pub name: String,
    /// Opaque version.
    pub version: String,
    /// The protobuf message of the update's type (an `Any`'s value).
    pub value: Bytes,
}

/// A route table, taken apart.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name, the same as in the message.
    pub name: String,
    /// Opaque version.
    pub version: String,
    /// What came.
    pub scan: TableScan,
}

impl Resource {
    /// A resource that was accepted before.
    #[must_use]
    pub fn accepted(name: String, raw: &RawResource) -> Self {
        Self { name, version: raw.version.clone(), value: raw.value.message() }
    }

    /// A resource from a message. Its version is a digest of the bytes.
    #[must_use]
    pub fn encode(name: &str, message: &impl prost::Message) -> Self {
        let value = Bytes::from(message.encode_to_vec());
        let version = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&value));
        Self { name: name.to_owned(), version, value }
    }
}

/// A refused resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Resource name.
    pub name: String,
    /// Why, with the field.
    pub reason: String,
}

/// What became of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Resources taken over, unchanged ones included.
    pub accepted: usize,
    /// Resources refused; their previous versions stay in force.
    pub rejected: Vec<Rejected>,
    /// Clusters that wait for their first look-up, and tables that wait for
    /// clusters.
    pub warming: usize,
}

impl Outcome {
    /// The text of a NACK, in Envoy's words; none if everything was accepted.
    #[must_use]
    pub fn error(&self, kind: ResourceType) -> Option<String> {
        if self.rejected.is_empty() {
            return None;
        }
        let each = || self.rejected.iter().map(|r| format!("{}: {}", r.name, r.reason));
        Some(match kind {
            ResourceType::Cluster => {
                format!(
                    "Error adding/updating cluster(s) {}",
                    each().collect::<Vec<_>>().join(", ")
                )
            }
            ResourceType::Listener => {
                let lines: String = each().map(|line| line + "\n").collect();
                format!("Error adding/updating listener(s) {lines}")
            }
            ResourceType::Route | ResourceType::Secret => {
                let each = self.rejected.iter().map(|r| format!("{} ({})", r.reason, r.name));
                each.collect::<Vec<_>>().join("; ")
            }
        })
    }
}
