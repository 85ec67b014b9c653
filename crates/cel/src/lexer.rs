//! Text to tokens, by the longest match, as the lexer of CEL's ANTLR grammar does; also its recovery after an error.
//!
//! After "token recognition error at: '…'" the failing character is skipped and lexing goes on, so that an expression shows all its errors.

use crate::source::{Issue, Source};

/// A kind of token, numbered as in CEL's grammar: "expecting {…}" lists them in this order.
pub(crate) type Token = u8;

macro_rules! tokens {
    ($($name:ident = $number:literal $text:literal,)*) => {
        $(pub(crate) const $name: Token = $number;)*
        /// How a message prints the kind.
        pub(crate) fn display(t: Token) -> &'static str {
            match t { $($number => $text,)* _ => "<unknown>" }
        }
    };
}

tokens! {
    EOF = 0 "<EOF>", EQUALS = 1 "'=='", NOT_EQUALS = 2 "'!='", IN = 3 "'in'", LESS = 4 "'<'", LESS_EQUALS = 5 "'<='", GREATER_EQUALS = 6 "'>='",
    GREATER = 7 "'>'", AND = 8 "'&&'", OR = 9 "'||'", LBRACKET = 10 "'['", RBRACKET = 11 "']'", LBRACE = 12 "'{'", RBRACE = 13 "'}'",
    LPAREN = 14 "'('", RPAREN = 15 "')'", DOT = 16 "'.'", COMMA = 17 "','", MINUS = 18 "'-'", NOT = 19 "'!'", QUESTION = 20 "'?'",
    COLON = 21 "':'", PLUS = 22 "'+'", STAR = 23 "'*'", SLASH = 24 "'/'", PERCENT = 25 "'%'", TRUE = 26 "'true'", FALSE = 27 "'false'",
    NULL = 28 "'null'", FLOAT = 31 "NUM_FLOAT", INT = 32 "NUM_INT", UINT = 33 "NUM_UINT", STRING = 34 "STRING", BYTES = 35 "BYTES",
    IDENT = 36 "IDENTIFIER", ESC_IDENT = 37 "ESC_IDENTIFIER",
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme {
    pub token: Token,
    /// Offsets in code points.
    pub start: u32,
    pub end: u32,
}

pub(crate) struct Lexed {
    pub chars: Vec<char>,
    /// Ends with EOF.
    pub lexemes: Vec<Lexeme>,
    pub issues: Vec<Issue>,
}

pub(crate) fn lex(source: &Source) -> Lexed {
    let chars: Vec<char> = source.text.chars().collect();
    let (mut lexemes, mut issues, mut at) = (Vec::new(), Vec::new(), 0);
    while at < chars.len() {
        let reader = Reader { chars: &chars, start: at };
        if let Some(end) = reader.blank() {
            at = end;
            continue;
        }
        match reader.token() {
            Ok((token, end)) => {
                lexemes.push(Lexeme { token, start: at as u32, end: end as u32 });
                at = end;
            }
            Err(failed) => {
                let end = (failed + 1).min(chars.len());
                let text: String = chars[at..end].iter().collect();
                issues.push(source.issue(at as u32, format!("Syntax error: token recognition error at: '{text}'")));
                at = end;
            }
        }
    }
    lexemes.push(Lexeme { token: EOF, start: chars.len() as u32, end: chars.len() as u32 });
    Lexed { chars, lexemes, issues }
}

struct Reader<'a> {
    chars: &'a [char],
    start: usize,
}

impl Reader<'_> {
    fn at(&self, i: usize) -> char {
        self.chars.get(i).copied().unwrap_or('\0')
    }
    fn run(&self, from: usize, good: impl Fn(char) -> bool) -> usize {
        self.chars[from.min(self.chars.len())..].iter().take_while(|c| good(**c)).count() + from
    }
    /// White space or a comment.
    fn blank(&self) -> Option<usize> {
        let end = self.run(self.start, |c| matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{c}'));
        if end > self.start {
            return Some(end);
        }
        (self.at(self.start) == '/' && self.at(self.start + 1) == '/').then(|| self.run(self.start, |c| c != '\n'))
    }
    /// The longest token, or where the attempt failed.
    fn token(&self) -> Result<(Token, usize), usize> {
        let (s, c) = (self.start, self.at(self.start));
        let next = self.at(s + 1);
        let one = |t| Ok((t, s + 1));
        let two = |t| Ok((t, s + 2));
        match c {
            '=' if next == '=' => two(EQUALS),
            '&' if next == '&' => two(AND),
            '|' if next == '|' => two(OR),
            '=' | '&' | '|' => Err(s + 1),
            '!' if next == '=' => two(NOT_EQUALS),
            '<' if next == '=' => two(LESS_EQUALS),
            '>' if next == '=' => two(GREATER_EQUALS),
            '!' => one(NOT),
            '<' => one(LESS),
            '>' => one(GREATER),
            '[' => one(LBRACKET),
            ']' => one(RBRACKET),
            '{' => one(LBRACE),
            '}' => one(RBRACE),
            '(' => one(LPAREN),
            ')' => one(RPAREN),
            '.' if next.is_ascii_digit() => Ok(self.number()),
            '.' => one(DOT),
            ',' => one(COMMA),
            '-' => one(MINUS),
            '?' => one(QUESTION),
            ':' => one(COLON),
            '+' => one(PLUS),
            '*' => one(STAR),
            '/' => one(SLASH),
            '%' => one(PERCENT),
            '`' => self.escaped(),
            '"' | '\'' => self.string(s, false).map(|end| (STRING, end)),
            _ if c.is_ascii_digit() => Ok(self.number()),
            _ if c.is_ascii_alphabetic() || c == '_' => Ok(self.word()),
            _ => Err(s),
        }
    }
    fn escaped(&self) -> Result<(Token, usize), usize> {
        let end = self.run(self.start + 1, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' '));
        if self.at(end) == '`' && end > self.start + 1 { Ok((ESC_IDENT, end + 1)) } else { Err(end) }
    }
    fn word(&self) -> (Token, usize) {
        let s = self.start;
        let quoted = |prefix: usize, raw: bool, token: Token| match self.at(s + prefix) {
            '"' | '\'' => self.string(s + prefix, raw).ok().map(|end| (token, end)),
            _ => None,
        };
        let lower = |i: usize| self.at(s + i).to_ascii_lowercase();
        let found = match (lower(0), lower(1)) {
            ('r', 'b') | ('b', 'r') => quoted(2, true, BYTES),
            ('r', _) => quoted(1, true, STRING),
            ('b', _) => quoted(1, false, BYTES),
            _ => None,
        };
        if let Some(found) = found {
            return found;
        }
        let end = self.run(s, |c| c.is_ascii_alphanumeric() || c == '_');
        let token = match self.chars[s..end].iter().collect::<String>().as_str() {
            "in" => IN,
            "true" => TRUE,
            "false" => FALSE,
            "null" => NULL,
            _ => IDENT,
        };
        (token, end)
    }
    fn number(&self) -> (Token, usize) {
        let s = self.start;
        if self.at(s) == '0' && self.at(s + 1) == 'x' && self.at(s + 2).is_ascii_hexdigit() {
            let end = self.run(s + 2, |c| c.is_ascii_hexdigit());
            return if matches!(self.at(end), 'u' | 'U') { (UINT, end + 1) } else { (INT, end) };
        }
        let whole = self.run(s, |c| c.is_ascii_digit());
        let fraction = self.at(whole) == '.' && self.at(whole + 1).is_ascii_digit();
        let mut end = if fraction { self.run(whole + 1, |c| c.is_ascii_digit()) } else { whole };
        let mut float = fraction;
        if matches!(self.at(end), 'e' | 'E') {
            let sign = usize::from(matches!(self.at(end + 1), '+' | '-'));
            if self.at(end + 1 + sign).is_ascii_digit() {
                end = self.run(end + 1 + sign, |c| c.is_ascii_digit());
                float = true;
            }
        }
        match self.at(end) {
            _ if float => (FLOAT, end),
            'u' | 'U' => (UINT, end + 1),
            _ => (INT, end),
        }
    }
    /// A string that opens at `open`; its end, or where it fails.
    fn string(&self, open: usize, raw: bool) -> Result<usize, usize> {
        let quote = self.at(open);
        if self.at(open + 1) == quote && self.at(open + 2) == quote {
            // An unclosed triple quote is read as an empty string, being the longest match left.
            return self.long_string(open + 3, quote, raw).or(Ok(open + 2));
        }
        let mut i = open + 1;
        while i < self.chars.len() {
            match self.at(i) {
                c if c == quote => return Ok(i + 1),
                '\n' | '\r' => return Err(i),
                '\\' if !raw => i = self.escape(i)?,
                _ => i += 1,
            }
        }
        Err(i)
    }
    fn long_string(&self, from: usize, quote: char, raw: bool) -> Result<usize, usize> {
        let mut i = from;
        while i < self.chars.len() {
            match self.at(i) {
                c if c == quote && self.at(i + 1) == quote && self.at(i + 2) == quote => return Ok(i + 3),
                '\\' if !raw => i = self.escape(i)?,
                _ => i += 1,
            }
        }
        Err(i)
    }
    /// The end of an escape sequence at a backslash.
    fn escape(&self, at: usize) -> Result<usize, usize> {
        let digits = |from: usize, n: usize, radix: u32| match (from..from + n).find(|i| !self.at(*i).is_digit(radix)) {
            None => Ok(from + n),
            Some(bad) => Err(bad),
        };
        match self.at(at + 1) {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => Ok(at + 2),
            'x' | 'X' => digits(at + 2, 2, 16),
            'u' => digits(at + 2, 4, 16),
            'U' => digits(at + 2, 8, 16),
            '0'..='3' => digits(at + 2, 2, 8),
            _ => Err(at + 1),
        }
    }
}

/// The value of a string or bytes token's text, or `None` where an escape names no character.
pub(crate) fn unquote(text: &[char], bytes: bool) -> Option<Vec<u8>> {
    let prefix = text.iter().take_while(|c| !matches!(c, '"' | '\'')).count();
    let raw = text[..prefix].iter().any(|c| matches!(c, 'r' | 'R'));
    let body = &text[prefix..];
    let quotes = if body.len() >= 6 && body[0] == body[1] && body[1] == body[2] { 3 } else { 1 };
    let body = &body[quotes..body.len() - quotes];
    let mut out = String::new();
    let mut data = Vec::new();
    let mut i = 0;
    let number = |from: usize, n: usize, radix: u32| u32::from_str_radix(&body[from..from + n].iter().collect::<String>(), radix).ok();
    while i < body.len() {
        if body[i] != '\\' || raw {
            // Bytes hold the UTF-8 of the characters; Windows line ends become plain ones.
            match body[i] {
                '\r' if body.get(i + 1) == Some(&'\n') => {}
                '\r' => data.push(b'\n'),
                c => {
                    out.clear();
                    out.push(c);
                    data.extend_from_slice(out.as_bytes());
                }
            }
            i += 1;
            continue;
        }
        let (code, used, byte) = match body[i + 1] {
            'a' => (7, 2, false),
            'b' => (8, 2, false),
            'f' => (12, 2, false),
            'n' => (10, 2, false),
            'r' => (13, 2, false),
            't' => (9, 2, false),
            'v' => (11, 2, false),
            'x' | 'X' => (number(i + 2, 2, 16)?, 4, true),
            'u' => (number(i + 2, 4, 16)?, 6, false),
            'U' => (number(i + 2, 8, 16)?, 10, false),
            '0'..='3' => (number(i + 1, 3, 8)?, 4, true),
            c => (c as u32, 2, false),
        };
        if bytes && byte {
            data.push(u8::try_from(code).ok()?);
        } else if bytes && used > 2 {
            return None;
        } else {
            out.clear();
            out.push(char::from_u32(code)?);
            data.extend_from_slice(out.as_bytes());
        }
        i += used;
    }
    Some(data)
}
