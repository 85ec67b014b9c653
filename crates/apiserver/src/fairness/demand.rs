//! How many seats a level has wanted over a time: mean, spread and highest.

/// A figure that changes in steps, summed up over time.
#[derive(Debug, Default)]
pub struct Demand {
    now: f64,
    highest: f64,
    at: f64,
    since: f64,
    sum: f64,
    squares: f64,
}

/// What [`Demand::take`] says of the time since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    pub highest: f64,
    pub mean: f64,
    pub deviation: f64,
}

impl Demand {
    /// From `at` (seconds) on, so many seats are wanted.
    pub fn set(&mut self, at: f64, seats: u64) {
        self.advance(at);
        self.now = seats as f64;
        self.highest = self.highest.max(self.now);
    }

    /// Sums up, and begins anew.
    pub fn take(&mut self, at: f64) -> Seen {
        self.advance(at);
        let long = self.at - self.since;
        let mean = if long > 0.0 { self.sum / long } else { self.now };
        let variance = if long > 0.0 { self.squares / long - mean * mean } else { 0.0 };
        let seen = Seen { highest: self.highest, mean, deviation: variance.max(0.0).sqrt() };
        *self = Demand { now: self.now, highest: self.now, at: self.at, since: self.at, sum: 0.0, squares: 0.0 };
        seen
    }

    fn advance(&mut self, at: f64) {
        let passed = (at - self.at).max(0.0);
        self.at = self.at.max(at);
        self.sum += self.now * passed;
        self.squares += self.now * self.now * passed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_spread_and_peak_are_over_the_time_since_asked() {
        let mut d = Demand::default();
        d.set(0.0, 4);
        d.set(5.0, 0);
        assert_eq!(d.take(10.0), Seen { highest: 4.0, mean: 2.0, deviation: 2.0 });
        d.set(12.0, 1);
        assert_eq!(d.take(14.0), Seen { highest: 1.0, mean: 0.5, deviation: 0.5 });
    }
}
