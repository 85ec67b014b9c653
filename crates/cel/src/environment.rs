//! Environments of names, programs compiled in them, and activations that give the names values.

use crate::ast::Expr;
use crate::check::{self, Facts, Names};
use crate::cost::{self, Estimate};
use crate::error::{EvalError, Result};
use crate::eval::{Evaluator, fits};
use crate::limits::Budget;
use crate::parser;
use crate::source::{Issues, Source};
use crate::types::{Decl, Type};
use crate::value::Value;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// The names an expression may use, besides the functions and types that every one may.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: HashMap<Arc<str>, Arc<Decl>>,
    constructors: bool,
    extensions: bool,
}

impl Environment {
    /// No variables.
    pub fn new() -> Self {
        Environment::default()
    }
    /// A variable without bounds on its size.
    pub fn variable(self, name: &str, ty: Type) -> Self {
        self.declare(name, Arc::new(Decl::from(ty)))
    }
    /// A variable whose declaration bounds what expressions cost.
    pub fn declare(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self.variables.insert(name.into(), decl);
        self
    }
    /// `Object{…}` and `JSONPatch{…}`: what mutating policies construct.
    pub fn with_constructors(mut self) -> Self {
        self.constructors = true;
        self
    }
    /// `cel.bind`, the math library and `reverse`, which v1.36's base environment leaves out.
    pub fn with_extensions(mut self) -> Self {
        self.extensions = true;
        self
    }

    /// Parses, checks and estimates. The error displays as upstream's text behind `compilation failed: `.
    pub fn compile(&self, text: &str) -> std::result::Result<Program, Issues> {
        let source = Source::new(text);
        let mut tree = parser::parse(&source, self.extensions)?;
        let names = Names { variables: &self.variables, constructors: self.constructors, extensions: self.extensions };
        let (result, facts) = check::check(&mut tree, &source, &names).map_err(|issues| source.failed(issues))?;
        let estimate = cost::estimate(&tree, &facts, &self.variables);
        Ok(Program(Arc::new(Inner { tree, facts, result, estimate })))
    }
}

/// Runs a step of a recursion over an expression, on a new piece of stack where the caller's is nearly used up.
pub(crate) fn with_room<T>(step: impl FnOnce() -> T) -> T {
    const LEFT_BYTES: usize = 128 << 10;
    const PIECE_BYTES: usize = 1 << 20;
    stacker::maybe_grow(LEFT_BYTES, PIECE_BYTES, step)
}

#[derive(Debug)]
pub(crate) struct Inner {
    tree: Expr,
    pub facts: Facts,
    result: Type,
    estimate: Estimate,
}

/// A compiled expression: cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct Program(Arc<Inner>);

impl Program {
    /// The type of the result.
    pub fn result(&self) -> &Type {
        &self.0.result
    }
    /// Whether the result is of a type, as far as is known before evaluation.
    pub fn returns(&self, ty: &Type) -> bool {
        fits(ty, &self.0.result)
    }
    /// The range that evaluations cost lies in, by the bounds of the declarations.
    pub fn cost(&self) -> Estimate {
        self.0.estimate
    }
    /// Whether a variable is read: `oldSelf` makes a rule a transition rule.
    pub fn uses(&self, variable: &str) -> bool {
        self.0.facts.variables.contains(variable)
    }
    /// Evaluates, and takes the cost off the budget.
    pub fn eval<'a>(&self, activation: &Activation<'a>, budget: &mut Budget) -> Result<Value<'a>> {
        let mut evaluator = Evaluator::new(&self.0, activation, budget);
        let result = evaluator.eval(&self.0.tree);
        let cost = evaluator.cost;
        budget.settle(cost)?;
        result
    }
}

/// Values of variables during evaluations. Not shared between threads: it keeps what lazy variables gave.
#[derive(Debug, Default)]
pub struct Activation<'a> {
    values: HashMap<String, Value<'a>>,
    lazy: Vec<(String, Program)>,
    found: RefCell<HashMap<String, Result<Value<'a>>>>,
}

impl<'a> Activation<'a> {
    pub fn new() -> Self {
        Activation::default()
    }
    pub fn bind(mut self, name: &str, value: Value<'a>) -> Self {
        self.values.insert(name.into(), value);
        self
    }
    /// Changes a variable; what lazy variables gave before is forgotten.
    pub fn set(&mut self, name: &str, value: Value<'a>) {
        self.values.insert(name.into(), value);
        self.found.get_mut().clear();
    }
    /// The `variables` variable of policies: each is evaluated at most once, when first read. A variable may use those before it.
    pub fn variables(mut self, programs: Vec<(String, Program)>) -> Self {
        self.lazy = programs;
        self.bind("variables", Value::Variables)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Value<'a>> {
        self.values.get(name).cloned()
    }
    pub(crate) fn has_lazy(&self, name: &str) -> bool {
        self.lazy.iter().any(|(n, _)| n == name)
    }
    pub(crate) fn lazy(&self, name: &str, budget: &mut Budget) -> Result<Value<'a>> {
        if let Some(found) = self.found.borrow().get(name) {
            return found.clone();
        }
        let Some((_, program)) = self.lazy.iter().find(|(n, _)| n == name) else { return Err(EvalError::new(format!("no such key: {name}"))) };
        // A variable that comes back to itself finds this; the checker lets none through whose environment was built in order.
        self.found.borrow_mut().insert(name.into(), Err(EvalError::new(format!("variable {name} depends on itself"))));
        let value = program.eval(self, budget).map_err(|e| match e {
            EvalError::Runtime(text) => EvalError::new(format!("composited variable \"{name}\" fails to evaluate: {text}")),
            fatal => fatal,
        });
        self.found.borrow_mut().insert(name.into(), value.clone());
        value
    }
}
