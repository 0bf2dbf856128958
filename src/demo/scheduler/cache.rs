//! What the scheduler has to offer, by type: resources with their versions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::google::protobuf::Any;
use sha2::{Digest, Sha256};

/// Type URL of `Listener`.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Type URL of `Cluster`.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type URL of `Secret`.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Type URL of `RouteConfiguration`.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// A named resource, encoded, with a version that is a digest of its content.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// SHA-256 of the content, in hex.
    pub version: String,
    /// The encoded message in pieces, so that a table of ten thousand entries
    /// shares those that did not change with the table before it.
    pieces: Vec<Bytes>,
}

impl Resource {
    /// A resource of encoded bytes.
    #[must_use]
    pub fn new(name: String, encoded: Vec<u8>) -> Arc<Self> {
        let version = hex(&Sha256::digest(&encoded));
        Arc::new(Self { name, version, pieces: vec![encoded.into()] })
    }

    /// A resource of encoded pieces and the digest of them all.
    #[must_use]
    pub(crate) fn in_pieces(name: String, digest: &[u8], pieces: Vec<Bytes>) -> Arc<Self> {
        Arc::new(Self { name, version: hex(digest), pieces })
    }

    /// The resource as a message of `type_url`.
    #[must_use]
    pub fn to_any(&self, type_url: &str) -> Any {
        let mut value = BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum());
        for piece in &self.pieces {
            value.put_slice(piece);
        }
        Any { type_url: type_url.to_owned(), value: value.into() }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// All resources of one type.
#[derive(Debug, Default)]
pub struct Collection {
    resources: BTreeMap<String, Arc<Resource>>,
    version: u64,
}

impl Collection {
    /// Counts the changes; `system_version_info` of responses.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The resources by name.
    #[must_use]
    pub fn resources(&self) -> &BTreeMap<String, Arc<Resource>> {
        &self.resources
    }
}

/// One step of an update. The scheduler makes them in the order: clusters in,
/// tables, clusters out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// Adds resources or changes them.
    Upsert(&'static str, Vec<Arc<Resource>>),
    /// Takes resources away.
    Remove(&'static str, Vec<String>),
    /// Sets the snapshot of the route tables, whole.
    Routes(Vec<Arc<Resource>>),
}

/// The four caches behind one multiplexer: listeners, clusters and secrets for
/// everybody, route tables for one node only.
#[derive(Debug)]
pub struct Caches {
    node: String,
    listeners: Collection,
    clusters: Collection,
    secrets: Collection,
    routes: Collection,
}

impl Caches {
    /// Empty caches whose route tables are for `node`.
    #[must_use]
    pub fn new(node: String) -> Self {
        Self {
            node,
            listeners: Collection::default(),
            clusters: Collection::default(),
            secrets: Collection::default(),
            routes: Collection::default(),
        }
    }

    /// The collection of a type as `node` sees it; none if there is nothing for
    /// it, ever (another type, or the tables for another node).
    #[must_use]
    pub fn collection(&self, type_url: &str, node: &str) -> Option<&Collection> {
        match type_url {
            LISTENER => Some(&self.listeners),
            CLUSTER => Some(&self.clusters),
            SECRET => Some(&self.secrets),
            ROUTE if node == self.node => Some(&self.routes),
            _ => None,
        }
    }

    /// Makes one step of an update.
    pub fn apply(&mut self, push: Push) {
        match push {
            Push::Upsert(type_url, resources) => {
                let collection = self.collection_mut(type_url);
                collection.version += 1;
                let named = resources.into_iter().map(|r| (r.name.clone(), r));
                collection.resources.extend(named);
            }
            Push::Remove(type_url, names) => {
                let collection = self.collection_mut(type_url);
                collection.version += 1;
                for name in names {
                    collection.resources.remove(&name);
                }
            }
            Push::Routes(tables) => {
                self.routes.version += 1;
                self.routes.resources = tables.into_iter().map(|t| (t.name.clone(), t)).collect();
            }
        }
    }

    fn collection_mut(&mut self, type_url: &str) -> &mut Collection {
        match type_url {
            LISTENER => &mut self.listeners,
            CLUSTER => &mut self.clusters,
            SECRET => &mut self.secrets,
            _ => &mut self.routes,
        }
    }
}
