//! The status of a Job as its controller may write it: how it may change, and what must hold once the Job is finished.
//!
//! Controllers besides ours may own a Job (`spec.managedBy`), so the API server holds all of them to this. A rule is only asked when what it
//! is about changed, so that other updates of an already odd status go through.

use crate::batch::job_spec::count_indexes;
use crate::field::{Field, non_negative, same};
use keles_api::{Path, Problem, Problems, problems::ProblemKind};
use std::collections::BTreeSet;

const SUCCESS: &str = "SuccessCriteriaMet";

fn is_true(status: &Field, kind: &str) -> bool {
    status.list("conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
}

fn finished(status: &Field) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

fn time(status: &Field, name: &str) -> Option<jiff::Timestamp> {
    status.str(name).parse().ok()
}

/// A problem of the conditions, whose value upstream does not print.
fn conditions(p: &mut Problems, status: &Field, detail: impl Into<String>) {
    p.push(Problem { kind: ProblemKind::Invalid, field: status.at("conditions").as_str().into(), value: None, detail: detail.into() });
}

pub fn validate(new: &Field, old: &Field, spec: &Field, p: &mut Problems) {
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(p, new, name);
    }
    uncounted(new, p);
    let changed = |name: &str| !same(new.get(name).value(), old.get(name).value());
    let turned = |kind: &str| is_true(new, kind) != is_true(old, kind);
    announced(new, &changed, &turned, p);
    together(new, &turned, p);
    times(new, &changed, turned("Complete"), p);
    if finished(new) {
        at_the_end(new, &changed, finished(old), p);
    }
    indexes(new, spec, &changed, p);
    success(new, spec, p);
    transitions(new, old, spec, p);
}

/// Uids of pods that ended and are not counted yet, each once.
fn uncounted(status: &Field, p: &mut Problems) {
    let (pods, mut seen) = (status.get("uncountedTerminatedPods"), BTreeSet::new());
    for uid in ["succeeded", "failed"].iter().flat_map(|list| pods.items(list)) {
        if uid.text().is_empty() {
            p.invalid(uid.path(), "", "must not be empty");
        } else if !seen.insert(uid.text()) {
            p.duplicate(uid.path(), uid.text());
        }
    }
}

/// An end is announced before it is told.
fn announced(status: &Field, changed: &dyn Fn(&str) -> bool, turned: &dyn Fn(&str) -> bool, p: &mut Problems) {
    if (turned("Failed") || changed("failedIndexes")) && is_true(status, "Failed") && !is_true(status, "FailureTarget") {
        conditions(p, status, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if (turned("Complete") || turned(SUCCESS)) && is_true(status, "Complete") && !is_true(status, SUCCESS) {
        conditions(p, status, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if (changed("ready") || changed("active")) && status.int("ready") > status.int("active") {
        p.invalid(&status.at("ready"), status.int("ready"), "cannot set more ready pods than active");
    }
}

fn together(status: &Field, turned: &dyn Fn(&str) -> bool, p: &mut Problems) {
    let (complete, failed, target) = (is_true(status, "Complete"), is_true(status, "Failed"), is_true(status, "FailureTarget"));
    if (turned("Complete") || turned("Failed")) && complete && failed {
        conditions(p, status, "cannot set Complete=True and Failed=true conditions");
    }
    if (turned("Complete") || turned("FailureTarget")) && complete && target {
        conditions(p, status, "cannot set Complete=True and FailureTarget=true conditions");
    }
}

fn times(status: &Field, changed: &dyn Fn(&str) -> bool, completed: bool, p: &mut Problems) {
    let (at, complete) = (status.at("completionTime"), is_true(status, "Complete"));
    let shown = || status.get("completionTime").value().clone();
    if completed || changed("completionTime") {
        match (status.has("completionTime"), complete) {
            (true, false) => p.invalid(&at, shown(), "cannot set completionTime when there is no Complete=True condition"),
            (false, true) => p.required(&at, "completionTime is required for Complete jobs"),
            _ => {}
        }
    }
    let backwards = matches!((time(status, "startTime"), time(status, "completionTime")), (Some(start), Some(end)) if end < start);
    if (changed("startTime") || changed("completionTime")) && backwards {
        p.invalid(&at, shown(), "completionTime cannot be set before startTime");
    }
}

/// What a finished Job has no more, and must have.
fn at_the_end(status: &Field, changed: &dyn Fn(&str) -> bool, before: bool, p: &mut Problems) {
    let ask = |name: &str| !before || changed(name);
    if ask("active") && status.int("active") > 0 {
        p.invalid(&status.at("active"), status.int("active"), "active>0 is invalid for finished job");
    }
    if ask("startTime") && !status.has("startTime") {
        p.required(&status.at("startTime"), "startTime is required for finished job");
    }
    let pods = status.get("uncountedTerminatedPods");
    if ask("uncountedTerminatedPods") && !(pods.list("succeeded").is_empty() && pods.list("failed").is_empty()) {
        p.invalid(pods.path(), pods.value().clone(), "uncountedTerminatedPods needs to be empty for finished job");
    }
    if ask("terminating") && status.int("terminating") > 0 {
        p.invalid(&status.at("terminating"), status.int("terminating"), "terminating>0 is invalid for finished job");
    }
}

fn indexes(status: &Field, spec: &Field, changed: &dyn Fn(&str) -> bool, p: &mut Problems) {
    let (done, failed) = (status.str("completedIndexes"), status.opt_str("failedIndexes"));
    let completions = spec.opt_int("completions");
    if changed("completedIndexes") {
        let at = status.at("completedIndexes");
        checked(p, &at, done, completions, "completedIndexes");
        if !done.is_empty() && spec.str("completionMode") != "Indexed" {
            p.invalid(&at, done, "cannot set non-empty completedIndexes when non-indexed completion mode");
        }
    }
    let Some(failed) = failed else { return };
    let at = status.at("failedIndexes");
    if changed("failedIndexes") {
        match spec.has("backoffLimitPerIndex") {
            true => checked(p, &at, failed, completions, "failedIndexes"),
            false => p.invalid(&at, failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"),
        }
    }
    if (changed("failedIndexes") || changed("completedIndexes"))
        && completions.is_some()
        && let Some(both) = overlap(done, failed)
    {
        p.invalid(&at, failed, format!("failedIndexes and completedIndexes overlap at index: {both}"));
    }
}

fn checked(p: &mut Problems, at: &Path, text: &str, completions: Option<i64>, name: &str) {
    if let Some(Err(why)) = completions.map(|n| count_indexes(text, n)) {
        p.invalid(at, text, format!("error parsing {name}: {why}"));
    }
}

/// The first index that both texts name; `None` too when one cannot be read.
fn overlap(a: &str, b: &str) -> Option<i64> {
    let intervals = |text: &str| -> Option<Vec<(i64, i64)>> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                Some((first.parse().ok()?, last.parse().ok()?))
            })
            .collect()
    };
    let (a, b) = (intervals(a)?, intervals(b)?);
    a.iter().flat_map(|x| b.iter().map(move |y| (x.0.max(y.0), x.1.min(y.1)))).filter(|(first, last)| first <= last).map(|(first, _)| first).min()
}

fn success(status: &Field, spec: &Field, p: &mut Problems) {
    let met = is_true(status, SUCCESS);
    if met && is_true(status, "Failed") {
        conditions(p, status, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && is_true(status, "FailureTarget") {
        conditions(p, status, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if spec.has("successPolicy") && !met && is_true(status, "Complete") {
        conditions(p, status, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
}

fn transitions(new: &Field, old: &Field, spec: &Field, p: &mut Problems) {
    for kind in ["Failed", "Complete", "FailureTarget"].iter().filter(|k| is_true(old, k) && !is_true(new, k)) {
        conditions(p, new, format!("cannot disable the terminal {kind}=True condition"));
    }
    // An Indexed Job whose completions follow its parallelism may be scaled down.
    let elastic = spec.str("completionMode") == "Indexed" && spec.get("completions").value() == spec.get("parallelism").value();
    for name in ["failed", "succeeded"].iter().filter(|n| new.int(n) < old.int(n) && !(elastic && **n == "succeeded")) {
        p.invalid(&new.at(name), new.int(name), format!("cannot decrease the {name} counter"));
    }
    let other = |name: &str| old.has(name) && time(new, name) != time(old, name);
    if new.has("completionTime") && other("completionTime") {
        p.invalid(&new.at("completionTime"), new.get("completionTime").value().clone(), "completionTime cannot be mutated");
    }
    if other("startTime") && !spec.bool("suspend") {
        p.required(&new.at("startTime"), "startTime cannot be removed for unsuspended job");
    }
    if is_true(old, SUCCESS) && !is_true(new, SUCCESS) {
        conditions(p, new, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is_true(old, "Complete") && !is_true(old, SUCCESS) && is_true(new, SUCCESS) {
        conditions(p, new, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn said(new: Value, old: Value, spec: Value) -> Vec<String> {
        let mut p = Problems::new();
        let at = || Path::new("status");
        validate(&Field::new(&new, at()), &Field::new(&old, at()), &Field::new(&spec, Path::new("spec")), &mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_job_ends_in_good_order() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let old = json!({"startTime": "2026-01-01T00:00:00Z", "active": 1});
        let good = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z", "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]});
        assert!(said(good.clone(), old.clone(), json!({})).is_empty());
        let bad = json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 2, "conditions": [condition("Complete")]});
        assert_eq!(
            said(bad, old.clone(), json!({})),
            [
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.ready: Invalid value: 2: cannot set more ready pods than active",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.active: Invalid value: 1: active>0 is invalid for finished job"
            ]
        );
        assert!(said(old, good, json!({})).contains(&"status.conditions: Invalid value: cannot disable the terminal Complete=True condition".to_owned()));
    }

    #[test]
    fn completed_and_failed_indexes_do_not_overlap() {
        let spec = json!({"completionMode": "Indexed", "completions": 9, "parallelism": 1, "backoffLimitPerIndex": 1});
        assert_eq!(overlap("0-3,5", "4,5-6"), Some(5));
        assert!(said(json!({"completedIndexes": "0-3", "failedIndexes": "4"}), json!({}), spec.clone()).is_empty());
        assert_eq!(said(json!({"completedIndexes": "0-3", "failedIndexes": "2"}), json!({}), spec).len(), 1);
    }
}
