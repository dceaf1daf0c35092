//! What seems to be gone, and since when: one mistake must not cost everything.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::Uid;
use tokio::time::Instant;

/// So many tenants may go at once before a second look is wanted.
const AT_ONCE: usize = 3;

/// When that second look is taken.
pub(super) const SECOND_LOOK: Duration = Duration::from_mins(1);

/// Tenants whose VirtualCluster was not there, and since when.
#[derive(Debug, Default)]
pub(super) struct Vanished(HashMap<Uid, Instant>);

impl Vanished {
    /// Takes note of all that are gone `now`. Returns those that are gone for certain: all if they are few, else those that were not there
    /// either a while ago, as when the definition of VirtualClusters was deleted and applied again.
    pub(super) fn certain(&mut self, gone: &HashSet<Uid>, now: Instant) -> HashSet<Uid> {
        self.0.retain(|uid, _| gone.contains(uid));
        for uid in gone {
            self.0.entry(*uid).or_insert(now);
        }
        if gone.len() <= AT_ONCE {
            return gone.clone();
        }
        self.0.iter().filter(|(_, since)| now.duration_since(**since) >= SECOND_LOOK).map(|(uid, _)| *uid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(range: std::ops::Range<u128>) -> HashSet<Uid> {
        range.map(Uid::from_bits).collect()
    }

    #[test]
    fn few_go_at_once_and_many_after_a_second_look() {
        let start = Instant::now();
        let mut vanished = Vanished::default();
        assert_eq!(vanished.certain(&uids(0..3), start), uids(0..3));
        let mut vanished = Vanished::default();
        assert_eq!(vanished.certain(&uids(0..10), start), uids(0..0));
        // One is back, and more have gone.
        let later = start + SECOND_LOOK / 2;
        assert_eq!(vanished.certain(&uids(1..12), later), uids(0..0));
        assert_eq!(vanished.certain(&uids(1..12), start + SECOND_LOOK), uids(1..10));
        assert_eq!(vanished.certain(&uids(0..12), later + SECOND_LOOK), uids(1..12));
    }
}
