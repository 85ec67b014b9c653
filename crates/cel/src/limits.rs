//! Upstream's limits, in units of cost; one unit is about 50 ns there. Source: k8s.io/apiserver/pkg/apis/cel, apiextensions validation.

use crate::error::EvalError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One evaluation of one expression.
pub const PER_CALL_COST: u64 = 1_000_000;
/// All validation rules of one custom resource, or all expressions of one policy on one request.
pub const RUNTIME_COST_BUDGET: u64 = 10_000_000;
/// All match conditions of one webhook on one request.
pub const MATCH_CONDITIONS_COST_BUDGET: u64 = 2_500_000;
/// Estimated cost of one validation rule, times how often it may run.
pub const ESTIMATED_COST_PER_RULE: u64 = 10_000_000;
/// Estimated cost of all validation rules of one CustomResourceDefinition.
pub const ESTIMATED_COST_PER_CRD: u64 = 100_000_000;
/// Cost of all selectors of one device, in dynamic resource allocation.
pub const DEVICE_SELECTOR_COST: u64 = 1_000_000;
/// Longest device selector, in bytes.
pub const DEVICE_SELECTOR_BYTES: usize = 10 * 1024;

/// Steps of a comprehension between two looks at the caller's flag.
const STEPS_PER_CHECK: u32 = 100;
/// Items of a list and bytes of a text that an expression may make: costs alone do not bound them.
pub(crate) const MAX_ITEMS: usize = 1_000_000;
/// Items that `+` of lists may copy in one evaluation: to upstream, joining lists costs one whatever their length.
pub(crate) const MAX_COPIED_ITEMS: usize = 5_000_000;
pub(crate) const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;

/// Upstream's text where an estimate exceeds a limit; `what` is `estimated rule cost` or the schema's total.
pub fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let shown = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        // One digit would say 1.0x.
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!("{what} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)")
}

/// What evaluations may still cost, together and each.
#[derive(Clone, Debug)]
pub struct Budget {
    pub remaining: u64,
    pub per_call: u64,
    /// Cost of all evaluations so far.
    pub spent: u64,
    interrupt: Option<Arc<AtomicBool>>,
    steps: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new(RUNTIME_COST_BUDGET)
    }
}

impl Budget {
    /// A budget of all evaluations, each under [`PER_CALL_COST`].
    pub fn new(total: u64) -> Self {
        Budget { remaining: total, per_call: PER_CALL_COST, spent: 0, interrupt: None, steps: 0 }
    }
    pub fn per_call(mut self, limit: u64) -> Self {
        self.per_call = limit;
        self
    }
    /// Evaluations end with [`EvalError::Interrupted`] after the flag is set.
    pub fn interrupted_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = Some(flag);
        self
    }
    /// Counts a step of a comprehension.
    pub(crate) fn step(&mut self) -> Result<(), EvalError> {
        self.steps = self.steps.wrapping_add(1);
        let look = self.steps.is_multiple_of(STEPS_PER_CHECK);
        if look && self.interrupt.as_ref().is_some_and(|f| f.load(Ordering::Relaxed)) { Err(EvalError::Interrupted) } else { Ok(()) }
    }
    /// Takes a finished evaluation's cost off.
    pub(crate) fn settle(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        match self.remaining.checked_sub(cost) {
            Some(left) => {
                self.remaining = left;
                Ok(())
            }
            None => {
                self.remaining = 0;
                Err(EvalError::BudgetExhausted)
            }
        }
    }
}
