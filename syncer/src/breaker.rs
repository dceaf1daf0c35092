//! The breaker of one tenant: while its API server does not answer, or does not know us, its keys wait instead of workers.
//!
//! *Source*: invariant 8 of the architecture: a tenant's slowness stays its own.

use std::time::Duration;

use tokio::time::Instant;

/// Counts calls of one tenant that got no answer, one after the other.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    until: Option<Instant>,
}

/// So many calls in a row may get no answer before the rest waits: fewer than a tenant has under way at once.
const FEW: u32 = 4;
/// The first pause.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause: a tenant that is back is seen by its informers long before, which ends the pause.
const LONGEST: Duration = Duration::from_secs(30);

impl Breaker {
    /// How long keys must wait; `None` if calls may be tried.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let until = self.until?;
        if now < until {
            return Some(until.duration_since(now));
        }
        // One is let through; what comes behind it waits until it is known how it fared.
        self.until = Some(now + SHORTEST);
        None
    }

    /// Whether keys must wait. Takes nothing: who asks makes no call.
    pub fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A call got no answer, or one to nobody.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(more) = self.failures.checked_sub(FEW) {
            self.until = Some(now + SHORTEST.saturating_mul(1 << more.min(5)).min(LONGEST));
        }
    }

    /// There was an answer, whatever it said.
    pub fn answered(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r35_after_a_few_calls_without_an_answer_only_one_at_a_time_is_tried() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 1..FEW {
            breaker.failed(start);
            assert_eq!(breaker.wait(start), None);
        }
        breaker.failed(start);
        assert_eq!(breaker.wait(start), Some(SHORTEST));
        let later = start + SHORTEST;
        assert!(breaker.is_open(start) && !breaker.is_open(later), "who only asks takes no turn");
        assert_eq!(breaker.wait(later), None);
        assert_eq!(breaker.wait(later), Some(SHORTEST));
        for _ in 0..100 {
            breaker.failed(later);
        }
        assert_eq!(breaker.wait(later), Some(LONGEST));
        breaker.answered();
        assert_eq!(breaker.wait(later), None);
    }
}
