//! Descriptions of built-in types and fields, for OpenAPI and `kubectl explain`. Kept compressed; see [`super::descriptions`].

use std::collections::HashMap;

static PACKED: &[u8] = include_bytes!("descriptions.zst");

/// The unpacked descriptions: one text, and where each type's part of it starts.
pub struct Descriptions {
    text: String,
    /// Byte ranges of a type's lines by its name.
    types: HashMap<String, (usize, usize)>,
}

impl Descriptions {
    pub(super) fn load() -> Self {
        let raw = zstd::decode_all(PACKED).expect("the committed descriptions are a zstd stream, which a test opens");
        let text = String::from_utf8(raw).expect("the committed descriptions are UTF-8, which a test opens");
        let mut types = HashMap::new();
        let (mut at, mut open): (usize, Option<(String, usize)>) = (0, None);
        for line in text.split_inclusive('\n') {
            if !line.starts_with('.') {
                if let Some((name, from)) = open.take() {
                    types.insert(name, (from, at));
                }
                open = Some((line.split('\t').next().unwrap_or_default().to_owned(), at));
            }
            at += line.len();
        }
        if let Some((name, from)) = open {
            types.insert(name, (from, at));
        }
        Descriptions { text, types }
    }
    /// Empty where there is none.
    pub fn of_type(&self, name: &str) -> String {
        self.lines(name).next().map(text_of).unwrap_or_default()
    }
    pub fn of_field(&self, name: &str, field: &str) -> String {
        self.fields(name).find(|(f, _)| *f == field).map(|(_, d)| d).unwrap_or_default()
    }
    /// All fields of a type with their descriptions.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = (&str, String)> {
        self.lines(name).skip(1).filter_map(|l| Some((l.strip_prefix('.')?.split('\t').next()?, text_of(l))))
    }
    fn lines(&self, name: &str) -> std::str::Lines<'_> {
        self.types.get(name).map_or("", |&(from, to)| &self.text[from..to]).lines()
    }
}

fn text_of(line: &str) -> String {
    line.split_once('\t').and_then(|(_, json)| serde_json::from_str(json).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn descriptions_are_found_by_type_and_field() {
        let d = super::super::descriptions();
        assert!(d.of_type("io.k8s.api.core.v1.Pod").starts_with("Pod is a collection of containers"));
        assert!(d.of_field("io.k8s.api.core.v1.PodSpec", "nodeName").contains("node"));
        assert_eq!(d.of_type("no.such.Type"), "");
    }
}
