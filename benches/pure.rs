//! Time of the pure parts: `cargo bench --bench pure`, `... -- route_lookup` for
//! some of them.

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "support/mod.rs"]
mod support;

fn all(criterion: &mut Criterion) {
    for case in support::CASES {
        // Made when it runs, so that a filter does not wait for the others.
        let mut operation = None;
        criterion.bench_function(case.name, |bencher| {
            let operation = operation.get_or_insert_with(case.prepare);
            bencher.iter(operation);
        });
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
