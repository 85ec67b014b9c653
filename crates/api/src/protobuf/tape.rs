//! A JSON text as a flat list of its values, without copies: what encoding walks.
//!
//! Every entry knows where its value lies in the text and which entry follows its whole subtree. Objects hold keys and values in turn.

use super::{ProtobufError, Result};
use crate::json::closing_quote;
use std::borrow::Cow;

/// Deeper than any body that was accepted; upstream's own decoders end near this too.
const DEPTH_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Null,
    True,
    False,
    Number,
    /// Without its quotes; the text holds it as it is.
    Text,
    /// As Text, with escapes.
    Escaped,
    Array,
    Object,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub tag: Tag,
    pub start: u32,
    pub end: u32,
    /// Index of the entry after this one's subtree.
    pub next: u32,
}

#[derive(Default)]
pub(super) struct Tape {
    entries: Vec<Entry>,
}

fn malformed() -> ProtobufError {
    ProtobufError::Json
}

impl Tape {
    /// Reads a whole document; the room of an earlier one is used again.
    pub fn read(&mut self, json: &[u8]) -> Result<()> {
        self.entries.clear();
        if u32::try_from(json.len()).is_err() || std::str::from_utf8(json).is_err() {
            return Err(malformed());
        }
        let mut s = Scanner { json, at: 0, entries: &mut self.entries };
        s.value(0)?;
        s.space();
        if s.at == json.len() { Ok(()) } else { Err(malformed()) }
    }
    pub fn entry(&self, at: u32) -> Entry {
        self.entries[at as usize]
    }
    /// The children of an array, or the keys (each followed by its value) of an object.
    pub fn children(&self, at: u32) -> impl Iterator<Item = u32> + '_ {
        let end = self.entry(at).next;
        let mut next = at + 1;
        std::iter::from_fn(move || {
            (next < end).then(|| {
                let this = next;
                next = self.entry(this).next;
                this
            })
        })
    }
    pub fn bytes<'j>(&self, json: &'j [u8], at: u32) -> &'j [u8] {
        let e = self.entry(at);
        &json[e.start as usize..e.end as usize]
    }
    /// The bytes of a string, unescaped.
    pub fn text<'j>(&self, json: &'j [u8], at: u32) -> Result<Cow<'j, [u8]>> {
        let e = self.entry(at);
        match e.tag {
            Tag::Text => Ok(Cow::Borrowed(&json[e.start as usize..e.end as usize])),
            Tag::Escaped => {
                let quoted = &json[e.start as usize - 1..e.end as usize + 1];
                serde_json::from_slice::<String>(quoted).map(|s| Cow::Owned(s.into_bytes())).map_err(|_| malformed())
            }
            _ => Err(malformed()),
        }
    }
}

struct Scanner<'a, 'e> {
    json: &'a [u8],
    at: usize,
    entries: &'e mut Vec<Entry>,
}

impl Scanner<'_, '_> {
    fn space(&mut self) {
        while self.json.get(self.at).is_some_and(|c| matches!(c, b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }
    fn peek(&mut self) -> Result<u8> {
        self.space();
        self.json.get(self.at).copied().ok_or_else(malformed)
    }
    fn want(&mut self, c: u8) -> Result<()> {
        if self.peek()? != c {
            return Err(malformed());
        }
        self.at += 1;
        Ok(())
    }
    fn push(&mut self, tag: Tag, start: usize, end: usize) {
        let next = self.entries.len() as u32 + 1;
        self.entries.push(Entry { tag, start: start as u32, end: end as u32, next });
    }
    fn value(&mut self, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(ProtobufError::TooDeep);
        }
        match self.peek()? {
            b'{' => self.container(Tag::Object, b'}', depth),
            b'[' => self.container(Tag::Array, b']', depth),
            b'"' => self.string(),
            b't' => self.word(b"true", Tag::True),
            b'f' => self.word(b"false", Tag::False),
            b'n' => self.word(b"null", Tag::Null),
            b'-' | b'0'..=b'9' => {
                let start = self.at;
                while self.json.get(self.at).is_some_and(|c| matches!(c, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
                    self.at += 1;
                }
                self.push(Tag::Number, start, self.at);
                Ok(())
            }
            _ => Err(malformed()),
        }
    }
    fn container(&mut self, tag: Tag, close: u8, depth: usize) -> Result<()> {
        let (index, start) = (self.entries.len(), self.at);
        self.push(tag, start, start);
        self.at += 1;
        if self.peek()? == close {
            self.at += 1;
        } else {
            loop {
                if tag == Tag::Object {
                    if self.peek()? != b'"' {
                        return Err(malformed());
                    }
                    self.string()?;
                    self.want(b':')?;
                }
                self.value(depth + 1)?;
                let c = self.peek()?;
                self.at += 1;
                match c {
                    b',' => {}
                    c if c == close => break,
                    _ => return Err(malformed()),
                }
            }
        }
        let next = self.entries.len() as u32;
        let e = &mut self.entries[index];
        (e.end, e.next) = (self.at as u32, next);
        Ok(())
    }
    fn string(&mut self) -> Result<()> {
        let start = self.at + 1;
        let (end, has_escapes) = closing_quote(self.json, start).ok_or_else(malformed)?;
        self.at = end + 1;
        self.push(if has_escapes { Tag::Escaped } else { Tag::Text }, start, end);
        Ok(())
    }
    fn word(&mut self, word: &[u8], tag: Tag) -> Result<()> {
        if !self.json[self.at..].starts_with(word) {
            return Err(malformed());
        }
        self.push(tag, self.at, self.at + word.len());
        self.at += word.len();
        Ok(())
    }
}
