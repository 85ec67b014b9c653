//! How many seats each priority level has: its share of all, and what it lends and borrows as demand goes.
//!
//! Pure. Source: KEP-1040, "Dispatching", and the API field documentation of PriorityLevelConfiguration: NominalCL, lendable and borrowing
//! limits, seat demand over a period, and the fair fraction of the targets.

use super::demand::Seen;

/// The part of a level's spec that this is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    pub exempt: bool,
    pub shares: u64,
    pub lendable_percent: u64,
    /// Absent: no limit.
    pub borrowing_percent: Option<u64>,
}

/// Between what a level's seats move.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    pub nominal: u32,
    pub lower: u32,
    pub upper: u32,
}

/// `NominalCL(i) = ceil( ServerCL * NCS(i) / sum_ncs )`, and what may be lent and borrowed of it.
pub fn bounds(total: u32, all: &[Share]) -> Vec<Bounds> {
    let sum: u64 = all.iter().map(|s| s.shares).sum();
    let percent = |nominal: u32, p: u64| (f64::from(nominal) * p as f64 / 100.0).round() as u32;
    all.iter()
        .map(|s| {
            let nominal = if sum == 0 { 0 } else { (u64::from(total) * s.shares).div_ceil(sum) as u32 };
            let lower = nominal - percent(nominal, s.lendable_percent.min(100));
            let upper = match s.borrowing_percent {
                Some(p) if !s.exempt => nominal.saturating_add(percent(nominal, p)),
                _ => nominal.saturating_add(total),
            };
            Bounds { nominal, lower, upper }
        })
        .collect()
}

/// How much of the old envelope is kept in each period: a peak fades over minutes, as upstream.
const DECAY: f64 = 0.977;

/// What a level has wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wanted {
    pub seen: Seen,
    /// Follows `mean + deviation` up at once and down slowly.
    pub smoothed: f64,
}

impl Wanted {
    /// A level nobody has used: as if it wanted what it has.
    pub fn nominal(b: Bounds) -> Wanted {
        let n = f64::from(b.nominal);
        Wanted { seen: Seen { highest: n, mean: n, deviation: 0.0 }, smoothed: n }
    }
    pub fn update(&mut self, seen: Seen) {
        let envelope = seen.mean + seen.deviation;
        self.smoothed = envelope.max(DECAY * self.smoothed + (1.0 - DECAY) * envelope);
        self.seen = seen;
    }
}

/// One level's seats for the next period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Given {
    pub seats: u32,
    pub target: f64,
}

/// Shares `total` out: each gets the same fraction of its target, within its bounds. The seats in the order given, and the fraction.
pub fn lend(total: u32, all: &[(bool, Bounds, Wanted)]) -> (Vec<Given>, f64) {
    struct Row {
        floor: f64,
        target: f64,
        upper: f64,
    }
    let rows: Vec<Row> = all
        .iter()
        .map(|(_, b, w)| {
            // What it could use of its own is not lent.
            let floor = f64::from(b.lower).max(f64::from(b.nominal).min(w.seen.highest));
            Row { floor, target: floor.max(w.smoothed), upper: f64::from(b.upper) }
        })
        .collect();
    // Exempt levels are not limited: what they use is off the top.
    let exempt: f64 = rows.iter().zip(all).filter(|(_, a)| a.0).map(|(r, _)| r.floor).sum();
    let rest = f64::from(total) - exempt;
    let limited = || rows.iter().zip(all).filter(|(_, a)| !a.0).map(|(r, _)| r);
    let given = |r: &Row, fraction: f64| (fraction * r.target).clamp(r.floor, r.upper.max(r.floor));
    let sum = |fraction: f64| limited().map(|r| given(r, fraction)).sum::<f64>();
    let least = limited().map(|r| r.target).filter(|t| *t > 0.0).fold(f64::INFINITY, f64::min);
    let (mut low, mut high) = (0.0, if least.is_finite() { (f64::from(total) + 1.0) / least.min(1.0) } else { 1.0 });
    // The sum grows with the fraction: halving finds it to the last bit.
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if sum(middle) > rest { high = middle } else { low = middle }
    }
    let seats = rows.iter().zip(all).map(|(r, (exempt, b, _))| {
        let exact = if *exempt { r.floor } else { given(r, low) };
        // A level that has a share is never shut: it would wait for the next period with nobody in it.
        Given { seats: (exact.round() as u32).max(u32::from(b.nominal > 0)), target: r.target }
    });
    (seats.collect(), low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(shares: u64, lendable_percent: u64) -> Share {
        Share { exempt: false, shares, lendable_percent, borrowing_percent: None }
    }
    fn idle(mut w: Wanted) -> Wanted {
        // Long enough for any peak to have faded.
        (0..2_000).for_each(|_| w.update(Seen::default()));
        w
    }

    #[test]
    fn nominal_limits_are_the_documented_ceilings() {
        // The levels a cluster begins with, over 600 seats; the sum of the shares is 245.
        let all: Vec<Share> = [(0, 0), (5, 0), (30, 33), (40, 25), (10, 0), (40, 50), (100, 90), (20, 50)].iter().map(|(s, l)| share(*s, *l)).collect();
        let b = bounds(600, &all);
        assert_eq!(b.iter().map(|b| b.nominal).collect::<Vec<_>>(), [0, 13, 74, 98, 25, 98, 245, 49]);
        assert_eq!(b.iter().map(|b| b.lower).collect::<Vec<_>>(), [0, 13, 50, 73, 25, 49, 24, 24]);
        let limited = bounds(600, &[Share { borrowing_percent: Some(50), ..share(1, 0) }]);
        assert_eq!(limited, [Bounds { nominal: 600, lower: 600, upper: 900 }]);
        assert_eq!(bounds(600, &[share(0, 0)])[0].nominal, 0, "a jail");
    }

    #[test]
    fn a_busy_level_borrows_what_an_idle_one_may_lend_and_no_more() {
        let b = bounds(100, &[share(50, 0), share(50, 80)]);
        let busy = Wanted { seen: Seen { highest: 400.0, mean: 400.0, deviation: 0.0 }, smoothed: 400.0 };
        let (given, _) = lend(100, &[(false, b[0], busy), (false, b[1], idle(Wanted::nominal(b[1])))]);
        assert_eq!(given.iter().map(|g| g.seats).collect::<Vec<_>>(), [90, 10]);
        let (given, _) = lend(100, &[(false, b[0], busy), (false, b[1], busy)]);
        assert_eq!(given.iter().map(|g| g.seats).collect::<Vec<_>>(), [50, 50], "who needs its own gets it back");
    }

    #[test]
    fn nobody_borrows_beyond_the_limit() {
        let b = bounds(100, &[Share { borrowing_percent: Some(20), ..share(50, 0) }, share(50, 100)]);
        let busy = Wanted { seen: Seen { highest: 400.0, mean: 400.0, deviation: 0.0 }, smoothed: 400.0 };
        let (given, _) = lend(100, &[(false, b[0], busy), (false, b[1], idle(Wanted::nominal(b[1])))]);
        assert_eq!(given[0].seats, 60);
        assert!(given[1].seats >= 1, "an idle level with a share keeps a seat");
    }

    #[test]
    fn what_exempt_levels_use_is_off_the_top() {
        let b = bounds(100, &[Share { exempt: true, ..share(50, 0) }, share(50, 0)]);
        let busy = Wanted { seen: Seen { highest: 500.0, mean: 500.0, deviation: 0.0 }, smoothed: 500.0 };
        let (given, _) = lend(100, &[(true, b[0], busy), (false, b[1], busy)]);
        assert_eq!(given[1].seats, 50);
    }

    #[test]
    fn demand_is_followed_up_at_once_and_down_slowly() {
        let mut w = Wanted::default();
        w.update(Seen { highest: 10.0, mean: 8.0, deviation: 2.0 });
        assert_eq!(w.smoothed, 10.0);
        w.update(Seen::default());
        assert_eq!(w.smoothed, 9.77);
    }
}
