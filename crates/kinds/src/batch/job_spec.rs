//! The spec of a Job, alone or in a CronJob's template.

use crate::core::pod::template;
use crate::field::{Field, child_mut, default, default_pointer, domain_path, invalid_each, items_mut, non_negative, one_of};
use keles_api::{Path, Problem, ProblemKind, Problems, names};
use serde_json::Value;
use std::collections::BTreeSet;

const INDEXED_MAX: i64 = 100_000;
const LARGE_MAX: i64 = 10_000;
const RULES_MAX_COUNT: usize = 20;
const CONDITIONS_MAX_COUNT: usize = 20;
const INDEXES_MAX_BYTES: usize = 64 * 1024;
const MANAGER_MAX_BYTES: usize = 63;
const EXIT_CODES_MAX_COUNT: usize = 255;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const BACKOFF_LIMIT: i64 = 6;

/// Defaults of a Job; a CronJob's template gets those of its pods only.
pub fn set_defaults(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        default_pointer(spec, "completions", 1);
    }
    default_pointer(spec, "parallelism", 1);
    let per_index = !spec["backoffLimitPerIndex"].is_null();
    default_pointer(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { BACKOFF_LIMIT });
    default_pointer(spec, "completionMode", "NonIndexed");
    default_pointer(spec, "suspend", false);
    default_pointer(spec, "manualSelector", false);
    let has_policy = !spec["podFailurePolicy"].is_null();
    default_pointer(spec, "podReplacementPolicy", if has_policy { "Failed" } else { "TerminatingOrFailed" });
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            items_mut(rule, "onPodConditions").for_each(|c| default(c, "status", "True"));
        }
    }
    template::set_defaults(spec);
}

/// Defaults of the pods of a CronJob's Jobs.
pub fn set_template_defaults(job_template: &mut Value) {
    if let Some(spec) = child_mut(job_template, "spec") {
        if let Some(policy) = spec.get_mut("podFailurePolicy") {
            for rule in items_mut(policy, "rules") {
                items_mut(rule, "onPodConditions").for_each(|c| default(c, "status", "True"));
            }
        }
        template::set_defaults(spec);
    }
}

pub fn validate(spec: &Field, p: &mut Problems) {
    for name in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "backoffLimitPerIndex", "maxFailedIndexes"] {
        non_negative(p, spec, name);
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        p.required(&spec.at("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(by) = spec.opt_str("managedBy") {
        domain_path(&spec.get("managedBy"), p);
        if by.len() > MANAGER_MAX_BYTES {
            p.too_long(&spec.at("managedBy"), MANAGER_MAX_BYTES);
        }
    }
    completion_mode(spec, p);
    if spec.has("podFailurePolicy") {
        failure_policy(spec, p);
    }
    if spec.has("successPolicy") {
        success_policy(spec, p);
    }
    if let Some(policy) = spec.opt_str("podReplacementPolicy") {
        let allowed: &[&str] = if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        one_of(p, &spec.at("podReplacementPolicy"), policy, allowed);
    }
    let t = spec.get("template");
    template::validate(&t, p);
    restart_policy(&t.get("spec"), spec.has("podFailurePolicy"), p);
}

fn restart_policy(pod: &Field, failures_are_judged: bool, p: &mut Problems) {
    let (at, policy) = (pod.at("restartPolicy"), pod.str("restartPolicy"));
    match policy {
        "Always" | "" => p.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" | "Never" => {}
        other => p.not_supported(&at, other, &["OnFailure", "Never"]),
    }
    if failures_are_judged && policy == "OnFailure" {
        p.invalid(&at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn completion_mode(spec: &Field, p: &mut Problems) {
    let mode = spec.opt_str("completionMode");
    if let Some(mode) = mode {
        one_of(p, &spec.at("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == Some("Indexed") {
        indexed(spec, p);
    }
    if mode.is_none_or(|mode| mode == "NonIndexed") {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"].iter().filter(|n| spec.has(n)) {
            p.invalid(&spec.at(name), spec.int(name), "requires indexed completion mode");
        }
    }
}

fn indexed(spec: &Field, p: &mut Problems) {
    let (parallelism, failed) = (spec.int("parallelism"), spec.opt_int("maxFailedIndexes"));
    let at = |name: &str| spec.at(name);
    if !spec.has("completions") {
        p.required(&at("completions"), "when completion mode is Indexed");
    }
    if parallelism > INDEXED_MAX {
        p.invalid(&at("parallelism"), parallelism, format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed"));
    }
    if let (Some(completions), Some(n)) = (spec.opt_int("completions"), failed)
        && n > completions
    {
        p.invalid(&at("maxFailedIndexes"), n, "must be less than or equal to completions");
    }
    if let Some(n) = failed.filter(|n| *n > INDEXED_MAX) {
        p.invalid(&at("maxFailedIndexes"), n, format!("must be less than or equal to {INDEXED_MAX}"));
    }
    if spec.int("completions") > INDEXED_MAX && spec.has("backoffLimitPerIndex") {
        if failed.is_none() {
            p.required(&at("maxFailedIndexes"), format!("must be specified when completions is above {INDEXED_MAX}"));
        }
        if parallelism > LARGE_MAX {
            p.invalid(
                &at("parallelism"),
                parallelism,
                format!("must be less than or equal to {LARGE_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per index"),
            );
        }
        if let Some(n) = failed.filter(|n| *n > LARGE_MAX) {
            p.invalid(
                &at("maxFailedIndexes"),
                n,
                format!("must be less than or equal to {LARGE_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per index"),
            );
        }
    }
}

/// A problem of a whole rule, whose value upstream does not print.
fn without_value(p: &mut Problems, at: &Path, detail: &str) {
    p.push(Problem { kind: ProblemKind::Invalid, field: at.as_str().into(), value: None, detail: detail.into() });
}

fn failure_policy(spec: &Field, p: &mut Problems) {
    let pod = spec.get("template").get("spec");
    let containers: BTreeSet<&str> = ["containers", "initContainers"].iter().flat_map(|l| pod.list(l)).filter_map(|c| c["name"].as_str()).collect();
    let policy = spec.get("podFailurePolicy");
    let rules = policy.items("rules");
    if rules.len() > RULES_MAX_COUNT {
        p.too_many(&policy.at("rules"), rules.len(), RULES_MAX_COUNT);
    }
    for rule in rules {
        match rule.str("action") {
            "" => p.required(&rule.at("action"), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !spec.has("backoffLimitPerIndex") => p.invalid(&rule.at("action"), "FailIndex", "requires the backoffLimitPerIndex to be set"),
            action => one_of(p, &rule.at("action"), action, ACTIONS),
        }
        if rule.has("onExitCodes") {
            exit_codes(&rule.get("onExitCodes"), &containers, p);
        }
        let conditions = rule.items("onPodConditions");
        if conditions.len() > CONDITIONS_MAX_COUNT {
            p.too_many(&rule.at("onPodConditions"), conditions.len(), CONDITIONS_MAX_COUNT);
        }
        for condition in conditions {
            pod_condition(&condition, p);
        }
        match (rule.has("onExitCodes"), !rule.list("onPodConditions").is_empty()) {
            (true, true) => without_value(p, rule.path(), "specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => without_value(p, rule.path(), "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn exit_codes(codes: &Field, containers: &BTreeSet<&str>, p: &mut Problems) {
    match codes.str("operator") {
        "" => p.required(&codes.at("operator"), "valid values: [\"In\" \"NotIn\"]"),
        operator => one_of(p, &codes.at("operator"), operator, &["In", "NotIn"]),
    }
    if let Some(name) = codes.opt_str("containerName").filter(|n| !containers.contains(n)) {
        p.invalid(&codes.at("containerName"), name, "must be one of the container or initContainer names in the pod template");
    }
    let values = codes.items("values");
    match values.len() {
        0 => p.invalid(&codes.at("values"), codes.get("values").value().clone(), "at least one value is required"),
        n if n > EXIT_CODES_MAX_COUNT => p.too_many(&codes.at("values"), n, EXIT_CODES_MAX_COUNT),
        _ => {}
    }
    let (mut seen, numbers) = (BTreeSet::new(), values.iter().map(|v| v.value().as_i64().unwrap_or(0)).collect::<Vec<_>>());
    for (v, n) in values.iter().zip(&numbers) {
        if codes.str("operator") == "In" && *n == 0 {
            p.invalid(v.path(), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(n) {
            p.duplicate(v.path(), *n);
        }
    }
    if !numbers.is_sorted() {
        p.invalid(&codes.at("values"), codes.get("values").value().clone(), "must be ordered");
    }
}

fn pod_condition(condition: &Field, p: &mut Problems) {
    invalid_each(p, &condition.at("type"), condition.str("type"), names::qualified_name(condition.str("type")));
    match condition.str("status") {
        "" => p.required(&condition.at("status"), "valid values: [\"False\" \"True\" \"Unknown\"]"),
        status => one_of(p, &condition.at("status"), status, &["False", "True", "Unknown"]),
    }
}

fn success_policy(spec: &Field, p: &mut Problems) {
    let policy = spec.get("successPolicy");
    if spec.str("completionMode") != "Indexed" {
        p.invalid(policy.path(), policy.value().clone(), "requires indexed completion mode");
        return;
    }
    let rules = policy.items("rules");
    if rules.is_empty() {
        p.required(&policy.at("rules"), "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX_COUNT {
        p.too_many(&policy.at("rules"), rules.len(), RULES_MAX_COUNT);
    }
    let completions = spec.int("completions");
    for rule in rules {
        success_rule(&rule, completions, p);
    }
}

fn success_rule(rule: &Field, completions: i64, p: &mut Problems) {
    let (at, count) = (rule.at("succeededCount"), rule.opt_int("succeededCount"));
    if count.is_none() && !rule.has("succeededIndexes") {
        p.required(rule.path(), "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut indexes = None;
    if let Some(text) = rule.opt_str("succeededIndexes") {
        if text.len() > INDEXES_MAX_BYTES {
            p.too_long(&rule.at("succeededIndexes"), INDEXES_MAX_BYTES);
        }
        match count_indexes(text, completions) {
            Ok(n) => indexes = Some(n),
            Err(why) => p.invalid(&rule.at("succeededIndexes"), text, format!("error parsing succeededIndexes: {why}")),
        }
    }
    let Some(count) = count else { return };
    non_negative(p, rule, "succeededCount");
    if count > completions {
        p.invalid(&at, count, format!("must be less than or equal to {completions} (the number of specified completions)"));
    }
    let listed = if rule.has("succeededIndexes") { Some(indexes.unwrap_or(0)) } else { None };
    if let Some(n) = listed.filter(|n| count > *n) {
        p.invalid(&at, count, format!("must be less than or equal to {n} (the number of indexes in the specified succeededIndexes field)"));
    }
}

/// How many indexes `0,2-4` names; they grow and stay below the completions.
pub fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    if text.is_empty() {
        return Ok(0);
    }
    for part in text.split(',') {
        let number = |s: &str| s.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: \"{s}\""));
        let limits: Vec<&str> = part.split('-').collect();
        if limits.len() > 2 {
            return Err(format!("the fragment \"{part}\" violates the requirement that an index interval can have at most two parts separated by '-'"));
        }
        let first = number(limits[0])?;
        if last.is_some_and(|l| l >= first) {
            return Err(format!("non-increasing order, previous: {}, current: {first}", last.unwrap_or(0)));
        }
        if first >= completions {
            return Err(format!("too large index: \"{}\"", limits[0]));
        }
        let mut end = first;
        if let Some(text) = limits.get(1) {
            end = number(text)?;
            if first >= end {
                return Err(format!("non-increasing order, previous: {first}, current: {end}"));
            }
            if end >= completions {
                return Err(format!("too large index: \"{text}\""));
            }
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_grow_and_stay_below_the_completions() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert!(count_indexes("2,1", 5).is_err());
        assert!(count_indexes("0-5", 5).is_err());
        assert!(count_indexes("x", 5).is_err_and(|e| e.contains("cannot convert string to integer")));
    }
}
