//! Times as the API writes them, read with Go's rules and Go's error texts.
//!
//! `metav1.Time` is RFC 3339 in whole seconds, `metav1.MicroTime` with six digits, both printed in UTC. Deliberately absent: a clock.

/// Go's layout of `metav1.Time`.
pub const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// Go's layout of `metav1.MicroTime`.
pub const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// A moment: seconds since 1970 and microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub seconds: i64,
    pub micros: u32,
}

/// Parses a `metav1.Time`; `Err` is Go's text.
pub fn parse(text: &str) -> Result<Moment, String> {
    Reader { all: text, rest: text, layout: LAYOUT }.read(false)
}

/// Parses a `metav1.MicroTime`; `Err` is Go's text.
pub fn parse_micro(text: &str) -> Result<Moment, String> {
    Reader { all: text, rest: text, layout: MICRO_LAYOUT }.read(true)
}

/// `2026-01-02T03:04:05Z`
pub fn format(m: Moment) -> String {
    let (y, mo, d, s) = civil(m.seconds);
    format!("{y:04}-{mo:02}-{d:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// `2026-01-02T03:04:05.000006Z`
pub fn format_micro(m: Moment) -> String {
    let whole = format(m);
    format!("{}.{:06}Z", &whole[..whole.len() - 1], m.micros)
}

/// `2026-01-02T03:04:05Z` of seconds since 1970.
pub fn format_seconds(seconds: i64) -> String {
    format(Moment { seconds, micros: 0 })
}

struct Reader<'a> {
    all: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Reader<'_> {
    fn read(&mut self, micro: bool) -> Result<Moment, String> {
        let year = self.digits(4, "2006")?;
        self.literal("-")?;
        let month = self.two("01", 1, 12, "month")?;
        self.literal("-")?;
        let day = self.digits(2, "02")?;
        self.literal("T")?;
        let hour = self.two("15", 0, 23, "hour")?;
        self.literal(":")?;
        let minute = self.two("04", 0, 59, "minute")?;
        self.literal(":")?;
        let second = self.two("05", 0, 59, "second")?;
        let micros = if micro { self.six_digits()? } else { self.any_fraction() };
        let offset = self.zone()?;
        if !self.rest.is_empty() {
            return Err(format!("parsing time {}: extra text: {}", quote(self.all), quote(self.rest)));
        }
        if day < 1 || day > days_in(year, month) {
            return Err(self.out_of_range("day"));
        }
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Ok(Moment { seconds, micros })
    }
    fn fail(&self, element: &str) -> String {
        format!("parsing time {} as {}: cannot parse {} as {}", quote(self.all), quote(self.layout), quote(self.rest), quote(element))
    }
    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", quote(self.all))
    }
    fn digits(&mut self, n: usize, element: &str) -> Result<i64, String> {
        match self.rest.as_bytes().get(..n) {
            Some(d) if d.iter().all(u8::is_ascii_digit) => {
                let value = d.iter().fold(0, |v, c| v * 10 + i64::from(c - b'0'));
                self.rest = &self.rest[n..];
                Ok(value)
            }
            _ => Err(self.fail(element)),
        }
    }
    fn two(&mut self, element: &str, low: i64, high: i64, what: &str) -> Result<i64, String> {
        let v = self.digits(2, element)?;
        if v < low || v > high { Err(self.out_of_range(what)) } else { Ok(v) }
    }
    fn literal(&mut self, c: &str) -> Result<(), String> {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.fail(c)),
        }
    }
    fn six_digits(&mut self) -> Result<u32, String> {
        let b = self.rest.as_bytes();
        let good = b.len() >= 7 && (b[0] == b'.' || b[0] == b',') && b[1..7].iter().all(u8::is_ascii_digit);
        if !good {
            return Err(self.fail(".000000"));
        }
        let v = b[1..7].iter().fold(0, |v, c| v * 10 + u32::from(c - b'0'));
        self.rest = &self.rest[7..];
        Ok(v)
    }
    /// Go reads a fraction after the seconds even where the layout has none.
    fn any_fraction(&mut self) -> u32 {
        let b = self.rest.as_bytes();
        if b.len() < 2 || (b[0] != b'.' && b[0] != b',') || !b[1].is_ascii_digit() {
            return 0;
        }
        let n = b[1..].iter().take_while(|c| c.is_ascii_digit()).count();
        let micros = (0..6).fold(0, |v, i| v * 10 + if i < n { u32::from(b[1 + i] - b'0') } else { 0 });
        self.rest = &self.rest[1 + n..];
        micros
    }
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let b = self.rest.as_bytes();
        let good = b.len() >= 6 && (b[0] == b'+' || b[0] == b'-') && b[3] == b':' && [1, 2, 4, 5].iter().all(|&i| b[i].is_ascii_digit());
        if !good {
            return Err(self.fail("Z07:00"));
        }
        let two = |i: usize| i64::from(b[i] - b'0') * 10 + i64::from(b[i + 1] - b'0');
        let (hours, minutes, sign) = (two(1), two(4), if b[0] == b'-' { -1 } else { 1 });
        if hours > 24 {
            return Err(self.out_of_range("time zone offset hour"));
        }
        if minutes > 60 {
            return Err(self.out_of_range("time zone offset minute"));
        }
        self.rest = &self.rest[6..];
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

fn quote(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month, day and second of the day.
fn civil(seconds: i64) -> (i64, i64, i64, i64) {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1, second)
}

/// Upstream's `HumanDuration`: two units near the small end of each range, one above.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") };
    match seconds {
        s if s < -1 => "<invalid>".into(),
        s if s < 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_normalised_to_whole_seconds_in_utc() {
        assert_eq!(format(parse("2026-01-02T03:04:05.987+02:00").unwrap()), "2026-01-02T01:04:05Z");
        assert_eq!(format(parse("1969-12-31T23:59:59Z").unwrap()), "1969-12-31T23:59:59Z");
        assert_eq!(format(parse("2024-02-29T00:00:00-01:30").unwrap()), "2024-02-29T01:30:00Z");
    }
    #[test]
    fn micro_times_always_have_six_digits() {
        assert_eq!(format_micro(parse_micro("2026-01-01T00:00:00.000000Z").unwrap()), "2026-01-01T00:00:00.000000Z");
        assert_eq!(
            parse_micro("2026-01-01T00:00:00Z").unwrap_err(),
            "parsing time \"2026-01-01T00:00:00Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\""
        );
    }
    #[test]
    fn bad_times_are_refused_in_gos_words() {
        assert_eq!(parse("").unwrap_err(), "parsing time \"\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"2006\"");
        assert_eq!(parse("2026-01-01").unwrap_err(), "parsing time \"2026-01-01\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\"");
        assert_eq!(parse("2026-13-01T00:00:00Z").unwrap_err(), "parsing time \"2026-13-01T00:00:00Z\": month out of range");
        assert_eq!(parse("2025-02-29T00:00:00Z").unwrap_err(), "parsing time \"2025-02-29T00:00:00Z\": day out of range");
        assert_eq!(parse("2025-02-02T00:00:00Zx").unwrap_err(), "parsing time \"2025-02-02T00:00:00Zx\": extra text: \"x\"");
    }
}
