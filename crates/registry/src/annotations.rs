//! What admission has to tell the audit log of a request: annotations, from wherever in the request's task it stands.
//!
//! Entry points: [`collected`] around the work of a request, [`annotate`] within. Outside of a collection nothing is kept. Values are
//! bounded, and a key keeps its first value, as upstream.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;

/// Longer values are cut, at the border of a character.
const VALUE_MAX_BYTES: usize = 10 << 10;

tokio::task_local! {
    static NOTES: Mutex<BTreeMap<String, String>>;
}

/// Runs `work`; what was annotated in its course.
pub async fn collected<T>(work: impl Future<Output = T>) -> (T, BTreeMap<String, String>) {
    NOTES
        .scope(Mutex::default(), async {
            let done = work.await;
            let notes = NOTES.with(|n| std::mem::take(&mut *n.lock().unwrap_or_else(|e| e.into_inner())));
            (done, notes)
        })
        .await
}

/// Notes a value under a key of the request's audit event.
pub fn annotate(key: impl Into<String>, mut value: String) {
    if value.len() > VALUE_MAX_BYTES {
        value.truncate(value.floor_char_boundary(VALUE_MAX_BYTES));
    }
    annotate_whole(key, value);
}

/// The same for a value that has a bound of its own and means nothing when it is cut.
pub fn annotate_whole(key: impl Into<String>, value: String) {
    // Outside of a collection there is no event.
    let _ = NOTES.try_with(|n| {
        n.lock().unwrap_or_else(|e| e.into_inner()).entry(key.into()).or_insert(value);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_keeps_the_first_value_of_a_key_and_no_other_request_sees_it() {
        annotate("outside", "lost".into());
        let ((), notes) = collected(async {
            annotate("a", "1".into());
            annotate("a", "2".into());
            annotate("long", "ü".repeat(VALUE_MAX_BYTES));
        })
        .await;
        assert_eq!(notes["a"], "1");
        assert_eq!(notes["long"].len(), VALUE_MAX_BYTES);
        assert!(!notes.contains_key("outside"));
        assert!(collected(async {}).await.1.is_empty());
    }
}
