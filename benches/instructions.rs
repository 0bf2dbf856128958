//! Does one operation a number of times, for callgrind to count: see
//! `benches/instructions.py`, which runs it. Without arguments (as `cargo bench`
//! does it): a list of the operations and how often to do each.

#[path = "support/mod.rs"]
mod support;

/// What is counted, and how often each is done. Operations on the largest tables
/// are left to `pure.rs`: making those takes minutes under valgrind.
const TIMES: &[(&str, u32)] = &[
    ("route_lookup/1", 2000),
    ("route_lookup/1000", 2000),
    ("table_compile/1000", 2),
    ("table_update_one/1000", 10),
    ("header_mutation", 2000),
    ("balancer/3", 5000),
    ("xds_decode_cluster", 500),
    ("access_log_line", 1000),
    ("http1_request_head", 2000),
    ("http1_response_head", 2000),
    ("http1_request_whole", 2000),
];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (Some(name), Some(times)) = (arguments.next(), arguments.next()) else {
        for (name, times) in TIMES {
            println!("{name} {times}");
        }
        return;
    };
    let case = support::CASES.iter().find(|case| case.name == name).expect("a known operation");
    let mut operation = (case.prepare)();
    for _ in 0..times.parse().expect("a number of times") {
        operation();
    }
}
