//! A token bucket: so much at once, then at a steady pace.

use std::time::Duration;

use tokio::time::Instant;

/// How much is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Time until another one is allowed.
    pub refill: Duration,
}

/// What is left of it.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    left: u32,
    /// When the last token was earned.
    since: Instant,
}

impl Bucket {
    /// Everything is allowed yet.
    pub fn full(rate: &Rate) -> Self {
        Self { left: rate.burst, since: Instant::now() }
    }

    /// Takes a token.
    ///
    /// *Errors*: when there is one.
    pub fn take(&mut self, rate: &Rate, now: Instant) -> Result<(), Instant> {
        let earned = now.saturating_duration_since(self.since).as_nanos() / rate.refill.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.left.saturating_add(earned) >= rate.burst {
            *self = Self { left: rate.burst, since: now };
        } else {
            *self = Self { left: self.left + earned, since: self.since + rate.refill * earned };
        }
        if self.left == 0 {
            return Err(self.since + rate.refill);
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_a_burst_and_then_its_rate() {
        let rate = Rate { burst: 3, refill: Duration::from_secs(5) };
        let start = Instant::now();
        let mut bucket = Bucket::full(&rate);
        for _ in 0..3 {
            assert_eq!(bucket.take(&rate, start), Ok(()));
        }
        let later = start + Duration::from_secs(5);
        assert_eq!(bucket.take(&rate, start + Duration::from_secs(4)), Err(later));
        assert_eq!(bucket.take(&rate, later), Ok(()));
        assert_eq!(bucket.take(&rate, later), Err(later + Duration::from_secs(5)));
        let much_later = later + Duration::from_mins(10);
        for _ in 0..3 {
            assert_eq!(bucket.take(&rate, much_later), Ok(()));
        }
        assert!(bucket.take(&rate, much_later).is_err());
    }
}
