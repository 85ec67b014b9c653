//! How deep documents may be nested: one limit for every way in, so that whatever is stored can be read again.

use serde_json::Value;

/// Objects and lists within each other. What the JSON decoder reads; YAML, protobuf, patches and all that comes of them keep to it.
pub const DEPTH_MAX: usize = 127;

/// Upstream's words, where a document is nested deeper than its decoder goes.
pub const TOO_DEEP: &str = "exceeded max depth";

/// Levels of objects and lists: 0 for a scalar. Ends the count at one more than [`DEPTH_MAX`].
pub fn of(v: &Value) -> usize {
    below(v, 0)
}

/// Whether a value nested `above` levels deep keeps to the limit.
pub fn fits(v: &Value, above: usize) -> bool {
    above <= DEPTH_MAX && below(v, above) <= DEPTH_MAX
}

fn below(v: &Value, above: usize) -> usize {
    match v {
        Value::Array(a) => deepest(a.iter(), above + 1),
        Value::Object(o) => deepest(o.values(), above + 1),
        _ => above,
    }
}

fn deepest<'v>(items: impl Iterator<Item = &'v Value>, above: usize) -> usize {
    let mut most = above;
    for v in items {
        if most > DEPTH_MAX {
            break;
        }
        if matches!(v, Value::Array(_) | Value::Object(_)) {
            most = most.max(below(v, above));
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |v, i| if i % 2 == 0 { json!([v]) } else { json!({"a": v, "b": 1}) })
    }

    #[test]
    fn the_limit_is_what_the_decoder_reads() {
        for levels in [0, 1, 2, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 5 * DEPTH_MAX] {
            let v = nested(levels);
            assert_eq!(of(&v), levels.min(DEPTH_MAX + 1));
            let read = crate::decode::parse_json(v.to_string().as_bytes());
            assert_eq!(read.is_ok(), fits(&v, 0), "{levels}");
            assert_eq!(crate::decode::parse(crate::yaml::to_yaml(&v).as_bytes(), crate::decode::Format::Yaml).is_ok(), levels <= DEPTH_MAX, "{levels} in YAML");
            if let Err(s) = read {
                assert!(s.message.ends_with(TOO_DEEP), "{}", s.message);
            }
        }
        assert!(fits(&json!(1), DEPTH_MAX) && !fits(&json!([]), DEPTH_MAX));
    }
}
