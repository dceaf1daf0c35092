//! What a [`super::Home`] knows: each vNode as it is and as it should be, and the nodes that the tenant's Pods need.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::Uid;
use kube::core::Selector;
use mirror::cx::Profile;
use mirror::kind::KindId;
use mirror::object::Content;
use rand::Rng;
use tokio::time::Instant;

use super::{Around, Grip};
use crate::index::Slot;
use crate::nodes::decide::{Act, Look, Use, Wanted, decide, declared_dead};
use crate::nodes::seen::Seen;
use crate::nodes::sup::{SuperNode, SuperNodes, project};
use crate::tenant::Tenant;

/// How soon the Pods are looked through again while the tenant's are not listed.
const UNSURE: Duration = Duration::from_secs(1);
/// The shortest time between two passes that nobody asked for.
const LULL: Duration = Duration::from_millis(500);
/// The shortest time between two looks through the Pods: a tenant may have a quarter of a million, and change its vNodes all the time.
const BETWEEN_SCANS: Duration = Duration::from_secs(1);
/// vNodes that no node of the super cluster stands for, at most: left over from nodes that are gone, or of the tenant's own making. Where
/// the super cluster's nodes are not listed yet, one beyond that is found when a Pod runs there.
const STRANGERS: usize = 1024;

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: HashMap<Arc<str>, Known>,
    pub(super) epoch: u32,
    /// Whether a node-lifecycle controller was noticed.
    pub(super) lifecycle: bool,
    used: Option<Used>,
    /// Which nodes the tenant sees whether its Pods run there or not.
    pub(super) mirrored: Option<Arc<Selector>>,
    /// Whether the tenant's own Nodes were listed: before that nobody can say which of them are missing.
    pub(super) is_listed: bool,
    /// Which of the super cluster's changes it was last looked for such nodes in.
    pub(super) mirrored_at: Option<u64>,
    pub(super) scan_at: Option<Instant>,
    scanned: Option<Instant>,
    /// How many of the nodes were not known in the super cluster when last looked at.
    pub(super) strangers: usize,
}

/// The nodes that the tenant's Pods need.
#[derive(Default)]
struct Used {
    runs: HashSet<Box<str>>,
    named: HashSet<Box<str>>,
}

/// What is known of one vNode.
pub(super) struct Known {
    pub(super) seen: Option<Seen>,
    /// The last one of the name that was gone, and at which version: by our label it is watched, so it may be there all the same later.
    gone: Option<(Uid, u64)>,
    pub(super) epoch: u32,
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    pub(super) wanted: Option<Projected>,
    idle_since: Option<Instant>,
    pub(super) beat_at: Instant,
    pub(super) repair_at: Instant,
    pub(super) stuck: Option<u64>,
    pub(super) retry_at: Option<Instant>,
    pub(super) failures: u32,
}

pub(super) struct Projected {
    from: Arc<SuperNode>,
    profile: Arc<Profile>,
    content: Arc<Content>,
    wanted: Wanted,
}

impl Known {
    /// What the API server shows, if it is not what is wanted: right after it was written.
    pub(super) fn as_it_came_out(&self) -> Option<u64> {
        let (seen, wanted) = (self.seen.as_ref()?, &self.wanted.as_ref()?.wanted);
        (seen.shown != wanted.shown).then_some(seen.shown)
    }
}

/// Whether a tenant with this selector is to see a node in any case; none while nobody can say.
fn mirrors(selector: Option<&Selector>, name: &str, sup: &SuperNodes) -> Option<bool> {
    let Some(selector) = selector else { return Some(false) };
    match sup.get(name) {
        Some(node) => Some(node.is_picked_by(selector)),
        None => sup.is_listed().then_some(false),
    }
}

/// Whether a Pod of the tenant needs the node now, by a fresh look at the index; `true` if nobody can say.
pub(in crate::nodes) fn needed(tenant: &Tenant, name: &str) -> bool {
    used(tenant).is_none_or(|used| used.runs.contains(name) || used.named.contains(name))
}

impl State {
    /// An older state than the known one says nothing.
    pub(super) fn seen(&mut self, name: &str, seen: Seen) -> bool {
        let epoch = self.epoch;
        let known = self.known(name);
        known.epoch = epoch;
        if known.gone.is_some_and(|(uid, version)| uid == seen.uid && seen.version != 0 && seen.version <= version) {
            return false;
        }
        if known.seen.as_ref().is_none_or(|known| known.uid != seen.uid || seen.version == 0 || seen.version >= known.version) {
            known.seen = Some(seen);
        }
        true
    }

    pub(super) fn gone(&mut self, name: &str, uid: Uid, version: u64) -> bool {
        let Some(known) = self.nodes.get_mut(name) else { return false };
        if known.seen.as_ref().is_some_and(|seen| seen.uid != uid) {
            return false;
        }
        known.seen = None;
        known.gone = Some((uid, version));
        known.retry_at = None;
        self.scan_at = None;
        true
    }

    pub(super) fn known(&mut self, name: &str) -> &mut Known {
        let epoch = self.epoch;
        self.nodes.entry(name.into()).or_insert_with(|| {
            let now = Instant::now();
            Known {
                seen: None,
                gone: None,
                epoch,
                gate: Arc::default(),
                wanted: None,
                idle_since: None,
                beat_at: now + Duration::from_millis(rand::rng().random_range(0..3000)),
                repair_at: now,
                stuck: None,
                retry_at: None,
                failures: 0,
            }
        })
    }

    pub(super) fn takes_in(&mut self, name: &str, is_in_super: bool) -> bool {
        if is_in_super || self.nodes.contains_key(name) {
            return true;
        }
        let has_room = self.strangers < STRANGERS;
        self.strangers += usize::from(has_room);
        has_room
    }

    /// Whether the Pods are to be looked through now.
    fn is_scan_due(&mut self, now: Instant) -> bool {
        let soonest = self.scanned.map(|at| at + BETWEEN_SCANS);
        let at = self.scan_at.max(soonest);
        if at.is_some_and(|at| now < at) {
            self.scan_at = at;
            return false;
        }
        self.scanned = Some(now);
        true
    }

    /// Looks through the index for the nodes that Pods need, now and then.
    pub(super) fn scan_if_due(&mut self, tenant: &Tenant, around: &Around<'_>, now: Instant) {
        if !self.is_scan_due(now) {
            return;
        }
        self.used = used(tenant);
        let Some(used) = &self.used else {
            self.scan_at = Some(now + UNSURE);
            return;
        };
        self.scan_at = Some(now + around.options.scan());
        let missing: Vec<Box<str>> = used.runs.iter().filter(|name| !self.nodes.contains_key(&***name)).cloned().collect();
        for (name, known) in &mut self.nodes {
            let needed = used.runs.contains(&**name)
                || used.named.contains(&**name)
                || mirrors(self.mirrored.as_deref(), name, around.sup) != Some(false);
            known.idle_since = if needed { None } else { known.idle_since.or(Some(now)) };
        }
        for name in missing {
            self.known(&name);
        }
    }

    /// Whether a node is mirrored; none while nobody can say.
    pub(super) fn mirrors(&self, name: &str, sup: &SuperNodes) -> Option<bool> {
        mirrors(self.mirrored.as_deref(), name, sup)
    }

    /// Takes note of the nodes that are mirrored, if there may be others than before.
    pub(super) fn take_in_mirrored(&mut self, sup: &SuperNodes) {
        let Some(selector) = self.mirrored.clone() else { return };
        let generation = sup.generation();
        if self.mirrored_at.replace(generation) != Some(generation) {
            for name in sup.picked_by(&selector) {
                self.known(&name);
            }
        }
    }

    fn used(&self, name: &str, sup: &SuperNodes, now: Instant) -> Use {
        let mirrors = self.mirrors(name, sup);
        if mirrors == Some(true) && self.is_listed {
            return Use::Runs;
        }
        let Some(used) = &self.used else { return Use::Unsure };
        if used.runs.contains(name) {
            return Use::Runs;
        }
        if used.named.contains(name) {
            return Use::Named;
        }
        if mirrors != Some(false) {
            return Use::Unsure;
        }
        match self.nodes.get(name).and_then(|known| known.idle_since) {
            Some(since) => Use::None(now.saturating_duration_since(since)),
            None => Use::Unsure,
        }
    }

    fn project(&mut self, name: &Arc<str>, around: &Around<'_>) {
        let (sup, profile) = (around.sup.get(name), around.attached.profile());
        let Some(known) = self.nodes.get_mut(name) else { return };
        let Some(sup) = sup else {
            known.wanted = None;
            return;
        };
        if known.wanted.as_ref().is_some_and(|wanted| Arc::ptr_eq(&wanted.from, &sup) && Arc::ptr_eq(&wanted.profile, &profile)) {
            return;
        }
        known.wanted = project(&sup, around.attached, &around.options.policy).map(|(content, wanted)| Projected {
            from: sup,
            profile,
            content: content.into(),
            wanted,
        });
    }

    pub(super) fn due(&mut self, name: &Arc<str>, around: &Around<'_>, now: Instant) -> Vec<Act> {
        self.project(name, around);
        let used = self.used(name, around.sup, now);
        let Some(known) = self.nodes.get(name) else { return Vec::new() };
        let wanted = known.wanted.as_ref().map(|projected| &projected.wanted);
        if let (Some(seen), Some(wanted)) = (&known.seen, wanted) {
            self.lifecycle |= seen.lifecycle || declared_dead(seen, wanted);
        }
        let look = Look {
            seen: known.seen.as_ref(),
            wanted,
            used,
            is_lost: around.sup.is_lost(name),
            linger: around.options.linger,
            lifecycle: self.lifecycle,
            beat_due: now >= known.beat_at,
            stuck: known.stuck,
            repair_due: now >= known.repair_at,
        };
        let waits = known.retry_at.is_some_and(|at| now < at);
        let listed = self.is_listed;
        decide(&look).into_iter().filter(|act| (*act == Act::Beat || !waits) && (*act != Act::Make || listed)).collect()
    }

    pub(super) fn grip(&mut self, name: &Arc<str>, around: &Around<'_>) -> Grip {
        self.project(name, around);
        let known = self.nodes.get(name);
        let content = known.and_then(|known| known.wanted.as_ref()).map(|wanted| (wanted.content.clone(), wanted.wanted.clone()));
        Grip { seen: known.and_then(|known| known.seen.clone()), content }
    }

    /// When something may be due again, if nothing is heard until then.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let times =
            self.nodes.values().flat_map(|known| [Some(known.repair_at), known.retry_at].into_iter().flatten().filter(|at| *at > now));
        times.chain(self.scan_at).min().map(|at| at.max(now + LULL))
    }
}

/// The nodes that a tenant's Pods need; `None` while the tenant's Pods are not listed.
///
/// The super side need not be complete: a Pod that is bound in the tenant keeps its vNode by that, and one that is not bound yet has it
/// shown again before it is.
fn used(tenant: &Tenant) -> Option<Used> {
    let pod = KindId::named("Pod")?;
    let index = tenant.index.lock();
    if !index.synced(pod, false) {
        return None;
    }
    let mut used = Used::default();
    for (_, entry) in index.iter().filter(|(key, _)| key.kind == pod) {
        if let Slot::Here(facts, _) = &entry.sup {
            used.runs.extend(facts.node.clone());
        }
        if let Slot::Here(facts, ()) = &entry.tenant {
            used.named.extend(facts.node.clone());
        }
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn s34_nodes_of_the_tenants_own_making_are_not_taken_in_without_end() {
        let mut state = State::default();
        let told = |state: &mut State, name: &str, is_in_super: bool| {
            let taken_in = state.takes_in(name, is_in_super);
            if taken_in {
                state.known(name);
            }
            taken_in
        };
        let taken_in = (0..50_000).filter(|i| told(&mut state, &format!("fake-{i}"), false)).count();
        assert_eq!((taken_in, state.nodes.len()), (STRANGERS, STRANGERS));
        // One that is known already, and one of the super cluster.
        assert!(told(&mut state, "fake-7", false) && told(&mut state, "node-1", true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirrored_node_is_needed_once_both_sides_are_listed_and_until_it_is_not_picked() {
        let selector =
            |pool: &str| Arc::new(Selector::from_iter([("pool".to_owned(), pool.to_owned())].into_iter().collect::<BTreeMap<_, _>>()));
        let sup = SuperNodes::default();
        let mut state = State { mirrored: Some(selector("a")), ..State::default() };
        let used = |state: &State, sup: &SuperNodes| state.used("n1", sup, Instant::now());
        assert_eq!(used(&state, &sup), Use::Unsure);
        state.used = Some(Used::default());
        assert_eq!(used(&state, &sup), Use::Unsure, "the nodes of the super cluster are not listed");
        sup.list_begins();
        let node = json!({"metadata": {"name": "n1", "uid": "00000000-0000-4000-8000-000000000001", "labels": {"pool": "a"}}});
        sup.seen(&node.to_string().into_bytes().into());
        sup.list_ends();
        state.take_in_mirrored(&sup);
        assert!(state.nodes.contains_key("n1"));
        assert_eq!(used(&state, &sup), Use::Unsure, "the tenant may have it already");
        state.is_listed = true;
        assert_eq!(used(&state, &sup), Use::Runs);
        state.mirrored = Some(selector("b"));
        state.known("n1").idle_since = Some(Instant::now());
        assert_eq!(used(&state, &sup), Use::None(Duration::ZERO));
    }

    /// The tenant deletes it while it is written: the watch tells of its end before the write is answered.
    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_not_there_again_by_a_late_answer() {
        let node = |uid: u8, version: &str| {
            let metadata = json!({"name": "n1", "uid": format!("00000000-0000-4000-8000-00000000000{uid}"), "resourceVersion": version});
            Seen::of(json!({"metadata": metadata, "spec": {}, "status": {}}).to_string().as_bytes()).unwrap().1
        };
        let mut state = State::default();
        let is_there = |state: &State| state.nodes.get("n1").is_some_and(|known| known.seen.is_some());
        assert!(state.seen("n1", node(1, "5")) && is_there(&state));
        assert!(state.gone("n1", node(1, "7").uid, 7) && !is_there(&state));
        assert!(!state.seen("n1", node(1, "6")) && !is_there(&state), "the answer to what was written before");
        assert!(state.seen("n1", node(1, "8")) && is_there(&state), "it was only without our label");
        assert!(state.gone("n1", node(1, "9").uid, 9));
        assert!(state.seen("n1", node(2, "11")) && is_there(&state), "another of the name");
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_not_looked_through_for_each_vnode_that_goes() {
        let mut state = State::default();
        let mut scans = 0;
        for _ in 0..1000 {
            state.scan_at = None;
            scans += u32::from(state.is_scan_due(Instant::now()));
            assert!(state.scan_at.is_none_or(|at| at <= Instant::now() + BETWEEN_SCANS), "it is looked again when it may be");
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(scans, 10);
    }
}
