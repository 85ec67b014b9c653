//! Shuffle sharding: which few of the queues of a priority level a flow may use.
//!
//! A flow's hash shuffles the queues and deals a hand off the top. Two flows seldom hold the same hand, so that one which fills all of its
//! queues leaves another at least one. The hash is used up as a number of mixed base, so a hand is worth ⌈Σ log2(queues - i)⌉ bits of it
//! (validation holds them under 60).

/// Hands are mostly this small; kept on the stack.
const HAND_USUAL: usize = 8;

/// Calls `each` with the queues of the hand, all different and below `queues`.
pub fn deal(mut hash: u64, queues: usize, hand: usize, mut each: impl FnMut(usize)) {
    let mut usual = [0; HAND_USUAL];
    let mut large = Vec::new();
    let taken: &mut [usize] = if hand <= HAND_USUAL {
        &mut usual
    } else {
        large.resize(hand, 0);
        &mut large
    };
    for dealt in 0..hand.min(queues) {
        let left = (queues - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card is a place among those left: each one taken before it moves it on by one. `taken` is kept in order.
        let mut at = 0;
        while at < dealt && taken[at] <= card {
            card += 1;
            at += 1;
        }
        taken.copy_within(at..dealt, at + 1);
        taken[at] = card;
        each(card);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn hand(hash: u64, queues: usize, size: usize) -> Vec<usize> {
        let mut all = Vec::new();
        deal(hash, queues, size, |q| all.push(q));
        all
    }

    #[test]
    fn a_hand_has_different_queues_and_is_the_same_each_time() {
        for hash in [0, 1, 97, 6_000, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
            for (queues, size) in [(1, 1), (4, 4), (64, 8), (128, 6), (16, 12)] {
                let h = hand(hash, queues, size);
                assert_eq!(h.len(), size);
                assert_eq!(h.iter().collect::<BTreeSet<_>>().len(), size, "{h:?} of {queues}");
                assert!(h.iter().all(|q| *q < queues));
                assert_eq!(h, hand(hash, queues, size));
            }
        }
    }

    #[test]
    fn every_order_of_a_small_deck_is_dealt_by_one_remainder() {
        let all: BTreeSet<Vec<usize>> = (0..24).map(|hash| hand(hash, 4, 4)).collect();
        assert_eq!(all.len(), 24, "4! orders");
    }

    #[test]
    fn flows_seldom_share_a_whole_hand() {
        let mix = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 17);
        let heavy: BTreeSet<usize> = hand(mix(1), 128, 6).into_iter().collect();
        let caught = (2..2_000).filter(|n| hand(mix(*n), 128, 6).iter().all(|q| heavy.contains(q))).count();
        assert_eq!(caught, 0);
    }
}
