//! Names and what is wrong with them, in upstream's words (k8s.io/apimachinery/pkg/util/validation).
//!
//! Each check gives the messages, none when the name is good. `prefix` says that the name is a generateName, whose trailing dash is fine.

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const QUALIFIED_NAME_MAX: usize = 63;
const LABEL_VALUE_MAX: usize = 63;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_FORM: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_FORM: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_TEXT: &str =
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `must be no more than N characters`
pub fn too_many_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}
/// `must be no more than N bytes`
pub fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// Upstream's `RegexError`; the double space before `or` is its own.
pub fn form_error(text: &str, form: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{form}')");
    }
    let shown: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{form}')", shown.join(" or "))
}

/// A trailing dash of a generateName is followed by more in the end.
fn unmask(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    // Upstream cuts bytes, be they half a character.
    if prefix && name.len() > 1 && name.ends_with('-') { format!("{}a", String::from_utf8_lossy(&name.as_bytes()[..name.len() - 2])).into() } else { name.into() }
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    b.first().is_some_and(edge) && b.last().is_some_and(edge) && b.iter().all(|c| edge(c) || *c == b'-')
}
fn is_subdomain(s: &str) -> bool {
    s.split('.').all(is_label)
}
fn is_qualified(s: &str) -> bool {
    let b = s.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphanumeric) && b.last().is_some_and(u8::is_ascii_alphanumeric) && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

pub fn dns_label(name: &str, prefix: bool) -> Vec<String> {
    let name = unmask(name, prefix);
    let mut out = Vec::new();
    if name.len() > LABEL_MAX {
        out.push(too_many_characters(LABEL_MAX));
    }
    if !is_label(&name) {
        out.push(if is_subdomain(&name) { "must not contain dots".to_owned() } else { form_error(LABEL_TEXT, LABEL_FORM, &["my-name", "123-abc"]) });
    }
    out
}
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = unmask(name, prefix);
    let mut out = Vec::new();
    if name.len() > SUBDOMAIN_MAX {
        out.push(too_many_characters(SUBDOMAIN_MAX));
    }
    if !is_subdomain(&name) {
        out.push(form_error(SUBDOMAIN_TEXT, SUBDOMAIN_FORM, &["example.com"]));
    }
    out
}
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = unmask(name, prefix);
    let mut out = Vec::new();
    if name.len() > LABEL_MAX {
        out.push(too_many_characters(LABEL_MAX));
    }
    if !(is_label(&name) && name.as_bytes()[0].is_ascii_lowercase()) {
        out.push(form_error(DNS1035_TEXT, DNS1035_FORM, &["my-name", "abc-123"]));
    }
    out
}
/// Names of RBAC kinds: anything that fits into one segment of a URL path.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}
/// A label or annotation key, a finalizer: an optional DNS subdomain and `/`, then a name.
pub fn qualified_name(name: &str) -> Vec<String> {
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut out = Vec::new();
    let parts: Vec<&str> = name.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(dns_subdomain(prefix, false).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                form_error(QUALIFIED_TEXT, QUALIFIED_FORM, EXAMPLES)
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > QUALIFIED_NAME_MAX {
        out.push(format!("name part {}", too_many_bytes(QUALIFIED_NAME_MAX)));
    }
    if !is_qualified(name) {
        out.push(format!("name part {}", form_error(QUALIFIED_TEXT, QUALIFIED_FORM, EXAMPLES)));
    }
    out
}
pub fn label_value(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > LABEL_VALUE_MAX {
        out.push(too_many_bytes(LABEL_VALUE_MAX));
    }
    if !value.is_empty() && !is_qualified(value) {
        out.push(form_error(LABEL_VALUE_TEXT, LABEL_VALUE_FORM, &["MyValue", "my_value", "12345"]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_explained_in_upstreams_words() {
        assert_eq!(
            dns_subdomain("Bad_Value!", false),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns_label("-", false),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns_label("a.b", false), ["must not contain dots"]);
        assert_eq!(dns_subdomain(&"x".repeat(254), false), ["must be no more than 253 characters"]);
        assert_eq!(label_value(&"x".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(path_segment("a/b", false), ["may not contain '/'"]);
        assert_eq!(path_segment("..", false), ["may not be '..'"]);
        assert!(!dns_subdomain("é-", true).is_empty() && !dns_label("😀-", true).is_empty(), "the cut goes through a character");
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a qualified name must consist of"));
        assert_eq!(qualified_name("").len(), 2);
    }
    #[test]
    fn good_names_pass() {
        assert!(dns_subdomain("a.b-c.d", false).is_empty() && dns_label("my-pod", false).is_empty() && dns1035_label("svc", false).is_empty());
        assert!(dns_subdomain("gen-", true).is_empty());
        assert!(!dns_subdomain("gen-", false).is_empty());
        assert!(qualified_name("app.kubernetes.io/name").is_empty() && label_value("").is_empty());
    }
}
