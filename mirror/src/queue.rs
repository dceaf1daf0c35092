//! The fair queue: one lane a tenant, weighted, O(1), never one key twice at once.
//!
//! Deficit round robin with keys of equal cost: a lane whose turn it is hands out as many keys as its weight says, then the next lane
//! has its turn. Only lanes that can hand out a key stand in the ring, so idle tenants cost nothing.
//!
//! *Sources*: M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1996.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::ops::RangeInclusive;

/// The weights that a lane can have. More than the largest would make one turn long enough for others to notice.
pub const WEIGHTS: RangeInclusive<u8> = 1..=100;

/// Above this many keys an emptied lane gives its memory back: what a tenant needs at its busiest is not kept for ever.
const KEPT_CAPACITY: usize = 64;

/// Keys (`K`) in lanes (`L`).
///
/// *Guarantees*: a pushed key is handed out until [`FairQueue::remove_lane`]; a key that waits already is not queued again; a key that
/// is handed out is not handed out again before [`FairQueue::done`], and comes again after it if it was pushed meanwhile.
#[derive(Debug)]
pub struct FairQueue<L, K> {
    in_flight_per_lane: usize,
    lanes: HashMap<L, Lane<K>>,
    /// Exactly the lanes that can hand out a key, each once; the first one has its turn.
    ring: VecDeque<L>,
    waiting: usize,
    in_flight: usize,
}

#[derive(Debug)]
struct Lane<K> {
    weight: u8,
    /// How many keys are left of the turn.
    credit: u8,
    waiting: VecDeque<K>,
    /// Keys that wait or are worked on.
    keys: HashMap<K, State>,
    in_flight: usize,
    in_ring: bool,
    /// Removed, and there only until the last key in work is done.
    removed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    InWork,
    /// In work, and to come again.
    InWorkAgain,
}

impl<K: Clone + Eq + Hash> Lane<K> {
    fn new(weight: u8) -> Self {
        Self { weight, credit: 0, waiting: VecDeque::new(), keys: HashMap::new(), in_flight: 0, in_ring: false, removed: false }
    }

    fn can_pop(&self, in_flight_per_lane: usize) -> bool {
        !self.waiting.is_empty() && self.in_flight < in_flight_per_lane
    }

    fn release_memory(&mut self) {
        if self.keys.is_empty() && self.keys.capacity() > KEPT_CAPACITY {
            self.keys = HashMap::new();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT_CAPACITY {
            self.waiting = VecDeque::new();
        }
    }
}

impl<L: Clone + Eq + Hash, K: Clone + Eq + Hash> FairQueue<L, K> {
    /// An empty queue. Of one lane at most `in_flight_per_lane` keys (at least one) are handed out at a time.
    pub fn new(in_flight_per_lane: usize) -> Self {
        Self { in_flight_per_lane: in_flight_per_lane.max(1), lanes: HashMap::new(), ring: VecDeque::new(), waiting: 0, in_flight: 0 }
    }

    /// Makes a lane, or changes its weight from its next turn on. Weights outside [`WEIGHTS`] count as the nearest inside.
    pub fn set_weight(&mut self, lane: L, weight: u8) {
        let weight = weight.clamp(*WEIGHTS.start(), *WEIGHTS.end());
        let lane = self.lanes.entry(lane).or_insert_with(|| Lane::new(weight));
        lane.weight = weight;
        lane.credit = lane.credit.min(weight);
        lane.removed = false;
    }

    /// Ends a lane: what waits in it is forgotten, and pushes into it are too, until [`FairQueue::set_weight`] makes it again.
    pub fn remove_lane(&mut self, lane: &L) {
        let Some(ended) = self.lanes.get_mut(lane) else { return };
        self.waiting -= ended.waiting.len();
        ended.waiting.clear();
        ended.credit = 0;
        ended.removed = true;
        // Keys in work stay known, so that a lane made again does not hand them out twice.
        ended.keys.retain(|_, state| {
            let in_work = *state != State::Waits;
            *state = State::InWork;
            in_work
        });
        ended.release_memory();
        if ended.in_ring {
            // Linear in the lanes that have work, and rare: a tenant was detached.
            self.ring.retain(|other| other != lane);
            ended.in_ring = false;
        }
        if ended.keys.is_empty() {
            self.lanes.remove(lane);
        }
    }

    /// Puts a key at the end of its lane. False if there is no such lane.
    pub fn push(&mut self, lane: L, key: K) -> bool {
        let Some(to) = self.lanes.get_mut(&lane).filter(|to| !to.removed) else { return false };
        match to.keys.entry(key) {
            Entry::Occupied(mut entry) => {
                if *entry.get() == State::InWork {
                    entry.insert(State::InWorkAgain);
                }
            }
            Entry::Vacant(entry) => {
                to.waiting.push_back(entry.key().clone());
                entry.insert(State::Waits);
                self.waiting += 1;
                self.enter(lane);
            }
        }
        true
    }

    /// The next key, by turn; give it back with [`FairQueue::done`]. `None` if nothing waits, or all lanes that have work are at their
    /// limit.
    pub fn pop(&mut self) -> Option<(L, K)> {
        let name = self.ring.front()?.clone();
        let lane = self.lanes.get_mut(&name)?;
        let key = lane.waiting.pop_front()?;
        lane.keys.insert(key.clone(), State::InWork);
        if lane.credit == 0 {
            lane.credit = lane.weight;
        }
        lane.credit -= 1;
        lane.in_flight += 1;
        self.in_flight += 1;
        self.waiting -= 1;
        if lane.waiting.is_empty() {
            // What is left of a turn is not saved up.
            lane.credit = 0;
        }
        if !lane.can_pop(self.in_flight_per_lane) {
            lane.in_ring = false;
            self.ring.pop_front();
        } else if lane.credit == 0 {
            self.ring.rotate_left(1);
        }
        Some((name, key))
    }

    /// A key that was handed out is no longer worked on. If it was pushed meanwhile it waits again.
    pub fn done(&mut self, lane: &L, key: &K) {
        let Some(from) = self.lanes.get_mut(lane) else { return };
        match from.keys.get_mut(key) {
            Some(state @ State::InWorkAgain) => {
                *state = State::Waits;
                from.waiting.push_back(key.clone());
                self.waiting += 1;
            }
            Some(State::InWork) => {
                from.keys.remove(key);
            }
            Some(State::Waits) | None => return,
        }
        from.in_flight -= 1;
        self.in_flight -= 1;
        from.release_memory();
        if from.removed && from.keys.is_empty() {
            self.lanes.remove(lane);
        } else {
            self.enter(lane.clone());
        }
    }

    /// Puts a lane into the ring if it belongs there: at the end, or, if its limit interrupted its turn, at the front.
    fn enter(&mut self, name: L) {
        let Some(lane) = self.lanes.get_mut(&name).filter(|lane| !lane.in_ring && lane.can_pop(self.in_flight_per_lane)) else { return };
        lane.in_ring = true;
        if lane.credit > 0 { self.ring.push_front(name) } else { self.ring.push_back(name) }
    }

    /// Whether [`FairQueue::pop`] would hand out a key.
    pub fn can_pop(&self) -> bool {
        !self.ring.is_empty()
    }

    /// How many keys wait or are worked on; one that waits to come again counts once.
    pub fn len(&self) -> usize {
        self.waiting + self.in_flight
    }

    /// Whether nothing waits and nothing is worked on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys are worked on.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many keys of one lane wait or are worked on.
    pub fn lane_len(&self, lane: &L) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.keys.len())
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

#[cfg(test)]
mod tests;
