//! [`Follow`]: the loop of whoever keeps something in line with objects: again at each change of what it follows, and again after a
//! while when a step of it failed.

use crate::Registry;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::time::Duration;
use tokio::sync::watch;

/// Changes of several resources, as one thing to wait for.
pub struct Follow {
    changes: Vec<watch::Receiver<u64>>,
    retry: Duration,
}

impl Follow {
    /// Whatever changes from now on counts: make it before the first look. A `(group, plural)` that is not served never changes.
    pub fn new(registry: &Registry, resources: &[(&str, &str)], retry: Duration) -> Follow {
        Follow { changes: resources.iter().filter_map(|(group, plural)| registry.subscribe(group, plural)).collect(), retry }
    }

    /// Wakes at changes of this too.
    #[must_use]
    pub fn and(mut self, changes: watch::Receiver<u64>) -> Follow {
        self.changes.push(changes);
        self
    }

    /// Waits for a change; no longer than the retry time when the last look `failed`. All changes up to now are told of once. False: nothing
    /// will ever change again. May be dropped at any time without losing a change.
    pub async fn next(&mut self, failed: bool) -> bool {
        let mut any: FuturesUnordered<_> = self.changes.iter_mut().map(|c| c.changed()).collect();
        let more = tokio::select! {
            changed = any.next() => matches!(changed, Some(Ok(()))),
            () = tokio::time::sleep(self.retry), if failed => true,
        };
        drop(any);
        self.changes.iter_mut().for_each(|c| c.mark_unchanged());
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const RETRY: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_change_wakes_once_a_failure_after_its_time_and_the_end_is_told() {
        let (a, b) = (watch::channel(0), watch::channel(0));
        let mut follow = Follow { changes: vec![a.1], retry: RETRY }.and(b.1);
        a.0.send_replace(1);
        b.0.send_replace(1);
        assert!(follow.next(false).await);
        let began = Instant::now();
        assert!(follow.next(true).await, "both changes were told of already");
        assert_eq!(began.elapsed(), RETRY);
        let waits = tokio::spawn(async move { (follow.next(false).await, follow) });
        tokio::time::sleep(RETRY * 2).await;
        assert!(!waits.is_finished(), "nothing failed and nothing changed");
        b.0.send_replace(2);
        let (more, mut follow) = waits.await.unwrap();
        assert!(more);
        drop(a.0);
        assert!(!follow.next(false).await);
    }
}
