//! The math library; an extension. `math.greatest` and `math.least` are macros over `math.@max` and `math.@min`.

use super::standard::int_overflow;
use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::{List, Value, order};

pub(crate) const ROWS: &[Row] = &[
    Row { name: "math.@max", overloads: EXTREMES, run: extreme },
    Row { name: "math.@min", overloads: EXTREMES, run: extreme },
    Row { name: "math.ceil", overloads: &[("math_ceil_double", "double -> double")], run: rounding },
    Row { name: "math.floor", overloads: &[("math_floor_double", "double -> double")], run: rounding },
    Row { name: "math.round", overloads: &[("math_round_double", "double -> double")], run: rounding },
    Row { name: "math.trunc", overloads: &[("math_trunc_double", "double -> double")], run: rounding },
    Row { name: "math.isInf", overloads: &[("math_isInf_double", "double -> bool")], run: rounding },
    Row { name: "math.isNaN", overloads: &[("math_isNaN_double", "double -> bool")], run: rounding },
    Row { name: "math.isFinite", overloads: &[("math_isFinite_double", "double -> bool")], run: rounding },
    Row { name: "math.abs", overloads: &[("math_abs_double", "double -> double"), ("math_abs_int", "int -> int"), ("math_abs_uint", "uint -> uint")], run: sign },
    Row { name: "math.sign", overloads: &[("math_sign_double", "double -> double"), ("math_sign_int", "int -> int"), ("math_sign_uint", "uint -> uint")], run: sign },
    Row { name: "math.sqrt", overloads: &[("math_sqrt_double", "double -> double"), ("math_sqrt_int", "int -> double"), ("math_sqrt_uint", "uint -> double")], run: sign },
    Row { name: "math.bitAnd", overloads: &[("math_bitAnd_int_int", "int int -> int"), ("math_bitAnd_uint_uint", "uint uint -> uint")], run: bits },
    Row { name: "math.bitOr", overloads: &[("math_bitOr_int_int", "int int -> int"), ("math_bitOr_uint_uint", "uint uint -> uint")], run: bits },
    Row { name: "math.bitXor", overloads: &[("math_bitXor_int_int", "int int -> int"), ("math_bitXor_uint_uint", "uint uint -> uint")], run: bits },
    Row { name: "math.bitNot", overloads: &[("math_bitNot_int_int", "int -> int"), ("math_bitNot_uint_uint", "uint -> uint")], run: bits },
    Row { name: "math.bitShiftLeft", overloads: &[("math_bitShiftLeft_int_int", "int int -> int"), ("math_bitShiftLeft_uint_int", "uint int -> uint")], run: bits },
    Row { name: "math.bitShiftRight", overloads: &[("math_bitShiftRight_int_int", "int int -> int"), ("math_bitShiftRight_uint_int", "uint int -> uint")], run: bits },
];

const EXTREMES: &[(&str, &str)] = &[
    ("math_@extreme_list", "list(A) -> dyn"),
    ("math_@extreme_one", "dyn -> dyn"),
    ("math_@extreme_two", "dyn dyn -> dyn"),
    ("math_@extreme_three", "dyn dyn dyn -> dyn"),
    ("math_@extreme_four", "dyn dyn dyn dyn -> dyn"),
    ("math_@extreme_five", "dyn dyn dyn dyn dyn -> dyn"),
];

fn extreme<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let items = match a {
        [Value::List(l)] => l.clone(),
        _ => List::Made(std::sync::Arc::new(a.to_vec())),
    };
    let mut best: Option<Value<'a>> = None;
    for item in items.iter() {
        if !matches!(item, Value::Int(_) | Value::Uint(_) | Value::Double(_)) {
            return Err(mismatch(function, a));
        }
        let better = match &best {
            None => true,
            Some(b) => order(&item, b)?.is_some_and(|o| if function == "math.@min" { o.is_lt() } else { o.is_gt() }),
        };
        if better {
            best = Some(item);
        }
    }
    best.map_or_else(|| fail(format!("{function}(list) argument must not be empty")), Ok)
}

fn rounding<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Double(d) = a[0] else { return Err(mismatch(function, a)) };
    Ok(match function {
        "math.ceil" => Value::Double(d.ceil()),
        "math.floor" => Value::Double(d.floor()),
        "math.round" => Value::Double(d.round()),
        "math.trunc" => Value::Double(d.trunc()),
        "math.isInf" => d.is_infinite().into(),
        "math.isNaN" => d.is_nan().into(),
        _ => d.is_finite().into(),
    })
}

fn sign<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match (&a[0], function) {
        (Value::Int(i), "math.abs") => Value::Int(i.checked_abs().ok_or_else(int_overflow)?),
        (Value::Uint(u), "math.abs") => Value::Uint(*u),
        (Value::Double(d), "math.abs") => Value::Double(d.abs()),
        (Value::Int(i), "math.sign") => Value::Int(i.signum()),
        (Value::Uint(u), "math.sign") => Value::Uint((*u > 0).into()),
        (Value::Double(d), "math.sign") => Value::Double(if *d == 0.0 || d.is_nan() { *d } else { d.signum() }),
        (Value::Int(i), _) => Value::Double((*i as f64).sqrt()),
        (Value::Uint(u), _) => Value::Double((*u as f64).sqrt()),
        (Value::Double(d), _) => Value::Double(d.sqrt()),
        _ => return Err(mismatch(function, a)),
    })
}

fn bits<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    if let (true, Some(Value::Int(n))) = (function.starts_with("math.bitShift"), a.get(1)) {
        let Ok(n) = u32::try_from(*n) else { return fail(format!("{function}() negative offset: {n}")) };
        let left = function.ends_with("Left");
        return Ok(match &a[0] {
            Value::Int(i) if left => Value::Int(i.checked_shl(n).unwrap_or(0)),
            // The sign is not kept, as cel-go shifts the bits.
            Value::Int(i) => Value::Int((*i as u64).checked_shr(n).unwrap_or(0) as i64),
            Value::Uint(u) => Value::Uint(if left { u.checked_shl(n) } else { u.checked_shr(n) }.unwrap_or(0)),
            _ => return Err(mismatch(function, a)),
        });
    }
    Ok(match (a, function) {
        ([Value::Int(i)], "math.bitNot") => Value::Int(!i),
        ([Value::Uint(u)], "math.bitNot") => Value::Uint(!u),
        ([Value::Int(x), Value::Int(y)], "math.bitAnd") => Value::Int(x & y),
        ([Value::Int(x), Value::Int(y)], "math.bitOr") => Value::Int(x | y),
        ([Value::Int(x), Value::Int(y)], _) => Value::Int(x ^ y),
        ([Value::Uint(x), Value::Uint(y)], "math.bitAnd") => Value::Uint(x & y),
        ([Value::Uint(x), Value::Uint(y)], "math.bitOr") => Value::Uint(x | y),
        ([Value::Uint(x), Value::Uint(y)], _) => Value::Uint(x ^ y),
        _ => return Err(mismatch(function, a)),
    })
}
