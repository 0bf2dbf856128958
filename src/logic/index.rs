//! Route lookup that does not depend on the number of models.
//!
//! A scheduler's table tells its routes apart by an exact `seldon-model` value.
//! The index maps that value to the routes that ask for it, in table order, and
//! keeps the other routes in a list of their own. A lookup merges both in table
//! order, so the answer is that of an ordered scan for every table.
//!
//! Nothing is copied: the hash table holds positions, hashed by the value that
//! the route itself keeps, and routes of the same value are chained by position.
//! That is four bytes a route plus about ten a model.

use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::headers::{HeaderId, RequestHead};
use crate::model::{HeaderMatch, Route, RouteTable, StringMatch, VirtualHost};

/// End of a chain.
const END: u32 = u32::MAX;

/// Hash index of a virtual host's routes on the exact `seldon-model` value.
#[derive(Debug, Default)]
pub struct RouteIndex {
    /// First position of each value's chain.
    heads: HashTable<u32>,
    /// By position: the next position of the same chain, or [`END`].
    next: Box<[u32]>,
    /// Positions of routes without such a matcher, ascending.
    rest: Box<[u32]>,
}

impl RouteIndex {
    /// Indexes `routes`. Lookups must be given the same list.
    #[must_use]
    pub fn build(routes: &[Arc<Route>]) -> Self {
        let keyed = routes.iter().filter(|r| key(r).is_some()).count();
        let mut heads = HashTable::with_capacity(keyed / 2);
        let mut next = vec![END; routes.len()];
        let mut rest = Vec::with_capacity(routes.len() - keyed);
        // From the back, so that each chain ends up in table order.
        for (position, route) in (0..END).zip(routes).rev() {
            let Some(value) = key(route) else {
                rest.push(position);
                continue;
            };
            let same = |other: &u32| key_at(routes, *other) == Some(value);
            let rehash = |other: &u32| xxh3_64(key_at(routes, *other).unwrap_or_default());
            match heads.entry(xxh3_64(value), same, rehash) {
                Entry::Occupied(mut head) => {
                    next[position as usize] = *head.get();
                    *head.get_mut() = position;
                }
                Entry::Vacant(free) => {
                    free.insert(position);
                }
            }
        }
        heads.shrink_to_fit(|p| xxh3_64(key_at(routes, *p).unwrap_or_default()));
        rest.reverse();
        Self { heads, next: next.into(), rest: rest.into() }
    }

    /// The first route in table order that matches; `draw` as in
    /// [`crate::model::RouteMatch::matches`].
    #[must_use]
    pub fn find<'a>(
        &self,
        routes: &'a [Arc<Route>],
        head: &RequestHead,
        draw: u64,
    ) -> Option<&'a Arc<Route>> {
        let mut chains: SmallVec<[u32; 4]> = head
            .headers
            .all(HeaderId::SeldonModel)
            .filter_map(|value| self.chain(routes, value))
            .collect();
        let mut rest = self.rest.iter().copied().peekable();
        loop {
            let indexed = chains.iter().copied().min().unwrap_or(END);
            let position = indexed.min(rest.peek().copied().unwrap_or(END));
            let route = routes.get(position as usize)?;
            if route.matcher.matches(head, draw) {
                return Some(route);
            }
            if position != indexed {
                rest.next();
                continue;
            }
            let after = self.next.get(position as usize).copied().unwrap_or(END);
            for chain in &mut chains {
                if *chain == position {
                    *chain = after;
                }
            }
        }
    }

    /// The first position whose route asks for exactly this value.
    fn chain(&self, routes: &[Arc<Route>], value: &[u8]) -> Option<u32> {
        self.heads.find(xxh3_64(value), |p| key_at(routes, *p) == Some(value)).copied()
    }
}

fn key_at(routes: &[Arc<Route>], position: u32) -> Option<&[u8]> {
    routes.get(position as usize).and_then(|route| key(route))
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
        if let [only] = &*self.virtual_hosts {
            if let [any] = &*only.domains {
                if any == "*" {
                    return Some(only);
                }
            }
        }
        let mut best: Option<(Fit, &VirtualHost)> = None;
        for host in &self.virtual_hosts {
            for domain in &host.domains {
                if let Some(fit) = fit(domain.as_bytes(), authority) {
                    if best.is_none_or(|(so_far, _)| fit > so_far) {
                        best = Some((fit, host));
                    }
                }
            }
        }
        best.map(|(_, host)| host)
    }

    /// The route for a request: its virtual host, then the first match there.
    #[must_use]
    pub fn find(&self, head: &RequestHead, draw: u64) -> Option<(&VirtualHost, &Arc<Route>)> {
        let host = self.host_for(head.authority())?;
        Some((host, host.index.find(&host.routes, head, draw)?))
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
