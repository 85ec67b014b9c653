//! Conditions that the server itself gives objects, from other objects it has: whether a FlowSchema's priority level is there, whether the
//! Service behind an APIService is.
//!
//! A row of [`ROWS`] a kind; one task a row follows the kind and what it refers to and works through all objects. Level-triggered: every
//! pass looks at states only, and a write that fails is tried again.
//! Deliberately absent: priority and fairness, and asking an aggregated server whether it answers (docs/STATUS.md).

use crate::chain::now;
use crate::server::Inner;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use keles_api::{Object, Status};
use keles_auth::User;
use keles_registry::{Call, Registry, Request as About, Verb};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long a failed pass waits for the next.
const RETRY: Duration = Duration::from_secs(1);

struct Row {
    group: &'static str,
    plural: &'static str,
    /// Group and plural of what decides.
    follows: &'static [(&'static str, &'static str)],
    /// Whom the condition belongs to.
    manager: &'static str,
    judge: fn(&Registry, &Object) -> Verdict,
}

/// A condition as it should be.
struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

const ROWS: &[Row] = &[
    Row { group: FLOW_CONTROL, plural: "flowschemas", follows: &[(FLOW_CONTROL, LEVELS)], manager: "api-priority-and-fairness-config-consumer-v1", judge: dangling },
    Row { group: "apiregistration.k8s.io", plural: "apiservices", follows: &[("", "services"), (DISCOVERY, "endpointslices")], manager: "kube-apiserver", judge: available },
];
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations";
const DISCOVERY: &str = "discovery.k8s.io";

fn dangling(registry: &Registry, schema: &Object) -> Verdict {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let holds = registry.read(FLOW_CONTROL, LEVELS, "", level).is_none();
    let (reason, tail) = if holds { ("NotFound", "there is no such object") } else { ("Found", "it exists") };
    Verdict { kind: "Dangling", holds, reason, message: format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and {tail}") }
}

fn available(registry: &Registry, api: &Object) -> Verdict {
    let verdict = |holds, reason, message: String| Verdict { kind: "Available", holds, reason, message };
    let wanted = api.at(&["spec", "service"]);
    if wanted.is_null() {
        return verdict(true, "Local", "Local APIServices are always available".into());
    }
    let (name, namespace) = (wanted["name"].as_str().unwrap_or(""), wanted["namespace"].as_str().unwrap_or(""));
    let Some(service) = registry.read("", "services", namespace, name) else {
        return verdict(false, "ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    // A Service without an address of its own is asked by its external name.
    if service.str_at(&["spec", "type"]) != "ExternalName" {
        let port = wanted["port"].as_i64().unwrap_or(443);
        let ports = service.at(&["spec", "ports"]).as_array().map(Vec::as_slice).unwrap_or(&[]);
        let Some(found) = ports.iter().find(|p| p["port"] == port) else {
            return verdict(false, "ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}"));
        };
        let port_name = found["name"].as_str().unwrap_or("");
        let slices = registry.read_all(DISCOVERY, "endpointslices", namespace);
        let mut own = slices.iter().filter(|s| s.at(&["metadata", "labels", "kubernetes.io/service-name"]) == name).peekable();
        if own.peek().is_none() {
            return verdict(false, "EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}"));
        }
        if !own.any(|s| ready_on(s, port_name)) {
            return verdict(false, "MissingEndpoints", format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"));
        }
    }
    verdict(false, "FailedDiscoveryCheck", "this server does not ask aggregated API servers yet".into())
}

/// Whether a slice has a ready endpoint on the port of this name.
fn ready_on(slice: &Object, port_name: &str) -> bool {
    let list = |name: &str| slice.at(&[name]).as_array().map(Vec::as_slice).unwrap_or(&[]);
    list("ports").iter().any(|p| p["name"].as_str().unwrap_or("") == port_name) && list("endpoints").iter().any(|e| e["conditions"]["ready"] != false)
}

/// Starts a task a row; they run until the server stops.
pub fn start(server: &Arc<Inner>) {
    for row in ROWS {
        tokio::spawn(run(server.clone(), row));
    }
}

async fn run(server: Arc<Inner>, row: &'static Row) {
    let places = row.follows.iter().copied().chain([(row.group, row.plural)]);
    let mut changes: Vec<_> = places.filter_map(|(group, plural)| server.registry.subscribe(group, plural)).collect();
    loop {
        changes.iter_mut().for_each(|c| drop(c.borrow_and_update()));
        let failed = pass(&server, row).await;
        let mut any: FuturesUnordered<_> = changes.iter_mut().map(|c| c.changed()).collect();
        tokio::select! {
            () = server.stops.cancelled() => return,
            changed = any.next() => if !matches!(changed, Some(Ok(()))) { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Whether a write failed.
async fn pass(server: &Inner, row: &Row) -> bool {
    let mut failed = false;
    for mut o in server.registry.read_all(row.group, row.plural, "") {
        let verdict = (row.judge)(&server.registry, &o);
        if !describe(&mut o, &verdict, &now()) {
            continue;
        }
        if let Err(status) = write(server, row, &o).await {
            // A conflict is a change that wakes the next pass anyway.
            if status.code != 409 && status.code != 404 {
                tracing::warn!(resource = row.plural, object = o.name(), %status, "a condition could not be written; trying again");
            }
            failed = true;
        }
    }
    failed
}

/// Puts the condition into the status; false when it is there already.
fn describe(o: &mut Object, v: &Verdict, now: &str) -> bool {
    let status = if v.holds { "True" } else { "False" };
    let of = o.root_mut().entry("status").or_insert_with(|| json!({}));
    if !of.is_object() {
        *of = json!({});
    }
    let mut all: Vec<Value> = of["conditions"].as_array().cloned().unwrap_or_default();
    let old = all.iter().position(|c| c["type"] == v.kind);
    let since = match old.map(|i| &all[i]) {
        Some(c) if c["status"] == status && c["reason"] == v.reason && c["message"] == v.message.as_str() => return false,
        Some(c) if c["status"] == status => c["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    let new = json!({"type": v.kind, "status": status, "reason": v.reason, "message": v.message, "lastTransitionTime": since});
    match old {
        Some(i) => all[i] = new,
        None => all.push(new),
    }
    of["conditions"] = all.into();
    true
}

async fn write(server: &Inner, row: &Row, o: &Object) -> Result<(), Status> {
    let user = User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into(), keles_auth::AUTHENTICATED.into()], ..User::default() };
    let request = About {
        user,
        group: row.group.into(),
        version: "v1".into(),
        plural: row.plural.into(),
        subresource: "status".into(),
        name: o.name().into(),
        field_manager: row.manager.into(),
        now: now(),
        ..About::default()
    };
    let body = serde_json::to_vec(o).map_err(Status::internal)?.into();
    let answer = server.registry.serve(Verb::Update, Call { request, body, user_agent: "kube-apiserver".into(), ..Call::default() }).await?;
    match answer.code {
        400.. => Err(serde_json::from_slice(&answer.body.collect()).map_err(Status::internal)?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(holds: bool) -> Verdict {
        Verdict { kind: "Dangling", holds, reason: if holds { "NotFound" } else { "Found" }, message: "m".into() }
    }

    #[test]
    fn a_condition_is_written_once_and_keeps_its_time_until_it_turns() {
        let mut o = Object(json!({"metadata": {"name": "s"}}));
        assert!(describe(&mut o, &said(true), "2026-01-01T00:00:00Z"));
        assert_eq!(o.0["status"]["conditions"][0]["status"], "True");
        assert!(!describe(&mut o, &said(true), "2026-01-01T00:00:09Z"));
        assert!(describe(&mut o, &Verdict { message: "other".into(), ..said(true) }, "2026-01-01T00:00:09Z"));
        assert_eq!(o.0["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert!(describe(&mut o, &said(false), "2026-01-01T00:00:10Z"));
        let c = &o.0["status"]["conditions"][0];
        assert_eq!((c["reason"].as_str(), c["lastTransitionTime"].as_str()), (Some("Found"), Some("2026-01-01T00:00:10Z")));
    }
}
