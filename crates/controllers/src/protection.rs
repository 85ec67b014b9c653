//! What the protection controllers share: the finalizer that keeps an object while it is in use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Whether the object is to be deleted and has the finalizer.
pub fn is_waiting(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|name| name == finalizer)
}

/// The finalizers as they should be, where they are not so: on what is older than the admission plugin, off what is to be deleted and `free`.
pub fn finalizers(meta: &ObjectMeta, finalizer: &str, free: bool) -> Option<Vec<String>> {
    let mut all = meta.finalizers.clone().unwrap_or_default();
    match (meta.deletion_timestamp.is_some(), all.iter().any(|name| name == finalizer)) {
        (true, true) if free => all.retain(|name| name != finalizer),
        (false, false) => all.push(finalizer.into()),
        _ => return None,
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(deleted: bool, finalizers: &[&str]) -> ObjectMeta {
        let when = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"name": "c", "finalizers": finalizers, "deletionTimestamp": when})).expect("metadata")
    }

    #[test]
    fn the_finalizer_goes_with_the_last_user_of_what_is_to_be_deleted() {
        assert_eq!(finalizers(&meta(true, &["f"]), "f", false), None, "in use");
        assert_eq!(finalizers(&meta(true, &["other", "f"]), "f", true), Some(vec!["other".into()]));
        assert_eq!(finalizers(&meta(false, &["f"]), "f", true), None, "not to be deleted");
        assert_eq!(finalizers(&meta(false, &[]), "f", true), Some(vec!["f".into()]), "older than the plugin");
        assert!(is_waiting(&meta(true, &["f"]), "f") && !is_waiting(&meta(true, &[]), "f") && !is_waiting(&meta(false, &["f"]), "f"));
    }
}
