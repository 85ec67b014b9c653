//! From CBOR to a tree of JSON.

use super::{CborError, DEPTH_MAX, ITEMS_MAX};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Number, Value};

type Result<T> = std::result::Result<T, CborError>;

/// One document and nothing after it.
pub fn decode(body: &[u8]) -> Result<Value> {
    let mut r = Reader { body, at: 0, items: 0 };
    let v = r.value(0)?;
    match body.len() - r.at {
        0 => Ok(v),
        bytes => Err(CborError::Trailing { bytes }),
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    items: usize,
}

/// The first bytes of an item.
struct Head {
    at: usize,
    major: u8,
    info: u8,
    /// The argument; 0 for indefinite lengths.
    argument: u64,
}

const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;

/// Tags with a meaning here (RFC 8949, 3.4).
mod tag {
    pub const TIME_TEXT: u64 = 0;
    pub const EPOCH: u64 = 1;
    pub const BIG_POSITIVE: u64 = 2;
    pub const BIG_NEGATIVE: u64 = 3;
    pub const BASE64_URL: u64 = 21;
    pub const BASE64: u64 = 22;
    pub const BASE16: u64 = 23;
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let n = usize::try_from(n).map_err(|_| CborError::Ends)?;
        let end = self.at.checked_add(n).ok_or(CborError::Ends)?;
        let taken = self.body.get(self.at..end).ok_or(CborError::Ends)?;
        self.at = end;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head> {
        self.items += 1;
        if self.items > ITEMS_MAX {
            return Err(CborError::TooMany);
        }
        let at = self.at;
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..24 => u64::from(info),
            24..=27 => self.take(1 << (info - 24))?.iter().fold(0, |n, b| n << 8 | u64::from(*b)),
            INDEFINITE if matches!(major, 2..=5) => 0,
            _ => return Err(CborError::Malformed { at }),
        };
        Ok(Head { at, major, info, argument })
    }

    /// Whether an indefinite length ends here.
    fn breaks(&mut self) -> bool {
        let breaks = self.body.get(self.at) == Some(&BREAK);
        self.at += usize::from(breaks);
        breaks
    }

    /// An item within `depth` others.
    fn value(&mut self, depth: usize) -> Result<Value> {
        let h = self.head()?;
        let inside = || if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(CborError::TooDeep) };
        let none = CborError::NoJson { at: h.at };
        Ok(match h.major {
            // Upstream reads integers as 64 bits with a sign, or not at all.
            0 => i64::try_from(h.argument).map_err(|_| none)?.into(),
            1 => i64::try_from(h.argument).map(|n| -1 - n).map_err(|_| none)?.into(),
            2 | 3 => Value::String(self.text(&h)?),
            4 => self.array(&h, inside()?)?,
            5 => self.map(&h, inside()?)?,
            6 => self.tagged(&h, inside()?)?,
            _ => simple(&h)?,
        })
    }

    fn array(&mut self, h: &Head, depth: usize) -> Result<Value> {
        let mut all = Vec::new();
        while if h.info == INDEFINITE { !self.breaks() } else { (all.len() as u64) < h.argument } {
            all.push(self.value(depth)?);
        }
        Ok(all.into())
    }

    fn map(&mut self, h: &Head, depth: usize) -> Result<Value> {
        let (mut all, mut read) = (Map::new(), 0u64);
        while if h.info == INDEFINITE { !self.breaks() } else { read < h.argument } {
            let at = self.at;
            let key = self.head()?;
            if !matches!(key.major, 2 | 3) {
                return Err(CborError::Key { at });
            }
            let key = self.text(&key)?;
            if h.info == INDEFINITE && self.body.get(self.at) == Some(&BREAK) {
                return Err(CborError::Malformed { at: self.at });
            }
            if all.insert(key, self.value(depth)?).is_some() {
                return Err(CborError::Duplicate { at });
            }
            read += 1;
        }
        Ok(all.into())
    }

    /// The content of a string whose head has been read: in one piece, or in pieces of the same sort.
    fn content(&mut self, h: &Head) -> Result<Vec<u8>> {
        if h.info != INDEFINITE {
            return Ok(self.take(h.argument)?.to_vec());
        }
        let mut all = Vec::new();
        while !self.breaks() {
            let piece = self.head()?;
            if piece.major != h.major || piece.info == INDEFINITE {
                return Err(CborError::Malformed { at: piece.at });
            }
            all.extend_from_slice(self.take(piece.argument)?);
        }
        Ok(all)
    }

    fn text(&mut self, h: &Head) -> Result<String> {
        String::from_utf8(self.content(h)?).map_err(|_| CborError::Utf8 { at: h.at })
    }

    fn tagged(&mut self, h: &Head, depth: usize) -> Result<Value> {
        let at = self.at;
        let none = CborError::NoJson { at };
        match h.argument {
            tag::BIG_POSITIVE | tag::BIG_NEGATIVE => Err(CborError::NoJson { at: h.at }),
            tag::BASE64_URL | tag::BASE64 | tag::BASE16 if self.body.get(at).is_some_and(|b| b >> 5 == 2) => {
                let inner = self.head()?;
                let content = self.content(&inner)?;
                Ok(match h.argument {
                    tag::BASE64_URL => URL_SAFE_NO_PAD.encode(content),
                    tag::BASE64 => STANDARD.encode(content),
                    _ => content.iter().map(|b| format!("{b:02X}")).collect(),
                }
                .into())
            }
            tag::TIME_TEXT => match self.value(depth)? {
                Value::String(s) => Ok(s.into()),
                _ => Err(none),
            },
            tag::EPOCH => epoch(&self.value(depth)?).map(Into::into).ok_or(none),
            _ => self.value(depth),
        }
    }
}

/// Seconds since 1970 as the text that JSON has for times.
fn epoch(v: &Value) -> Option<String> {
    let (seconds, nanoseconds) = match v.as_i64() {
        Some(s) => (s, 0),
        None => {
            let f = v.as_f64()?;
            (f.floor() as i64, ((f - f.floor()) * 1e9) as i32)
        }
    };
    k8s_openapi::jiff::Timestamp::new(seconds, nanoseconds).ok().map(|t| t.to_string())
}

fn simple(h: &Head) -> Result<Value> {
    let float = match h.info {
        20 => return Ok(false.into()),
        21 => return Ok(true.into()),
        22 => return Ok(Value::Null),
        25 => half(h.argument as u16),
        26 => f64::from(f32::from_bits(h.argument as u32)),
        27 => f64::from_bits(h.argument),
        _ => return Err(CborError::NoJson { at: h.at }),
    };
    // A whole number is one in JSON, whatever it was written as.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if float.fract() == 0.0 && float.abs() <= EXACT_MAX {
        return Ok((float as i64).into());
    }
    Number::from_f64(float).map(Value::Number).ok_or(CborError::NoJson { at: h.at })
}

/// RFC 8949, appendix D.
fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (mantissa + 1024.0) * 2f64.powi(e - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}
