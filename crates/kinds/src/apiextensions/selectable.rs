//! JSON paths of fields and map keys that a schema has: `.spec.color`, `.spec.labels['a.b']`.
//!
//! Entry point: [`find`], for selectable fields and for the `fieldPath` of rules. Problems are in upstream's words.

use crate::field::NULL;
use serde_json::Value;

/// What stands at a path of a schema.
pub struct Found<'a> {
    /// The path in one spelling, so that two spellings of one place compare equal.
    pub path: Vec<String>,
    pub schema: &'a Value,
}

/// Follows `path` down `schema`. `keys`: whether `[...]` may be used.
pub fn find<'a>(path: &str, schema: &'a Value, keys: bool) -> Result<Found<'a>, String> {
    let mut found = Found { path: Vec::new(), schema };
    let tokens = tokens(path);
    let mut rest = tokens.iter().map(String::as_str);
    while let Some(token) = rest.next() {
        match token {
            "[" if !keys => return Err("array notation is not allowed".into()),
            "[" => {
                let token = rest.next().unwrap_or("");
                let Some(name) = token.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|_| token.len() > 1) else {
                    return Err(format!("expected single quoted string but got {token}"));
                };
                let name = unescaped(name)?;
                if rest.next() != Some("]") {
                    return Err("expected ]".into());
                }
                found.step(&name)?;
            }
            "." => {
                let Some(name) = rest.next() else { return Err("unexpected end of JSON path".into()) };
                found.step(name)?;
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(found)
}

impl Found<'_> {
    fn step(&mut self, name: &str) -> Result<(), String> {
        const MISSING: &str = "does not refer to a valid field";
        let properties = self.schema.get("properties").and_then(Value::as_object).filter(|m| !m.is_empty());
        let all = self.schema.get("additionalProperties").filter(|v| !v.is_null());
        self.schema = match (properties, all) {
            (Some(properties), _) => properties.get(name).ok_or(MISSING)?,
            (None, Some(all)) => {
                if all.is_object() {
                    all
                } else {
                    &NULL
                }
            }
            (None, None) => return Err(MISSING.into()),
        };
        self.path.push(name.to_owned());
        Ok(())
    }
}

/// `.`, `[`, `]`, single-quoted strings, and what stands between.
fn tokens(path: &str) -> Vec<String> {
    let (mut all, mut current, mut quoted, mut before) = (Vec::new(), String::new(), false, ' ');
    for c in path.chars() {
        if quoted {
            current.push(c);
            if c == '\'' && before != '\\' {
                all.push(std::mem::take(&mut current));
                quoted = false;
            }
        } else if matches!(c, '.' | '[' | ']') {
            if !current.is_empty() {
                all.push(std::mem::take(&mut current));
            }
            all.push(c.to_string());
        } else {
            quoted = c == '\'' && current.is_empty();
            current.push(c);
        }
        before = c;
    }
    if !current.is_empty() {
        all.push(current);
    }
    all
}

fn unescaped(name: &str) -> Result<String, String> {
    let (mut out, mut all) = (String::new(), name.chars());
    while let Some(c) = all.next() {
        match c {
            '\\' => match all.next() {
                Some(next @ ('\'' | '\\')) => out.push(next),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('a') => out.push('\u{7}'),
                Some('b') => out.push('\u{8}'),
                Some('f') => out.push('\u{c}'),
                Some('v') => out.push('\u{b}'),
                _ => return Err("invalid escape sequence".into()),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_leads_to_fields_the_schema_has() {
        let schema = json!({"properties": {"spec": {"properties": {"s": {"type": "string"}, "m": {"additionalProperties": {"type": "integer"}}}}}});
        let at = |path: &str, keys| find(path, &schema, keys).map(|f| f.schema["type"].as_str().unwrap_or("").to_owned());
        assert_eq!(at(".spec.s", false), Ok("string".into()));
        assert_eq!(at(".spec.m['a.b']", true), Ok("integer".into()));
        assert_eq!(at(".spec.m['a.b']", false), Err("array notation is not allowed".into()));
        assert_eq!(at(".spec.x", false), Err("does not refer to a valid field".into()));
        assert_eq!(at("spec", false), Err("expected [ or . but got: spec".into()));
    }
}
