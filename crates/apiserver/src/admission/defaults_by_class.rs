//! DefaultStorageClass and DefaultIngressClass: a claim or ingress that names no class gets the default one.
//!
//! Of several defaults the newest counts, and of equally old ones the first by name, as upstream decides.

use super::is;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Operation};
use std::sync::Arc;

/// Where a class is named, and which annotations make one the default.
pub struct DefaultClass {
    name: &'static str,
    group: &'static str,
    plural: &'static str,
    field: &'static str,
    /// The field's older form on the object: an object that has it names its class.
    annotation: &'static str,
    class_group: &'static str,
    class_plural: &'static str,
    marks: &'static [&'static str],
}

pub const STORAGE: DefaultClass = DefaultClass {
    name: "DefaultStorageClass",
    group: "",
    plural: "persistentvolumeclaims",
    field: "storageClassName",
    annotation: "volume.beta.kubernetes.io/storage-class",
    class_group: "storage.k8s.io",
    class_plural: "storageclasses",
    marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
};

pub const INGRESS: DefaultClass = DefaultClass {
    name: "DefaultIngressClass",
    group: "networking.k8s.io",
    plural: "ingresses",
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
    class_group: "networking.k8s.io",
    class_plural: "ingressclasses",
    marks: &["ingressclass.kubernetes.io/is-default-class"],
};

#[async_trait]
impl Admission for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && is(a, self.group, self.plural)
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        if !o.at(&["spec", self.field]).is_null() || !o.at(&["metadata", "annotations", self.annotation]).is_null() || !o.0["spec"].is_object() {
            return Ok(());
        }
        let all = a.registry.read_few(self.class_group, self.class_plural, "");
        if let Some(class) = self.chosen(&all) {
            o.0["spec"][self.field] = class.into();
        }
        Ok(())
    }
}

impl DefaultClass {
    fn chosen(&self, all: &[Arc<Object>]) -> Option<String> {
        let marked = |c: &&Arc<Object>| self.marks.iter().any(|m| c.at(&["metadata", "annotations", m]) == "true");
        let newest_then_first = |c: &&Arc<Object>| (std::cmp::Reverse(c.meta_str("creationTimestamp").to_owned()), c.name().to_owned());
        all.iter().filter(marked).min_by_key(newest_then_first).map(|c| c.name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_counts_and_then_the_first_by_name() {
        let class = |name: &str, at: &str, mark: &str| Arc::new(Object(json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {mark: "true"}}})));
        let (new, old) = (STORAGE.marks[0], STORAGE.marks[1]);
        let all = vec![
            class("c", "2026-01-02T00:00:00Z", new),
            class("b", "2026-01-02T00:00:00Z", old),
            class("a", "2026-01-01T00:00:00Z", new),
            class("d", "2026-02-01T00:00:00Z", "other"),
        ];
        assert_eq!(STORAGE.chosen(&all).as_deref(), Some("b"));
        assert_eq!(STORAGE.chosen(&[]), None);
    }
}
