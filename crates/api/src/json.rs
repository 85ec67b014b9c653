//! Trees as JSON text, byte for byte what `serde_json` writes; and parts of such a text found without reading the rest.
//!
//! Entry points: [`write`], [`write_entry`]; [`Entries`]. Every stored object goes through here, and serde's data model between tree and text costs
//! more than the text: texts are searched for what must be escaped eight bytes at a time, and copied whole where nothing is.

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

/// The entries of an object's text as [`write`] lays it out (no blanks): each name as it stands between its quotes, and its value's text. What is
/// cut short or no object ends early; nothing panics.
pub struct Entries<'a> {
    text: &'a [u8],
    at: usize,
    is_over: bool,
}

impl<'a> Entries<'a> {
    /// The text may go on after the object.
    pub fn of(text: &'a [u8]) -> Self {
        Self { text, at: 0, is_over: false }
    }

    /// Behind the object, once all entries were taken.
    pub fn end(&self) -> usize {
        self.at
    }

    fn entry(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (text, is_first) = (self.text, self.at == 0);
        let before = *text.get(self.at)?;
        let is_empty = is_first && text.get(1) == Some(&b'}');
        if is_empty || before == b'}' {
            self.at += if is_empty { 2 } else { 1 };
            return None;
        }
        let name = self.at + 1;
        if before != (if is_first { b'{' } else { b',' }) || *text.get(name)? != b'"' {
            return None;
        }
        let name_end = text_end(text, name);
        let value = name_end + 1;
        self.at = value_end(text, value);
        Some((text.get(name + 1..name_end - 1)?, text.get(value..self.at)?))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = if self.is_over { None } else { self.entry() };
        self.is_over = entry.is_none();
        entry
    }
}

/// Where the text ends whose opening quote stands before `at`, which is its closing quote, and whether something is escaped in it; none: it is cut short.
pub(crate) fn closing_quote(text: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut has_escapes = false;
    loop {
        at += text.get(at..).and_then(escaped)?;
        match text[at] {
            b'"' => return Some((at, has_escapes)),
            b'\\' => {
                has_escapes = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// Behind the quotes of the text that begins here, or of all where it is cut short.
fn text_end(text: &[u8], at: usize) -> usize {
    closing_quote(text, at + 1).map_or(text.len(), |(quote, _)| quote + 1)
}

/// Behind the value that begins here.
fn value_end(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = text_end(text, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            // A number, a word, or between the parts of what is open.
            _ => at += 1,
        }
        if depth == 0 && matches!(text.get(at), Some(b',' | b'}' | b']')) {
            return at;
        }
    }
    text.len()
}

/// Where the first byte is that may not stand in a JSON text.
fn escaped(text: &[u8]) -> Option<usize> {
    let good = text.as_chunks::<32>().0.iter().take_while(|block| !any_escaped(block)).count() * 32;
    escaped_by_words(&text[good..]).map(|at| good + at)
}

/// All bytes of a block at once: numbers instead of branches, which the compiler puts into wide registers (24 instructions a block; with `||` it
/// takes the bytes one by one, 366).
fn any_escaped(block: &[u8; 32]) -> bool {
    block.iter().fold(0, |found, byte| found | u8::from(is_escaped(*byte))) != 0
}

fn is_escaped(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

/// The same, eight bytes at a time.
fn escaped_by_words(text: &[u8]) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        if let Some(at) = escaped_in(u64::from_le_bytes(*word)) {
            return Some(i * 8 + at);
        }
    }
    // What is left together with bytes before it, which are known to be good.
    if let (Some(word), false) = (text.last_chunk(), rest.is_empty()) {
        return escaped_in(u64::from_le_bytes(*word)).map(|at| text.len() - 8 + at);
    }
    if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        let word = u64::from(u32::from_le_bytes(*last)) << 32 | u64::from(u32::from_le_bytes(*first));
        return escaped_in(word).map(|at| if at < 4 { at } else { rest.len() + at - 8 });
    }
    rest.iter().position(|b| is_escaped(*b))
}

/// The same of eight bytes, the lowest first.
fn escaped_in(word: u64) -> Option<usize> {
    // The highest bit of a byte that is below the other one's; bytes above the first such one may be wrong, which is why the lowest is taken.
    let below = |word: u64, least: u8| word.wrapping_sub(ONES * u64::from(least)) & !word;
    let found = (below(word, b' ') | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1)) & HIGH;
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
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
            for (before, after) in (0..70).flat_map(|before| (0..40).map(move |after| (before, after))) {
                let v = Value::from(format!("{}{one}{}", "x".repeat(before), "\u{7f}".repeat(after)));
                assert_eq!(written(&v), v.to_string());
            }
        }
    }

    #[test]
    fn what_is_cut_short_or_no_object_has_no_further_entries() {
        let whole = br#"{"a":"x\\\"","b":{"c":[1,"}"]},"d":null},"e":1"#;
        let found: Vec<_> = Entries::of(whole).collect();
        assert_eq!(found, [(&b"a"[..], &br#""x\\\"""#[..]), (b"b", br#"{"c":[1,"}"]}"#), (b"d", b"null")]);
        let mut entries = Entries::of(whole);
        assert_eq!((entries.by_ref().count(), &whole[entries.end()..]), (3, &br#","e":1"#[..]));
        for cut in 0..whole.len() {
            assert!(Entries::of(&whole[..cut]).count() <= 3);
        }
        let mut none = Entries::of(b"{}x");
        assert_eq!((none.next(), none.next(), none.end()), (None, None, 2));
        for odd in ["", "[1]", "1", "{1:2}", "{\"", "{\"a\"", "{\"a\":", "}", "null"] {
            assert_eq!(Entries::of(odd.as_bytes()).next().filter(|(_, value)| !value.is_empty()), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn entries_are_those_of_the_object(object in proptest::collection::btree_map("\\PC{0,9}|[a\"\\\\]{0,4}", ("\\PC{0,20}", -9..9_i32, proptest::collection::vec("[}\\]\"\\\\,]{0,5}", 0..4)), 0..6)) {
            let v = json!(object.into_iter().collect::<std::collections::BTreeMap<_, _>>());
            let text = written(&v) + ",\"more\":1}";
            let mut entries = Entries::of(text.as_bytes());
            let read = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("a value");
            let found: serde_json::Map<String, Value> = entries
                .by_ref()
                .map(|(name, value)| (read(&[b"\"", name, b"\""].concat()).as_str().expect("a name").to_owned(), read(value)))
                .collect();
            prop_assert_eq!((Value::Object(found), &text[entries.end()..]), (v, ",\"more\":1}"));
        }

        #[test]
        fn texts_are_written_as_serde_json_does(text in "\\PC{0,40}", odd in proptest::collection::vec(any::<char>(), 0..40)) {
            let v = json!({text.clone(): odd.iter().collect::<String>(), "both": [text]});
            prop_assert_eq!(written(&v), v.to_string());
        }
    }
}
