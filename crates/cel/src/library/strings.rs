//! The extended string library, version 2; all positions count code points.

use super::standard::format_double;
use super::{Row, fail, mismatch, time};
use crate::error::{EvalError, Result};
use crate::value::{List, Value};

pub(crate) const ROWS: &[Row] = &[
    Row { name: "charAt", overloads: &[("string_char_at_int", ".string int -> string")], run: char_at },
    Row { name: "indexOf", overloads: &[("string_index_of_string", ".string string -> int"), ("string_index_of_string_int", ".string string int -> int")], run: index_of },
    Row {
        name: "lastIndexOf",
        overloads: &[("string_last_index_of_string", ".string string -> int"), ("string_last_index_of_string_int", ".string string int -> int")],
        run: index_of,
    },
    Row { name: "join", overloads: &[("list_join", ".list(string) -> string"), ("list_join_string", ".list(string) string -> string")], run: join },
    Row { name: "lowerAscii", overloads: &[("string_lower_ascii", ".string -> string")], run: one_text },
    Row { name: "upperAscii", overloads: &[("string_upper_ascii", ".string -> string")], run: one_text },
    Row { name: "trim", overloads: &[("string_trim", ".string -> string")], run: one_text },
    Row { name: "strings.quote", overloads: &[("strings_quote", "string -> string")], run: one_text },
    Row {
        name: "replace",
        overloads: &[("string_replace_string_string", ".string string string -> string"), ("string_replace_string_string_int", ".string string string int -> string")],
        run: replace,
    },
    Row { name: "split", overloads: &[("string_split_string", ".string string -> list(string)"), ("string_split_string_int", ".string string int -> list(string)")], run: split },
    Row { name: "substring", overloads: &[("string_substring_int", ".string int -> string"), ("string_substring_int_int", ".string int int -> string")], run: substring },
    Row { name: "format", overloads: &[("string_format", ".string list(dyn) -> string")], run: format },
];

/// Version 3.
pub(crate) const EXTENSION_ROWS: &[Row] = &[Row { name: "reverse", overloads: &[("string_reverse", ".string -> string")], run: one_text }];

/// Digits `%f` and `%e` may ask for.
const MAX_PRECISION: usize = 1000;

fn text<'v>(function: &str, a: &'v [Value<'_>], i: usize) -> Result<&'v str> {
    a.get(i).and_then(Value::as_str).ok_or_else(|| mismatch(function, a))
}

fn int(function: &str, a: &[Value<'_>], i: usize) -> Result<i64> {
    match a.get(i) {
        Some(Value::Int(n)) => Ok(*n),
        _ => Err(mismatch(function, a)),
    }
}

fn char_at<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (s, i) = (text(function, a, 0)?, int(function, a, 1)?);
    let n = s.chars().count();
    match usize::try_from(i) {
        Ok(i) if i < n => Ok(s.chars().nth(i).map(String::from).unwrap_or_default().into()),
        Ok(i) if i == n => Ok(String::new().into()),
        _ => fail(format!("index out of range: {i}")),
    }
}

fn index_of<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (s, part) = (text(function, a, 0)?, text(function, a, 1)?);
    let (s, part): (Vec<char>, Vec<char>) = (s.chars().collect(), part.chars().collect());
    let last = function == "lastIndexOf";
    let offset = match a.get(2) {
        None => None,
        Some(_) => Some(int(function, a, 2)?),
    };
    if let Some(o) = offset.filter(|o| *o < 0) {
        return fail(format!("index out of range: {o}"));
    }
    let offset = offset.map(|o| o as usize);
    if part.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(if last { s.len() } else { 0 }) as i64));
    }
    if s.len() < part.len() {
        return Ok(Value::Int(-1));
    }
    let (end, at) = (s.len() - part.len(), |i: &usize| s[*i..].starts_with(&part));
    if let Some(o) = offset.filter(|o| *o >= s.len()) {
        return if o == s.len() || !last { Ok(Value::Int(-1)) } else { fail(format!("index out of range: {o}")) };
    }
    let found = if last { (0..=offset.unwrap_or(end).min(end)).rev().find(at) } else { (offset.unwrap_or(0)..=end).find(at) };
    Ok(Value::Int(found.map_or(-1, |i| i as i64)))
}

fn join<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::List(items) = &a[0] else { return Err(mismatch(function, a)) };
    let separator = if a.len() > 1 { text(function, a, 1)? } else { "" };
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let Some(s) = item.as_str() else { return Err(EvalError::no_overload()) };
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(s);
    }
    Ok(out.into())
}

fn one_text<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let s = text(function, a, 0)?;
    Ok(match function {
        "lowerAscii" => s.to_ascii_lowercase(),
        "upperAscii" => s.to_ascii_uppercase(),
        "trim" => s.trim().to_owned(),
        "reverse" => s.chars().rev().collect(),
        _ => quote(s),
    }
    .into())
}

fn replace<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (s, old, new) = (text(function, a, 0)?, text(function, a, 1)?, text(function, a, 2)?);
    let limit = if a.len() > 3 { int(function, a, 3)? } else { -1 };
    Ok(match usize::try_from(limit) {
        Ok(n) => s.replacen(old, new, n),
        Err(_) => s.replace(old, new),
    }
    .into())
}

fn split<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (s, by) = (text(function, a, 0)?, text(function, a, 1)?);
    let limit = if a.len() > 2 { int(function, a, 2)? } else { -1 };
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = match (most, by) {
        (0, _) => Vec::new(),
        // Go splits at every character, without empty ends.
        (_, "") => {
            let chars: Vec<char> = s.chars().collect();
            let singles = chars.len().min(most.saturating_sub(1));
            let mut parts: Vec<String> = chars[..singles].iter().map(|c| c.to_string()).collect();
            if singles < chars.len() {
                parts.push(chars[singles..].iter().collect());
            }
            parts.into_iter().map(Value::from).collect()
        }
        _ => s.splitn(most, by).map(|p| Value::from(p.to_owned())).collect(),
    };
    Ok(Value::list(parts))
}

fn substring<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (s, start) = (text(function, a, 0)?, int(function, a, 1)?);
    let n = s.chars().count() as i64;
    let end = if a.len() > 2 { int(function, a, 2)? } else { n };
    if a.len() > 2 && start > end {
        return fail(format!("invalid substring range. start: {start}, end: {end}"));
    }
    if start < 0 || start > n {
        return fail(format!("index out of range: {start}"));
    }
    if end < 0 || end > n {
        return fail(format!("index out of range: {end}"));
    }
    Ok(s.chars().skip(start as usize).take((end - start) as usize).collect::<String>().into())
}

/// The text in quotes, with CEL's escapes.
pub(crate) fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn format<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let template = text(function, a, 0)?;
    let Some(Value::List(args)) = a.get(1) else { return Err(mismatch(function, a)) };
    let mut out = String::new();
    let (mut chars, mut next) = (template.chars().peekable(), 0);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let Some(arg) = args.get(next) else { return fail(format!("index {next} out of range")) };
        next += 1;
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            precision = match digits.parse::<usize>() {
                Ok(n) if n <= MAX_PRECISION => Some(n),
                _ => return fail(format!("error while parsing precision: precision {digits} is not supported")),
            };
        }
        match chars.next() {
            None => return fail("unexpected end of string"),
            Some(clause) => out.push_str(&clause_text(clause, precision, &arg)?),
        }
    }
    Ok(out.into())
}

fn clause_text(clause: char, precision: Option<usize>, arg: &Value<'_>) -> Result<String> {
    let wrong = |what: &str, allowed: &str| EvalError::new(format!("error during formatting: {what} clause can only be used on {allowed}, was given {}", arg.type_name()));
    let fixed = |d: f64| {
        if d.is_finite() { None } else { Some(if d.is_nan() { "NaN".into() } else { (if d > 0.0 { "Infinity" } else { "-Infinity" }).to_owned() }) }
    };
    match clause {
        's' => plain(arg),
        'd' => match arg {
            Value::Int(i) => Ok(i.to_string()),
            Value::Uint(u) => Ok(u.to_string()),
            Value::Double(d) if !d.is_finite() => Ok(fixed(*d).unwrap_or_default()),
            _ => Err(wrong("decimal", "integers")),
        },
        'f' | 'e' => {
            let d = match arg {
                Value::Double(d) => *d,
                Value::Int(i) => *i as f64,
                Value::Uint(u) => *u as f64,
                _ => return Err(wrong(if clause == 'f' { "fixed-point" } else { "scientific" }, "doubles")),
            };
            if let Some(special) = fixed(d) {
                return Ok(special);
            }
            let p = precision.unwrap_or(6);
            if clause == 'f' {
                return Ok(format!("{d:.p$}"));
            }
            let text = format!("{d:.p$e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            Ok(format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()))
        }
        'b' => match arg {
            Value::Int(i) => Ok(signed(*i, |n| format!("{n:b}"))),
            Value::Uint(u) => Ok(format!("{u:b}")),
            Value::Bool(b) => Ok(u8::from(*b).to_string()),
            _ => Err(wrong("only integers and bools can be formatted as binary; binary", "integers and bools")),
        },
        'o' => match arg {
            Value::Int(i) => Ok(signed(*i, |n| format!("{n:o}"))),
            Value::Uint(u) => Ok(format!("{u:o}")),
            _ => Err(wrong("octal", "integers")),
        },
        'x' | 'X' => {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let lower = match arg {
                Value::Int(i) => signed(*i, |n| format!("{n:x}")),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(s) => hex(s.as_bytes()),
                Value::Bytes(b) => hex(b),
                _ => return Err(wrong("hex", "integers, byte buffers, and strings")),
            };
            Ok(if clause == 'X' { lower.to_uppercase() } else { lower })
        }
        other => fail(format!("could not parse formatting clause: unrecognized formatting clause \"{other}\"")),
    }
}

fn signed(i: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if i < 0 { "-" } else { "" }, digits(i.unsigned_abs()))
}

/// `%s`: texts plain, in lists and maps too.
fn plain(v: &Value<'_>) -> Result<String> {
    Ok(match v {
        Value::String(s) => s.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) if d.is_infinite() => (if *d > 0.0 { "Infinity" } else { "-Infinity" }).into(),
        Value::Double(d) => format_double(*d),
        Value::Null => "null".into(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Type(t) => t.to_string(),
        Value::Duration(d) => time::format_duration(*d),
        Value::Timestamp(t) => time::format_timestamp(*t),
        Value::List(l) => list(l)?,
        Value::Map(m) => {
            let entries = m.keys().into_iter().filter_map(|k| Some((plain(&k).ok()?, m.get(&k)?)));
            let mut entries = entries.map(|(k, v)| Ok(format!("{k}: {}", plain(&v)?))).collect::<Result<Vec<_>>>()?;
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        other => {
            return fail(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            ));
        }
    })
}

fn list(l: &List<'_>) -> Result<String> {
    Ok(format!("[{}]", l.iter().map(|v| plain(&v)).collect::<Result<Vec<_>>>()?.join(", ")))
}
