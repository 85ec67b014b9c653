//! The language: truth tables, numbers, texts, collections, macros, optionals, and the errors of evaluation.

mod common;

use common::{environment, run, table};

#[test]
fn logic_absorbs_errors() {
    // An error, spelled so that the checker lets it through.
    let error = "(x.missing == 1)";
    let truth = [("true", "true"), ("false", "false"), (error, "!no such key: missing")];
    for (a, va) in truth {
        for (b, vb) in truth {
            let and = if va == "false" || vb == "false" {
                "false"
            } else if va == "true" {
                vb
            } else {
                va
            };
            let or = if va == "true" || vb == "true" {
                "true"
            } else if va == "false" {
                vb
            } else {
                va
            };
            assert_eq!(run(&format!("{a} && {b}")), and, "{a} && {b}");
            assert_eq!(run(&format!("{a} || {b}")), or, "{a} || {b}");
        }
    }
    table(
        &environment(),
        &[
            ("true ? 1 : x.missing", "1"),
            ("false ? x.missing : 2", "2"),
            ("x.missing ? 1 : 2", "!no such key: missing"),
            ("x.n ? 1 : 2", "!no such overload"),
            ("x.n && true", "!no such overload"),
            ("x.n && false", "false"),
            ("!x.n", "!no such overload"),
            ("!!true", "true"),
            ("!!!true", "false"),
        ],
    );
}

#[test]
fn numbers_overflow_and_compare_across_types() {
    table(
        &environment(),
        &[
            ("9223372036854775807 + 1", "!integer overflow"),
            ("-9223372036854775808 - 1", "!integer overflow"),
            ("9223372036854775807 * 2", "!integer overflow"),
            ("-(-9223372036854775808)", "!integer overflow"),
            ("-9223372036854775808 / -1", "!integer overflow"),
            ("18446744073709551615u + 1u", "!unsigned integer overflow"),
            ("0u - 1u", "!unsigned integer overflow"),
            ("1 / 0", "!division by zero"),
            ("1 % 0", "!modulus by zero"),
            ("1u / 0u", "!division by zero"),
            ("1.0 / 0.0 > 1.0", "true"),
            ("-7 / 2", "-3"),
            ("-7 % 2", "-1"),
            ("7 - 3 - 2", "2"),
            ("2 + 3 * 4 - 6 / 2", "11"),
            ("0x1F", "31"),
            ("-0x1F", "-31"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
            ("--1", "1"),
            ("1 == 1.0", "compile: ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, double)'\n | 1 == 1.0\n | ..^"),
            ("dyn(1) == 1.0", "true"),
            ("dyn(1u) == 1", "true"),
            ("1 < 1.5", "true"),
            ("2u > 1", "true"),
            ("9223372036854775807 < 9223372036854775808.0", "true"),
            ("x.n == 3.0", "true"),
            ("x.n == 3u", "true"),
            ("x.n == 'a'", "false"),
            ("x.d > x.n", "false"),
            ("0.0 / 0.0 == 0.0 / 0.0", "false"),
            ("0.0 / 0.0 < 1.0", "false"),
            ("int(1.9)", "1"),
            ("int(-1.9)", "-1"),
            ("int(1e19)", "!integer overflow"),
            ("int('12')", "12"),
            ("int('a')", "!type conversion error from 'string' to 'int'"),
            ("int('99999999999999999999')", "!type conversion error from 'string' to 'int'"),
            ("int(x.list)", "!type conversion error from 'list' to 'int'"),
            ("uint(-1)", "!unsigned integer overflow"),
            ("uint('5')", "5"),
            ("double('1.5')", "1.5"),
            ("string(1.0)", "\"1\""),
            ("string(1e100)", "\"1e+100\""),
            ("string(0.00001)", "\"1e-05\""),
            ("string(123456789.5)", "\"1.234567895e+08\""),
            ("bool('true')", "true"),
            ("bool('maybe')", "!type conversion error from 'string' to 'bool'"),
            ("x.n + x.s", "!no such overload"),
            ("x.b + x.b", "!no such overload: _+_"),
        ],
    );
}

#[test]
fn texts_count_code_points() {
    table(
        &environment(),
        &[
            ("size('hé😁')", "3"),
            ("'hé😁'.size()", "3"),
            ("size(b'hé')", "3"),
            ("x.s.size()", "2"),
            ("'a' + 'b'", "\"ab\""),
            ("'abc' < 'abd'", "true"),
            ("'abc'.contains('b') && 'abc'.startsWith('ab') && 'abc'.endsWith('bc')", "true"),
            ("'abc'.matches('^a.c$')", "true"),
            ("matches('abc', 'x')", "false"),
            (r#"'\x41\u00e9\101\n' == "Aé" + 'A\n'"#, "true"),
            (r"r'\n'.size()", "2"),
            ("'''a\n'b''' == \"a\\n'b\"", "true"),
            (r"b'\xff' == b'\377'", "true"),
            ("string(b'\\xff')", "!invalid UTF-8 in bytes, cannot convert to string"),
            ("bytes('é') == b'\\xc3\\xa9'", "true"),
            ("x.n.startsWith('a')", "!no such overload"),
            ("size(x.n)", "!no such overload: size"),
            ("x.s.matches(x.names[0] + '(')", "!error parsing regexp: missing closing ): `a(`"),
        ],
    );
}

#[test]
fn collections_and_keys() {
    table(
        &environment(),
        &[
            ("[1, 2][1]", "2"),
            ("[1, 2][2]", "!index out of bounds: 2"),
            ("[1, 2][-1]", "!index out of bounds: -1"),
            ("x.list['a']", "!unsupported index type 'string' in list"),
            ("{'a': 1}['a']", "1"),
            ("{'a': 1}['b']", "!no such key: b"),
            ("{'a': 1}.b", "!no such key: b"),
            ("{1: 'a'}[1]", "\"a\""),
            ("{1: 'a'}[dyn(1u)]", "\"a\""),
            ("{'a': 1, 'a': 2}", "!Failed with repeated key: a"),
            ("x.missing", "!no such key: missing"),
            ("x.map.k.z", "!no such key: z"),
            ("x.map['a-b']", "1"),
            ("has(x.map.k)", "true"),
            ("has(x.map.zz)", "false"),
            ("has(x.missing.zz)", "!no such key: missing"),
            ("has(x.nothing)", "true"),
            ("x.nothing == null", "true"),
            ("3 in x.list", "true"),
            ("'k' in x.map", "true"),
            ("4 in [1, 2]", "false"),
            ("1 in x", "false"),
            ("'a' in x.n", "!no such overload: @in"),
            ("[1, 2] + [3] == [1, 2, 3]", "true"),
            ("{'a': [1]} == {'a': [1]}", "true"),
            ("[1] == [2]", "false"),
            ("size(x.map)", "2"),
            ("x.items[0].name", "\"one\""),
            ("type(x.n) == int && type(x.s) == string && type(x.list) == list && type(x.map) == map", "true"),
            ("type(x.nothing) == null_type", "true"),
            ("type(1) == type(2)", "true"),
            ("type('') == int", "false"),
            ("type(timestamp('2020-01-01T00:00:00Z')) == google.protobuf.Timestamp", "true"),
        ],
    );
}

#[test]
fn macros_range_over_lists_and_maps() {
    table(
        &environment(),
        &[
            ("x.list.all(v, v > 0)", "true"),
            ("x.list.all(v, v > 1)", "false"),
            ("[].all(v, false)", "true"),
            ("x.list.exists(v, v == 2)", "true"),
            ("[].exists(v, true)", "false"),
            ("x.list.exists_one(v, v > 2)", "true"),
            ("x.list.exists_one(v, v > 1)", "false"),
            ("x.list.map(v, v * 2)", "[6,2,4]"),
            ("x.list.map(v, v > 1, v * 2)", "[6,4]"),
            ("x.list.filter(v, v > 1)", "[3,2]"),
            ("x.map.all(k, k != '')", "true"),
            ("x.map.map(k, k)", "[\"a-b\",\"k\"]"),
            ("x.items.filter(i, has(i.on)).map(i, i.name)", "[\"one\"]"),
            ("[1, 2].map(a, [3, 4].map(b, a * b))", "[[3,4],[6,8]]"),
            ("[1, 0].exists(v, 1 / v == 1)", "true"),
            ("[0, 1].exists(v, 1 / v == 1)", "true"),
            ("[0, 2].exists(v, 1 / v == 1)", "!division by zero"),
            ("[0, 2].all(v, 1 / v == 1)", "false"),
            ("[0, 1].all(v, 1 / v == 1)", "!division by zero"),
            ("[0].map(v, 1 / v)", "!division by zero"),
            ("x.n.all(v, true)", "!got 'int', expected iterable type"),
            ("x.list.all(i, v, i < 3 && v > 0)", "true"),
            ("x.map.exists(k, v, k == 'k' && v == 'v')", "true"),
            ("x.list.existsOne(i, v, v == 3)", "true"),
            ("x.list.transformList(i, v, i * v)", "[0,1,4]"),
            ("x.list.transformList(i, v, i > 0, v)", "[1,2]"),
            ("{'a': 1, 'b': 2}.transformMap(k, v, v * 10)", "{\"a\":10,\"b\":20}"),
            ("{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v)", "{\"b\":2}"),
            ("['a', 'b'].transformMapEntry(i, v, {v: i})", "{\"a\":0,\"b\":1}"),
            ("['a', 'a'].transformMapEntry(i, v, {v: i})", "!insert failed: key a already exists"),
            ("[1, 2, 3].map(x, x)", "[1,2,3]"),
        ],
    );
}

#[test]
fn optionals() {
    table(
        &environment(),
        &[
            ("x.?n.orValue(0)", "3"),
            ("x.?missing.orValue(0)", "0"),
            ("x.?missing.deeper.hasValue()", "false"),
            ("x.?map.k.value()", "\"v\""),
            ("x.map[?'k'].orValue('d')", "\"v\""),
            ("x.map[?'zz'].orValue('d')", "\"d\""),
            ("[1][?5].hasValue()", "false"),
            ("[1][?0].value()", "1"),
            ("optional.none().hasValue()", "false"),
            ("optional.of(1).value()", "1"),
            ("optional.none().value()", "!optional.none() dereference"),
            ("optional.ofNonZeroValue('').hasValue()", "false"),
            ("optional.ofNonZeroValue('a').hasValue()", "true"),
            ("optional.none().or(optional.of(2)).value()", "2"),
            ("optional.of(1).orValue(1 / 0)", "1"),
            ("[?x.?missing, ?x.?n]", "[3]"),
            ("{?'a': x.?missing, ?'b': x.?n}", "{\"b\":3}"),
            ("optional.of(2).optMap(v, v * 2).value()", "4"),
            ("optional.none().optMap(v, v).hasValue()", "false"),
            ("optional.of(2).optFlatMap(v, optional.of(v + 1)).value()", "3"),
            ("optional.of(1) == optional.of(1)", "true"),
            ("optional.of(1) == optional.none()", "false"),
            ("has(x.?map.k)", "true"),
            ("optional.unwrap([optional.of(1), optional.none()])", "[1]"),
            ("[1, 2].first().value() + [1, 2].last().value()", "3"),
        ],
    );
}

#[test]
fn times() {
    table(
        &environment(),
        &[
            ("duration('1h30m') == duration('90m')", "true"),
            ("string(duration('1h1.5s'))", "\"3601.5s\""),
            ("duration('90m').getHours()", "1"),
            ("duration('90m').getMinutes()", "90"),
            ("duration('1.5s').getMilliseconds()", "1500"),
            ("duration('1s') + duration('1s') > duration('1500ms')", "true"),
            ("timestamp('2023-03-04T05:06:07Z').getFullYear()", "2023"),
            ("timestamp('2023-03-04T05:06:07Z').getMonth()", "2"),
            ("timestamp('2023-03-04T05:06:07Z').getDate()", "4"),
            ("timestamp('2023-03-04T05:06:07Z').getDayOfMonth()", "3"),
            ("timestamp('2023-03-04T05:06:07Z').getDayOfWeek()", "6"),
            ("timestamp('2024-12-31T00:00:00Z').getDayOfYear()", "365"),
            ("timestamp('2023-03-04T05:06:07Z').getHours()", "5"),
            ("timestamp('2023-03-04T05:06:07.089Z').getMilliseconds()", "89"),
            ("timestamp('2023-03-04T23:06:07Z').getHours('+02:00')", "1"),
            ("timestamp('2023-03-04T23:06:07Z').getDate('+02:00')", "5"),
            ("timestamp('2023-03-04T05:06:07+01:00') == timestamp('2023-03-04T04:06:07Z')", "true"),
            ("string(timestamp('2023-03-04T05:06:07.5Z') + duration('1h'))", "\"2023-03-04T06:06:07.5Z\""),
            ("timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h')", "true"),
            ("int(timestamp('1970-01-01T00:01:00Z'))", "60"),
            ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "!timestamp overflow"),
            ("duration(x.s)", "!type conversion error from 'string' to 'google.protobuf.Duration'"),
            ("timestamp(x.s)", "!type conversion error from 'string' to 'google.protobuf.Timestamp'"),
            ("timestamp('2023-01-01T00:00:00Z').getHours('Mars/Base')", "!unknown time zone Mars/Base"),
            ("timestamp('2023-01-01T00:00:00Z').getHours('europe/berlin')", "!unknown time zone europe/berlin"),
            ("timestamp('2023-01-01T00:00:00Z').getHours('../etc/passwd')", "!unknown time zone ../etc/passwd"),
            ("timestamp('2023-01-01T00:00:00Z').getHours('1:x')", "!strconv.Atoi: parsing \"x\": invalid syntax"),
            ("timestamp('2023-01-01T00:00:00Z').getHours('99999999999999999999:00')", "!strconv.Atoi: parsing \"99999999999999999999\": invalid syntax"),
            ("timestamp('2023-01-01T12:00:00Z').getMinutes('-7:30')", "30"),
            ("timestamp('2023-01-01T12:00:00Z').getHours('-7:30')", "4"),
            ("timestamp('2023-01-01T12:00:00Z').getHours('UTC') + timestamp('2023-01-01T12:00:00Z').getHours('')", "24"),
        ],
    );
}

/// Where the machine has the database that upstream reads too.
#[test]
fn named_time_zones_follow_the_machines_database() {
    if jiff::tz::TimeZone::get("Europe/Berlin").is_err() {
        return;
    }
    table(
        &environment(),
        &[
            ("timestamp('2023-01-01T23:30:00Z').getHours('Europe/Berlin')", "0"),
            ("timestamp('2023-07-01T23:30:00Z').getHours('Europe/Berlin')", "1"),
            ("timestamp('2023-07-01T23:30:00Z').getDate('Europe/Berlin')", "2"),
            ("timestamp('2023-07-01T00:00:00Z').getMinutes('Asia/Kolkata')", "30"),
            ("timestamp('2023-03-12T09:59:59Z').getHours('US/Pacific')", "1"),
            ("timestamp('2023-03-12T10:00:00Z').getHours('US/Pacific')", "3"),
            ("timestamp('0001-01-01T00:00:00Z').getFullYear('Etc/GMT+1')", "0"),
        ],
    );
}
