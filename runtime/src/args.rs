//! Values on the command line: durations with a unit (`30s`, `1h30m`) and sizes with a unit (`64MiB`).

use std::{fmt, str::FromStr, time::Duration};

/// Why a value on the command line was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    /// Not a number followed by a unit, repeated.
    #[error("{text:?} is not a duration: write a whole number and a unit (ms, s, m, h), such as 30s or 1h30m")]
    Duration {
        /// What was given.
        text: String,
    },
    /// Not a number followed by a unit.
    #[error("{text:?} is not a size: write a whole number and a unit (B, KiB, MiB, GiB), such as 64MiB")]
    Size {
        /// What was given.
        text: String,
    },
}

/// Parses a duration: `500ms`, `30s`, `5m`, `1h30m`. A bare `0` is zero.
///
/// For clap: `#[arg(value_parser = runtime::args::duration)]`.
pub fn duration(text: &str) -> Result<Duration, ArgError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    parse_duration(text).ok_or_else(|| ArgError::Duration { text: text.to_owned() })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = (!text.is_empty()).then_some(text)?;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end)?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        sum = sum.checked_add(part)?;
        rest = next;
    }
    Some(sum)
}

/// A number of bytes: `4096`, `512KiB`, `64MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Units from large to small, as powers of two.
const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Size {
    /// A size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of so many times 1,048,576 bytes.
    pub const fn from_mib(mib: u32) -> Self {
        Self((mib as u64) << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; the largest there is where it does not fit.
    pub fn len_bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_size(text).ok_or_else(|| ArgError::Size { text: text.to_owned() })
    }
}

fn parse_size(text: &str) -> Option<Size> {
    let (number, unit) = number(text)?;
    if unit.is_empty() {
        return Some(Size(number));
    }
    let (_, shift) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(1 << shift).map(Size)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match UNITS.into_iter().find(|(_, shift)| whole(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => f.write_str("0B"),
        }
    }
}

/// Splits the leading digits off.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_one_unit_or_several() {
        for (text, millis) in [("0", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn durations_without_a_unit_or_that_overflow_are_refused() {
        for text in ["", "30", "s", "-5s", "1.5s", "5 s", "5s ", "1d", "99999999999999999999s", "18446744073709551615h"] {
            let error = duration(text).expect_err(text);
            assert!(error.to_string().contains("such as 30s"), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown_alike() {
        for (text, bytes) in [("1B", 1), ("4KiB", 4096), ("64MiB", 64 << 20), ("2GiB", 2 << 30), ("0B", 0)] {
            let size: Size = text.parse().expect(text);
            assert_eq!(size.bytes(), bytes);
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("4096".parse(), Ok(Size::from_bytes(4096)));
        assert_eq!(Size::from_mib(3).to_string(), "3MiB");
    }

    #[test]
    fn sizes_with_a_foreign_unit_or_that_overflow_are_refused() {
        for text in ["", "MiB", "1MB", "1 MiB", "-1B", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
