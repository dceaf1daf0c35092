//! How often something is tried: sooner after a success, ever later after failures.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(30);

/// When to try next.
#[derive(Debug)]
pub(super) struct Pace {
    first: Duration,
    backoff: ExponentialBackoff,
    next: Instant,
}

impl Pace {
    /// To be tried now, and after a failure again after `first`, doubled each time.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, backoff: backoff(first), next: Instant::now() }
    }

    /// Whether it is time.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// It is time now; what went wrong so far does not count.
    pub(super) fn now(&mut self) {
        self.succeeded(Duration::ZERO);
    }

    /// It went well; try again after a while.
    pub(super) fn succeeded(&mut self, again: Duration) {
        self.backoff = backoff(self.first);
        self.next = Instant::now() + again;
    }

    /// It did not.
    pub(super) fn failed(&mut self) {
        self.next = Instant::now() + self.backoff.next().unwrap_or(LONGEST);
    }

    /// Waits until it is time.
    pub(super) async fn wait(&self) {
        tokio::time::sleep_until(self.next).await;
    }
}

fn backoff(first: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(LONGEST).with_factor(2.0).with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_make_it_slower_up_to_a_limit_and_a_success_fast_again() {
        let mut pace = Pace::new(Duration::from_secs(1));
        assert!(pace.is_due());
        for _ in 0..20 {
            pace.failed();
        }
        let start = Instant::now();
        pace.wait().await;
        let waited = start.elapsed();
        assert!(waited >= LONGEST && waited <= LONGEST * 2, "{waited:?}");
        pace.succeeded(Duration::from_secs(5));
        assert!(!pace.is_due());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(pace.is_due());
    }
}
