//! PersistentVolumeClaimResize: only a bound claim of a class that allows it may grow.

use super::is;
use async_trait::async_trait;
use keles_api::{Object, Quantity, Status};
use keles_registry::{Admission, Attributes, Operation};

pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Update && is(a, "", "persistentvolumeclaims")
    }
    async fn validate(&self, a: &Attributes<'_>, new: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        let (Some(new), Some(old)) = (new, a.old) else { return Ok(()) };
        let size = |o: &Object| Quantity::parse(o.str_at(&["spec", "resources", "requests", "storage"])).ok();
        let grows = match (size(old), size(new)) {
            (Some(old), Some(new)) => new > old,
            (None, new) => new.is_some(),
            (Some(_), None) => false,
        };
        if !grows {
            return Ok(());
        }
        let refuse = |why| Err(Status::forbidden("", "persistentvolumeclaims", new.name(), why));
        if old.str_at(&["status", "phase"]) != "Bound" {
            return refuse("Only bound persistent volume claims can be expanded");
        }
        if !class_allows(a, new, old) {
            return refuse("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize");
        }
        Ok(())
    }
}

fn class_name(claim: &Object) -> &str {
    match claim.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => claim.str_at(&["spec", "storageClassName"]),
        named => named,
    }
}

fn class_allows(a: &Attributes<'_>, new: &Object, old: &Object) -> bool {
    let name = class_name(new);
    if name.is_empty() || name != class_name(old) {
        return false;
    }
    a.registry.read("storage.k8s.io", "storageclasses", "", name).is_some_and(|c| c.at(&["allowVolumeExpansion"]) == true)
}
