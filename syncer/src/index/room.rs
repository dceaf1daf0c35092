//! How many pairs of one tenant are known, and what is left out beyond that.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use mirror::kind::KindId;

use super::{Index, Key};

/// Pairs of one tenant at most: far beyond what its API server keeps up with, and some 100 MB here.
pub(super) const PAIRS: usize = 250_000;

/// There is room again for what was left out if all of it fits, or so many.
const ROOM: usize = PAIRS / 20;

/// What was left out, as far as that is counted: as many as there may be pairs.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    hasher: RandomState,
    keys: HashMap<KindId, HashSet<u64>>,
}

impl LeftOut {
    fn add(&mut self, key: &Key) {
        if self.len() < PAIRS {
            let hash = self.hasher.hash_one(key);
            self.keys.entry(key.kind).or_default().insert(hash);
        }
    }

    /// An object is gone, or was taken in.
    pub(super) fn gone(&mut self, key: &Key) {
        if let Some(keys) = self.keys.get_mut(&key.kind) {
            keys.remove(&self.hasher.hash_one(key));
        }
    }

    /// A list of a kind begins, which names again what is left out.
    pub(super) fn list_begins(&mut self, kind: KindId) {
        self.keys.remove(&kind);
    }

    fn len(&self) -> usize {
        self.keys.values().map(HashSet::len).sum()
    }
}

impl Index {
    /// Whether a tenant's object can be taken in; what cannot is counted.
    pub(super) fn has_room(&mut self, key: &Key) -> bool {
        let has_room = self.entries.len() < PAIRS || self.entries.contains_key(key);
        if !has_room {
            self.left_out.add(key);
        }
        has_room
    }

    /// How many of the tenant's objects were not taken in because there are too many; counted up to the bound itself.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// Whether what was left out would find room now: then its lists are worth being read again.
    pub fn has_room_again(&self) -> bool {
        let left_out = self.left_out();
        left_out > 0 && PAIRS.saturating_sub(self.entries.len()) >= left_out.min(ROOM)
    }
}
