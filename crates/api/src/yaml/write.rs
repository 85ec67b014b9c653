//! A JSON tree as YAML text, as upstream writes it (sigs.k8s.io/yaml over goyaml.v2): keys sorted, lists at their key's column, several lines
//! as a literal block, and quotes around all that YAML 1.1 would take for something else (`yes`, `0644`, `1e+3`).
//!
//! Deliberately absent: upstream's folding of long lines, which says the same.

use super::read::{self, Node};
use serde_json::Value;

/// Longer keys stand behind a `?`, as upstream's writer has it: readers look for the colon of a plain one so far only (YAML 1.1, 9.1.3).
const SIMPLE_KEY_BYTES_MAX: usize = 128;

/// One document, with a line break at its end.
pub fn document(v: &Value) -> String {
    let mut out = String::new();
    match v {
        Value::Object(o) if !o.is_empty() => map(o, 0, &mut out),
        Value::Array(a) if !a.is_empty() => list(a, 0, &mut out),
        leaf => {
            scalar(leaf, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(columns: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', columns));
}

fn map(o: &serde_json::Map<String, Value>, column: usize, out: &mut String) {
    let mut keys: Vec<&String> = o.keys().collect();
    keys.sort();
    for (i, key) in keys.into_iter().enumerate() {
        if i > 0 {
            indent(column, out);
        }
        if key.len() > SIMPLE_KEY_BYTES_MAX {
            out.push_str("? ");
            text(key, None, out);
            out.push('\n');
            indent(column, out);
            out.push_str(": ");
            item(&o[key], column, out);
            continue;
        }
        text(key, None, out);
        out.push(':');
        value(&o[key], column, out);
    }
}

/// What follows a key.
fn value(v: &Value, column: usize, out: &mut String) {
    match v {
        Value::Object(o) if !o.is_empty() => {
            out.push('\n');
            indent(column + 2, out);
            map(o, column + 2, out);
        }
        Value::Array(a) if !a.is_empty() => {
            out.push('\n');
            indent(column, out);
            list(a, column, out);
        }
        leaf => {
            out.push(' ');
            scalar(leaf, column + 2, out);
            out.push('\n');
        }
    }
}

fn list(a: &[Value], column: usize, out: &mut String) {
    for (i, v) in a.iter().enumerate() {
        if i > 0 {
            indent(column, out);
        }
        out.push_str("- ");
        item(v, column, out);
    }
}

/// What follows a sign of two columns.
fn item(v: &Value, column: usize, out: &mut String) {
    match v {
        Value::Object(o) if !o.is_empty() => map(o, column + 2, out),
        Value::Array(a) if !a.is_empty() => list(a, column + 2, out),
        leaf => {
            scalar(leaf, column + 2, out);
            out.push('\n');
        }
    }
}

fn scalar(v: &Value, column: usize, out: &mut String) {
    match v {
        Value::String(s) => text(s, Some(column), out),
        // Empty ones; others are written by their callers.
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&other.to_string()),
    }
}

/// A string; `block` is the column of a literal block where one may stand (not as a key).
fn text(s: &str, block: Option<usize>, out: &mut String) {
    let printable = |c: char| c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'));
    if !s.chars().all(printable) {
        return out.push_str(&quoted(s));
    }
    match (s.contains('\n'), block) {
        (true, Some(column)) if !s.starts_with([' ', '\n']) && !s.lines().any(|l| l.ends_with(' ')) => literal(s, column, out),
        (true, _) => out.push_str(&quoted(s)),
        _ if read::plain(s) != Ok(Node::Text(s.to_owned())) || base_60(s) || timestamp(s) || s == "<<" => out.push_str(&quoted(s)),
        _ if plain(s) => out.push_str(s),
        _ => {
            out.push('\'');
            out.push_str(&s.replace('\'', "''"));
            out.push('\'');
        }
    }
}

/// `|`, and how its end is kept.
fn literal(s: &str, column: usize, out: &mut String) {
    out.push('|');
    let body = s.strip_suffix('\n').unwrap_or(s);
    if !s.ends_with('\n') {
        out.push('-');
    } else if body.ends_with('\n') || body.is_empty() {
        out.push('+');
    }
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(column, out);
            out.push_str(line);
        }
    }
}

/// In double quotes, as JSON has it, which YAML reads.
fn quoted(s: &str) -> String {
    Value::from(s).to_string()
}

/// Whether a reader of a block takes the text as it stands for one string.
fn plain(s: &str) -> bool {
    let b = s.as_bytes();
    let space = |i: usize| b.get(i).is_none_or(|c| *c == b' ');
    if s.starts_with("---") || s.starts_with("...") || s.starts_with(' ') || s.ends_with(' ') {
        return false;
    }
    let start = match b[0] {
        b'#' | b',' | b'[' | b']' | b'{' | b'}' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\'' | b'"' | b'%' | b'@' | b'`' => false,
        b'?' | b':' | b'-' => !space(1),
        _ => true,
    };
    start && (1..b.len()).all(|i| !(b[i] == b':' && space(i + 1) || b[i] == b'#' && b[i - 1] == b' '))
}

/// `1:30`, a number to the base of 60 for older readers.
fn base_60(s: &str) -> bool {
    let digits = s.strip_prefix(['-', '+']).unwrap_or(s);
    digits.contains(':') && digits.starts_with(|c: char| c.is_ascii_digit()) && digits.bytes().all(|c| c.is_ascii_digit() || matches!(c, b':' | b'_' | b'.'))
}

/// `2006-1-2`, alone or with a time: a moment for readers that know moments.
fn timestamp(s: &str) -> bool {
    let digits = |t: &str, max: usize| !t.is_empty() && t.len() <= max && t.bytes().all(|c| c.is_ascii_digit());
    let (date, time) = s.split_once(['T', 't', ' ']).map_or((s, None), |(d, t)| (d, Some(t)));
    let date: Vec<&str> = date.split('-').collect();
    let good_date = matches!(date[..], [y, m, d] if y.len() == 4 && digits(y, 4) && digits(m, 2) && digits(d, 2));
    let good_time = |t: &str| {
        let zone = t.find(['Z', '+', '-']).unwrap_or(t.len());
        let clock: Vec<&str> = t[..zone].split(':').collect();
        matches!(clock[..], [h, m, s] if digits(h, 2) && digits(m, 2) && digits(&s.replacen('.', "", 1), 11))
    };
    good_date && time.is_none_or(good_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[test]
    fn what_yaml_1_1_would_misread_is_quoted() {
        let v = json!({"a": "yes", "b": "0644", "c": "1e+3", "d": "", "e": "plain text", "f": "x: y", "g": "- a", "h": "it's # fine", "i": "~", "j": 1.5, "k": null,
            "l": "1:30", "n": "off", "o": "a\u{7}b", "p": "2001-01-01", "q": "'x", "on": true, "r": "a #b", "s": "tab\there"});
        let want = "a: \"yes\"\nb: \"0644\"\nc: \"1e+3\"\nd: \"\"\ne: plain text\nf: 'x: y'\ng: '- a'\nh: 'it''s # fine'\ni: \"~\"\nj: 1.5\nk: null\nl: \"1:30\"\n\"n\": \"off\"\no: \"a\\u0007b\"\n\"on\": true\np: \"2001-01-01\"\nq: '''x'\nr: 'a #b'\ns: \"tab\\there\"\n";
        assert_eq!(document(&v), want);
        assert_eq!(Value::deserialize(read::document(want).unwrap()).unwrap(), v);
    }

    #[test]
    fn lines_are_a_literal_block_and_lists_stand_at_their_key() {
        let v = json!({"m": {"t": "a\n b\n", "u": "a\n\nb", "v": "a\n\n", "w": " a\nb"}, "l": [1, {"a": [], "b": {"c": [[1, 2], {}]}}]});
        let want = "l:\n- 1\n- a: []\n  b:\n    c:\n    - - 1\n      - 2\n    - {}\nm:\n  t: |\n    a\n     b\n  u: |-\n    a\n\n    b\n  v: |+\n    a\n\n  w: \" a\\nb\"\n";
        assert_eq!(document(&v), want);
        assert_eq!(Value::deserialize(read::document(want).unwrap()).unwrap(), v);
    }

    #[test]
    fn floating_point_is_read_as_it_was() {
        for (n, want) in [(1e300, "1e+300\n"), (-2.5e-9, "-2.5e-9\n"), (0.5, "0.5\n")] {
            assert_eq!(document(&json!(n)), want);
            assert_eq!(Value::deserialize(read::document(want).unwrap()).unwrap(), json!(n));
        }
    }
    #[test]
    fn long_keys_stand_behind_a_question_mark() {
        let (long, short) = ("k".repeat(129), "k".repeat(128));
        let v = json!({&long: {"a": 1, "b": [2]}, &short: {"c": 3}, "l": [{&long: []}]});
        let want = format!("{short}:\n  c: 3\n? {long}\n: a: 1\n  b:\n  - 2\nl:\n- ? {long}\n  : []\n");
        assert_eq!(document(&v), want);
        assert_eq!(Value::deserialize(read::document(&want).unwrap()).unwrap(), v);
    }

    /// Upstream's own test data, where it is at hand.
    #[test]
    fn upstream_test_data_is_written_as_upstream_writes_it() {
        let Ok(files) = std::fs::read_dir("/work/shared/reference/api-testdata") else { return };
        let mut wrong = Vec::new();
        let mut seen = 0;
        for path in files.flatten().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")) {
            let want = std::fs::read_to_string(&path).unwrap();
            let tree: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
            seen += 1;
            let got = document(&tree);
            if let Some((g, w)) = got.lines().zip(want.lines()).find(|(g, w)| g != w) {
                wrong.push(format!("{path:?}: {g:?} instead of {w:?}"));
            }
            assert_eq!(Value::deserialize(read::document(&want).unwrap()).unwrap(), tree, "{path:?} is read as its JSON");
        }
        assert!(wrong.is_empty(), "{} of {seen}: {}", wrong.len(), wrong.join("\n"));
    }
}
