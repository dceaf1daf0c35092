//! How much of what an API server says is looked at: a burst for its lists, then a steady pace.
//!
//! Beyond it the stream is left unread, and flow control makes the API server wait: one that never stops talking costs a few percent of
//! a core, not the attention that others need.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket over what one informer is told.
#[derive(Debug)]
pub struct Throttle {
    left: u64,
    since: Instant,
}

/// Looked at without a pause: a list of that many small objects.
const BURST: u64 = 200_000;
/// Then so many each second: some 5 % of a core, and far more than an API server of its own tenant has to say in earnest.
const PER_SECOND: u64 = 4000;
/// Bytes that cost as much as one more object.
const BYTES: usize = 8 * 1024;

impl Default for Throttle {
    fn default() -> Self {
        Self { left: BURST, since: Instant::now() }
    }
}

impl Throttle {
    /// Takes what so many objects cost, of so many bytes together: a line of a watch is one, a page of a list many. How long to wait
    /// before more is looked at, if they come too fast.
    pub fn take(&mut self, objects: usize, bytes: usize, now: Instant) -> Option<Duration> {
        let cost = u64::try_from(objects.saturating_add(bytes / BYTES)).unwrap_or(u64::MAX / 2).max(1);
        if self.left < cost {
            let earned =
                u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX).saturating_mul(PER_SECOND) / 1000;
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        if let Some(left) = self.left.checked_sub(cost) {
            self.left = left;
            return None;
        }
        // Never a wait for one alone: timers are coarse.
        let paid = cost.saturating_sub(self.left).max(PER_SECOND / 10);
        let wait = Duration::from_millis(paid.saturating_mul(1000).div_ceil(PER_SECOND));
        self.left = self.left.saturating_add(paid).saturating_sub(cost);
        self.since = now + wait;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s34_a_flood_is_looked_at_at_a_steady_pace_after_its_burst() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert!((0..BURST).all(|_| throttle.take(1, 100, Instant::now()).is_none()));
        for _ in 0..10 * PER_SECOND {
            if let Some(wait) = throttle.take(1, 100, Instant::now()) {
                tokio::time::advance(wait).await;
            }
        }
        assert_eq!(start.elapsed().as_secs(), 10);
        // Large lines cost what they weigh.
        let wait = throttle.take(1, 4 * 1024 * 1024, Instant::now()).unwrap();
        assert!(wait >= Duration::from_millis(100), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn s34_pages_cost_what_their_objects_would_one_by_one() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        // Twice the burst in pages of as many objects as fit into one page at all: the second half takes its time.
        for _ in 0..4 {
            if let Some(wait) = throttle.take(100_000, 300_000, Instant::now()) {
                tokio::time::advance(wait).await;
            }
        }
        let expected = (4 * (100_000 + 300_000 / BYTES as u64) - BURST) / PER_SECOND;
        assert!(start.elapsed().as_secs().abs_diff(expected) <= 1, "{:?}, not {expected} s", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_quiet_may_list_again() {
        let mut throttle = Throttle::default();
        while throttle.take(1, 0, Instant::now()).is_none() {}
        tokio::time::advance(Duration::from_mins(2)).await;
        assert!((0..BURST).all(|_| throttle.take(1, 0, Instant::now()).is_none()));
    }
}
