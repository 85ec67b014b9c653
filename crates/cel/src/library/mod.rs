//! The functions of the environment: a file a library, a row a function.
//!
//! A row holds the overloads with cel-go's and upstream's ids (costs go by them) as short signatures, and the function that runs it on
//! values whatever their static types. [`function`] finds a row by name.

pub(crate) mod authz;
pub(crate) mod collections;
pub(crate) mod format;
pub(crate) mod ip;
pub(crate) mod jsonpatch;
pub(crate) mod lists;
pub(crate) mod math;
pub(crate) mod optional;
pub(crate) mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
pub(crate) mod sets;
pub(crate) mod standard;
pub(crate) mod strings;
pub(crate) mod time;
pub(crate) mod urls;

use crate::error::{EvalError, Result};
use crate::types::Type;
use crate::value::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

type Run = for<'a> fn(&str, &[Value<'a>]) -> Result<Value<'a>>;

/// A function as its library writes it.
pub(crate) struct Row {
    pub name: &'static str,
    /// Id and signature: types of the arguments, `->`, the result's. A leading `.` makes the first one the receiver. `A` and `B` are
    /// type variables.
    pub overloads: &'static [(&'static str, &'static str)],
    pub run: Run,
}

pub(crate) struct Function {
    pub name: &'static str,
    pub overloads: Vec<Overload>,
    /// One of each library that has the name.
    runs: Vec<Run>,
}

pub(crate) struct Overload {
    /// Not part of v1.36's base environment; only where the environment was made with extensions.
    pub extension: bool,
    pub id: &'static str,
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    pub params: u32,
}

const LIBRARIES: &[&[Row]] = &[
    standard::ROWS,
    time::ROWS,
    optional::ROWS,
    strings::ROWS,
    lists::ROWS,
    collections::ROWS,
    sets::ROWS,
    regex::ROWS,
    urls::ROWS,
    quantity::ROWS,
    ip::ROWS,
    format::ROWS,
    semver::ROWS,
    authz::ROWS,
    jsonpatch::ROWS,
];
const EXTENSIONS: &[&[Row]] = &[math::ROWS, strings::EXTENSION_ROWS];

/// The row of a name. A name may have rows in several libraries (`indexOf`, `size`); they are joined, and each runs its own types.
pub(crate) fn function(name: &str, extensions: bool) -> Option<&'static Function> {
    static TABLE: OnceLock<HashMap<&'static str, Function>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Function> = HashMap::new();
        for (libraries, extension) in [(LIBRARIES, false), (EXTENSIONS, true)] {
            for row in libraries.iter().flat_map(|l| l.iter()) {
                let overloads = row.overloads.iter().map(|(id, signature)| overload(id, signature, extension));
                match table.get_mut(row.name) {
                    Some(f) => {
                        f.overloads.extend(overloads);
                        f.runs.push(row.run);
                    }
                    None => {
                        table.insert(row.name, Function { name: row.name, overloads: overloads.collect(), runs: vec![row.run] });
                    }
                }
            }
        }
        for (name, signatures) in standard::comparisons() {
            table.get_mut(name).expect("the comparisons have rows").overloads = signatures.into_iter().map(|(id, s)| overload(id, &s, false)).collect();
        }
        table
    });
    table.get(name).filter(|f| extensions || f.overloads.iter().any(|o| !o.extension))
}

impl Function {
    /// Runs the function on values; each library's part is asked until one knows the types.
    pub fn run<'a>(&self, args: &[Value<'a>]) -> Result<Value<'a>> {
        let (last, first) = self.runs.split_last().expect("every row has a function");
        for run in first {
            match run(self.name, args) {
                Err(e) if e == mismatch(self.name, args) => {}
                other => return other,
            }
        }
        last(self.name, args)
    }
}

fn overload(id: &'static str, signature: &str, extension: bool) -> Overload {
    let (args, result) = signature.split_once("->").expect("signatures have an arrow");
    let member = args.starts_with('.');
    let mut params = 0;
    let mut read = |text: &str| {
        let t = read_type(text);
        params = params.max(highest_param(&t));
        t
    };
    let args = args.trim_start_matches('.').split_whitespace().map(&mut read).collect();
    let result = read(result.trim());
    Overload { extension, id, member, args, result, params }
}

fn highest_param(t: &Type) -> u32 {
    match t {
        Type::Param(n) => n + 1,
        Type::List(a) | Type::Optional(a) | Type::Type(a) => highest_param(a),
        Type::Map(a, b) => highest_param(a).max(highest_param(b)),
        _ => 0,
    }
}

fn read_type(text: &str) -> Type {
    let inside = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix(')');
    if let Some(item) = inside("list(") {
        return Type::list(read_type(item));
    }
    if let Some(of) = inside("optional(") {
        return Type::optional(read_type(of));
    }
    if let Some(of) = inside("type(") {
        return Type::Type(Arc::new(read_type(of)));
    }
    if let Some((key, value)) = inside("map(").and_then(|kv| kv.split_once(',')) {
        return Type::Map(Arc::new(read_type(key)), Arc::new(read_type(value)));
    }
    match text {
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "url" => Type::Opaque("kubernetes.URL"),
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "authorizer" => Type::AUTHORIZER,
        "path" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "group" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "resource" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
        "decision" => Type::Opaque("kubernetes.authorization.Decision"),
        other => unreachable!("the tables name no type {other}"),
    }
}

/// Functions called without a namespace in front, for the tests that go over every row.
#[cfg(test)]
pub(crate) fn all_names() -> Vec<&'static str> {
    LIBRARIES.iter().chain(EXTENSIONS).flat_map(|l| l.iter()).map(|r| r.name).collect()
}

/// The dispatcher's error for arguments of wrong types.
pub(crate) fn mismatch(function: &str, args: &[Value<'_>]) -> EvalError {
    let types: Vec<&str> = args.iter().map(Value::type_name).collect();
    EvalError::new(format!("no such overload: {function}({})", types.join(", ")))
}

pub(crate) fn fail<T>(message: impl AsRef<str>) -> Result<T> {
    Err(EvalError::new(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_panics_on_values_of_any_type() {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::Uint(u64::MAX),
            Value::Double(f64::NAN),
            Value::from("é"),
            Value::from(""),
            Value::Bytes([255u8].as_slice().into()),
            Value::Duration(i64::MIN),
            Value::Timestamp(crate::value::Timestamp { seconds: -62_135_596_800, nanos: 1 }),
            Value::list(vec![Value::from("a"), Value::Int(1)]),
            Value::list(Vec::new()),
            Value::NONE,
            Value::Quantity(keles_api::Quantity::ZERO),
            Value::Variables,
        ];
        for name in all_names() {
            let f = function(name, true).unwrap_or_else(|| panic!("{name} has a row"));
            for overload in &f.overloads {
                for (i, first) in values.iter().enumerate() {
                    for (j, second) in values.iter().enumerate() {
                        let args: Vec<Value<'_>> = (0..overload.args.len()).map(|n| [first, second, &values[(i + j) % values.len()]][n % 3].clone()).collect();
                        let _ = f.run(&args);
                    }
                }
            }
        }
    }
}
