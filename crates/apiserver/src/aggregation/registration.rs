//! APIServices of what this server serves itself: made, kept and taken away with the group-versions, as upstream's autoregistration does.
//!
//! Those of built-in groups are put right once after the start (`onstart`); those of custom kinds always (`true`). An APIService without
//! the label is somebody's own and left alone. Source: k8s.io/kube-aggregator/pkg/controllers/autoregister.

use super::local::LOCALS;
use super::{GROUP, PLURAL, available_condition, priorities};
use crate::chain::now;
use crate::server::Inner;
use futures::StreamExt;
use keles_api::{Object, Status};
use keles_auth::User;
use keles_registry::{Call, Request as About, Verb};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Writes under way at once.
const AT_ONCE: usize = 64;

/// What has been done since the start.
#[derive(Default)]
pub struct Registrar {
    /// APIServices that were in order once.
    settled: HashSet<String>,
}

struct Wanted {
    group: String,
    version: String,
    /// Value of the label.
    managed: &'static str,
    /// One that names a Service is somebody's own server and stays.
    yields: bool,
}

enum Step {
    Create(Object),
    Update(Object),
    Status(Object),
    Delete(String),
}

impl Registrar {
    /// Brings the APIServices in line; false when a write failed or was overtaken and another pass is due.
    pub async fn pass<'a>(&mut self, server: &Inner, there: impl Iterator<Item = &'a Object>) -> bool {
        let wanted = wanted(server);
        let mut missing: HashSet<&str> = wanted.keys().map(String::as_str).collect();
        let mut steps = Vec::new();
        for o in there {
            missing.remove(o.name());
            steps.extend(self.look(o, wanted.get(o.name())));
        }
        steps.extend(missing.into_iter().filter_map(|name| Some((name, wanted.get(name)?))).filter_map(|(name, w)| {
            // Who takes a built-in one away has it away until the next start.
            let again = w.managed == "true" || !self.settled.contains(name);
            again.then(|| Step::Create(made(name, w)))
        }));
        let results: Vec<_> = futures::stream::iter(steps.into_iter().map(|s| step(server, s))).buffer_unordered(AT_ONCE).collect().await;
        let mut done = true;
        for r in results {
            match r {
                Ok(name) => {
                    self.settled.insert(name);
                }
                Err(status) => {
                    // Somebody else wrote in between: their change brings the next pass, which may have passed already.
                    if !matches!(status.code, 404 | 409) {
                        tracing::warn!(%status, "an APIService could not be kept; trying again");
                    }
                    done = false;
                }
            }
        }
        done
    }

    /// What one that is there needs.
    fn look(&mut self, o: &Object, wanted: Option<&Wanted>) -> Option<Step> {
        let name = o.name();
        let label = o.label(LABEL).unwrap_or_default();
        if wanted.is_some_and(|w| w.yields) && !o.at(&["spec", "service"]).is_null() {
            return None;
        }
        match (wanted, label) {
            (None, "true") => return Some(Step::Delete(name.to_owned())),
            (None, "onstart") if !self.settled.contains(name) => return Some(Step::Delete(name.to_owned())),
            (Some(w), "true" | "onstart") if w.managed == "true" || !self.settled.contains(name) => {
                let new = made(name, w);
                if o.at(&["spec"]) != new.at(&["spec"]) || label != w.managed {
                    let mut o = o.clone();
                    o.root_mut()["spec"] = new.at(&["spec"]).clone();
                    o.root_mut()["metadata"]["labels"][LABEL] = w.managed.into();
                    return Some(Step::Update(o));
                }
                self.settled.insert(name.to_owned());
            }
            _ => {}
        }
        if o.at(&["spec", "service"]).is_null() { set_available(o, true, "Local", "Local APIServices are always available").map(Step::Status) } else { None }
    }
}

/// The object with its condition `Available` as given; `None` when it says so already. Its time changes when its status does.
pub fn set_available(o: &Object, available: bool, reason: &str, message: &str) -> Option<Object> {
    let status = if available { "True" } else { "False" };
    let old = available_condition(o);
    if old.is_some_and(|c| c["status"] == status && c["reason"] == reason && c["message"] == message) {
        return None;
    }
    let since = old.filter(|c| c["status"] == status).and_then(|c| c["lastTransitionTime"].as_str()).map_or_else(now, str::to_owned);
    let new = json!({"type": "Available", "status": status, "lastTransitionTime": since, "reason": reason, "message": message});
    let mut o = o.clone();
    let root = o.root_mut().entry("status").or_insert_with(|| json!({}));
    if !root["conditions"].is_array() {
        root["conditions"] = json!([]);
    }
    let all = root["conditions"].as_array_mut()?;
    match all.iter_mut().find(|c| c["type"] == "Available") {
        Some(there) => *there = new,
        None => all.push(new),
    }
    Some(o)
}

/// Every group-version that this server serves, by the name of its APIService.
fn wanted(server: &Inner) -> BTreeMap<String, Wanted> {
    let mut all = BTreeMap::new();
    for k in server.registry.custom_kinds() {
        for s in k.info().served.iter().filter(|s| k.serves(s)) {
            all.insert(format!("{}.{}", s.version, s.group), Wanted { group: s.group.into(), version: s.version.into(), managed: "true", yields: false });
        }
    }
    for (g, v) in priorities::built_in() {
        all.insert(format!("{v}.{g}"), Wanted { group: g.into(), version: v.into(), managed: "onstart", yields: false });
    }
    for l in &LOCALS {
        all.insert(format!("{}.{}", l.version, l.group), Wanted { group: l.group.into(), version: l.version.into(), managed: "true", yields: true });
    }
    all
}

fn made(name: &str, w: &Wanted) -> Object {
    let (group, version) = priorities::of(&w.group, &w.version);
    let mut spec = json!({"version": w.version, "groupPriorityMinimum": group, "versionPriority": version});
    if !w.group.is_empty() {
        spec["group"] = w.group.as_str().into();
    }
    Object(json!({"apiVersion": format!("{GROUP}/v1"), "kind": "APIService", "metadata": {"name": name, "labels": {LABEL: w.managed}}, "spec": spec}))
}

/// Does it; the name of what is in order afterwards.
async fn step(server: &Inner, s: Step) -> Result<String, Status> {
    match s {
        Step::Create(o) => match write(server, Verb::Create, "", "", Some(&o)).await {
            Err(s) if s.reason == "AlreadyExists" => Err(s),
            r => r.map(|()| o.name().to_owned()),
        },
        Step::Update(o) => write(server, Verb::Update, o.name(), "", Some(&o)).await.map(|()| o.name().to_owned()),
        Step::Status(o) => write_status(server, &o).await.map(|()| o.name().to_owned()),
        Step::Delete(name) => match write(server, Verb::Delete, &name, "", None).await {
            Err(s) if s.code == 404 => Ok(name),
            r => r.map(|()| name),
        },
    }
}

pub async fn write_status(server: &Inner, o: &Object) -> Result<(), Status> {
    write(server, Verb::Update, o.name(), "status", Some(o)).await
}

async fn write(server: &Inner, verb: Verb, name: &str, subresource: &str, o: Option<&Object>) -> Result<(), Status> {
    let request = About {
        user: User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into(), keles_auth::AUTHENTICATED.into()], ..User::default() },
        group: GROUP.into(),
        version: "v1".into(),
        plural: PLURAL.into(),
        subresource: subresource.into(),
        name: name.into(),
        now: now(),
        ..About::default()
    };
    let body = o.map(|o| serde_json::to_vec(o).expect("a JSON tree always encodes").into()).unwrap_or_default();
    let answer = server.registry.serve(verb, Call { request, body, user_agent: "kube-apiserver".into(), ..Call::default() }).await?;
    if answer.code >= 400 {
        return Err(serde_json::from_slice(&answer.body.collect()).unwrap_or_else(|e: serde_json::Error| Status::internal(e)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(label: &str, version_priority: i64) -> Object {
        Object(json!({"metadata": {"name": "v1.a.example", "labels": {LABEL: label}},
            "spec": {"group": "a.example", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": version_priority},
            "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available"}]}}))
    }
    fn wanted(managed: &'static str) -> Wanted {
        Wanted { group: "a.example".into(), version: "v1".into(), managed, yields: false }
    }

    #[test]
    fn what_is_managed_is_put_right_and_what_is_not_is_left_alone() {
        let mut r = Registrar::default();
        assert!(r.look(&object("true", 100), Some(&wanted("true"))).is_none());
        assert!(matches!(r.look(&object("true", 7), Some(&wanted("true"))), Some(Step::Update(o)) if o.at(&["spec", "versionPriority"]) == 100), "always");
        assert!(matches!(r.look(&object("true", 100), None), Some(Step::Delete(_))), "nobody serves it any more");
        assert!(r.look(&object("", 7), Some(&wanted("true"))).is_none() && r.look(&object("", 7), None).is_none(), "somebody's own");
        let mut fresh = Registrar::default();
        assert!(matches!(fresh.look(&object("onstart", 7), Some(&wanted("onstart"))), Some(Step::Update(_))));
        fresh.settled.insert("v1.a.example".into());
        assert!(fresh.look(&object("onstart", 7), Some(&wanted("onstart"))).is_none(), "only after the start");
    }

    #[test]
    fn a_server_that_users_install_stays_in_the_place_of_ours() {
        let mut r = Registrar::default();
        let ours = Wanted { yields: true, ..wanted("true") };
        let mut theirs = object("true", 7);
        assert!(matches!(r.look(&theirs, Some(&ours)), Some(Step::Update(_))), "ours is put right");
        theirs.0["spec"]["service"] = json!({"name": "metrics-server", "namespace": "kube-system"});
        assert!(r.look(&theirs, Some(&ours)).is_none());
    }

    #[test]
    fn the_time_of_a_condition_changes_with_its_status_alone() {
        let mut o = object("", 1);
        o.0["status"]["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        assert!(set_available(&o, true, "Local", "Local APIServices are always available").is_none());
        let other = set_available(&o, true, "Passed", "all checks passed").unwrap();
        assert_eq!(available_condition(&other).unwrap()["lastTransitionTime"], "2020-01-01T00:00:00Z");
        let down = set_available(&o, false, "ServiceNotFound", "x").unwrap();
        assert_ne!(available_condition(&down).unwrap()["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
