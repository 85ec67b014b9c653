//! Conditions that the server itself gives objects, from other objects it has: whether a FlowSchema's priority level is there.
//!
//! A row of [`ROWS`] a kind; one task a row follows the kind and what it refers to and works through all objects. Level-triggered: every
//! pass looks at states only, and a write that fails is tried again.
//! Deliberately absent: what takes more than objects to judge (`aggregation` asks servers whether they answer).

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
];
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
