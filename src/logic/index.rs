//! Route lookup that does not depend on the number of models, and that costs
//! what changed when the table changes.
//!
//! A scheduler's table tells its routes apart by an exact `seldon-model` value.
//! The index finds that value's routes by hash and keeps the other routes in a
//! list of their own. Where more than one list may hold the first match they are
//! merged in table order, so the answer is that of an ordered scan for every
//! table.
//!
//! Routes are spread over buckets of some dozens, each an immutable piece that
//! successive tables share: [`IndexEditor`] makes a new index out of the last one
//! and writes only the buckets anew in which something changed. A lookup reads
//! one line of a bucket, then the routes themselves.

mod edit;

use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::headers::{HeaderId, RequestHead};
use crate::model::{HeaderMatch, Route, RouteTable, StringMatch, VirtualHost};

pub use edit::{Edited, IndexEditor, NEW};

/// Hash index of a virtual host's routes on the exact `seldon-model` value.
#[derive(Debug, Default)]
pub struct RouteIndex {
    /// By the highest bits of the value's hash; a power of two of them, or none.
    buckets: Box<[Arc<Bucket>]>,
    /// Routes without such a matcher, in table order.
    rest: Box<[Slot]>,
    /// Position in the table by [`Slot::id`].
    places: Box<[u32]>,
    /// Routes listed, repetitions included.
    len: usize,
}

/// An open-addressed table, at most half full. Routes of one value follow each
/// other in table order.
type Bucket = [Option<Slot>];

/// A route in the index.
#[derive(Clone, Debug)]
struct Slot {
    /// The lowest bits of the value's hash.
    tag: u32,
    /// Names the route from table to table ([`IndexEditor`]).
    id: u32,
    route: Arc<Route>,
}

/// Hash of a `seldon-model` value, taken apart.
#[derive(Clone, Copy, Debug)]
struct Hash(u64);

impl Hash {
    fn of(value: &[u8]) -> Self {
        Self(xxh3_64(value))
    }

    /// Kept beside the route, to tell values apart without reading it.
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
    fn tag(self) -> u32 {
        self.0 as u32
    }

    /// Which of `count` buckets, a power of two.
    fn bucket(self, count: usize) -> usize {
        (self.0 >> 48) as usize & (count - 1)
    }

    /// Where a search begins in a bucket of `size`, a power of two.
    fn start(self, size: usize) -> usize {
        (self.0 >> 32) as usize & (size - 1)
    }
}

impl RouteIndex {
    /// Indexes a list of routes.
    #[must_use]
    pub fn build(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let routes: Vec<_> = routes.into_iter().collect();
        IndexEditor::default().edit(vec![NEW; routes.len()], routes).index
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every route once, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.slots().map(|slot| &slot.route)
    }

    /// Every route once, in table order.
    #[must_use]
    pub fn in_order(&self) -> Vec<&Arc<Route>> {
        let mut slots: Vec<_> = self.slots().collect();
        slots.sort_by_key(|slot| self.place(slot));
        slots.into_iter().map(|slot| &slot.route).collect()
    }

    /// The first route in table order that matches; `draw` as in
    /// [`crate::model::RouteMatch::matches`].
    #[must_use]
    pub fn find(&self, head: &RequestHead, draw: u64) -> Option<&Arc<Route>> {
        let mut values = head.headers.all(HeaderId::SeldonModel);
        let value = values.next();
        if !self.rest.is_empty() || values.next().is_some() {
            return self.find_merged(head, draw);
        }
        let value = value?;
        let mut chain = self.chain(Hash::of(value));
        let found = chain.find(|slot| {
            key(&slot.route) == Some(value) && slot.route.matcher.matches(head, draw)
        })?;
        Some(&found.route)
    }

    /// The same where the first match may be in one of several lists.
    #[cold]
    fn find_merged(&self, head: &RequestHead, draw: u64) -> Option<&Arc<Route>> {
        let mut keyed = SmallVec::<[&Slot; 16]>::new();
        for value in head.headers.all(HeaderId::SeldonModel) {
            let chain = self.chain(Hash::of(value));
            keyed.extend(chain.filter(|slot| key(&slot.route) == Some(value)));
        }
        keyed.sort_unstable_by_key(|slot| self.place(slot));
        let mut keyed = keyed.into_iter().peekable();
        let mut rest = self.rest.iter().peekable();
        loop {
            let slot = match (keyed.peek(), rest.peek()) {
                (Some(a), Some(b)) if self.place(a) > self.place(b) => rest.next(),
                (Some(_), _) => keyed.next(),
                (None, _) => rest.next(),
            }?;
            if slot.route.matcher.matches(head, draw) {
                return Some(&slot.route);
            }
        }
    }

    /// Routes that ask for a value of this hash, in table order; one of another
    /// hash may be among them.
    fn chain(&self, hash: Hash) -> impl Iterator<Item = &Slot> {
        let bucket: &Bucket = match &*self.buckets {
            [] => &[],
            buckets => &buckets[hash.bucket(buckets.len())],
        };
        let start = if bucket.is_empty() { 0 } else { hash.start(bucket.len()) };
        let (before, from) = bucket.split_at(start);
        let slots = from.iter().chain(before).map_while(Option::as_ref);
        slots.filter(move |slot| slot.tag == hash.tag())
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.buckets.iter().flat_map(|bucket| bucket.iter()).flatten().chain(&self.rest)
    }

    fn place(&self, slot: &Slot) -> u32 {
        self.places.get(slot.id as usize).copied().unwrap_or(u32::MAX)
    }
}

/// The value that some `seldon-model` line must equal for the route to match.
fn key(route: &Route) -> Option<&[u8]> {
    route.matcher.headers.iter().find_map(|m| match &m.rule {
        HeaderMatch::Value(StringMatch::Exact { value, ignore_case: false })
            if !m.invert && !m.missing_as_empty && &*m.name == "seldon-model" =>
        {
            Some(&**value)
        }
        _ => None,
    })
}

/// How well a domain fits; the greatest wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Any,
    Prefix(usize),
    Suffix(usize),
    Exact,
}

impl RouteTable {
    /// The virtual host for an authority (its port, if any, is part of it):
    /// exact domain, longest `*suffix`, longest `prefix*`, `*`, in this order,
    /// without regard to ASCII case; a wildcard stands for at least one byte.
    #[must_use]
    pub fn host_for(&self, authority: &[u8]) -> Option<&VirtualHost> {
        if let [only] = &*self.virtual_hosts
            && let [any] = &*only.domains
            && any == "*"
        {
            return Some(only);
        }
        let mut best: Option<(Fit, &VirtualHost)> = None;
        for host in &self.virtual_hosts {
            for domain in &host.domains {
                if let Some(fit) = fit(domain.as_bytes(), authority)
                    && best.is_none_or(|(so_far, _)| fit > so_far)
                {
                    best = Some((fit, host));
                }
            }
        }
        best.map(|(_, host)| host)
    }

    /// The route for a request: its virtual host, then the first match there.
    #[must_use]
    pub fn find(&self, head: &RequestHead, draw: u64) -> Option<(&VirtualHost, &Arc<Route>)> {
        let host = self.host_for(head.authority())?;
        Some((host, host.routes.find(head, draw)?))
    }
}

fn fit(domain: &[u8], authority: &[u8]) -> Option<Fit> {
    let starts =
        |p: &[u8]| authority.get(..p.len()).is_some_and(|start| start.eq_ignore_ascii_case(p));
    match domain {
        b"*" => Some(Fit::Any),
        [b'*', suffix @ ..] => {
            let at = authority.len().checked_sub(suffix.len()).filter(|at| *at > 0)?;
            authority[at..].eq_ignore_ascii_case(suffix).then_some(Fit::Suffix(suffix.len()))
        }
        [prefix @ .., b'*'] => {
            (authority.len() > prefix.len() && starts(prefix)).then_some(Fit::Prefix(prefix.len()))
        }
        _ => domain.eq_ignore_ascii_case(authority).then_some(Fit::Exact),
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
