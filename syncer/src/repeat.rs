//! The loop guard of one pair: the same write, with neither side having moved in between, is not sent a third time in a hurry.
//!
//! Two writers that undo each other, or an API server that takes a write and does not keep it, cost two writes a pace, not a storm.

use std::time::Duration;

use tokio::time::Instant;

/// The last write of a pair, and how often it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    what: u64,
    times: u32,
    since: Instant,
}

/// The same write is sent so many times within one pace.
const TIMES: u32 = 2;

impl Repeat {
    /// Asked before a write; `what` says which one, and what the two sides were before it. May be sent, or how long it must wait.
    pub fn ask(last: &mut Option<Self>, what: u64, now: Instant, pace: Duration) -> Result<(), Duration> {
        match last.as_mut().filter(|last| last.what == what && now.duration_since(last.since) < pace) {
            None => *last = Some(Self { what, times: 1, since: now }),
            Some(last) if last.times < TIMES => last.times += 1,
            Some(last) => return Err(pace.saturating_sub(now.duration_since(last.since))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_mins(1);

    #[test]
    fn r25_the_same_write_is_sent_twice_and_then_at_the_patrols_pace() {
        let start = Instant::now();
        let mut last = None;
        let mut sent = 0;
        for second in 0..600 {
            sent += u32::from(Repeat::ask(&mut last, 7, start + Duration::from_secs(second), PACE).is_ok());
        }
        assert_eq!(sent, 2 * 10);
        assert_eq!(Repeat::ask(&mut last, 7, start + Duration::from_secs(599), PACE), Err(Duration::from_secs(1)));
    }

    #[test]
    fn another_write_or_a_side_that_moved_is_no_repetition() {
        let (start, mut last) = (Instant::now(), None);
        for what in [1, 2, 1, 2, 1, 2, 3, 3] {
            assert_eq!(Repeat::ask(&mut last, what, start, PACE), Ok(()));
        }
        assert_eq!(Repeat::ask(&mut last, 3, start, PACE), Err(PACE));
    }
}
