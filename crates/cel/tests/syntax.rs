//! Errors of the parser and the checker, to the letter: upstream's Status messages carry them.

mod common;

use common::{environment, refused};
use keles_cel::{Decl, Environment, Type};
use std::sync::Arc;

const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Puts the text and a caret under each error, as they are printed.
fn shown(text: &str, errors: &[(usize, &str)]) -> String {
    let one = |(column, message): &(usize, &str)| format!("ERROR: <input>:1:{column}: {}\n | {text}\n | {}^", message.replace("PRIMARY", PRIMARY), ".".repeat(column - 1));
    errors.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn check(environment: &Environment, rows: &[(&str, &[(usize, &str)])]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(text, errors)| {
            let (got, want) = (refused(environment, text), shown(text, errors));
            (got != want).then(|| format!("want {want}\ngot  {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), rows.len(), wrong.join("\n\n"));
}

#[test]
fn recorded_texts_come_out_to_the_letter() {
    let long = "x".repeat(200);
    let variables = Decl::object("kubernetes.variables", []);
    let env = Environment::new().declare("variables", Arc::new(variables)).declare("self", Arc::new(Decl::object("selfType", [])));
    assert_eq!(refused(&env, ""), format!("ERROR: <input>:1:0: Syntax error: mismatched input '<EOF>' expecting {PRIMARY}"));
    assert_eq!(refused(&env, "Bad_Value!"), "ERROR: <input>:1:10: Syntax error: extraneous input '!' expecting <EOF>\n | Bad_Value!\n | .........^");
    assert_eq!(refused(&env, "other"), "ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n | other\n | ^");
    assert_eq!(refused(&env, &long), format!("ERROR: <input>:1:1: undeclared reference to '{long}' (in container '')\n | {long}\n | ^"));
    assert_eq!(refused(&env, "'n is ' + string(variables.v)"), "ERROR: <input>:1:27: undefined field 'v'\n | 'n is ' + string(variables.v)\n | ..........................^");
    assert_eq!(refused(&env, "variables.v <= 5"), "ERROR: <input>:1:10: undefined field 'v'\n | variables.v <= 5\n | .........^");
    assert_eq!(
        refused(&Environment::new(), "'n is ' + string(variables.v)"),
        "ERROR: <input>:1:18: undeclared reference to 'variables' (in container '')\n | 'n is ' + string(variables.v)\n | .................^"
    );
    assert_eq!(
        refused(&env, "self.n < 8 || has(self.s)"),
        "ERROR: <input>:1:5: undefined field 'n'\n | self.n < 8 || has(self.s)\n | ....^\nERROR: <input>:1:18: undefined field 's'\n | self.n < 8 || has(self.s)\n | .................^"
    );
}

/// Every compile error in the recordings, run again through the compiler; without the recordings there is nothing to compare.
#[test]
fn errors_in_the_recordings_are_reproduced() {
    let folder = std::path::Path::new("/work/shared/reference/recordings");
    let Ok(files) = std::fs::read_dir(folder) else { return };
    let mut seen = std::collections::BTreeSet::new();
    for file in files.flatten() {
        let Ok(output) = std::process::Command::new("gzip").arg("-dc").arg(file.path()).output() else { return };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in text.split("compilation failed: ").skip(1) {
            let end = part.find("\",\"").or_else(|| part.find("\"}")).unwrap_or(part.len());
            // One message may list further fields behind this one.
            let message = part[..end].replace("\\n", "\n");
            let end = message.find("^, ").or_else(|| message.find("^]")).map_or(message.len(), |i| i + 1);
            let end = message.find("IDENTIFIER}").map_or(end, |i| end.min(i + "IDENTIFIER}".len()));
            seen.insert(message[..end].to_owned());
        }
    }
    let known = ["undeclared reference", "Syntax error", "undefined field"];
    let wrong: Vec<_> = seen.iter().filter(|m| known.iter().any(|k| m.contains(k))).filter(|m| !reproduced(m)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn reproduced(message: &str) -> bool {
    let text = message.lines().nth(1).map_or("", |l| &l[3..]);
    let objects = Environment::new().declare("variables", Arc::new(Decl::object("v", []))).declare("self", Arc::new(Decl::object("s", [])));
    let with_n = Environment::new().declare("self", Arc::new(Decl::object("s", [("n", Decl::from(Type::Int))])));
    [Environment::new(), objects, with_n].iter().any(|env| refused(env, text) == message)
}

#[test]
fn syntax_errors_are_antlrs() {
    let all_or = |extra: &str| PRIMARY.replace("'{', '('", &format!("'{{', {extra}'('"));
    let map_or_end = all_or("'}', ").replace("'.', '-', '!'", "'.', ',', '-', '!', '?'");
    let map_error = format!("Syntax error: mismatched input '<EOF>' expecting {map_or_end}");
    check(
        &environment(),
        &[
            ("a b", &[(3, "Syntax error: extraneous input 'b' expecting <EOF>")]),
            ("a b c", &[(3, "Syntax error: mismatched input 'b' expecting <EOF>")]),
            ("1 + +", &[(5, "Syntax error: mismatched input '+' expecting PRIMARY"), (6, "Syntax error: mismatched input '<EOF>' expecting PRIMARY")]),
            ("3 - $", &[(5, "Syntax error: token recognition error at: '$'"), (6, "Syntax error: mismatched input '<EOF>' expecting PRIMARY")]),
            (
                "*@a | b",
                &[
                    (1, "Syntax error: extraneous input '*' expecting PRIMARY"),
                    (2, "Syntax error: token recognition error at: '@'"),
                    (5, "Syntax error: token recognition error at: '| '"),
                    (7, "Syntax error: extraneous input 'b' expecting <EOF>"),
                ],
            ),
            ("{", &[(2, &map_error)]),
            ("T(){}", &[(4, "Syntax error: mismatched input '{' expecting <EOF>")]),
            ("T{}()", &[(4, "Syntax error: mismatched input '(' expecting <EOF>")]),
            ("{'a': 1}.'a'", &[(10, "Syntax error: no viable alternative at input '.'a''")]),
            ("x.true == 1", &[(3, "Syntax error: mismatched input 'true' expecting IDENTIFIER")]),
            ("t{>C}", &[(3, "Syntax error: extraneous input '>' expecting {'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}"), (5, "Syntax error: mismatched input '}' expecting ':'")]),
            ("{a}", &[(3, "Syntax error: mismatched input '}' expecting ':'")]),
            ("--", &[(3, "Syntax error: no viable alternative at input '-'"), (3, "Syntax error: mismatched input '<EOF>' expecting PRIMARY")]),
            ("?", &[(1, "Syntax error: mismatched input '?' expecting PRIMARY"), (2, "Syntax error: mismatched input '<EOF>' expecting PRIMARY")]),
            ("in", &[(1, "Syntax error: mismatched input 'in' expecting PRIMARY"), (3, "Syntax error: mismatched input '<EOF>' expecting PRIMARY")]),
            (
                r#""\xFh""#,
                &[
                    (1, r#"Syntax error: token recognition error at: '"\xFh'"#),
                    (6, r#"Syntax error: token recognition error at: '"'"#),
                    (7, "Syntax error: mismatched input '<EOF>' expecting PRIMARY"),
                ],
            ),
            ("x.", &[(3, "Syntax error: mismatched input '<EOF>' expecting IDENTIFIER")]),
            ("!", &[(2, "Syntax error: extraneous input '<EOF>' expecting PRIMARY")]),
            ("(1 2)", &[(4, "Syntax error: extraneous input '2' expecting ')'")]),
            ("x = 2", &[(3, "Syntax error: token recognition error at: '= '"), (5, "Syntax error: extraneous input '2' expecting <EOF>")]),
            ("[1,2", &[(5, "Syntax error: mismatched input '<EOF>' expecting {']', ','}")]),
            ("x..y", &[(3, "Syntax error: extraneous input '.' expecting IDENTIFIER"), (5, "Syntax error: extraneous input '<EOF>' expecting {'{', '.'}")]),
            ("(1", &[(3, "Syntax error: missing ')' at '<EOF>'")]),
            ("while", &[(1, "reserved identifier: while")]),
            ("1.all(2, 3)", &[(7, "argument must be a simple name")]),
            ("[1].map(var, var)", &[(9, "reserved identifier: var"), (9, "argument is not an identifier"), (14, "reserved identifier: var")]),
            ("has(x)", &[(5, "invalid argument to has() macro")]),
            ("9223372036854775808", &[(1, "invalid int literal")]),
        ],
    );
    assert_eq!(refused(&environment(), "'é' + é"), "ERROR: <input>:1:7: Syntax error: token recognition error at: 'é'\n | 'é' + é\n | .．....＾\nERROR: <input>:1:8: Syntax error: mismatched input '<EOF>' expecting PRIMARY\n | 'é' + é\n | .．....．^".replace("PRIMARY", PRIMARY));
    assert_eq!(refused(&environment(), "1 + 2\n3 4"), "ERROR: <input>:2:1: Syntax error: mismatched input '3' expecting <EOF>\n | 3 4\n | ^");
}

#[test]
fn type_errors_are_cel_gos() {
    check(
        &environment(),
        &[
            ("'a' == 1", &[(5, "found no matching overload for '_==_' applied to '(string, int)'")]),
            ("1 + 'a'", &[(3, "found no matching overload for '_+_' applied to '(int, string)'")]),
            ("'a'.startsWith(1)", &[(15, "found no matching overload for 'startsWith' applied to 'string.(int)'")]),
            ("size(1)", &[(5, "found no matching overload for 'size' applied to '(int)'")]),
            ("nope(1)", &[(5, "undeclared reference to 'nope' (in container '')")]),
            ("'a'.nope()", &[(9, "undeclared reference to 'nope' (in container '')")]),
            ("[1, 'a']", &[(5, "expected type 'int' but found 'string'")]),
            ("{'a': 1, 'b': 'c'}", &[(15, "expected type 'int' but found 'string'")]),
            ("'a'.b", &[(4, "type 'string' does not support field selection")]),
            ("1.all(y, true)", &[(1, "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)")]),
            ("!1", &[(1, "found no matching overload for '!_' applied to '(int)'")]),
            ("true && 1", &[(6, "found no matching overload for '_&&_' applied to '(bool, int)'")]),
            ("duration('x')", &[(10, "invalid duration argument")]),
            ("timestamp('x')", &[(11, "invalid timestamp argument")]),
            ("x.matches('(')", &[(11, "invalid matches argument")]),
            ("Object{}", &[(7, "undeclared reference to 'Object' (in container '')")]),
            ("[].nope(1)", &[(8, "undeclared reference to 'nope' (in container '')")]),
            ("[1] + ['a']", &[(5, "found no matching overload for '_+_' applied to '(list(int), list(string))'")]),
            ("true ? 1 : 'a'", &[(6, "found no matching overload for '_?_:_' applied to '(bool, int, string)'")]),
        ],
    );
}

#[test]
fn results_have_types() {
    for (text, ty) in [
        ("1", "int"),
        ("1u", "uint"),
        ("b'a'", "bytes"),
        ("null", "null"),
        ("x.y", "dyn"),
        ("[1].map(v, string(v))", "list(string)"),
        ("{'a': [1]}['a'][0]", "int"),
        ("[[]]", "list(list(dyn))"),
        ("type(1)", "type(int)"),
        ("optional.of(1)", "optional_type(int)"),
        ("x.?a", "optional_type(dyn)"),
        ("optional.of({'a': 1}).a", "optional_type(int)"),
        ("{'a': 1}[?'a'].orValue(2)", "int"),
        ("[1, 2].filter(i, i > 1)", "list(int)"),
        ("{'a': 1}.transformMap(k, v, v == 1)", "map(string, bool)"),
        ("quantity('1') ", "kubernetes.Quantity"),
        ("timestamp('2020-01-01T00:00:00Z') - timestamp('2020-01-01T00:00:00Z')", "duration"),
        ("1 < 1.5", "bool"),
        ("ip('1.2.3.4').family()", "int"),
        ("format.named('x')", "optional_type(kubernetes.NamedFormat)"),
        ("true ? x : 1", "dyn"),
    ] {
        assert_eq!(refused(&environment(), text), format!("compiled to {ty}"), "{text}");
    }
}

#[test]
fn depth_and_size_are_limited() {
    let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert!(environment().compile(&nested(200)).is_ok());
    assert_eq!(refused(&environment(), &nested(260)), "ERROR: <input>:-1:0: expression recursion limit exceeded: 250");
    assert_eq!(refused(&environment(), &"1+".repeat(300)).lines().next(), Some("ERROR: <input>:-1:0: max recursion depth exceeded"));
    assert_eq!(refused(&environment(), &vec!["true"; 2000].join(" && ")), "compiled to bool", "logical operators are balanced");
    let long = format!("'{}'", "a".repeat(100_000));
    assert_eq!(refused(&environment(), &long), "ERROR: <input>:-1:0: expression code point size exceeds limit: size: 100002, limit 100000");
}
