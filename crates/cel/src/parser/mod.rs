//! Tokens to a tree, by recursive descent along CEL's grammar.
//!
//! Upstream's parser is made by ANTLR, and its texts ("mismatched input", "extraneous input … expecting {…}") reach people through Status
//! messages; so errors are found, told and recovered from as ANTLR's default strategy does: a set of what may follow each place, deletion
//! or insertion of one token, then skipping to what a caller can go on with. Depth and size are limited as upstream's: no input makes
//! this parser fail in another way than by an [`Issue`].

mod recovery;

use crate::ast::{Element, Entry, Expr, FieldInit, Kind, Literal, op};
use crate::lexer::{self as t, Lexed, Lexeme, Token};
use crate::macros;
use crate::source::{Issue, Issues, Source};
use std::sync::Arc;

/// Longest expression, in code points.
pub(crate) const MAX_SIZE_CODE_POINTS: usize = 100_000;
/// Deepest nesting of each rule of the grammar.
const MAX_RULE_DEPTH: u32 = 250;
/// Deepest nesting of all rules that make nodes together, so that walks over the tree fit a small stack.
const MAX_TREE_DEPTH: u32 = 400;
/// Errors after which parsing stops.
const MAX_RECOVERIES: u32 = 30;
/// Tokens skipped after one error.
const MAX_SKIPPED_TOKENS: usize = 256;

/// A set of tokens, and whether the rule may end here.
type Set = u64;
const END: Set = 1 << 63;

const fn set(tokens: &[Token]) -> Set {
    let (mut s, mut i) = (0, 0);
    while i < tokens.len() {
        s |= 1 << tokens[i];
        i += 1;
    }
    s
}

const LITERALS: Set = set(&[t::TRUE, t::FALSE, t::NULL, t::FLOAT, t::INT, t::UINT, t::STRING, t::BYTES]);
const PRIMARY: Set = LITERALS | set(&[t::LBRACKET, t::LBRACE, t::LPAREN, t::DOT, t::MINUS, t::IDENT]);
const EXPR: Set = PRIMARY | set(&[t::NOT]);
const RELATIONS: Set = set(&[t::LESS, t::LESS_EQUALS, t::GREATER_EQUALS, t::GREATER, t::EQUALS, t::NOT_EQUALS, t::IN]);
const FACTORS: Set = set(&[t::STAR, t::SLASH, t::PERCENT]);
const TERMS: Set = set(&[t::PLUS, t::MINUS]);
const ESCAPED: Set = set(&[t::IDENT, t::ESC_IDENT]);
const OPT_EXPR: Set = EXPR | set(&[t::QUESTION]);
const OPT_FIELD: Set = ESCAPED | set(&[t::QUESTION]);
const COMMA_OR_END: Set = set(&[t::COMMA]) | END;

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Expr,
    Or,
    And,
    Relation,
    Calc,
    Unary,
    Member,
    Primary,
    Args,
    ListInit,
    MapInit,
    FieldInit,
    OptExpr,
    OptField,
    Name,
}
const RULES: usize = 15;

/// Why a rule gave up.
enum Stop {
    Mismatch(Set),
    /// The token where the prediction started and the one it failed at.
    NoViable(usize, usize),
    Fatal(String),
    /// Too many errors; the last one says so.
    Enough,
}

type Step<T> = Result<T, Stop>;

pub(crate) struct Parser<'s> {
    source: &'s Source,
    chars: Vec<char>,
    lexemes: Vec<Lexeme>,
    at: usize,
    /// What may follow each rule being parsed, innermost last.
    follow: Vec<Set>,
    depth: [u32; RULES],
    /// Operators of the chains being parsed, by rule.
    chained: [u32; RULES],
    tree_depth: u32,
    /// Errors are not told until a token has matched again.
    recovering: bool,
    recoveries: u32,
    last_error: Option<(usize, Vec<Rule>)>,
    pub issues: Vec<Issue>,
    next_id: u32,
    pub extensions: bool,
}

/// Parses and expands macros. `extensions`: also `cel.bind` and the `math` macros.
pub(crate) fn parse(source: &Source, extensions: bool) -> Result<Expr, Issues> {
    let size = source.text.chars().count();
    let nowhere = |message: String| Issues { text: source.text.clone(), issues: vec![Issue { line: -1, column: -1, message }] };
    if size > MAX_SIZE_CODE_POINTS {
        return Err(nowhere(format!("expression code point size exceeds limit: size: {size}, limit {MAX_SIZE_CODE_POINTS}")));
    }
    let Lexed { chars, lexemes, issues } = t::lex(source);
    let mut p = Parser {
        source,
        chars,
        lexemes,
        at: 0,
        follow: Vec::new(),
        depth: [0; RULES],
        chained: [0; RULES],
        tree_depth: 0,
        recovering: false,
        recoveries: 0,
        last_error: None,
        issues,
        next_id: 1,
        extensions,
    };
    match p.start() {
        Ok(e) if p.issues.is_empty() => Ok(e),
        Ok(_) | Err(Stop::Mismatch(_) | Stop::NoViable(..) | Stop::Enough) => Err(source.failed(p.issues)),
        Err(Stop::Fatal(message)) => {
            let mut all = nowhere(message);
            all.issues.extend(source.failed(p.issues).issues);
            Err(all)
        }
    }
}

// --- the grammar -----------------------------------------------------------------------------------

impl Parser<'_> {
    fn start(&mut self) -> Step<Expr> {
        let e = self.call(set(&[t::EOF]), Self::expr)?;
        if let Err(stop) = self.expect(t::EOF, END) {
            self.report(&stop);
        }
        Ok(e)
    }

    fn expr(&mut self) -> Step<Expr> {
        self.rule(Rule::Expr, |p| {
            let condition = p.call(set(&[t::QUESTION]) | END, Self::or)?;
            if p.la() != t::QUESTION {
                return Ok(condition);
            }
            let pos = p.pos();
            p.expect(t::QUESTION, EXPR)?;
            let yes = p.call(set(&[t::COLON]), Self::or)?;
            p.expect(t::COLON, EXPR)?;
            let no = p.call(END, Self::expr)?;
            Ok(p.function(pos, op::CONDITIONAL, vec![condition, yes, no]))
        })
    }

    fn or(&mut self) -> Step<Expr> {
        self.rule(Rule::Or, |p| p.chain(t::OR, op::OR, Self::and))
    }

    fn and(&mut self) -> Step<Expr> {
        self.rule(Rule::And, |p| p.chain(t::AND, op::AND, |p| p.relation(0)))
    }

    /// Operands of one logical operator; a balanced tree of them, as upstream's.
    fn chain(&mut self, token: Token, name: &'static str, operand: fn(&mut Self) -> Step<Expr>) -> Step<Expr> {
        let follow = set(&[token]) | END;
        let (mut terms, mut places) = (vec![Some(self.call(follow, operand)?)], Vec::new());
        while self.la() == token {
            places.push(self.pos());
            self.expect(token, EXPR)?;
            terms.push(Some(self.call(follow, operand)?));
        }
        if places.is_empty() { Ok(terms[0].take().expect("just put there")) } else { Ok(self.balance(name, &mut terms, &places, 0, places.len() - 1)) }
    }

    fn balance(&mut self, name: &'static str, terms: &mut [Option<Expr>], places: &[u32], low: usize, high: usize) -> Expr {
        let middle = (low + high).div_ceil(2);
        let left = if middle == low { terms[middle].take().expect("each term is taken once") } else { self.balance(name, terms, places, low, middle - 1) };
        let right = if middle == high { terms[middle + 1].take().expect("each term is taken once") } else { self.balance(name, terms, places, middle + 1, high) };
        self.function(places[middle], name, vec![left, right])
    }

    /// `calc`, or relations of it; they group to the left. `precedence` is that of the operator to the left.
    fn relation(&mut self, precedence: u8) -> Step<Expr> {
        self.rule(Rule::Relation, |p| {
            let mut e = p.call(RELATIONS | END, |p| p.calc(0))?;
            while precedence < 1 && RELATIONS & (1 << p.la()) != 0 {
                p.deeper(Rule::Relation, true)?;
                let (pos, token) = (p.pos(), p.la());
                p.expect(token, EXPR)?;
                let right = p.call(RELATIONS | END, |p| p.relation(1))?;
                let name = match token {
                    t::LESS => op::LT,
                    t::LESS_EQUALS => op::LE,
                    t::GREATER => op::GT,
                    t::GREATER_EQUALS => op::GE,
                    t::EQUALS => op::EQ,
                    t::NOT_EQUALS => op::NE,
                    _ => op::IN,
                };
                e = p.function(pos, name, vec![e, right]);
            }
            Ok(e)
        })
    }

    fn calc(&mut self, precedence: u8) -> Step<Expr> {
        let follow = FACTORS | TERMS | END;
        self.rule(Rule::Calc, |p| {
            let mut e = p.call(follow, Self::unary)?;
            loop {
                let token = p.la();
                let (name, binds) = match token {
                    t::STAR => (op::MUL, 2),
                    t::SLASH => (op::DIV, 2),
                    t::PERCENT => (op::MOD, 2),
                    t::PLUS => (op::ADD, 1),
                    t::MINUS => (op::SUB, 1),
                    _ => break,
                };
                if binds <= precedence {
                    break;
                }
                p.deeper(Rule::Calc, true)?;
                let pos = p.pos();
                p.expect(token, EXPR)?;
                let right = p.call(follow, |p| p.calc(binds))?;
                e = p.function(pos, name, vec![e, right]);
            }
            Ok(e)
        })
    }

    fn unary(&mut self) -> Step<Expr> {
        self.rule(Rule::Unary, |p| {
            p.sync(EXPR)?;
            let (pos, token) = (p.pos(), p.la());
            let next = p.ahead(1);
            let negative_literal = token == t::MINUS && matches!(next, t::INT | t::FLOAT);
            if token == t::MINUS && !negative_literal && PRIMARY & (1 << next) == 0 {
                return Err(Stop::NoViable(p.at, p.at + 1));
            }
            if !matches!(token, t::NOT | t::MINUS) || negative_literal {
                if EXPR & (1 << token) == 0 {
                    return Err(Stop::NoViable(p.at, p.at));
                }
                return p.call(END, Self::member);
            }
            let mut count = 0;
            while p.la() == token {
                if token == t::MINUS && PRIMARY & (1 << p.ahead(1)) == 0 {
                    return Err(Stop::NoViable(p.at, p.at + 1));
                }
                p.expect(token, PRIMARY | (1 << token))?;
                count += 1;
                p.sync_loop(PRIMARY | (1 << token))?;
            }
            let e = p.call(END, Self::member)?;
            let name = if token == t::NOT { op::NOT } else { op::NEGATE };
            Ok(if count % 2 == 0 { e } else { p.function(pos, name, vec![e]) })
        })
    }

    fn member(&mut self) -> Step<Expr> {
        self.rule(Rule::Member, |p| {
            let follow = set(&[t::DOT, t::LBRACKET]) | END;
            let mut e = p.call(follow, Self::primary)?;
            loop {
                let pos = p.pos();
                match (p.la(), p.ahead(1)) {
                    (t::DOT, t::IDENT) if p.ahead(2) == t::LPAREN => {
                        p.deeper(Rule::Member, true)?;
                        p.expect(t::DOT, ESCAPED)?;
                        let name = p.text(p.at);
                        p.expect(t::IDENT, set(&[t::LPAREN]))?;
                        let pos = p.pos();
                        let args = p.arguments()?;
                        e = macros::member_call(p, pos, e, name, args);
                    }
                    (t::DOT, t::QUESTION) => {
                        p.deeper(Rule::Member, true)?;
                        p.expect(t::DOT, OPT_FIELD)?;
                        p.expect(t::QUESTION, ESCAPED)?;
                        let at = p.pos();
                        let field = p.call(follow, Self::name)?;
                        let field = p.node(at, Kind::Const(Literal::String(field)));
                        e = p.function(pos, op::OPT_SELECT, vec![e, field]);
                    }
                    (t::DOT, t::IDENT | t::ESC_IDENT) => {
                        p.deeper(Rule::Member, true)?;
                        p.expect(t::DOT, OPT_FIELD)?;
                        let field = p.call(follow, Self::name)?;
                        e = p.node(pos, Kind::Select { operand: Box::new(e), field, test: false });
                    }
                    (t::DOT, _) => return Err(Stop::NoViable(p.at, p.at + 1)),
                    (t::LBRACKET, _) => {
                        p.deeper(Rule::Member, true)?;
                        p.expect(t::LBRACKET, OPT_EXPR)?;
                        p.sync(OPT_EXPR)?;
                        let optional = p.la() == t::QUESTION;
                        if optional {
                            p.expect(t::QUESTION, EXPR)?;
                        }
                        let index = p.call(set(&[t::RBRACKET]), Self::expr)?;
                        p.expect(t::RBRACKET, follow)?;
                        e = p.function(pos, if optional { op::OPT_INDEX } else { op::INDEX }, vec![e, index]);
                    }
                    _ => return Ok(e),
                }
            }
        })
    }

    fn arguments(&mut self) -> Step<Vec<Expr>> {
        let close = set(&[t::RPAREN]);
        self.expect(t::LPAREN, EXPR | close)?;
        self.sync(EXPR | close)?;
        let args = if EXPR & (1 << self.la()) != 0 { self.call(close, Self::args)? } else { Vec::new() };
        self.expect(t::RPAREN, END)?;
        Ok(args)
    }

    fn args(&mut self) -> Step<Vec<Expr>> {
        self.rule_of(Rule::Args, |p| {
            let mut args = vec![p.call(COMMA_OR_END, Self::expr)?];
            while p.la() == t::COMMA {
                p.expect(t::COMMA, EXPR)?;
                args.push(p.call(COMMA_OR_END, Self::expr)?);
            }
            Ok(args)
        })
    }

    fn primary(&mut self) -> Step<Expr> {
        self.rule(Rule::Primary, |p| {
            p.sync(PRIMARY)?;
            let (pos, token) = (p.pos(), p.la());
            match token {
                t::DOT if p.ahead(1) != t::IDENT => Err(Stop::NoViable(p.at, p.at + 1)),
                t::DOT | t::IDENT if p.starts_message() => p.message(),
                t::DOT | t::IDENT => {
                    let dotted = token == t::DOT;
                    if dotted {
                        p.expect(t::DOT, set(&[t::IDENT]))?;
                    }
                    let (at, mut name) = (p.pos(), p.text(p.at));
                    p.expect(t::IDENT, set(&[t::LPAREN]) | END)?;
                    let reserved = is_reserved(&name);
                    if dotted {
                        name = format!(".{name}").into();
                    }
                    if p.la() != t::LPAREN {
                        return Ok(if reserved { p.issue_at(at, format!("reserved identifier: {name}")) } else { p.node(at, Kind::Ident(name)) });
                    }
                    let pos = p.pos();
                    let args = p.arguments()?;
                    if reserved {
                        return Ok(p.issue_at(at, format!("reserved identifier: {name}")));
                    }
                    Ok(macros::global_call(p, pos, name, args))
                }
                t::LPAREN => {
                    p.expect(t::LPAREN, EXPR)?;
                    let e = p.call(set(&[t::RPAREN]), Self::expr)?;
                    p.expect(t::RPAREN, END)?;
                    Ok(e)
                }
                t::LBRACKET => p.list(pos),
                t::LBRACE => p.map(pos),
                _ if LITERALS & (1 << token) != 0 || token == t::MINUS => p.literal(),
                _ => Err(Stop::NoViable(p.at, p.at)),
            }
        })
    }

    /// Whether `a.b.C{` stands here.
    fn starts_message(&self) -> bool {
        let mut i = usize::from(self.la() == t::DOT);
        while self.ahead(i) == t::IDENT {
            match self.ahead(i + 1) {
                t::LBRACE => return true,
                // A name that ends in a dot is taken for a message's: "expecting IDENTIFIER".
                t::DOT if !matches!(self.ahead(i + 2), t::IDENT | t::ESC_IDENT | t::QUESTION) => return true,
                t::DOT => i += 2,
                _ => return false,
            }
        }
        false
    }

    fn message(&mut self) -> Step<Expr> {
        const AFTER_NAME: Set = set(&[t::DOT, t::LBRACE]);
        let mut name = String::new();
        if self.la() == t::DOT {
            self.expect(t::DOT, set(&[t::IDENT]))?;
        }
        name.push_str(&self.text(self.at));
        self.expect(t::IDENT, AFTER_NAME)?;
        self.sync(AFTER_NAME)?;
        while self.la() == t::DOT {
            self.expect(t::DOT, set(&[t::IDENT]))?;
            name.push('.');
            name.push_str(&self.text(self.at));
            self.expect(t::IDENT, AFTER_NAME)?;
            self.sync_loop(AFTER_NAME)?;
        }
        let (pos, close) = (self.pos(), set(&[t::COMMA, t::RBRACE]));
        self.expect(t::LBRACE, OPT_FIELD | close)?;
        self.sync(OPT_FIELD | close)?;
        let fields = if OPT_FIELD & (1 << self.la()) != 0 { self.call(close, Self::field_list)? } else { Vec::new() };
        self.trailing_comma(t::RBRACE)?;
        Ok(self.node(pos, Kind::Struct { name: name.into(), fields }))
    }

    fn field_list(&mut self) -> Step<Vec<FieldInit>> {
        self.rule_of(Rule::FieldInit, |p| {
            let mut fields = Vec::new();
            loop {
                let (optional, name) = p.call(set(&[t::COLON]), Self::opt_field)?;
                let pos = p.pos();
                p.expect(t::COLON, EXPR)?;
                let value = p.call(COMMA_OR_END, Self::expr)?;
                fields.push(FieldInit { pos, name, value, optional });
                if p.la() != t::COMMA || OPT_FIELD & (1 << p.ahead(1)) == 0 {
                    return Ok(fields);
                }
                p.expect(t::COMMA, OPT_FIELD)?;
            }
        })
    }

    fn opt_field(&mut self) -> Step<(bool, Arc<str>)> {
        self.rule_of(Rule::OptField, |p| {
            p.sync(OPT_FIELD)?;
            let optional = p.la() == t::QUESTION;
            if optional {
                p.expect(t::QUESTION, ESCAPED)?;
            }
            Ok((optional, p.call(END, Self::name)?))
        })
    }

    /// A field's name, plain or in backquotes.
    fn name(&mut self) -> Step<Arc<str>> {
        self.rule_of(Rule::Name, |p| {
            p.sync(ESCAPED)?;
            let (pos, token, text) = (p.pos(), p.la(), p.text(p.at));
            if ESCAPED & (1 << token) == 0 {
                return Err(Stop::NoViable(p.at, p.at));
            }
            p.expect(token, END)?;
            if token == t::IDENT {
                return Ok(text);
            }
            let issue = p.source.issue(pos, "unsupported syntax: '`'");
            p.issues.push(issue);
            Ok(text.trim_matches('`').into())
        })
    }

    fn list(&mut self, pos: u32) -> Step<Expr> {
        let close = set(&[t::COMMA, t::RBRACKET]);
        self.expect(t::LBRACKET, OPT_EXPR | close)?;
        self.sync(OPT_EXPR | close)?;
        let items = if OPT_EXPR & (1 << self.la()) != 0 { self.call(close, Self::list_init)? } else { Vec::new() };
        self.trailing_comma(t::RBRACKET)?;
        Ok(self.node(pos, Kind::List(items)))
    }

    fn list_init(&mut self) -> Step<Vec<Element>> {
        self.rule_of(Rule::ListInit, |p| {
            let mut items = Vec::new();
            loop {
                let (optional, value) = p.call(COMMA_OR_END, Self::opt_expr)?;
                items.push(Element { value, optional });
                if p.la() != t::COMMA || OPT_EXPR & (1 << p.ahead(1)) == 0 {
                    return Ok(items);
                }
                p.expect(t::COMMA, OPT_EXPR)?;
            }
        })
    }

    fn opt_expr(&mut self) -> Step<(bool, Expr)> {
        let inner = self.rule_of(Rule::OptExpr, |p| {
            p.sync(OPT_EXPR)?;
            let optional = p.la() == t::QUESTION;
            if optional {
                p.expect(t::QUESTION, EXPR)?;
            }
            Ok(Some((optional, p.call(END, Self::expr)?)))
        })?;
        Ok(inner.unwrap_or_else(|| (false, self.error())))
    }

    fn map(&mut self, pos: u32) -> Step<Expr> {
        let close = set(&[t::COMMA, t::RBRACE]);
        self.expect(t::LBRACE, OPT_EXPR | close)?;
        self.sync(OPT_EXPR | close)?;
        let entries = if OPT_EXPR & (1 << self.la()) != 0 { self.call(close, Self::map_init)? } else { Vec::new() };
        self.trailing_comma(t::RBRACE)?;
        Ok(self.node(pos, Kind::Map(entries)))
    }

    fn map_init(&mut self) -> Step<Vec<Entry>> {
        self.rule_of(Rule::MapInit, |p| {
            let mut entries = Vec::new();
            loop {
                let (optional, key) = p.call(set(&[t::COLON]), Self::opt_expr)?;
                p.expect(t::COLON, EXPR)?;
                let value = p.call(COMMA_OR_END, Self::expr)?;
                entries.push(Entry { key, value, optional });
                if p.la() != t::COMMA || OPT_EXPR & (1 << p.ahead(1)) == 0 {
                    return Ok(entries);
                }
                p.expect(t::COMMA, OPT_EXPR)?;
            }
        })
    }

    fn trailing_comma(&mut self, close: Token) -> Step<()> {
        self.sync(set(&[t::COMMA, close]))?;
        if self.la() == t::COMMA {
            self.expect(t::COMMA, set(&[close]))?;
        }
        self.expect(close, END)
    }

    fn literal(&mut self) -> Step<Expr> {
        let pos = self.pos();
        let negative = self.la() == t::MINUS;
        if negative {
            if !matches!(self.ahead(1), t::INT | t::FLOAT) {
                return Err(Stop::NoViable(self.at, self.at + 1));
            }
            self.expect(t::MINUS, set(&[t::INT, t::FLOAT]))?;
        }
        let (at, token) = (self.at, self.la());
        self.expect(token, END)?;
        let lexeme = self.lexemes[at];
        let chars = &self.chars[lexeme.start as usize..lexeme.end as usize];
        let text: String = negative.then_some('-').into_iter().chain(chars.iter().copied()).collect();
        let value = match token {
            t::TRUE => Ok(Literal::Bool(true)),
            t::FALSE => Ok(Literal::Bool(false)),
            t::NULL => Ok(Literal::Null),
            t::INT => integer(&text).map(Literal::Int).ok_or("invalid int literal"),
            t::UINT => unsigned(&text[..text.len() - 1]).map(Literal::Uint).ok_or("invalid uint literal"),
            t::FLOAT => text.parse().ok().filter(|d: &f64| d.is_finite()).map(Literal::Double).ok_or("invalid double literal"),
            t::STRING => t::unquote(chars, false).and_then(|b| String::from_utf8(b).ok()).map(|s| Literal::String(s.into())).ok_or("unable to unescape string"),
            _ => t::unquote(chars, true).map(|b| Literal::Bytes(b.into())).ok_or("unable to unescape string"),
        };
        match value {
            Ok(v) => Ok(self.node(pos, Kind::Const(v))),
            Err(message) => {
                let issue = self.source.issue(pos, message);
                self.issues.push(issue);
                Ok(self.error())
            }
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    match text.strip_prefix("-0x").map(|h| format!("-{h}")).or_else(|| text.strip_prefix("0x").map(str::to_owned)) {
        Some(hex) => i64::from_str_radix(&hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 17] =
        ["as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "return", "var", "void", "while"];
    RESERVED.contains(&name)
}

// --- nodes -----------------------------------------------------------------------------------------

impl Parser<'_> {
    pub fn node(&mut self, pos: u32, kind: Kind) -> Expr {
        self.next_id += 1;
        Expr { id: self.next_id, pos, kind }
    }
    /// Nodes made so far.
    pub fn nodes(&self) -> u32 {
        self.next_id
    }
    pub fn function(&mut self, pos: u32, name: &str, args: Vec<Expr>) -> Expr {
        self.node(pos, Kind::Call { function: name.into(), target: None, args })
    }
    pub fn issue_at(&mut self, pos: u32, message: impl Into<String>) -> Expr {
        let issue = self.source.issue(pos, message);
        self.issues.push(issue);
        self.node(pos, Kind::Error)
    }
    fn error(&mut self) -> Expr {
        let pos = self.pos();
        self.node(pos, Kind::Error)
    }
}
