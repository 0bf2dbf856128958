//! A response of the delta variant while it comes in. Its route tables are compared
//! with the last accepted ones on the way, so that a table of megabytes is never held
//! as a whole.

use bytes::Bytes;
use prost::Message;

use super::decode::{Descent, Field, KnownTable, Malformed, Part, TableScan, Visit};
use super::update::{Rejected, Resource, Table, Update};
use super::wire::{Any, Response, check_type};
use crate::logic::ads::ResourceType;

/// Field numbers: `DeltaDiscoveryResponse.resources`, `Resource.resource`,
/// `Any.type_url` and `.value`.
const RESOURCES: u64 = 2;
const RESOURCE: u64 = 2;
const TYPE_URL: u64 = 1;
const VALUE: u64 = 2;

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse` without its resources, as far
/// as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct DeltaResponse {
    #[prost(string, tag = "1")]
    system_version_info: String,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed_resources: Vec<String>,
}

/// `envoy.service.discovery.v3.Resource` without the resource, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct DeltaResource {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// A response that is coming in.
pub struct DeltaScan<K> {
    walk: Descent<Level>,
    found: Found<K>,
}

struct Found<K> {
    /// The last accepted table of a name.
    known: K,
    /// All fields but the resources.
    rest: Vec<u8>,
    resources: Vec<ResourceScan>,
}

/// A resource that is coming in.
#[derive(Default)]
struct ResourceScan {
    /// All fields but the resource itself.
    rest: Vec<u8>,
    /// The `Any`, without its value if that is a table.
    any: Option<Vec<u8>>,
    table: Option<TableScan>,
}

/// Messages that are entered.
#[derive(Clone, Copy, Debug)]
enum Level {
    Response,
    Resource,
    Any,
    Table(Part),
}

impl<K: Fn(&str) -> Option<KnownTable>> DeltaScan<K> {
    /// The scan of a response of `len` bytes; `known` gives the last accepted table
    /// of a name.
    pub fn new(len: usize, known: K) -> Self {
        let found = Found { known, rest: Vec::new(), resources: Vec::new() };
        Self { walk: Descent::new(Level::Response, len), found }
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// They are no response.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.walk.feed(bytes, &mut self.found)
    }

    /// What the response changes; none if its type is not one of ours.
    ///
    /// # Errors
    /// The bytes are no response.
    pub fn finish(mut self) -> Result<Option<Response>, Malformed> {
        self.walk.finish(&mut self.found)?;
        let whole = DeltaResponse::decode(&*self.found.rest).map_err(|_| Malformed)?;
        let Some(kind) = ResourceType::of(&whole.type_url) else { return Ok(None) };
        let mut update = Update::new(kind, Vec::with_capacity(self.found.resources.len()));
        let mut rejected = Vec::new();
        for resource in self.found.resources {
            resource.finish(&mut update, &mut rejected)?;
        }
        update.removed = whole.removed_resources;
        update.version_info = whole.system_version_info;
        Ok(Some(Response { nonce: whole.nonce, update, rejected }))
    }
}

impl ResourceScan {
    fn finish(self, update: &mut Update, rejected: &mut Vec<Rejected>) -> Result<(), Malformed> {
        let own = DeltaResource::decode(&*self.rest).map_err(|_| Malformed)?;
        let DeltaResource { name, version } = own;
        // A heartbeat has no resource.
        let Some(any) = self.any else { return Ok(()) };
        let any = Any::decode(Bytes::from(any)).map_err(|_| Malformed)?;
        match (check_type(&any.type_url, update.kind), self.table) {
            (Err(reason), _) => rejected.push(Rejected { name, reason }),
            (Ok(()), Some(scan)) => update.tables.push(Table { name, version, scan }),
            (Ok(()), None) => {
                // A copy of its own size: the buffer that gathered it is larger.
                let value = Bytes::copy_from_slice(&any.value);
                update.resources.push(Resource { name, version, value });
            }
        }
        Ok(())
    }
}

impl<K: Fn(&str) -> Option<KnownTable>> Visit for Found<K> {
    type Level = Level;

    fn inner(&self, level: Level, number: u64) -> Option<Level> {
        let resource = self.resources.last();
        match level {
            Level::Response if number == RESOURCES => Some(Level::Resource),
            Level::Resource if number == RESOURCE => Some(Level::Any),
            Level::Any if number == VALUE => {
                let any = resource?.any.as_ref()?;
                let url = super::decode::first_string(any, TYPE_URL)?;
                (url == ResourceType::Route.url()).then_some(Level::Table(Part::Table))
            }
            Level::Table(part) => resource?.table.as_ref()?.inner(part, number).map(Level::Table),
            _ => None,
        }
    }

    fn begin(&mut self, level: Level) {
        if matches!(level, Level::Resource) {
            return self.resources.push(ResourceScan::default());
        }
        let Some(resource) = self.resources.last_mut() else { return };
        match level {
            Level::Response | Level::Resource => {}
            Level::Any => {
                resource.any.get_or_insert_default();
            }
            Level::Table(Part::Table) => match &mut resource.table {
                // A second value takes the place of the first, which is gone.
                Some(table) => table.spoil(),
                None => resource.table = Some(TableScan::default()),
            },
            Level::Table(Part::Host) => {
                let Some(table) = &mut resource.table else { return };
                if table.is_at_first_host() {
                    let known = (self.known)(table.name());
                    table.compare_with(known);
                }
                table.begin(Part::Host);
            }
        }
    }

    fn field(&mut self, level: Level, field: Field<'_>) {
        let Some(resource) = self.resources.last_mut() else {
            return self.rest.extend_from_slice(field.bytes);
        };
        match level {
            Level::Response => self.rest.extend_from_slice(field.bytes),
            Level::Resource => resource.rest.extend_from_slice(field.bytes),
            Level::Any => resource.any.get_or_insert_default().extend_from_slice(field.bytes),
            Level::Table(part) => {
                if let Some(table) = &mut resource.table {
                    table.field(part, field);
                }
            }
        }
    }

    fn end(&mut self, _: Level) {}

    fn broken(&mut self, level: Level) -> bool {
        let table = self.resources.last_mut().and_then(|resource| resource.table.as_mut());
        match (level, table) {
            (Level::Table(part), Some(table)) => table.broken(part),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::config::route::v3 as rt;
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use envoy_types::pb::google::protobuf::Any as PbAny;
    use proptest::prelude::*;

    use super::super::decode::{RouteCache, RouteContext, scanned_table, table};
    use super::*;
    use crate::model::Clusters;

    fn route(number: u8) -> rt::Route {
        let target = rt::route_action::ClusterSpecifier::Cluster(format!("c{number}"));
        let action =
            rt::RouteAction { cluster_specifier: Some(target), ..rt::RouteAction::default() };
        let prefix = rt::route_match::PathSpecifier::Prefix("/".to_owned());
        rt::Route {
            name: format!("route-{number}"),
            r#match: Some(rt::RouteMatch {
                path_specifier: Some(prefix),
                ..rt::RouteMatch::default()
            }),
            action: Some(rt::route::Action::Route(action)),
            ..rt::Route::default()
        }
    }

    /// Virtual hosts by the numbers of their routes.
    fn config(name: &str, hosts: &[Vec<u8>]) -> rt::RouteConfiguration {
        let host = |(i, routes): (usize, &Vec<u8>)| rt::VirtualHost {
            name: format!("host-{i}"),
            domains: vec![format!("{i}.test")],
            routes: routes.iter().map(|number| route(*number)).collect(),
            ..rt::VirtualHost::default()
        };
        rt::RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: hosts.iter().enumerate().map(host).collect(),
            ..rt::RouteConfiguration::default()
        }
    }

    fn resource(name: &str, kind: ResourceType, value: Vec<u8>) -> pb::Resource {
        pb::Resource {
            name: name.to_owned(),
            version: "7".to_owned(),
            resource: Some(PbAny { type_url: kind.url().to_owned(), value }),
            ..pb::Resource::default()
        }
    }

    fn response(kind: ResourceType, resources: Vec<pb::Resource>) -> Vec<u8> {
        pb::DeltaDiscoveryResponse {
            system_version_info: "v".to_owned(),
            resources,
            type_url: kind.url().to_owned(),
            nonce: "n".to_owned(),
            removed_resources: vec!["gone".to_owned()],
            ..pb::DeltaDiscoveryResponse::default()
        }
        .encode_to_vec()
    }

    fn scan(
        bytes: &[u8],
        step: usize,
        known: Option<&KnownTable>,
    ) -> Result<Option<Response>, Malformed> {
        let mut scan = DeltaScan::new(bytes.len(), |_: &str| known.cloned());
        bytes.chunks(step).try_for_each(|piece| scan.feed(piece))?;
        scan.finish()
    }

    /// Accepts a table into a cache; gives what is then shown of it.
    fn accept(scan: TableScan, cache: &mut RouteCache) -> rt::RouteConfiguration {
        let clusters = Clusters::default();
        let cx = RouteContext { clusters: &clusters, rewrite: false };
        scanned_table(scan, &cx, cache).unwrap();
        rt::RouteConfiguration::decode(&*cache.raw().message()).unwrap()
    }

    fn hosts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(0..20_u8, 0..12), 0..3)
    }

    proptest! {
        /// However a table is cut, and whatever was there before, what is accepted is
        /// what was sent.
        #[test]
        fn a_table_in_pieces_is_the_table(before in hosts(), after in hosts(), step in 1..400_usize) {
            let mut cache = RouteCache::default();
            accept(TableScan::whole(&config("t", &before).encode_to_vec(), None), &mut cache);
            let sent = config("t", &after);
            let resource = resource("t", ResourceType::Route, sent.encode_to_vec());
            let bytes = response(ResourceType::Route, vec![resource]);
            let mut got = scan(&bytes, step, Some(cache.raw())).unwrap().unwrap();
            prop_assert_eq!((&*got.nonce, &*got.update.version_info), ("n", "v"));
            prop_assert_eq!(&got.update.removed, &["gone"]);
            let table = got.update.tables.remove(0);
            prop_assert_eq!((&*table.name, &*table.version, table.scan.name()), ("t", "7", "t"));
            prop_assert!(before == after || !table.scan.is_unchanged(cache.raw()));
            prop_assert_eq!(accept(table.scan, &mut cache), sent);
        }

        /// How bytes are cut makes no difference, and no bytes are a panic.
        #[test]
        fn damaged_bytes_are_the_same_in_pieces(
            at in any::<prop::sample::Index>(), to in any::<u8>(), step in 1..40_usize, cut in 0..60_usize,
        ) {
            let table = config("t", &[vec![1, 2], vec![3]]).encode_to_vec();
            let tables = ["t", "u"].map(|name| resource(name, ResourceType::Route, table.clone()));
            let mut bytes = response(ResourceType::Route, tables.into());
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(bytes.len() - cut / 2);
            let whole = scan(&bytes, bytes.len(), None);
            prop_assert_eq!(format!("{:?}", scan(&bytes, step, None)), format!("{whole:?}"));
        }
    }

    #[test]
    fn a_malformed_table_harms_nobody_else() {
        let good = config("good", &[vec![1]]).encode_to_vec();
        let mut bad = config("bad", &[vec![1, 2]]).encode_to_vec();
        let len = bad.len();
        bad[len - 1] = 0xff;
        let mut short = config("short", &[vec![1]]).encode_to_vec();
        // A key without its value.
        short.push(0x0a);
        let resources = [("bad", bad), ("short", short), ("good", good)]
            .map(|(name, value)| resource(name, ResourceType::Route, value));
        let bytes = response(ResourceType::Route, resources.into());
        for step in [1, 13, bytes.len()] {
            let update = scan(&bytes, step, None).unwrap().unwrap().update;
            let tables = update.tables.iter().map(|t| (&*t.name, t.scan.is_malformed()));
            // The last byte of `bad` is within a route, which is decoded later.
            let expected = [("bad", false), ("short", true), ("good", false)];
            assert!(tables.eq(expected), "{update:?}");
        }
    }

    #[test]
    fn other_resources_and_wrong_types_are_told_apart() {
        let resources = vec![
            resource("c", ResourceType::Cluster, b"value".to_vec()),
            resource("t", ResourceType::Route, config("t", &[vec![1]]).encode_to_vec()),
            pb::Resource { name: "heartbeat".to_owned(), ..pb::Resource::default() },
        ];
        let bytes = response(ResourceType::Cluster, resources);
        let got = scan(&bytes, 10, None).unwrap().unwrap();
        let held = |r: &Resource| (r.name.clone(), r.version.clone(), r.value.clone());
        let all: Vec<_> = got.update.resources.iter().map(held).collect();
        assert_eq!(all, [("c".to_owned(), "7".to_owned(), Bytes::from("value"))]);
        assert_eq!(got.rejected.len(), 1);
        assert!(got.rejected[0].reason.starts_with("type URL"), "{:?}", got.rejected);
        assert!(scan(&bytes[..bytes.len() - 1], 10, None).is_err());
        assert!(scan(&response(ResourceType::Cluster, vec![]), 3, None).unwrap().is_some());
        assert!(scan(b"", 1, None).unwrap().is_none());
    }

    #[test]
    fn the_same_table_is_unchanged_and_one_in_another_order_is_not() {
        let mut cache = RouteCache::default();
        let bytes = |routes: &[u8]| config("t", &[routes.to_vec()]).encode_to_vec();
        let first = TableScan::whole(&bytes(&[1, 2]), Some(Arc::clone(cache.raw())));
        assert!(!first.is_unchanged(cache.raw()));
        accept(first, &mut cache);
        let scan = |routes: &[u8]| TableScan::whole(&bytes(routes), Some(Arc::clone(cache.raw())));
        assert!(scan(&[1, 2]).is_unchanged(cache.raw()));
        assert!(!scan(&[1, 2]).is_unchanged(RouteCache::default().raw()));
        for other in [&[2, 1][..], &[1], &[1, 2, 2], &[1, 3]] {
            assert!(!scan(other).is_unchanged(cache.raw()), "{other:?}");
        }
    }

    #[test]
    fn a_table_is_not_compared_with_one_that_has_changed() {
        let clusters = Clusters::default();
        let cx = RouteContext { clusters: &clusters, rewrite: false };
        let mut cache = RouteCache::default();
        let bytes = config("t", &[vec![1, 2]]).encode_to_vec();
        table(&bytes, &cx, &mut cache).unwrap();
        let scan = TableScan::whole(&bytes, Some(Arc::clone(cache.raw())));
        table(&config("t", &[vec![2]]).encode_to_vec(), &cx, &mut cache).unwrap();
        let refused = scanned_table(scan, &cx, &mut cache).unwrap_err().to_string();
        assert!(refused.contains("while it came in"), "{refused}");
    }
}
