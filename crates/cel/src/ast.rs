//! The tree of an expression, with macros expanded.

use std::sync::Arc;

/// A node: `id` is unique in its expression, `pos` its place in the text in code points.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub id: u32,
    pub pos: u32,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// What stands where the parser recovered from an error.
    Error,
    Const(Literal),
    Ident(Arc<str>),
    /// An identifier that the checker found to be a type.
    TypeName(Arc<str>),
    /// `operand.field`, or `has(operand.field)` where `test`.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<FieldInit>,
    },
    Fold(Box<Fold>),
}

#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct FieldInit {
    pub pos: u32,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// A comprehension: what every macro over a range becomes.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub var: Arc<str>,
    /// The second variable of the two-variable macros.
    pub var2: Option<Arc<str>>,
    pub range: Expr,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// The accumulator's name: no identifier of a text can be it.
pub(crate) const ACCUMULATOR: &str = "@result";

/// Names of the operators as functions, as cel-go's messages print them.
pub(crate) mod op {
    pub const CONDITIONAL: &str = "_?_:_";
    pub const AND: &str = "_&&_";
    pub const OR: &str = "_||_";
    pub const NOT: &str = "!_";
    pub const NEGATE: &str = "-_";
    pub const EQ: &str = "_==_";
    pub const NE: &str = "_!=_";
    pub const LT: &str = "_<_";
    pub const LE: &str = "_<=_";
    pub const GT: &str = "_>_";
    pub const GE: &str = "_>=_";
    pub const ADD: &str = "_+_";
    pub const SUB: &str = "_-_";
    pub const MUL: &str = "_*_";
    pub const DIV: &str = "_/_";
    pub const MOD: &str = "_%_";
    pub const IN: &str = "@in";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub const MAP_INSERT: &str = "cel.@mapInsert";
}

impl Expr {
    /// `a.b.c` of identifiers and plain selections.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }
    pub fn is_const(&self) -> bool {
        matches!(self.kind, Kind::Const(_))
    }
    /// Calls `f` on every direct child.
    pub fn children<'e>(&'e self, f: &mut dyn FnMut(&'e Expr)) {
        match &self.kind {
            Kind::Error | Kind::Const(_) | Kind::Ident(_) | Kind::TypeName(_) => {}
            Kind::Select { operand, .. } => f(operand),
            Kind::Call { target, args, .. } => {
                target.iter().for_each(|t| f(t));
                args.iter().for_each(f);
            }
            Kind::List(items) => items.iter().for_each(|e| f(&e.value)),
            Kind::Map(entries) => entries.iter().for_each(|e| {
                f(&e.key);
                f(&e.value);
            }),
            Kind::Struct { fields, .. } => fields.iter().for_each(|e| f(&e.value)),
            Kind::Fold(c) => [&c.range, &c.init, &c.condition, &c.step, &c.result].into_iter().for_each(f),
        }
    }
}
