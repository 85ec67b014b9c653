//! cel-go's list library, version 3: slices, flattening, sorting. `sortBy` is a macro over `@sortByAssociatedKeys`.

use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::{List, Value, order};

pub(crate) const ROWS: &[Row] = &[
    Row { name: "slice", overloads: &[("list_slice", ".list(A) int int -> list(A)")], run: slice },
    Row { name: "flatten", overloads: &[("list_flatten", ".list(list(A)) -> list(A)"), ("list_flatten_int", ".list(dyn) int -> list(dyn)")], run: flatten },
    Row { name: "distinct", overloads: &[("list_distinct", ".list(A) -> list(A)")], run: whole },
    Row { name: "reverse", overloads: &[("list_reverse", ".list(A) -> list(A)")], run: whole },
    Row { name: "lists.range", overloads: &[("lists_range", "int -> list(int)")], run: range },
    Row {
        name: "sort",
        overloads: &[
            ("list_int_sort", ".list(int) -> list(int)"),
            ("list_uint_sort", ".list(uint) -> list(uint)"),
            ("list_double_sort", ".list(double) -> list(double)"),
            ("list_bool_sort", ".list(bool) -> list(bool)"),
            ("list_duration_sort", ".list(duration) -> list(duration)"),
            ("list_timestamp_sort", ".list(timestamp) -> list(timestamp)"),
            ("list_string_sort", ".list(string) -> list(string)"),
            ("list_bytes_sort", ".list(bytes) -> list(bytes)"),
        ],
        run: sort,
    },
    Row {
        name: "@sortByAssociatedKeys",
        overloads: &[
            ("list_int_sortByAssociatedKeys", ".list(A) list(int) -> list(A)"),
            ("list_uint_sortByAssociatedKeys", ".list(A) list(uint) -> list(A)"),
            ("list_double_sortByAssociatedKeys", ".list(A) list(double) -> list(A)"),
            ("list_bool_sortByAssociatedKeys", ".list(A) list(bool) -> list(A)"),
            ("list_duration_sortByAssociatedKeys", ".list(A) list(duration) -> list(A)"),
            ("list_timestamp_sortByAssociatedKeys", ".list(A) list(timestamp) -> list(A)"),
            ("list_string_sortByAssociatedKeys", ".list(A) list(string) -> list(A)"),
            ("list_bytes_sortByAssociatedKeys", ".list(A) list(bytes) -> list(A)"),
        ],
        run: sort,
    },
];

const MAX_RANGE: i64 = 10_000_000;

fn slice<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::List(l), Value::Int(start), Value::Int(end)] = a else { return Err(mismatch(function, a)) };
    if *start < 0 || *end < 0 {
        return fail(format!("cannot slice({start}, {end}), negative indexes not supported"));
    }
    if start > end {
        return fail(format!("cannot slice({start}, {end}), start index must be less than or equal to end index"));
    }
    if (l.len() as i64) < *end {
        return fail(format!("cannot slice({start}, {end}), list is length {}", l.len()));
    }
    Ok(Value::list((*start as usize..*end as usize).filter_map(|i| l.get(i)).collect()))
}

fn flatten<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    fn into<'a>(l: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) {
        for v in l.iter() {
            match v {
                Value::List(inner) if depth > 0 => into(&inner, depth - 1, out),
                other => out.push(other),
            }
        }
    }
    let (l, depth) = match a {
        [Value::List(l)] => (l, 1),
        [Value::List(l), Value::Int(depth)] => (l, *depth),
        _ => return Err(mismatch(function, a)),
    };
    if depth < 0 {
        return fail("level must be non-negative");
    }
    let mut out = Vec::new();
    into(l, depth, &mut out);
    Ok(Value::list(out))
}

fn whole<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::List(l)] = a else { return Err(mismatch(function, a)) };
    if function == "reverse" {
        return Ok(Value::list((0..l.len()).rev().filter_map(|i| l.get(i)).collect()));
    }
    let mut seen: Vec<Value<'a>> = Vec::new();
    for v in l.iter() {
        if !seen.iter().any(|s| crate::value::equal(s, &v)) {
            seen.push(v);
        }
    }
    Ok(Value::list(seen))
}

fn range<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::Int(n)] = a else { return Err(mismatch(function, a)) };
    match *n {
        n if n < 0 => fail(format!("lists.range: size must be non-negative, got {n}")),
        n if n > MAX_RANGE => fail(format!("lists.range: size {n} exceeds maximum allowed ({MAX_RANGE})")),
        n => Ok(Value::list((0..n).map(Value::Int).collect())),
    }
}

/// By the values themselves, or by keys of the same number.
fn sort<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (l, keys) = match a {
        [Value::List(l)] => (l, l),
        [Value::List(l), Value::List(keys)] => (l, keys),
        _ => return Err(mismatch(function, a)),
    };
    if l.len() != keys.len() {
        return fail(format!("@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively", l.len(), keys.len()));
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.iter().zip(l.iter()).collect();
    let Some(first) = pairs.first().map(|(k, _)| k.clone()) else { return Ok(a[0].clone()) };
    if order(&first, &first).is_err() {
        return fail("list elements must be comparable");
    }
    if pairs.iter().any(|(k, _)| k.type_name() != first.type_name()) {
        return fail("list elements must have the same type");
    }
    pairs.sort_by(|(x, _), (y, _)| order(x, y).ok().flatten().unwrap_or(std::cmp::Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, v)| v).collect()))
}
