//! PodSecurity: a namespace's labels say which Pod Security Standard its pods must meet, and of which its writers are warned (KEP-2579).
//!
//! Pods are refused, workloads with a pod template only told of. The audit log hears which standard was enforced and of what violates the
//! one that is audited.

mod checks;
mod policy;

use super::is;
use async_trait::async_trait;
use checks::{PodView, reasons, violations};
use keles_api::{Object, Status};
use keles_registry::annotations::annotate;
use keles_registry::{Admission, Attributes, Operation};
use policy::{Level, Policy, Standard};
use serde_json::Value;
use std::collections::BTreeMap;

pub struct PodSecurity;

/// Pods of a namespace that are looked at when its level is raised; upstream's figure.
const PODS_MAX: usize = 3000;

/// Workloads: group, plural, and where their pod template is.
const TEMPLATES: &[(&str, &str, &[&str])] = &[
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

fn template(a: &Attributes<'_>) -> Option<&'static [&'static str]> {
    TEMPLATES.iter().find(|(group, plural, _)| is(a, group, plural)).map(|row| row.2)
}

fn is_pod(a: &Attributes<'_>) -> bool {
    is(a, "", "pods") || (a.info.plural == "pods" && a.request.group.is_empty() && a.request.subresource == "ephemeralcontainers")
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update) && (is_pod(a) || is(a, "", "namespaces") || template(a).is_some())
    }
    async fn validate(&self, a: &Attributes<'_>, o: Option<&Object>, warnings: &mut Vec<String>) -> Result<(), Status> {
        let Some(o) = o else { return Ok(()) };
        if is(a, "", "namespaces") {
            return namespace(a, o, warnings);
        }
        let Some(ns) = a.registry.read("", "namespaces", "", &a.request.namespace) else { return Ok(()) };
        let (policy, _) = Policy::of(&ns);
        if policy == Policy::default() {
            return Ok(());
        }
        match template(a) {
            Some(path) => {
                let t = o.at(path);
                let view = PodView { metadata: &t["metadata"], spec: &t["spec"] };
                audit(&view, policy.audit);
                warn(&view, policy.warn, warnings);
                Ok(())
            }
            None => pod(a, o, &policy, warnings),
        }
    }
}

fn view(pod: &Object) -> PodView<'_> {
    PodView { metadata: pod.at(&["metadata"]), spec: pod.at(&["spec"]) }
}

fn warn(pod: &PodView, standard: Standard, warnings: &mut Vec<String>) {
    if let Some(v) = violations(pod, standard) {
        warnings.push(format!("would violate PodSecurity \"{standard}\": {v}"));
    }
}

fn audit(pod: &PodView, standard: Standard) {
    if let Some(v) = violations(pod, standard) {
        annotate("pod-security.kubernetes.io/audit-violations", format!("would violate PodSecurity \"{standard}\": {v}"));
    }
}

fn pod(a: &Attributes<'_>, pod: &Object, policy: &Policy, warnings: &mut Vec<String>) -> Result<(), Status> {
    if a.old.is_some_and(|old| !matters(pod, old)) {
        return Ok(());
    }
    annotate("pod-security.kubernetes.io/enforce-policy", policy.enforce.to_string());
    audit(&view(pod), policy.audit);
    if let Some(v) = violations(&view(pod), policy.enforce) {
        return Err(Status::forbidden("", "pods", pod.name(), format!("violates PodSecurity \"{}\": {v}", policy.enforce)));
    }
    // Who meets the standard that is enforced needs no second look at the same one.
    if policy.warn != policy.enforce {
        warn(&view(pod), policy.warn, warnings);
    }
    Ok(())
}

/// Whether an update touches what the standards look at: anything of the spec but images and times, and the annotations of old profiles.
fn matters(new: &Object, old: &Object) -> bool {
    let annotations = |o: &Object| {
        let profile = |k: &str| k.contains("seccomp.security.alpha.kubernetes.io/") || k.starts_with("container.apparmor.security.beta.kubernetes.io/");
        o.at(&["metadata", "annotations"]).as_object().into_iter().flatten().filter(|(k, _)| profile(k)).map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
    };
    fn spec(o: &Object) -> Value {
        let mut spec = o.at(&["spec"]).clone();
        for list in ["containers", "initContainers"] {
            for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
                c.remove("image");
                c.remove("resources");
            }
        }
        if let Some(map) = spec.as_object_mut() {
            ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates", "nodeSelector", "affinity", "nodeName"]
                .iter()
                .for_each(|f| drop(map.remove(*f)));
        }
        spec
    }
    annotations(new) != annotations(old) || spec(new) != spec(old)
}

/// Labels must be readable; a level that was raised warns of the pods that would now be refused.
fn namespace(a: &Attributes<'_>, new: &Object, warnings: &mut Vec<String>) -> Result<(), Status> {
    let (policy, problems) = Policy::of(new);
    let old = a.old.map(Policy::of);
    let said_before = old.as_ref().is_some_and(|(_, before)| before.aggregate() == problems.aggregate());
    if !problems.is_empty() && !said_before {
        return Err(Status::invalid("", "Namespace", new.name(), &problems));
    }
    let Some((old, _)) = old else { return Ok(()) };
    let (was, now) = (old.enforce, policy.enforce);
    let relaxed = now.minor == was.minor && now.level <= was.level;
    if now.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let found = in_namespace(a.registry.read_all("", "pods", new.name()), now);
    if !found.is_empty() {
        warnings.push(format!("existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{now}\"", new.name()));
        warnings.extend(found);
    }
    Ok(())
}

/// A line a kind of violation: the first pod by name, how many others, and what is wrong.
fn in_namespace(pods: Vec<Object>, standard: Standard) -> Vec<String> {
    let mut by_violation: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for p in pods.iter().filter(|p| p.deletion_timestamp().is_none()).take(PODS_MAX) {
        if let Some(v) = reasons(&view(p), standard) {
            by_violation.entry(v).or_default().push(p.name());
        }
    }
    let mut lines: Vec<String> = by_violation
        .into_iter()
        .map(|(violation, mut names)| {
            names.sort_unstable();
            match names.len() - 1 {
                0 => format!("{}: {violation}", names[0]),
                1 => format!("{} (and 1 other pod): {violation}", names[0]),
                n => format!("{} (and {n} other pods): {violation}", names[0]),
            }
        })
        .collect();
    lines.sort();
    lines
}
