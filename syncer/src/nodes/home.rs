//! What is known of one attached tenant's vNodes, and what is due for each.

mod state;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::Uid;
use kube::core::Selector;
use mirror::object::Content;
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::State;
pub(super) use self::state::needed;
use super::NodesOptions;
use super::decide::{Act, Wanted};
use super::seen::Seen;
use super::sup::SuperNodes;
use crate::tenant::{Attached, Tenant};
use crate::work::Lane;

/// How long something that was undone stays so before it is written again: two writers must not race each other.
const REPAIR: Duration = Duration::from_secs(5);
/// The longest back-off of a vNode that cannot be written.
const LONGEST: Duration = Duration::from_mins(1);

/// One attached tenant's vNodes.
pub(super) struct Home {
    pub(super) lane: Lane,
    /// Cancelled when the attachment ends; tells one attachment from the next.
    pub(super) cancel: CancellationToken,
    /// Whether a keeper runs for it.
    pub(super) kept: AtomicBool,
    /// Wakes the keeper.
    pub(super) wake: Notify,
    state: Mutex<State>,
}

/// What is to be done now, and when to look again.
pub(super) struct Pass {
    pub(super) acts: Vec<(Arc<str>, Act)>,
    pub(super) next: Option<Instant>,
}

/// What one act on a vNode needs.
pub(super) struct Grip {
    pub(super) seen: Option<Seen>,
    pub(super) content: Option<(Arc<Content>, Wanted)>,
}

/// What vNodes are made from.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) attached: &'a Attached,
    pub(super) sup: &'a SuperNodes,
    pub(super) options: &'a NodesOptions,
}

impl Home {
    pub(super) fn new(attached: &Attached) -> Self {
        Self {
            lane: attached.id.as_str().into(),
            cancel: attached.cancel.clone(),
            kept: AtomicBool::new(false),
            wake: Notify::new(),
            state: Mutex::default(),
        }
    }

    /// From now on the tenant sees the nodes that a selector picks, whether its Pods run there or not; with none, only where they run.
    pub(super) fn mirror(&self, selector: Option<Selector>) {
        let mut state = self.state.lock();
        if state.mirrored.as_deref() == selector.as_ref() {
            return;
        }
        (state.mirrored, state.mirrored_at, state.scan_at) = (selector.map(Arc::new), None, None);
        drop(state);
        self.wake.notify_one();
    }

    /// Whether news of this node concern it.
    pub(super) fn cares_for(&self, name: &str) -> bool {
        let state = self.state.lock();
        state.mirrored.is_some() || state.nodes.contains_key(name)
    }

    /// Whether the tenant is to see this node even where none of its Pods runs, as far as anybody can say.
    pub(super) fn mirrors(&self, name: &str, sup: &SuperNodes) -> bool {
        self.state.lock().mirrors(name, sup) != Some(false)
    }

    pub(super) fn list_begins(&self) {
        self.state.lock().epoch += 1;
    }

    /// A list is complete: the vNodes that are there.
    pub(super) fn list_ends(&self) -> BTreeSet<String> {
        let mut state = self.state.lock();
        let epoch = state.epoch;
        for known in state.nodes.values_mut().filter(|known| known.epoch != epoch) {
            known.seen = None;
        }
        state.scan_at = None;
        state.is_listed = true;
        let there = state.nodes.iter().filter(|(_, known)| known.seen.is_some());
        there.map(|(name, _)| name.to_string()).collect()
    }

    /// Whether a vNode that is there can be taken in: it stands for a node of the super cluster, or is not one too many of those that do not.
    pub(super) fn takes_in(&self, name: &str, sup: &SuperNodes) -> bool {
        self.state.lock().takes_in(name, sup.get(name).is_some())
    }

    /// A vNode is there, by a watch or by what was answered to a write. True if it is: an answer may come after the news that it is gone.
    pub(super) fn seen(&self, name: &str, seen: Seen) -> bool {
        self.state.lock().seen(name, seen)
    }

    /// A vNode is gone since this version. True if it was the one we knew.
    pub(super) fn gone(&self, name: &str, uid: Uid, version: u64) -> bool {
        self.state.lock().gone(name, uid, version)
    }

    /// One thing at a time is done about a vNode.
    pub(super) fn gate(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.state.lock().known(name).gate.clone()
    }

    /// Forgets a vNode that is not there.
    pub(super) fn forget(&self, name: &str) {
        let mut state = self.state.lock();
        if state.nodes.get(name).is_some_and(|known| known.seen.is_none() && Arc::strong_count(&known.gate) <= 2) {
            state.nodes.remove(name);
        }
    }

    /// The Pods are to be looked through again at the next pass.
    pub(super) fn rescan(&self) {
        self.state.lock().scan_at = None;
    }

    /// What is to be written, for all vNodes.
    pub(super) fn pass(&self, tenant: &Tenant, around: &Around<'_>) -> Pass {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.take_in_mirrored(around.sup);
        state.scan_if_due(tenant, around, now);
        let names: Vec<Arc<str>> = state.nodes.keys().cloned().collect();
        let mut acts = Vec::new();
        for name in &names {
            let due = state.due(name, around, now);
            acts.extend(due.into_iter().filter(|act| *act != Act::Beat).map(|act| (name.clone(), act)));
        }
        state.strangers = state.nodes.values().filter(|known| known.wanted.is_none()).count();
        let next = state.next(now);
        Pass { acts, next }
    }

    /// The vNodes whose Leases are to be renewed.
    pub(super) fn beats(&self, around: &Around<'_>) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if !state.lifecycle {
            return Vec::new();
        }
        let due = state.nodes.iter().filter(|(_, known)| known.seen.is_some() && now >= known.beat_at);
        let names: Vec<Arc<str>> = due.map(|(name, _)| name.clone()).collect();
        names.into_iter().filter(|name| state.due(name, around, now).contains(&Act::Beat)).collect()
    }

    /// Whether this act is still due; if so, what it needs. Asked behind the gate.
    pub(super) fn still(&self, name: &Arc<str>, act: Act, around: &Around<'_>) -> Option<Grip> {
        let mut state = self.state.lock();
        let due = state.due(name, around, Instant::now());
        due.contains(&act).then(|| state.grip(name, around))
    }

    /// What writing this vNode needs.
    pub(super) fn grip(&self, name: &str, around: &Around<'_>) -> Grip {
        let name: Arc<str> = name.into();
        let mut state = self.state.lock();
        state.known(&name);
        state.grip(&name, around)
    }

    /// An act went well; what the vNode is now, if the answer says.
    pub(super) fn done(&self, name: &str, act: Act, options: &NodesOptions) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(known) = state.nodes.get_mut(name) else { return };
        match act {
            Act::Beat => known.beat_at = now + options.heartbeat.mul_f64(rand::rng().random_range(0.75..1.0)),
            Act::Make | Act::Rewrite | Act::Untaint | Act::Delete | Act::Forget => {
                known.failures = 0;
                known.retry_at = None;
                if act != Act::Make {
                    known.repair_at = now + REPAIR;
                }
                if act == Act::Rewrite {
                    known.stuck = known.as_it_came_out();
                }
            }
        }
    }

    /// An act went wrong: when to try again.
    pub(super) fn failed(&self, name: &str, act: Act) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Some(known) = state.nodes.get_mut(name) else { return };
        if act == Act::Beat {
            known.beat_at = now + Duration::from_millis(rand::rng().random_range(2000..5000));
            return;
        }
        known.failures = known.failures.saturating_add(1);
        let cap = Duration::from_millis(500).saturating_mul(1 << known.failures.min(8)).min(LONGEST);
        known.retry_at = Some(now + cap.mul_f64(rand::rng().random_range(0.5..1.0)));
    }
}
