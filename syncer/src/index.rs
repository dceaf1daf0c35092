//! What is known of every pair of one tenant: facts, and bodies only in passing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{Name, Namespace, Owner, Tenant, Uid};
use mirror::facts::Facts;
use mirror::kind::{Demand, Downward, KindId, Reference};
use mirror::plan::{Evidence, Mark, Settled};
use tokio::time::Instant;

use crate::repeat::Repeat;

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

/// A body that waits to be looked at; counts against its tenant's room for as long as it lives.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    room: Arc<AtomicUsize>,
}

impl Body {
    fn new(bytes: Bytes, room: &Arc<AtomicUsize>) -> Self {
        room.fetch_add(bytes.len(), Ordering::Relaxed);
        Self { bytes, room: room.clone() }
    }

    /// The body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.room.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// What is known of one pair.
#[derive(Debug)]
pub struct Entry {
    /// The tenant's side.
    pub tenant: Slot<()>,
    /// The tenant's body, while the pair is not settled.
    pub tenant_body: Option<Body>,
    /// The super side.
    pub sup: Slot<Place>,
    /// The super body, while the pair is not settled.
    pub sup_body: Option<Body>,
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
    /// The last write, for the loop guard.
    pub repeat: Option<Repeat>,
    /// Whether it has been asked for them.
    pub asked: bool,
    /// The copies that were last seen to end.
    ended: Option<Box<Ended>>,
    tenant_epoch: u32,
    sup_epoch: u32,
}

/// UIDs that do not come back: an answer that was on its way when its object ended must not bring it back to life.
#[derive(Clone, Debug, Default)]
struct Ended {
    tenant: Option<Uid>,
    sup: Option<Uid>,
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
            repeat: None,
            asked: false,
            ended: None,
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
    holders_known: bool,
    /// The highest `resourceVersion` of the tenant that a super copy was built from.
    pub built_high: u64,
    /// How many bytes of bodies are held.
    held: Arc<AtomicUsize>,
    /// How many of the tenant's objects were not taken in because there are too many.
    left_out: u64,
}

/// Bodies that one tenant's pairs hold at most, in bytes. What passes beyond is let go, and fetched when its turn comes.
const BODIES: usize = 32 * 1024 * 1024;

/// References of one object that are followed: many times what a Pod that can be scheduled has.
const REFERENCES: usize = 512;

/// Pairs of one tenant at most: far beyond what its API server keeps up with, and some 100 MB here.
const PAIRS: usize = 250_000;

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

    /// Forgets a pair; the keys that nobody wants any more.
    pub fn forget(&mut self, key: &Key) -> Vec<Key> {
        self.entries.remove(key).map(|entry| self.release(key, &entry.references)).unwrap_or_default()
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
        if self.entries.len() >= PAIRS && !self.entries.contains_key(key) {
            self.left_out = self.left_out.saturating_add(1);
            return false;
        }
        let epoch = self.tenant.get(&key.kind).copied().unwrap_or_default().epoch;
        let body = self.room_for(body);
        let entry = self.entry(key);
        entry.tenant_epoch = epoch;
        if is_old(&entry.tenant, &facts) {
            return false;
        }
        let settled = entry.settled.and_then(|s| s.tenant) == Some(Mark::from(&facts)) && !node_moved(&entry.tenant, &facts);
        if let Some(ended) = entry.ended.as_mut().filter(|ended| ended.tenant == Some(facts.uid)) {
            // Back from a backup.
            ended.tenant = None;
        }
        entry.tenant = Slot::Here(facts, ());
        if !settled {
            entry.tenant_body = body;
            entry.failures = 0;
        }
        !settled
    }

    /// The tenant's copy of this UID is gone, or, if none is named, whichever there was. True if the pair must be looked at.
    ///
    /// *Guarantees*: says nothing about another object of the name; counts as seen only for the object that the super copy was made of.
    pub fn tenant_gone(&mut self, key: &Key, uid: Option<Uid>) -> bool {
        let entry = self.entry(key);
        let known = uid_of(&entry.tenant);
        if known.is_some() && known != uid {
            return false;
        }
        let made_of = if let Slot::Here(_, place) = &entry.sup { Some(place.owner.uid) } else { None };
        let evidence = if uid.is_none() || made_of.is_none() || made_of == uid { Evidence::Seen } else { Evidence::Inferred };
        entry.tenant = Slot::Absent(evidence);
        entry.tenant_body = None;
        entry.failures = 0;
        if uid.is_some() {
            entry.ended.get_or_insert_default().tenant = uid;
        }
        true
    }

    /// A super copy was seen. True if the pair must be looked at.
    pub fn super_seen(&mut self, key: &Key, facts: Facts, place: Place, body: Option<Bytes>) -> bool {
        let epoch = self.sup.get(&key.kind).copied().unwrap_or_default().epoch;
        self.built_high = self.built_high.max(facts.built.map(|built| built.version).unwrap_or_default());
        let body = body.and_then(|body| self.room_for(body));
        let entry = self.entry(key);
        entry.sup_epoch = epoch;
        if is_old(&entry.sup, &facts) {
            return false;
        }
        let settled = entry.settled.and_then(|s| s.sup) == Some(Mark::from(&facts));
        if let Some(ended) = entry.ended.as_mut().filter(|ended| ended.sup == Some(facts.uid)) {
            ended.sup = None;
        }
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
        entry.ended.get_or_insert_default().sup = Some(uid);
        true
    }

    /// Whether an answer to a request of ours says less than is known already: its object has ended, or another has taken its place,
    /// while the answer was on its way. Lists and watches say what is, and are not asked.
    pub fn is_overtaken(&self, key: &Key, facts: &Facts, tenant_side: bool) -> bool {
        let Some(entry) = self.get(key) else { return false };
        let ended = entry.ended.as_ref().and_then(|ended| if tenant_side { ended.tenant } else { ended.sup });
        let known = match (tenant_side, &entry.tenant, &entry.sup) {
            (true, Slot::Here(known, ()), _) | (false, _, Slot::Here(known, _)) => Some(known),
            (true | false, _, _) => None,
        };
        let replaced = known.is_some_and(|known| known.uid != facts.uid && facts.version != 0 && facts.version < known.version);
        ended == Some(facts.uid) || replaced
    }

    /// A body that was asked for. Kept however little room there is, until [`Index::make_room`], and only beside the facts of its version.
    pub fn body_read(&mut self, key: &Key, version: u64, bytes: &Bytes, tenant_side: bool) {
        let room = self.held.clone();
        let entry = self.entry(key);
        if tenant_side && matches!(&entry.tenant, Slot::Here(known, ()) if known.version == version) {
            entry.tenant_body = Some(Body::new(bytes.clone(), &room));
        } else if !tenant_side && matches!(&entry.sup, Slot::Here(known, _) if known.version == version) {
            entry.sup_body = Some(Body::new(bytes.clone(), &room));
        }
    }

    /// Lets the bodies of a pair go if the tenant holds too many.
    pub fn make_room(&mut self, key: &Key) {
        if self.held.load(Ordering::Relaxed) > BODIES
            && let Some(entry) = self.entries.get_mut(key)
        {
            entry.tenant_body = None;
            entry.sup_body = None;
        }
    }

    /// How many of the tenant's objects were not taken in because there are too many.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn room_for(&self, body: Bytes) -> Option<Body> {
        let held = self.held.load(Ordering::Relaxed);
        (held.saturating_add(body.len()) <= BODIES).then(|| Body::new(body, &self.held))
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
        self.holders_known = false;
        for entry in self.entries.values_mut() {
            entry.tenant = Slot::Unknown;
            entry.tenant_body = None;
            entry.ended = None;
            entry.settled = None;
            entry.references.clear();
            entry.failures = 0;
            entry.told = None;
        }
    }

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

/// The UID of the copy, if there is one.
pub fn uid_of<P>(slot: &Slot<P>) -> Option<Uid> {
    if let Slot::Here(facts, _) = slot { Some(facts.uid) } else { None }
}

/// An event that says nothing new: the same object at the same or an earlier version.
fn is_old<P>(slot: &Slot<P>, facts: &Facts) -> bool {
    matches!(slot, Slot::Here(known, _) if known.uid == facts.uid && facts.version != 0 && facts.version <= known.version)
}

fn node_moved(slot: &Slot<()>, facts: &Facts) -> bool {
    matches!(slot, Slot::Here(known, ()) if known.node != facts.node || known.placed != facts.placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { kind: KindId::named("Pod").unwrap(), namespace: Some(Namespace::parse("default").unwrap()), name: Name::parse(name).unwrap() }
    }

    const fn uid(low: u128) -> Uid {
        Uid::from_bits(low)
    }

    fn facts(of: u128, version: u64) -> Facts {
        let text = format!(r#"{{"metadata":{{"name":"a","uid":"{}","resourceVersion":"{version}"}}}}"#, uid(of));
        mirror::facts::Seen::of(text.as_bytes()).unwrap().facts
    }

    fn place(made_of: u128) -> Place {
        let owner =
            Owner { tenant: uid(99), namespace: Namespace::parse("default").ok(), name: Name::parse("a").unwrap(), uid: uid(made_of) };
        Place { namespace: "vc-x".into(), name: "a".into(), owner }
    }

    #[test]
    fn s43_a_late_delete_of_an_earlier_object_says_nothing_of_the_one_that_is_there() {
        let mut index = Index::default();
        assert!(index.tenant_seen(&key("a"), facts(2, 9), Bytes::new()));
        assert!(!index.tenant_gone(&key("a"), Some(uid(1))));
        assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Here(..)));
        // Nor does a "not found" from before it was there.
        assert!(!index.tenant_gone(&key("a"), None));
        assert!(index.tenant_gone(&key("a"), Some(uid(2))));
        assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Absent(Evidence::Seen)));
    }

    #[test]
    fn an_answer_that_was_overtaken_by_the_end_of_its_object_does_not_bring_it_back() {
        let mut index = Index::default();
        index.tenant_seen(&key("a"), facts(1, 5), Bytes::new());
        index.super_seen(&key("a"), facts(50, 3), place(1), None);
        let overtaken = |index: &Index, of: u128, version: u64, side: bool| index.is_overtaken(&key("a"), &facts(of, version), side);
        assert!(!overtaken(&index, 1, 6, true) && !overtaken(&index, 50, 4, false));
        assert!(index.tenant_gone(&key("a"), Some(uid(1))) && index.super_gone(&key("a"), uid(50), Evidence::Seen));
        assert!(overtaken(&index, 1, 6, true) && overtaken(&index, 50, 4, false));
        assert!(!overtaken(&index, 2, 9, true) && !overtaken(&index, 51, 9, false));
        // Nor does it take the place of the next object of that name.
        index.tenant_seen(&key("a"), facts(2, 9), Bytes::new());
        assert!(overtaken(&index, 1, 6, true) && overtaken(&index, 3, 8, true));
        assert!(!overtaken(&index, 2, 10, true) && !overtaken(&index, 3, 11, true));
        // A list that shows it again, as after a backup, is believed.
        index.tenant_seen(&key("a"), facts(1, 12), Bytes::new());
        assert!(!overtaken(&index, 1, 13, true));
    }

    #[test]
    fn s43_a_delete_is_evidence_only_against_the_copy_that_was_made_of_that_object() {
        let mut index = Index::default();
        index.super_seen(&key("a"), facts(50, 3), place(2), None);
        assert!(index.tenant_gone(&key("a"), Some(uid(1))));
        assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Absent(Evidence::Inferred)));
        assert!(index.tenant_gone(&key("a"), Some(uid(2))));
        assert!(matches!(index.get(&key("a")).unwrap().tenant, Slot::Absent(Evidence::Seen)));
    }

    #[test]
    fn s33_bodies_of_one_tenant_have_a_bound_and_room_comes_back() {
        let mut index = Index::default();
        let body = Bytes::from(vec![b' '; 1024 * 1024]);
        let held = |index: &Index| index.iter().filter(|(_, entry)| entry.tenant_body.is_some()).count();
        for i in 0..40_u128 {
            index.tenant_seen(&key(&format!("a{i}")), facts(i + 1, 1), body.clone());
        }
        assert_eq!(held(&index), 32);
        // What was asked for is there while it is looked at, and goes then.
        index.body_read(&key("a39"), 1, &body, true);
        assert!(index.get(&key("a39")).unwrap().tenant_body.is_some());
        index.make_room(&key("a39"));
        assert!(index.get(&key("a39")).unwrap().tenant_body.is_none());
        for i in 0..8 {
            index.forget(&key(&format!("a{i}")));
        }
        for i in 32..40_u128 {
            index.tenant_seen(&key(&format!("a{i}")), facts(i + 1, 2), body.clone());
        }
        assert_eq!((held(&index), index.held.load(Ordering::Relaxed)), (32, BODIES));
    }

    #[test]
    fn s33_references_without_end_are_not_followed() {
        let mut index = Index::default();
        let references: Vec<_> = (0..10_000).map(|i| Reference { kind: "Secret", name: format!("s{i}") }).collect();
        assert_eq!(index.hold(&key("a"), &references).len(), REFERENCES);
        assert_eq!(index.hold(&key("a"), &references), []);
        assert_eq!(index.hold(&key("a"), &[]).len(), REFERENCES);
        assert!(index.wanted.is_empty());
    }

    #[test]
    fn s34_objects_without_end_are_not_taken_in() {
        let mut index = Index::default();
        let some = facts(1, 1);
        for i in 0..PAIRS + 5 {
            index.tenant_seen(&key(&format!("a{i}")), some.clone(), Bytes::new());
        }
        assert_eq!((index.len(), index.left_out()), (PAIRS, 5));
        // What is known goes on.
        assert!(index.tenant_seen(&key("a7"), facts(1, 2), Bytes::new()));
        index.forget(&key("a7"));
        assert!(index.tenant_seen(&key("b"), some, Bytes::new()));
    }
}
