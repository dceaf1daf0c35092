//! How often one tenant may have the kubelet measure or list: so often at once, then at a steady pace.
//!
//! *Guarantees*: whoever asks in a loop is served at that pace and no faster; it takes nothing of another tenant's. Somebody who asks as
//! metrics-servers and people do never waits.

use std::collections::HashMap;
use std::time::Duration;

use common::Uid;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// How often at once: three scrapers of all pages, and people beside them.
const AT_ONCE: u32 = 20;

/// Then once in so long.
const EACH: Duration = Duration::from_millis(500);

/// Longest wait for a turn. Who would have to wait longer is told to come again.
const LONGEST: Duration = Duration::from_secs(10);

/// Turns of tenants, each its own.
#[derive(Debug, Default)]
pub struct Paces(Mutex<HashMap<Uid, Instant>>);

/// The tenant asks too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this tenant asks too often; {} times a second will do", 1000 / EACH.as_millis())]
pub struct TooOften;

impl Paces {
    /// Waits for this tenant's next turn.
    pub async fn turn(&self, tenant: Uid) -> Result<(), TooOften> {
        let wait = self.reserve(tenant, Instant::now())?;
        sleep(wait).await;
        Ok(())
    }

    /// Takes a turn; gives how far it is.
    fn reserve(&self, tenant: Uid, now: Instant) -> Result<Duration, TooOften> {
        let mut all = self.0.lock();
        // When a tenant will have all its turns again. Who has them leaves nothing behind.
        all.retain(|_, rested| *rested > now);
        let rested = all.get(&tenant).copied().unwrap_or(now) + EACH;
        let wait = rested.saturating_duration_since(now + AT_ONCE * EACH);
        if wait > LONGEST {
            return Err(TooOften);
        }
        all.insert(tenant, rested);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_then_at_a_pace_and_others_have_their_own() {
        let paces = Paces::default();
        let (a, b) = (Uid::from_bits(1), Uid::from_bits(2));
        let began = Instant::now();
        for _ in 0..AT_ONCE {
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
        assert_eq!(turns, 20 + 20, "what is at once, and what comes within the longest wait");
        assert_eq!(paces.reserve(a, now), Err(TooOften), "and being refused takes no turn");
        assert_eq!(paces.reserve(a, now + EACH), Ok(LONGEST));
        assert_eq!(paces.reserve(a, now + Duration::from_mins(1)), Ok(Duration::ZERO));
        let _ = paces.reserve(Uid::from_bits(2), now + Duration::from_mins(2));
        assert_eq!(paces.0.lock().len(), 1, "nothing is left of the first");
    }
}
