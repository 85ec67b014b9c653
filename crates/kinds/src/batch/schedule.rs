//! Cron schedules: whether one can be read. When its times are belongs to the controller.

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

struct Limits {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: &[Limits] = &[
    Limits { min: 0, max: 59, names: &[] },
    Limits { min: 0, max: 23, names: &[] },
    Limits { min: 1, max: 31, names: &[] },
    Limits { min: 1, max: 12, names: MONTHS },
    Limits { min: 0, max: 6, names: DAYS },
];

/// Why a schedule cannot be read, in the words of the parser that upstream uses.
pub fn parse(schedule: &str) -> Result<(), String> {
    let spec = match schedule.strip_prefix("TZ=").or(schedule.strip_prefix("CRON_TZ=")) {
        Some(rest) => {
            let (zone, spec) = rest.split_once(' ').unwrap_or((rest, ""));
            if !zone.is_empty() && zone != "Local" && jiff::tz::TimeZone::get(zone).is_err() {
                return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
            }
            spec.trim()
        }
        None => schedule,
    };
    if spec.starts_with('@') {
        if let Some(every) = spec.strip_prefix("@every ") {
            return go_duration(every).map_err(|why| format!("failed to parse duration {spec}: {why}"));
        }
        return if DESCRIPTORS.contains(&spec) { Ok(()) } else { Err(format!("unrecognized descriptor: {spec}")) };
    }
    let fields: Vec<&str> = spec.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly {} fields, found {}: [{}]", FIELDS.len(), fields.len(), fields.join(" ")));
    }
    fields.iter().zip(FIELDS).try_for_each(|(field, limits)| field.split(',').filter(|part| !part.is_empty()).try_for_each(|part| range(part, limits)))
}

/// `*`, `?`, `3`, `1-5`, each with an optional `/step`.
fn range(expr: &str, limits: &Limits) -> Result<(), String> {
    let steps: Vec<&str> = expr.split('/').collect();
    let bounds: Vec<&str> = steps[0].split('-').collect();
    let any = bounds[0] == "*" || bounds[0] == "?";
    let (start, mut end) = match (any, bounds.len()) {
        (true, _) => (limits.min, limits.max),
        (false, 1) => {
            let n = number_or_name(bounds[0], limits)?;
            (n, n)
        }
        (false, 2) => (number_or_name(bounds[0], limits)?, number_or_name(bounds[1], limits)?),
        _ => return Err(format!("too many hyphens: {expr}")),
    };
    let mut step = 1;
    match steps.len() {
        1 => {}
        2 => {
            step = number(steps[1])?;
            if bounds.len() == 1 {
                end = limits.max;
            }
        }
        _ => return Err(format!("too many slashes: {expr}")),
    }
    match () {
        _ if start < limits.min => Err(format!("beginning of range ({start}) below minimum ({}): {expr}", limits.min)),
        _ if end > limits.max => Err(format!("end of range ({end}) above maximum ({}): {expr}", limits.max)),
        _ if start > end => Err(format!("beginning of range ({start}) beyond end of range ({end}): {expr}")),
        _ if step == 0 => Err(format!("step of range should be a positive number: {expr}")),
        _ => Ok(()),
    }
}

fn number_or_name(text: &str, limits: &Limits) -> Result<u32, String> {
    match limits.names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        Some(i) => Ok(limits.min + u32::try_from(i).unwrap_or(0)),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        Err(e) => {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = if matches!(e.kind(), PosOverflow | NegOverflow) { "value out of range" } else { "invalid syntax" };
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": {why}"))
        }
    }
}

const DURATION_UNITS: &[&str] = &["ns", "us", "µs", "μs", "ms", "s", "m", "h"];

/// Whether Go's `time.ParseDuration` reads it, and its words if not.
fn go_duration(text: &str) -> Result<(), String> {
    let invalid = || format!("time: invalid duration \"{text}\"");
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        if !digits.bytes().any(|b| b.is_ascii_digit()) || digits.matches('.').count() > 1 {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration \"{text}\""));
        }
        if !DURATION_UNITS.contains(&unit) {
            return Err(format!("time: unknown unit \"{unit}\" in duration \"{text}\""));
        }
        rest = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_names_ranges_and_steps_can_be_read() {
        for good in ["*/5 * * * *", "0 0 ? * mon-fri", "1,2-4/2 0 1 jan ?", "@hourly", "@every 1h5.5m", "1,,2 * * * *", "TZ=UTC 0 0 * * *"] {
            assert_eq!(parse(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (bad, why) in [
            ("x", "expected exactly 5 fields, found 1: [x]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("@every 5x", "failed to parse duration @every 5x: time: unknown unit \"x\" in duration \"5x\""),
            ("TZ=Nowhere/X * * * * *", "provided bad location Nowhere/X: unknown time zone Nowhere/X"),
        ] {
            assert_eq!(parse(bad), Err(why.to_owned()));
        }
    }
}
