//! The estimated cost of an expression: the range its runtime cost lies in, from the bounds of the declarations.
//!
//! These numbers are an interface: a CustomResourceDefinition whose rules may cost more than the limit is refused, so they are cel-go's
//! and upstream's, as they stand. Source: cel-go `checker/cost.go`, k8s.io/apiserver/pkg/cel/library/cost.go; KEP-2876.

use crate::ast::{ACCUMULATOR, Expr, Fold, Kind, Literal, op};
use crate::check::Facts;
use crate::environment::with_room;
use crate::library::format;
use crate::types::{Decl, Type};
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) const LIST_COST: u64 = 10;
pub(crate) const MAP_COST: u64 = 30;
pub(crate) const STRUCT_COST: u64 = 40;
/// Of going through a text, each code point.
pub(crate) const TEXT_FACTOR: f64 = 0.1;
/// Of a regular expression, each code point of its text.
pub(crate) const REGEX_FACTOR: f64 = 0.25;
/// Two of these fill a call's limit.
pub(crate) const AUTHORIZATION_COST: u64 = 350_000;

/// A range of costs or sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub min: u64,
    pub max: u64,
}

impl Estimate {
    pub(crate) const ZERO: Estimate = Estimate::exactly(0);
    pub(crate) const ONE: Estimate = Estimate::exactly(1);
    const UNKNOWN: Estimate = Estimate { min: 0, max: u64::MAX };

    pub(crate) const fn exactly(n: u64) -> Self {
        Estimate { min: n, max: n }
    }
    fn plus(self, o: Estimate) -> Self {
        Estimate { min: self.min.saturating_add(o.min), max: self.max.saturating_add(o.max) }
    }
    fn times(self, o: Estimate) -> Self {
        Estimate { min: self.min.saturating_mul(o.min), max: self.max.saturating_mul(o.max) }
    }
    fn by(self, factor: f64) -> Self {
        Estimate { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }
    fn union(self, o: Estimate) -> Self {
        Estimate { min: self.min.min(o.min), max: self.max.max(o.max) }
    }
}

/// `n * factor`, rounded up.
pub(crate) fn scaled(n: u64, factor: f64) -> u64 {
    // The cast saturates, as upstream does by hand.
    (n as f64 * factor).ceil() as u64
}

/// The sizes of a container's keys and values.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Estimate,
    value: Estimate,
}

struct Local {
    name: Arc<str>,
    path: Vec<String>,
    size: Option<Estimate>,
    entries: Option<Entries>,
}

struct Coster<'c> {
    facts: &'c Facts,
    variables: &'c HashMap<Arc<str>, Arc<Decl>>,
    paths: HashMap<u32, Vec<String>>,
    sizes: HashMap<u32, Estimate>,
    entries: HashMap<u32, Entries>,
    locals: Vec<Local>,
}

pub(crate) fn estimate(e: &Expr, facts: &Facts, variables: &HashMap<Arc<str>, Arc<Decl>>) -> Estimate {
    Coster { facts, variables, paths: HashMap::new(), sizes: HashMap::new(), entries: HashMap::new(), locals: Vec::new() }.cost(e)
}

impl Coster<'_> {
    fn cost(&mut self, e: &Expr) -> Estimate {
        with_room(|| self.node(e))
    }

    fn node(&mut self, e: &Expr) -> Estimate {
        match &e.kind {
            Kind::Error | Kind::Const(_) => Estimate::ZERO,
            Kind::TypeName(_) => Estimate::ONE,
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(l) => l.path.clone(),
                    None => vec![name.to_string()],
                };
                self.paths.insert(e.id, path);
                Estimate::ONE
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let sum = self.cost(operand);
                self.add_path(e, operand, field);
                match self.facts.ty(operand) {
                    Type::Map(..) | Type::Object(_) | Type::Param(_) => sum.plus(Estimate::ONE),
                    _ => sum,
                }
            }
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(items) => {
                let (mut sum, mut value) = (Estimate::exactly(LIST_COST), Estimate { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 });
                for i in items {
                    sum = sum.plus(self.cost(&i.value));
                    value = value.union(self.size(&i.value));
                }
                self.entries.insert(e.id, Entries { list: true, key: Estimate::ONE, value });
                sum
            }
            Kind::Map(entries) => {
                let empty = Estimate { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut sum, mut key, mut value) = (Estimate::exactly(MAP_COST), empty, empty);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size(&entry.key));
                    value = value.union(self.size(&entry.value));
                }
                self.entries.insert(e.id, Entries { list: false, key, value });
                sum
            }
            Kind::Struct { fields, .. } => fields.iter().fold(Estimate::exactly(STRUCT_COST), |sum, f| sum.plus(self.cost(&f.value))),
            Kind::Fold(fold) if is_binding(fold) => self.binding(e, fold),
            Kind::Fold(fold) => self.fold(e, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| *l.name == *name)
    }
    fn path(&self, e: &Expr) -> Vec<String> {
        match &e.kind {
            Kind::Ident(name) => match self.local(name) {
                Some(l) => l.path.clone(),
                None => self.paths.get(&e.id).cloned().unwrap_or_default(),
            },
            _ => self.paths.get(&e.id).cloned().unwrap_or_default(),
        }
    }
    fn add_path(&mut self, e: &Expr, of: &Expr, step: &str) {
        let mut path = self.path(of);
        path.push(step.into());
        self.paths.insert(e.id, path);
    }

    /// The size that the declarations give a path.
    fn declared(&self, path: &[String]) -> Option<Estimate> {
        let (root, rest) = path.split_first()?;
        if root == ACCUMULATOR {
            return None;
        }
        let max = self.variables.get(root.as_str())?.walk(rest)?;
        Some(Estimate { min: 0, max })
    }

    fn known_size(&mut self, e: &Expr) -> Option<Estimate> {
        if let Some(size) = self.sizes.get(&e.id) {
            return Some(*size);
        }
        let own = match &e.kind {
            Kind::Const(Literal::String(s)) => Some(s.chars().count() as u64),
            Kind::Const(Literal::Bytes(b)) => Some(b.len() as u64),
            Kind::Const(_) => Some(1),
            Kind::List(items) => Some(items.len() as u64),
            Kind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(n) = own {
            return Some(Estimate::exactly(n));
        }
        if self.facts.ty(e).is_scalar() {
            return Some(Estimate::ONE);
        }
        if let Some(size) = self.declared(&self.path(e)) {
            self.sizes.insert(e.id, size);
            return Some(size);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }
    fn size(&mut self, e: &Expr) -> Estimate {
        self.known_size(e).unwrap_or(Estimate::UNKNOWN)
    }
    fn entries(&self, e: &Expr) -> Option<Entries> {
        match (self.entries.get(&e.id), &e.kind) {
            (Some(found), _) => Some(*found),
            (None, Kind::Ident(name)) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn call(&mut self, e: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Estimate {
        if function == "dyn" && args.len() == 1 {
            let cost = self.cost(&args[0]).plus(Estimate::ONE);
            if let Some(size) = self.known_size(&args[0]) {
                self.sizes.insert(e.id, size);
            }
            if let Some(entries) = self.entries(&args[0]) {
                self.entries.insert(e.id, entries);
            }
            return cost;
        }
        let costs: Vec<Estimate> = args.iter().map(|a| self.cost(a)).collect();
        let of_target = target.map_or(Estimate::ZERO, |t| self.cost(t));
        let overloads = self.facts.overloads(e).to_vec();
        if overloads.is_empty() {
            return Estimate::ZERO;
        }
        let mut total = Estimate { min: u64::MAX, max: 0 };
        let mut result: Option<Estimate> = None;
        for overload in overloads {
            let (cost, size) = self.overload(e, function, overload, target, args, &costs);
            total = total.union(cost);
            result = match (result, size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            match overload {
                "index_list" => {
                    result = self.entries(&args[0]).map(|n| n.value);
                    self.add_path(e, &args[0], "@items");
                }
                "index_map" => {
                    result = self.entries(&args[0]).map(|n| n.value);
                    self.add_path(e, &args[0], "@values");
                }
                _ => {}
            }
            if result.is_none() {
                result = self.known_size(e);
            }
        }
        if let Some(size) = result {
            self.sizes.insert(e.id, size);
        }
        of_target.plus(total)
    }

    /// Cost of one overload, its arguments included, and the size of its result where known.
    fn overload(&mut self, e: &Expr, function: &str, overload: &str, target: Option<&Expr>, args: &[Expr], costs: &[Estimate]) -> (Estimate, Option<Estimate>) {
        let of_args = costs.iter().fold(Estimate::ZERO, |sum, c| sum.plus(*c));
        if let Some((cost, size)) = self.list_library(overload, target, args) {
            return (cost.plus(of_args), Some(size));
        }
        if let Some((cost, size)) = self.kubernetes(function, overload, target, args) {
            return (cost.plus(of_args), size);
        }
        let on = |c: Estimate| c.plus(of_args);
        match overload {
            "string_format" => {
                let (text, list) = (target.map_or(Estimate::UNKNOWN, |t| self.size(t)), self.size(&args[0]));
                (on(text.by(TEXT_FACTOR)), Some(text.plus(list)))
            }
            "string_to_bytes" => {
                let n = self.size(&args[0]);
                (on(n.by(TEXT_FACTOR)), Some(Estimate { min: n.min, max: n.max.saturating_mul(4) }))
            }
            "bytes_to_string" => {
                let n = self.size(&args[0]);
                (on(n.by(TEXT_FACTOR)), Some(Estimate { min: n.min / 4, max: n.max }))
            }
            "strings_quote" => {
                let n = self.size(&args[0]);
                (on(n.by(TEXT_FACTOR)), Some(Estimate { min: n.min.saturating_add(2), max: n.max.saturating_mul(2).saturating_add(2) }))
            }
            "starts_with_string" | "ends_with_string" => (on(self.size(&args[0]).by(TEXT_FACTOR)), None),
            "in_list" => (on(self.size(&args[1])), None),
            "matches_string" | "matches" => {
                let (text, pattern) = match target {
                    Some(t) => (self.size(t), self.size(&args[0])),
                    None => (self.size(&args[0]), self.size(&args[1])),
                };
                (on(text.plus(Estimate::ONE).by(TEXT_FACTOR).times(pattern.by(REGEX_FACTOR))), None)
            }
            "contains_string" => {
                let (text, part) = (target.map_or(Estimate::UNKNOWN, |t| self.size(t)), self.size(&args[0]));
                (on(text.by(TEXT_FACTOR).times(part.by(TEXT_FACTOR))), None)
            }
            // The right side may not be reached.
            "logical_or" | "logical_and" => (Estimate { min: costs[0].min, max: costs[0].plus(costs[1]).max }, None),
            "conditional" => {
                let size = self.size(&args[1]).union(self.size(&args[2]));
                if let (Some(a), Some(b)) = (self.entries(&args[1]), self.entries(&args[2])) {
                    self.entries.insert(e.id, joined(a, b));
                }
                (costs[0].plus(costs[1].union(costs[2])), Some(size))
            }
            "add_string" | "add_bytes" | "add_list" => {
                let size = self.size(&args[0]).plus(self.size(&args[1]));
                if let (Some(a), Some(b)) = (self.entries(&args[0]), self.entries(&args[1])) {
                    self.entries.insert(e.id, joined(a, b));
                }
                (on(if overload == "add_list" { Estimate::ONE } else { size.by(TEXT_FACTOR) }), Some(size))
            }
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => {
                let smaller = self.size(&args[0]).max.min(self.size(&args[1]).max);
                (on(Estimate { min: u64::from(smaller > 0), max: smaller }.by(TEXT_FACTOR)), None)
            }
            _ => (on(Estimate::ONE), None),
        }
    }

    /// The size an element of a list has, by its declaration.
    fn element_size(&mut self, list: &Expr) -> Estimate {
        let mut path = self.path(list);
        if path.is_empty() {
            return Estimate::UNKNOWN;
        }
        path.push("@items".into());
        self.declared(&path).unwrap_or(Estimate::UNKNOWN)
    }

    /// Calls that make lists: their cost goes by the size of the list.
    fn list_library(&mut self, overload: &str, target: Option<&Expr>, args: &[Expr]) -> Option<(Estimate, Estimate)> {
        let whole = |e: Option<&Expr>, otherwise: u64| match e.map(|e| &e.kind) {
            Some(Kind::Const(Literal::Int(i))) => *i as u64,
            _ => otherwise,
        };
        let (factor, n) = match (overload, target) {
            ("list_slice", Some(t)) => {
                let end = whole(args.get(1), self.size(t).max);
                (1.0, Estimate::exactly(end.saturating_sub(whole(args.first(), 0))))
            }
            ("lists_range", None) => (1.0, Estimate::exactly(whole(args.first(), u64::MAX))),
            ("list_reverse", Some(t)) => (1.0, self.size(t)),
            ("list_flatten", Some(t)) => (1.0, self.size(t)),
            ("list_flatten_int", Some(t)) => (whole(args.first(), u64::MAX) as f64, self.size(t)),
            ("list_distinct", Some(t)) => (2.0, squared(self.size(t))),
            (sort, Some(t)) if sort.starts_with("list_") && sort.ends_with("_sort") => (sort_factor(sort), squared(self.size(t))),
            (sort, Some(_)) if sort.ends_with("_sortByAssociatedKeys") => (sort_factor(sort), squared(self.size(&args[0]))),
            _ => return None,
        };
        Some((n.by(factor).plus(Estimate::exactly(1 + LIST_COST)), n))
    }

    /// What upstream's estimator knows of its own libraries' functions.
    fn kubernetes(&mut self, function: &str, overload: &str, target: Option<&Expr>, args: &[Expr]) -> Option<(Estimate, Option<Estimate>)> {
        let nominal = Some((Estimate::ONE, None));
        match (function, target, args) {
            ("check", ..) => Some((Estimate::exactly(AUTHORIZATION_COST), None)),
            ("serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed" | "reason" | "error" | "errored", ..) => nominal,
            ("fieldSelector" | "labelSelector", _, [selector]) => {
                let n = self.size(selector);
                Some((Estimate::exactly(LIST_COST).plus(n.by(TEXT_FACTOR)).plus(n.by(0.5).by((LIST_COST + STRUCT_COST) as f64)), None))
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(t), _) => match self.facts.ty(t).clone() {
                Type::List(item) => {
                    let mut each = Estimate::ONE;
                    if matches!(*item, Type::String | Type::Bytes) {
                        each = each.plus(self.element_size(t).by(TEXT_FACTOR));
                    }
                    Some((self.size(t).times(each), None))
                }
                _ => Some((self.size(t).by(TEXT_FACTOR), None)),
            },
            ("url" | "jsonpatch.escapeKey", _, [text]) => {
                let n = self.size(text);
                Some((n.by(TEXT_FACTOR), Some(n)))
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(t), _) => {
                let n = self.size(t);
                Some((n.by(TEXT_FACTOR), Some(n)))
            }
            ("replace", Some(t), [old, new, ..]) => {
                let (n, old, new) = (self.size(t), self.size(old), self.size(new));
                Some((n.by(2.0 * TEXT_FACTOR), Some(replaced(n, old, new))))
            }
            ("split", Some(t), _) => {
                let n = self.size(t);
                let max = match args.get(1).map(|a| &a.kind) {
                    Some(Kind::Const(Literal::Int(i))) => *i as u64,
                    _ => n.max,
                };
                Some((n.by(2.0 * TEXT_FACTOR), Some(Estimate { min: 0, max })))
            }
            ("join", Some(t), _) => {
                let list = self.size(t);
                let mut n = list.times(self.element_size(t));
                if let Some(separator) = args.first() {
                    let between = Estimate { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    n = n.plus(self.size(separator).times(between));
                }
                Some((n.by(TEXT_FACTOR), Some(n)))
            }
            ("find" | "findAll", Some(t), [pattern, ..]) => {
                let n = self.size(t);
                let cost = n.plus(Estimate::ONE).by(TEXT_FACTOR).times(self.size(pattern).by(REGEX_FACTOR));
                Some((cost, Some(Estimate { min: 0, max: n.max })))
            }
            ("ip", Some(_), []) => nominal,
            ("masked" | "prefixLength" | "family" | "isUnspecified" | "isLoopback" | "isLinkLocalMulticast" | "isLinkLocalUnicast" | "isGlobalUnicast", ..) => nominal,
            ("containsIP" | "containsCIDR", Some(_), [other, ..]) => {
                // An address has 4 or 16 bytes.
                let bytes = Estimate { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).by(TEXT_FACTOR);
                if function == "containsCIDR" {
                    cost = cost.plus(bytes.by(TEXT_FACTOR)).plus(Estimate::ONE);
                }
                if matches!(overload, "cidr_contains_ip_string" | "cidr_contains_cidr_string") {
                    cost = cost.plus(self.size(other).by(TEXT_FACTOR));
                }
                Some((cost, None))
            }
            ("validate", Some(_), [text]) => Some((self.size(text).by(TEXT_FACTOR).by(format::MAX_PATTERN_LENGTH * REGEX_FACTOR), None)),
            ("format.named", ..) => nominal,
            (
                "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan" | "compareTo" | "add" | "sub" | "major" | "minor" | "patch"
                | "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery",
                ..,
            ) => nominal,
            (op::EQ, _, [a, b]) => match (self.facts.ty(a), self.facts.ty(b)) {
                (Type::Opaque(x), Type::Opaque(y)) if x == y => {
                    let max = if *x == "kubernetes.NamedFormat" { format::MAX_NAME_LENGTH } else { 1 };
                    let one = Estimate { min: 1, max };
                    Some((if max > 1 { one.by(TEXT_FACTOR) } else { one }, None))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn fold(&mut self, e: &Expr, fold: &Fold) -> Estimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_value(&fold.accu, &fold.init);
        let before = self.locals.len();
        let (entries, path) = (self.entries(&fold.range), self.path(&fold.range));
        let list = entries.map_or_else(|| matches!(self.facts.ty(&fold.range), Type::List(_)), |n| n.list);
        let (keys, values) = if list { ("@indices", "@items") } else { ("@keys", "@values") };
        let mut push = |name: &Arc<str>, step: &str, size: Option<Estimate>| {
            let mut path = path.clone();
            path.push(step.into());
            self.locals.push(Local { name: name.clone(), path, size, entries: None });
        };
        match &fold.var2 {
            Some(var2) => {
                push(&fold.var, keys, entries.map(|n| n.key));
                push(var2, values, entries.map(|n| n.value));
            }
            None if list => push(&fold.var, values, entries.map(|n| n.value)),
            None => push(&fold.var, keys, entries.map(|n| n.key)),
        }
        let each = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(before);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size(&fold.range);
        match &fold.init.kind {
            Kind::Const(_) => {
                if let Some(size) = self.known_size(&fold.init) {
                    self.sizes.insert(e.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(e.id, count);
                if let Some(entries) = self.entries(&fold.step) {
                    self.entries.insert(e.id, entries);
                }
            }
            _ => {}
        }
        sum.plus(count.times(each))
    }

    fn binding(&mut self, e: &Expr, fold: &Fold) -> Estimate {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_value(&fold.accu, &fold.init);
        sum = sum.plus(self.cost(&fold.result));
        let (size, entries) = (self.known_size(&fold.result), self.entries(&fold.result));
        self.locals.pop();
        if let Some(size) = size {
            self.sizes.insert(e.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(e.id, entries);
        }
        sum
    }

    fn push_value(&mut self, name: &Arc<str>, value: &Expr) {
        let (path, size, entries) = (self.path(value), self.known_size(value), self.entries(value));
        self.locals.push(Local { name: name.clone(), path, size, entries });
    }
}

/// `cel.bind` and its like: nothing to range over, and a variable of its own.
pub(crate) fn is_binding(fold: &Fold) -> bool {
    &*fold.accu != ACCUMULATOR && matches!(&fold.range.kind, Kind::List(items) if items.is_empty())
}

fn joined(a: Entries, b: Entries) -> Entries {
    Entries { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) }
}

fn squared(n: Estimate) -> Estimate {
    n.times(n)
}

/// Two for each pair that may be compared, and more where that goes through texts.
fn sort_factor(overload: &str) -> f64 {
    if overload.starts_with("list_string_") || overload.starts_with("list_bytes_") { 2.0 + TEXT_FACTOR } else { 2.0 }
}

/// The size of a text of `n` with every `old` replaced by `new`.
fn replaced(n: Estimate, old: Estimate, new: Estimate) -> Estimate {
    let (max_count, max_kept) = match old.min {
        // An empty text is found around each character.
        0 => (n.max.saturating_add(1), n.max),
        o if new.max <= o => (0, n.max),
        o => (n.max.div_ceil(o), 0),
    };
    let (min_count, min_kept) = match old.max {
        0 => (n.min.saturating_add(1), n.min),
        o if o <= new.min => (0, n.min),
        o => (n.min.div_ceil(o), 0),
    };
    Estimate { min: min_count, max: max_count }.times(new).plus(Estimate { min: min_kept, max: max_kept })
}
