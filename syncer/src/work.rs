//! The fair queue with a clock: keys now, and keys later.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mirror::queue::FairQueue;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::time::DelayQueue;

use crate::index::Key;

/// A lane of the queue: the tenant's 26-character id.
pub type Lane = Arc<str>;

/// Keys to be worked on, by all workers. Cheap to clone.
#[derive(Clone)]
pub struct Work {
    queue: Arc<Mutex<FairQueue<Lane, Key>>>,
    ready: Arc<Notify>,
    later: mpsc::UnboundedSender<(Lane, Key, Duration)>,
}

impl Work {
    /// A queue, and the future that hands back delayed keys; whoever owns the queue runs it.
    ///
    /// The channel of delayed keys is unbounded in type only: a key stands in it at most once for each time it was worked on.
    pub fn new(in_flight_per_lane: usize) -> (Self, impl Future<Output = ()> + use<>) {
        let (later, mut receiver) = mpsc::unbounded_channel::<(Lane, Key, Duration)>();
        let work = Self { queue: Arc::new(Mutex::new(FairQueue::new(in_flight_per_lane))), ready: Arc::new(Notify::new()), later };
        let back = work.clone();
        let clock = async move {
            let mut delayed: DelayQueue<(Lane, Key)> = DelayQueue::new();
            loop {
                tokio::select! {
                    item = receiver.recv() => match item {
                        Some((lane, key, delay)) => { delayed.insert((lane, key), delay); }
                        None => return,
                    },
                    Some(item) = delayed.next(), if !delayed.is_empty() => {
                        let (lane, key) = item.into_inner();
                        back.push(&lane, key);
                    }
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
        self.queue.lock().push(lane.clone(), key);
        self.ready.notify_one();
    }

    /// Puts several keys into one lane.
    pub fn push_each(&self, lane: &Lane, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            self.push(lane, key);
        }
    }

    /// Puts a key into its lane after a while.
    pub fn push_after(&self, lane: &Lane, key: Key, delay: Duration) {
        // The receiver lives as long as the process works; at the end keys are no longer needed.
        let _ = self.later.send((lane.clone(), key, delay));
    }

    /// The next key, by turn. Must be given back with [`Work::done`].
    pub async fn pop(&self) -> (Lane, Key) {
        loop {
            let ready = self.ready.notified();
            if let Some(item) = self.queue.lock().pop() {
                // One permit may stand for several keys: pass it on.
                self.ready.notify_one();
                return item;
            }
            ready.await;
        }
    }

    /// A key is no longer worked on; if it was pushed meanwhile it comes again.
    pub fn done(&self, lane: &Lane, key: &Key) {
        self.queue.lock().done(lane, key);
        self.ready.notify_one();
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
