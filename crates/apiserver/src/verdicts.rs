//! Conditions that the server itself gives objects, from other objects it has: whether a FlowSchema's priority level is there.
//!
//! A row of [`ROWS`] a kind; one task a row follows the kind and what it refers to and works through all objects. Level-triggered: every
//! pass looks at states only, and a write that fails is tried again.
//! Deliberately absent: what takes more than objects to judge (`aggregation` asks servers whether they answer).

use crate::chain::now;
use crate::server::Inner;
use keles_api::{Object, Status};
use keles_auth::User;
use keles_registry::{Call, Follow, PatchType, Query, Registry, Request as About, Verb};
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

const ROWS: &[Row] =
    &[Row { group: FLOW_CONTROL, plural: "flowschemas", follows: &[(FLOW_CONTROL, LEVELS)], manager: "api-priority-and-fairness-config-consumer-v1", judge: dangling }];
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations";

fn dangling(registry: &Registry, schema: &Object) -> Verdict {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let holds = registry.read(FLOW_CONTROL, LEVELS, "", level).is_none();
    let (reason, tail) = if holds { ("NotFound", "there is no such object") } else { ("Found", "it exists") };
    Verdict { kind: "Dangling", holds, reason, message: format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and {tail}") }
}

/// Starts a task a row; they run until the server stops.
pub fn start(server: &Arc<Inner>) {
    for row in ROWS {
        tokio::spawn(run(server.clone(), row));
    }
}

async fn run(server: Arc<Inner>, row: &'static Row) {
    let places: Vec<_> = row.follows.iter().copied().chain([(row.group, row.plural)]).collect();
    let mut changes = Follow::new(&server.registry, &places, RETRY);
    loop {
        let failed = pass(&server, row).await;
        let Some(true) = server.stops.run_until_cancelled(changes.next(failed)).await else { return };
    }
}

/// Whether a write failed.
async fn pass(server: &Inner, row: &Row) -> bool {
    let mut failed = false;
    for o in server.registry.read_all(row.group, row.plural, "") {
        let verdict = (row.judge)(&server.registry, &o);
        let Some(condition) = due(&o, &verdict, &now()) else { continue };
        if let Err(status) = write(server, row, &o, condition).await {
            // A conflict is a change that wakes the next pass anyway.
            if status.code != 409 && status.code != 404 {
                tracing::warn!(resource = row.plural, object = o.name(), %status, "a condition could not be written; trying again");
            }
            failed = true;
        }
    }
    failed
}

/// The condition as it is to be written; none when the status says so already.
fn due(o: &Object, v: &Verdict, now: &str) -> Option<Value> {
    let status = if v.holds { "True" } else { "False" };
    let since = match o.at(&["status", "conditions"]).as_array().into_iter().flatten().find(|c| c["type"] == v.kind) {
        Some(c) if c["status"] == status && c["reason"] == v.reason && c["message"] == v.message.as_str() => return None,
        Some(c) if c["status"] == status => c["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    Some(json!({"type": v.kind, "status": status, "reason": v.reason, "message": v.message, "lastTransitionTime": since}))
}

/// Applies the one condition, so that others of the status stay whose they are.
async fn write(server: &Inner, row: &Row, o: &Object, condition: Value) -> Result<(), Status> {
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
    let config = json!({
        "apiVersion": o.0["apiVersion"], "kind": o.0["kind"], "metadata": {"name": o.name(), "uid": o.uid()}, "status": {"conditions": [condition]},
    });
    let query = Query::parse(&format!("force=true&fieldManager={}", row.manager));
    let call = Call { request, query, body: config.to_string().into(), patch_type: Some(PatchType::Apply), user_agent: "kube-apiserver".into(), ..Call::default() };
    let answer = server.registry.serve(Verb::Patch, call).await?;
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
    fn a_condition_is_due_once_and_keeps_its_time_until_it_turns() {
        let with = |c: &Value| Object(json!({"metadata": {"name": "s"}, "status": {"conditions": [{"type": "Other"}, c]}}));
        let first = due(&Object(json!({"metadata": {"name": "s"}})), &said(true), "2026-01-01T00:00:00Z").expect("a new condition");
        assert_eq!(first["status"], "True");
        assert_eq!(due(&with(&first), &said(true), "2026-01-01T00:00:09Z"), None);
        let other = due(&with(&first), &Verdict { message: "other".into(), ..said(true) }, "2026-01-01T00:00:09Z").expect("another message");
        assert_eq!(other["lastTransitionTime"], "2026-01-01T00:00:00Z");
        let turned = due(&with(&other), &said(false), "2026-01-01T00:00:10Z").expect("another verdict");
        assert_eq!((turned["reason"].as_str(), turned["lastTransitionTime"].as_str()), (Some("Found"), Some("2026-01-01T00:00:10Z")));
    }
}
