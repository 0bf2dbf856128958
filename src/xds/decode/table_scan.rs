//! A route table while it comes in. Of routes that the last accepted table had, byte
//! for byte, only their ids are kept: a table of megabytes in which one route changed
//! leaves one route to decode.

use std::sync::Arc;

use super::descent::{Descent, Field, Visit};
use super::walk::first_string;
use crate::logic::index::NEW;
use crate::model::{NAME, ROUTES, RawHost, RawTable, VIRTUAL_HOSTS};

/// The last accepted table of a name, shared with whoever shows it.
pub type KnownTable = Arc<RawTable>;

/// A table taken apart and compared with the last accepted one.
#[derive(Clone, Debug, Default)]
pub struct TableScan {
    known: Option<KnownTable>,
    /// All fields but the virtual hosts.
    pub(super) rest: Vec<u8>,
    pub(super) hosts: Vec<HostScan>,
    is_malformed: bool,
}

/// A virtual host of it.
#[derive(Clone, Debug, Default)]
pub(super) struct HostScan {
    /// All fields but the routes.
    pub(super) rest: Vec<u8>,
    /// Its routes in order: ids in the known table, or [`NEW`] for the next of `new`.
    pub(super) listed: Vec<u32>,
    /// Those that the known table does not have.
    pub(super) new: Vec<NewRoute>,
    /// Their bytes, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Where the next one was listed, if the order is the same.
    next: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NewRoute {
    pub(super) fingerprint: u128,
    pub(super) len: u32,
}

impl HostScan {
    /// Takes all routes for new ones.
    pub(super) fn renew(&mut self, raw: &RawHost) {
        let mut old = std::mem::take(self);
        self.rest = std::mem::take(&mut old.rest);
        let mut new = old.new_routes();
        for id in &old.listed {
            let bytes = if *id == NEW { new.next().unwrap_or_default() } else { raw.route(*id) };
            self.add(RawHost::fingerprint(bytes), bytes);
        }
    }

    /// Lists a route as a new one.
    fn add(&mut self, fingerprint: u128, bytes: &[u8]) {
        self.listed.push(NEW);
        // A message of the protocol is no longer than 2^32 bytes.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.new.push(NewRoute { fingerprint, len });
        self.bytes.extend_from_slice(&bytes[..len as usize]);
    }

    /// The bytes of the new ones, in order.
    pub(super) fn new_routes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.bytes;
        self.new.iter().map(move |new| {
            let (route, behind) = rest.split_at(new.len as usize);
            rest = behind;
            route
        })
    }
}

/// Messages within a table that are entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Table,
    Host,
}

impl TableScan {
    /// The scan of a whole message.
    #[must_use]
    pub fn whole(message: &[u8], known: Option<KnownTable>) -> Self {
        let mut scan = Self::default();
        scan.compare_with(known);
        if u32::try_from(message.len()).is_err() {
            scan.spoil();
            return scan;
        }
        let mut walk = Descent::new(Part::Table, message.len());
        // What is malformed is passed over and noted.
        let _ = walk.feed(message, &mut scan);
        let _ = walk.finish(&mut scan);
        scan
    }

    /// The table's name, as far as it has come in.
    #[must_use]
    pub fn name(&self) -> &str {
        first_string(&self.rest, NAME.into()).unwrap_or_default()
    }

    /// Compares what comes from now on with this table.
    pub(crate) fn compare_with(&mut self, known: Option<KnownTable>) {
        self.known = known;
    }

    /// True if no virtual host has come in yet.
    pub(crate) fn is_at_first_host(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Gives the table up.
    pub(crate) fn spoil(&mut self) {
        *self = Self { is_malformed: true, ..Self::default() };
    }

    pub(crate) fn is_malformed(&self) -> bool {
        self.is_malformed
    }

    /// True if the ids are those of `known`. A table that this scan shares does not
    /// change: there would be another one.
    pub(super) fn is_of(&self, known: &KnownTable) -> bool {
        // Compared with none, it has no ids.
        self.known.as_ref().is_none_or(|own| Arc::ptr_eq(own, known))
    }

    /// Lets go of the known table.
    pub(super) fn forget_known(&mut self) {
        self.known = None;
    }

    /// True if nothing has changed since the last accepted table, which is `known`,
    /// the routes' order included.
    pub(crate) fn is_unchanged(&self, known: &KnownTable) -> bool {
        let same = |(host, raw): (&HostScan, &RawHost)| {
            host.new.is_empty() && host.listed == raw.order() && host.rest == raw.rest
        };
        !self.is_malformed
            && self.known.as_ref().is_some_and(|own| Arc::ptr_eq(own, known))
            && self.rest == known.rest
            && self.hosts.len() == known.hosts.len()
            && self.hosts.iter().zip(&known.hosts).all(same)
    }

    fn route(&mut self, bytes: &[u8]) {
        let number = self.hosts.len() - 1;
        let host = &mut self.hosts[number];
        let fingerprint = RawHost::fingerprint(bytes);
        let known = self.known.as_ref().and_then(|known| known.hosts.get(number));
        let held = known.and_then(|known| known.find(fingerprint, &mut host.next));
        match held {
            Some(id) => host.listed.push(id),
            None => host.add(fingerprint, bytes),
        }
    }
}

impl Visit for TableScan {
    type Level = Part;

    fn inner(&self, level: Part, number: u64) -> Option<Part> {
        (level == Part::Table && number == u64::from(VIRTUAL_HOSTS)).then_some(Part::Host)
    }

    fn begin(&mut self, level: Part) {
        if level == Part::Host {
            self.hosts.push(HostScan::default());
        }
    }

    fn field(&mut self, level: Part, field: Field<'_>) {
        match (level, field.value, self.hosts.last_mut()) {
            (Part::Host, Some(route), _) if field.number == u64::from(ROUTES) => self.route(route),
            (Part::Host, _, Some(host)) => host.rest.extend_from_slice(field.bytes),
            _ => self.rest.extend_from_slice(field.bytes),
        }
    }

    fn end(&mut self, _: Part) {}

    fn broken(&mut self, level: Part) -> bool {
        let is_table = level == Part::Table;
        if is_table {
            self.spoil();
        }
        is_table
    }
}
