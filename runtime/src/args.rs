//! Values on the command line: durations with a unit (`30s`, `1h30m`).

use std::time::Duration;

/// Why a value on the command line was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    /// Not a number followed by a unit, repeated.
    #[error("{text:?} is not a duration: write a whole number and a unit (ms, s, m, h), such as 30s or 1h30m")]
    Duration {
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
}
