//! Kubernetes CBOR (KEP-4222, RFC 8949), both ways, as trees of JSON.
//!
//! Entry points: [`decode`] for bodies, [`encode`] for answers, [`watch_events`] for lines of a watch. Rules of upstream: text goes out as byte
//! strings, fields of bytes as byte strings under tag 22 (which says that JSON shows them in base64), every document begins with the
//! self-described tag. Coming in, text and byte strings are text both, byte strings under tags 21 to 23 become the text that the tag
//! names; duplicate keys, keys that are not text, NaN, infinities, big numbers and `undefined` are refused, indefinite lengths are read.
//! Limits: [`DEPTH_MAX`] and [`ITEMS_MAX`]; nothing is allocated by a length that is only announced.
//! Our own rather than a library: what is left of a library under these rules is its tokenizer.

mod decode;
mod encode;

pub use decode::decode;
pub use encode::{encode, watch_events};

pub const MEDIA_TYPE: &str = "application/cbor";
/// Media type of a watch: documents one after the other (RFC 8742).
pub const WATCH_MEDIA_TYPE: &str = "application/cbor-seq";
/// Upstream's limit of arrays and maps within each other.
pub const DEPTH_MAX: usize = 64;
/// Items of all sorts in one document; a body of 3 MB of empty arrays would be as many.
pub const ITEMS_MAX: usize = 1 << 20;

/// Tag 55799: what follows is CBOR.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    #[error("the CBOR document ends early")]
    Ends,
    #[error("the CBOR document is malformed at byte {at}")]
    Malformed { at: usize },
    #[error("the CBOR document has {bytes} bytes after its end")]
    Trailing { bytes: usize },
    #[error("the CBOR document is nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("the CBOR document has more than {ITEMS_MAX} items")]
    TooMany,
    #[error("a string at byte {at} is not UTF-8")]
    Utf8 { at: usize },
    #[error("the map has a key twice at byte {at}")]
    Duplicate { at: usize },
    #[error("the map has a key at byte {at} that is no string")]
    Key { at: usize },
    #[error("the value at byte {at} has no form in JSON")]
    NoJson { at: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }
    fn read(text: &str) -> Result<Value, CborError> {
        decode(&hex(text))
    }

    #[test]
    fn documents_are_written_as_upstream_writes_them() {
        let secret = json!({"apiVersion": "v1", "data": {"k": "AAH/"}, "kind": "Secret"});
        let want = hex("d9d9f7 a3 4a61706956657273696f6e 427631 4464617461 a1 416b d6 430001ff 446b696e64 46536563726574");
        assert_eq!(encode(&secret), want, "bytes under tag 22, text as byte strings");
        let custom = json!({"apiVersion": "a.b/v1", "data": {"k": "AAH/"}, "kind": "Secret"});
        assert!(encode(&custom).ends_with(&hex("46536563726574")) && !encode(&custom).windows(2).any(|w| w == [0xd6, 0x43]), "a custom kind's text is text");
        assert_eq!(encode(&json!([0, 23, 24, 256, 65536, 4294967296u64, -1, -25])), hex("d9d9f7 88 00 17 1818 190100 1a00010000 1b0000000100000000 20 3818"));
        assert_eq!(encode(&json!([1.5, 100000.5, 1.1, true, null])), hex("d9d9f7 85 f93e00 fa47c35040 fb3ff199999999999a f5 f6"), "floats in the shortest form");
    }

    #[test]
    fn what_was_written_is_read() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ä", "labels": {}}, "spec": {"n": [1, -2, 3.25, u32::MAX, i64::MIN, true, null, ""]}});
        assert_eq!(decode(&encode(&pod)), Ok(pod));
        let secret = json!({"apiVersion": "v1", "kind": "SecretList", "items": [{"data": {"k": "AAH/", "odd": "not base64"}}]});
        assert_eq!(decode(&encode(&secret)), Ok(secret));
    }

    #[test]
    fn other_encoders_are_understood() {
        assert_eq!(read("a1 6161 9f 01 62 6869 ff"), Ok(json!({"a": [1, "hi"]})), "text strings and indefinite lengths");
        assert_eq!(read("bf 5f 41 61 41 62 ff 7f 61 63 61 64 ff ff"), Ok(json!({"ab": "cd"})), "strings in pieces");
        assert_eq!(read("82 d5 42 fbff d7 42 00ff"), Ok(json!(["-_8", "00FF"])), "bytes expected in base64url and base16");
        assert_eq!(read("c0 74 323032362d30312d30315430303a30303a30305a"), Ok(json!("2026-01-01T00:00:00Z")));
        assert_eq!(read("d9ffff 01"), Ok(json!(1)), "a tag that says nothing to us");
        assert_eq!((read("f9 3c00"), read("f9 0001")), (Ok(json!(1)), Ok(json!(5.960464477539063e-8))), "half floats, whole ones as integers");
    }

    #[test]
    fn what_json_cannot_say_or_nobody_should_send_is_refused() {
        for (text, want) in [
            ("f97e00", CborError::NoJson { at: 0 }),
            ("fb7ff0000000000000", CborError::NoJson { at: 0 }),
            ("f7", CborError::NoJson { at: 0 }),
            ("c2 41 01", CborError::NoJson { at: 0 }),
            ("3b8000000000000000", CborError::NoJson { at: 0 }),
            ("1bffffffffffffffff", CborError::NoJson { at: 0 }),
            ("c0 01", CborError::NoJson { at: 1 }),
            ("a1 01 02", CborError::Key { at: 1 }),
            ("a2 4161 01 6161 02", CborError::Duplicate { at: 4 }),
            ("61 ff", CborError::Utf8 { at: 0 }),
            ("01 02", CborError::Trailing { bytes: 1 }),
            ("", CborError::Ends),
            ("9b ffffffffffffffff 01", CborError::Ends),
            ("5b ffffffffffffffff", CborError::Ends),
            ("1c", CborError::Malformed { at: 0 }),
            ("ff", CborError::Malformed { at: 0 }),
            ("bf 4161 ff", CborError::Malformed { at: 3 }),
            ("5f 6161 ff", CborError::Malformed { at: 1 }),
        ] {
            assert_eq!(read(text), Err(want), "{text}");
        }
    }

    #[test]
    fn depth_and_number_of_items_are_bounded() {
        let nested = |n: usize, end: &[u8]| [vec![0x81; n], end.to_vec()].concat();
        assert!(decode(&nested(DEPTH_MAX, &[1])).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1, &[1])), Err(CborError::TooDeep));
        assert_eq!(decode(&vec![0x9f; 1 << 20]), Err(CborError::TooDeep));
        assert_eq!(decode(&vec![0xc1; 1 << 20]), Err(CborError::TooDeep), "tags within tags too");
        let mut many = hex("9f");
        many.resize(ITEMS_MAX + 2, 0x80);
        assert_eq!(decode(&many), Err(CborError::TooMany));
    }

    #[test]
    fn no_bytes_make_it_panic_or_read_past_them() {
        let whole = encode(&json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "AAH/"}, "l": [1, 2.5, "x", null]}));
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err());
        }
        let mut state = 7u64;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_watch_is_one_document_after_another() {
        let lines = b"{\"type\":\"ADDED\",\"object\":{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"k\":\"AAH/\"}}}\n{\"type\":\"BOOKMARK\",\"object\":{}}\n";
        let seq = watch_events(lines);
        assert_eq!(seq.windows(3).filter(|w| *w == SELF_DESCRIBED).count(), 2);
        assert!(seq.windows(5).any(|w| w == [0xd6, 0x43, 0, 1, 0xff]), "the object in the event is typed");
    }
}
