//! PEM blocks, as Go's decoder finds them: what is no block is passed over. Trust anchors written the way pods read them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// A block of `-----BEGIN kind-----`.
pub struct Block {
    pub kind: String,
    /// Whether it has `Name: value` lines before its content.
    pub has_headers: bool,
    pub bytes: Vec<u8>,
}

/// All blocks of a text, in order.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut all = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) else { continue };
        let end = format!("-----END {kind}-----");
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != end).collect();
        let (headers, content): (Vec<&str>, Vec<&str>) = body.into_iter().partition(|l| l.contains(':'));
        if let Ok(bytes) = BASE64.decode(content.concat()) {
            all.push(Block { kind: kind.to_owned(), has_headers: !headers.is_empty(), bytes });
        }
    }
    all
}

const LINE_CHARS: usize = 64;

/// Certificates as text, a block each, in lines of 64 characters without headers, as Go's encoder writes them.
pub fn certificates<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for der in all {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = BASE64.encode(der);
        for line in encoded.as_bytes().chunks(LINE_CHARS) {
            // Base64 is ASCII, so no character is cut.
            text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_again_and_what_stands_between_is_passed_over() {
        let (short, long) = (vec![1u8; 3], vec![2u8; 100]);
        let text = certificates([short.as_slice(), long.as_slice()]);
        assert!(text.lines().all(|line| line.len() <= LINE_CHARS) && text.ends_with("-----END CERTIFICATE-----\n"), "{text}");
        let found: Vec<_> = blocks(&format!("a note\n{text}")).into_iter().map(|block| (block.kind, block.has_headers, block.bytes)).collect();
        assert_eq!(found, [("CERTIFICATE".to_owned(), false, short), ("CERTIFICATE".to_owned(), false, long)]);
    }
}
