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
        Some(rest) => rest.split_once(' ').map_or("", |r| r.1).trim(),
        None => schedule,
    };
    if spec.starts_with('@') {
        let every = spec.strip_prefix("@every ").is_some_and(|d| !d.is_empty());
        return if every || DESCRIPTORS.contains(&spec) { Ok(()) } else { Err(format!("unrecognized descriptor: {spec}")) };
    }
    let fields: Vec<&str> = spec.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly {} fields, found {}: [{}]", FIELDS.len(), fields.len(), fields.join(" ")));
    }
    fields.iter().zip(FIELDS).try_for_each(|(field, limits)| field.split(',').try_for_each(|part| range(part, limits)))
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
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_names_ranges_and_steps_can_be_read() {
        for good in ["*/5 * * * *", "0 0 ? * mon-fri", "1,2-4/2 0 1 jan ?", "@hourly", "@every 5m", "TZ=UTC 0 0 * * *"] {
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
        ] {
            assert_eq!(parse(bad), Err(why.to_owned()));
        }
    }
}
