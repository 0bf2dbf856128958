//! One discovery stream, without its socket: requests and changes in,
//! responses out, as the scheduler's control-plane library does it.
//!
//! A subscription is a *watch* that its next response closes; the client's next
//! request of that type, its ACK, opens it again. So at most one response of a
//! type is under way, and what changes meanwhile comes in one piece after the
//! ACK. Nonces count over all types. An ACK and a NACK are the same thing here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use super::cache::{Caches, Collection, ROUTE};

const WILDCARD: &str = "*";

/// A request without a type; ends the stream with INVALID_ARGUMENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("type URL is required for ADS")]
pub struct TypeUrlMissing;

/// A stream of `DeltaAggregatedResources`.
#[derive(Debug, Default)]
pub struct DeltaStream {
    node: Option<String>,
    nonce: u64,
    /// In order of their first requests.
    types: Vec<(String, DeltaSubscription)>,
}

#[derive(Debug, Default)]
struct DeltaSubscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Versions that the client is believed to have.
    returned: HashMap<String, String>,
    /// The watch: open until the next response.
    open: bool,
    /// A wildcard's first response comes even if there is nothing in it.
    owes_answer: bool,
    /// Version of the collection that was last looked at in vain or answered.
    seen: Option<u64>,
    /// Nonce of the last response, and the last one that was answered: a watch can be
    /// open without, by a change of names.
    sent: u64,
    answered: u64,
}

impl DeltaStream {
    /// Takes one request; the response, if there is something to say now.
    ///
    /// # Errors
    ///
    /// The request has no type URL.
    pub fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        caches: &Caches,
    ) -> Result<Option<DeltaDiscoveryResponse>, TypeUrlMissing> {
        if let Some(node) = request.node {
            self.node = Some(node.id);
        }
        if request.type_url.is_empty() {
            return Err(TypeUrlMissing);
        }
        let index = match self.types.iter().position(|(t, _)| *t == request.type_url) {
            Some(index) => index,
            None => {
                let subscription = DeltaSubscription {
                    wildcard: request.resource_names_subscribe.is_empty(),
                    returned: request.initial_resource_versions,
                    ..DeltaSubscription::default()
                };
                self.types.push((request.type_url, subscription));
                self.types.len() - 1
            }
        };
        let subscription = &mut self.types[index].1;
        subscription.answered = request.response_nonce.parse().unwrap_or(subscription.answered);
        subscription.subscribe(request.resource_names_subscribe);
        subscription.unsubscribe(&request.resource_names_unsubscribe);
        subscription.open = true;
        subscription.owes_answer = subscription.wildcard && request.response_nonce.is_empty();
        subscription.seen = None;
        Ok(self.respond(index, caches))
    }

    /// After a change of the caches: the responses that open watches give.
    pub fn changed(&mut self, caches: &Caches) -> Vec<DeltaDiscoveryResponse> {
        (0..self.types.len()).filter_map(|index| self.respond(index, caches)).collect()
    }

    /// True when the client has, and has answered for, all that it asked for.
    #[must_use]
    pub fn is_settled(&self, caches: &Caches) -> bool {
        let node = self.node.as_deref().unwrap_or_default();
        self.types.iter().all(|(type_url, subscription)| {
            subscription.open
                && subscription.answered == subscription.sent
                && caches
                    .collection(type_url, node)
                    .is_none_or(|c| subscription.difference(c) == (Vec::new(), Vec::new()))
        })
    }

    fn respond(&mut self, index: usize, caches: &Caches) -> Option<DeltaDiscoveryResponse> {
        let node = self.node.as_deref().unwrap_or_default();
        let (type_url, subscription) = &mut self.types[index];
        let collection = caches.collection(type_url, node)?;
        if !subscription.open || subscription.seen == Some(collection.version()) {
            return None;
        }
        subscription.seen = Some(collection.version());
        let (changed, removed) = subscription.difference(collection);
        if changed.is_empty() && removed.is_empty() && !subscription.owes_answer {
            return None;
        }
        let resources: Vec<Resource> = changed
            .iter()
            .map(|name| {
                let resource = &collection.resources()[*name];
                Resource {
                    name: resource.name.clone(),
                    version: resource.version.clone(),
                    resource: Some(resource.to_any(type_url)),
                    ..Resource::default()
                }
            })
            .collect();
        let removed_resources: Vec<String> = removed.into_iter().cloned().collect();
        for name in &removed_resources {
            subscription.returned.remove(name);
        }
        for resource in &resources {
            subscription.returned.insert(resource.name.clone(), resource.version.clone());
        }
        subscription.open = false;
        subscription.owes_answer = false;
        self.nonce += 1;
        subscription.sent = self.nonce;
        Some(DeltaDiscoveryResponse {
            system_version_info: collection.version().to_string(),
            resources,
            type_url: type_url.clone(),
            removed_resources,
            nonce: self.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        })
    }
}

impl DeltaSubscription {
    fn subscribe(&mut self, names: Vec<String>) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                self.names.insert(name);
            }
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = false;
                continue;
            }
            let was_named = self.names.remove(name);
            if was_named && self.wildcard {
                // Still wanted by the wildcard: to be sent (or removed) anew.
                self.returned.insert(name.clone(), String::new());
            } else if !self.wildcard {
                self.returned.remove(name);
            }
        }
    }

    /// Names of changed resources, and those that are gone.
    fn difference<'a>(&'a self, collection: &'a Collection) -> (Vec<&'a String>, Vec<&'a String>) {
        let resources = collection.resources();
        let is_new = |name: &String, version: &String| self.returned.get(name) != Some(version);
        let wanted = |name: &String| self.wildcard || self.names.contains(name);
        let changed = if self.wildcard {
            let all = resources.iter();
            all.filter(|(name, r)| is_new(name, &r.version)).map(|(name, _)| name).collect()
        } else {
            let named = self.names.iter();
            named.filter(|n| resources.get(*n).is_some_and(|r| is_new(n, &r.version))).collect()
        };
        let gone = self.returned.keys().filter(|n| wanted(n) && !resources.contains_key(*n));
        (changed, gone.collect())
    }
}

/// A stream of `StreamAggregatedResources`: whole states of the world.
///
/// As in the real one, a request that does not name the current version (a
/// NACK, for instance) is answered with it at once.
#[derive(Debug, Default)]
pub struct SotwStream {
    node: Option<String>,
    nonce: u64,
    types: BTreeMap<String, SotwSubscription>,
}

#[derive(Debug, Default)]
struct SotwSubscription {
    names: Vec<String>,
    /// What the client says it has.
    version: String,
    /// Nonce of the last response.
    nonce: Option<String>,
    /// Names that the last response was made for.
    answered_names: Vec<String>,
    open: bool,
}

impl SotwStream {
    /// Takes one request; the response, if there is something to say now. A
    /// request with a nonce other than the last one's is ignored.
    ///
    /// # Errors
    ///
    /// The request has no type URL.
    pub fn request(
        &mut self,
        request: DiscoveryRequest,
        caches: &Caches,
    ) -> Result<Option<DiscoveryResponse>, TypeUrlMissing> {
        if let Some(node) = request.node {
            self.node = Some(node.id);
        }
        if request.type_url.is_empty() {
            return Err(TypeUrlMissing);
        }
        let subscription = self.types.entry(request.type_url.clone()).or_default();
        if subscription.nonce.as_ref().is_some_and(|last| *last != request.response_nonce) {
            return Ok(None);
        }
        subscription.names = request.resource_names;
        subscription.version = request.version_info;
        subscription.open = true;
        Ok(self.respond(&request.type_url, caches))
    }

    /// After a change of the caches: the responses that open watches give.
    pub fn changed(&mut self, caches: &Caches) -> Vec<DiscoveryResponse> {
        let types: Vec<String> = self.types.keys().cloned().collect();
        types.iter().filter_map(|type_url| self.respond(type_url, caches)).collect()
    }

    /// True when the client has, and has accepted, all that it asked for.
    #[must_use]
    pub fn is_settled(&self, caches: &Caches) -> bool {
        let node = self.node.as_deref().unwrap_or_default();
        self.types.iter().all(|(type_url, subscription)| {
            subscription.open
                && caches
                    .collection(type_url, node)
                    .is_none_or(|c| subscription.version == c.version().to_string())
        })
    }

    fn respond(&mut self, type_url: &str, caches: &Caches) -> Option<DiscoveryResponse> {
        let node = self.node.as_deref().unwrap_or_default();
        let collection = caches.collection(type_url, node)?;
        let subscription = self.types.get_mut(type_url)?;
        let version = collection.version().to_string();
        let same_names = subscription.names == subscription.answered_names;
        if !subscription.open || (subscription.version == version && same_names) {
            return None;
        }
        let wanted =
            |name: &String| subscription.names.is_empty() || subscription.names.contains(name);
        let resources = collection.resources();
        // The snapshot cache answers only those who ask for all of its tables.
        if type_url == ROUTE && !resources.keys().all(wanted) {
            return None;
        }
        let found = resources.iter().filter(|(name, _)| wanted(name));
        let found: Vec<_> = found.map(|(_, resource)| resource.to_any(type_url)).collect();
        if found.is_empty() && !subscription.names.is_empty() {
            return None;
        }
        self.nonce += 1;
        subscription.open = false;
        subscription.nonce = Some(self.nonce.to_string());
        subscription.answered_names.clone_from(&subscription.names);
        Some(DiscoveryResponse {
            version_info: version,
            resources: found,
            type_url: type_url.to_owned(),
            nonce: self.nonce.to_string(),
            ..DiscoveryResponse::default()
        })
    }
}
