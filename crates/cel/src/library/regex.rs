//! Regular expressions: CEL's `matches`, Kubernetes' `find` and `findAll`. Compiled ones are kept, a few a thread.

use super::{Row, fail, mismatch};
use crate::error::{EvalError, Result};
use crate::value::Value;
use regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::collections::HashMap;

pub(crate) const ROWS: &[Row] = &[
    Row { name: "matches", overloads: &[("matches", "string string -> bool"), ("matches_string", ".string string -> bool")], run },
    Row { name: "find", overloads: &[("string_find_string", ".string string -> string")], run },
    Row { name: "findAll", overloads: &[("string_find_all_string", ".string string -> list(string)"), ("string_find_all_string_int", ".string string int -> list(string)")], run },
];

/// Largest compiled program.
const MAX_PROGRAM_BYTES: usize = 8 << 20;
/// Deepest nesting of a pattern.
const MAX_NESTING: u32 = 100;
/// Compiled patterns a thread keeps.
const MAX_KEPT: usize = 64;

pub(crate) fn compile(pattern: &str) -> Result<Regex> {
    thread_local!(static KEPT: RefCell<HashMap<String, Regex>> = RefCell::default());
    KEPT.with_borrow_mut(|kept| {
        if let Some(r) = kept.get(pattern) {
            return Ok(r.clone());
        }
        let made = RegexBuilder::new(&translated(pattern)).size_limit(MAX_PROGRAM_BYTES).nest_limit(MAX_NESTING).build();
        let r = made.map_err(|e| EvalError::new(format!("error parsing regexp: {}", reason(pattern, &e))))?;
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(pattern.to_owned(), r.clone());
        Ok(r)
    })
}

/// RE2's syntax in the engine's: `\d`, `\s`, `\w` and `\b` mean ASCII, brackets and `&&` in a class are plain, `\Q…\E` is literal.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let (mut chars, mut in_class) = (pattern.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                out.extend(chars.next_if_eq(&'^'));
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' if chars.peek() == Some(&':') => {
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '\\' => escape(&mut chars, in_class, &mut out),
            c => out.push(c),
        }
    }
    out
}

fn escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, in_class: bool, out: &mut String) {
    let mut class = |inner: &str| if in_class { out.push_str(inner) } else { out.push_str(&format!("[{inner}]")) };
    match chars.next() {
        Some('d') => class("0-9"),
        Some('w') => class("0-9A-Za-z_"),
        Some('s') => class("\\t\\n\\x0C\\r "),
        Some('D') => class("\\x00-/:-\\x{10FFFF}"),
        Some('W') => class("\\x00-/:-@\\[-\\^`\\{-\\x{10FFFF}"),
        Some('S') => class("\\x00-\\x08\\x0B\\x0E-\\x1F!-\\x{10FFFF}"),
        Some('b') if !in_class => out.push_str("(?-u:\\b)"),
        Some('Q') => {
            let rest: String = chars.clone().collect();
            let literal = rest.split("\\E").next().unwrap_or("");
            out.push_str(&regex::escape(literal));
            let used = literal.chars().count() + if literal.len() < rest.len() { 2 } else { 0 };
            chars.take(used).for_each(drop);
        }
        Some(other) => {
            out.push('\\');
            out.push(other);
        }
        None => out.push('\\'),
    }
}

/// Go's words for the commonest mistakes, else the engine's last line.
fn reason(pattern: &str, e: &regex::Error) -> String {
    let text = e.to_string();
    match text.lines().last().unwrap_or("") {
        l if l.contains("unclosed group") => format!("missing closing ): `{pattern}`"),
        l if l.contains("unopened group") => format!("unexpected ): `{pattern}`"),
        l if l.contains("unclosed character class") => format!("missing closing ]: `{}`", pattern.find('[').map_or(pattern, |i| &pattern[i..])),
        l if l.contains("repetition operator missing") => {
            let op = pattern.chars().find(|c| "*+?".contains(*c)).unwrap_or('*');
            format!("missing argument to repetition operator: `{op}`")
        }
        l => l.trim_start_matches("error: ").to_owned(),
    }
}

fn run<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (Value::String(s), Value::String(pattern)) = (&a[0], &a[1]) else {
        return Err(if function == "matches" { EvalError::no_overload() } else { mismatch(function, a) });
    };
    let r = compile(pattern)?;
    Ok(match function {
        "matches" => r.is_match(s).into(),
        "find" => r.find(s).map(|m| m.as_str().to_owned()).unwrap_or_default().into(),
        _ => {
            let limit = match a.get(2) {
                None => usize::MAX,
                Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                Some(_) => return fail("no such overload"),
            };
            Value::list(r.find_iter(s).take(limit).map(|m| Value::from(m.as_str().to_owned())).collect())
        }
    })
}
