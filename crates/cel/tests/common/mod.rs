//! What the tables of the tests go through.
#![allow(dead_code, reason = "each test file uses its part")]

use keles_cel::{Activation, Budget, Environment, Value};
use serde_json::{Value as Json, json};

/// The tree that tests call `x`.
pub fn sample() -> Json {
    json!({
        "n": 3, "big": 9_000_000_000_i64, "d": 1.5, "s": "hé", "b": true, "nothing": null,
        "list": [3, 1, 2], "names": ["a", "b"], "map": {"k": "v", "a-b": 1},
        "items": [{"name": "one", "on": true}, {"name": "two"}],
    })
}

pub fn environment() -> Environment {
    Environment::new().variable("x", keles_cel::Type::Dyn)
}

/// The result's JSON text, or the error behind `!`.
pub fn run(expression: &str) -> String {
    run_in(&environment(), expression)
}

pub fn run_in(environment: &Environment, expression: &str) -> String {
    let program = match environment.compile(expression) {
        Ok(p) => p,
        Err(e) => return format!("compile: {e}"),
    };
    let tree = sample();
    let activation = Activation::new().bind("x", Value::json(&tree));
    match program.eval(&activation, &mut Budget::new(u64::MAX)) {
        Ok(v) => v.to_json().map_or_else(|| format!("<{}>", v.type_name()), |j| j.to_string()),
        Err(e) => format!("!{e}"),
    }
}

/// The first line of the compiler's error.
pub fn refused(environment: &Environment, expression: &str) -> String {
    match environment.compile(expression) {
        Ok(p) => format!("compiled to {}", p.result()),
        Err(e) => e.to_string(),
    }
}

/// Runs a table of expressions and their results; tells all that differ.
pub fn table(environment: &Environment, rows: &[(&str, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(expression, want)| {
            let got = run_in(environment, expression);
            (got != *want).then(|| format!("{expression}\n    want {want}\n    got  {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
