//! StorageObjectInUseProtection: claims, volumes and attribute classes carry a finalizer from birth, so that none goes while in use.

use super::{is, list};
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Operation};
use serde_json::{Value, json};

pub struct StorageObjectInUseProtection;

/// (group, plural, finalizer)
const ROWS: &[(&str, &str, &str)] = &[
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

fn finalizer(a: &Attributes<'_>) -> Option<&'static str> {
    ROWS.iter().find(|(group, plural, _)| is(a, group, plural)).map(|row| row.2)
}

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && finalizer(a).is_some()
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        let Some(finalizer) = finalizer(a) else { return Ok(()) };
        if list(o.meta("finalizers")).any(|f| f == finalizer) {
            return Ok(());
        }
        match o.meta_mut().entry("finalizers").or_insert_with(|| json!([])) {
            Value::Array(all) => all.push(finalizer.into()),
            other => *other = json!([finalizer]),
        }
        Ok(())
    }
}
