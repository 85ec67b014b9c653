//! Positions in an expression's text and problems found there, printed as cel-go prints them.
//!
//! Upstream's answers carry these texts verbatim: `ERROR: <input>:1:5: undefined field 'n'`, the line, and a caret below.

use std::fmt;

/// Problems shown of one expression; the rest is counted.
const MAX_SHOWN: usize = 100;

/// One problem: line from 1, column from 0 in code points (printed from 1). Line and column are -1 where it has no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub line: i32,
    pub column: i32,
    pub message: String,
}

/// All problems of one expression. Displays as upstream's text after `compilation failed: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Issues {
    pub text: String,
    pub issues: Vec<Issue>,
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.text.split('\n').collect();
        for (i, issue) in self.issues.iter().take(MAX_SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", issue.line, issue.column + 1, issue.message)?;
            let line = usize::try_from(issue.line - 1).ok().and_then(|n| lines.get(n));
            if let Some(line) = line.filter(|_| !self.text.is_empty()) {
                snippet(f, line, issue.column)?;
            }
        }
        match self.issues.len().saturating_sub(MAX_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n{more} more errors were truncated"),
        }
    }
}

/// The line and a caret under the column; wide characters get wide dots, as cel-go does.
fn snippet(f: &mut fmt::Formatter<'_>, line: &str, column: i32) -> fmt::Result {
    write!(f, "\n | {}\n | ", line.replace('\t', " "))?;
    let mut chars = line.chars();
    for _ in 0..column {
        match chars.next() {
            Some(c) if c.len_utf8() > 1 => f.write_str("\u{ff0e}")?,
            Some(_) => f.write_str(".")?,
            None => break,
        }
    }
    f.write_str(if chars.next().is_some_and(|c| c.len_utf8() > 1) { "\u{ff3e}" } else { "^" })
}

/// An expression's text with what is needed to turn offsets into lines.
#[derive(Debug)]
pub(crate) struct Source {
    pub text: String,
    /// Offsets, in code points, at which lines start.
    lines: Vec<u32>,
}

impl Source {
    pub fn new(text: &str) -> Self {
        let starts = text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(i, _)| i as u32 + 1);
        Source { text: text.into(), lines: std::iter::once(0).chain(starts).collect() }
    }
    /// Line from 1 and column from 0 of an offset in code points.
    pub fn place(&self, offset: u32) -> (i32, i32) {
        if self.text.is_empty() {
            return (1, -1);
        }
        let line = self.lines.partition_point(|start| *start <= offset) - 1;
        (line as i32 + 1, (offset - self.lines[line]) as i32)
    }
    pub fn issue(&self, offset: u32, message: impl Into<String>) -> Issue {
        let (line, column) = self.place(offset);
        Issue { line, column, message: message.into() }
    }
    pub fn failed(&self, mut issues: Vec<Issue>) -> Issues {
        issues.sort_by_key(|i| (i.line, i.column));
        Issues { text: self.text.clone(), issues }
    }
}
