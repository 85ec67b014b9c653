//! `eviction` of a pod: a delete that a PodDisruptionBudget may refuse (lessons.md 77).
//!
//! A pod that has ended, was never started or is going needs no budget. Else the budget's status gives the leave, once for each pod: it is
//! counted down and the pod named in it, by compare-and-swap, before the pod goes. Source: pkg/registry/core/pod/storage/eviction.go.

use crate::admission::Taken;
use crate::call::{Answer, Body};
use crate::exchange::{Exchange, Heard};
use crate::options::{DeleteOptions, Propagation, WriteOptions};
use crate::pods::set_condition;
use crate::represent::View;
use crate::update::Part;
use crate::versions::Conversions;
use keles_api::status::Details;
use keles_api::{Cause, Object, Selector, Status};
use serde_json::json;

const EVICTION_SCHEMA: &str = "io.k8s.api.policy.v1.Eviction";
const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";
/// Evictions that the budget's controller has not seen happen.
const UNCONFIRMED_MAX: usize = 2000;
const RETRY_AFTER_SECONDS: i64 = 10;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// How a budget refuses: 429 with what is the matter.
fn refused(why: String, retry_after_seconds: i64) -> Status {
    let cause = Cause { reason: "DisruptionBudget".into(), message: why, field: String::new() };
    Status::too_many_requests(REFUSED, retry_after_seconds).with_details(Details { causes: vec![cause], retry_after_seconds, ..Details::default() })
}

impl Exchange<'_> {
    pub async fn evict(mut self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.call.query, "CreateOptions")?;
        let (mut e, mut warnings) = self.decode_as(EVICTION_SCHEMA, "Eviction", options.field_validation)?;
        if !e.name().is_empty() && e.name() != self.request.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        self.request.dry_run = options.dry_run;
        warnings.extend(self.registry.admit_posted(&self.request, &mut e).await?);
        let asked = e.at(&["deleteOptions"]);
        let mut delete = DeleteOptions::parse((!asked.is_null()).then(|| Object(asked.clone())).as_ref(), &self.call.query)?;
        delete.dry_run |= options.dry_run;
        if delete.propagation == Propagation::Unset && delete.orphan_dependents.is_none() {
            delete.propagation = Propagation::Background;
        }
        self.request.dry_run = delete.dry_run;
        let pod = self.current(&self.own_key()).await?.tree();
        let uid_fits = delete.uid.as_deref().is_none_or(|uid| uid == pod.uid());
        if uid_fits && !ends_anyway(&pod) {
            self.ask_budget(&pod, &mut delete).await?;
        }
        if uid_fits && !delete.dry_run && delete.resource_version.is_none() {
            self.mark_disrupted(&mut warnings).await?;
        }
        let name = self.request.name.clone();
        self.delete_one(&name, &delete, &mut warnings).await?;
        let mut done = Status::failure(201, "", "");
        done.status = "Success".into();
        Ok(Answer { code: 201, body: Body::Bytes(done.to_json().into()), warnings })
    }

    /// The leave of the pod's budget, if it has one.
    async fn ask_budget(&self, pod: &Object, delete: &mut DeleteOptions) -> Result<(), Status> {
        let label = |k: &str| pod.label(k);
        let all = self.registry.read_all(GROUP, BUDGETS, pod.namespace());
        let theirs: Vec<Object> = all.into_iter().filter(|b| Selector::from_object(b.at(&["spec", "selector"])).is_ok_and(|s| s.matches(label))).collect();
        let budget = match theirs.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => return Err(Status::failure(500, "InternalError", "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")),
        };
        if !is_ready(pod) && unhealthy_may_go(budget) {
            // Only while it is still not ready.
            delete.resource_version.get_or_insert_with(|| pod.resource_version().to_owned());
            return Ok(());
        }
        self.count_down(budget.name(), pod.name()).await
    }

    /// Takes one disruption from a budget and names the pod in it.
    async fn count_down(&self, budget: &str, pod: &str) -> Result<(), Status> {
        let resource = self.registry.resource(GROUP, BUDGETS).ok_or_else(|| Status::internal("no budgets are served"))?;
        let served = resource.storage();
        let mut request = self.request.clone();
        (request.group, request.version, request.plural) = (served.group.into(), served.version.into(), resource.info().plural.into());
        (request.name, request.subresource) = (budget.into(), crate::kind::STATUS.into());
        let view = View::new(&resource, served, self.call)?;
        let theirs = Exchange {
            registry: self.registry,
            resource: resource.clone(),
            served,
            working: served,
            view,
            call: self.call,
            request,
            heard: Heard::default(),
            applied: true,
            taken: Taken::default(),
            conversions: Conversions::default(),
        };
        let now = self.request.now.clone();
        match theirs.modify(Part::Own, &mut Vec::new(), &mut |b| taken(b, pod, &now)).await {
            Ok(_) => Ok(()),
            // It changed too often, or went.
            Err(s) if s.code == 409 => Err(refused(format!("The disruption budget {budget} is still being processed by the server."), RETRY_AFTER_SECONDS)),
            Err(s) if s.code == 404 => Ok(()),
            Err(s) => Err(s),
        }
    }

    /// The condition that tells the pod's controller why it goes.
    async fn mark_disrupted(&self, warnings: &mut Vec<String>) -> Result<(), Status> {
        let now = self.request.now.clone();
        let mut mark = |old: &Object| {
            let mut new = old.clone();
            set_condition(
                &mut new,
                json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now}),
            );
            Ok(new)
        };
        self.modify(Part::Own, warnings, &mut mark).await.map(|_| ())
    }
}

/// Finished, not yet started, or going.
fn ends_anyway(pod: &Object) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || pod.deletion_timestamp().is_some()
}

fn is_ready(pod: &Object) -> bool {
    pod.at(&["status", "conditions"]).as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Pods that are not ready may go: always, or while the budget is met without them.
fn unhealthy_may_go(budget: &Object) -> bool {
    let number = |name: &str| budget.at(&["status", name]).as_i64().unwrap_or(0);
    budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0)
}

/// The budget with one disruption less, or why it gives none.
fn taken(budget: &Object, pod: &str, now: &str) -> Result<Object, Status> {
    let number = |name: &str| budget.at(&["status", name]).as_i64().unwrap_or(0);
    let name = budget.name();
    let forbidden = |why: &str| Err(Status::forbidden(GROUP, "poddisruptionbudget", name, why));
    if number("observedGeneration") < budget.generation() {
        return Err(refused(format!("The disruption budget {name} is still being processed by the server."), RETRY_AFTER_SECONDS));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if budget.at(&["status", "disruptedPods"]).as_object().is_some_and(|d| d.len() > UNCONFIRMED_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let conditions = budget.at(&["status", "conditions"]).as_array();
        let failed = conditions.into_iter().flatten().find(|c| c["type"] == "DisruptionAllowed" && c["reason"] == "SyncFailed");
        return Err(match failed {
            Some(c) => {
                let why = c["message"].as_str().unwrap_or_default();
                refused(format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"), 0)
            }
            None => refused(format!("The disruption budget {name} needs {} healthy pods and has {} currently", number("desiredHealthy"), number("currentHealthy")), 0),
        });
    }
    let mut new = budget.clone();
    let observed = number("observedGeneration");
    if allowed == 1 {
        let why = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "", "observedGeneration": observed, "lastTransitionTime": now});
        set_condition(&mut new, why);
    }
    if let Some(status) = new.0.get_mut("status") {
        status["disruptionsAllowed"] = (allowed - 1).into();
        status["disruptedPods"][pod] = now.into();
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Object {
        Object(json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 2, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 3}}))
    }

    #[test]
    fn a_budget_gives_its_leave_once_for_each_disruption() {
        let once = taken(&budget(1), "p", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!((once.at(&["status", "disruptionsAllowed"]), once.at(&["status", "disruptedPods"])), (&json!(0), &json!({"p": "2026-01-01T00:00:00Z"})));
        assert_eq!(once.at(&["status", "conditions"])[0]["reason"], "InsufficientPods");
        let s = taken(&once, "q", "2026-01-01T00:00:00Z").unwrap_err();
        let cause = &s.details.as_ref().unwrap().causes[0];
        assert_eq!((s.code, s.message.as_str(), cause.reason.as_str()), (429, REFUSED, "DisruptionBudget"));
        assert_eq!(cause.message, "The disruption budget b needs 2 healthy pods and has 3 currently");
    }

    #[test]
    fn a_budget_whose_controller_lags_asks_to_come_back() {
        let mut b = budget(1);
        b.set_meta("generation", 3);
        let d = taken(&b, "p", "now").unwrap_err().details.unwrap();
        assert_eq!((d.retry_after_seconds, d.causes[0].message.as_str()), (10, "The disruption budget b is still being processed by the server."));
    }
}
