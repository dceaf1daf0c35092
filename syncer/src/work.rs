//! The fair queue with a clock: keys now, and keys later.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mirror::queue::FairQueue;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::index::Key;

/// A lane of the queue: the tenant's 26-character id.
pub type Lane = Arc<str>;

/// Keys to be worked on, by all workers. Cheap to clone.
#[derive(Clone)]
pub struct Work {
    queue: Arc<Mutex<FairQueue<Lane, Key>>>,
    ready: Arc<Notify>,
    later: mpsc::UnboundedSender<(Lane, Key, Instant)>,
}

/// The longest that a key can be put off; whoever put it off for longer looks again then.
const LONGEST: Duration = Duration::from_hours(24 * 7);

/// Keys that come again at a time: each stands here once, at the earliest time that was asked for.
///
/// Whoever is woken early puts the key off again, so an earlier time loses nothing; and a key that is worked on without end does not
/// pile up times.
#[derive(Default)]
struct Clock {
    queue: DelayQueue<(Lane, Key)>,
    times: HashMap<(Lane, Key), (delay_queue::Key, Instant)>,
}

impl Clock {
    fn put_off(&mut self, lane: Lane, key: Key, at: Instant) {
        match self.times.entry((lane, key)) {
            Entry::Occupied(mut entry) => {
                let (timer, before) = entry.get_mut();
                if at < *before {
                    *before = at;
                    self.queue.reset_at(timer, at);
                }
            }
            Entry::Vacant(entry) => {
                let timer = self.queue.insert_at(entry.key().clone(), at);
                entry.insert((timer, at));
            }
        }
    }

    async fn next(&mut self) -> Option<(Lane, Key)> {
        let due = self.queue.next().await?.into_inner();
        self.times.remove(&due);
        Some(due)
    }
}

impl Work {
    /// A queue, and the future that hands back delayed keys; whoever owns the queue runs it.
    ///
    /// The channel of delayed keys is unbounded in type only: a key stands in it at most once for each time it was worked on.
    pub fn new(in_flight_per_lane: usize) -> (Self, impl Future<Output = ()> + use<>) {
        let (later, mut receiver) = mpsc::unbounded_channel::<(Lane, Key, Instant)>();
        let work = Self { queue: Arc::new(Mutex::new(FairQueue::new(in_flight_per_lane))), ready: Arc::new(Notify::new()), later };
        let back = work.clone();
        let clock = async move {
            let mut clock = Clock::default();
            loop {
                tokio::select! {
                    item = receiver.recv() => match item {
                        Some((lane, key, at)) => clock.put_off(lane, key, at),
                        None => return,
                    },
                    Some((lane, key)) = clock.next(), if !clock.times.is_empty() => back.push(&lane, key),
                }
            }
        };
        (work, clock)
    }

    /// Sets a tenant's weight, making its lane.
    pub fn weigh(&self, lane: &Lane, weight: u8) {
        self.queue.lock().set_weight(lane.clone(), weight);
    }

    /// Ends a tenant's lane; its keys are forgotten.
    pub fn remove(&self, lane: &Lane) {
        self.queue.lock().remove_lane(lane);
    }

    /// Puts a key into its lane, once.
    pub fn push(&self, lane: &Lane, key: Key) {
        let mut queue = self.queue.lock();
        queue.push(lane.clone(), key);
        self.wake(&queue);
    }

    /// Wakes one who waits for a key, if there is one for it: a wake-up for nothing costs as much as one for something.
    fn wake(&self, queue: &FairQueue<Lane, Key>) {
        if queue.can_pop() {
            self.ready.notify_one();
        }
    }

    /// Puts several keys into one lane.
    pub fn push_each(&self, lane: &Lane, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            self.push(lane, key);
        }
    }

    /// Puts a key into its lane after a while; the earliest time that was asked for counts.
    pub fn push_after(&self, lane: &Lane, key: Key, delay: Duration) {
        // The receiver lives as long as the process works; at the end keys are no longer needed.
        let _ = self.later.send((lane.clone(), key, Instant::now() + delay.min(LONGEST)));
    }

    /// The next key, by turn. Must be given back with [`Work::done`].
    pub async fn pop(&self) -> (Lane, Key) {
        loop {
            let ready = self.ready.notified();
            {
                let mut queue = self.queue.lock();
                if let Some(item) = queue.pop() {
                    // One permit may stand for several keys: pass it on.
                    self.wake(&queue);
                    return item;
                }
            }
            ready.await;
        }
    }

    /// A key is no longer worked on; if it was pushed meanwhile it comes again.
    pub fn done(&self, lane: &Lane, key: &Key) {
        let mut queue = self.queue.lock();
        queue.done(lane, key);
        self.wake(&queue);
    }

    /// How many keys wait or are worked on.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// Whether nothing waits and nothing is worked on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use common::Name;
    use mirror::kind::KindId;

    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: KindId::named("ConfigMap").unwrap(), namespace: None, name: Name::parse(name).unwrap() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_put_off_again_and_again_stands_in_the_clock_once() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let lane: Lane = "a".into();
        for seconds in (1..=1000).rev() {
            clock.put_off(lane.clone(), key("a"), start + Duration::from_secs(seconds));
            clock.put_off(lane.clone(), key("a"), start + Duration::from_hours(1));
        }
        assert_eq!((clock.queue.len(), clock.times.len()), (1, 1));
        assert_eq!(clock.next().await, Some((lane, key("a"))));
        assert_eq!(start.elapsed().as_secs(), 1);
        assert!(clock.queue.is_empty() && clock.times.is_empty());
    }

    #[tokio::test]
    async fn a_weight_counts_from_when_it_is_set() {
        let (work, _clock) = Work::new(1000);
        let lanes: [Lane; 2] = ["a".into(), "b".into()];
        for weights in [[1, 9], [9, 1], [1, 1]] {
            for (lane, weight) in lanes.iter().zip(weights) {
                work.weigh(lane, weight);
                work.push_each(lane, (0..100).map(|i| key(&i.to_string())));
            }
            let mut turns = [0_usize; 2];
            for _ in 0..100 {
                let (lane, key) = work.pop().await;
                turns[usize::from(lane == lanes[1])] += 1;
                work.done(&lane, &key);
            }
            let sum = usize::from(weights[0] + weights[1]);
            let fair = weights.map(|weight| 100 * usize::from(weight) / sum);
            assert!(turns[0].abs_diff(fair[0]) <= 10, "{weights:?}: {turns:?} turns");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_may_be_put_off_for_longer_than_there_are_timers() {
        let (work, clock) = Work::new(1);
        let lane: Lane = "a".into();
        work.weigh(&lane, 1);
        work.push_after(&lane, key("a"), Duration::MAX);
        tokio::select! {
            () = clock => panic!("the clock ended"),
            item = work.pop() => assert_eq!(item, (lane, key("a"))),
        }
    }
}
