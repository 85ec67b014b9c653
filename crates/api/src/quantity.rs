//! `resource.Quantity`: a fixed-point number with a suffix that it keeps in canonical form.
//!
//! Held as billionths in an `i128`: upstream allows no more than 2^63-1 in magnitude and nothing finer than a nano, rounding away from
//! zero. Printing is upstream's canonical form: no fraction, the largest suffix that loses nothing. Source:
//! k8s.io/apimachinery/pkg/api/resource.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
/// 2^63-1 whole units.
const MAX: i128 = i64::MAX as i128 * NANO;
/// More digits than this cannot change the value within the limits.
const MAX_DIGITS: usize = 80;

/// How a quantity prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// A parsed quantity. Equality and order look at the value only.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Whole units.
    pub fn new(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format }
    }
    pub fn from_nano(nano: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(nano), format }
    }
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format }
    }
    /// Upstream's `ParseQuantity`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        plain(text).map_or_else(|| Quantity::parse_any(text), |(q, _)| Ok(q))
    }
    fn parse_any(text: &str) -> Result<Self, QuantityError> {
        if text == "0" {
            return Ok(Quantity::ZERO);
        }
        let parts = Parts::split(text)?;
        let (base, exponent, format) = suffix(parts.suffix).ok_or(QuantityError::Suffix)?;
        if parts.whole.is_empty() && parts.fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let magnitude = scale(parts.whole, parts.fraction, base, exponent);
        Ok(Quantity { nanos: if parts.negative { -magnitude } else { magnitude }, format })
    }
    /// Upstream's canonical text of a quantity given as JSON text or number; what its decoder accepts.
    pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
        match plain(text) {
            Some((_, true)) => Ok(Cow::Borrowed(text)),
            _ => Quantity::parse(text.trim()).map(|q| q.to_string().into()),
        }
    }
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
    /// -1, 0, 1
    pub fn sign(self) -> i32 {
        self.nanos.signum() as i32
    }
    /// Whole units, rounded away from zero, capped to `i64`.
    pub fn units(self) -> i64 {
        self.scaled(NANO)
    }
    /// Thousandths, rounded away from zero, capped to `i64`.
    pub fn milli(self) -> i64 {
        self.scaled(NANO / 1000)
    }
    fn scaled(self, by: i128) -> i64 {
        let whole = self.nanos / by + if self.nanos % by != 0 { self.nanos.signum() } else { 0 };
        whole.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }
    pub fn format(self) -> Format {
        self.format
    }
    fn with(self, nanos: i128, other: Quantity) -> Self {
        // A zero takes on the other's format, as upstream.
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: nanos.clamp(-MAX, MAX), format }
    }
    #[expect(clippy::should_implement_trait, reason = "upstream's names, and they saturate")]
    pub fn add(self, other: Quantity) -> Self {
        self.with(self.nanos + other.nanos, other)
    }
    #[expect(clippy::should_implement_trait, reason = "upstream's names, and they saturate")]
    pub fn sub(self, other: Quantity) -> Self {
        self.with(self.nanos - other.nanos, other)
    }
    /// Times a whole number.
    pub fn times(self, by: i64) -> Self {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(by)).clamp(-MAX, MAX), format: self.format }
    }
    #[expect(clippy::should_implement_trait, reason = "upstream's names, and they saturate")]
    pub fn neg(self) -> Self {
        Quantity { nanos: -self.nanos, format: self.format }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANO && self.nanos % NANO == 0;
        if binary {
            let (mut n, mut i) = (self.nanos / NANO, 0);
            while n % 1024 == 0 && i < BINARY.len() - 1 {
                n /= 1024;
                i += 1;
            }
            return write!(f, "{n}{}", BINARY[i]);
        }
        let (mut n, mut exponent) = (self.nanos, -9);
        while n % 1000 == 0 && exponent < 18 {
            n /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{n}"),
            Format::DecimalExponent => write!(f, "{n}e{exponent}"),
            _ => write!(f, "{n}{}", DECIMAL[((exponent + 9) / 3) as usize]),
        }
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// Digits and powers of a quantity that can neither overflow nor be capped or rounded.
const PLAIN_DIGITS: usize = 9;
const PLAIN_DECIMAL: std::ops::RangeInclusive<i64> = -9..=9;
const PLAIN_BINARY: std::ops::RangeInclusive<i64> = 10..=30;

/// What nearly all quantities are: a number above zero, written without sign, fraction and leading zero, and a suffix up to giga; and whether
/// the text is the canonical one.
fn plain(text: &str) -> Option<(Quantity, bool)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > PLAIN_DIGITS || text.starts_with('0') {
        return None;
    }
    let n = text[..digits].bytes().fold(0, |n, d| n * 10 + i128::from(d - b'0'));
    let (base, exponent, format) = suffix(&text[digits..])?;
    let (nanos, step) = match format {
        Format::DecimalSi if PLAIN_DECIMAL.contains(&exponent) => (n * i128::from(base).pow((exponent + 9) as u32), 1000),
        Format::BinarySi if PLAIN_BINARY.contains(&exponent) => ((n << exponent) * NANO, 1024),
        _ => return None,
    };
    // Else the next suffix would lose nothing.
    Some((Quantity { nanos, format }, n % step != 0))
}

/// Base, exponent and format of a suffix.
fn suffix(s: &str) -> Option<(u32, i64, Format)> {
    if let Some(i) = DECIMAL.iter().position(|d| *d == s) {
        return Some((10, i as i64 * 3 - 9, Format::DecimalSi));
    }
    if let Some(i) = BINARY.iter().position(|b| *b == s) {
        return Some((2, i as i64 * 10, Format::BinarySi));
    }
    let digits = s.strip_prefix(['e', 'E'])?;
    let exponent: i64 = digits.strip_prefix('+').unwrap_or(digits).parse().ok()?;
    Some((10, exponent, Format::DecimalExponent))
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, QuantityError> {
        if text.is_empty() || !text.is_ascii() {
            return Err(QuantityError::Format);
        }
        let negative = text.starts_with('-');
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let n = digits(rest);
        let (whole, rest) = rest.split_at(n);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(r) => r.split_at(digits(r)),
            None => ("", rest),
        };
        let letters = suffix.bytes().take_while(|c| b"eEinumkKMGTP".contains(c)).count();
        let tail = &suffix[letters..];
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if !tail.bytes().all(|c| c.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Parts { negative, whole, fraction, suffix })
    }
}

/// The magnitude in nanos, rounded up, capped.
fn scale(whole: &str, fraction: &str, base: u32, exponent: i64) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return 0;
    }
    if whole.len() > MAX_DIGITS {
        return MAX;
    }
    // Power of ten that the digits, read as one integer, are multiplied with to give nanos.
    let kept = &fraction[..fraction.len().min(MAX_DIGITS)];
    let mut power = (9 - kept.len() as i64).saturating_add(if base == 10 { exponent } else { 0 });
    let mut digits: Vec<u8> = whole.bytes().chain(kept.bytes()).map(|c| c - b'0').collect();
    let mut round = kept.len() < fraction.len();
    if base == 2 {
        digits = times_power_of_two(digits, exponent);
    }
    while power < 0 && !digits.is_empty() {
        round |= digits.pop().expect("checked not empty") != 0;
        power += 1;
    }
    let mut value: i128 = 0;
    let zeros = if digits.iter().all(|d| *d == 0) { 0 } else { power.max(0) };
    for d in digits.iter().copied().chain(std::iter::repeat_n(0, zeros.min(MAX_DIGITS as i64) as usize)) {
        value = value * 10 + i128::from(d);
        if value > MAX {
            return MAX;
        }
    }
    (value + i128::from(round)).min(MAX)
}

fn times_power_of_two(mut digits: Vec<u8>, exponent: i64) -> Vec<u8> {
    for _ in 0..exponent {
        let mut carry = 0;
        for d in digits.iter_mut().rev() {
            let v = *d * 2 + carry;
            (*d, carry) = (v % 10, v / 10);
        }
        if carry > 0 {
            digits.insert(0, carry);
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wild_quantities_are_capped_or_refused_at_once() {
        for text in ["1e9223372036854775807", "1e+9223372036854775807", "9e2147483647"] {
            assert_eq!(Quantity::parse(text).map(|q| q.units()), Ok(i64::MAX), "{text}");
        }
        assert_eq!(Quantity::parse("-1e9223372036854775807").map(|q| q.sign()), Ok(-1));
        assert_eq!(Quantity::parse("1e-9223372036854775808").map(|q| q.sign()), Ok(1));
        assert_eq!(Quantity::parse("0e9223372036854775807").map(|q| q.sign()), Ok(0));
        assert_eq!(Quantity::parse("1e99999999999999999999"), Err(QuantityError::Suffix));
        let long = "9".repeat(1 << 20);
        assert_eq!(Quantity::parse(&long).map(|q| q.units()), Ok(i64::MAX));
        assert_eq!(Quantity::parse(&format!("0.{long}")).map(|q| q.units()), Ok(1));
        for bad in ["", "+", ".", "1..2", "1KiB", "\u{0}", "١", "0x10", "1e", "--1"] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn everyday_quantities_are_read_as_all_others() {
        for n in (0..3000u64).chain([1_000_000, 1_048_576, 999_999_999, 536_870_912, 1_000_000_000]) {
            for suffix in ["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "u", "T", "Ti", "e3", "x"] {
                let text = format!("{n}{suffix}");
                let (fast, any) = (Quantity::parse(&text), Quantity::parse_any(&text));
                assert_eq!(fast.map(|q| (q.nanos, q.format)), any.map(|q| (q.nanos, q.format)), "{text}");
                assert_eq!(Quantity::canonical(&text), any.map(|q| q.to_string().into()), "{text}");
            }
        }
    }

    #[test]
    fn quantities_print_in_canonical_form() {
        for (given, want) in [
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("0.1m", "100u"),
            ("100m", "100m"),
            ("2", "2"),
            ("1000", "1k"),
            ("1000Ki", "1000Ki"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("0", "0"),
            ("0.0", "0"),
            ("-5m", "-5m"),
            ("+1", "1"),
            ("128974848", "128974848"),
            ("0.5n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775808", "9223372036854775807"),
            ("1024", "1024"),
            ("1025Mi", "1025Mi"),
            ("100000e-3", "100"),
            ("0Mi", "0"),
            ("1500e-3", "1500e-3"),
            ("0.1Ki", "102400m"),
            ("99999999999999999999E", "9223372036854775807"),
        ] {
            assert_eq!(Quantity::parse(given).unwrap().to_string(), want, "{given}");
        }
    }
    #[test]
    fn canonical_form_is_a_fixed_point() {
        for text in ["1500m", "3Gi", "7e9", "123456789n", "1Ei", "-2Ki"] {
            let once = Quantity::parse(text).unwrap().to_string();
            assert_eq!(Quantity::parse(&once).unwrap().to_string(), once);
        }
    }
    #[test]
    fn bad_quantities_are_refused_in_upstreams_words() {
        for (text, want) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("Gi", QuantityError::Numeric),
            ("1ki", QuantityError::Suffix),
            ("1KiMi", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text).unwrap_err(), want, "{text}");
        }
    }
    #[test]
    fn arithmetic_rounds_up_and_saturates() {
        let q = |s: &str| Quantity::parse(s).unwrap();
        assert_eq!(q("1").add(q("500m")).to_string(), "1500m");
        assert_eq!(q("0").add(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").sub(q("2Gi")).to_string(), "-1Gi");
        assert_eq!(q("1500u").milli(), 2);
        assert_eq!(q("100m").units(), 1);
        assert_eq!(q("-100m").units(), -1);
        assert_eq!(q("9E").add(q("9E")).units(), i64::MAX);
        assert_eq!(q("250m").times(3).milli(), 750);
        assert!(q("1Gi") > q("1G"));
    }
}
