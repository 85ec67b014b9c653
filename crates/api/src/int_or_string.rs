//! `intstr.IntOrString`: a number or a string, often a percentage. On the wire it keeps its JSON type.

use serde_json::Value;

/// A percentage of `total`, capped to `i64`, or the number itself; rounding up or down as asked. `Err` is upstream's text.
pub fn scaled(v: &Value, total: i64, round_up: bool) -> Result<i64, String> {
    if let Some(n) = v.as_i64() {
        return Ok(n);
    }
    let text = v.as_str().unwrap_or("");
    let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).ok_or_else(|| "invalid value for IntOrString: invalid type: string is not a percentage".to_owned())?;
    let scaled = i128::from(percent) * i128::from(total);
    let whole = scaled.div_euclid(100) + i128::from(round_up && scaled.rem_euclid(100) != 0);
    Ok(whole.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

/// The zero value of the type: the number 0.
pub fn zero() -> Value {
    Value::from(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn percentages_scale_up_or_down() {
        assert_eq!(scaled(&"25%".into(), 10, true), Ok(3));
        assert_eq!(scaled(&"25%".into(), 10, false), Ok(2));
        assert_eq!(scaled(&4.into(), 10, false), Ok(4));
        assert!(scaled(&"x".into(), 10, false).is_err());
        assert_eq!(scaled(&"9223372036854775807%".into(), 1000, true), Ok(i64::MAX));
    }
}
