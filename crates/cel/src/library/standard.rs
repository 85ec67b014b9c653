//! CEL's standard functions and operators. The logical operators are the evaluator's, since they need not evaluate all arguments.

use super::{Row, fail, time};
use crate::ast::op;
use crate::error::{EvalError, Result};
use crate::value::{Key, List, Value, concat, equal, order};
use std::cmp::Ordering;
use std::sync::Arc;

pub(crate) const ROWS: &[Row] = &[
    Row { name: op::CONDITIONAL, overloads: &[("conditional", "bool A A -> A")], run: mismatched },
    Row { name: op::AND, overloads: &[("logical_and", "bool bool -> bool")], run: mismatched },
    Row { name: op::OR, overloads: &[("logical_or", "bool bool -> bool")], run: mismatched },
    Row { name: op::NOT, overloads: &[("logical_not", "bool -> bool")], run: not },
    Row { name: op::NOT_STRICTLY_FALSE, overloads: &[("not_strictly_false", "bool -> bool")], run: mismatched },
    Row { name: op::EQ, overloads: &[("equals", "A A -> bool")], run: |_, a| Ok(equal(&a[0], &a[1]).into()) },
    Row { name: op::NE, overloads: &[("not_equals", "A A -> bool")], run: |_, a| Ok((!equal(&a[0], &a[1])).into()) },
    Row { name: op::LT, overloads: &[], run: compare },
    Row { name: op::LE, overloads: &[], run: compare },
    Row { name: op::GT, overloads: &[], run: compare },
    Row { name: op::GE, overloads: &[], run: compare },
    Row {
        name: op::ADD,
        overloads: &[
            ("add_bytes", "bytes bytes -> bytes"),
            ("add_double", "double double -> double"),
            ("add_duration_duration", "duration duration -> duration"),
            ("add_duration_timestamp", "duration timestamp -> timestamp"),
            ("add_timestamp_duration", "timestamp duration -> timestamp"),
            ("add_int64", "int int -> int"),
            ("add_list", "list(A) list(A) -> list(A)"),
            ("add_string", "string string -> string"),
            ("add_uint64", "uint uint -> uint"),
        ],
        run: |_, a| add(a[0].clone(), &a[1]),
    },
    Row {
        name: op::SUB,
        overloads: &[
            ("subtract_double", "double double -> double"),
            ("subtract_duration_duration", "duration duration -> duration"),
            ("subtract_int64", "int int -> int"),
            ("subtract_timestamp_duration", "timestamp duration -> timestamp"),
            ("subtract_timestamp_timestamp", "timestamp timestamp -> duration"),
            ("subtract_uint64", "uint uint -> uint"),
        ],
        run: subtract,
    },
    Row {
        name: op::MUL,
        overloads: &[("multiply_double", "double double -> double"), ("multiply_int64", "int int -> int"), ("multiply_uint64", "uint uint -> uint")],
        run: arithmetic,
    },
    Row { name: op::DIV, overloads: &[("divide_double", "double double -> double"), ("divide_int64", "int int -> int"), ("divide_uint64", "uint uint -> uint")], run: arithmetic },
    Row { name: op::MOD, overloads: &[("modulo_int64", "int int -> int"), ("modulo_uint64", "uint uint -> uint")], run: arithmetic },
    Row { name: op::NEGATE, overloads: &[("negate_double", "double -> double"), ("negate_int64", "int -> int")], run: negate },
    Row { name: op::IN, overloads: &[("in_list", "A list(A) -> bool"), ("in_map", "A map(A,B) -> bool")], run: |_, a| contains_value(&a[0], &a[1]) },
    Row {
        name: op::INDEX,
        overloads: &[
            ("index_list", "list(A) int -> A"),
            ("index_map", "map(A,B) A -> B"),
            ("optional_list_index_int", "optional(list(A)) int -> optional(A)"),
            ("optional_map_index_value", "optional(map(A,B)) A -> optional(B)"),
        ],
        run: mismatched,
    },
    Row {
        name: op::OPT_INDEX,
        overloads: &[
            ("list_optindex_optional_int", "list(A) int -> optional(A)"),
            ("optional_list_optindex_optional_int", "optional(list(A)) int -> optional(A)"),
            ("map_optindex_optional_value", "map(A,B) A -> optional(B)"),
            ("optional_map_optindex_optional_value", "optional(map(A,B)) A -> optional(B)"),
        ],
        run: mismatched,
    },
    Row {
        name: op::MAP_INSERT,
        overloads: &[("@mapInsert_map_map", "map(A,B) map(A,B) -> map(A,B)"), ("@mapInsert_map_key_value", "map(A,B) A B -> map(A,B)")],
        run: |_, a| map_insert(a[0].clone(), &a[1..]),
    },
    Row {
        name: "size",
        overloads: &[
            ("size_bytes", "bytes -> int"),
            ("bytes_size", ".bytes -> int"),
            ("size_list", "list(A) -> int"),
            ("list_size", ".list(A) -> int"),
            ("size_map", "map(A,B) -> int"),
            ("map_size", ".map(A,B) -> int"),
            ("size_string", "string -> int"),
            ("string_size", ".string -> int"),
        ],
        run: size,
    },
    Row { name: "type", overloads: &[("type", "A -> type(A)")], run: |_, a| Ok(Value::Type(a[0].type_name().into())) },
    Row { name: "dyn", overloads: &[("to_dyn", "A -> dyn")], run: |_, a| Ok(a[0].clone()) },
    Row { name: "bool", overloads: &[("bool_to_bool", "bool -> bool"), ("string_to_bool", "string -> bool")], run: to_bool },
    Row { name: "bytes", overloads: &[("bytes_to_bytes", "bytes -> bytes"), ("string_to_bytes", "string -> bytes")], run: to_bytes },
    Row {
        name: "double",
        overloads: &[
            ("double_to_double", "double -> double"),
            ("int64_to_double", "int -> double"),
            ("string_to_double", "string -> double"),
            ("uint64_to_double", "uint -> double"),
        ],
        run: to_double,
    },
    Row {
        name: "int",
        overloads: &[
            ("int64_to_int64", "int -> int"),
            ("double_to_int64", "double -> int"),
            ("duration_to_int64", "duration -> int"),
            ("string_to_int64", "string -> int"),
            ("timestamp_to_int64", "timestamp -> int"),
            ("uint64_to_int64", "uint -> int"),
        ],
        run: to_int,
    },
    Row {
        name: "uint",
        overloads: &[("uint64_to_uint64", "uint -> uint"), ("double_to_uint64", "double -> uint"), ("int64_to_uint64", "int -> uint"), ("string_to_uint64", "string -> uint")],
        run: to_uint,
    },
    Row {
        name: "string",
        overloads: &[
            ("string_to_string", "string -> string"),
            ("bool_to_string", "bool -> string"),
            ("bytes_to_string", "bytes -> string"),
            ("double_to_string", "double -> string"),
            ("duration_to_string", "duration -> string"),
            ("int64_to_string", "int -> string"),
            ("timestamp_to_string", "timestamp -> string"),
            ("uint64_to_string", "uint -> string"),
            ("ip_to_string", "ip -> string"),
            ("cidr_to_string", "cidr -> string"),
        ],
        run: to_string,
    },
    Row { name: "contains", overloads: &[("contains_string", ".string string -> bool")], run: text_test },
    Row { name: "startsWith", overloads: &[("starts_with_string", ".string string -> bool")], run: text_test },
    Row { name: "endsWith", overloads: &[("ends_with_string", ".string string -> bool")], run: text_test },
];

/// The overloads of `<` and its like, over all pairs that compare.
pub(crate) fn comparisons() -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    const SAME: [&str; 8] = ["bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration"];
    const MIXED: [(&str, &str); 6] = [("int", "double"), ("int", "uint"), ("uint", "double"), ("uint", "int"), ("double", "int"), ("double", "uint")];
    macro_rules! ids {
        ($prefix:literal) => {
            (
                [
                    concat!($prefix, "_bool"),
                    concat!($prefix, "_int64"),
                    concat!($prefix, "_uint64"),
                    concat!($prefix, "_double"),
                    concat!($prefix, "_string"),
                    concat!($prefix, "_bytes"),
                    concat!($prefix, "_timestamp"),
                    concat!($prefix, "_duration"),
                ],
                concat!($prefix, "_numbers"),
            )
        };
    }
    let all = [(op::LT, ids!("less")), (op::LE, ids!("less_equals")), (op::GT, ids!("greater")), (op::GE, ids!("greater_equals"))];
    let of = |(same, mixed): ([&'static str; 8], &'static str)| {
        let same = SAME.iter().zip(same).map(|(t, id)| (id, format!("{t} {t} -> bool")));
        same.chain(MIXED.iter().map(|(a, b)| (mixed, format!("{a} {b} -> bool")))).collect()
    };
    all.into_iter().map(|(name, ids)| (name, of(ids))).collect()
}

fn mismatched<'a>(_: &str, _: &[Value<'a>]) -> Result<Value<'a>> {
    Err(EvalError::no_overload())
}

/// cel-go's text where the left operand has no such operation at all.
fn without(function: &str) -> EvalError {
    EvalError::new(format!("no such overload: {function}"))
}

fn not<'a>(_: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    a[0].as_bool().map(|b| Value::Bool(!b)).ok_or_else(EvalError::no_overload)
}

fn compare<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(found) = order(&a[0], &a[1])? else { return Ok(Value::Bool(false)) };
    Ok(Value::Bool(match function {
        op::LT => found.is_lt(),
        op::LE => found.is_le(),
        op::GT => found.is_gt(),
        _ => found.is_ge(),
    }))
}

pub(crate) fn add<'a>(a: Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => format!("{}{}", &*a, &**b).into(),
        (Value::Bytes(a), Value::Bytes(b)) => Value::Bytes([&*a, &**b].concat().into()),
        (Value::List(a), Value::List(b)) => Value::List(concat(a, b)),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or_else(time::duration_overflow)?),
        (Value::Duration(d), Value::Timestamp(t)) => Value::Timestamp(time::shift(*t, d.into())?),
        (Value::Timestamp(t), Value::Duration(d)) => Value::Timestamp(time::shift(t, (*d).into())?),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Duration(_) | Value::Timestamp(_), _) => {
            return Err(EvalError::no_overload());
        }
        _ => return Err(without(op::ADD)),
    })
}

fn subtract<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match (&a[0], &a[1]) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or_else(uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_sub(*b).ok_or_else(time::duration_overflow)?),
        (Value::Timestamp(t), Value::Duration(d)) => Value::Timestamp(time::shift(*t, -i128::from(*d))?),
        (Value::Timestamp(a), Value::Timestamp(b)) => Value::Duration(time::between(*a, *b)?),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_) | Value::Timestamp(_), _) => return Err(EvalError::no_overload()),
        _ => return Err(without(function)),
    })
}

fn arithmetic<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let by_zero = || EvalError::new(if function == op::DIV { "division by zero" } else { "modulus by zero" });
    Ok(match (&a[0], &a[1], function) {
        (Value::Int(a), Value::Int(b), op::MUL) => Value::Int(a.checked_mul(*b).ok_or_else(int_overflow)?),
        (Value::Int(_), Value::Int(0), _) | (Value::Uint(_), Value::Uint(0), op::DIV | op::MOD) => return Err(by_zero()),
        (Value::Int(a), Value::Int(b), op::DIV) => Value::Int(a.checked_div(*b).ok_or_else(int_overflow)?),
        (Value::Int(a), Value::Int(b), _) => Value::Int(a.checked_rem(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b), op::MUL) => Value::Uint(a.checked_mul(*b).ok_or_else(uint_overflow)?),
        (Value::Uint(a), Value::Uint(b), op::DIV) => Value::Uint(a / b),
        (Value::Uint(a), Value::Uint(b), _) => Value::Uint(a % b),
        (Value::Double(a), Value::Double(b), op::MUL) => Value::Double(a * b),
        (Value::Double(a), Value::Double(b), op::DIV) => Value::Double(a / b),
        (Value::Int(_) | Value::Uint(_), _, _) | (Value::Double(_), _, op::MUL | op::DIV) => return Err(EvalError::no_overload()),
        _ => return Err(without(function)),
    })
}

fn negate<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match &a[0] {
        Value::Int(i) => i.checked_neg().map(Value::Int).ok_or_else(int_overflow),
        Value::Double(d) => Ok(Value::Double(-d)),
        Value::Duration(d) => d.checked_neg().map(Value::Duration).ok_or_else(time::duration_overflow),
        _ => Err(without(function)),
    }
}

pub(crate) fn int_overflow() -> EvalError {
    EvalError::new("integer overflow")
}
pub(crate) fn uint_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

pub(crate) fn contains_value<'a>(item: &Value<'a>, of: &Value<'a>) -> Result<Value<'a>> {
    match of {
        Value::List(l) => Ok(l.contains(item).into()),
        Value::Map(m) => Ok(m.has_key(item).into()),
        _ => Err(without(op::IN)),
    }
}

pub(crate) fn map_insert<'a>(map: Value<'a>, rest: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Map(map) = map else { return Err(EvalError::no_overload()) };
    let mut entries = match map {
        crate::value::Map::Made(m) => Arc::try_unwrap(m).unwrap_or_else(|shared| (*shared).clone()),
        other => other.keys().into_iter().filter_map(|k| Some((Key::of(&k)?, other.get(&k)?))).collect(),
    };
    let added: Vec<(Value<'a>, Value<'a>)> = match rest {
        [key, value] => vec![(key.clone(), value.clone())],
        [Value::Map(m)] => m.keys().into_iter().filter_map(|k| Some((k.clone(), m.get(&k)?))).collect(),
        _ => return Err(EvalError::no_overload()),
    };
    for (key, value) in added {
        let Some(k) = Key::of(&key) else { return fail(format!("unsupported key type: {}", key.type_name())) };
        if entries.insert(k, value).is_some() {
            return fail(format!("insert failed: key {} already exists", show(&key)));
        }
    }
    Ok(Value::Map(crate::value::Map::Made(Arc::new(entries))))
}

fn size<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match &a[0] {
        Value::Ip(_) | Value::Cidr(_) => Err(without(function)),
        v => v.size().map(|n| Value::Int(n as i64)).ok_or_else(|| without(function)),
    }
}

/// A value as cel-go's `%v` prints it in errors.
pub(crate) fn show(v: &Value<'_>) -> String {
    match v {
        Value::String(s) => s.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => format_double(*d),
        Value::Null => "null".into(),
        Value::Type(t) => t.to_string(),
        other => other.to_json().map_or_else(|| other.type_name().to_owned(), |j| j.to_string()),
    }
}

/// cel-go's text where a value is of a type that does not convert, or a text that does not parse.
pub(crate) fn no_conversion<T>(function: &str, a: &[Value<'_>]) -> Result<T> {
    let to = match function {
        "duration" => "google.protobuf.Duration",
        "timestamp" => "google.protobuf.Timestamp",
        other => other,
    };
    fail(format!("type conversion error from '{}' to '{to}'", a[0].type_name()))
}

fn to_bool<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match &a[0] {
        Value::Bool(b) => Ok(Value::Bool(*b)),
        Value::String(s) => match &**s {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => no_conversion(function, a),
        },
        _ => no_conversion(function, a),
    }
}

fn to_bytes<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match &a[0] {
        Value::Bytes(_) => Ok(a[0].clone()),
        Value::String(s) => Ok(Value::Bytes(s.as_bytes().into())),
        _ => no_conversion(function, a),
    }
}

fn to_double<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Double(match &a[0] {
        Value::Double(d) => *d,
        Value::Int(i) => *i as f64,
        Value::Uint(u) => *u as f64,
        Value::String(s) => match s.parse::<f64>() {
            Ok(d) if d.is_finite() || s.to_ascii_lowercase().contains("inf") || s.eq_ignore_ascii_case("nan") => d,
            _ => return no_conversion(function, a),
        },
        _ => return no_conversion(function, a),
    }))
}

fn to_int<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Int(match &a[0] {
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).map_err(|_| int_overflow())?,
        // The bounds are open: doubles at them may stand for integers beyond.
        Value::Double(d) if *d > i64::MIN as f64 && *d < i64::MAX as f64 => *d as i64,
        Value::Double(_) => return Err(int_overflow()),
        Value::Duration(d) => *d,
        Value::Timestamp(t) => t.seconds,
        Value::String(s) => match s.parse() {
            Ok(i) => i,
            Err(_) => return no_conversion(function, a),
        },
        _ => return no_conversion(function, a),
    }))
}

fn to_uint<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Uint(match &a[0] {
        Value::Uint(u) => *u,
        Value::Int(i) => u64::try_from(*i).map_err(|_| uint_overflow())?,
        Value::Double(d) if *d >= 0.0 && *d < u64::MAX as f64 => *d as u64,
        Value::Double(_) => return Err(uint_overflow()),
        Value::String(s) => match s.parse() {
            Ok(u) if !s.starts_with('+') => u,
            _ => return no_conversion(function, a),
        },
        _ => return no_conversion(function, a),
    }))
}

fn to_string<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match &a[0] {
        Value::String(_) => a[0].clone(),
        Value::Bool(b) => b.to_string().into(),
        Value::Int(i) => i.to_string().into(),
        Value::Uint(u) => u.to_string().into(),
        Value::Double(d) => format_double(*d).into(),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => s.to_owned().into(),
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Duration(d) => time::format_duration(*d).into(),
        Value::Timestamp(t) => time::format_timestamp(*t).into(),
        Value::Ip(ip) => ip.to_string().into(),
        Value::Cidr(c) => c.to_string().into(),
        _ => return no_conversion(function, a),
    })
}

/// Go's `FormatFloat(d, 'g', -1, 64)`.
pub(crate) fn format_double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let shortest = format!("{d:e}");
    let (digits, exponent) = shortest.split_once('e').expect("the format has an exponent");
    match exponent.parse::<i32>().expect("the exponent is a number") {
        e @ -4..6 if d != 0.0 || e == 0 => format!("{d}"),
        e => format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
    }
}

fn text_test<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (Value::String(s), Value::String(part)) = (&a[0], &a[1]) else {
        return Err(EvalError::no_overload());
    };
    Ok(Value::Bool(match function {
        "contains" => s.contains(&**part),
        "startsWith" => s.starts_with(&**part),
        _ => s.ends_with(&**part),
    }))
}

/// An element of a list or map, by CEL's `[]`.
pub(crate) fn index<'a>(of: &Value<'a>, by: &Value<'a>) -> Result<Value<'a>> {
    match of {
        Value::List(l) => at(l, by),
        Value::Map(m) => match by {
            Value::String(_) | Value::Int(_) | Value::Uint(_) | Value::Bool(_) | Value::Double(_) => m.get(by).ok_or_else(|| EvalError::new(format!("no such key: {}", show(by)))),
            _ => fail(format!("unsupported key type: {}", by.type_name())),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn at<'a>(l: &List<'a>, by: &Value<'a>) -> Result<Value<'a>> {
    let i = match by {
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).unwrap_or(i64::MAX),
        Value::Double(d) if d.fract() == 0.0 && crate::value::number_order(by, &Value::Int(i64::MAX)) == Some(Ordering::Less) => *d as i64,
        Value::Double(_) => return fail(format!("invalid_argument: {}", show(by))),
        _ => return fail(format!("unsupported index type '{}' in list", by.type_name())),
    };
    usize::try_from(i).ok().and_then(|n| l.get(n)).ok_or_else(|| EvalError::new(format!("index out of bounds: {i}")))
}
