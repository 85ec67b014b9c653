//! Trees as JSON text, byte for byte what `serde_json` writes.
//!
//! Entry points: [`write`], [`write_entry`]. Every stored object goes through here, and serde's data model between tree and text costs more
//! than the text: texts are searched for what must be escaped eight bytes at a time, and copied whole where nothing is.

use serde_json::Value;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a tree.
pub fn write(out: &mut Vec<u8>, v: &Value) {
    match v {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => match n.as_i64() {
            Some(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
            None => serde_json::to_writer(out, n).expect("writing to memory cannot fail"),
        },
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            out.push(b'{');
            for (i, (name, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_entry(out, name, value);
            }
            out.push(b'}');
        }
    }
}

/// Appends an entry of an object: its name and value.
pub fn write_entry(out: &mut Vec<u8>, name: &str, value: &Value) {
    write_text(out, name);
    out.push(b':');
    write(out, value);
}

/// Appends a text in quotes.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    while let Some(at) = escaped(rest) {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Where the first byte is that may not stand in a JSON text.
fn escaped(text: &[u8]) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The highest bit of a byte that is below the other one's; bytes above the first such one may be wrong, which is why the lowest is taken.
        let below = |word: u64, least: u8| word.wrapping_sub(ONES * u64::from(least)) & !word;
        let found = (below(word, b' ') | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1)) & HIGH;
        if found != 0 {
            return Some(i * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|b| *b < b' ' || matches!(b, b'"' | b'\\')).map(|at| words.len() * 8 + at)
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digit = |half: u8| HEX[usize::from(half)];
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn written(v: &Value) -> String {
        let mut out = Vec::new();
        write(&mut out, v);
        String::from_utf8(out).expect("JSON is text")
    }

    #[test]
    fn each_kind_of_value_is_written_as_serde_json_does() {
        let numbers = json!([0, -1, i64::MIN, i64::MAX, u64::MAX, 0.1, 1.0, 1e300, -2.5e-7]);
        let v = json!({"a": null, "b": [true, false, {}, []], "numbers": numbers, "": {"x": [[1], {"y": "z"}]}});
        assert_eq!(written(&v), v.to_string());
    }

    #[test]
    fn a_byte_that_is_escaped_is_found_at_every_place_of_every_length() {
        for byte in (0..=0x7f).chain([0xc3]) {
            let one = if byte < 0x80 { char::from(byte) } else { 'é' };
            for (before, after) in (0..20).flat_map(|before| (0..10).map(move |after| (before, after))) {
                let v = Value::from(format!("{}{one}{}", "x".repeat(before), "\u{7f}".repeat(after)));
                assert_eq!(written(&v), v.to_string());
            }
        }
    }

    proptest! {
        #[test]
        fn texts_are_written_as_serde_json_does(text in "\\PC{0,40}", odd in proptest::collection::vec(any::<char>(), 0..40)) {
            let v = json!({text.clone(): odd.iter().collect::<String>(), "both": [text]});
            prop_assert_eq!(written(&v), v.to_string());
        }
    }
}
