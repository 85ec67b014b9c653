//! `jsonpatch.escapeKey`, for keys in the paths of JSON patches (RFC 6901).

use super::{Row, mismatch};
use crate::error::Result;
use crate::value::Value;

pub(crate) const ROWS: &[Row] = &[Row { name: "jsonpatch.escapeKey", overloads: &[("string_jsonpatch_escapeKey_string", "string -> string")], run }];

fn run<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(s) = a[0].as_str() else { return Err(mismatch(function, a)) };
    Ok(s.replace('~', "~0").replace('/', "~1").into())
}
