//! `x-kubernetes-validations` of a schema: compiled, with what they may cost (KEP-2876).
//!
//! Entry points: [`compile`] at each schema with rules, [`Total::check`] once over the whole. What a rule may cost is its own estimate
//! times how often the schema may hold the value it is about.

use crate::apiextensions::internal;
use crate::field::Field;
use keles_api::{Path, Problems};
use keles_cel::limits::{ESTIMATED_COST_PER_CRD, ESTIMATED_COST_PER_RULE, exceeded};
use keles_cel::{Decl, Program, Type, uses};
use std::sync::Arc;

/// Rules that are named when all together cost too much.
const NAMED_MAX_COUNT: usize = 4;

/// How often the values of a schema may be there; `None` without a bound.
pub type Times = Option<u64>;

/// `times` of the items or values of a list or map.
pub fn times_of_items(times: Times, s: &Field) -> Times {
    let bound = match s.str("type") {
        "array" => s.opt_int("maxItems"),
        "object" => s.opt_int("maxProperties"),
        _ => None,
    };
    let bound = u64::try_from(bound?).ok()?;
    Some(times?.saturating_mul(bound))
}

/// What all rules of a schema may cost.
#[derive(Default)]
pub struct Total {
    cost: u64,
    most_expensive: Vec<(u64, Path)>,
}

impl Total {
    fn add(&mut self, at: Path, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
        self.most_expensive.push((cost, at));
        self.most_expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        self.most_expensive.truncate(NAMED_MAX_COUNT);
    }
    pub fn check(self, root: &Path, p: &mut Problems) {
        if self.cost <= ESTIMATED_COST_PER_CRD {
            return;
        }
        for (_, at) in &self.most_expensive {
            p.forbidden(at, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema");
        }
        p.forbidden(root, exceeded("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", self.cost, ESTIMATED_COST_PER_CRD));
    }
}

/// Compiles the rules of `s`. `uncorrelated`: the nearest list or map above whose old items cannot be told.
pub fn compile(s: &Field, is_root: bool, times: Times, uncorrelated: Option<&Path>, total: &mut Total, p: &mut Problems) {
    let rules = s.items("x-kubernetes-validations");
    if rules.is_empty() {
        return;
    }
    let Some(decl) = Decl::from_json_schema(s.value(), is_root) else {
        p.internal(&s.at("x-kubernetes-validations"), "internal error: failed to retrieve type information for x-kubernetes-validations");
        return;
    };
    let times = times.unwrap_or(decl.max_cardinality());
    for rule in rules.iter().filter(|r| !r.str("rule").trim().is_empty()) {
        one(rule, &decl, times, uncorrelated, total, p);
    }
}

fn one(rule: &Field, decl: &Arc<Decl>, times: u64, uncorrelated: Option<&Path>, total: &mut Total, p: &mut Problems) {
    let env = uses::validation_rule(decl, rule.bool("optionalOldSelf"));
    let at = rule.at("rule");
    let bad = |at: &Path, detail: String, p: &mut Problems| p.push(internal::invalid(at, &internal::rule(rule.value()), &detail));
    let mut cost = |program: &Program, at: &Path, what: &str, p: &mut Problems| {
        let cost = program.cost().max.saturating_mul(times);
        if cost > ESTIMATED_COST_PER_RULE {
            p.forbidden(at, exceeded(what, cost, ESTIMATED_COST_PER_RULE));
        }
        total.add(at.clone(), cost);
    };
    match env.compile(rule.str("rule")) {
        Err(issues) => bad(&at, format!("compilation failed: {issues}"), p),
        Ok(program) if program.result() != &Type::Bool => bad(&at, "cel expression must evaluate to a bool".into(), p),
        Ok(program) => {
            cost(&program, &at, "estimated rule cost", p);
            transition(rule, &program, uncorrelated, p);
        }
    }
    let (text, at) = (rule.str("messageExpression"), rule.at("messageExpression"));
    if text.trim().is_empty() {
        return;
    }
    match env.compile(text) {
        Err(issues) => bad(&at, format!("messageExpression compilation failed: {issues}"), p),
        Ok(program) if program.result() != &Type::String => bad(&at, "messageExpression must evaluate to a string".into(), p),
        Ok(program) => cost(&program, &at, "estimated messageExpression cost", p),
    }
}

/// A rule over the old value needs one that can be told.
fn transition(rule: &Field, program: &Program, uncorrelated: Option<&Path>, p: &mut Problems) {
    if program.uses("oldSelf") {
        if let Some(above) = uncorrelated {
            p.invalid(&rule.at("rule"), rule.str("rule"), format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {above}"));
        }
    } else if let Some(set) = rule.opt_bool("optionalOldSelf") {
        p.invalid(&rule.at("optionalOldSelf"), set, "may not be set if oldSelf is not used in rule");
    }
}
