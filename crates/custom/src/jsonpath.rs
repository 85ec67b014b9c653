//! The JSONPath of printer columns and selectable fields: fields, indices, slices, wildcards, filters, recursive descent.
//!
//! Entry points: [`JsonPath::parse`], [`JsonPath::find`]. A step that finds nothing gives nothing. Source: k8s.io/client-go/util/jsonpath.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// Start, end, step; as Go's slices.
    Slice(Option<i64>, Option<i64>, i64),
    Wildcard,
    /// `..name`: that field anywhere below.
    Recursive,
    /// `[?(@.a=="b")]`
    Filter(Operand, Option<(Operator, Operand)>),
    /// `['a','b']` or `[0,1]`
    Union(Vec<Step>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Value(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Values found at most; a recursive path over a large object stops there.
const FOUND_MAX: usize = 10_000;
/// Brackets in brackets of a path: filters in filters cost their product.
const NESTED_MAX: usize = 4;

impl JsonPath {
    /// `.spec.x`, with or without braces around it; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        if brackets_deep(text) > NESTED_MAX { None } else { Self::read(text) }
    }

    fn read(text: &str) -> Option<Self> {
        let t = text.trim();
        let t = t.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(t);
        let t = t.strip_prefix(['$', '@']).unwrap_or(t);
        let mut steps = Vec::new();
        let mut rest = t;
        while !rest.is_empty() {
            rest = step(rest, &mut steps)?;
        }
        Some(JsonPath(steps))
    }

    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut here = vec![root];
        for s in &self.0 {
            let mut next = Vec::new();
            here.iter().for_each(|v| s.walk(v, &mut next));
            next.truncate(FOUND_MAX);
            here = next;
        }
        here
    }

    /// The names, when the path is of plain fields only.
    pub fn fields(&self) -> Option<Vec<String>> {
        self.0.iter().map(|s| if let Step::Field(f) = s { Some(f.clone()) } else { None }).collect()
    }
}

/// How deep brackets stand in each other, wherever they stand.
fn brackets_deep(text: &str) -> usize {
    let (mut depth, mut most) = (0usize, 0);
    for c in text.bytes() {
        match c {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

fn step<'t>(t: &'t str, out: &mut Vec<Step>) -> Option<&'t str> {
    if let Some(rest) = t.strip_prefix("..") {
        out.push(Step::Recursive);
        return if rest.starts_with('[') { Some(rest) } else { name(rest, out) };
    }
    if let Some(rest) = t.strip_prefix('[') {
        let end = closing(rest)?;
        out.push(bracket(rest[..end].trim())?);
        return Some(&rest[end + 1..]);
    }
    let rest = t.strip_prefix('.').unwrap_or(t);
    if rest.starts_with('[') { Some(rest) } else { name(rest, out) }
}

/// A name up to the next `.` or `[`; a backslash takes the next character as it is.
fn name<'t>(t: &'t str, out: &mut Vec<Step>) -> Option<&'t str> {
    let mut text = String::new();
    let mut chars = t.char_indices();
    let mut end = t.len();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?.1),
            '.' | '[' => {
                end = i;
                break;
            }
            c => text.push(c),
        }
    }
    match text.as_str() {
        "" => return None,
        "*" => out.push(Step::Wildcard),
        _ => out.push(Step::Field(text)),
    }
    Some(&t[end..])
}

/// Where the bracket that is open closes, quotes and brackets within aside.
fn closing(t: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    let mut chars = t.char_indices();
    while let Some((i, c)) = chars.next() {
        match (quote, c) {
            (_, '\\') => drop(chars.next()),
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(t: &str) -> Option<Step> {
    if let Some(f) = t.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return filter(f.trim());
    }
    let parts = split(t, ',');
    if parts.len() > 1 {
        return parts.into_iter().map(|p| bracket(p.trim())).collect::<Option<Vec<_>>>().map(Step::Union);
    }
    if t == "*" {
        return Some(Step::Wildcard);
    }
    if t.starts_with(['\'', '"']) {
        return Some(Step::Field(unquote(t)?));
    }
    if t.contains(':') {
        let n: Vec<Option<i64>> = t.split(':').map(|p| if p.trim().is_empty() { Some(None) } else { p.trim().parse().ok().map(Some) }).collect::<Option<Vec<_>>>()?;
        return (n.len() <= 3).then(|| Step::Slice(n[0], n[1], n.get(2).copied().flatten().unwrap_or(1)));
    }
    t.parse().ok().map(Step::Index)
}

/// Splits outside quotes.
fn split(t: &str, at: char) -> Vec<&str> {
    let (mut quote, mut from, mut out) = (None, 0, Vec::new());
    for (i, c) in t.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c == at => {
                out.push(&t[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    out.push(&t[from..]);
    out
}

fn unquote(t: &str) -> Option<String> {
    let q = t.chars().next()?;
    let inner = t.strip_prefix(q)?.strip_suffix(q)?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(out)
}

fn filter(t: &str) -> Option<Step> {
    const OPERATORS: [(&str, Operator); 6] =
        [("==", Operator::Equal), ("!=", Operator::NotEqual), ("<=", Operator::LessOrEqual), (">=", Operator::GreaterOrEqual), ("<", Operator::Less), (">", Operator::Greater)];
    let mut quote = None;
    for (i, c) in t.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, _) => {
                if let Some((text, op)) = OPERATORS.iter().find(|(text, _)| t[i..].starts_with(text)) {
                    return Some(Step::Filter(operand(t[..i].trim())?, Some((*op, operand(t[i + text.len()..].trim())?))));
                }
            }
            _ => {}
        }
    }
    Some(Step::Filter(operand(t)?, None))
}

fn operand(t: &str) -> Option<Operand> {
    if t.starts_with(['@', '$']) {
        return JsonPath::read(t).map(Operand::Path);
    }
    if t.starts_with(['\'', '"']) {
        return unquote(t).map(|s| Operand::Value(s.into()));
    }
    serde_json::from_str(t).ok().map(Operand::Value)
}

impl Operand {
    fn of<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Operand::Path(p) => p.find(item).first().copied(),
            Operand::Value(v) => Some(v),
        }
    }
}

impl Operator {
    fn holds(self, a: &Value, b: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (a, b) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
            (a, b) if a == b => Some(Equal),
            _ => None,
        };
        match self {
            Operator::Equal => order == Some(Equal),
            Operator::NotEqual => order.is_some_and(|o| o != Equal) || order.is_none() && std::mem::discriminant(a) == std::mem::discriminant(b),
            Operator::Less => order == Some(Less),
            Operator::LessOrEqual => matches!(order, Some(Less | Equal)),
            Operator::Greater => order == Some(Greater),
            Operator::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
        }
    }
}

impl Step {
    fn walk<'v>(&self, v: &'v Value, out: &mut Vec<&'v Value>) {
        match self {
            Step::Field(name) => out.extend(v.get(name.as_str())),
            Step::Index(i) => {
                if let Value::Array(a) = v {
                    let at = if *i < 0 { a.len() as i64 + i } else { *i };
                    out.extend(usize::try_from(at).ok().and_then(|i| a.get(i)));
                }
            }
            Step::Slice(from, to, step) => {
                if let (Value::Array(a), Ok(step @ 1..)) = (v, usize::try_from(*step)) {
                    let bound = |i: i64| usize::try_from(if i < 0 { a.len() as i64 + i } else { i }).unwrap_or(0).min(a.len());
                    let (from, to) = (bound(from.unwrap_or(0)), to.map_or(a.len(), bound));
                    out.extend(a.iter().take(to).skip(from).step_by(step));
                }
            }
            Step::Wildcard => match v {
                Value::Array(a) => out.extend(a),
                Value::Object(o) => out.extend(o.values()),
                _ => {}
            },
            Step::Recursive => below(v, out),
            Step::Filter(left, condition) => {
                let items = v.as_array().map(Vec::as_slice).unwrap_or_default();
                out.extend(items.iter().filter(|item| match condition {
                    None => left.of(item).is_some(),
                    Some((op, right)) => matches!((left.of(item), right.of(item)), (Some(a), Some(b)) if op.holds(a, b)),
                }));
            }
            Step::Union(all) => all.iter().for_each(|s| s.walk(v, out)),
        }
    }
}

fn below<'v>(v: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() >= FOUND_MAX {
        return;
    }
    out.push(v);
    match v {
        Value::Array(a) => a.iter().for_each(|v| below(v, out)),
        Value::Object(o) => o.values().for_each(|v| below(v, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_they_name() {
        let o = json!({"spec": {"a": 1, "l": [{"k": "x", "n": 1}, {"k": "y", "n": 2}], "m": {"a.b": "dotted", "c/d": "slash"}},
                       "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        for (path, want) in [
            (".spec.a", json!([1])),
            ("{.spec.a}", json!([1])),
            ("spec.a", json!([1])),
            (".spec.missing.deep", json!([])),
            (".spec.l[0].k", json!(["x"])),
            (".spec.l[-1].k", json!(["y"])),
            (".spec.l[*].n", json!([1, 2])),
            (".spec.l[0:1].n", json!([1])),
            (".spec.l[0,1].n", json!([1, 2])),
            (".spec.m.a\\.b", json!(["dotted"])),
            (".spec.m['a.b']", json!(["dotted"])),
            (".spec.m['c/d']", json!(["slash"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Other')].status", json!(["False"])),
            (".status.conditions[?(@.status!=\"True\")].type", json!(["Other"])),
            (".spec.l[?(@.n>1)].k", json!(["y"])),
            (".spec.l[?(@.k)].n", json!([1, 2])),
            ("..n", json!([1, 2])),
        ] {
            let p = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(json!(p.find(&o)), want, "{path}");
        }
        assert_eq!(JsonPath::parse(".spec.l["), None);
        assert_eq!(JsonPath::parse(&format!("{}1{}", "[?(@".repeat(100_000), ")]".repeat(100_000))), None);
        assert_eq!(JsonPath::parse(".spec.replicas").unwrap().fields(), Some(vec!["spec".into(), "replicas".into()]));
    }
}
