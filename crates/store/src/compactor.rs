//! Forgets history that nobody may ask for any more: whatever is older than one to two intervals.
//!
//! The rule is upstream's (`--etcd-compaction-interval`, five minutes): at each tick everything before the revision of the tick before is
//! forgotten, so that a watcher or a list in pages has at least one whole interval to come back in. Without this a store only grows.
//! Of several servers on one store one forgets at a tick ([`Store::take_turn`]): whoever comes first; the others begin their interval anew.

use crate::{Revision, Store, StoreError};
use std::sync::Weak;
use std::time::Duration;

/// Upstream's default. Shorter ones end pages and watches of slow clients in 410.
pub const INTERVAL: Duration = Duration::from_secs(300);
/// The engine's writer waits while history is forgotten: it is done in steps of so many revisions, with writes in between.
pub(crate) const STEP_REVISIONS: Revision = 10_000;

/// The loop; ends when the store is closed or nobody else holds it.
pub async fn run(store: Weak<dyn Store>, interval: Duration) {
    let mut compactor = Compactor::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(store) = store.upgrade() else { return };
        match compactor.tick(&*store).await {
            Ok(()) => {}
            Err(StoreError::Closed) => return,
            Err(error) => tracing::warn!(%error, "history could not be forgotten; tried again in {}s", interval.as_secs()),
        }
    }
}

#[derive(Default)]
struct Compactor {
    /// Up to here history is forgotten.
    floor: Revision,
    /// The revision at the tick before, the next floor; absent before the first.
    seen: Option<Revision>,
    /// The number of the last turn that is known.
    turn: u64,
}

impl Compactor {
    async fn tick(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let turn = store.take_turn(self.turn, self.seen.unwrap_or(0)).await?;
        self.turn = turn.number;
        let now = store.revision().await?;
        if let Some(target) = self.seen.filter(|_| turn.mine) {
            while self.floor < target {
                // The first step is not stretched over what earlier runs have forgotten already: that costs the engine nothing.
                let next = target.min(self.floor.saturating_add(turn.step));
                store.compact(next).await?;
                self.floor = next;
            }
        }
        self.seen = Some(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{Embedded, Options};
    use crate::{Expect, Write};
    use std::sync::Arc;

    async fn put(store: &Arc<dyn Store>, key: &str) -> Revision {
        let write = Write::Put { key: key.to_owned().into(), value: "v".into(), expect: Expect::Absent, ttl: None };
        store.write(write).await.expect("the key is new")
    }
    async fn reads(store: &Arc<dyn Store>, at: Revision) -> bool {
        match store.range(b"", None, 0, Some(at)).await {
            Ok(_) => true,
            Err(StoreError::Compacted { .. }) => false,
            Err(e) => panic!("{e}"),
        }
    }

    #[tokio::test]
    async fn history_is_kept_for_a_whole_interval_and_then_forgotten() {
        assert_eq!(INTERVAL, Duration::from_secs(300), "lesson 33: a minute is too little for watchers and continue tokens");
        let dir = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> = Embedded::open(dir.path(), Options::default()).expect("an empty store");
        let mut compactor = Compactor::default();
        put(&store, "a").await;
        let old = put(&store, "b").await;
        compactor.tick(&*store).await.expect("the first tick only looks");
        let young = put(&store, "c").await;
        assert!(reads(&store, old - 1).await && reads(&store, young).await);
        compactor.tick(&*store).await.expect("the second forgets what the first saw");
        assert!(!reads(&store, old - 1).await, "two ticks old");
        assert!(reads(&store, old).await, "the present of one interval ago can still be read");
        compactor.tick(&*store).await.expect("a quiet interval");
        compactor.tick(&*store).await.expect("another");
        assert!(!reads(&store, old).await && reads(&store, young).await);
        store.close().await.expect("closing");
        assert!(matches!(compactor.tick(&*store).await, Err(StoreError::Closed)), "the loop ends with the store");
    }

    #[tokio::test]
    async fn a_long_history_is_forgotten_in_steps() {
        let dir = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn Store> = Embedded::open(dir.path(), Options::default()).expect("an empty store");
        let all = (0..2 * STEP_REVISIONS + 5).map(|i| {
            let store = &store;
            async move { put(store, &format!("k{i}")).await }
        });
        let last = futures::future::join_all(all).await.into_iter().max().expect("some");
        let mut compactor = Compactor::default();
        compactor.tick(&*store).await.expect("looks");
        compactor.tick(&*store).await.expect("forgets");
        assert_eq!(compactor.floor, last);
        assert!(!reads(&store, last - 1).await && reads(&store, last).await);
    }
}
