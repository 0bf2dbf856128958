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

/// Segments smaller than this stay as they are while any of their routes does: to
/// compact one takes a look at all routes.
const COMPACT_FROM: usize = 4096;

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
    /// Where the bytes of a route are, by id.
    spans: Vec<Span>,
    /// Of their bytes, by id.
    fingerprints: Vec<u128>,
    /// The bytes of the routes that came together. Thousands of pieces of their own
    /// would take a tenth more.
    segments: Vec<Segment>,
    /// Segments of which nothing is used.
    free: Vec<u32>,
    /// By fingerprint.
    ids: HashTable<u32>,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    segment: u32,
    start: u32,
    len: u32,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    bytes: Box<[u8]>,
    /// How many of them belong to a route.
    used: usize,
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

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
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
        let span = self.spans.get(id as usize).copied().unwrap_or_default();
        let segment = self.segments.get(span.segment as usize);
        segment.map_or(&[], |segment| &segment.bytes[span.range()])
    }

    /// Forgets a route.
    pub(crate) fn remove(&mut self, id: u32) {
        let place = hash(self.fingerprints[id as usize]);
        if let Ok(found) = self.ids.find_entry(place, |held| *held == id) {
            found.remove();
        }
        let span = std::mem::take(&mut self.spans[id as usize]);
        let segment = &mut self.segments[span.segment as usize];
        segment.used -= span.len as usize;
        if segment.used == 0 && !segment.bytes.is_empty() {
            segment.bytes = Box::default();
            self.free.push(span.segment);
        } else if segment.bytes.len() >= COMPACT_FROM && segment.used < segment.bytes.len() / 2 {
            self.compact(span.segment);
        }
    }

    /// Keeps routes that came together: their ids, fingerprints and lengths, and
    /// their bytes one after the other.
    pub(crate) fn insert(&mut self, routes: &[(u32, u128, u32)], bytes: Vec<u8>) {
        if routes.is_empty() {
            return;
        }
        let segment = Segment { used: bytes.len(), bytes: bytes.into() };
        let number = self.free.pop().unwrap_or_else(|| {
            self.segments.push(Segment::default());
            u32::try_from(self.segments.len() - 1).expect("no more segments than routes")
        });
        self.segments[number as usize] = segment;
        let mut start = 0;
        for (id, fingerprint, len) in routes {
            let at = *id as usize;
            if self.spans.len() <= at {
                self.spans.resize(at + 1, Span::default());
                self.fingerprints.resize(at + 1, 0);
            }
            self.spans[at] = Span { segment: number, start, len: *len };
            self.fingerprints[at] = *fingerprint;
            start += len;
            let fingerprints = &self.fingerprints;
            let rehash = |id: &u32| hash(fingerprints[*id as usize]);
            self.ids.insert_unique(hash(*fingerprint), *id, rehash);
        }
    }

    /// Leaves out what no route uses any more.
    fn compact(&mut self, number: u32) {
        let segment = &mut self.segments[number as usize];
        let mut kept = Vec::with_capacity(segment.used);
        let is_used = |span: &&mut Span| span.segment == number && span.len > 0;
        for span in self.spans.iter_mut().filter(is_used) {
            let range = span.range();
            // No longer than what there was.
            span.start = u32::try_from(kept.len()).unwrap_or(0);
            kept.extend_from_slice(&segment.bytes[range]);
        }
        segment.bytes = kept.into();
    }

    /// Lists the routes anew, all of those that are kept.
    pub(crate) fn list(&mut self, order: Vec<u32>) {
        self.places.resize(self.spans.len(), 0);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes and goes, what is kept is what came, and little more.
        #[test]
        fn routes_are_kept_as_they_came(
            steps in prop::collection::vec(prop::collection::vec((0..40_u32, 1..300_usize), 1..20), 1..40)
        ) {
            let mut host = RawHost::default();
            let mut expected = BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                // Of an id that comes twice the last one counts.
                let wanted: BTreeMap<u32, usize> = step.into_iter().collect();
                for id in wanted.keys().filter(|id| expected.remove(*id).is_some()) {
                    host.remove(*id);
                }
                let (mut new, mut bytes) = (Vec::new(), Vec::new());
                for (id, len) in wanted {
                    let route = format!("{number}/{id}").into_bytes().repeat(len);
                    new.push((id, RawHost::fingerprint(&route), u32::try_from(route.len()).unwrap()));
                    bytes.extend_from_slice(&route);
                    expected.insert(id, route);
                }
                host.insert(&new, bytes);
                host.list(expected.keys().copied().collect());
                let mut next = 0;
                for (id, route) in &expected {
                    prop_assert_eq!(host.route(*id), &**route);
                    prop_assert_eq!(host.find(RawHost::fingerprint(route), &mut next), Some(*id));
                }
                prop_assert_eq!(next, expected.len());
                let held: usize = host.segments.iter().map(|segment| segment.bytes.len()).sum();
                let used: usize = expected.values().map(Vec::len).sum();
                let small = host.segments.len() * COMPACT_FROM;
                prop_assert!(held <= 2 * used + small, "{held} for {used}");
                let large = host.segments.iter().filter(|s| s.bytes.len() >= COMPACT_FROM);
                prop_assert!(large.into_iter().all(|s| s.bytes.len() <= 2 * s.used + 1));
            }
        }
    }
}
