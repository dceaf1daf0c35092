//! Who refers to what: objects that go down only while something that runs needs them.

use common::Name;
use mirror::hold::Hold;
use mirror::kind::{Demand, Downward, KindId, Reference};
use mirror::plan::REFERENCES;

use super::{Entry, Index, Key, Slot};

/// References of all objects of one tenant at most: those of 30,000 Pods with eight each, some 20 MB.
pub(super) const ALL_REFERENCES: usize = 250_000;

/// Objects that a tenant's refer to at most, whether they exist or not: some 25 MB here and in the queue.
pub(super) const REFERRED: usize = 50_000;

impl Index {
    /// Replaces the references that `key` holds; the keys that became wanted or unwanted by it.
    ///
    /// *Errors*: a refusal where those of the tenant are too many. Then the earlier ones stay, and the object does not count as asked.
    pub fn hold(&mut self, key: &Key, references: &[Reference]) -> Result<Vec<Key>, Hold> {
        let references = references.get(..REFERENCES).unwrap_or(references);
        if self.entry(key).references == references {
            self.entry(key).asked = true;
            return Ok(Vec::new());
        }
        self.bear(key, references)?;
        let entry = self.entry(key);
        entry.asked = true;
        let before = std::mem::replace(&mut entry.references, references.to_vec());
        self.referring += references.len();
        let mut moved = Vec::new();
        for reference in references {
            let count = self.wanted.entry((key.namespace.clone(), reference.clone())).or_default();
            *count += 1;
            if *count == 1 {
                moved.extend(self.known(key, reference));
            }
        }
        moved.extend(self.release(key, &before));
        Ok(moved)
    }

    /// Whether there is room for these references in place of those that the object holds.
    fn bear(&self, key: &Key, references: &[Reference]) -> Result<(), Hold> {
        let before = self.get(key).map_or(0, |entry| entry.references.len());
        let more = references.len().saturating_sub(before);
        let is_new = |reference: &&Reference| !self.wanted.contains_key(&(key.namespace.clone(), (*reference).clone()));
        let message = if more > 0 && self.referring + more > ALL_REFERENCES {
            format!(
                "the objects of this control plane refer to others more than {ALL_REFERENCES} times, and no more are followed; delete some"
            )
        } else if self.wanted.len() + more > REFERRED && self.wanted.len() + references.iter().filter(is_new).count() > REFERRED {
            format!("the objects of this control plane refer to more than {REFERRED} others, and no more are followed; delete some")
        } else {
            return Ok(());
        };
        Err(Hold::refuse("TooManyReferences", "", message))
    }

    /// Whether every object that may refer to others has been asked what it refers to, so that "unwanted" means something.
    pub fn holders_known(&mut self) -> bool {
        if self.holders_known {
            return true;
        }
        let holds = |kind: KindId| kind.downward().is_some_and(Downward::refers);
        // Of a kind that the tenant does not serve no more refer to anything than went down before.
        let none_below = |kind: KindId| !self.entries.iter().any(|(key, entry)| key.kind == kind && matches!(entry.sup, Slot::Here(..)));
        let known = |kind: KindId| self.tenant.get(&kind).is_some_and(|sync| sync.synced || (sync.unserved && none_below(kind)));
        let listed = KindId::all().filter(|kind| holds(*kind)).all(known);
        let asked = |(key, entry): (&Key, &Entry)| {
            !holds(key.kind) || entry.asked || !matches!(&entry.tenant, Slot::Here(facts, ()) if !facts.deleting)
        };
        self.holders_known = listed && self.entries.iter().all(asked);
        self.holders_known
    }

    /// Drops the references that an object held; the keys that nobody wants any more.
    pub fn release(&mut self, key: &Key, references: &[Reference]) -> Vec<Key> {
        let mut moved = Vec::new();
        self.referring -= references.len();
        for reference in references {
            let at = (key.namespace.clone(), reference.clone());
            if let Some(count) = self.wanted.get_mut(&at) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(&at);
                    moved.extend(self.known(key, reference));
                }
            }
        }
        moved
    }

    /// The key of what is referred to, if anything is known of it: the others come by their own event.
    fn known(&self, holder: &Key, reference: &Reference) -> Option<Key> {
        reference_key(holder, reference).filter(|key| self.entries.contains_key(key))
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
