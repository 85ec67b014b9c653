//! Facts of single resources that decide how a generic pipeline behaves, in one table a fact.
//!
//! Each is a property that upstream gives its stores by hand; a kind's file cannot know them since they only matter to a pipeline.

use crate::kind::{AnyKind, Info};
use keles_api::meta::Finalizers;

fn listed(table: &[(&str, &str)], info: &Info) -> bool {
    table.iter().any(|(g, p)| *p == info.plural && info.served.first().is_some_and(|s| s.group == *g))
}

/// A delete that leaves nothing answers with the object instead of a Status.
pub fn returns_deleted(info: &Info) -> bool {
    const TABLE: &[(&str, &str)] = &[
        ("", "pods"),
        ("", "services"),
        ("", "serviceaccounts"),
        ("", "persistentvolumes"),
        ("", "persistentvolumeclaims"),
        ("", "podtemplates"),
        ("", "resourcequotas"),
        ("storage.k8s.io", "csidrivers"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "storageclasses"),
        ("storage.k8s.io", "volumeattachments"),
        ("storage.k8s.io", "volumeattributesclasses"),
        ("resource.k8s.io", "deviceclasses"),
        ("resource.k8s.io", "resourceclaims"),
        ("resource.k8s.io", "resourceclaimtemplates"),
        ("resource.k8s.io", "resourceslices"),
    ];
    listed(TABLE, info)
}

/// Dependents are orphaned when a delete says nothing (old clients of `batch/v1` Jobs and ReplicationControllers rely on it).
pub fn orphans_by_default(info: &Info) -> bool {
    listed(&[("batch", "jobs"), ("", "replicationcontrollers")], info)
}

/// Annotations in which a served version says what upstream's internal object has as a field. Metadata alone comes from the internal object,
/// and is without them.
pub fn versioned_annotations(info: &Info) -> &'static [&'static str] {
    if listed(&[("apps", "daemonsets")], info) { &["deprecated.daemonset.template.generation"] } else { &[] }
}

/// Objects of the resource expire by themselves (see [`crate::lifetimes`]).
pub fn expires(info: &Info) -> bool {
    listed(&[("", "events"), ("events.k8s.io", "events")], info)
}

/// Namespaces hold other objects and have finalizers in their spec.
pub fn is_namespace(info: &Info) -> bool {
    listed(&[("", "namespaces")], info)
}

/// Deleted by a store of their own, which checks the uid itself and in other words.
pub fn checks_uid_itself(info: &Info) -> bool {
    is_namespace(info) || listed(&[("apiextensions.k8s.io", "customresourcedefinitions")], info)
}

/// An update of the status leaves labels, annotations, finalizers and owners as they were. Source: `ResetObjectMetaForStatus` in upstream's strategies.
pub fn status_keeps_metadata(info: &Info) -> bool {
    const TABLE: &[(&str, &str)] = &[
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("apiregistration.k8s.io", "apiservices"),
        ("certificates.k8s.io", "podcertificaterequests"),
        ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        ("internal.apiserver.k8s.io", "storageversions"),
        ("resource.k8s.io", "devicetaintrules"),
        ("resource.k8s.io", "resourceclaims"),
        ("resource.k8s.io", "resourcepoolstatusrequests"),
        ("scheduling.k8s.io", "podgroups"),
        ("storage.k8s.io", "volumeattachments"),
        ("storagemigration.k8s.io", "storageversionmigrations"),
    ];
    listed(TABLE, info)
}

/// Fields that a write through this path resets, so that its writer does not own them: status through the main resource, spec through
/// `/status`. Source: `GetResetFields` of upstream's strategies.
pub fn reset(info: &Info, subresource: &str) -> &'static [&'static [&'static str]] {
    // Upstream's two lists differ: these writers own what is not taken from them, and those of a definition's status do not own what is.
    let owned = [("certificates.k8s.io", "podcertificaterequests"), ("resource.k8s.io", "resourceclaims")];
    let of_metadata = status_keeps_metadata(info) && !listed(&owned, info) || listed(&[("apiextensions.k8s.io", "customresourcedefinitions")], info);
    match subresource {
        "" if listed(&[("certificates.k8s.io", "certificatesigningrequests")], info) => &[&["spec"], &["status"]],
        "" | "finalize" if info.subresources.iter().any(|s| s.name == crate::kind::STATUS) => &[&["status"]],
        crate::kind::STATUS if of_metadata => &[&["spec"], &["metadata"]],
        crate::kind::STATUS if listed(&[("", "pods")], info) => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
        crate::kind::STATUS if listed(&[("apps", "deployments")], info) => &[&["spec"], &["metadata", "labels"]],
        crate::kind::STATUS => &[&["spec"]],
        "approval" => &[&["spec"], &["status", "certificate"]],
        _ => &[],
    }
}

/// Which finalizers objects of the kind may have.
pub fn finalizers(kind: &dyn AnyKind) -> Finalizers {
    let elsewhere = ["apiextensions.k8s.io", "apiregistration.k8s.io"];
    let other = kind.info().served.first().is_some_and(|s| elsewhere.contains(&s.group));
    if other || !kind.edition().is_empty() { Finalizers::Any } else { Finalizers::Kube }
}
