//! Who refers to what: objects that go down only while something that runs needs them.

use common::Name;
use mirror::kind::{Demand, Downward, KindId, Reference};
use mirror::plan::REFERENCES;

use super::{Entry, Index, Key, Slot};

impl Index {
    /// Replaces the references that `key` holds; the keys that became wanted or unwanted by it.
    pub fn hold(&mut self, key: &Key, references: &[Reference]) -> Vec<Key> {
        let references = references.get(..REFERENCES).unwrap_or(references);
        self.entry(key).asked = true;
        if self.entry(key).references == references {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.entry(key).references, references.to_vec());
        let mut moved = Vec::new();
        for reference in references {
            let count = self.wanted.entry((key.namespace.clone(), reference.clone())).or_default();
            *count += 1;
            if *count == 1 {
                moved.extend(reference_key(key, reference));
            }
        }
        moved.extend(self.release(key, &before));
        moved
    }

    /// Whether every object that may refer to others has been asked what it refers to, so that "unwanted" means something.
    pub fn holders_known(&mut self) -> bool {
        if self.holders_known {
            return true;
        }
        let holds = |kind: KindId| kind.downward().is_some_and(Downward::graceful);
        let listed = KindId::all().filter(|kind| holds(*kind)).all(|kind| self.tenant.get(&kind).is_some_and(|sync| sync.synced));
        let asked = |(key, entry): (&Key, &Entry)| {
            !holds(key.kind) || entry.asked || !matches!(&entry.tenant, Slot::Here(facts, ()) if !facts.deleting)
        };
        self.holders_known = listed && self.entries.iter().all(asked);
        self.holders_known
    }

    /// Drops the references that an object held; the keys that nobody wants any more.
    pub fn release(&mut self, key: &Key, references: &[Reference]) -> Vec<Key> {
        let mut moved = Vec::new();
        for reference in references {
            let at = (key.namespace.clone(), reference.clone());
            if let Some(count) = self.wanted.get_mut(&at) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(&at);
                    moved.extend(reference_key(key, reference));
                }
            }
        }
        moved
    }

    /// Whether anything that goes down refers to this object, or it does not depend on that.
    pub fn wanted(&self, key: &Key) -> bool {
        let Some(kind) = key.kind.downward() else { return false };
        if kind.demand() != Demand::Referenced {
            return true;
        }
        let reference = Reference { kind: kind.resource().kind, name: key.name.as_str().to_owned() };
        self.wanted.contains_key(&(key.namespace.clone(), reference))
    }
}

fn reference_key(holder: &Key, reference: &Reference) -> Option<Key> {
    Some(Key { kind: KindId::named(reference.kind)?, namespace: holder.namespace.clone(), name: Name::parse(&reference.name).ok()? })
}
