//! Regular expressions as Go reads them (RE2), which the `regex` crate follows closely; what is wrong with one in Go's words.

use regex::Regex;

/// Bytes a compiled expression may take: a schema may hold thousands of them.
const COMPILED_MAX_BYTES: usize = 1 << 20;

/// `Err` is Go's `error parsing regexp: …`.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(pattern).size_limit(COMPILED_MAX_BYTES).build().map_err(|e| format!("error parsing regexp: {}", reason(pattern, &e)))
}

fn reason(pattern: &str, e: &regex::Error) -> String {
    if matches!(e, regex::Error::CompiledTooBig(_)) {
        return "expression too large".into();
    }
    let text = e.to_string();
    let says = |part: &str| text.contains(part);
    let word = match () {
        _ if says("unclosed group") => return format!("missing closing ): `{pattern}`"),
        _ if says("unopened group") => return format!("unexpected ): `{pattern}`"),
        _ if says("unclosed character class") => return format!("missing closing ]: `{}`", pattern.rfind('[').map_or(pattern, |i| &pattern[i..])),
        _ if says("repetition operator missing expression") => return format!("missing argument to repetition operator: `{}`", operator(pattern)),
        _ if says("incomplete escape sequence") => return "trailing backslash at end of expression: ``".into(),
        _ if says("unrecognized escape sequence") || says("backreferences") => return format!("invalid escape sequence: `{}`", escape(pattern)),
        _ if says("look-around") => return format!("invalid or unsupported Perl syntax: `{}`", perl(pattern)),
        _ if says("invalid character class range") => "invalid character class range",
        _ if says("repetition quantifier") || says("repetition") => "invalid repeat count",
        _ => "invalid or unsupported Perl syntax",
    };
    format!("{word}: `{pattern}`")
}

/// The operator that has nothing before it: at the start, or after `(` or `|`.
fn operator(pattern: &str) -> String {
    let mut before = '(';
    for c in pattern.chars() {
        if matches!(c, '*' | '+' | '?') && matches!(before, '(' | '|') {
            return c.to_string();
        }
        before = c;
    }
    "*".into()
}

/// The first escape that RE2 does not have.
fn escape(pattern: &str) -> String {
    let known = |c: char| c.is_ascii_punctuation() || "aftnrvdDsSwWbBAzxpPQEC01234567".contains(c);
    let mut all = pattern.chars();
    while let Some(c) = all.next() {
        if c == '\\'
            && let Some(next) = all.next()
            && !known(next)
        {
            return format!("\\{next}");
        }
    }
    pattern.to_owned()
}

fn perl(pattern: &str) -> &str {
    let at = ["(?=", "(?!", "(?<"].iter().filter_map(|s| pattern.find(s)).min();
    at.map_or(pattern, |i| pattern.get(i..i + 3).unwrap_or(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_as_go_says_it() {
        for (pattern, want) in [
            ("(a", "error parsing regexp: missing closing ): `(a`"),
            ("a)", "error parsing regexp: unexpected ): `a)`"),
            ("[a", "error parsing regexp: missing closing ]: `[a`"),
            ("*a", "error parsing regexp: missing argument to repetition operator: `*`"),
            ("(?=a)", "error parsing regexp: invalid or unsupported Perl syntax: `(?=`"),
        ] {
            assert_eq!(compile(pattern).expect_err(pattern), want);
        }
        assert!(compile("^[a-z]+$").is_ok());
    }
}
