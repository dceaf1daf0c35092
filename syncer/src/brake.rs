//! The mass-change brake: deletions that follow from absence, not from a DELETE that was seen, pause when there are too many.
//!
//! *Source*: invariant I15 of the reliability page: more than max(20, 10 %) of a tenant's objects in five minutes wait for a second
//! quorum read at least a minute later.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What the brake says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Go on.
    Go,
    /// Wait this long, then read again.
    Wait(Duration),
}

/// Counts one tenant's deletions that are inferred from absence.
#[derive(Debug, Default)]
pub struct Brake {
    passed: VecDeque<Instant>,
    pulled: Option<Instant>,
}

const WINDOW: Duration = Duration::from_mins(5);
const SECOND_LOOK: Duration = Duration::from_mins(1);
const FEW: usize = 20;

impl Brake {
    /// Asked after each quorum read that found nothing, before anything is deleted for it. `objects` is how many the tenant has.
    pub fn ask(&mut self, now: Instant, objects: usize) -> Say {
        while self.passed.front().is_some_and(|then| now.duration_since(*then) > WINDOW) {
            self.passed.pop_front();
        }
        if self.pulled.is_some_and(|then| now.duration_since(then) > WINDOW) {
            self.pulled = None;
        }
        if self.passed.len() < FEW.max(objects / 10) {
            self.passed.push_back(now);
            return Say::Go;
        }
        match self.pulled {
            None => {
                self.pulled = Some(now);
                Say::Wait(SECOND_LOOK)
            }
            // Whoever asks now has read again since the brake was pulled.
            Some(then) if now.duration_since(then) >= SECOND_LOOK => Say::Go,
            Some(then) => Say::Wait(SECOND_LOOK.saturating_sub(now.duration_since(then))),
        }
    }

    /// Whether deletions are paused now.
    pub fn is_pulled(&self, now: Instant) -> bool {
        self.pulled.is_some_and(|then| now.duration_since(then) < SECOND_LOOK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_absences_pass_and_many_wait_for_a_second_look() {
        let mut brake = Brake::default();
        assert!((0..20).all(|_| brake.ask(Instant::now(), 50) == Say::Go));
        assert_eq!(brake.ask(Instant::now(), 50), Say::Wait(SECOND_LOOK));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(brake.ask(Instant::now(), 50), Say::Wait(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(brake.ask(Instant::now(), 50), Say::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_of_many_objects_passes() {
        let mut brake = Brake::default();
        assert!((0..500).all(|_| brake.ask(Instant::now(), 5000) == Say::Go));
        assert_eq!(brake.ask(Instant::now(), 5000), Say::Wait(SECOND_LOOK));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_window_lets_go() {
        let mut brake = Brake::default();
        while brake.ask(Instant::now(), 0) == Say::Go {}
        tokio::time::advance(WINDOW + Duration::from_secs(1)).await;
        assert_eq!(brake.ask(Instant::now(), 0), Say::Go);
    }
}
