//! The type checker: overloads, type variables, `dyn`, with cel-go's texts.
//!
//! It also settles what a name is: a qualified identifier, a type, or a function in a namespace, and rewrites the tree so that nothing
//! after it has to ask again.

use crate::ast::{Expr, Fold, Kind, Literal, op};
use crate::environment::with_room;
use crate::library::{self, Function, time};
use crate::source::{Issue, Source};
use crate::types::{Decl, Fields, Type};
use crate::value::struct_type;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What the checker knows of an expression's nodes, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub types: HashMap<u32, Type>,
    pub overloads: HashMap<u32, Vec<&'static str>>,
    /// Variables that are read.
    pub variables: BTreeSet<Arc<str>>,
}

impl Facts {
    pub fn ty(&self, e: &Expr) -> &Type {
        self.types.get(&e.id).unwrap_or(&Type::Dyn)
    }
    pub fn overloads(&self, e: &Expr) -> &[&'static str] {
        self.overloads.get(&e.id).map_or(&[], Vec::as_slice)
    }
}

/// What expressions may name.
pub(crate) struct Names<'n> {
    pub variables: &'n HashMap<Arc<str>, Arc<Decl>>,
    /// `Object{…}` and `JSONPatch{…}`
    pub constructors: bool,
    pub extensions: bool,
}

pub(crate) fn check(e: &mut Expr, source: &Source, names: &Names<'_>) -> Result<(Type, Facts), Vec<Issue>> {
    let mut c = Checker { source, names, scopes: Vec::new(), bound: Vec::new(), trail: Vec::new(), facts: Facts::default(), issues: Vec::new() };
    c.check(e);
    if c.issues.is_empty() {
        c.literals(e, false);
    }
    if !c.issues.is_empty() {
        return Err(c.issues);
    }
    let mut facts = std::mem::take(&mut c.facts);
    facts.types.values_mut().for_each(|t| *t = c.resolve(t, true));
    Ok((facts.ty(e).clone(), facts))
}

struct Checker<'c> {
    source: &'c Source,
    names: &'c Names<'c>,
    scopes: Vec<(Arc<str>, Type)>,
    /// What type variables stand for.
    bound: Vec<Option<Type>>,
    /// What bindings replaced, to take back those of an overload that did not fit.
    trail: Vec<(u32, Option<Type>)>,
    facts: Facts,
    issues: Vec<Issue>,
}

/// The types that can be named.
fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "string" => Type::String,
        "list" => Type::list(Type::Dyn),
        "map" => Type::Map(Arc::new(Type::Dyn), Arc::new(Type::Dyn)),
        "null_type" => Type::Null,
        "dyn" => Type::Dyn,
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "optional_type" => Type::optional(Type::Dyn),
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        "kubernetes.NamedFormat" => Type::Opaque("kubernetes.NamedFormat"),
        _ => return None,
    })
}

impl Checker<'_> {
    fn tell(&mut self, pos: u32, message: impl Into<String>) {
        self.issues.push(self.source.issue(pos, message));
    }
    fn undeclared(&mut self, pos: u32, name: &str) -> Type {
        self.tell(pos, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn check(&mut self, e: &mut Expr) -> Type {
        let ty = with_room(|| self.node(e));
        self.facts.types.insert(e.id, ty.clone());
        ty
    }

    fn node(&mut self, e: &mut Expr) -> Type {
        let pos = e.pos;
        match &mut e.kind {
            Kind::Error => Type::Error,
            Kind::TypeName(_) => Type::Type(Arc::new(Type::Dyn)),
            Kind::Const(l) => match l {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Kind::Ident(name) => {
                let name = name.clone();
                match self.identifier(&name) {
                    Some((kind, ty)) => {
                        e.kind = kind;
                        ty
                    }
                    None => self.undeclared(pos, name.trim_start_matches('.')),
                }
            }
            Kind::Select { .. } => self.select(e),
            Kind::Call { .. } => self.call(e),
            Kind::List(items) => {
                let mut item: Option<Type> = None;
                for i in items {
                    let place = i.value.pos;
                    let ty = self.check(&mut i.value);
                    let ty = self.unwrap_entry(ty, i.optional, place);
                    item = Some(self.join(item, ty));
                }
                Type::list(item.unwrap_or_else(|| self.fresh()))
            }
            Kind::Map(entries) => {
                let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
                for entry in entries {
                    let ty = self.check(&mut entry.key);
                    key = Some(self.join(key, ty));
                    let place = entry.value.pos;
                    let ty = self.check(&mut entry.value);
                    let ty = self.unwrap_entry(ty, entry.optional, place);
                    value = Some(self.join(value, ty));
                }
                let (key, value) = (key.unwrap_or_else(|| self.fresh()), value.unwrap_or_else(|| self.fresh()));
                Type::Map(Arc::new(key), Arc::new(value))
            }
            Kind::Struct { .. } => self.construct(e),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    /// What a name is: a variable, then a type.
    fn identifier(&mut self, name: &str) -> Option<(Kind, Type)> {
        let plain = name.trim_start_matches('.');
        if let Some((n, ty)) = self.scopes.iter().rev().find(|(n, _)| **n == *name) {
            return Some((Kind::Ident(n.clone()), ty.clone()));
        }
        if let Some((n, decl)) = self.names.variables.get_key_value(plain) {
            self.facts.variables.insert(n.clone());
            return Some((Kind::Ident(n.clone()), decl.ty.clone()));
        }
        let ty = named_type(plain).or_else(|| self.constructed(plain))?;
        Some((Kind::TypeName(plain.into()), Type::Type(Arc::new(ty))))
    }

    fn constructed(&self, name: &str) -> Option<Type> {
        self.names.constructors.then(|| struct_type(name)).flatten().map(Type::Object)
    }

    fn select(&mut self, e: &mut Expr) -> Type {
        if let Some(name) = e.qualified_name()
            && !self.scopes.iter().any(|(n, _)| name.split('.').next() == Some(n))
            && let Some((kind, ty)) = self.identifier(&name)
        {
            e.kind = kind;
            return ty;
        }
        let pos = e.pos;
        let Kind::Select { operand, field, test } = &mut e.kind else { return Type::Error };
        let (field, test) = (field.clone(), *test);
        let target = self.check(operand);
        let found = self.field(&target, &field, pos, false);
        if test { Type::Bool } else { found }
    }

    /// The type of a field; of an optional's, an optional.
    fn field(&mut self, target: &Type, field: &str, pos: u32, optional: bool) -> Type {
        match self.resolve(target, false) {
            Type::Dyn | Type::Error => Type::Dyn,
            Type::Param(n) => {
                self.bind(n, Type::Dyn);
                Type::Dyn
            }
            Type::Map(_, value) => (*value).clone(),
            Type::Optional(of) if !optional => {
                let found = self.field(&of, field, pos, true);
                if matches!(found, Type::Error) { found } else { Type::optional(found) }
            }
            Type::Object(o) => match (&o.fields, o.field(field)) {
                (_, Some(f)) => f.decl.ty.clone(),
                (Fields::Any, None) => Type::Dyn,
                (Fields::Known(_), None) => {
                    self.tell(pos, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            other => {
                self.tell(pos, format!("type '{other}' does not support field selection"));
                Type::Error
            }
        }
    }

    fn call(&mut self, e: &mut Expr) -> Type {
        let (id, pos) = (e.id, e.pos);
        let Kind::Call { function, target, args } = &mut e.kind else { return Type::Error };
        if &**function == op::OPT_SELECT {
            let operand = self.check(&mut args[0]);
            self.check(&mut args[1]);
            let Kind::Const(Literal::String(field)) = &args[1].kind else { return Type::Error };
            let field = field.clone();
            let operand = match self.resolve(&operand, false) {
                Type::Optional(of) => (*of).clone(),
                other => other,
            };
            self.facts.overloads.insert(id, vec!["select_optional_field"]);
            let found = self.field(&operand, &field, pos, true);
            return if matches!(found, Type::Error) { found } else { Type::optional(found) };
        }
        let mut types: Vec<Type> = args.iter_mut().map(|a| self.check(a)).collect();
        let mut name = function.trim_start_matches('.').to_owned();
        let mut member = false;
        if let Some(receiver) = target {
            let qualified = receiver.qualified_name().map(|q| format!("{q}.{name}")).filter(|q| self.function(q).is_some());
            match qualified {
                Some(q) => {
                    name = q;
                    *target = None;
                }
                None => {
                    types.insert(0, self.check(receiver));
                    member = true;
                }
            }
        }
        *function = name.as_str().into();
        match self.function(&name) {
            None => self.undeclared(pos, &name),
            Some(f) => self.overload(f, id, pos, member, &types),
        }
    }

    /// A function that this environment has.
    fn function(&self, name: &str) -> Option<&'static Function> {
        let hidden = name.starts_with("jsonpatch.") && !self.names.constructors;
        library::function(name, self.names.extensions).filter(|_| !hidden)
    }

    /// The result of the overloads that fit; several with different results give `dyn`.
    fn overload(&mut self, f: &Function, id: u32, pos: u32, member: bool, types: &[Type]) -> Type {
        let mut fitting = Vec::new();
        let mut result: Option<Type> = None;
        let extensions = self.names.extensions;
        for o in f.overloads.iter().filter(|o| o.member == member && o.args.len() == types.len() && (extensions || !o.extension)) {
            let base = self.bound.len() as u32;
            self.bound.extend((0..o.params).map(|_| None));
            let mark = self.trail.len();
            if !o.args.iter().zip(types).all(|(want, have)| self.assign(&instance(want, base), have)) {
                while self.trail.len() > mark {
                    let (n, old) = self.trail.pop().expect("the trail is longer than the mark");
                    self.bound[n as usize] = old;
                }
                self.bound.truncate(base as usize);
                continue;
            }
            fitting.push(o.id);
            let this = self.resolve(&instance(&o.result, base), false);
            result = Some(match result {
                Some(r) if !r.same(&this) => Type::Dyn,
                _ => this,
            });
        }
        match result {
            Some(r) => {
                self.facts.overloads.insert(id, fitting);
                r
            }
            None => {
                let shown: Vec<String> = types.iter().map(|t| self.resolve(t, true).to_string()).collect();
                let applied = match shown.split_first() {
                    Some((first, rest)) if member => format!("{first}.({})", rest.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                if !types.iter().any(|t| matches!(t, Type::Error)) || member {
                    self.tell(pos, format!("found no matching overload for '{}' applied to '{applied}'", f.name));
                }
                Type::Error
            }
        }
    }

    fn construct(&mut self, e: &mut Expr) -> Type {
        let pos = e.pos;
        let Kind::Struct { name, fields } = &mut e.kind else { return Type::Error };
        let ty = match self.constructed(name) {
            Some(ty) => ty,
            None if named_type(name).is_some() => {
                let message = format!("'{name}' is not a message type");
                self.tell(pos, message);
                Type::Error
            }
            None => {
                let name = name.clone();
                self.undeclared(pos, &name)
            }
        };
        for f in fields {
            let value = self.check(&mut f.value);
            let value = self.unwrap_entry(value, f.optional, f.value.pos);
            if !matches!(ty, Type::Object(_)) {
                continue;
            }
            let field = self.field(&ty, &f.name, f.pos, false);
            if !self.assign(&field, &value) {
                let (want, have) = (self.resolve(&field, true), self.resolve(&value, true));
                self.tell(f.pos, format!("expected type of field '{}' is '{want}' but provided type is '{have}'", f.name));
            }
        }
        ty
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.check(&mut fold.range);
        let accu = self.check(&mut fold.init);
        let (first, second) = match self.resolve(&range, false) {
            Type::List(item) if fold.var2.is_some() => (Type::Int, (*item).clone()),
            Type::List(item) => ((*item).clone(), Type::Dyn),
            Type::Map(key, value) => ((*key).clone(), (*value).clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Param(n) => {
                self.bind(n, Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                self.tell(fold.range.pos, format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"));
                (Type::Error, Type::Error)
            }
        };
        let outer = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let inner = self.scopes.len();
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.check(&mut fold.condition);
        self.expect(&fold.condition, &Type::Bool, &condition);
        let step = self.check(&mut fold.step);
        self.expect(&fold.step, &accu, &step);
        self.scopes.truncate(inner);
        let result = self.check(&mut fold.result);
        self.scopes.truncate(outer);
        self.resolve(&result, false)
    }

    fn expect(&mut self, e: &Expr, want: &Type, have: &Type) {
        if !self.assign(want, have) {
            let (want, have) = (self.resolve(want, true), self.resolve(have, true));
            self.tell(e.pos, format!("expected type '{want}' but found '{have}'"));
        }
    }

    /// The type an optional entry `?x` adds.
    fn unwrap_entry(&mut self, ty: Type, optional: bool, pos: u32) -> Type {
        if !optional {
            return ty;
        }
        match self.resolve(&ty, false) {
            Type::Optional(of) => (*of).clone(),
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.tell(pos, format!("expected type 'optional_type({other})' but found '{other}'"));
                Type::Error
            }
        }
    }

    /// The type of aggregates' entries.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        match previous {
            None => current,
            Some(previous) if self.assign(&previous, &current) => most_general(&previous, &current),
            Some(_) => Type::Dyn,
        }
    }

    // --- type variables ---

    fn bind(&mut self, n: u32, to: Type) {
        let old = self.bound[n as usize].replace(to);
        self.trail.push((n, old));
    }

    fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Param(self.bound.len() as u32 - 1)
    }

    /// The type with variables replaced by what they stand for; unbound ones by `dyn` where `all`.
    fn resolve(&self, t: &Type, all: bool) -> Type {
        match t {
            Type::Param(n) => match &self.bound[*n as usize] {
                Some(t) => self.resolve(t, all),
                None if all => Type::Dyn,
                None => t.clone(),
            },
            Type::List(a) => Type::list(self.resolve(a, all)),
            Type::Optional(a) => Type::optional(self.resolve(a, all)),
            Type::Type(a) => Type::Type(Arc::new(self.resolve(a, all))),
            Type::Map(a, b) => Type::Map(Arc::new(self.resolve(a, all)), Arc::new(self.resolve(b, all))),
            other => other.clone(),
        }
    }

    fn occurs(&self, n: u32, t: &Type) -> bool {
        match t {
            Type::Param(m) => *m == n || self.bound[*m as usize].as_ref().is_some_and(|t| self.occurs(n, t)),
            Type::List(a) | Type::Optional(a) | Type::Type(a) => self.occurs(n, a),
            Type::Map(a, b) => self.occurs(n, a) || self.occurs(n, b),
            _ => false,
        }
    }

    /// Whether a value of type `have` may stand where `want` is wanted; binds variables on the way, also where the answer is no.
    fn assign(&mut self, want: &Type, have: &Type) -> bool {
        match (want, have) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (other, Type::Param(n)) | (Type::Param(n), other) => match self.bound[*n as usize].clone() {
                Some(known) => {
                    let fits = self.assign(&known, other);
                    if fits {
                        let general = most_general(&known, other);
                        if !self.occurs(*n, &general) {
                            self.bind(*n, general);
                        }
                    }
                    fits
                }
                None if self.occurs(*n, other) => matches!(self.resolve(other, false), Type::Param(m) if m == *n),
                None => {
                    self.bind(*n, other.clone());
                    true
                }
            },
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, other) | (other, Type::Null) => {
                matches!(other, Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Duration | Type::Timestamp)
            }
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.assign(a, c) && self.assign(b, d),
            _ => want.same(have),
        }
    }

    // --- literals ---

    /// Entries of one literal are of one type, except in what is formatted; texts that functions will parse must parse.
    fn literals(&mut self, e: &Expr, formatted: bool) {
        let formatted = formatted || matches!(&e.kind, Kind::Call { function, .. } if &**function == "format");
        match &e.kind {
            Kind::List(items) if !formatted => self.one_type(items.iter().map(|i| (&i.value, i.optional))),
            Kind::Map(entries) if !formatted => {
                self.one_type(entries.iter().map(|i| (&i.key, false)));
                self.one_type(entries.iter().map(|i| (&i.value, i.optional)));
            }
            _ => {}
        }
        if let Kind::Call { function, args, .. } = &e.kind {
            let text = |a: Option<&Expr>| match a.map(|a| (&a.kind, a.pos)) {
                Some((Kind::Const(Literal::String(s)), pos)) => Some((s.clone(), pos)),
                _ => None,
            };
            let bad = match (&**function, args.len()) {
                ("duration", 1) => text(args.first()).filter(|(s, _)| time::parse_duration(s).is_none()),
                ("timestamp", 1) => text(args.first()).filter(|(s, _)| time::parse_timestamp(s).is_none()),
                ("matches", _) => text(args.last()).filter(|(s, _)| library::regex::compile(s).is_err()),
                _ => None,
            };
            if let Some((_, pos)) = bad {
                self.tell(pos, format!("invalid {function} argument"));
            }
        }
        e.children(&mut |c| with_room(|| self.literals(c, formatted)));
    }

    fn one_type<'e>(&mut self, entries: impl Iterator<Item = (&'e Expr, bool)>) {
        let mut first: Option<Type> = None;
        for (e, optional) in entries {
            let ty = match (self.resolve(self.facts.ty(e), false), optional) {
                (Type::Optional(of), true) => (*of).clone(),
                (ty, _) => ty,
            };
            match &first {
                Some(want) if !equivalent(want, &ty) => {
                    let (want, have) = (self.resolve(want, true), self.resolve(&ty, true));
                    return self.tell(e.pos, format!("expected type '{want}' but found '{have}'"));
                }
                Some(_) => {}
                None => first = Some(ty),
            }
        }
    }
}

/// A declaration's type with variables of its own.
fn instance(t: &Type, base: u32) -> Type {
    match t {
        Type::Param(n) => Type::Param(base + n),
        Type::List(a) => Type::list(instance(a, base)),
        Type::Optional(a) => Type::optional(instance(a, base)),
        Type::Type(a) => Type::Type(Arc::new(instance(a, base))),
        Type::Map(a, b) => Type::Map(Arc::new(instance(a, base)), Arc::new(instance(b, base))),
        other => other.clone(),
    }
}

/// The same type, where type variables are as any.
fn equivalent(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Param(_), _) | (_, Type::Param(_)) => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) | (Type::Type(a), Type::Type(b)) => equivalent(a, b),
        (Type::Map(a, b), Type::Map(c, d)) => equivalent(a, c) && equivalent(b, d),
        _ => a.same(b),
    }
}

fn most_general(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::Dyn, _) | (_, Type::Dyn) => Type::Dyn,
        (Type::List(a), Type::List(b)) => Type::list(most_general(a, b)),
        (Type::Optional(a), Type::Optional(b)) => Type::optional(most_general(a, b)),
        (Type::Map(a, b), Type::Map(c, d)) => Type::Map(Arc::new(most_general(a, c)), Arc::new(most_general(b, d))),
        (Type::Null | Type::Param(_), b) => b.clone(),
        _ => a.clone(),
    }
}
