//! The next index out of the last one.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Bucket, Hash, RouteIndex, Slot, key};
use crate::model::Route;

/// Values in a bucket when there are as many buckets as there should be.
const PER_BUCKET: usize = 32;
/// Most buckets: [`Hash::bucket`] has 16 bits.
const MAX_BUCKETS: usize = 1 << 16;
/// Place of a route that the table does not list.
const UNLISTED: u32 = u32::MAX;

/// Stands for a route that the last table did not have.
pub const NEW: u32 = u32::MAX;

/// What became of an edit.
#[derive(Debug)]
pub struct Edited {
    /// The new table's index.
    pub index: RouteIndex,
    /// Ids of the routes as they are listed.
    pub ids: Vec<u32>,
    /// Ids of the new ones, in their order.
    pub added: Vec<u32>,
    /// Ids that the new table does not list any more; they will be used again.
    pub removed: Vec<u32>,
}

/// What the control side keeps of the last table to make the next index. A route
/// is named by an id from table to table, so that an update compares numbers and
/// touches only the routes that changed.
#[derive(Debug, Default)]
pub struct IndexEditor {
    /// By id.
    known: Vec<Option<Known>>,
    free: Vec<u32>,
    /// Groups of routes that ask for the same value, by its hash: values with
    /// equal hashes are one group, which does no harm.
    group_ids: HashMap<u64, u32>,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    buckets: Vec<Arc<Bucket>>,
}

#[derive(Debug)]
struct Known {
    route: Arc<Route>,
    /// Its group and its rank there; none if it asks for no value.
    group: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    hash: Hash,
    /// Routes in it.
    len: u32,
    /// How many of them the walk has seen.
    seen: u32,
}

impl IndexEditor {
    /// The index of a table that lists these routes, in this order: ids of the last
    /// table, or [`NEW`] for the next of `new`. Of a route that is listed again the
    /// first place counts: whatever it decides, it has decided there.
    ///
    /// # Panics
    /// If there are 2^32 - 1 routes, whose messages would take terabytes, or fewer
    /// new ones than `ids` tells of.
    pub fn edit(&mut self, mut ids: Vec<u32>, new: Vec<Arc<Route>>) -> Edited {
        let len = ids.len();
        let mut dirty = vec![false; self.buckets.len()];
        let added: Vec<u32> = new.into_iter().map(|route| self.add(route)).collect();
        let mut next = added.iter();
        for id in ids.iter_mut().filter(|id| **id == NEW) {
            *id = *next.next().expect("as many new routes as are listed");
        }
        let places = self.place(&ids, &mut dirty);
        let removed = self.remove_unlisted(&places, &mut dirty);
        self.write_buckets(&places, &added, &dirty);
        let rest = ids.iter().zip(0..).filter_map(|(id, place)| {
            let known = self.known[*id as usize].as_ref()?;
            let first = known.group.is_none() && places[*id as usize] == place;
            first.then(|| Slot { tag: 0, id: *id, route: Arc::clone(&known.route) })
        });
        let index = RouteIndex {
            rest: rest.collect(),
            buckets: self.buckets.clone().into(),
            places: places.into(),
            len,
        };
        Edited { index, ids, added, removed }
    }

    /// Gives a route an id and a group.
    fn add(&mut self, route: Arc<Route>) -> u32 {
        // Its rank is not known yet.
        let group = key(&route).map(|value| (self.group(Hash::of(value)), u32::MAX));
        let known = Some(Known { route, group });
        match self.free.pop() {
            Some(id) => {
                self.known[id as usize] = known;
                id
            }
            None => {
                self.known.push(known);
                u32::try_from(self.known.len() - 1).expect("fewer than 2^32 routes")
            }
        }
    }

    /// The group of a value, one route larger.
    fn group(&mut self, hash: Hash) -> u32 {
        let (groups, free) = (&mut self.groups, &mut self.free_groups);
        let id = *self.group_ids.entry(hash.0).or_insert_with(|| {
            let group = Group { hash, len: 0, seen: 0 };
            if let Some(id) = free.pop() {
                groups[id as usize] = group;
                return id;
            }
            groups.push(group);
            u32::try_from(groups.len() - 1).expect("no more groups than routes")
        });
        groups[id as usize].len += 1;
        id
    }

    /// Walks the table: places by id, and the buckets in which a group has other
    /// routes, or the same in another order.
    fn place(&mut self, ids: &[u32], dirty: &mut [bool]) -> Vec<u32> {
        let mut places = vec![UNLISTED; self.known.len()];
        self.groups.iter_mut().for_each(|group| group.seen = 0);
        for (id, place) in ids.iter().zip(0..) {
            let at = &mut places[*id as usize];
            let Some(known) = &mut self.known[*id as usize] else { continue };
            if *at != UNLISTED {
                continue;
            }
            *at = place;
            let Some((group, rank)) = &mut known.group else { continue };
            let group = &mut self.groups[*group as usize];
            if *rank != group.seen {
                *rank = group.seen;
                mark(dirty, group.hash);
            }
            group.seen += 1;
        }
        places
    }

    fn remove_unlisted(&mut self, places: &[u32], dirty: &mut [bool]) -> Vec<u32> {
        let mut removed = Vec::new();
        for (known, (id, place)) in self.known.iter_mut().zip((0..).zip(places)) {
            if *place != UNLISTED {
                continue;
            }
            let Some(known) = known.take() else { continue };
            removed.push(id);
            let Some((number, _)) = known.group else { continue };
            let group = &mut self.groups[number as usize];
            mark(dirty, group.hash);
            group.len -= 1;
            if group.len == 0 {
                self.group_ids.remove(&group.hash.0);
                self.free_groups.push(number);
            }
        }
        self.free.extend(&removed);
        removed
    }

    /// Writes the dirty buckets anew, or all of them if their number does not
    /// fit any more.
    fn write_buckets(&mut self, places: &[u32], added: &[u32], dirty: &[bool]) {
        let (count, values) = (self.buckets.len(), self.group_ids.len());
        if values > 2 * PER_BUCKET * count || values * 4 < PER_BUCKET * count {
            let wanted = (values / PER_BUCKET).next_power_of_two().min(MAX_BUCKETS);
            let wanted = if values == 0 { 0 } else { wanted };
            if wanted != count {
                let mut members = vec![Vec::new(); wanted];
                for (known, id) in self.known.iter().zip(0..) {
                    if let Some((group, _)) = known.as_ref().and_then(|known| known.group) {
                        members[self.groups[group as usize].hash.bucket(wanted)].push(id);
                    }
                }
                let write = |ids: Vec<u32>| self.bucket(ids, places);
                self.buckets = members.into_iter().map(write).collect();
                return;
            }
        }
        let mut new: HashMap<usize, Vec<u32>> = HashMap::new();
        for id in added {
            if let Some(hash) = self.hash(*id) {
                new.entry(hash.bucket(count)).or_default().push(*id);
            }
        }
        for number in dirty.iter().enumerate().filter_map(|(i, dirty)| dirty.then_some(i)) {
            let mut members = new.remove(&number).unwrap_or_default();
            members.extend(self.buckets[number].iter().flatten().map(|slot| slot.id));
            self.buckets[number] = self.bucket(members, places);
        }
    }

    /// A bucket of those of these routes that the table lists.
    fn bucket(&self, mut ids: Vec<u32>, places: &[u32]) -> Arc<Bucket> {
        ids.retain(|id| places[*id as usize] != UNLISTED);
        ids.sort_unstable_by_key(|id| places[*id as usize]);
        ids.dedup();
        let mut bucket = vec![None; (2 * ids.len()).next_power_of_two()];
        for id in ids {
            let (Some(hash), Some(known)) = (self.hash(id), &self.known[id as usize]) else {
                continue;
            };
            let start = hash.start(bucket.len());
            let (before, from) = bucket.split_at_mut(start);
            let free = from.iter_mut().chain(before).find(|slot| slot.is_none());
            // Half of the slots stay free.
            if let Some(slot) = free {
                *slot = Some(Slot { tag: hash.tag(), id, route: Arc::clone(&known.route) });
            }
        }
        bucket.into()
    }

    /// Hash of the value that a route asks for; none if it asks for none, or has
    /// left.
    fn hash(&self, id: u32) -> Option<Hash> {
        let (group, _) = self.known[id as usize].as_ref()?.group?;
        Some(self.groups[group as usize].hash)
    }
}

fn mark(dirty: &mut [bool], hash: Hash) {
    if !dirty.is_empty() {
        dirty[hash.bucket(dirty.len())] = true;
    }
}
