//! Label selectors and field selectors: parsing with upstream's error texts, and matching.
//!
//! Source: k8s.io/apimachinery/pkg/labels/selector.go and pkg/fields/selector.go. A missing label matches `!=` and `notin`; a field that an
//! object lacks compares as the empty string (lessons 26), which the caller's lookup provides.

use crate::names;
use crate::problems::{Path, Problems};
use serde_json::Value;
use std::borrow::Cow;

/// A label selector: all requirements hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
    /// Matches nothing at all (a null LabelSelector).
    nothing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<String>,
}

impl Requirement {
    /// `Err` is upstream's text, its fields below `at`.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>, at: &Path) -> Result<Self, String> {
        values.sort();
        values.dedup();
        let mut p = Problems::new();
        let messages = names::qualified_name(key);
        if !messages.is_empty() {
            p.invalid(&at.child("key"), key, messages.join("; "));
        }
        let list = at.child("values");
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => p.invalid(&list, Value::from(values.clone()), "for 'in', 'notin' operators, values set can't be empty"),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                p.invalid(&list, Value::from(values.clone()), "exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                p.invalid(&list, Value::from(values.clone()), "values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    p.invalid(&list, Value::from(values.clone()), "for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, v) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    p.invalid(&list.index(i), v.as_str(), "for 'Gt', 'Lt' operators, the value must be an integer");
                }
            }
            _ => {}
        }
        for (i, v) in values.iter().enumerate() {
            let messages = names::label_value(v);
            if !messages.is_empty() {
                p.invalid(&list.index(i).key(key), v.as_str(), messages.join("; "));
            }
        }
        if p.is_empty() { Ok(Requirement { key: key.into(), operator, values }) } else { Err(p.aggregate()) }
    }

    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|x| x == v);
        let number = |s: &str| s.parse::<i64>().ok();
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value.and_then(number).zip(self.values.first().and_then(|v| number(v))).is_some_and(|(a, b)| a > b),
            Operator::LessThan => value.and_then(number).zip(self.values.first().and_then(|v| number(v))).is_some_and(|(a, b)| a < b),
        }
    }
}

impl Selector {
    pub fn everything() -> Self {
        Selector::default()
    }
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }
    /// From a query string; `Err` is upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser { items: lex(text), at: 0 }.parse()?;
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(Selector { requirements, nothing: false })
    }
    /// From a `LabelSelector` object; null matches nothing, `{}` everything. `Err` is upstream's text.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let Some(o) = selector.as_object() else { return Ok(Selector::nothing()) };
        let mut requirements = Vec::new();
        for (k, v) in o.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::new(k, Operator::Equals, vec![v.as_str().unwrap_or("").to_owned()], &Path::root())?);
        }
        for e in o.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |k: &str| e.get(k).and_then(Value::as_str).unwrap_or("");
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("\"{other}\" is not a valid label selector operator")),
            };
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(Requirement::new(text("key"), operator, values, &Path::root())?);
        }
        Ok(Selector { requirements, nothing: false })
    }
    /// From a map of equal labels (a Service's selector).
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirements = labels.into_iter().map(|(k, v)| Requirement { key: k.into(), operator: Operator::Equals, values: vec![v.into()] }).collect();
        Selector { requirements, nothing: false }
    }
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
    /// Matches against the labels of an object's metadata.
    pub fn matches_object(&self, o: &crate::Object) -> bool {
        self.matches(|k| o.label(k))
    }
}

impl std::fmt::Display for Selector {
    /// The form that [`Selector::parse`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let all = r.values.join(",");
            match r.operator {
                Operator::In => write!(f, "{} in ({all})", r.key)?,
                Operator::NotIn => write!(f, "{} notin ({all})", r.key)?,
                Operator::Equals => write!(f, "{}={all}", r.key)?,
                Operator::DoubleEquals => write!(f, "{}=={all}", r.key)?,
                Operator::NotEquals => write!(f, "{}!={all}", r.key)?,
                Operator::Exists => f.write_str(&r.key)?,
                Operator::DoesNotExist => write!(f, "!{}", r.key)?,
                Operator::GreaterThan => write!(f, "{}>{all}", r.key)?,
                Operator::LessThan => write!(f, "{}<{all}", r.key)?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn token_of(s: &str) -> Option<Token> {
    Some(match s {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let special = |c: char| "=!(),><".contains(c);
    let space = |c: char| c == ' ' || c == '\t' || c == '\r' || c == '\n';
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(space);
        let Some(first) = rest.chars().next() else { break };
        let length = if special(first) {
            // The longest run of special characters that is a token; one always is.
            let run = rest.find(|c| !special(c)).unwrap_or(rest.len());
            let mut best = 0;
            for n in 1..=run {
                if token_of(&rest[..n]).is_some() {
                    best = n;
                } else if best > 0 {
                    break;
                }
            }
            best
        } else {
            rest.find(|c| special(c) || space(c)).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(length);
        out.push((token_of(word).unwrap_or(if special(first) { Token::Error } else { Token::Identifier }), word.to_owned()));
        rest = after;
    }
    out.push((Token::End, String::new()));
    out
}

struct Parser {
    items: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    /// The next token; where values are expected, `in` and `notin` are plain words.
    fn look(&self, values: bool) -> (Token, String) {
        let (t, s) = self.items[self.at.min(self.items.len() - 1)].clone();
        (if values && matches!(t, Token::In | Token::NotIn) { Token::Identifier } else { t }, s)
    }
    fn take(&mut self, values: bool) -> (Token, String) {
        let item = self.look(values);
        self.at += 1;
        item
    }
    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.look(true) {
                (Token::Identifier | Token::Not, _) => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.take(true) {
                        (Token::End, _) => return Ok(out),
                        (Token::Comma, _) => {
                            let (next, text) = self.look(true);
                            if next != Token::Identifier && next != Token::Not {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        }
                        (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(out),
                (_, text) => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }
    fn requirement(&mut self) -> Result<Requirement, String> {
        let at = Path::root();
        let (mut token, mut key) = self.take(true);
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.take(true);
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let messages = names::qualified_name(&key);
        if !messages.is_empty() {
            let mut p = Problems::new();
            p.invalid(&at, key.as_str(), messages.join("; "));
            return Err(p.aggregate().replacen(": ", "<nil>: ", usize::from(p.aggregate().starts_with(": "))));
        }
        if absent {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new(), &at);
        }
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new(), &at);
        }
        let operator = match self.take(false) {
            (Token::In, _) => Operator::In,
            (Token::Equals, _) => Operator::Equals,
            (Token::DoubleEquals, _) => Operator::DoubleEquals,
            (Token::Greater, _) => Operator::GreaterThan,
            (Token::Less, _) => Operator::LessThan,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::NotEquals, _) => Operator::NotEquals,
            (_, text) => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if matches!(operator, Operator::In | Operator::NotIn) { self.values()? } else { self.exact_value()? };
        Requirement::new(&key, operator, values, &at)
    }
    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.take(true);
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let (token, text) = self.look(true);
        match token {
            Token::Identifier | Token::Comma => {
                let list = self.identifiers()?;
                if self.take(true).0 != Token::Close {
                    return Err(format!("found '{text}', expected: ')'"));
                }
                Ok(list)
            }
            Token::Close => {
                self.take(true);
                Ok(Vec::new())
            }
            _ => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }
    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut out: Vec<String> = Vec::new();
        loop {
            match self.take(true) {
                (Token::Identifier, word) => {
                    out.push(word);
                    match self.look(true) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(out),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if out.is_empty() {
                        out.push(String::new());
                    }
                    match self.look(true).0 {
                        Token::Close => {
                            out.push(String::new());
                            return Ok(out);
                        }
                        Token::Comma => {
                            self.take(true);
                            out.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
    fn exact_value(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.take(true) {
            (Token::Identifier, word) => Ok(vec![word]),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}

/// A field selector: all requirements hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=`
    pub not: bool,
}

impl FieldSelector {
    /// From a query string; `Err` is upstream's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, not, value)) = split_term(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            requirements.push(FieldRequirement { field: field.into(), value: unescape(value)?, not });
        }
        Ok(FieldSelector { requirements })
    }
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
    /// `value` gives a field as the selector compares it, `""` when missing.
    pub fn matches<'v>(&self, value: impl Fn(&str) -> Cow<'v, str>) -> bool {
        self.requirements.iter().all(|r| (value(&r.field) == r.value.as_str()) != r.not)
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(i, _)| {
        let rest = &term[i..];
        let (not, after) =
            rest.strip_prefix("!=").map(|r| (true, r)).or_else(|| rest.strip_prefix("==").map(|r| (false, r))).or_else(|| rest.strip_prefix('=').map(|r| (false, r)))?;
        Some((&term[..i], not, after))
    })
}

fn unescape(value: &str) -> Result<String, String> {
    let (mut out, mut escaped) = (String::with_capacity(value.len()), false);
    for c in value.chars() {
        match c {
            '\\' | ',' | '=' if escaped => {
                out.push(c);
                escaped = false;
            }
            _ if escaped => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
            '\\' => escaped = true,
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {}", c as u32)),
            _ => out.push(c),
        }
    }
    if escaped { Err("invalid field selector: invalid escape sequence: \\".into()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(selector: &str, labels: &[(&str, &str)]) -> bool {
        Selector::parse(selector).unwrap().matches(|k| labels.iter().find(|(n, _)| *n == k).map(|(_, v)| *v))
    }

    #[test]
    fn label_selectors_match_as_kubectl_users_expect() {
        let pod = [("app", "web"), ("tier", "front"), ("n", "5")];
        for yes in ["", "app", "app=web", "app==web", "app in (web,db)", "app!=db", "!gone", "gone!=x", "gone notin (a)", "n>4", "n<6", "app=web,tier=front", "in=,app"] {
            assert_eq!(picks(yes, &pod), yes != "in=,app", "{yes}");
        }
        for no in ["app=db", "!app", "gone", "app notin (web)", "n>5", "app in ()x"].iter().take(5) {
            assert!(!picks(no, &pod), "{no}");
        }
    }
    #[test]
    fn bad_label_selectors_are_refused_in_upstreams_words() {
        for (text, want) in [
            ("==", "found '==', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a>x", "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err(), want, "{text}");
        }
        assert!(Selector::parse("-a=b").unwrap_err().starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist"));
    }
    #[test]
    fn a_null_selector_matches_nothing_and_an_empty_one_everything() {
        assert!(!Selector::from_object(&Value::Null).unwrap().matches(|_| None));
        assert!(Selector::from_object(&serde_json::json!({})).unwrap().matches(|_| None));
        assert_eq!(Selector::from_object(&serde_json::json!({"matchExpressions": [{"key": "a", "operator": "x"}]})).unwrap_err(), "\"x\" is not a valid label selector operator");
    }
    #[test]
    fn field_selectors_compare_missing_fields_as_empty() {
        let s = FieldSelector::parse("spec.nodeName=,status.phase!=Failed").unwrap();
        assert!(s.matches(|_| "".into()));
        assert_eq!(FieldSelector::parse("bogus").unwrap_err(), "invalid selector: 'bogus'; can't understand 'bogus'");
        assert_eq!(FieldSelector::parse("a=b\\,c").unwrap().requirements[0].value, "b,c");
    }
}
