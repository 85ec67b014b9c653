//! No input panics, hangs or takes memory without bound.

mod common;

use common::{environment, run, sample};
use keles_cel::{Activation, Budget, EvalError, Value};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A small generator of numbers; a seed reproduces a failure.
struct Dice(u64);
impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

const PIECES: &[&str] = &[
    "x",
    "x.list",
    "x.n",
    ".",
    "?",
    ".?",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "<",
    "==",
    "!=",
    "in",
    "&&",
    "||",
    "1",
    "-1",
    "0",
    "1.5",
    "2u",
    "'a'",
    "\"\"\"",
    "'",
    "b'\\xff'",
    "r'",
    "\\",
    "true",
    "null",
    ".map(v, v)",
    ".all(i, i > 0)",
    ".filter(",
    "has(x.n)",
    "size(",
    "string(",
    "duration('1s')",
    "timestamp(",
    ".optMap(o, o)",
    "[?x.?n]",
    "Object{",
    "a",
    "`",
    "`a-b`",
    "é",
    "😀",
    "\n",
    "//",
    " ",
    "0x",
    "1e",
    "==",
    ".format([",
    "9223372036854775807",
    "type(",
    "optional.of(",
    "sets.contains(",
    "@",
    "|",
    "&",
    "=",
];

#[test]
fn random_tokens_neither_panic_nor_hang() {
    let env = environment().with_constructors().with_extensions();
    let tree = sample();
    let activation = Activation::new().bind("x", Value::json(&tree));
    let mut dice = Dice(0x5eed_1234_5678_9abc);
    let mut compiled = 0;
    for _ in 0..6000 {
        let text: String = (0..1 + dice.below(14)).map(|_| PIECES[dice.below(PIECES.len())]).collect();
        match env.compile(&text) {
            Ok(program) => {
                compiled += 1;
                let _ = program.eval(&activation, &mut Budget::default());
            }
            Err(e) => assert!(e.to_string().starts_with("ERROR: <input>:"), "{text}"),
        }
    }
    assert!(compiled > 100, "the pieces make some valid expressions: {compiled}");
}

#[test]
fn valid_expressions_with_one_character_changed_neither_panic_nor_hang() {
    let env = environment().with_constructors();
    let tree = sample();
    let activation = Activation::new().bind("x", Value::json(&tree));
    let whole = "x.items.filter(i, has(i.on) && i.name.matches('^o.*$')).map(i, {'n': i.name, ?'z': x.?z}).size() == (x.n > 2 ? 1 : -2) || [1, 2u][0] in x.list";
    let chars: Vec<char> = whole.chars().collect();
    for at in 0..chars.len() {
        for with in ["", "'", "(", "]", "\\", "é", "1", ".", "?", "!"] {
            let text: String = chars[..at].iter().collect::<String>() + with + &chars[at + 1..].iter().collect::<String>();
            if let Ok(p) = env.compile(&text) {
                let _ = p.eval(&activation, &mut Budget::default());
            }
        }
    }
}

#[test]
fn deep_nesting_fits_any_stack() {
    let around = |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    for n in [10, 100, 240, 1000, 20_000] {
        for text in [
            around("(", "1", ")", n),
            around("[", "1", "]", n),
            around("{1:", "1", "}", n),
            around("!", "true", "", n),
            around("-", "x.n", "", n),
            around("x.list.map(v, ", "v", ")", n),
            around("true ? ", "1", " : 2", n),
            around("1 + ", "1", "", n),
            around("x.n == ", "1", "", n),
            around("", "x", ".a", n),
            around("", "x", "[0]", n),
            around("", "x", ".?a", n),
            around("size([", "1", "])", n),
            around("(x + ", "1", ")", n),
            around("true && (", "true", ")", n),
            around("f(", "", "", n),
            around("x.y(", "", "", n),
            around("[x.a[", "", "", n),
            around("", "optional.of(x.list)", ".optMap(v, v + v)", n),
        ] {
            let _ = run(&text);
        }
    }
    assert_eq!(run(&around("(", "1", ")", 240)), "1");
    assert_eq!(run(&vec!["1"; 240].join(" + ")), "240");
}

#[test]
fn expressions_that_would_run_for_ever_end_with_an_error() {
    let tree: Vec<_> = (0..1000).collect();
    let tree = serde_json::json!({ "l": tree });
    let activation = Activation::new().bind("x", Value::json(&tree));
    for text in ["x.l.all(a, x.l.all(b, x.l.all(c, x.l.all(d, true))))", "x.l.map(a, x.l.map(b, x.l.map(c, 1))).size() > 0", "x.l.exists(a, x.l.exists(b, x.l.exists(c, false)))"] {
        let program = environment().compile(text).unwrap();
        let mut budget = Budget::default();
        assert_eq!(program.eval(&activation, &mut budget).unwrap_err(), EvalError::CostExceeded, "{text}");
    }
    let program = environment().compile("x.l.all(a, a >= 0)").unwrap();
    let mut small = Budget::new(3000);
    assert_eq!(program.eval(&activation, &mut small).unwrap_err(), EvalError::BudgetExhausted);
    assert_eq!(small.remaining, 0);
    let stop = Arc::new(AtomicBool::new(true));
    assert_eq!(program.eval(&activation, &mut Budget::default().interrupted_by(stop)).unwrap_err(), EvalError::Interrupted);
}

#[test]
fn memory_is_bounded_where_cost_is_not() {
    let doubling = format!("optional.of(x.list){}.value().size()", ".optMap(v, v + v + v + v)".repeat(12));
    assert_eq!(run(&doubling), "!operation cancelled: actual cost limit exceeded");
    let growing = format!("optional.of('aaaaaaaaaa'){}.value().size()", ".optMap(v, v.replace('', v))".repeat(6));
    assert_eq!(run(&growing), "!operation cancelled: actual cost limit exceeded");
    let copied = format!("optional.of(x.list){}", ".optMap(v, v)".repeat(40));
    assert!(run(&copied).starts_with("compile: ERROR: <input>:"), "each of them copies what it is called on");
}

#[test]
fn programs_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    let program = environment().compile("x.n + 1").unwrap();
    shared(&program);
    let other = program.clone();
    let result = std::thread::spawn(move || {
        let tree = sample();
        other.eval(&Activation::new().bind("x", Value::json(&tree)), &mut Budget::default()).unwrap().to_json()
    });
    assert_eq!(result.join().unwrap(), Some(4.into()));
}
