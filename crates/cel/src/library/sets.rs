//! The sets library: lists looked at as sets.

use super::{Row, mismatch};
use crate::error::Result;
use crate::value::Value;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "sets.contains", overloads: &[("list_sets_contains_list", "list(A) list(A) -> bool")], run },
    Row { name: "sets.equivalent", overloads: &[("list_sets_equivalent_list", "list(A) list(A) -> bool")], run },
    Row { name: "sets.intersects", overloads: &[("list_sets_intersects_list", "list(A) list(A) -> bool")], run },
];

fn run<'a>(function: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (Value::List(a), Value::List(b)) = (&args[0], &args[1]) else { return Err(mismatch(function, args)) };
    Ok(match function {
        "sets.contains" => b.iter().all(|v| a.contains(&v)),
        "sets.equivalent" => b.iter().all(|v| a.contains(&v)) && a.iter().all(|v| b.contains(&v)),
        _ => a.iter().any(|v| b.contains(&v)),
    }
    .into())
}
