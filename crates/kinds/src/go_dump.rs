//! Objects as upstream's messages print them: the JSON of its internal Go structs, and the difference of two such texts.
//!
//! Internal structs have no JSON tags, so their JSON has the names and the order of Go fields, and every field is there. Entry points:
//! [`pretty`], [`difference`]. A struct is described by a table of [`GoField`]s; only structs that messages really show have one.

use serde_json::Value;

/// One field: its Go name, its API name, and what it holds.
pub type GoField = (&'static str, &'static str, Go);

#[derive(Clone, Copy)]
pub enum Go {
    /// A string held by value.
    Text,
    /// A whole number held by value.
    Number,
    /// A boolean held by value.
    Bool,
    /// A pointer to a scalar, a list of scalars or a map: `null` when absent.
    Nil,
    /// A struct held by value.
    Struct(&'static [GoField]),
    /// A pointer to a struct.
    Pointer(&'static [GoField]),
    /// A type of the API itself (LabelSelector): its own JSON.
    Api(&'static [&'static str]),
}

/// Go's `json.MarshalIndent(v, "", " ")` of an internal struct.
pub fn pretty(v: &Value, fields: &[GoField]) -> String {
    let mut out = String::new();
    structure(&mut out, v, fields, 0);
    out
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', depth));
}

fn structure(out: &mut String, v: &Value, fields: &[GoField], depth: usize) {
    out.push('{');
    for (i, (go, name, kind)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        line(out, depth + 1);
        out.push_str(&format!("{go:?}: "));
        field(out, v.get(*name).unwrap_or(&Value::Null), *kind, depth + 1);
    }
    line(out, depth);
    out.push('}');
}

fn field(out: &mut String, v: &Value, kind: Go, depth: usize) {
    match (kind, v) {
        (Go::Text, Value::Null) => out.push_str("\"\""),
        (Go::Number, Value::Null) => out.push('0'),
        (Go::Bool, Value::Null) => out.push_str("false"),
        (Go::Struct(fields), v) => structure(out, v, fields, depth),
        (_, Value::Null) => out.push_str("null"),
        (Go::Pointer(fields), v) => structure(out, v, fields, depth),
        (Go::Api(order), Value::Object(map)) => {
            let known = order.iter().filter_map(|name| map.get_key_value(*name));
            entries(out, &known.filter(|(_, v)| !crate::field::same(v, &Value::Null)).collect::<Vec<_>>(), depth);
        }
        (_, v) => plain(out, v, depth),
    }
}

/// A list or map by itself.
fn plain(out: &mut String, v: &Value, depth: usize) {
    match v {
        Value::Array(list) if list.is_empty() => out.push_str("[]"),
        Value::Array(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                line(out, depth + 1);
                plain(out, item, depth + 1);
            }
            line(out, depth);
            out.push(']');
        }
        Value::Object(map) => {
            let mut all: Vec<_> = map.iter().collect();
            all.sort_by_key(|(k, _)| k.as_str());
            entries(out, &all, depth);
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn entries(out: &mut String, all: &[(&String, &Value)], depth: usize) {
    if all.is_empty() {
        return out.push_str("{}");
    }
    out.push('{');
    for (i, (k, v)) in all.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        line(out, depth + 1);
        out.push_str(&format!("{}: ", Value::from(k.as_str())));
        plain(out, v, depth + 1);
    }
    line(out, depth);
    out.push('}');
}

/// Lines shown around a change.
const CONTEXT_LINES: usize = 3;

/// Upstream's `diff.Diff`: hunks of a unified diff without file names, as Python's difflib finds them.
pub fn difference(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut blocks = Vec::new();
    matching(&a, &b, (0, a.len()), (0, b.len()), &mut blocks);
    blocks.push((a.len(), b.len(), 0));
    hunks(&changes(&blocks)).iter().map(|h| shown(h, &a, &b)).collect()
}

type Range = (usize, usize);

/// The longest block of equal lines, then those before and after it; `(in a, in b, length)` each.
fn matching(a: &[&str], b: &[&str], ra: Range, rb: Range, out: &mut Vec<(usize, usize, usize)>) {
    let (i, j, n) = longest(a, b, ra, rb);
    if n == 0 {
        return;
    }
    matching(a, b, (ra.0, i), (rb.0, j), out);
    // Adjacent blocks are one.
    match out.last_mut() {
        Some(last) if (last.0 + last.2, last.1 + last.2) == (i, j) => last.2 += n,
        _ => out.push((i, j, n)),
    }
    matching(a, b, (i + n, ra.1), (j + n, rb.1), out);
}

/// The first of the longest blocks.
fn longest(a: &[&str], b: &[&str], ra: Range, rb: Range) -> (usize, usize, usize) {
    let mut best = (ra.0, rb.0, 0);
    let mut lengths = vec![0; b.len() + 1];
    for i in ra.0..ra.1 {
        let mut next = vec![0; b.len() + 1];
        for j in rb.0..rb.1 {
            if a[i] == b[j] {
                let n = lengths[j] + 1;
                next[j + 1] = n;
                if n > best.2 {
                    best = (i + 1 - n, j + 1 - n, n);
                }
            }
        }
        lengths = next;
    }
    best
}

/// A stretch of both texts, equal or not.
#[derive(Clone, Copy)]
struct Change {
    equal: bool,
    a: Range,
    b: Range,
}

fn changes(blocks: &[(usize, usize, usize)]) -> Vec<Change> {
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    for &(x, y, n) in blocks {
        if i < x || j < y {
            out.push(Change { equal: false, a: (i, x), b: (j, y) });
        }
        if n > 0 {
            out.push(Change { equal: true, a: (x, x + n), b: (y, y + n) });
        }
        (i, j) = (x + n, y + n);
    }
    out
}

/// Changes with their surroundings; those close to each other share a hunk.
fn hunks(all: &[Change]) -> Vec<Vec<Change>> {
    let mut out: Vec<Vec<Change>> = Vec::new();
    let mut hunk: Vec<Change> = Vec::new();
    let last = all.len().saturating_sub(1);
    for (i, c) in all.iter().enumerate() {
        if !c.equal {
            hunk.push(*c);
            continue;
        }
        let n = c.a.1 - c.a.0;
        let head = Change { equal: true, a: (c.a.0, c.a.0 + n.min(CONTEXT_LINES)), b: (c.b.0, c.b.0 + n.min(CONTEXT_LINES)) };
        let tail = Change { equal: true, a: (c.a.1 - n.min(CONTEXT_LINES), c.a.1), b: (c.b.1 - n.min(CONTEXT_LINES), c.b.1) };
        match (i == 0, i == last) {
            (true, true) => {}
            (true, false) => hunk.push(tail),
            (false, true) => hunk.push(head),
            (false, false) if n <= 2 * CONTEXT_LINES => hunk.push(*c),
            (false, false) => {
                hunk.push(head);
                out.push(std::mem::replace(&mut hunk, vec![tail]));
            }
        }
    }
    if hunk.iter().any(|c| !c.equal) {
        out.push(hunk);
    }
    out
}

fn shown(hunk: &[Change], a: &[&str], b: &[&str]) -> String {
    let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return String::new() };
    let range = |start: usize, end: usize| match end - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        n => format!("{},{n}", start + 1),
    };
    let mut out = format!("@@ -{} +{} @@\n", range(first.a.0, last.a.1), range(first.b.0, last.b.1));
    let mut put = |sign: char, lines: &[&str]| lines.iter().for_each(|l| out.push_str(&format!("{sign}{l}\n")));
    for c in hunk {
        if c.equal {
            put(' ', &a[c.a.0..c.a.1]);
        } else {
            put('-', &a[c.a.0..c.a.1]);
            put('+', &b[c.b.0..c.b.1]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const INNER: &[GoField] = &[("Path", "path", Go::Text), ("Type", "type", Go::Nil)];
    const OUTER: &[GoField] = &[("Modes", "modes", Go::Nil), ("HostPath", "hostPath", Go::Pointer(INNER)), ("ReadOnly", "readOnly", Go::Bool)];

    #[test]
    fn a_struct_shows_every_field_under_its_go_name() {
        assert_eq!(
            pretty(&json!({"modes": ["a"], "hostPath": {"path": "/x"}}), OUTER),
            "{\n \"Modes\": [\n  \"a\"\n ],\n \"HostPath\": {\n  \"Path\": \"/x\",\n  \"Type\": null\n },\n \"ReadOnly\": false\n}"
        );
    }

    #[test]
    fn a_difference_shows_three_lines_around_it() {
        let old: Vec<String> = (1..=12).map(|n| n.to_string()).collect();
        let mut new = old.clone();
        new[1] = "x".into();
        new.insert(11, "y".into());
        assert_eq!(difference(&old.join("\n"), &new.join("\n")), "@@ -1,5 +1,5 @@\n 1\n-2\n+x\n 3\n 4\n 5\n@@ -9,4 +9,5 @@\n 9\n 10\n 11\n+y\n 12\n");
        assert_eq!(difference("a", "a"), "");
    }
}
