//! Named formats of texts: `format.dns1123Label().validate(s)` is none where `s` is good, else the list of problems.

use super::{Row, fail, mismatch, time, urls};
use crate::error::Result;
use crate::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keles_api::names;

/// One format.
pub struct Format {
    /// The function that gives it.
    pub name: &'static str,
    validate: fn(&str) -> Vec<String>,
    /// Length of the pattern the cost of validating is that of.
    pub pattern_length: u64,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Format({})", self.name)
    }
}

/// The longest pattern, which estimates go by.
pub(crate) const MAX_PATTERN_LENGTH: f64 = 128.0;
/// The longest name of a format.
pub(crate) const MAX_NAME_LENGTH: u64 = 64;

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", validate: |s| names::dns_label(s, false), pattern_length: 30 },
    Format { name: "dns1123Subdomain", validate: |s| names::dns_subdomain(s, false), pattern_length: 60 },
    Format { name: "dns1035Label", validate: |s| names::dns1035_label(s, false), pattern_length: 30 },
    Format { name: "qualifiedName", validate: names::qualified_name, pattern_length: 60 },
    Format { name: "dns1123LabelPrefix", validate: |s| names::dns_label(s, true), pattern_length: 30 },
    Format { name: "dns1123SubdomainPrefix", validate: |s| names::dns_subdomain(s, true), pattern_length: 60 },
    Format { name: "dns1035LabelPrefix", validate: |s| names::dns1035_label(s, true), pattern_length: 30 },
    Format { name: "labelValue", validate: names::label_value, pattern_length: 40 },
    Format { name: "uri", validate: |s| urls::Url::parse(s).err().into_iter().collect(), pattern_length: 128 },
    Format { name: "uuid", validate: |s| unless(is_uuid(s), "does not match the UUID format"), pattern_length: 100 },
    Format { name: "byte", validate: |s| unless(STANDARD.decode(s).is_ok(), "invalid base64"), pattern_length: 100 },
    Format { name: "date", validate: |s| unless(s.len() == 10 && time::parse_timestamp(&format!("{s}T00:00:00Z")).is_some(), "invalid date"), pattern_length: 30 },
    Format { name: "datetime", validate: |s| unless(time::parse_timestamp(s).is_some(), "invalid datetime"), pattern_length: 60 },
];

macro_rules! constants {
    ($($name:literal),*) => {
        &[
            Row { name: "format.named", overloads: &[("format_named", "string -> optional(format)")], run: named },
            Row { name: "validate", overloads: &[("format_validate", ".format string -> optional(list(string))")], run: validate },
            $(Row { name: concat!("format.", $name), overloads: &[(concat!("format_", $name), "-> format")], run: constant },)*
        ]
    };
}

pub(crate) const ROWS: &[Row] = constants!(
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime"
);

fn unless(good: bool, problem: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![problem.into()] }
}

fn is_uuid(s: &str) -> bool {
    let hex: String = s.chars().filter(|c| *c != '-').collect();
    hex.len() == 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && (s.len() == 32 || (s.len() == 36 && s.char_indices().all(|(i, c)| (c == '-') == matches!(i, 8 | 13 | 18 | 23))))
}

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}

fn named<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let Some(name) = a[0].as_str() else { return Err(mismatch(function, a)) };
    Ok(find(name).map_or(Value::NONE, |f| Value::some(Value::Format(f))))
}

fn constant<'a>(function: &str, _: &[Value<'a>]) -> Result<Value<'a>> {
    match find(function.trim_start_matches("format.")) {
        Some(f) => Ok(Value::Format(f)),
        None => fail(format!("no such format: {function}")),
    }
}

fn validate<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let (Value::Format(f), Value::String(s)) = (&a[0], &a[1]) else { return Err(mismatch(function, a)) };
    let problems = (f.validate)(s);
    Ok(if problems.is_empty() { Value::NONE } else { Value::some(Value::list(problems.into_iter().map(Value::from).collect())) })
}
