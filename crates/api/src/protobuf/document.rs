//! What messages are written from: a JSON text by its tape, or a tree.

use super::tape::{Tag, Tape};
use super::{ProtobufError, Result};
use serde_json::Value;
use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Null,
    Bool(bool),
    Number,
    Text,
    List,
    Object,
}

/// A document of values, each at a place in it. What is asked of a value of another form is refused, or is empty.
pub(super) trait Document<'a>: Copy {
    type At: Copy;
    fn root(self) -> Self::At;
    fn form(self, at: Self::At) -> Form;
    /// A text, unescaped.
    fn text(self, at: Self::At) -> Result<Cow<'a, [u8]>>;
    /// A number without a fraction.
    fn integer(self, at: Self::At) -> Result<i64>;
    fn double(self, at: Self::At) -> Result<f64>;
    /// Any value as JSON.
    fn json(self, at: Self::At) -> Cow<'a, [u8]>;
    fn items(self, at: Self::At) -> impl DoubleEndedIterator<Item = Self::At>;
    fn fields(self, at: Self::At) -> impl Iterator<Item = Result<(Cow<'a, [u8]>, Self::At)>>;
}

/// Numbers that have no fraction may be written as if they had one.
fn whole(v: f64) -> Result<i64> {
    if v.fract() == 0.0 && v.abs() < 9e18 { Ok(v as i64) } else { Err(ProtobufError::Json) }
}

#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    tape: &'a Tape,
    json: &'a [u8],
}

impl<'a> Text<'a> {
    /// `tape` has read `json`.
    pub fn new(tape: &'a Tape, json: &'a [u8]) -> Self {
        Text { tape, json }
    }
    /// Of a value of that form; else none.
    fn children(self, at: u32, form: Form) -> impl Iterator<Item = u32> {
        (self.form(at) == form).then(|| self.tape.children(at)).into_iter().flatten()
    }
    fn number<T: std::str::FromStr>(self, at: u32) -> Result<T> {
        if self.form(at) != Form::Number {
            return Err(ProtobufError::Json);
        }
        std::str::from_utf8(self.tape.bytes(self.json, at)).ok().and_then(|t| t.parse().ok()).ok_or(ProtobufError::Json)
    }
}

impl<'a> Document<'a> for Text<'a> {
    type At = u32;
    fn root(self) -> u32 {
        0
    }
    fn form(self, at: u32) -> Form {
        match self.tape.entry(at).tag {
            Tag::Null => Form::Null,
            Tag::True => Form::Bool(true),
            Tag::False => Form::Bool(false),
            Tag::Number => Form::Number,
            Tag::Text | Tag::Escaped => Form::Text,
            Tag::Array => Form::List,
            Tag::Object => Form::Object,
        }
    }
    fn text(self, at: u32) -> Result<Cow<'a, [u8]>> {
        self.tape.text(self.json, at)
    }
    fn integer(self, at: u32) -> Result<i64> {
        self.number(at).or_else(|_| whole(self.number(at)?))
    }
    fn double(self, at: u32) -> Result<f64> {
        self.number(at)
    }
    fn json(self, at: u32) -> Cow<'a, [u8]> {
        let e = self.tape.entry(at);
        let quote = u32::from(self.form(at) == Form::Text);
        Cow::Borrowed(&self.json[(e.start - quote) as usize..(e.end + quote) as usize])
    }
    fn items(self, at: u32) -> impl DoubleEndedIterator<Item = u32> {
        // They are found from first to last alone.
        self.children(at, Form::List).collect::<Vec<_>>().into_iter()
    }
    fn fields(self, at: u32) -> impl Iterator<Item = Result<(Cow<'a, [u8]>, u32)>> {
        let mut keys_and_values = self.children(at, Form::Object);
        std::iter::from_fn(move || {
            let (key, value) = (keys_and_values.next()?, keys_and_values.next()?);
            Some(self.text(key).map(|name| (name, value)))
        })
    }
}

#[derive(Clone, Copy)]
pub(super) struct Tree<'a>(pub &'a Value);

impl<'a> Document<'a> for Tree<'a> {
    type At = &'a Value;
    fn root(self) -> &'a Value {
        self.0
    }
    fn form(self, at: &'a Value) -> Form {
        match at {
            Value::Null => Form::Null,
            Value::Bool(v) => Form::Bool(*v),
            Value::Number(_) => Form::Number,
            Value::String(_) => Form::Text,
            Value::Array(_) => Form::List,
            Value::Object(_) => Form::Object,
        }
    }
    fn text(self, at: &'a Value) -> Result<Cow<'a, [u8]>> {
        at.as_str().map(|text| text.as_bytes().into()).ok_or(ProtobufError::Json)
    }
    fn integer(self, at: &'a Value) -> Result<i64> {
        at.as_i64().map_or_else(|| whole(self.double(at)?), Ok)
    }
    fn double(self, at: &'a Value) -> Result<f64> {
        at.as_f64().ok_or(ProtobufError::Json)
    }
    fn json(self, at: &'a Value) -> Cow<'a, [u8]> {
        let mut out = Vec::new();
        crate::json::write(&mut out, at);
        out.into()
    }
    fn items(self, at: &'a Value) -> impl DoubleEndedIterator<Item = &'a Value> {
        at.as_array().into_iter().flatten()
    }
    fn fields(self, at: &'a Value) -> impl Iterator<Item = Result<(Cow<'a, [u8]>, &'a Value)>> {
        at.as_object().into_iter().flatten().map(|(name, value)| Ok((name.as_bytes().into(), value)))
    }
}
