//! YAML as the API reads and writes it. Reading is [`crate::decode`] over [`read`]; [`to_yaml`] writes, [`documents`] splits a stream.

pub(crate) mod read;
mod write;

use serde_json::Value;

/// One document.
pub fn to_yaml(v: &Value) -> String {
    write::document(v)
}

/// The documents of a stream, split at lines of `---`; empty ones dropped.
pub fn documents(stream: &str) -> Vec<&str> {
    let (mut out, mut start, mut at) = (Vec::new(), 0, 0);
    for line in stream.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            out.push(&stream[start..at]);
            start = at + if line.starts_with("--- ") { 3 } else { line.len() };
        }
        at += line.len();
    }
    out.push(&stream[start..]);
    out.retain(|d| d.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_stream_splits_into_its_documents() {
        assert_eq!(super::documents("---\na: 1\n---\n# only a comment\n---\nb: 2\n"), ["a: 1\n", "b: 2\n"]);
        assert_eq!(super::to_yaml(&serde_json::json!({"a": ["x"]})), "a:\n- x\n");
    }
}
