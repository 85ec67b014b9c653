//! Field problems: what validation finds, in upstream's words.
//!
//! Entry point: [`Problems`], filled through a [`Path`]. The rendered text of each problem is byte for byte what
//! `k8s.io/apimachinery/pkg/util/validation/field.Error` prints, because kubectl users and clients read it.

use serde_json::Value;
use std::collections::HashSet;
use std::fmt;

/// Bytes of a path that need no allocation: rules make a path for every field that they look at, and complain of few.
const PATH_INLINE: usize = 79;

/// A field path such as `spec.containers[0].ports[1].name` or `metadata.labels[a/b]`.
#[derive(Clone, Debug)]
pub struct Path(Text);

/// Copied as a whole, which is a few moves of a register; a longer one is a text of its own.
#[derive(Clone, Debug)]
enum Text {
    Short { len: u8, bytes: [u8; PATH_INLINE] },
    Long(String),
}

impl Path {
    /// The empty path, the object itself.
    pub fn root() -> Self {
        Path(Text::Short { len: 0, bytes: [0; PATH_INLINE] })
    }
    /// A path starting at `field`, e.g. `Path::new("spec")`.
    pub fn new(field: &str) -> Self {
        Path::root().child(field)
    }
    /// `self.field`; `field` may itself hold dots (`"rollingUpdate.maxSurge"`).
    #[inline]
    pub fn child(&self, field: &str) -> Self {
        self.with(if self.as_bytes().is_empty() { "" } else { "." }, field, "")
    }
    /// `self[i]`
    pub fn index(&self, i: usize) -> Self {
        self.key(itoa::Buffer::new().format(i))
    }
    /// `self[key]`
    pub fn key(&self, key: &str) -> Self {
        self.with("[", key, "]")
    }
    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes } => &bytes[..usize::from(*len)],
            Text::Long(text) => text.as_bytes(),
        }
    }
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("made of texts")
    }
    #[inline]
    fn with(&self, before: &str, step: &str, after: &str) -> Self {
        let mut path = self.clone();
        if let Text::Short { len, bytes } = &mut path.0
            && usize::from(*len) + before.len() + step.len() + after.len() <= PATH_INLINE
        {
            let mut at = usize::from(*len);
            for text in [before, step, after] {
                bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
                at += text.len();
            }
            *len = at as u8;
            return path;
        }
        Path(Text::Long([self.as_str(), before, step, after].concat()))
    }
}

impl Default for Path {
    fn default() -> Self {
        Path::root()
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Path {}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.as_bytes().is_empty() { "<nil>" } else { self.as_str() })
    }
}

/// The class of a problem; `reason` of a Status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl ProblemKind {
    /// The `reason` of the cause in a Status (`metav1.CauseType`).
    pub fn reason(self) -> &'static str {
        match self {
            ProblemKind::NotFound => "FieldValueNotFound",
            ProblemKind::Required => "FieldValueRequired",
            ProblemKind::Duplicate => "FieldValueDuplicate",
            ProblemKind::Invalid => "FieldValueInvalid",
            ProblemKind::NotSupported => "FieldValueNotSupported",
            ProblemKind::Forbidden => "FieldValueForbidden",
            ProblemKind::TooLong => "FieldValueTooLong",
            ProblemKind::TooMany => "FieldValueTooMany",
            ProblemKind::Internal => "InternalError",
            ProblemKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
    fn text(self) -> &'static str {
        match self {
            ProblemKind::NotFound => "Not found",
            ProblemKind::Required => "Required value",
            ProblemKind::Duplicate => "Duplicate value",
            ProblemKind::Invalid | ProblemKind::TypeInvalid => "Invalid value",
            ProblemKind::NotSupported => "Unsupported value",
            ProblemKind::Forbidden => "Forbidden",
            ProblemKind::TooLong => "Too long",
            ProblemKind::TooMany => "Too many",
            ProblemKind::Internal => "Internal error",
        }
    }
}

/// One field problem. `Display` gives upstream's `field: Kind: value: detail`.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub kind: ProblemKind,
    pub field: String,
    /// What was found there; `None` for kinds that print no value (Required, Forbidden, TooLong, TooMany, Internal).
    pub value: Option<Value>,
    pub detail: String,
}

impl Problem {
    /// The text after `field: `; the `message` of a Status cause.
    pub fn body(&self) -> String {
        let mut s = self.kind.text().to_owned();
        if let Some(v) = &self.value {
            s.push_str(": ");
            s.push_str(&go_value(v));
        }
        if !self.detail.is_empty() {
            s.push_str(": ");
            s.push_str(&self.detail);
        }
        s
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = if self.field.is_empty() { "<nil>" } else { &self.field };
        write!(f, "{field}: {}", self.body())
    }
}

/// Go's rendering of a bad value in `field.Error`: strings quoted (`%q`), scalars bare, objects and lists as JSON, nil as `null`.
fn go_value(v: &Value) -> String {
    match v {
        Value::String(s) => go_quote(s),
        other => serde_json::to_string(other).expect("a JSON tree always encodes"),
    }
}

/// Go's `strconv.Quote`.
pub fn go_quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The problems found so far, in the order found. Filled by rules, read once by the pipeline.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn push(&mut self, p: Problem) {
        self.0.push(p);
    }
    fn add(&mut self, kind: ProblemKind, at: &Path, value: Option<Value>, detail: impl Into<String>) {
        self.0.push(Problem { kind, field: at.as_str().to_owned(), value, detail: detail.into() });
    }
    /// `Required value: detail`
    pub fn required(&mut self, at: &Path, detail: impl Into<String>) {
        self.add(ProblemKind::Required, at, None, detail);
    }
    /// `Invalid value: value: detail`
    pub fn invalid(&mut self, at: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ProblemKind::Invalid, at, Some(value.into()), detail);
    }
    /// `Forbidden: detail`
    pub fn forbidden(&mut self, at: &Path, detail: impl Into<String>) {
        self.add(ProblemKind::Forbidden, at, None, detail);
    }
    /// `Duplicate value: value`
    pub fn duplicate(&mut self, at: &Path, value: impl Into<Value>) {
        self.add(ProblemKind::Duplicate, at, Some(value.into()), "");
    }
    /// `Not found: value`
    pub fn not_found(&mut self, at: &Path, value: impl Into<Value>) {
        self.add(ProblemKind::NotFound, at, Some(value.into()), "");
    }
    /// `Unsupported value: value: supported values: "a", "b"`; the list is printed in the order given, so pass it sorted where upstream sorts.
    pub fn not_supported(&mut self, at: &Path, value: impl Into<Value>, supported: &[&str]) {
        let list = supported.iter().map(|s| go_quote(s)).collect::<Vec<_>>().join(", ");
        let detail = if supported.is_empty() { String::new() } else { format!("supported values: {list}") };
        self.add(ProblemKind::NotSupported, at, Some(value.into()), detail);
    }
    /// `Too long: may not be more than N bytes`
    pub fn too_long(&mut self, at: &Path, max_bytes: usize) {
        self.add(ProblemKind::TooLong, at, None, format!("may not be more than {max_bytes} bytes"));
    }
    /// `Too many: ACTUAL: must have at most N items`
    pub fn too_many(&mut self, at: &Path, actual: usize, max_items: usize) {
        let items = if max_items == 1 { "item" } else { "items" };
        self.add(ProblemKind::TooMany, at, Some(actual.into()), format!("must have at most {max_items} {items}"));
    }
    /// `Internal error: detail`
    pub fn internal(&mut self, at: &Path, detail: impl Into<String>) {
        self.add(ProblemKind::Internal, at, None, detail);
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
    /// Upstream's `ErrorList.ToAggregate().Error()`: duplicates dropped, one bare, several as `[a, b]`.
    pub fn aggregate(&self) -> String {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        // A hostile object has a hundred thousand problems.
        let mut seen = HashSet::with_capacity(texts.len());
        let once: Vec<&str> = texts.iter().map(String::as_str).filter(|t| seen.insert(*t)).collect();
        match once.as_slice() {
            [one] => (*one).to_owned(),
            many => format!("[{}]", many.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_read_as_upstream_prints_them() {
        let mut p = Problems::new();
        let at = Path::new("spec").child("containers").index(0);
        p.required(&at.child("image"), "");
        p.invalid(&at.child("name"), "Bad_Name", "nope");
        p.not_supported(&at.child("x"), "q", &["a", "b"]);
        let text: Vec<_> = p.iter().map(|p| p.to_string()).collect();
        assert_eq!(text[0], "spec.containers[0].image: Required value");
        assert_eq!(text[1], "spec.containers[0].name: Invalid value: \"Bad_Name\": nope");
        assert_eq!(text[2], "spec.containers[0].x: Unsupported value: \"q\": supported values: \"a\", \"b\"");
    }

    #[test]
    fn the_aggregate_drops_duplicates_and_brackets_many() {
        let mut p = Problems::new();
        p.required(&Path::new("a"), "");
        p.required(&Path::new("a"), "");
        assert_eq!(p.aggregate(), "a: Required value");
        p.forbidden(&Path::new("b"), "no");
        assert_eq!(p.aggregate(), "[a: Required value, b: Forbidden: no]");
    }
}
