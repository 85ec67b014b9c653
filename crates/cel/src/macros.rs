//! Calls that are not functions: `has`, the comprehensions, optionals' `optMap`, and what they become.
//!
//! The expansions are cel-go's, node for node, because the cost of an expression is that of its expansion.

use crate::ast::{ACCUMULATOR, Element, Entry, Expr, Fold, Kind, Literal, op};
use crate::parser::Parser;
use std::sync::Arc;

/// Nodes of a tree that may still be copied: each `optMap` doubles what it is called on.
const MAX_NODES: u32 = 50_000;
/// The variable of a comprehension that has nothing to range over.
const UNUSED: &str = "#unused";

/// A call without a receiver.
pub(crate) fn global_call(p: &mut Parser<'_>, pos: u32, name: Arc<str>, mut args: Vec<Expr>) -> Expr {
    if &*name == "has" && args.len() == 1 {
        return match args.remove(0) {
            Expr { kind: Kind::Select { operand, field, test: false }, .. } => p.node(pos, Kind::Select { operand, field, test: true }),
            other => p.issue_at(other.pos, "invalid argument to has() macro"),
        };
    }
    p.node(pos, Kind::Call { function: name, target: None, args })
}

/// A call on a receiver.
pub(crate) fn member_call(p: &mut Parser<'_>, pos: u32, target: Expr, name: Arc<str>, args: Vec<Expr>) -> Expr {
    let mut m = Maker { p, pos };
    let space = match &target.kind {
        Kind::Ident(name) => name.to_string(),
        _ => String::new(),
    };
    match (&*name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2) => m.quantifier(&name, target, args, false),
        ("all" | "exists" | "exists_one" | "existsOne", 3) => m.quantifier(&name, target, args, true),
        ("map", 2 | 3) | ("filter", 2) => m.map(&name, target, args),
        ("transformList", 3 | 4) => m.transform_list(target, args),
        ("transformMap" | "transformMapEntry", 3 | 4) => m.transform_map(&name, target, args),
        ("sortBy", 2) => m.sort_by(target, args),
        ("optMap" | "optFlatMap", 2) => m.opt_map(&name, target, args),
        ("bind", 3) if space == "cel" && m.p.extensions => m.bind(args),
        ("greatest" | "least", _) if space == "math" && m.p.extensions => {
            let function = if &*name == "greatest" { "math.@max" } else { "math.@min" };
            if args.is_empty() { m.p.issue_at(pos, format!("math.{name}() requires at least one argument")) } else { m.call(function, args) }
        }
        _ => m.p.node(pos, Kind::Call { function: name, target: Some(Box::new(target)), args }),
    }
}

struct Maker<'m, 's> {
    p: &'m mut Parser<'s>,
    pos: u32,
}

impl Maker<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.p.node(self.pos, kind)
    }
    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.p.function(self.pos, function, args)
    }
    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }
    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }
    fn literal(&mut self, l: Literal) -> Expr {
        self.node(Kind::Const(l))
    }
    fn bool(&mut self, b: bool) -> Expr {
        self.literal(Literal::Bool(b))
    }

    /// The name an argument is, or the error that it is none.
    fn variable(&mut self, arg: &Expr, message: &str) -> Result<Arc<str>, Expr> {
        match &arg.kind {
            Kind::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
            _ => Err(self.p.issue_at(arg.pos, message)),
        }
    }

    /// The one or two variables that `args` starts with; they are taken off.
    fn variables(&mut self, args: &mut Vec<Expr>, two: bool, message: &str) -> Result<(Arc<str>, Option<Arc<str>>), Expr> {
        let first = self.variable(&args.remove(0), message)?;
        let second = if two { Some(self.variable(&args.remove(0), message)?) } else { None };
        match &second {
            Some(s) if *s == first => Err(self.p.issue_at(self.pos, format!("duplicate variable name: {first}"))),
            _ => Ok((first, second)),
        }
    }

    fn fold(&mut self, (var, var2): (Arc<str>, Option<Arc<str>>), range: Expr, init: Expr, condition: Expr, step: Expr, result: Expr) -> Expr {
        self.node(Kind::Fold(Box::new(Fold { var, var2, range, accu: ACCUMULATOR.into(), init, condition, step, result })))
    }

    fn quantifier(&mut self, name: &str, range: Expr, mut args: Vec<Expr>, two: bool) -> Expr {
        let vars = match self.variables(&mut args, two, "argument must be a simple name") {
            Ok(vars) => vars,
            Err(e) => return e,
        };
        let predicate = args.remove(0);
        let (accu, again) = (self.accu(), self.accu());
        match name {
            "all" => {
                let init = self.bool(true);
                let condition = self.call(op::NOT_STRICTLY_FALSE, vec![accu]);
                let step = self.call(op::AND, vec![again, predicate]);
                let result = self.accu();
                self.fold(vars, range, init, condition, step, result)
            }
            "exists" => {
                let init = self.bool(false);
                let not = self.call(op::NOT, vec![accu]);
                let condition = self.call(op::NOT_STRICTLY_FALSE, vec![not]);
                let step = self.call(op::OR, vec![again, predicate]);
                let result = self.accu();
                self.fold(vars, range, init, condition, step, result)
            }
            _ => {
                let (init, condition, one, also_one) = (self.literal(Literal::Int(0)), self.bool(true), self.literal(Literal::Int(1)), self.literal(Literal::Int(1)));
                let more = self.call(op::ADD, vec![accu, one]);
                let step = self.call(op::CONDITIONAL, vec![predicate, more, again]);
                let total = self.accu();
                let result = self.call(op::EQ, vec![total, also_one]);
                self.fold(vars, range, init, condition, step, result)
            }
        }
    }

    /// `filter ? accu + [value] : accu` over a range, from an empty list.
    fn collect(&mut self, vars: (Arc<str>, Option<Arc<str>>), range: Expr, filter: Option<Expr>, value: Expr) -> Expr {
        let (init, condition, accu) = (self.node(Kind::List(Vec::new())), self.bool(true), self.accu());
        let item = self.node(Kind::List(vec![Element { value, optional: false }]));
        let more = self.call(op::ADD, vec![accu, item]);
        let step = self.filtered(filter, more);
        let result = self.accu();
        self.fold(vars, range, init, condition, step, result)
    }
    fn filtered(&mut self, filter: Option<Expr>, more: Expr) -> Expr {
        match filter {
            None => more,
            Some(filter) => {
                let accu = self.accu();
                self.call(op::CONDITIONAL, vec![filter, more, accu])
            }
        }
    }

    fn map(&mut self, name: &str, range: Expr, mut args: Vec<Expr>) -> Expr {
        let vars = match self.variables(&mut args, false, "argument is not an identifier") {
            Ok(vars) => vars,
            Err(e) => return e,
        };
        let last = args.pop().expect("the macro takes two or three arguments");
        if name == "filter" {
            let item = self.ident(&vars.0);
            return self.collect(vars, range, Some(last), item);
        }
        self.collect(vars, range, args.pop(), last)
    }

    fn transform_list(&mut self, range: Expr, mut args: Vec<Expr>) -> Expr {
        let vars = match self.variables(&mut args, true, "argument must be a simple name") {
            Ok(vars) => vars,
            Err(e) => return e,
        };
        let value = args.pop().expect("the macro takes three or four arguments");
        self.collect(vars, range, args.pop(), value)
    }

    fn transform_map(&mut self, name: &str, range: Expr, mut args: Vec<Expr>) -> Expr {
        let vars = match self.variables(&mut args, true, "argument must be a simple name") {
            Ok(vars) => vars,
            Err(e) => return e,
        };
        let value = args.pop().expect("the macro takes three or four arguments");
        let (init, condition, accu) = (self.node(Kind::Map(Vec::<Entry>::new())), self.bool(true), self.accu());
        let insert = if name == "transformMap" {
            let key = self.ident(&vars.0);
            vec![accu, key, value]
        } else {
            vec![accu, value]
        };
        let more = self.call(op::MAP_INSERT, insert);
        let step = self.filtered(args.pop(), more);
        let result = self.accu();
        self.fold(vars, range, init, condition, step, result)
    }

    /// `result` with a variable bound to `init`.
    fn let_in(&mut self, name: Arc<str>, init: Expr, result: Expr) -> Expr {
        let (range, condition, step) = (self.node(Kind::List(Vec::new())), self.bool(false), self.ident(&name));
        self.node(Kind::Fold(Box::new(Fold { var: UNUSED.into(), var2: None, range, accu: name, init, condition, step, result })))
    }

    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Expr {
        const INPUT: &str = "@__sortBy_input__";
        if matches!(target.kind, Kind::Const(_) | Kind::Map(_) | Kind::Struct { .. }) {
            return self.p.issue_at(target.pos, "sortBy can only be applied to a list, identifier, comprehension, call or select expression");
        }
        let (input, range) = (self.ident(INPUT), self.ident(INPUT));
        let keys = self.map("map", range, args);
        let sorted = self.node(Kind::Call { function: "@sortByAssociatedKeys".into(), target: Some(Box::new(input)), args: vec![keys] });
        self.let_in(INPUT.into(), target, sorted)
    }

    fn opt_map(&mut self, name: &str, target: Expr, mut args: Vec<Expr>) -> Expr {
        let (body, var) = (args.pop().expect("the macro takes two arguments"), args.pop().expect("the macro takes two arguments"));
        let var = match self.variable(&var, &format!("{name}() variable name must be a simple identifier")) {
            Ok(var) => var,
            Err(e) => return e,
        };
        if self.p.nodes() > MAX_NODES {
            return self.p.issue_at(self.pos, format!("expression size exceeds limit: {MAX_NODES} nodes"));
        }
        let copy = self.copy(&target);
        let has = self.node(Kind::Call { function: "hasValue".into(), target: Some(Box::new(target)), args: Vec::new() });
        let value = self.node(Kind::Call { function: "value".into(), target: Some(Box::new(copy)), args: Vec::new() });
        let bound = self.let_in(var, value, body);
        let yes = if name == "optMap" { self.call("optional.of", vec![bound]) } else { bound };
        let no = self.call("optional.none", Vec::new());
        self.call(op::CONDITIONAL, vec![has, yes, no])
    }

    fn bind(&mut self, mut args: Vec<Expr>) -> Expr {
        let result = args.pop().expect("the macro takes three arguments");
        let init = args.pop().expect("the macro takes three arguments");
        match self.variable(&args[0], "cel.bind() variable names must be simple identifiers") {
            Ok(name) => self.let_in(name, init, result),
            Err(e) => e,
        }
    }

    /// The same tree under ids of its own.
    fn copy(&mut self, e: &Expr) -> Expr {
        let mut copy = e.clone();
        self.renumber(&mut copy);
        copy
    }
    fn renumber(&mut self, e: &mut Expr) {
        e.id = self.p.node(e.pos, Kind::Error).id;
        match &mut e.kind {
            Kind::Error | Kind::Const(_) | Kind::Ident(_) | Kind::TypeName(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => target.iter_mut().map(|t| &mut **t).chain(args).for_each(|a| self.renumber(a)),
            Kind::List(items) => items.iter_mut().for_each(|i| self.renumber(&mut i.value)),
            Kind::Map(entries) => entries.iter_mut().flat_map(|e| [&mut e.key, &mut e.value]).for_each(|a| self.renumber(a)),
            Kind::Struct { fields, .. } => fields.iter_mut().for_each(|f| self.renumber(&mut f.value)),
            Kind::Fold(c) => [&mut c.range, &mut c.init, &mut c.condition, &mut c.step, &mut c.result].into_iter().for_each(|a| self.renumber(a)),
        }
    }
}
