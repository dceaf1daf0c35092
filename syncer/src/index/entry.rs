//! What is known of one pair.

use std::sync::Arc;
use std::time::Duration;

use common::{Owner, Uid};
use mirror::facts::Facts;
use mirror::kind::Reference;
use mirror::mounts::Mounts;
use mirror::plan::{Declined, Evidence, Mark, Settled};
use tokio::time::Instant;

use super::Body;
use crate::events::Receipt;
use crate::mounts::certificates::Pending;
use crate::repeat::Repeat;

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

/// What a Pod mounts of its tenant, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mounted {
    /// It mounts none, or nothing is known yet.
    #[default]
    None,
    /// The Pod was made, and its Secret must be once it has a node, which its tokens name.
    Missing,
    /// The Secret is there.
    Good {
        /// When to renew the tokens, if it has any.
        renew: Option<Instant>,
        /// When to look at the tenant's trust bundles again, if there are any to look for.
        look: Option<Look>,
        /// When to ask for other certificates, if it has any.
        refresh: Option<Instant>,
        /// The UID of the Secret.
        secret: Uid,
        /// Its version when it was written, or last seen. After a restore of the super cluster's storage versions begin anew, and another hand in
        /// between is not noticed.
        version: u64,
        /// Whether somebody else has written it since.
        spoilt: bool,
        /// The UID of the super Pod that it belongs to.
        pod: Uid,
    },
}

/// A look at the tenant's trust bundles that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// The hash of those in the Secret.
    pub hash: u64,
    /// How long it was waited.
    pub pace: Duration,
}

impl Look {
    /// The first, at this pace.
    pub fn first(hash: u64, pace: Duration) -> Self {
        Self { at: jittered(pace), hash, pace }
    }

    /// The next, where these are to be there now. What moves all the time is looked at ever less: each time a whole Secret is written.
    pub fn next(before: Option<Self>, hash: u64, pace: Duration) -> Self {
        let pace = match before {
            Some(before) if before.hash == hash => (before.pace / 2).max(pace),
            Some(before) => before.pace.saturating_mul(2).clamp(pace, SELDOM.max(pace)),
            None => pace,
        };
        Self::first(hash, pace)
    }
}

/// How seldom the trust bundles of a Pod are looked at that are others each time.
const SELDOM: Duration = Duration::from_hours(1);

/// Not all at once.
fn jittered(pace: Duration) -> Instant {
    Instant::now() + pace.mul_f64(rand::random_range(0.75..1.25))
}

impl Mounted {
    /// When something is to be done about a Secret that is there.
    pub fn next(self) -> Option<Instant> {
        match self {
            Self::None | Self::Missing => None,
            Self::Good { renew, look, refresh, .. } => [renew, look.map(|look| look.at), refresh].into_iter().flatten().min(),
        }
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
    /// The refusal that the tenant was last told of.
    pub told: Option<Box<Told>>,
    /// When the first event came since the pair last agreed.
    pub moved: Option<Instant>,
    /// What is known of what it mounts of its tenant, for Pods.
    pub mounted: Mounted,
    /// What the tenant's Pod of this UID mounts, while it is to be asked for or looked at again, and is not long.
    pub mounts: Option<(Uid, Arc<Mounts>)>,
    /// Certificates that were asked for and not given yet.
    pub pending: Option<Box<Pending>>,
    /// The references that this object holds.
    pub references: Vec<Reference>,
    /// The last write, for the loop guard.
    pub repeat: Option<Repeat>,
    /// What the tenant's API server did not take of what the super cluster chose, and until when that counts. Nearly always nothing.
    pub declined: Option<Box<[(Declined, Instant)]>>,
    /// Whether it has been asked for them.
    pub asked: bool,
    /// The tenant's object whose super copy was last seen on a node: it may have run, whatever the tenant has heard of it.
    pub(super) ran: Option<Uid>,
    /// The copies that were last seen to end.
    pub(super) ended: Option<Box<Ended>>,
    pub(super) tenant_epoch: u32,
    pub(super) sup_epoch: u32,
}

impl Entry {
    /// Whether there is nothing to do: the pair agreed as it is, and its tokens are good for now.
    pub fn rests(&self, now: Instant) -> bool {
        let mark = |facts: Option<&Facts>| facts.map(Mark::from);
        let agrees = |settled: Settled| settled.tenant == mark(facts_of(&self.tenant)) && settled.sup == mark(facts_of(&self.sup));
        let is_due = match self.mounted {
            Mounted::None => false,
            Mounted::Missing => self.has_node(),
            Mounted::Good { .. } => self.mounted.next().is_some_and(|next| next <= now),
        };
        !is_due && self.settled.is_some_and(agrees)
    }

    /// Whether the tenant's copy has a node.
    pub fn has_node(&self) -> bool {
        facts_of(&self.tenant).is_some_and(|facts| facts.node.is_some())
    }

    /// What the tenant's API server did not take lately, and is not asked again for now.
    pub fn declined(&self, now: Instant) -> Vec<Declined> {
        self.declined.iter().flatten().filter(|(_, until)| now < *until).map(|(declined, _)| declined.clone()).collect()
    }

    /// The tenant's API server does not take a choice. The time of one that it said the same of before stays.
    pub fn note_declined(&mut self, declined: Declined, until: Instant) {
        let before = self.declined.take().unwrap_or_default();
        let same = before.iter().find(|(known, _)| (known.offer, &known.message) == (declined.offer, &declined.message));
        let at = same.map_or_else(|| declined.at.clone(), |(known, _)| known.at.clone());
        let offer = declined.offer;
        let others = before.into_iter().filter(|(known, _)| known.offer != offer).take(OTHERS);
        self.declined = Some([(Declined { at, ..declined }, until)].into_iter().chain(others).collect());
    }

    /// Whether the tenant's object of this UID has been on a node of the super cluster.
    pub fn ran(&self, tenant: Uid) -> bool {
        self.ran == Some(tenant)
    }
}

/// Choices of one object beside the last that count as declined at a time: no kind makes more.
const OTHERS: usize = 3;

/// A refusal that the tenant was told of.
#[derive(Debug)]
pub struct Told {
    /// Of what was said.
    pub hash: u64,
    /// When.
    pub at: Instant,
    /// What became of the Event.
    pub receipt: Receipt,
}

/// API servers keep Events for an hour; what still holds is told again before, so that whoever looks finds it.
const AGAIN: Duration = Duration::from_mins(45);

impl Told {
    /// Whether this need not be told: it was, and it is there, or on its way.
    pub fn stands(&self, hash: u64) -> bool {
        self.hash == hash && !self.receipt.is_lost() && self.at.elapsed() < AGAIN
    }
}

/// UIDs that do not come back: an answer that was on its way when its object ended must not bring it back to life.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended {
    pub(super) tenant: Option<Uid>,
    pub(super) sup: Option<Uid>,
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
            moved: None,
            mounted: Mounted::None,
            mounts: None,
            pending: None,
            references: Vec::new(),
            repeat: None,
            declined: None,
            asked: false,
            ran: None,
            ended: None,
            tenant_epoch: 0,
            sup_epoch: 0,
        }
    }
}

/// The UID of the copy, if there is one.
pub fn uid_of<P>(slot: &Slot<P>) -> Option<Uid> {
    facts_of(slot).map(|facts| facts.uid)
}

fn facts_of<P>(slot: &Slot<P>) -> Option<&Facts> {
    if let Slot::Here(facts, _) = slot { Some(facts) } else { None }
}

/// An event that says nothing new: the same object at the same or an earlier version.
pub(super) fn is_old<P>(slot: &Slot<P>, facts: &Facts) -> bool {
    matches!(slot, Slot::Here(known, _) if known.uid == facts.uid && facts.version != 0 && facts.version <= known.version)
}

pub(super) fn node_moved(slot: &Slot<()>, facts: &Facts) -> bool {
    matches!(slot, Slot::Here(known, ()) if known.node != facts.node || known.placed != facts.placed)
}
