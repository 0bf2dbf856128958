//! The bytes of an accepted table, route by route.
//!
//! The control plane sends the whole table at every change. Kept like this, a
//! change replaces the bytes of the routes that changed and not those of the
//! others, and a table that is being received can be compared with the last one
//! while it comes in.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_128;

/// Field numbers: `RouteConfiguration.name` and `.virtual_hosts`,
/// `VirtualHost.routes`.
pub(crate) const NAME: u32 = 1;
pub(crate) const VIRTUAL_HOSTS: u32 = 2;
pub(crate) const ROUTES: u32 = 3;

/// A `RouteConfiguration`, taken apart.
#[derive(Clone, Debug, Default)]
pub struct RawTable {
    /// All fields but the virtual hosts.
    pub(crate) rest: Vec<u8>,
    pub(crate) hosts: Vec<RawHost>,
}

/// A `VirtualHost`, taken apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawHost {
    /// All fields but the routes.
    pub(crate) rest: Vec<u8>,
    /// Ids of the routes as they are listed.
    order: Vec<u32>,
    /// Places in `order`, by id.
    places: Vec<u32>,
    /// By id; empty where there is none.
    routes: Vec<Box<[u8]>>,
    /// Of their bytes, by id.
    fingerprints: Vec<u128>,
    /// By fingerprint.
    ids: HashTable<u32>,
}

impl RawTable {
    /// The message. Its fields may stand in another order than they came in.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut out = self.rest.clone();
        let mut host_bytes = Vec::new();
        for host in &self.hosts {
            host_bytes.clear();
            host.write(&mut host_bytes);
            put_delimited(VIRTUAL_HOSTS, &host_bytes, &mut out);
        }
        out
    }
}

impl RawHost {
    /// The fingerprint of a route's bytes.
    pub(crate) fn fingerprint(route: &[u8]) -> u128 {
        xxh3_128(route)
    }

    /// Ids of the routes as they are listed.
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// The id of the route with these bytes. `next` is where it is likely to be
    /// listed, and then where the one behind it is: a scheduler lists most routes in
    /// the same order, if not from the same one on.
    pub(crate) fn find(&self, fingerprint: u128, next: &mut usize) -> Option<u32> {
        let same = |id: &u32| self.fingerprints[*id as usize] == fingerprint;
        let expected = self.order.get(*next).copied().filter(same);
        let id = expected.or_else(|| self.ids.find(hash(fingerprint), same).copied())?;
        *next = if expected.is_some() { *next } else { self.places[id as usize] as usize } + 1;
        Some(id)
    }

    /// The bytes of a route; empty if there is none of this id.
    pub(crate) fn route(&self, id: u32) -> &[u8] {
        self.routes.get(id as usize).map_or(&[], |route| route)
    }

    /// Forgets a route.
    pub(crate) fn remove(&mut self, id: u32) {
        let place = hash(self.fingerprints[id as usize]);
        if let Ok(found) = self.ids.find_entry(place, |held| *held == id) {
            found.remove();
        }
        self.routes[id as usize] = Box::default();
    }

    /// Keeps a route.
    pub(crate) fn insert(&mut self, id: u32, fingerprint: u128, bytes: Box<[u8]>) {
        let at = id as usize;
        if self.routes.len() <= at {
            self.routes.resize_with(at + 1, Box::default);
            self.fingerprints.resize(at + 1, 0);
        }
        (self.routes[at], self.fingerprints[at]) = (bytes, fingerprint);
        let fingerprints = &self.fingerprints;
        let rehash = |id: &u32| hash(fingerprints[*id as usize]);
        self.ids.insert_unique(hash(fingerprint), id, rehash);
    }

    /// Lists the routes anew, all of those that are kept.
    pub(crate) fn list(&mut self, order: Vec<u32>) {
        self.places.resize(self.routes.len(), 0);
        for (id, place) in order.iter().zip(0..) {
            self.places[*id as usize] = place;
        }
        self.order = order;
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rest);
        for id in &self.order {
            put_delimited(ROUTES, self.route(*id), out);
        }
    }
}

/// A fingerprint is as good a hash as any.
#[expect(clippy::cast_possible_truncation, reason = "half of it is enough")]
fn hash(fingerprint: u128) -> u64 {
    fingerprint as u64
}

fn put_delimited(number: u32, value: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}
