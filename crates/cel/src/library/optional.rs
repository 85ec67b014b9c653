//! Optional values. `optMap` and `optFlatMap` are macros.

use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::Value;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "optional.of", overloads: &[("optional_of", "A -> optional(A)")], run: |_, a| Ok(Value::some(a[0].clone())) },
    Row { name: "optional.ofNonZeroValue", overloads: &[("optional_ofNonZeroValue", "A -> optional(A)")], run: of_non_zero },
    Row { name: "optional.none", overloads: &[("optional_none", "-> optional(A)")], run: |_, _| Ok(Value::NONE) },
    Row { name: "value", overloads: &[("optional_value", ".optional(A) -> A")], run: value },
    Row { name: "hasValue", overloads: &[("optional_hasValue", ".optional(A) -> bool")], run: value },
    Row { name: "or", overloads: &[("optional_or_optional", ".optional(A) optional(A) -> optional(A)")], run: value },
    Row { name: "orValue", overloads: &[("optional_orValue_value", ".optional(A) A -> A")], run: value },
    Row { name: "optional.unwrap", overloads: &[("optional_unwrap", "list(optional(A)) -> list(A)")], run: unwrap },
    Row { name: "unwrapOpt", overloads: &[("optional_unwrapOpt", ".list(optional(A)) -> list(A)")], run: unwrap },
    Row { name: "first", overloads: &[("list_first", ".list(A) -> optional(A)")], run: end },
    Row { name: "last", overloads: &[("list_last", ".list(A) -> optional(A)")], run: end },
];

fn of_non_zero<'a>(_: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(if a[0].is_zero() { Value::NONE } else { Value::some(a[0].clone()) })
}

fn value<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match (&a[0], function) {
        (Value::Optional(o), "hasValue") => Ok(o.is_some().into()),
        (Value::Optional(Some(v)), "value" | "orValue") => Ok((**v).clone()),
        (Value::Optional(None), "value") => fail("optional.none() dereference"),
        (Value::Optional(Some(_)), "or") => Ok(a[0].clone()),
        (Value::Optional(None), _) => Ok(a[1].clone()),
        _ => Err(mismatch(function, a)),
    }
}

fn unwrap<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let mut found = Vec::new();
    for item in items.iter() {
        match item {
            Value::Optional(Some(v)) => found.push((*v).clone()),
            Value::Optional(None) => {}
            other => return fail(format!("value {} is not optional", super::standard::show(&other))),
        }
    }
    Ok(Value::list(found))
}

fn end<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let at = if function == "first" { Some(0) } else { items.len().checked_sub(1) };
    Ok(Value::Optional(at.and_then(|i| items.get(i)).map(std::sync::Arc::new)))
}
