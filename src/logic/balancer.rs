//! Least request with two choices (Envoy: `LEAST_REQUEST`, equal weights).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::Rng;

use crate::model::Host;

/// The host for one attempt: of two hosts drawn at random with replacement the
/// one with fewer requests in flight, the first drawn on a tie. None if there
/// is no host (503 `no healthy upstream`).
pub fn pick<'a>(hosts: &'a [Arc<Host>], rng: &mut impl Rng) -> Option<&'a Arc<Host>> {
    if hosts.len() <= 1 {
        return hosts.first();
    }
    let first = hosts.get(rng.random_range(0..hosts.len()))?;
    let second = hosts.get(rng.random_range(0..hosts.len()))?;
    let fewer = second.active.load(Ordering::Relaxed) < first.active.load(Ordering::Relaxed);
    Some(if fewer { second } else { first })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn hosts(active: &[u32]) -> Vec<Arc<Host>> {
        (0u16..)
            .zip(active)
            .map(|(port, n)| {
                let address = ([127, 0, 0, 1], port).into();
                Arc::new(Host { address, active: AtomicU32::new(*n) })
            })
            .collect()
    }

    fn shares(active: &[u32], draws: u32) -> Vec<u32> {
        let hosts = hosts(active);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut count = vec![0; active.len()];
        for _ in 0..draws {
            count[usize::from(pick(&hosts, &mut rng).unwrap().address.port())] += 1;
        }
        count
    }

    #[test]
    fn no_host_no_choice_one_host_no_draw() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert!(pick(&[], &mut rng).is_none());
        assert_eq!(shares(&[9], 10), [10]);
    }

    #[test]
    fn a_busy_host_gets_the_quarter_where_it_is_drawn_twice() {
        let count = shares(&[5, 0], 40_000);
        assert!((9_500..10_500).contains(&count[0]), "{count:?}");
    }

    #[test]
    fn equal_hosts_share_equally() {
        let count = shares(&[3, 3, 3, 3], 40_000);
        assert!(count.iter().all(|n| (9_500..10_500).contains(n)), "{count:?}");
    }

    #[test]
    fn the_first_drawn_wins_a_tie() {
        // With replacement and the first on a tie, the draws of the first
        // position alone decide.
        let hosts = hosts(&[1, 1, 1]);
        let mut rng = SmallRng::seed_from_u64(3);
        let mut same = rng.clone();
        for _ in 0..100 {
            let first = same.random_range(0..hosts.len());
            let _second = same.random_range(0..hosts.len());
            let got = pick(&hosts, &mut rng).unwrap();
            assert_eq!(usize::from(got.address.port()), first);
        }
    }
}
