//! The weighted choice of a target (Envoy: `WeightedCluster`).

use crate::model::{Forward, WeightedTarget};

impl Forward {
    /// The target for one uniform random number: `draw` modulo the sum of
    /// weights, then the first entry whose cumulative weight exceeds it. An
    /// entry of weight 0 is never chosen; made once per request, retries stay.
    ///
    /// None only for an action that breaks its invariants (no targets).
    #[must_use]
    pub fn choose(&self, draw: u64) -> Option<&WeightedTarget> {
        if let [only] = &*self.targets {
            return Some(only);
        }
        let mut rest = draw % self.total_weight.max(1);
        self.targets.iter().find(|target| {
            let weight = u64::from(target.weight);
            let found = rest < weight;
            rest = rest.saturating_sub(weight);
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Clusters, HeaderMutations, NamedSlot};

    fn forward(weights: &[u32]) -> Forward {
        let clusters = Clusters::default();
        Forward {
            targets: weights
                .iter()
                .enumerate()
                .map(|(i, &weight)| WeightedTarget {
                    cluster: NamedSlot::new(clusters.slot(&i.to_string())),
                    weight,
                    request_headers: HeaderMutations::default(),
                    response_headers: HeaderMutations::default(),
                    rewrite_model: None,
                    series: Default::default(),
                })
                .collect(),
            total_weight: weights.iter().map(|w| u64::from(*w)).sum(),
            timeout: None,
            retry: None,
            mirrors: Box::default(),
            unusual: None,
        }
    }

    fn chosen(forward: &Forward, draw: u64) -> usize {
        forward.choose(draw).unwrap().cluster.name.as_str().parse().unwrap()
    }

    #[test]
    fn the_first_entry_whose_cumulative_weight_exceeds_the_draw_wins() {
        let f = forward(&[30, 70]);
        for (draw, want) in [(0, 0), (29, 0), (30, 1), (99, 1), (100, 0), (230, 1)] {
            assert_eq!(chosen(&f, draw), want, "{draw}");
        }
    }

    #[test]
    fn leading_entries_of_weight_zero_are_skipped() {
        let f = forward(&[0, 0, 1, 1]);
        assert_eq!((0..4).map(|d| chosen(&f, d)).collect::<Vec<_>>(), [2, 3, 2, 3]);
    }

    proptest! {
        /// Over one period every entry is chosen exactly `weight` times.
        #[test]
        fn shares_are_exact(weights in prop::collection::vec(0u32..9, 1..6)) {
            let f = forward(&weights);
            prop_assume!(f.total_weight > 0);
            let mut count = vec![0u32; weights.len()];
            for draw in 0..f.total_weight {
                count[chosen(&f, draw)] += 1;
            }
            prop_assert_eq!(count, weights);
        }
    }
}
