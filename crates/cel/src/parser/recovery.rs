//! Tokens, and what ANTLR's default strategy does where they do not fit: delete one, insert one, or tell, give up the rule and skip.

use super::{END, MAX_RECOVERIES, MAX_RULE_DEPTH, MAX_SKIPPED_TOKENS, MAX_TREE_DEPTH, Parser, Rule, Set, Step, Stop};
use crate::ast::Expr;
use crate::environment::with_room;
use crate::lexer::{self as t, Token};
use std::sync::Arc;

impl Parser<'_> {
    pub(super) fn la(&self) -> Token {
        self.ahead(0)
    }
    pub(super) fn ahead(&self, n: usize) -> Token {
        self.lexemes[(self.at + n).min(self.lexemes.len() - 1)].token
    }
    pub(super) fn pos(&self) -> u32 {
        self.lexemes[self.at].start
    }
    pub(super) fn text(&self, at: usize) -> Arc<str> {
        let l = self.lexemes[at];
        self.chars[l.start as usize..l.end as usize].iter().collect::<String>().into()
    }
    pub(super) fn consume(&mut self) {
        self.at = (self.at + 1).min(self.lexemes.len() - 1);
    }

    /// Calls a rule after which `follow` may stand.
    pub(super) fn call<T>(&mut self, follow: Set, rule: impl FnOnce(&mut Self) -> Step<T>) -> Step<T> {
        self.follow.push(follow);
        let result = rule(self);
        self.follow.pop();
        result
    }

    pub(super) fn rule(&mut self, rule: Rule, body: impl FnOnce(&mut Self) -> Step<Expr>) -> Step<Expr> {
        let parsed = self.rule_of(rule, |p| body(p).map(Some))?;
        Ok(parsed.unwrap_or_else(|| self.error()))
    }

    /// Runs a rule's body; an error in it is told, skipped over, and gives the default.
    pub(super) fn rule_of<T: Default>(&mut self, rule: Rule, body: impl FnOnce(&mut Self) -> Step<T>) -> Step<T> {
        let before = (self.depth[rule as usize], self.chained[rule as usize], self.tree_depth);
        self.deeper(rule, false)?;
        let result = with_room(|| body(self));
        (self.depth[rule as usize], self.chained[rule as usize], self.tree_depth) = before;
        match result {
            Err(stop @ (Stop::Mismatch(_) | Stop::NoViable(..))) => {
                self.report(&stop);
                self.recover(rule)?;
                Ok(T::default())
            }
            other => other,
        }
    }

    /// Goes into a rule, or on to a further operator of it, which makes the tree one deeper to the left.
    pub(super) fn deeper(&mut self, rule: Rule, operator: bool) -> Step<()> {
        let depth = if operator { &mut self.chained[rule as usize] } else { &mut self.depth[rule as usize] };
        *depth += 1;
        let makes_nodes = matches!(rule, Rule::Expr | Rule::Relation | Rule::Calc | Rule::Member);
        self.tree_depth += u32::from(makes_nodes);
        // Four rules are entered on the way to each nested expression; only what exceeds that makes the tree deeper.
        let too_deep = *depth > MAX_RULE_DEPTH;
        if too_deep && !operator {
            return Err(Stop::Fatal(format!("expression recursion limit exceeded: {MAX_RULE_DEPTH}")));
        }
        if too_deep || self.tree_depth > MAX_TREE_DEPTH + 3 * self.depth[Rule::Expr as usize] {
            return Err(Stop::Fatal("max recursion depth exceeded".into()));
        }
        Ok(())
    }

    /// Tokens that may stand at a place: its own, and those of the callers where the rule may end.
    pub(super) fn expected(&self, at: Set) -> Set {
        let mut all = at & !END;
        if at & END == 0 {
            return all;
        }
        for follow in self.follow.iter().rev() {
            all |= follow & !END;
            if follow & END == 0 {
                return all;
            }
        }
        all | (1 << t::EOF)
    }

    /// Matches a token; `next` is what may stand after it.
    pub(super) fn expect(&mut self, token: Token, next: Set) -> Step<()> {
        if self.la() == token {
            self.recovering = false;
            if token != t::EOF {
                self.consume();
            }
            return Ok(());
        }
        let here = 1 << token;
        if self.delete_one(here) {
            self.consume();
            return Ok(());
        }
        if self.expected(next) & (1 << self.la()) != 0 {
            let message = format!("missing {} at {}", names(here), self.shown(self.at));
            self.tell(message, self.at);
            return Ok(());
        }
        Err(Stop::Mismatch(self.expected(here)))
    }

    /// Before a decision: an unexpected token is deleted when the one after it fits.
    pub(super) fn sync(&mut self, here: Set) -> Step<()> {
        if self.recovering || here & (1 << self.la()) != 0 || self.delete_one(here) { Ok(()) } else { Err(Stop::Mismatch(self.expected(here))) }
    }

    /// In a loop: unexpected tokens are skipped up to what fits the loop or a caller.
    pub(super) fn sync_loop(&mut self, here: Set) -> Step<()> {
        if self.recovering || here & (1 << self.la()) != 0 {
            return Ok(());
        }
        let expected = self.expected(here);
        self.tell(format!("extraneous input {} expecting {}", self.shown(self.at), names(expected)), self.at);
        self.skip_to(expected | self.recovery_set())
    }

    pub(super) fn delete_one(&mut self, here: Set) -> bool {
        let expected = self.expected(here);
        if self.la() == t::EOF || expected & (1 << self.ahead(1)) == 0 {
            return false;
        }
        self.tell(format!("extraneous input {} expecting {}", self.shown(self.at), names(expected)), self.at);
        self.consume();
        self.recovering = false;
        true
    }

    pub(super) fn report(&mut self, stop: &Stop) {
        match stop {
            Stop::Mismatch(expected) => self.tell(format!("mismatched input {} expecting {}", self.shown(self.at), names(*expected)), self.at),
            Stop::NoViable(from, at) => {
                let at = (*at).min(self.lexemes.len() - 1);
                let (start, end) = (self.lexemes[*from].start as usize, self.lexemes[at].end as usize);
                let text: String = self.chars[start..end].iter().collect();
                let text = if self.lexemes[*from].token == t::EOF { "<EOF>".into() } else { escape(text.trim_end()) };
                self.tell(format!("no viable alternative at input '{text}'"), at);
            }
            Stop::Fatal(_) | Stop::Enough => {}
        }
    }

    pub(super) fn tell(&mut self, message: String, at: usize) {
        if !self.recovering {
            self.recovering = true;
            let issue = self.source.issue(self.lexemes[at].start, format!("Syntax error: {message}"));
            self.issues.push(issue);
        }
    }

    pub(super) fn shown(&self, at: usize) -> String {
        if self.lexemes[at].token == t::EOF { "'<EOF>'".into() } else { format!("'{}'", escape(&self.text(at))) }
    }

    pub(super) fn recovery_set(&self) -> Set {
        self.follow.iter().fold(0, |all, f| all | (f & !END))
    }

    pub(super) fn skip_to(&mut self, wanted: Set) -> Step<()> {
        let from = self.at;
        while self.la() != t::EOF && wanted & (1 << self.la()) == 0 {
            if self.at - from >= MAX_SKIPPED_TOKENS {
                return Err(Stop::Fatal(format!("error recovery token lookahead limit exceeded: {MAX_SKIPPED_TOKENS}")));
            }
            self.consume();
        }
        Ok(())
    }

    pub(super) fn recover(&mut self, rule: Rule) -> Step<()> {
        self.recoveries += 1;
        if self.recoveries > MAX_RECOVERIES {
            let message = format!("Syntax error: error recovery attempt limit exceeded: {MAX_RECOVERIES}");
            let issue = self.source.issue(self.pos(), message);
            self.issues.push(issue);
            return Err(Stop::Enough);
        }
        match &mut self.last_error {
            // Twice at the same place in the same rule: a token is given up, so that parsing ends.
            Some((at, rules)) if *at == self.at && rules.contains(&rule) => self.consume(),
            Some((at, rules)) if *at == self.at => rules.push(rule),
            _ => self.last_error = Some((self.at, vec![rule])),
        }
        self.skip_to(self.recovery_set())
    }
}

fn names(tokens: Set) -> String {
    let all: Vec<&str> = (0..=t::ESC_IDENT).filter(|i| tokens & (1 << i) != 0).map(t::display).collect();
    if all.len() == 1 { all[0].into() } else { format!("{{{}}}", all.join(", ")) }
}

fn escape(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}
