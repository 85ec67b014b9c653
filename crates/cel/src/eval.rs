//! The evaluator: walks the checked tree, counts what cel-go counts, and stops when the count passes the limit.
//!
//! `||`, `&&` and the loop conditions of `all` and `exists` absorb errors; every other node passes the first one on. Values of errors
//! can stand in an accumulator, so that a later element may still decide. Costs: cel-go `interpreter/runtimecost.go` and upstream's
//! library costs.

use crate::ast::{Expr, Fold, Kind, Literal, op};
use crate::check::Facts;
use crate::cost::{AUTHORIZATION_COST, LIST_COST, MAP_COST, REGEX_FACTOR, STRUCT_COST, TEXT_FACTOR, is_binding, scaled};
use crate::environment::{Activation, Inner, with_room};
use crate::error::{EvalError, Result};
use crate::library::{self, standard};
use crate::limits::{Budget, MAX_COPIED_ITEMS, MAX_ITEMS, MAX_TEXT_BYTES};
use crate::types::Type;
use crate::value::{Key, List, Map, Struct, Text, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) struct Evaluator<'p, 'a, 'b> {
    pub program: &'p Inner,
    pub activation: &'b Activation<'a>,
    pub budget: &'b mut Budget,
    locals: Vec<Local<'p, 'a>>,
    /// Of this evaluation.
    pub cost: u64,
    copied: usize,
}

/// A variable of a comprehension.
struct Local<'p, 'a> {
    name: &'p str,
    value: Result<Value<'a>>,
    /// An accumulator in its loop step: the only reader takes it, so that appending need not copy.
    taken: bool,
}

impl<'p, 'a, 'b> Evaluator<'p, 'a, 'b> {
    pub fn new(program: &'p Inner, activation: &'b Activation<'a>, budget: &'b mut Budget) -> Self {
        Evaluator { program, activation, budget, locals: Vec::new(), cost: 0, copied: 0 }
    }

    fn facts(&self) -> &'p Facts {
        &self.program.facts
    }

    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.budget.per_call { Err(EvalError::CostExceeded) } else { Ok(()) }
    }

    pub fn eval(&mut self, e: &'p Expr) -> Result<Value<'a>> {
        with_room(|| self.node(e))
    }

    fn node(&mut self, e: &'p Expr) -> Result<Value<'a>> {
        match &e.kind {
            Kind::Error => Err(EvalError::no_overload()),
            Kind::Const(l) => Ok(literal(l)),
            Kind::TypeName(name) => Ok(Value::Type(name.clone())),
            Kind::Ident(name) => {
                self.charge(1)?;
                self.variable(name)
            }
            Kind::Select { operand, field, test: true } => {
                let of = self.eval(operand)?;
                self.has(&of, field)
            }
            Kind::Select { operand, field, .. } => {
                let of = self.eval(operand)?;
                self.charge(if is_attribute(operand) { 1 } else { 2 })?;
                self.select(&of, field)
            }
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(items) => {
                let mut made = Vec::with_capacity(items.len());
                for i in items {
                    let v = self.eval(&i.value)?;
                    made.extend(entry(v, i.optional)?);
                }
                if !is_constant(e) {
                    self.charge(LIST_COST)?;
                }
                Ok(Value::list(made))
            }
            Kind::Map(entries) => {
                let mut made = BTreeMap::new();
                for i in entries {
                    let k = self.eval(&i.key)?;
                    let v = self.eval(&i.value)?;
                    let Some(v) = entry(v, i.optional)? else { continue };
                    let Some(key) = Key::of(&k).filter(|_| !matches!(k, Value::Double(_))) else {
                        return Err(EvalError::new(format!("unsupported key type: {}", k.type_name())));
                    };
                    if made.insert(key, v).is_some() {
                        return Err(EvalError::new(format!("Failed with repeated key: {}", standard::show(&k))));
                    }
                }
                if !is_constant(e) {
                    self.charge(MAP_COST)?;
                }
                Ok(Value::Map(Map::Made(Arc::new(made))))
            }
            Kind::Struct { name, fields } => {
                let mut made = BTreeMap::new();
                for f in fields {
                    let v = self.eval(&f.value)?;
                    let Some(v) = entry(v, f.optional)? else { continue };
                    if &**name == "JSONPatch" && &*f.name != "value" && v.as_str().is_none() {
                        return Err(EvalError::new(format!("unexpected type {} for JSONPatchType '{}' field", v.type_name(), f.name)));
                    }
                    made.insert(f.name.clone(), v);
                }
                self.charge(STRUCT_COST)?;
                Ok(Value::Struct(Arc::new(Struct { ty: name.clone(), fields: made })))
            }
            Kind::Fold(fold) if is_binding(fold) => self.binding(fold),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn variable(&mut self, name: &str) -> Result<Value<'a>> {
        if let Some(l) = self.locals.iter_mut().rev().find(|l| l.name == name) {
            return if l.taken { std::mem::replace(&mut l.value, Ok(Value::Null)) } else { l.value.clone() };
        }
        self.activation.get(name).ok_or_else(|| EvalError::new(format!("no such attribute(s): {name}")))
    }

    fn has(&mut self, of: &Value<'a>, field: &str) -> Result<Value<'a>> {
        Ok(match of {
            Value::Variables => self.activation.has_lazy(field).into(),
            Value::Map(m) => m.field(field).is_some().into(),
            Value::Struct(s) => s.fields.contains_key(field).into(),
            Value::Optional(Some(v)) => return self.has(&v.clone(), field),
            _ => false.into(),
        })
    }

    fn select(&mut self, of: &Value<'a>, field: &str) -> Result<Value<'a>> {
        let missing = || EvalError::new(format!("no such key: {field}"));
        match of {
            Value::Variables => self.lazy(field),
            Value::Map(m) => m.field(field).ok_or_else(missing),
            Value::Struct(s) => s.fields.get(field).cloned().ok_or_else(missing),
            Value::Optional(None) => Ok(Value::NONE),
            Value::Optional(Some(v)) => self.select_optional(v, field),
            Value::Authz(_) | Value::Quantity(_) | Value::Ip(_) | Value::Cidr(_) | Value::Url(_) => Err(EvalError::no_overload()),
            _ => Err(missing()),
        }
    }

    fn select_optional(&mut self, of: &Value<'a>, field: &str) -> Result<Value<'a>> {
        match of {
            Value::Optional(None) => Ok(Value::NONE),
            Value::Optional(Some(v)) => self.select_optional(&v.clone(), field),
            Value::Map(m) => Ok(m.field(field).map_or(Value::NONE, Value::some)),
            Value::Struct(s) => Ok(s.fields.get(field).cloned().map_or(Value::NONE, Value::some)),
            Value::Variables if self.activation.has_lazy(field) => self.lazy(field).map(Value::some),
            _ => Ok(Value::NONE),
        }
    }

    /// A variable that is evaluated when first read; its cost is the budget's, under a call limit of its own.
    fn lazy(&mut self, name: &str) -> Result<Value<'a>> {
        self.activation.lazy(name, self.budget)
    }

    fn index(&mut self, args: &'p [Expr], optional: bool) -> Result<Value<'a>> {
        let of = self.eval(&args[0])?;
        let before = self.cost;
        let by = self.eval(&args[1])?;
        // An index that is a path of names is part of the path: only its selections count.
        if is_attribute(&args[1]) && self.cost > before {
            self.cost -= 1;
        }
        self.charge(if is_attribute(&args[0]) { 1 } else { 2 })?;
        let lenient = |of: &Value<'a>| match (of, &by) {
            (Value::List(l), Value::Int(i)) => Ok(usize::try_from(*i).ok().and_then(|n| l.get(n)).map_or(Value::NONE, Value::some)),
            (Value::Map(m), _) => Ok(m.get(&by).map_or(Value::NONE, Value::some)),
            (Value::Optional(None), _) => Ok(Value::NONE),
            (other, _) => standard::index(other, &by).map(Value::some),
        };
        match &of {
            Value::Optional(None) => Ok(Value::NONE),
            Value::Optional(Some(v)) => lenient(v),
            Value::Variables => match &by {
                Value::String(name) => self.lazy(name),
                _ => Err(EvalError::no_overload()),
            },
            _ if optional => lenient(&of),
            _ => standard::index(&of, &by),
        }
    }

    fn call(&mut self, e: &'p Expr, function: &str, target: Option<&'p Expr>, args: &'p [Expr]) -> Result<Value<'a>> {
        match function {
            op::AND => return self.logical(args, false),
            op::OR => return self.logical(args, true),
            op::CONDITIONAL => {
                return match self.eval(&args[0])? {
                    Value::Bool(true) => self.eval(&args[1]),
                    Value::Bool(false) => self.eval(&args[2]),
                    _ => Err(EvalError::no_overload()),
                };
            }
            op::NOT_STRICTLY_FALSE => {
                let decided = match self.eval(&args[0]) {
                    Err(e) if e.is_fatal() => return Err(e),
                    Ok(Value::Bool(b)) => b,
                    _ => true,
                };
                self.charge(1)?;
                return Ok(decided.into());
            }
            op::INDEX => return self.index(args, false),
            op::OPT_INDEX => return self.index(args, true),
            op::OPT_SELECT => {
                let of = self.eval(&args[0])?;
                self.charge(1)?;
                let Kind::Const(Literal::String(field)) = &args[1].kind else { return Err(EvalError::no_overload()) };
                return self.select_optional(&of, field);
            }
            "or" | "orValue" if args.len() == 1 => {
                if let Some(t) = target {
                    return match self.eval(t)? {
                        Value::Optional(Some(v)) => Ok(if function == "or" { Value::Optional(Some(v)) } else { (*v).clone() }),
                        Value::Optional(None) => self.eval(&args[0]),
                        _ => Err(EvalError::no_overload()),
                    };
                }
            }
            op::ADD => {
                let left = self.eval(&args[0])?;
                let right = self.eval(&args[1])?;
                return self.add(e, left, right);
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for a in target.into_iter().chain(args) {
            values.push(self.eval(a)?);
        }
        let Some(f) = library::function(function, true) else { return Err(EvalError::new(format!("unbound function: {function}"))) };
        self.guard(function, &values)?;
        let result = f.run(&values);
        if !is_free(function, args) {
            let cost = call_cost(function, self.facts().overloads(e), &values, result.as_ref().ok());
            self.charge(cost)?;
        }
        result
    }

    /// Refuses results that would take far more memory than their cost says.
    fn guard(&self, function: &str, values: &[Value<'a>]) -> Result<()> {
        if let ("lists.range", [Value::Int(n)]) = (function, values)
            && (MAX_ITEMS as i64..=10_000_000).contains(n)
        {
            return Err(EvalError::CostExceeded);
        }
        // Comparing all with all must not start when its cost cannot be paid.
        if let ("distinct" | "sort", [Value::List(l)]) = (function, values)
            && (l.len() as u64).saturating_mul(l.len() as u64) > self.budget.per_call
        {
            return Err(EvalError::CostExceeded);
        }
        let size = match (function, values) {
            ("replace", [Value::String(s), Value::String(old), Value::String(new), ..]) if new.len() > old.len() => {
                s.len().saturating_add(s.matches(&**old).count().saturating_mul(new.len()))
            }
            ("join", [Value::List(l), rest @ ..]) => {
                let separator = rest.first().and_then(Value::as_str).map_or(0, str::len);
                l.iter().map(|v| v.as_str().map_or(0, str::len)).fold(0usize, |n, len| n.saturating_add(len).saturating_add(separator))
            }
            ("format", [Value::String(s), Value::List(l)]) => text_size(&Value::List(l.clone()), 0).saturating_add(s.len()),
            _ => 0,
        };
        if size > MAX_TEXT_BYTES { Err(EvalError::CostExceeded) } else { Ok(()) }
    }

    /// `+`; the left side's list is extended in place where it is nobody else's.
    fn add(&mut self, e: &'p Expr, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>> {
        if let (Value::List(a), Value::List(b)) = (&left, &right) {
            let own = matches!(a, List::Made(items) if Arc::strong_count(items) == 1);
            self.copied += b.len() + if own { 0 } else { a.len() };
            if a.len() + b.len() > MAX_ITEMS || self.copied > MAX_COPIED_ITEMS {
                return Err(EvalError::CostExceeded);
            }
        }
        let overloads = self.facts().overloads(e);
        let cost = match overloads {
            ["add_string" | "add_bytes"] => scaled(left.size().unwrap_or(1) + right.size().unwrap_or(1), TEXT_FACTOR),
            _ => 1,
        };
        // Texts are bounded by their length whatever the types said before.
        let bytes = |v: &Value<'_>| match v {
            Value::String(s) => s.len(),
            Value::Bytes(b) => b.len(),
            _ => 0,
        };
        if bytes(&left) + bytes(&right) > MAX_TEXT_BYTES {
            return Err(EvalError::CostExceeded);
        }
        let result = standard::add(left, &right);
        self.charge(cost)?;
        result
    }

    /// `&&` and `||`: one side that decides wins over an error of the other.
    fn logical(&mut self, args: &'p [Expr], decides: bool) -> Result<Value<'a>> {
        let mut problem = None;
        for a in args {
            match self.eval(a) {
                Ok(Value::Bool(b)) if b == decides => return Ok(b.into()),
                Ok(Value::Bool(_)) => {}
                Err(e) if e.is_fatal() => return Err(e),
                Err(e) => problem = problem.or(Some(e)),
                Ok(_) => problem = problem.or(Some(EvalError::no_overload())),
            }
        }
        problem.map_or(Ok((!decides).into()), Err)
    }

    fn binding(&mut self, fold: &'p Fold) -> Result<Value<'a>> {
        let value = self.eval(&fold.init);
        if let Err(e) = &value
            && e.is_fatal()
        {
            return value;
        }
        self.locals.push(Local { name: &fold.accu, value, taken: false });
        let result = self.eval(&fold.result);
        self.locals.pop();
        result
    }

    fn fold(&mut self, fold: &'p Fold) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let accu = self.locals.len();
        self.locals.push(Local { name: &fold.accu, value: Ok(init), taken: false });
        let looped = self.steps(fold, &range, accu);
        self.locals.truncate(accu + 1);
        let result = match looped {
            Ok(()) => self.eval(&fold.result),
            Err(e) => Err(e),
        };
        self.locals.truncate(accu);
        result
    }

    fn steps(&mut self, fold: &'p Fold, range: &Value<'a>, accu: usize) -> Result<()> {
        match (range, &fold.var2) {
            (Value::List(l), None) => {
                for v in l.iter() {
                    if !self.step(fold, accu, v, None)? {
                        break;
                    }
                }
            }
            (Value::List(l), Some(_)) => {
                for (i, v) in l.iter().enumerate() {
                    if !self.step(fold, accu, Value::Int(i as i64), Some(v))? {
                        break;
                    }
                }
            }
            (Value::Map(m), two) => {
                for k in m.keys() {
                    let value = if two.is_some() { m.get(&k) } else { None };
                    if !self.step(fold, accu, k, value)? {
                        break;
                    }
                }
            }
            (Value::Optional(_), _) => return Err(EvalError::no_overload()),
            (other, _) => return Err(EvalError::new(format!("got '{}', expected iterable type", other.type_name()))),
        }
        Ok(())
    }

    /// One element; whether the loop goes on.
    fn step(&mut self, fold: &'p Fold, accu: usize, first: Value<'a>, second: Option<Value<'a>>) -> Result<bool> {
        self.budget.step()?;
        let before = self.locals.len();
        self.locals.push(Local { name: &fold.var, value: Ok(first), taken: false });
        if let (Some(var2), Some(v)) = (&fold.var2, second) {
            self.locals.push(Local { name: var2, value: Ok(v), taken: false });
        }
        let goes_on = self.eval(&fold.condition);
        let on = match goes_on {
            Ok(Value::Bool(false)) => false,
            Err(e) => return Err(e),
            _ => true,
        };
        if on {
            self.locals[accu].taken = true;
            let next = self.eval(&fold.step);
            self.locals[accu].taken = false;
            // Only the quantifiers go on past an error: theirs may be absorbed.
            let absorbs = matches!(&fold.init.kind, Kind::Const(Literal::Bool(_)));
            match next {
                Err(e) if e.is_fatal() || !absorbs => return Err(e),
                next => self.locals[accu].value = next,
            }
        }
        self.locals.truncate(before);
        Ok(on)
    }
}

fn literal<'a>(l: &Literal) -> Value<'a> {
    match l {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::String(Text::Shared(s.clone())),
        Literal::Bytes(b) => Value::Bytes(b.clone()),
    }
}

/// What an entry adds: an optional one may add nothing.
fn entry<'a>(v: Value<'a>, optional: bool) -> Result<Option<Value<'a>>> {
    match v {
        Value::Optional(None) if optional => Ok(None),
        Value::Optional(Some(inner)) if optional => Ok(Some((*inner).clone())),
        other if optional => Err(EvalError::new(format!("cannot initialize optional entry from non-optional value {}", standard::show(&other)))),
        other => Ok(Some(other)),
    }
}

/// A path of names: cel-go resolves it as one attribute, whose cost is one and one for each step.
fn is_attribute(e: &Expr) -> bool {
    match &e.kind {
        Kind::Ident(_) | Kind::Select { test: false, .. } => true,
        Kind::Call { function, .. } => matches!(&**function, op::INDEX | op::OPT_INDEX | op::OPT_SELECT | op::CONDITIONAL),
        _ => false,
    }
}

/// Lists and maps of constants are made once in cel-go, and cost nothing.
fn is_constant(e: &Expr) -> bool {
    match &e.kind {
        Kind::Const(_) => true,
        Kind::List(items) => items.iter().all(|i| !i.optional && is_constant(&i.value)),
        Kind::Map(entries) => entries.iter().all(|i| !i.optional && is_constant(&i.key) && is_constant(&i.value)),
        _ => false,
    }
}

/// Conversions of constants, and looking into a constant list.
fn is_free(function: &str, args: &[Expr]) -> bool {
    match function {
        "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint" => args.len() == 1 && args[0].is_const(),
        op::IN => matches!(&args[1].kind, Kind::List(_)) && is_constant(&args[1]),
        _ => false,
    }
}

/// The size costs go by: values without one count as one.
fn size(v: &Value<'_>) -> u64 {
    v.size().unwrap_or(1)
}

/// Cost of going through a value as a tree.
fn traversal(v: &Value<'_>) -> u64 {
    match v {
        Value::String(s) => (s.len() as f64 * TEXT_FACTOR) as u64,
        Value::Bytes(b) => (b.len() as f64 * TEXT_FACTOR) as u64,
        Value::List(l) => l.iter().map(|v| traversal(&v)).fold(0, u64::saturating_add),
        Value::Map(m) => m.keys().iter().map(|k| traversal(k).saturating_add(m.get(k).map_or(0, |v| traversal(&v)))).fold(0, u64::saturating_add),
        _ => 1,
    }
}

/// Bytes a value's text takes in `format`.
fn text_size(v: &Value<'_>, depth: u32) -> usize {
    match v {
        Value::String(s) => s.len(),
        Value::Bytes(b) => b.len(),
        _ if depth > 64 => 0,
        Value::List(List::Json(..)) | Value::Map(Map::Json(..)) => 64,
        Value::List(l) => l.iter().map(|v| text_size(&v, depth + 1) + 2).fold(0, usize::saturating_add),
        Value::Map(m) => m.keys().iter().map(|k| text_size(k, depth + 1) + m.get(k).map_or(0, |v| text_size(&v, depth + 1)) + 4).fold(0, usize::saturating_add),
        _ => 32,
    }
}

/// What a call cost, its arguments not included.
fn call_cost(function: &str, overloads: &[&str], a: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    let text = |n: u64| scaled(n, TEXT_FACTOR);
    let first = a.first().map_or(1, size);
    let second = a.get(1).map_or(1, size);
    let made = |factor: f64, n: u64| scaled(n, factor).saturating_add(1 + LIST_COST);
    let compared = |l: Option<&Value<'_>>| match l {
        Some(Value::List(l)) => {
            let texts = matches!(l.get(0), Some(Value::String(_) | Value::Bytes(_)));
            let n = l.len() as u64;
            made(if texts { 2.0 + TEXT_FACTOR } else { 2.0 }, n.saturating_mul(n))
        }
        _ => 1,
    };
    match function {
        "slice" | "lists.range" => return made(1.0, result.map_or(1, size)),
        "reverse" if matches!(a.first(), Some(Value::List(_))) => return made(1.0, first),
        "flatten" => {
            let depth = match a.get(1) {
                Some(Value::Int(d)) => *d as f64,
                _ => 1.0,
            };
            return made(depth, first);
        }
        "distinct" | "sort" => return compared(a.first()),
        "@sortByAssociatedKeys" => return compared(a.get(1)),
        "check" => return AUTHORIZATION_COST,
        "fieldSelector" | "labelSelector" => {
            let requirements = scaled(scaled(second, 0.5), (LIST_COST + STRUCT_COST) as f64);
            return LIST_COST + text(second) + requirements;
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return a.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            return text(first);
        }
        "ip" => return if matches!(a.first(), Some(Value::Cidr(_))) { 1 } else { text(first) },
        "replace" | "split" | "ip.isCanonical" => return scaled(first, 2.0 * TEXT_FACTOR),
        "join" => return scaled(result.map_or(1, size), 2.0 * TEXT_FACTOR),
        "find" | "findAll" => return matching(first, second),
        "validate" => {
            if let Some(Value::Format(f)) = a.first() {
                return matching(second, f.pattern_length);
            }
        }
        "containsIP" | "containsCIDR" => {
            let mut cost = text(first + first);
            if function == "containsCIDR" {
                cost += text(first) + 1;
            }
            return if matches!(a.get(1), Some(Value::String(_))) { cost + text(second) } else { cost };
        }
        op::EQ if matches!(a.first(), Some(Value::Quantity(_) | Value::Ip(_) | Value::Cidr(_) | Value::Format(_) | Value::Url(_) | Value::Semver(_) | Value::Authz(_))) => {
            return 1;
        }
        op::EQ | op::NE => return text(first.min(second)),
        _ => {}
    }
    // Where the types leave several overloads, cel-go knows none, and the cost is one.
    let [overload] = overloads else { return 1 };
    match *overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" => text(first),
        "in_list" => second,
        "less_string" | "greater_string" | "less_equals_string" | "greater_equals_string" | "less_bytes" | "greater_bytes" | "less_equals_bytes" | "greater_equals_bytes" => {
            text(first.min(second))
        }
        "matches" | "matches_string" => matching(first, second),
        "contains_string" => text(first).saturating_mul(text(second)),
        _ => 1,
    }
}

fn matching(text: u64, pattern: u64) -> u64 {
    scaled(text.saturating_add(1), TEXT_FACTOR).saturating_mul(scaled(pattern, REGEX_FACTOR))
}

/// The types that results of a use may have.
pub(crate) fn fits(want: &Type, have: &Type) -> bool {
    matches!(have, Type::Dyn) || want.same(have)
}
