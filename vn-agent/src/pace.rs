//! How often one tenant may have the kubelet measure or list, or begin a stream: so often in a row, then at a steady pace.
//!
//! *Guarantees*: whoever asks in a loop is served at that pace and no faster; it takes nothing of another tenant's. Somebody who asks as
//! metrics-servers and people do never waits.

use std::collections::HashMap;
use std::time::Duration;

use common::Uid;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// How often in a row: three scrapers of all pages, and people beside them. How many pages are open at once has a bound of its own.
const IN_A_ROW: u32 = 20;

/// Then once in so long.
const EACH: Duration = Duration::from_millis(500);

/// The same of streams, of which each has a line in the log.
const EACH_STREAM: Duration = Duration::from_millis(100);

/// Longest wait for a turn. Who would have to wait longer is told to come again.
const LONGEST: Duration = Duration::from_secs(10);

/// Turns of tenants, each its own.
#[derive(Debug)]
pub struct Paces {
    in_a_row: u32,
    each: Duration,
    /// When a tenant will have all its turns again.
    rested: Mutex<HashMap<Uid, Instant>>,
}

/// The tenant asks too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this tenant asks too often; {0} times a second will do")]
pub struct TooOften(u128);

impl Default for Paces {
    fn default() -> Self {
        Self { in_a_row: IN_A_ROW, each: EACH, rested: Mutex::default() }
    }
}

impl Paces {
    /// For beginnings of streams: as many in a row as a tenant may have sessions at once.
    pub fn of_streams(sessions: usize) -> Self {
        Self { in_a_row: u32::try_from(sessions).unwrap_or(u32::MAX), each: EACH_STREAM, rested: Mutex::default() }
    }

    /// Waits for this tenant's next turn.
    pub async fn turn(&self, tenant: Uid) -> Result<(), TooOften> {
        let wait = self.reserve(tenant, Instant::now())?;
        // A sleep of no time is one of a tick.
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok(())
    }

    /// Takes a turn; gives how far it is.
    fn reserve(&self, tenant: Uid, now: Instant) -> Result<Duration, TooOften> {
        let mut all = self.rested.lock();
        // Who has all turns leaves nothing behind.
        all.retain(|_, rested| *rested > now);
        let rested = all.get(&tenant).copied().unwrap_or(now) + self.each;
        let wait = rested.saturating_duration_since(now).saturating_sub(self.each.saturating_mul(self.in_a_row));
        if wait > LONGEST {
            return Err(TooOften(1000 / self.each.as_millis()));
        }
        all.insert(tenant, rested);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_in_a_row_then_at_a_pace_and_others_have_their_own() {
        let paces = Paces::default();
        let (a, b) = (Uid::from_bits(1), Uid::from_bits(2));
        let began = Instant::now();
        for _ in 0..IN_A_ROW {
            paces.turn(a).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            paces.turn(a).await.unwrap();
        }
        assert_eq!(began.elapsed(), 10 * EACH);
        paces.turn(b).await.unwrap();
        assert_eq!(began.elapsed(), 10 * EACH, "another does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_far_ahead_is_refused_and_rests_as_others_do() {
        let paces = Paces::default();
        let (a, now) = (Uid::from_bits(1), Instant::now());
        let turns = (0..1000).map_while(|_| paces.reserve(a, now).ok()).count();
        assert_eq!(turns, 20 + 20, "what is in a row, and what comes within the longest wait");
        assert_eq!(paces.reserve(a, now), Err(TooOften(2)), "and being refused takes no turn");
        assert_eq!(paces.reserve(a, now + EACH), Ok(LONGEST));
        assert_eq!(paces.reserve(a, now + Duration::from_mins(1)), Ok(Duration::ZERO));
        let _ = paces.reserve(Uid::from_bits(2), now + Duration::from_mins(2));
        assert_eq!(paces.rested.lock().len(), 1, "nothing is left of the first");
    }

    #[test]
    fn streams_have_as_many_in_a_row_as_sessions_and_ten_a_second() {
        let (paces, a, now) = (Paces::of_streams(256), Uid::from_bits(1), Instant::now());
        let waits: Vec<_> = (0..1000).map_while(|_| paces.reserve(a, now).ok()).collect();
        assert_eq!((waits[255], waits[256], waits.len()), (Duration::ZERO, EACH_STREAM, 256 + 100));
        assert_eq!(paces.reserve(a, now), Err(TooOften(10)));
    }
}
