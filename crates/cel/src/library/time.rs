//! Durations and timestamps.
//!
//! Named time zones (`Europe/Berlin`) come from the machine's own database (`/usr/share/zoneinfo`), as in upstream.

use super::{Row, fail, mismatch};
use crate::error::{EvalError, Result};
use crate::value::{Timestamp, Value};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "duration",
        overloads: &[("duration_to_duration", "duration -> duration"), ("string_to_duration", "string -> duration"), ("int64_to_duration", "int -> duration")],
        run: to_duration,
    },
    Row {
        name: "timestamp",
        overloads: &[("timestamp_to_timestamp", "timestamp -> timestamp"), ("int64_to_timestamp", "int -> timestamp"), ("string_to_timestamp", "string -> timestamp")],
        run: to_timestamp,
    },
    Row { name: "getFullYear", overloads: &[("timestamp_to_year", ".timestamp -> int"), ("timestamp_to_year_with_tz", ".timestamp string -> int")], run: part },
    Row { name: "getMonth", overloads: &[("timestamp_to_month", ".timestamp -> int"), ("timestamp_to_month_with_tz", ".timestamp string -> int")], run: part },
    Row { name: "getDayOfYear", overloads: &[("timestamp_to_day_of_year", ".timestamp -> int"), ("timestamp_to_day_of_year_with_tz", ".timestamp string -> int")], run: part },
    Row { name: "getDayOfMonth", overloads: &[("timestamp_to_day_of_month", ".timestamp -> int"), ("timestamp_to_day_of_month_with_tz", ".timestamp string -> int")], run: part },
    Row {
        name: "getDate",
        overloads: &[("timestamp_to_day_of_month_1_based", ".timestamp -> int"), ("timestamp_to_day_of_month_1_based_with_tz", ".timestamp string -> int")],
        run: part,
    },
    Row { name: "getDayOfWeek", overloads: &[("timestamp_to_day_of_week", ".timestamp -> int"), ("timestamp_to_day_of_week_with_tz", ".timestamp string -> int")], run: part },
    Row {
        name: "getHours",
        overloads: &[("timestamp_to_hours", ".timestamp -> int"), ("timestamp_to_hours_with_tz", ".timestamp string -> int"), ("duration_to_hours", ".duration -> int")],
        run: part,
    },
    Row {
        name: "getMinutes",
        overloads: &[("timestamp_to_minutes", ".timestamp -> int"), ("timestamp_to_minutes_with_tz", ".timestamp string -> int"), ("duration_to_minutes", ".duration -> int")],
        run: part,
    },
    Row {
        name: "getSeconds",
        overloads: &[("timestamp_to_seconds", ".timestamp -> int"), ("timestamp_to_seconds_tz", ".timestamp string -> int"), ("duration_to_seconds", ".duration -> int")],
        run: part,
    },
    Row {
        name: "getMilliseconds",
        overloads: &[
            ("timestamp_to_milliseconds", ".timestamp -> int"),
            ("timestamp_to_milliseconds_with_tz", ".timestamp string -> int"),
            ("duration_to_milliseconds", ".duration -> int"),
        ],
        run: part,
    },
];

const NANOS: i128 = 1_000_000_000;
/// 0001-01-01T00:00:00Z
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z
const LAST_SECOND: i64 = 253_402_300_799;

pub(crate) fn duration_overflow() -> EvalError {
    EvalError::new("duration overflow")
}
fn timestamp_overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}

fn to_duration<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match &a[0] {
        Value::Duration(_) => Ok(a[0].clone()),
        Value::Int(i) => Ok(Value::Duration(*i)),
        Value::String(s) => match parse_duration(s) {
            Some(d) => Ok(Value::Duration(d)),
            None => super::standard::no_conversion(function, a),
        },
        _ => super::standard::no_conversion(function, a),
    }
}

fn to_timestamp<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    match &a[0] {
        Value::Timestamp(_) => Ok(a[0].clone()),
        Value::Int(i) => in_range(Timestamp { seconds: *i, nanos: 0 }).map(Value::Timestamp),
        Value::String(s) => match parse_timestamp(s) {
            Some(t) => in_range(t).map(Value::Timestamp),
            None => super::standard::no_conversion(function, a),
        },
        _ => super::standard::no_conversion(function, a),
    }
}

fn in_range(t: Timestamp) -> Result<Timestamp> {
    if (FIRST_SECOND..=LAST_SECOND).contains(&t.seconds) { Ok(t) } else { Err(timestamp_overflow()) }
}

pub(crate) fn shift(t: Timestamp, nanos: i128) -> Result<Timestamp> {
    let all = i128::from(t.seconds) * NANOS + i128::from(t.nanos) + nanos;
    let seconds = i64::try_from(all.div_euclid(NANOS)).map_err(|_| timestamp_overflow())?;
    in_range(Timestamp { seconds, nanos: all.rem_euclid(NANOS) as u32 })
}

pub(crate) fn between(a: Timestamp, b: Timestamp) -> Result<i64> {
    let nanos = (i128::from(a.seconds) - i128::from(b.seconds)) * NANOS + i128::from(a.nanos) - i128::from(b.nanos);
    i64::try_from(nanos).map_err(|_| duration_overflow())
}

/// Go's `ParseDuration`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(r) => r.split_at(digits(r)),
            None => ("", after),
        };
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 {
            return None;
        }
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        total += whole.parse::<i128>().unwrap_or(0) * scale;
        let mut step = scale;
        for d in fraction.bytes().take(18) {
            total += i128::from(d - b'0') * step / 10;
            step /= 10;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// RFC 3339 with nanoseconds.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let seconds = keles_api::time::parse(text).ok()?.seconds;
    let fraction: String = text.get(19..)?.strip_prefix('.').unwrap_or("").chars().take_while(char::is_ascii_digit).chain("000000000".chars()).take(9).collect();
    Some(Timestamp { seconds, nanos: fraction.parse().ok()? })
}

/// Seconds with as many digits as there are: `1.5s`.
pub(crate) fn format_duration(nanos: i64) -> String {
    let (whole, fraction) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let digits = format!("{fraction:09}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("{}{whole}{point}{digits}s", if nanos < 0 { "-" } else { "" })
}

pub(crate) fn format_timestamp(t: Timestamp) -> String {
    let whole = keles_api::time::format_seconds(t.seconds);
    let digits = format!("{:09}", t.nanos);
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() { whole } else { format!("{}.{digits}Z", whole.trim_end_matches('Z')) }
}

/// The offset from UTC in seconds that a zone has at a time. With a colon it is an offset itself, `-07:30`, whose numbers upstream does
/// not limit. Source: cel-go, common/types/timestamp.go.
fn offset(name: &str, at: Timestamp) -> Result<i64> {
    let Some((hours, minutes)) = name.split_once(':') else { return named_offset(name, at) };
    let number = |s: &str| match s.parse::<i64>() {
        // Beyond any sense, and where Go's own sums would run over.
        Ok(n) if n.abs() > i64::from(u32::MAX) => fail(format!("strconv.Atoi: parsing {s:?}: value out of range")),
        Ok(n) => Ok(n),
        Err(_) => fail(format!("strconv.Atoi: parsing {s:?}: invalid syntax")),
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    Ok((if name.starts_with('-') { hours * 60 - minutes } else { hours * 60 + minutes }) * 60)
}

/// Of a zone in the machine's database. Names differ by case, as files do.
fn named_offset(name: &str, at: Timestamp) -> Result<i64> {
    use jiff::tz::TimeZone;
    let zone = match name {
        "" | "UTC" => return Ok(0),
        "Local" => TimeZone::system(),
        _ => match TimeZone::get(name) {
            Ok(zone) if zone.iana_name() == Some(name) => zone,
            _ => return fail(format!("unknown time zone {name}")),
        },
    };
    Ok(jiff::Timestamp::from_second(at.seconds).map_or(0, |t| i64::from(zone.to_offset(t).seconds())))
}

fn part<'a>(function: &str, a: &[Value<'a>]) -> Result<Value<'a>> {
    let t = match a {
        [Value::Duration(d)] => {
            return Ok(Value::Int(match function {
                "getHours" => d / 3_600_000_000_000,
                "getMinutes" => d / 60_000_000_000,
                "getSeconds" => d / 1_000_000_000,
                "getMilliseconds" => d / 1_000_000,
                _ => return Err(mismatch(function, a)),
            }));
        }
        [Value::Timestamp(t)] => *t,
        [Value::Timestamp(t), Value::String(name)] => Timestamp { seconds: t.seconds + offset(name, *t)?, nanos: t.nanos },
        _ => return Err(mismatch(function, a)),
    };
    let (days, second) = (t.seconds.div_euclid(86_400), t.seconds.rem_euclid(86_400));
    let text = keles_api::time::format_seconds(t.seconds);
    // A shifted year may have five digits or a sign; the parts count from the end.
    let date: Vec<i64> = text.rsplit_once('T').map_or("", |(date, _)| date).rsplitn(3, '-').filter_map(|p| p.parse().ok()).collect();
    let (day, month, year) = (date.first().copied().unwrap_or(1), date.get(1).copied().unwrap_or(1), date.get(2).copied().unwrap_or(0));
    Ok(Value::Int(match function {
        "getFullYear" => year,
        "getMonth" => month - 1,
        "getDayOfMonth" => day - 1,
        "getDate" => day,
        "getDayOfWeek" => (days + 4).rem_euclid(7),
        "getDayOfYear" => day_of_year(year, month, day),
        "getHours" => second / 3600,
        "getMinutes" => second / 60 % 60,
        "getSeconds" => second % 60,
        _ => i64::from(t.nanos / 1_000_000),
    }))
}

fn day_of_year(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    BEFORE[(month - 1).clamp(0, 11) as usize] + day - 1 + i64::from(leap && month > 2)
}
