//! What is known of every pair of one tenant: facts, and bodies only in passing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use common::{Name, Namespace, Owner, Tenant, Uid};
use mirror::facts::Facts;
use mirror::kind::{Demand, KindId, Reference};
use mirror::plan::{Evidence, Mark, Settled};
use tokio::time::Instant;

/// Which pair: the tenant's kind, namespace and name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The kind.
    pub kind: KindId,
    /// The tenant namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<Namespace<Tenant>>,
    /// The name in the tenant.
    pub name: Name<Tenant>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.kind().resource().kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(self.name.as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the super copy is, and whose it says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace in the super cluster; empty for namespaces themselves.
    pub namespace: Arc<str>,
    /// Its name in the super cluster.
    pub name: Arc<str>,
    /// Its record.
    pub owner: Owner,
}

/// One side of a pair.
#[derive(Clone, Debug)]
pub enum Slot<P> {
    /// Nothing was heard yet; it may be there.
    Unknown,
    /// There is a copy.
    Here(Facts, P),
    /// There is none.
    Absent(Evidence),
    /// Somebody else's object has the name (super side only).
    Foreign,
}

/// The tokens of a Pod, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tokens {
    /// It mounts none, or nothing is known yet.
    #[default]
    None,
    /// The Pod was made and its Secret must be.
    Missing,
    /// The Secret is there.
    Good {
        /// When to renew.
        renew: Instant,
        /// The UID of the Secret.
        secret: Uid,
        /// The UID of the super Pod that it belongs to.
        pod: Uid,
    },
}

/// What is known of one pair.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The tenant's side.
    pub tenant: Slot<()>,
    /// The tenant's body, while the pair is not settled.
    pub tenant_body: Option<Bytes>,
    /// The super side.
    pub sup: Slot<Place>,
    /// The super body, while the pair is not settled.
    pub sup_body: Option<Bytes>,
    /// When the pair last agreed.
    pub settled: Option<Settled>,
    /// Failures in a row, for the back-off.
    pub failures: u32,
    /// The hash of the refusal that the tenant was last told of.
    pub told: Option<u64>,
    /// The tokens, for Pods.
    pub tokens: Tokens,
    /// The references that this object holds.
    pub references: Vec<Reference>,
    tenant_epoch: u32,
    sup_epoch: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            tenant: Slot::Unknown,
            tenant_body: None,
            sup: Slot::Unknown,
            sup_body: None,
            settled: None,
            failures: 0,
            told: None,
            tokens: Tokens::None,
            references: Vec::new(),
            tenant_epoch: 0,
            sup_epoch: 0,
        }
    }
}

/// How far an informer of one kind on one side is.
#[derive(Clone, Copy, Debug, Default)]
struct Sync {
    epoch: u32,
    synced: bool,
}

/// All pairs of one tenant.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<Key, Entry>,
    wanted: HashMap<(Option<Namespace<Tenant>>, Reference), u32>,
    tenant: HashMap<KindId, Sync>,
    sup: HashMap<KindId, Sync>,
    /// The highest `resourceVersion` of the tenant that a super copy was built from.
    pub built_high: u64,
}

impl Index {
    /// The pair, if anything is known of it.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The pair, to be changed.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// The pair, made if nothing is known of it.
    pub fn entry(&mut self, key: &Key) -> &mut Entry {
        self.entries.entry(key.clone()).or_default()
    }

    /// Forgets a pair.
    pub fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.release(key, &entry.references);
        }
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A tenant's copy was seen. True if the pair must be looked at.
    pub fn tenant_seen(&mut self, key: &Key, facts: Facts, body: Bytes) -> bool {
        let epoch = self.tenant.get(&key.kind).copied().unwrap_or_default().epoch;
        let entry = self.entry(key);
        entry.tenant_epoch = epoch;
        if is_old(&entry.tenant, &facts) {
            return false;
        }
        let settled = entry.settled.and_then(|s| s.tenant) == Some(Mark::from(&facts)) && !node_moved(&entry.tenant, &facts);
        entry.tenant = Slot::Here(facts, ());
        if !settled {
            entry.tenant_body = Some(body);
            entry.failures = 0;
        }
        !settled
    }

    /// A tenant's copy is gone.
    pub fn tenant_gone(&mut self, key: &Key, evidence: Evidence) {
        let entry = self.entry(key);
        entry.tenant = Slot::Absent(evidence);
        entry.tenant_body = None;
        entry.failures = 0;
    }

    /// A super copy was seen. True if the pair must be looked at.
    pub fn super_seen(&mut self, key: &Key, facts: Facts, place: Place, body: Option<Bytes>) -> bool {
        let epoch = self.sup.get(&key.kind).copied().unwrap_or_default().epoch;
        self.built_high = self.built_high.max(facts.built.map(|built| built.version).unwrap_or_default());
        let entry = self.entry(key);
        entry.sup_epoch = epoch;
        if is_old(&entry.sup, &facts) {
            return false;
        }
        let settled = entry.settled.and_then(|s| s.sup) == Some(Mark::from(&facts));
        entry.sup = Slot::Here(facts, place);
        if !settled {
            entry.sup_body = body;
            entry.failures = 0;
        }
        !settled
    }

    /// The super copy of this UID is gone. True if it was the one we knew.
    pub fn super_gone(&mut self, key: &Key, uid: Uid, evidence: Evidence) -> bool {
        let entry = self.entry(key);
        if let Slot::Here(facts, _) = &entry.sup
            && facts.uid != uid
        {
            return false;
        }
        entry.sup = Slot::Absent(evidence);
        entry.sup_body = None;
        entry.failures = 0;
        true
    }

    /// A list of a kind begins: what it does not name is absent when it ends.
    pub fn list_begins(&mut self, kind: KindId, tenant_side: bool) {
        let sync = if tenant_side { self.tenant.entry(kind) } else { self.sup.entry(kind) }.or_default();
        sync.epoch += 1;
    }

    /// A list of a kind is complete: the keys that it did not name, now absent by inference.
    pub fn list_ends(&mut self, kind: KindId, tenant_side: bool) -> Vec<Key> {
        let sync = if tenant_side { self.tenant.entry(kind) } else { self.sup.entry(kind) }.or_default();
        sync.synced = true;
        let epoch = sync.epoch;
        let mut missed = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(key, _)| key.kind == kind) {
            let there = if tenant_side {
                entry.tenant_epoch == epoch || matches!(entry.tenant, Slot::Absent(_))
            } else {
                entry.sup_epoch == epoch || matches!(entry.sup, Slot::Absent(_) | Slot::Foreign)
            };
            if there {
                continue;
            }
            if tenant_side {
                entry.tenant = Slot::Absent(Evidence::Inferred);
                entry.tenant_body = None;
            } else {
                entry.sup = Slot::Absent(Evidence::Inferred);
                entry.sup_body = None;
            }
            missed.push(key.clone());
        }
        missed
    }

    /// Whether absence of this kind counts: both sides have been listed. Kinds without a super informer pass `false` for `watched`.
    pub fn synced(&self, kind: KindId, watched: bool) -> bool {
        let done = |map: &HashMap<KindId, Sync>| map.get(&kind).is_some_and(|sync| sync.synced);
        done(&self.tenant) && (!watched || done(&self.sup))
    }

    /// Whether the super copies of a kind have been listed for this tenant.
    pub fn super_listed(&self, kind: KindId) -> bool {
        self.sup.get(&kind).is_some_and(|sync| sync.synced)
    }

    /// Forgets what was known of the tenant's side, keeping the super side: another incarnation, or a new attachment.
    pub fn reset_tenant(&mut self) {
        self.tenant.clear();
        self.wanted.clear();
        for entry in self.entries.values_mut() {
            entry.tenant = Slot::Unknown;
            entry.tenant_body = None;
            entry.settled = None;
            entry.references.clear();
            entry.failures = 0;
            entry.told = None;
        }
    }

    /// Replaces the references that `key` holds; the keys that became wanted or unwanted by it.
    pub fn hold(&mut self, key: &Key, references: &[Reference]) -> Vec<Key> {
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

/// An event that says nothing new: the same object at the same or an earlier version.
fn is_old<P>(slot: &Slot<P>, facts: &Facts) -> bool {
    matches!(slot, Slot::Here(known, _) if known.uid == facts.uid && facts.version != 0 && facts.version <= known.version)
}

fn node_moved(slot: &Slot<()>, facts: &Facts) -> bool {
    matches!(slot, Slot::Here(known, ()) if known.node != facts.node || known.placed != facts.placed)
}
