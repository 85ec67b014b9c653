//! Resource quantities as the node agent needs them: exact in nano units, rounded up as the API does.

/// A quantity in units of 10^-9; i128 holds every value the API accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity {
    nano: i128,
}

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;

impl Quantity {
    /// `1500m`, `64Mi`, `1e3`, `0.5`; `None` when it is not a quantity.
    pub fn parse(text: &str) -> Option<Self> {
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let nano = decimal_nano(number)?;
        let (up, down) = scale(suffix)?;
        let scaled = nano.checked_mul(up)?;
        Some(Self { nano: div_up(scaled, down) })
    }

    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * MILLI }
    }

    pub fn from_whole(whole: i64) -> Self {
        Self { nano: i128::from(whole) * NANO }
    }

    /// Rounded up to whole units.
    pub fn whole(self) -> i64 {
        clamp(div_up(self.nano, NANO))
    }

    /// Rounded up to thousandths.
    pub fn milli(self) -> i64 {
        clamp(div_up(self.nano, MILLI))
    }

    /// `ceil(self / divisor)`, as resourceFieldRef shows it.
    pub fn divided_by(self, divisor: Self) -> i64 {
        let by = if divisor.nano == 0 { NANO } else { divisor.nano };
        clamp(div_up(self.nano, by))
    }

    pub fn is_zero(self) -> bool {
        self.nano == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { nano: self.nano + other.nano }
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value > 0 { i64::MAX } else { i64::MIN })
}

fn div_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by > 0 { quotient + 1 } else { quotient }
}

fn decimal_nano(number: &str) -> Option<i128> {
    let (sign, number) = match number.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nano = 0i128;
    let mut unit = NANO / 10;
    for digit in fraction.chars() {
        nano += i128::from(digit.to_digit(10)?) * unit;
        unit /= 10;
    }
    Some(sign * (whole.checked_mul(NANO)? + nano))
}

/// The multiplier and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let power = |base: i128, exponent: u32| base.checked_pow(exponent);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANO),
        "u" => (1, MILLI),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (power(1000, 2)?, 1),
        "G" => (power(1000, 3)?, 1),
        "T" => (power(1000, 4)?, 1),
        "P" => (power(1000, 5)?, 1),
        "E" => (power(1000, 6)?, 1),
        "Ki" => (1024, 1),
        "Mi" => (power(1024, 2)?, 1),
        "Gi" => (power(1024, 3)?, 1),
        "Ti" => (power(1024, 4)?, 1),
        "Pi" => (power(1024, 5)?, 1),
        "Ei" => (power(1024, 6)?, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = power(10, exponent.unsigned_abs().min(18))?;
            if exponent < 0 { (1, size) } else { (size, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn parses_what_the_api_accepts_and_rounds_up() {
        for (text, milli) in [("1", 1000), ("1500m", 1500), ("0.1", 100), ("64Ki", 65_536_000), ("1e3", 1_000_000), ("2k", 2_000_000), ("1u", 1), ("-1", -1000)] {
            assert_eq!(Quantity::parse(text).map(Quantity::milli), Some(milli), "{text}");
        }
        for text in ["", "x", "1x", ".", "1.2.3"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_divisor_rounds_up() {
        let cpu = Quantity::parse("1500m").expect("valid");
        assert_eq!(cpu.divided_by(Quantity::parse("1").expect("valid")), 2);
        assert_eq!(cpu.divided_by(Quantity::parse("1m").expect("valid")), 1500);
        assert_eq!(Quantity::parse("64Mi").expect("valid").divided_by(Quantity::parse("1Mi").expect("valid")), 64);
    }
}
