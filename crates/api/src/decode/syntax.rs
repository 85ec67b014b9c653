//! What is wrong with a JSON text, in the words of Go's scanner (encoding/json). Runs only after another parser refused the text.

/// `None` when the text is good JSON. Nesting is bounded by the caller's parser having stopped first.
pub(super) fn explain(text: &str) -> Option<String> {
    let mut s = Scanner { b: text.as_bytes(), i: 0 };
    let end = || "unexpected end of JSON input".to_owned();
    let mut open: Vec<u8> = Vec::new();
    let mut want = Want::Value;
    loop {
        s.space();
        let Some(c) = s.next() else {
            return match want {
                Want::Done => None,
                _ => Some(end()),
            };
        };
        match (want, c) {
            (Want::Value | Want::ValueOrClose, b'{') => {
                open.push(b'{');
                want = Want::KeyOrClose;
            }
            (Want::Value | Want::ValueOrClose, b'[') => {
                open.push(b'[');
                want = Want::ValueOrClose;
            }
            (Want::ValueOrClose, b']') | (Want::KeyOrClose, b'}') => want = close(&mut open),
            (Want::Value | Want::ValueOrClose, _) => match s.scalar(c) {
                Ok(()) => want = after(&open),
                Err(why) => return Some(why.unwrap_or_else(end)),
            },
            (Want::Key | Want::KeyOrClose, b'"') => match s.string() {
                Ok(()) => want = Want::Colon,
                Err(why) => return Some(why.unwrap_or_else(end)),
            },
            (Want::Key | Want::KeyOrClose, _) => return Some(s.bad(c, "looking for beginning of object key string")),
            (Want::Colon, b':') => want = Want::Value,
            (Want::Colon, _) => return Some(s.bad(c, "after object key")),
            (Want::CommaInObject, b',') => want = Want::Key,
            (Want::CommaInObject, b'}') | (Want::CommaInArray, b']') => want = close(&mut open),
            (Want::CommaInObject, _) => return Some(s.bad(c, "after object key:value pair")),
            (Want::CommaInArray, b',') => want = Want::Value,
            (Want::CommaInArray, _) => return Some(s.bad(c, "after array element")),
            (Want::Done, _) => return Some(s.bad(c, "after top-level value")),
        }
    }
}

#[derive(Clone, Copy)]
enum Want {
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    Colon,
    CommaInObject,
    CommaInArray,
    Done,
}

fn after(open: &[u8]) -> Want {
    match open.last() {
        Some(b'{') => Want::CommaInObject,
        Some(_) => Want::CommaInArray,
        None => Want::Done,
    }
}

fn close(open: &mut Vec<u8>) -> Want {
    open.pop();
    after(open)
}

struct Scanner<'a> {
    b: &'a [u8],
    i: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<u8> {
        let c = self.b.get(self.i).copied();
        self.i += usize::from(c.is_some());
        c
    }
    fn space(&mut self) {
        while self.b.get(self.i).is_some_and(|c| b" \t\r\n".contains(c)) {
            self.i += 1;
        }
    }
    fn bad(&self, c: u8, context: &str) -> String {
        let shown = match c {
            b'\'' => "'\\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            b'\n' => "'\\n'".to_owned(),
            b'\t' => "'\\t'".to_owned(),
            b'\r' => "'\\r'".to_owned(),
            0..=0x1f | 0x7f => format!("'\\x{c:02x}'"),
            // Go quotes the byte as a rune.
            _ => format!("'{}'", char::from(c)),
        };
        format!("invalid character {shown} {context}")
    }
    /// `Err(None)`: the text ends too early.
    fn scalar(&mut self, c: u8) -> Result<(), Option<String>> {
        match c {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(c),
            _ => Err(Some(self.bad(c, "looking for beginning of value"))),
        }
    }
    fn literal(&mut self, word: &str) -> Result<(), Option<String>> {
        for want in word.bytes().skip(1) {
            match self.next() {
                None => return Err(None),
                Some(c) if c == want => {}
                Some(c) => return Err(Some(self.bad(c, &format!("in literal {word} (expecting '{}')", char::from(want))))),
            }
        }
        Ok(())
    }
    fn string(&mut self) -> Result<(), Option<String>> {
        loop {
            match self.next() {
                None => return Err(None),
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.next() {
                    None => return Err(None),
                    Some(b'u') => {
                        for _ in 0..4 {
                            match self.next() {
                                None => return Err(None),
                                Some(c) if c.is_ascii_hexdigit() => {}
                                Some(c) => return Err(Some(self.bad(c, "in \\u hexadecimal character escape"))),
                            }
                        }
                    }
                    Some(c) if b"bfnrt\\/\"".contains(&c) => {}
                    Some(c) => return Err(Some(self.bad(c, "in string escape code"))),
                },
                Some(c) if c < 0x20 => return Err(Some(self.bad(c, "in string literal"))),
                Some(_) => {}
            }
        }
    }
    fn number(&mut self, first: u8) -> Result<(), Option<String>> {
        let mut c = first;
        if c == b'-' {
            c = self.next().ok_or(None)?;
            if !c.is_ascii_digit() {
                return Err(Some(self.bad(c, "in numeric literal")));
            }
        }
        if c != b'0' {
            self.digits();
        }
        if self.b.get(self.i) == Some(&b'.') {
            self.i += 1;
            self.digit("after decimal point in numeric literal")?;
        }
        if self.b.get(self.i).is_some_and(|c| *c == b'e' || *c == b'E') {
            self.i += 1;
            if self.b.get(self.i).is_some_and(|c| *c == b'+' || *c == b'-') {
                self.i += 1;
            }
            self.digit("in exponent of numeric literal")?;
        }
        Ok(())
    }
    fn digit(&mut self, context: &str) -> Result<(), Option<String>> {
        match self.next() {
            None => Err(None),
            Some(c) if c.is_ascii_digit() => {
                self.digits();
                Ok(())
            }
            Some(c) => Err(Some(self.bad(c, context))),
        }
    }
    fn digits(&mut self) {
        while self.b.get(self.i).is_some_and(u8::is_ascii_digit) {
            self.i += 1;
        }
    }
}
