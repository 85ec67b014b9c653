//! Quantities.

use super::{Row, fail, mismatch};
use crate::error::Result;
use crate::value::Value;
use keles_api::Quantity;
use keles_api::quantity::Format;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "quantity", overloads: &[("string_to_quantity", "string -> quantity")], run: make },
    Row { name: "isQuantity", overloads: &[("is_quantity_string", "string -> bool")], run: make },
    Row { name: "sign", overloads: &[("quantity_sign", ".quantity -> int")], run: one },
    Row { name: "isInteger", overloads: &[("quantity_is_integer", ".quantity -> bool")], run: one },
    Row { name: "asInteger", overloads: &[("quantity_as_integer", ".quantity -> int")], run: one },
    Row { name: "asApproximateFloat", overloads: &[("quantity_get_float", ".quantity -> double")], run: one },
    Row { name: "isGreaterThan", overloads: &[("quantity_is_greater_than", ".quantity quantity -> bool")], run: two },
    Row { name: "isLessThan", overloads: &[("quantity_is_less_than", ".quantity quantity -> bool")], run: two },
    Row { name: "compareTo", overloads: &[("quantity_compare_to", ".quantity quantity -> int")], run: two },
    Row { name: "add", overloads: &[("quantity_add", ".quantity quantity -> quantity"), ("quantity_add_int", ".quantity int -> quantity")], run: two },
    Row { name: "sub", overloads: &[("quantity_sub", ".quantity quantity -> quantity"), ("quantity_sub_int", ".quantity int -> quantity")], run: two },
];

fn make<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(s) = a[0].as_str() else { return Err(mismatch(function, a)) };
    match (Quantity::parse(s), function) {
        (parsed, "isQuantity") => Ok(parsed.is_ok().into()),
        (Ok(q), _) => Ok(Value::Quantity(q)),
        (Err(e), _) => fail(e.to_string()),
    }
}

/// The whole units of a quantity that has nothing else.
fn whole(q: Quantity) -> Option<i64> {
    let units = q.units();
    (Quantity::new(units, Format::DecimalSi) == q).then_some(units)
}

fn one<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Quantity(q) = &a[0] else { return Err(mismatch(function, a)) };
    Ok(match function {
        "sign" => Value::Int(q.sign().into()),
        "isInteger" => whole(*q).is_some().into(),
        "asInteger" => match whole(*q) {
            Some(i) => Value::Int(i),
            None => return fail("cannot convert value to integer"),
        },
        _ => Value::Double(q.as_f64()),
    })
}

fn two<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (q, other) = match (&a[0], &a[1], function) {
        (Value::Quantity(q), Value::Quantity(o), _) => (*q, *o),
        (Value::Quantity(q), Value::Int(i), "add" | "sub") => (*q, Quantity::new(*i, Format::DecimalExponent)),
        _ => return Err(mismatch(function, a)),
    };
    Ok(match function {
        "isGreaterThan" => (q > other).into(),
        "isLessThan" => (q < other).into(),
        "compareTo" => Value::Int(q.cmp(&other) as i64),
        "add" => Value::Quantity(q.add(other)),
        _ => Value::Quantity(q.sub(other)),
    })
}
