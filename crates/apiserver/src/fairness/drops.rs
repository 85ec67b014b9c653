//! How long a refused client of a priority level is asked to stay away.
//!
//! Doubles when in the last so many seconds at least three requests a second were refused, goes down by one when under one was. Source:
//! the behaviour of upstream's Retry-After, documented with priority and fairness.

use std::collections::VecDeque;

const SECONDS_MAX: u64 = 32;

#[derive(Debug)]
pub struct Drops {
    /// Second and how many were refused in it, oldest first.
    history: VecDeque<(u64, u64)>,
    seconds: u64,
    /// When it was last doubled.
    raised: u64,
}

impl Default for Drops {
    fn default() -> Self {
        Drops { history: VecDeque::new(), seconds: 1, raised: 0 }
    }
}

impl Drops {
    /// One was refused in this second (of any clock that does not go back); what it is told, in seconds.
    pub fn refused(&mut self, second: u64) -> u64 {
        match self.history.back_mut() {
            Some((last, n)) if *last >= second => *n += 1,
            _ => {
                self.adjust(second);
                self.history.push_back((second, 1));
                while self.history.front().is_some_and(|(s, _)| second - s > SECONDS_MAX) {
                    self.history.pop_front();
                }
            }
        }
        self.seconds
    }

    /// By what happened before `second`.
    fn adjust(&mut self, second: u64) {
        let dropped: u64 = self.history.iter().filter(|(s, _)| *s < second && second - s <= self.seconds).map(|(_, n)| n).sum();
        if second.saturating_sub(self.raised) >= self.seconds && dropped >= 3 * self.seconds {
            self.seconds = (self.seconds * 2).min(SECONDS_MAX);
            self.raised = second;
        } else if dropped < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_sent_away_for_longer_and_longer_and_it_fades() {
        let mut d = Drops::default();
        let mut told = Vec::new();
        for second in 1_000..1_200 {
            told.extend((0..11).map(|_| d.refused(second)).last());
        }
        assert_eq!((told[0], told[1]), (1, 2));
        assert!(told.is_sorted(), "{told:?}");
        assert_eq!(told.last(), Some(&32), "and never longer than that");
        let later: Vec<u64> = (0..40).map(|i| d.refused(1_300 + 40 * i)).collect();
        assert_eq!((later[0], later[39]), (31, 1), "{later:?}");
    }
}
