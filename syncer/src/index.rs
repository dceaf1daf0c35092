//! What is known of every pair of one tenant: facts, and bodies only in passing.

mod body;
mod entry;
mod reference;
mod room;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use common::{Name, Namespace, Tenant, Uid};
use mirror::facts::Facts;
use mirror::kind::{KindId, Reference};
use mirror::plan::{Evidence, Mark};
use tokio::time::Instant;

pub use self::body::Body;
pub use self::entry::{Entry, Look, Mounted, Place, Slot, Told, uid_of};
use self::entry::{is_old, node_moved};
use self::room::LeftOut;

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

/// How far an informer of one kind on one side is.
#[derive(Clone, Copy, Debug, Default)]
struct Sync {
    epoch: u32,
    synced: bool,
    /// Whether the API server does not serve the kind.
    unserved: bool,
}

/// All pairs of one tenant.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<Key, Entry>,
    wanted: HashMap<(Option<Namespace<Tenant>>, Reference), u32>,
    /// How many references all entries hold.
    referring: usize,
    tenant: HashMap<KindId, Sync>,
    sup: HashMap<KindId, Sync>,
    holders_known: bool,
    /// The highest `resourceVersion` of the tenant that a super copy was built from.
    pub built_high: u64,
    /// How many bytes of bodies are held.
    held: Arc<AtomicUsize>,
    /// What of the tenant's was not taken in because there is too much.
    left_out: LeftOut,
    /// Super names that are not the tenant's own: by kind, tenant namespace and super name.
    renamed: HashMap<(KindId, Namespace<Tenant>, String), Name<Tenant>>,
    /// Kinds that were configured once: what is still told of them is late.
    ended: HashSet<KindId>,
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

    /// Forgets a pair of which nothing is left; the keys that nobody wants any more.
    ///
    /// *Guarantees*: a copy that was seen since that was decided is not forgotten: whoever saw it has pushed its key, and it is decided anew.
    pub fn forget(&mut self, key: &Key) -> Vec<Key> {
        let is_back = |entry: &Entry| matches!(entry.tenant, Slot::Here(..)) || matches!(entry.sup, Slot::Here(..));
        if self.entries.get(key).is_some_and(is_back) {
            return Vec::new();
        }
        let Some(entry) = self.entries.remove(key) else { return Vec::new() };
        if let Some(known) = renamed(key) {
            self.renamed.remove(&known);
        }
        self.release(key, &entry.references)
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// The keys of a kind.
    pub fn of_kind(&self, kind: KindId) -> Vec<Key> {
        self.entries.keys().filter(|key| key.kind == kind).cloned().collect()
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
    pub fn tenant_seen(&mut self, key: &Key, facts: Facts, body: &[u8]) -> bool {
        if self.ended.contains(&key.kind) || !self.has_room(key) {
            return false;
        }
        self.left_out.gone(key);
        let epoch = self.tenant.get(&key.kind).copied().unwrap_or_default().epoch;
        let room = self.held.clone();
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
            entry.moved.get_or_insert_with(Instant::now);
            entry.tenant_body = Body::within(body, &room);
            entry.failures = 0;
        }
        !settled
    }

    /// The tenant's copy of this UID is gone, or, if none is named, whichever there was. True if the pair must be looked at.
    ///
    /// *Guarantees*: says nothing about another object of the name; counts as seen only for the object that the super copy was made of.
    pub fn tenant_gone(&mut self, key: &Key, uid: Option<Uid>) -> bool {
        self.left_out.gone(key);
        // Of what nothing is known nothing is to be forgotten either: an API server may name what never was.
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let known = uid_of(&entry.tenant);
        if known.is_some() && known != uid {
            return false;
        }
        let made_of = if let Slot::Here(_, place) = &entry.sup { Some(place.owner.uid) } else { None };
        let evidence = if uid.is_none() || made_of.is_none() || made_of == uid { Evidence::Seen } else { Evidence::Inferred };
        entry.tenant = Slot::Absent(evidence);
        entry.tenant_body = None;
        entry.asked = false;
        entry.failures = 0;
        if uid.is_some() {
            entry.ended.get_or_insert_default().tenant = uid;
        }
        true
    }

    /// A super copy was seen. True if the pair must be looked at.
    pub fn super_seen(&mut self, key: &Key, facts: Facts, place: Place, body: Option<&[u8]>) -> bool {
        if self.ended.contains(&key.kind) {
            return false;
        }
        let epoch = self.sup.get(&key.kind).copied().unwrap_or_default().epoch;
        self.built_high = self.built_high.max(facts.built.map(|built| built.version).unwrap_or_default());
        if let Some(known) = renamed(key) {
            self.renamed.insert(known, key.name.clone());
        }
        let room = self.held.clone();
        let entry = self.entry(key);
        entry.sup_epoch = epoch;
        if is_old(&entry.sup, &facts) {
            return false;
        }
        let settled = entry.settled.and_then(|s| s.sup) == Some(Mark::from(&facts));
        if let Some(ended) = entry.ended.as_mut().filter(|ended| ended.sup == Some(facts.uid)) {
            ended.sup = None;
        }
        if facts.node.is_some() {
            entry.ran = Some(place.owner.uid);
        }
        entry.sup = Slot::Here(facts, place);
        if !settled {
            entry.moved.get_or_insert_with(Instant::now);
            entry.sup_body = body.and_then(|body| Body::within(body, &room));
            entry.failures = 0;
        }
        !settled
    }

    /// The super copy of this UID is gone. True if it was the one we knew.
    pub fn super_gone(&mut self, key: &Key, uid: Uid, evidence: Evidence) -> bool {
        if self.ended.contains(&key.kind) {
            return false;
        }
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

    /// The key of the pair whose super copy has this name, in the super namespace of this one.
    pub fn by_super_name(&self, kind: KindId, namespace: &Namespace<Tenant>, name: &str) -> Option<Key> {
        let renamed = self.renamed.get(&(kind, namespace.clone(), name.to_owned())).cloned();
        let name = if let Some(name) = renamed { name } else { Name::parse(name).ok()? };
        Some(Key { kind, namespace: Some(namespace.clone()), name })
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

    /// A list of a kind begins: what it does not name is absent when it ends. Until a tenant's list is complete, and it is known where it
    /// stands, its keys wait: a control plane that is back from a backup shows what it has forgotten as new.
    pub fn list_begins(&mut self, kind: KindId, tenant_side: bool) {
        if tenant_side {
            self.left_out.list_begins(kind);
        }
        let sync = if tenant_side { self.tenant.entry(kind) } else { self.sup.entry(kind) }.or_default();
        sync.epoch += 1;
        sync.unserved = false;
        if tenant_side {
            sync.synced = false;
        }
    }

    /// The tenant's API server does not serve a kind. Nothing is absent for that, and its keys wait until there is a list.
    pub fn unserved(&mut self, kind: KindId) {
        let sync = self.tenant.entry(kind).or_default();
        (sync.synced, sync.unserved) = (false, true);
    }

    /// A list of super copies could not look into these namespaces: what is known to be there stays.
    pub fn not_listed(&mut self, kind: KindId, namespaces: &[Arc<str>]) {
        let epoch = self.sup.get(&kind).copied().unwrap_or_default().epoch;
        for (_, entry) in self.entries.iter_mut().filter(|(key, _)| key.kind == kind) {
            if matches!(&entry.sup, Slot::Here(_, place) if namespaces.contains(&place.namespace)) {
                entry.sup_epoch = epoch;
            }
        }
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
        self.referring = 0;
        self.holders_known = false;
        self.left_out = LeftOut::default();
        self.entries.values_mut().for_each(forget_tenant);
    }

    /// Forgets what was known of the tenant's side of a kind, keeping the super side: it is not followed there any more. What is below stays.
    ///
    /// *Caveats*: for kinds that refer to no others.
    pub fn reset_kind(&mut self, kind: KindId) {
        self.tenant.remove(&kind);
        self.left_out.list_begins(kind);
        self.entries.iter_mut().filter(|(key, _)| key.kind == kind).for_each(|(_, entry)| forget_tenant(entry));
    }

    /// Forgets a kind that is configured no more, and takes nothing of it in from now on. What is below stays.
    pub fn end_kind(&mut self, kind: KindId) {
        self.reset_kind(kind);
        self.sup.remove(&kind);
        self.entries.retain(|key, _| key.kind != kind);
        self.renamed.retain(|(of, ..), _| *of != kind);
        self.ended.insert(kind);
    }
}

/// Forgets what was known of the tenant's side of a pair.
fn forget_tenant(entry: &mut Entry) {
    entry.tenant = Slot::Unknown;
    entry.tenant_body = None;
    entry.ended = None;
    entry.settled = None;
    entry.references.clear();
    entry.asked = false;
    entry.failures = 0;
    entry.told = None;
    (entry.mounts, entry.pending) = (None, None);
    // How long nobody was attached says nothing about how fast we are.
    entry.moved = None;
}

/// Where a pair stands by its super name, if that is not the tenant's own.
fn renamed(key: &Key) -> Option<(KindId, Namespace<Tenant>, String)> {
    let name = key.kind.downward()?.rename(&key.name);
    (name.as_str() != key.name.as_str()).then_some((key.kind, key.namespace.clone()?, name.as_str().to_owned()))
}

#[cfg(test)]
mod tests;
