//! Whatever a control plane sends, nothing panics, and how its bytes arrive does not
//! matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use radiant::model::Clusters;
use radiant::xds::decode::{KnownTable, RouteCache, RouteContext, scanned_table};
use radiant::xds::scan::DeltaScan;
use radiant::xds::wire::Response;

fn scan(input: &[u8], step: usize, known: &KnownTable) -> Option<Response> {
    let mut scan = DeltaScan::new(input.len(), |_: &str| Some(known.clone()));
    for piece in input.chunks(step) {
        scan.feed(piece).ok()?;
    }
    scan.finish().ok()?
}

fuzz_target!(|input: &[u8]| {
    let mut cache = RouteCache::default();
    let whole = scan(input, usize::MAX, cache.raw());
    let pieces = scan(input, 3, cache.raw());
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    let clusters = Clusters::default();
    let cx = RouteContext { clusters: &clusters, rewrite: true };
    for table in whole.into_iter().flat_map(|response| response.update.tables) {
        let _ = scanned_table(table.scan, &cx, &mut cache);
    }
    if let Some(again) = scan(input, 3, cache.raw()) {
        for table in again.update.tables {
            let _ = scanned_table(table.scan, &cx, &mut cache);
        }
    }
});
