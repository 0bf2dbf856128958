//! Does one operation a number of times, for callgrind to count: see
//! `benches/instructions.py`, which runs it. Without arguments (as `cargo bench`
//! does it): a list of the operations and how often to do each.

#[path = "support/mod.rs"]
mod support;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (Some(name), Some(times)) = (arguments.next(), arguments.next()) else {
        for case in support::CASES.iter().filter(|case| case.times > 0) {
            println!("{} {}", case.name, case.times);
        }
        return;
    };
    let case = support::CASES.iter().find(|case| case.name == name).expect("a known operation");
    let mut operation = (case.prepare)();
    for _ in 0..times.parse().expect("a number of times") {
        operation();
    }
}
