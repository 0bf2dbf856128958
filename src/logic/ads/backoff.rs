//! Waiting time between attempts to reach the scheduler.

use std::time::Duration;

use rand::Rng;

/// First ceiling (Envoy's).
pub const BACKOFF_BASE: Duration = Duration::from_millis(500);

/// Highest ceiling. Envoy's is 30 s, which keeps a mesh on old routes long
/// after the scheduler is back.
pub const BACKOFF_CAP: Duration = Duration::from_secs(5);

/// Time to wait before the attempt that follows `failures` failures in a row
/// (at least 1): uniform below `BACKOFF_BASE * 2^(failures - 1)`, at most
/// [`BACKOFF_CAP`].
pub fn backoff(failures: u32, rng: &mut impl Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let ceiling = (BACKOFF_BASE * (1 << doublings)).min(BACKOFF_CAP);
    ceiling.mul_f64(rng.random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
        for (failures, ceiling) in
            [(1, 500), (2, 1000), (3, 2000), (4, 4000), (5, 5000), (900, 5000)]
        {
            let ceiling = Duration::from_millis(ceiling);
            let waits: Vec<_> = (0..500).map(|_| backoff(failures, &mut rng)).collect();
            assert!(waits.iter().all(|w| *w < ceiling), "{failures}");
            assert!(waits.iter().any(|w| *w > ceiling.mul_f64(0.9)), "{failures}");
            assert!(waits.iter().any(|w| *w < ceiling.mul_f64(0.1)), "{failures}");
        }
    }
}
