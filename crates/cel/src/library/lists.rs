//! Kubernetes' list library.

use super::standard::add;
use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::{Value, equal, order};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "isSorted",
        overloads: &[
            ("list_int_is_sorted_bool", ".list(int) -> bool"),
            ("list_uint_is_sorted_bool", ".list(uint) -> bool"),
            ("list_double_is_sorted_bool", ".list(double) -> bool"),
            ("list_bool_is_sorted_bool", ".list(bool) -> bool"),
            ("list_duration_is_sorted_bool", ".list(duration) -> bool"),
            ("list_timestamp_is_sorted_bool", ".list(timestamp) -> bool"),
            ("list_string_is_sorted_bool", ".list(string) -> bool"),
            ("list_bytes_is_sorted_bool", ".list(bytes) -> bool"),
        ],
        run: is_sorted,
    },
    Row {
        name: "sum",
        overloads: &[
            ("list_int_sum_int", ".list(int) -> int"),
            ("list_uint_sum_uint", ".list(uint) -> uint"),
            ("list_double_sum_double", ".list(double) -> double"),
            ("list_duration_sum_duration", ".list(duration) -> duration"),
        ],
        run: sum,
    },
    Row { name: "min", overloads: EXTREMES, run: extreme },
    Row { name: "max", overloads: EXTREMES, run: extreme },
    Row { name: "indexOf", overloads: &[("list_a_index_of_int", ".list(A) A -> int")], run: position },
    Row { name: "lastIndexOf", overloads: &[("list_a_last_index_of_int", ".list(A) A -> int")], run: position },
];

const EXTREMES: &[(&str, &str)] = &[
    ("list_int_extreme", ".list(int) -> int"),
    ("list_uint_extreme", ".list(uint) -> uint"),
    ("list_double_extreme", ".list(double) -> double"),
    ("list_bool_extreme", ".list(bool) -> bool"),
    ("list_duration_extreme", ".list(duration) -> duration"),
    ("list_timestamp_extreme", ".list(timestamp) -> timestamp"),
    ("list_string_extreme", ".list(string) -> string"),
    ("list_bytes_extreme", ".list(bytes) -> bytes"),
];

fn is_sorted<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let mut previous: Option<Value<'a>> = None;
    for item in items.iter() {
        if let Some(p) = &previous
            && order(p, &item)?.is_some_and(|o| o.is_gt())
        {
            return Ok(false.into());
        }
        previous = Some(item);
    }
    Ok(true.into())
}

fn sum<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let mut total: Option<Value<'a>> = None;
    for item in items.iter() {
        total = Some(match total {
            None => add(item.clone(), &zero_like(&item))?,
            Some(t) => add(t, &item)?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn zero_like(v: &Value<'_>) -> Value<'static> {
    match v {
        Value::Uint(_) => Value::Uint(0),
        Value::Double(_) => Value::Double(0.0),
        Value::Duration(_) => Value::Duration(0),
        _ => Value::Int(0),
    }
}

fn extreme<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let mut best: Option<Value<'a>> = None;
    for item in items.iter() {
        let better = match &best {
            None => true,
            Some(b) => order(&item, b)?.is_some_and(|o| if function == "min" { o.is_lt() } else { o.is_gt() }),
        };
        if better {
            best = Some(item);
        }
    }
    best.map_or_else(|| fail(format!("{function} called on empty list")), Ok)
}

fn position<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let mut hits = items.iter().enumerate().filter(|(_, v)| equal(v, &a[1])).map(|(i, _)| i as i64);
    Ok(Value::Int(if function == "indexOf" { hits.next() } else { hits.last() }.unwrap_or(-1)))
}
