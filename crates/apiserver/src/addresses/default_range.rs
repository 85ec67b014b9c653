//! The ServiceCIDR `kubernetes`, made of the server's own range: there before the first Service, made again when it is gone, ready at once.
//!
//! One that says something else than the flags is left alone, and told of. Source: kubernetes pkg/controlplane/controller/defaultservicecidr.

use super::repair::Reporter;
use super::{GROUP, RANGES, Write};
use crate::server::{Inner, StartError};
use keles_api::{Object, Status};
use keles_registry::{Follow, Registry, Verb};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "kubernetes";
const MANAGER: &str = "kubernetes-service-cidr-controller";
/// How long a failed pass waits for the next.
const RETRY: Duration = Duration::from_secs(1);

/// What the object needs.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    /// A second family was added to the flags.
    Grow(Object),
    Ready,
    /// Reason and message.
    Tell(&'static str, String),
    Nothing,
}

/// Makes it, before anything else has an address.
pub async fn make(server: &Inner) -> Result<(), StartError> {
    let texts = server.config.service_cidrs.texts();
    for _ in 0..2 {
        let found = server.registry.read_fresh(GROUP, RANGES, "", NAME).await;
        let done = match found {
            Ok(o) => step(&server.registry, &look(o.as_deref(), &texts), &texts).await,
            Err(s) => Err(s),
        };
        match done {
            // Another server on the same store was quicker.
            Err(s) if s.code == 409 => {}
            Err(status) => return Err(StartError::Bootstrap { what: format!("{RANGES} {NAME}"), status }),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Keeps it until the server stops.
pub async fn run(server: Arc<Inner>) {
    let mut changes = Follow::new(&server.registry, &[(GROUP, RANGES)], RETRY);
    let texts = server.config.service_cidrs.texts();
    let mut told = Reporter::new(MANAGER);
    loop {
        let found = server.registry.read(GROUP, RANGES, "", NAME);
        let next = look(found.as_deref(), &texts);
        if let (Step::Tell(reason, message), Some(o)) = (&next, &found) {
            told.warn(&server.registry, o, reason, "", message).await;
        }
        let failed = match step(&server.registry, &next, &texts).await {
            Err(status) if status.code != 409 => {
                tracing::warn!(%status, "the ServiceCIDR {NAME} could not be kept; trying again");
                true
            }
            r => r.is_err(),
        };
        let Some(true) = server.stops.run_until_cancelled(changes.next(failed)).await else { return };
    }
}

fn look(found: Option<&Object>, texts: &[String]) -> Step {
    let Some(o) = found else { return Step::Create };
    if o.deletion_timestamp().is_some() {
        return Step::Nothing;
    }
    let there: Vec<&str> = o.at(&["spec", "cidrs"]).as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if texts.len() == 2 && there == texts[..1] {
        let mut o = o.clone();
        o.0["spec"]["cidrs"] = json!(texts);
        return Step::Grow(o);
    }
    if there != texts {
        let go = |all: &[&str]| format!("[{}]", all.join(" "));
        let wanted: Vec<&str> = texts.iter().map(String::as_str).collect();
        let message = format!("The default ServiceCIDR {} does not match the controller flag configurations {}", go(&there), go(&wanted));
        return Step::Tell("KubernetesDefaultServiceCIDRInconsistent", message);
    }
    let ready = o.at(&["status", "conditions"]).as_array().and_then(|c| c.iter().find(|c| c["type"] == "Ready"));
    match ready.map(|c| c["status"].as_str().unwrap_or_default()) {
        Some("True" | "False") => Step::Nothing,
        _ => Step::Ready,
    }
}

async fn step(registry: &Registry, step: &Step, texts: &[String]) -> Result<(), Status> {
    let write = |verb, name, body| Write { verb, group: GROUP, plural: RANGES, namespace: "", name, body };
    let object = |rest: (&str, Value)| json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME}, rest.0: rest.1});
    match step {
        Step::Create => write(Verb::Create, "", Some(&object(("spec", json!({"cidrs": texts}))))).send(registry).await,
        Step::Grow(o) => write(Verb::Update, NAME, Some(&o.0)).send(registry).await,
        Step::Ready => {
            let condition =
                json!({"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": crate::chain::now()});
            write(Verb::Patch, NAME, Some(&object(("status", json!({"conditions": [condition]}))))).apply_status(registry, MANAGER).await
        }
        Step::Tell(..) | Step::Nothing => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cidrs: Value) -> Object {
        Object(json!({"metadata": {"name": NAME}, "spec": {"cidrs": cidrs}}))
    }

    #[test]
    fn the_default_range_is_made_grown_and_otherwise_left_alone() {
        let (one, two) = (["10.43.0.0/16".to_owned()], ["10.43.0.0/16".to_owned(), "2001:db8::/112".to_owned()]);
        assert_eq!(look(None, &one), Step::Create);
        assert_eq!(look(Some(&range(json!(one))), &one), Step::Ready);
        assert!(matches!(look(Some(&range(json!(one))), &two), Step::Grow(o) if o.at(&["spec", "cidrs"]) == &json!(two)));
        let Step::Tell(_, message) = look(Some(&range(json!(["10.1.0.0/16"]))), &one) else { panic!("it is somebody's decision") };
        assert_eq!(message, "The default ServiceCIDR [10.1.0.0/16] does not match the controller flag configurations [10.43.0.0/16]");
        for status in ["True", "False"] {
            let mut o = range(json!(one));
            o.0["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
            assert_eq!(look(Some(&o), &one), Step::Nothing);
        }
        let mut going = range(json!(one));
        going.set_meta("deletionTimestamp", "2026-01-01T00:00:00Z");
        assert_eq!(look(Some(&going), &one), Step::Nothing);
    }
}
