//! PEM blocks, as Go's decoder finds them: what is no block is passed over.

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
