//! Texts that are small languages: selectors, CEL, quantities and times, JSONPath.

use keles_api::decode::FieldValidation;
use keles_api::{FieldSelector, Quantity, Selector, names, time};
use keles_cel::{Activation, Budget, Decl, EvalError, Type, Value, uses};
use keles_custom::jsonpath::JsonPath;
use keles_testkit::odd::{self, Source};
use serde_json::json;

pub fn selectors(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let has = |k: &str| (k.len() % 2 == 0).then_some("value");
    if let Ok(found) = Selector::parse(&text) {
        assert_eq!(found.is_everything(), found.requirements.is_empty());
        assert_eq!(found.matches(has), found.requirements.iter().all(|r| r.matches(has(&r.key))));
    }
    if let Ok(found) = FieldSelector::parse(&text) {
        found.matches(|f| f.to_owned().into());
    }
    let o = odd::any(&mut Source::new(data));
    if let Ok(found) = Selector::from_object(&o) {
        found.matches(has);
    }
}

/// Expressions made of pieces, so that many of them are valid; else the text as it stands.
pub fn cel(data: &[u8]) {
    const PIECES: &[&str] = &[
        "self",
        ".spec",
        ".list",
        ".s",
        ".n",
        ".m",
        "[0]",
        "['k']",
        " + ",
        " - ",
        " * ",
        " / ",
        " % ",
        " == ",
        " != ",
        " < ",
        " in ",
        " && ",
        " || ",
        " ? ",
        " : ",
        "!",
        "-",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        "1",
        "2",
        "0",
        "-9223372036854775808",
        "9223372036854775807",
        "1.5",
        "2u",
        "'a'",
        "'é'",
        "true",
        "null",
        ".size()",
        "size(",
        ".map(x, ",
        ".filter(x, ",
        ".all(x, ",
        ".exists(x, ",
        ".exists_one(x, ",
        "x",
        "has(self.",
        "string(",
        "int(",
        "uint(",
        "double(",
        "bytes(",
        "duration(",
        "timestamp(",
        "quantity(",
        "url(",
        "ip(",
        "cidr(",
        "semver(",
        "type(",
        "dyn(",
        ".matches('^(a+)+$')",
        ".find('a*')",
        ".findAll('.')",
        ".replace('', ",
        ".split('')",
        ".join('')",
        ".format([",
        ".lowerAscii()",
        ".indexOf(",
        ".substring(",
        ".charAt(",
        ".trim()",
        ".reverse()",
        ".sum()",
        ".min()",
        ".max()",
        ".isSorted()",
        ".?n",
        ".orValue(",
        ".optMap(o, ",
        "optional.of(",
        "optional.none()",
        ".hasValue()",
        "sets.contains(",
        "sets.intersects(",
        "lists.range(",
        ".getHours('America/New_York')",
        ".getFullYear()",
        "'1h'",
        "'2026-01-01T00:00:00Z'",
        "'1Gi'",
        "oldSelf",
        ".flatten()",
        ".sort()",
        ".distinct()",
        ".slice(",
        "format.named('uuid')",
        "Object{",
        "cel.bind(v, ",
        "v",
        "math.greatest(",
    ];
    let mut s = Source::new(data);
    let text = if s.byte() % 8 == 0 {
        String::from_utf8_lossy(s.rest()).into_owned()
    } else {
        let mut text = String::new();
        while !s.is_empty() && text.len() < 4000 {
            text += s.pick(PIECES);
        }
        text
    };
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "list": {"type": "array", "maxItems": 50, "items": {"type": "integer"}}, "s": {"type": "string", "maxLength": 100}, "n": {"type": "integer"},
        "m": {"type": "object", "additionalProperties": {"type": "string"}}}}}});
    let decl = Decl::from_json_schema(&schema, true).expect("a schema of an object");
    let typed = json!({"spec": {"list": (0..40).collect::<Vec<_>>(), "s": "héllo", "n": 7, "m": {"k": "v"}}});
    let free = uses::Admission { constructors: true, ..Default::default() }.environment().with_extensions().variable("self", Type::Dyn).variable("oldSelf", Type::Dyn);
    for (environment, value) in [(uses::validation_rule(&decl, false), Value::typed(&typed, &decl)), (free, Value::json(&typed))] {
        let Ok(program) = environment.compile(&text) else { continue };
        let estimate = program.cost();
        assert!(estimate.min <= estimate.max, "{text}");
        let names = Activation::new().bind("self", value.clone()).bind("oldSelf", value);
        let mut budget = Budget::default();
        let result = program.eval(&names, &mut budget);
        // The rest of a step may still be counted after the limit.
        assert!(budget.spent <= 20_000_000, "{text}: {}", budget.spent);
        if let Ok(v) = result {
            assert!(budget.spent <= estimate.max || estimate.max == u64::MAX || budget.spent <= 1_000_000, "{text}: {} of {}", budget.spent, estimate.max);
            v.to_json();
        } else if let Err(e @ EvalError::Runtime(_)) = result {
            e.to_string();
        }
    }
}

pub fn scalars(data: &[u8]) {
    let mut s = Source::new(data);
    let text = if s.byte() % 2 == 0 { s.text() } else { String::from_utf8_lossy(s.rest()).into_owned() };
    if let Ok(q) = Quantity::parse(&text) {
        let written = q.to_string();
        let again = Quantity::parse(&written).unwrap_or_else(|e| panic!("{e}: {text} written as {written}"));
        assert_eq!(again, q, "{text}");
        assert_eq!(again.to_string(), written, "{text}");
        for other in [q, q.neg(), q.times(i64::MAX), q.add(q), q.sub(q.times(3))] {
            let _ = (other.units(), other.milli(), other.as_f64(), other.to_string(), other.cmp(&q));
        }
    }
    if let Ok(canonical) = Quantity::canonical(&text) {
        assert_eq!(Quantity::canonical(&canonical).as_ref(), Ok(&canonical), "{text}");
    }
    for (parsed, format) in [(time::parse(&text), time::format as fn(_) -> _), (time::parse_micro(&text), time::format_micro)] {
        let Ok(m) = parsed else { continue };
        let written = format(m);
        let again = time::parse(&written).or_else(|_| time::parse_micro(&written)).unwrap_or_else(|e| panic!("{e}: {text} written as {written}"));
        assert_eq!(format(again), written);
    }
    for check in [names::dns_label, names::dns_subdomain, names::dns1035_label, names::path_segment] {
        check(&text, false);
        check(&text, true);
    }
    names::qualified_name(&text);
    names::label_value(&text);
    let _ = FieldValidation::parse(&text);
    let _ = keles_api::int_or_string::scaled(&text.as_str().into(), i64::MAX, true);
    time::human_duration(text.parse().unwrap_or(i64::MIN));
    let _ = (keles_kinds::ip::parse_sloppy(&text), keles_kinds::ip::parse_cidr_sloppy(&text), keles_kinds::formats::parse_cidr(&text));
}

pub fn jsonpath(data: &[u8]) {
    let (path, tree) = data.split_at(data.len() / 2);
    let Some(path) = JsonPath::parse(&String::from_utf8_lossy(path)) else { return };
    let tree = odd::any(&mut Source::new(tree));
    let found = path.find(&tree);
    assert!(found.len() <= 10_000);
    path.fields();
}
