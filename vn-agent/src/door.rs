//! Who may stand at the door: callers that have not said who they are.
//!
//! *Guarantees*: strangers, however many and however slow, cost a bounded number of connections; the one that has stood there longest gives
//! way to the next. So slow ones shut nobody out.
//!
//! *Caveats*: who is let in is not told from the others. While so many come anew within one handshake, a caller that is known may have to
//! give way too, and dial again.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Handshakes under way at once. One takes a few milliseconds; what is still there when so many have come after it is slow on purpose.
const MOST_STRANGERS: usize = 256;

/// Callers whose handshake is under way.
#[derive(Clone, Debug, Default)]
pub struct Door(Arc<Mutex<Strangers>>);

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    /// By the order in which they came.
    all: BTreeMap<u64, CancellationToken>,
}

impl Door {
    /// One more; the one that has been there longest must go if there are too many.
    pub fn enter(&self) -> Stranger {
        let mut strangers = self.0.lock();
        let number = strangers.next;
        strangers.next += 1;
        let sent_away = CancellationToken::new();
        strangers.all.insert(number, sent_away.clone());
        if strangers.all.len() > MOST_STRANGERS
            && let Some((_, first)) = strangers.all.pop_first()
        {
            first.cancel();
        }
        Stranger { number, sent_away, door: self.clone() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().all.len()
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A caller whose handshake is under way; its place is free when this is dropped.
#[derive(Debug)]
pub struct Stranger {
    number: u64,
    sent_away: CancellationToken,
    door: Door,
}

impl Stranger {
    /// Waits until it must give way.
    pub async fn sent_away(&self) {
        self.sent_away.cancelled().await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.door.0.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_one_that_stands_there_longest_gives_way() {
        let door = Door::default();
        let mut all: Vec<_> = (0..MOST_STRANGERS).map(|_| door.enter()).collect();
        assert!(all.iter().all(|stranger| stranger.sent_away().now_or_never().is_none()));
        all.push(door.enter());
        let away: Vec<_> = all.iter().filter(|stranger| stranger.sent_away().now_or_never().is_some()).map(|one| one.number).collect();
        assert_eq!((away, door.len()), (vec![0], MOST_STRANGERS));
        drop(all);
        assert!(door.is_empty());
    }
}
