//! Estimates and runtime costs, in the numbers of cel-go and upstream.

mod common;

use common::sample;
use keles_cel::{Activation, Budget, Decl, Environment, Estimate, Type, Value, limits, uses};
use serde_json::json;
use std::sync::Arc;

fn schema() -> Arc<Decl> {
    let schema = json!({"type": "object", "required": ["name"], "properties": {
        "n": {"type": "integer"},
        "m": {"type": "integer"},
        "name": {"type": "string", "maxLength": 25},
        "free": {"type": "string"},
        "kind": {"type": "string", "enum": ["a", "bcd"]},
        "when": {"type": "string", "format": "date-time"},
        "list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "ints": {"type": "array", "items": {"type": "integer"}},
        "map": {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "string", "maxLength": 5}},
        "either": {"x-kubernetes-int-or-string": true},
        "nested": {"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {"items": {"type": "array", "maxItems": 7, "items": {"type": "integer"}}}}}
    }});
    Decl::from_json_schema(&schema, false).unwrap()
}

#[test]
fn estimates_follow_the_bounds_of_the_schema() {
    let env = uses::validation_rule(&schema(), false);
    let wrong: Vec<String> = [
        ("true", 0, 0),
        ("self.n > 1", 3, 3),
        ("self.n == self.m", 5, 5),
        ("has(self.n)", 1, 1),
        // 100 bytes, a tenth each.
        ("self.name == self.free", 5, 14),
        ("self.name.startsWith('abc')", 3, 3),
        ("self.kind == self.name", 5, 5),
        ("self.name.contains('abcdefghijk')", 2, 22),
        ("self.name.matches('^abcdefg$')", 5, 2 + 11 * 3),
        ("self.name + self.name == ''", 4, 4 + 20),
        ("self.list.all(v, v == 'x')", 3, 3 + 10 * (2 + 3)),
        ("self.list.exists(v, v.size() > 1)", 3, 3 + 10 * 7),
        ("self.list.map(v, v).size() == 1", 15, 15 + 10 * 13),
        ("self.map.all(k, self.map[k] == 'x')", 3, 3 + 4 * 8),
        ("self.nested.all(o, o.items.all(i, i > 0))", 3, 3 + 3 * (2 + 1 + 3 + 7 * 5)),
        ("self.n > 1 || self.m > 1", 3, 6),
        ("self.n > 1 ? 1 : 2", 3, 3),
        ("'a' in self.list", 2, 12),
        ("self.list[0] == 'a'", 4, 4),
        ("self.list.isSorted()", 2, 2 + 10 * 3),
        ("self.list.join(',') == ''", 2, 2 + 21),
        ("self.name.lowerAscii() == ''", 2, 12),
        ("self.name.replace('a', 'bb') == ''", 2, 2 + 20),
        ("[1, 2].size() == 2", 12, 12),
        ("{'a': 1}.size() == 1", 32, 32),
        ("quantity('1').isLessThan(quantity('2'))", 3, 3),
        ("cidr('10.0.0.0/8').containsIP('10.0.0.1')", 3, 1 + 4 + 1),
        ("self.list.slice(0, 3).size() == 3", 2 + 14 + 2, 2 + 14 + 2),
        ("self.nested.reverse().size() > 1", 2 + 11 + 2, 2 + 14 + 2),
        ("self.list.sort().size() == 1", 2 + 11 + 2, 2 + 11 + 210 + 2),
        ("self.when < timestamp('2020-01-01T00:00:00Z')", 4, 4),
        ("format.dns1123Label().validate(self.name).hasValue()", 4, 1 + 2 + 320 + 1),
    ]
    .iter()
    .filter_map(|(text, min, max)| {
        let got = env.compile(text).unwrap_or_else(|e| panic!("{e}")).cost();
        (got != Estimate { min: *min, max: *max }).then(|| format!("{text}: want {min}..{max}, got {}..{}", got.min, got.max))
    })
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_without_bounds_exceed_the_limit() {
    let env = uses::validation_rule(&schema(), false);
    let cost = env.compile("self.ints.all(i, self.ints.all(j, i != j || i == j))").unwrap().cost();
    assert!(cost.max > limits::ESTIMATED_COST_PER_RULE * 100);
    assert_eq!(
        limits::exceeded("estimated rule cost", cost.max, limits::ESTIMATED_COST_PER_RULE),
        "estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    );
    assert!(limits::exceeded("x", 25, 10).contains("factor of 2.5x"));
    assert!(limits::exceeded("x", 11, 10).contains("factor of 1.100000x"));
    assert_eq!(schema().max_cardinality(), 3 * 1024 * 1024 / (2 + 4 + 4 + 2 + 1), "name is required: quotes, colon, comma and an empty text");
}

#[test]
fn evaluations_cost_what_cel_go_counts() {
    let env = Environment::new().variable("x", Type::Dyn);
    let tree = sample();
    let names = Activation::new().bind("x", Value::json(&tree));
    let wrong: Vec<String> = [
        ("true", 0),
        ("x.n > 1", 3),
        ("x.n == 3", 3),
        ("has(x.n)", 1),
        ("has(x.map.k)", 2),
        ("x.n > 1 && x.n > 2", 6),
        ("x.n > 1 || x.missing", 3),
        ("x.n > 1 ? x.n : x.missing", 5),
        ("[1, 2, 3]", 0),
        ("[x.n]", 12),
        ("{'a': x.n}", 32),
        ("1 in [1, 2]", 0),
        // Of a dyn it may be a list or a map: no overload is known.
        ("1 in x.list", 3),
        ("'aaaaaaaaaaaaaaaaaaaa' + 'b' == ''", 3),
        ("x.list[0]", 3),
        ("x.list[x.n - 3]", 6),
        ("x.list.all(v, v > 0)", 2 + 3 * (2 + 1 + 2) + 1),
        ("x.list.exists(v, v == 3)", 2 + (3 + 1 + 2) + 3 + 1),
        ("x.list.map(v, v)", 2 + 3 * (1 + 1 + 10 + 1) + 1),
        ("x.list.isSorted()", 2 + 3),
        ("'abc'.matches('^a.c$')", 2),
        ("int('5')", 0),
        ("string(x.n)", 3),
        ("quantity('1Gi').sign()", 2),
        ("ip('127.0.0.1').family()", 2),
        ("'a b c d e f'.split(' ')", 3),
        ("'abc'.find('b')", 1),
        ("lists.range(5)", 16),
        ("x.list.sort()", 2 + 11 + 18),
        ("x.names.distinct()", 2 + 11 + 9),
    ]
    .iter()
    .filter_map(|(text, want)| {
        let mut budget = Budget::default();
        let program = env.compile(text).unwrap_or_else(|e| panic!("{e}"));
        let _ = program.eval(&names, &mut budget);
        (budget.spent != *want).then(|| format!("{text}: want {want}, got {}", budget.spent))
    })
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_evaluation_costs_more_than_its_estimate() {
    let decl = schema();
    let env = uses::validation_rule(&decl, false);
    let tree = json!({"n": 1, "m": 2, "name": "x".repeat(25), "free": "y".repeat(200), "kind": "bcd", "when": "2020-01-01T00:00:00Z", "either": "5%",
        "list": ["abcde", "b", "c", "d", "e", "f", "g", "h", "i", "j"], "ints": [1, 2, 3], "map": {"a": "1", "b": "2"}, "nested": [{"items": [1, 2, 3, 4, 5, 6, 7]}]});
    let names = Activation::new().bind("self", Value::typed(&tree, &decl)).bind("oldSelf", Value::typed(&tree, &decl));
    for text in [
        "self.list.all(v, v.startsWith('a') || self.name.contains(v))",
        "self.nested.all(o, o.items.exists(i, i > 6))",
        "self.map.all(k, self.map[k].size() > 0)",
        "self.name.matches('^x+$') && self.free.lowerAscii().replace('y', 'zz').size() > 3",
        "self.list.map(v, v + self.name).filter(v, v != '').size() == 10",
        "type(self.either) == string ? self.either.endsWith('%') : self.either > 1",
        "self.when > timestamp('2019-01-01T00:00:00Z') && self == oldSelf",
        "self.list.join('-').split('-').size() == self.list.size()",
        "self.ints.sum() + self.ints.max() > 0 && self.ints.isSorted()",
    ] {
        let program = env.compile(text).unwrap_or_else(|e| panic!("{e}"));
        let mut budget = Budget::default();
        program.eval(&names, &mut budget).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(budget.spent <= program.cost().max, "{text}: {} > {}", budget.spent, program.cost().max);
    }
}
