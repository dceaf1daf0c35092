//! Laws of the fair queue.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

impl FairQueue<u8, u16> {
    /// What must hold between any two calls.
    fn check(&self) {
        let mut ring: Vec<u8> = self.ring.iter().copied().collect();
        ring.sort_unstable();
        let mut able: Vec<u8> = self.lanes.iter().filter(|(_, l)| l.can_pop(self.in_flight_per_lane)).map(|(name, _)| *name).collect();
        able.sort_unstable();
        assert_eq!(ring, able, "the ring holds the lanes that can hand out a key, once");
        assert_eq!(self.waiting, self.lanes.values().map(|lane| lane.waiting.len()).sum::<usize>());
        assert_eq!(self.in_flight, self.lanes.values().map(|lane| lane.in_flight).sum::<usize>());
        for lane in self.lanes.values() {
            assert!(lane.in_flight <= self.in_flight_per_lane && lane.credit <= lane.weight);
            assert_eq!(lane.in_flight, lane.keys.values().filter(|state| **state != State::Waits).count());
        }
    }
}

#[derive(Clone, Debug)]
enum Call {
    Push(u8, u16),
    Pop,
    /// Gives back the n-th of those in work.
    Done(usize),
    Weight(u8, u8),
    Remove(u8),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        8 => (0u8..4, 0u16..6).prop_map(|(lane, key)| Call::Push(lane, key)),
        6 => Just(Call::Pop),
        6 => any::<usize>().prop_map(Call::Done),
        1 => (0u8..4, 0u8..120).prop_map(|(lane, weight)| Call::Weight(lane, weight)),
        1 => (0u8..4).prop_map(Call::Remove),
    ];
    proptest::collection::vec(call, 0..200)
}

proptest! {
    /// Against a model: per lane, the keys that are owed a turn.
    #[test]
    fn no_key_is_lost_and_none_is_handed_out_twice_at_once(calls in calls(), cap in 1usize..4) {
        let mut queue = FairQueue::new(cap);
        let mut owed: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
        let mut in_work: Vec<(u8, u16)> = Vec::new();
        for lane in 0..3 {
            queue.set_weight(lane, 1);
            owed.insert(lane, BTreeSet::new());
        }
        for call in calls {
            match call {
                Call::Push(lane, key) => {
                    prop_assert_eq!(queue.push(lane, key), owed.contains_key(&lane));
                    owed.entry(lane).and_modify(|keys| { keys.insert(key); });
                }
                Call::Pop => if let Some(item) = queue.pop() {
                    prop_assert!(!in_work.contains(&item), "{item:?} is in work already");
                    prop_assert!(owed.get_mut(&item.0).is_some_and(|keys| keys.remove(&item.1)), "{item:?} was not asked for");
                    in_work.push(item);
                }
                Call::Done(nth) => if !in_work.is_empty() {
                    let (lane, key) = in_work.remove(nth % in_work.len());
                    queue.done(&lane, &key);
                }
                Call::Weight(lane, weight) => {
                    queue.set_weight(lane, weight);
                    owed.entry(lane).or_default();
                }
                Call::Remove(lane) => {
                    queue.remove_lane(&lane);
                    owed.remove(&lane);
                }
            }
            queue.check();
        }
        for (lane, key) in in_work {
            queue.done(&lane, &key);
        }
        while let Some((lane, key)) = queue.pop() {
            prop_assert!(owed.get_mut(&lane).is_some_and(|keys| keys.remove(&key)));
            queue.done(&lane, &key);
            queue.check();
        }
        prop_assert!(owed.values().all(BTreeSet::is_empty), "left behind: {owed:?}");
        prop_assert!(queue.is_empty());
    }

    #[test]
    fn busy_lanes_are_served_by_their_weights(weights in proptest::collection::vec(1u8..=100, 2..6), rounds in 1u16..4, cap in 1usize..200) {
        let mut queue = FairQueue::new(cap);
        let turn: u16 = weights.iter().copied().map(u16::from).sum();
        for (lane, weight) in (0u8..).zip(&weights) {
            queue.set_weight(lane, *weight);
            for key in 0..turn * rounds {
                queue.push(lane, key);
            }
        }
        let mut served = vec![0u16; weights.len()];
        for _ in 0..turn * rounds {
            let (lane, key) = queue.pop().unwrap();
            served[usize::from(lane)] += 1;
            queue.done(&lane, &key);
        }
        let expected: Vec<u16> = weights.iter().map(|weight| u16::from(*weight) * rounds).collect();
        prop_assert_eq!(served, expected);
    }

    /// A lane at its limit does not lose what is left of its turn.
    #[test]
    fn slow_lanes_are_served_by_their_weights_too(a in 1u8..=100, b in 1u8..=100, cap in 1usize..8) {
        let mut queue = FairQueue::new(cap);
        for (lane, weight) in [(0u8, a), (1, b)] {
            queue.set_weight(lane, weight);
            for key in 0..800 {
                queue.push(lane, key);
            }
        }
        let rounds = 3;
        let (mut served, mut in_work) = ([0u16; 2], VecDeque::new());
        for _ in 0..rounds * (u16::from(a) + u16::from(b)) {
            // A single worker's worth of room is left, so that the limit, not the workers, is what a lane runs into.
            while in_work.len() >= cap {
                let (lane, key) = in_work.pop_front().unwrap();
                queue.done(&lane, &key);
            }
            let (lane, key) = queue.pop().unwrap();
            served[usize::from(lane)] += 1;
            in_work.push_back((lane, key));
        }
        // At most one turn apart from what the weights say.
        prop_assert!(served[0].abs_diff(rounds * u16::from(a)) <= u16::from(a), "{served:?}");
        prop_assert!(served[1].abs_diff(rounds * u16::from(b)) <= u16::from(b), "{served:?}");
    }
}

#[test]
fn a_key_pushed_while_in_work_comes_again_once() {
    let mut queue = FairQueue::new(9);
    queue.set_weight("t", 1);
    queue.push("t", 1);
    assert_eq!(queue.pop(), Some(("t", 1)));
    assert!(queue.push("t", 1) && queue.push("t", 1));
    assert_eq!((queue.pop(), queue.len()), (None, 1));
    queue.done(&"t", &1);
    assert_eq!(queue.pop(), Some(("t", 1)));
    queue.done(&"t", &1);
    assert_eq!(queue.pop(), None);
}

#[test]
fn a_lane_at_its_limit_lets_the_others_pass() {
    let mut queue = FairQueue::new(2);
    for lane in ["greedy", "other"] {
        queue.set_weight(lane, 100);
    }
    for key in 0..5 {
        queue.push("greedy", key);
    }
    queue.push("other", 0);
    let lanes: Vec<&str> = std::iter::from_fn(|| queue.pop()).map(|(lane, _)| lane).collect();
    assert_eq!(lanes, ["greedy", "greedy", "other"]);
    queue.done(&"greedy", &0);
    assert_eq!(queue.pop(), Some(("greedy", 2)));
}

#[test]
fn a_removed_lane_is_silent_and_a_new_one_of_its_name_hands_out_nothing_twice() {
    let mut queue = FairQueue::new(9);
    queue.set_weight("t", 1);
    queue.push("t", 1);
    queue.push("t", 2);
    assert_eq!(queue.pop(), Some(("t", 1)));
    queue.remove_lane(&"t");
    assert_eq!((queue.pop(), queue.push("t", 3)), (None, false));
    queue.set_weight("t", 1);
    queue.push("t", 1);
    assert_eq!(queue.pop(), None);
    queue.done(&"t", &1);
    assert_eq!(queue.pop(), Some(("t", 1)));
    queue.remove_lane(&"t");
    queue.done(&"t", &1);
    assert_eq!((queue.lanes(), queue.len()), (0, 0));
}

#[test]
fn ten_thousand_idle_lanes_cost_one_busy_lane_nothing() {
    let mut queue = FairQueue::new(1);
    for lane in 0..10_000 {
        queue.set_weight(lane, 1);
    }
    for key in 0..100 {
        queue.push(7, key);
        // A pop looks at the first lane of the ring only, so its cost is that of a ring of one.
        assert_eq!(queue.ring, [7]);
        assert_eq!(queue.pop(), Some((7, key)));
        assert!(queue.ring.is_empty());
        queue.done(&7, &key);
    }
}

#[test]
fn an_emptied_lane_gives_its_memory_back() {
    let mut queue = FairQueue::new(1);
    queue.set_weight((), 1);
    for key in 0..10_000 {
        queue.push((), key);
    }
    while let Some((lane, key)) = queue.pop() {
        queue.done(&lane, &key);
    }
    assert!(queue.lanes[&()].keys.capacity() <= KEPT_CAPACITY && queue.lanes[&()].waiting.capacity() <= KEPT_CAPACITY);
}
