//! The planner: what to do about one pair of copies, purely and alike for all downward kinds: existence, identity, deletion, difference.
//!
//! Each side is compared with *itself earlier* ([`Settled`]), never with the other, so server defaults, injected sidecars and our own
//! echoes are not differences. What cannot be decided from facts asks for a body ([`Outcome::Fetch`]).

mod choice;
mod report;

use std::collections::BTreeMap;

use common::{InSuper, InTenant, Owner, TenantId, Uid, keys};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::cx::Cx;
use crate::facts::{Built, Facts};
use crate::hold::{Hold, Missing};
use crate::kind::{Addition, Choice, Demand, Downward, Reference};
use crate::mounts::Mounts;
use crate::object::{Content, Object};

pub use choice::Declined;
use choice::{Chosen, chosen};
use report::difference_up;

/// One copy: what is known of it, and its body while that is at hand.
#[derive(Clone, Debug)]
pub struct Copy<B> {
    /// What is remembered of it.
    pub facts: Facts,
    /// The body, if it has just passed or was fetched.
    pub body: Option<B>,
}

/// The tenant's copy.
pub type TenantCopy = Copy<InTenant<Object>>;
/// The super copy.
pub type SuperCopy = Copy<InSuper<Object>>;

/// How the absence of a copy is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A DELETE was seen on a watch of the current incarnation, or a quorum read said "not found".
    Seen,
    /// It was not in a list. Nothing is deleted on that word alone.
    Inferred,
}

/// The tenant's side of a pair. Exists only for tenants whose informers have synced.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one plan, never in a collection")]
pub enum TenantSide {
    /// There is a copy.
    Here(TenantCopy),
    /// There is none.
    Absent(Evidence),
}

/// The super side of a pair.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one plan, never in a collection")]
pub enum SuperSide {
    /// Our copy, by its record.
    Ours(SuperCopy, Owner),
    /// Somebody else's object has the name: never touched, never reported.
    Foreign,
    /// There is none.
    Absent(Evidence),
}

/// The two copies of one object, and what is known of the last time that they agreed.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The tenant's side.
    pub tenant: TenantSide,
    /// The super side.
    pub sup: SuperSide,
    /// When they last agreed, in this process.
    pub settled: Option<Settled>,
    /// Whether something that went down refers to the object. Counts for [`Demand::Referenced`] only.
    pub wanted: bool,
    /// Whether a super copy of this very tenant's object was seen on a node, though the tenant may not have heard of it yet.
    pub ran: bool,
    /// What the tenant's API server lately did not take of what the super cluster chose.
    pub declined: Vec<Declined>,
}

/// What a copy was when the pair last agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The UID.
    pub uid: Uid,
    /// [`Facts::main`].
    pub main: u64,
    /// [`Facts::status`].
    pub status: u64,
    /// Whether it was being deleted.
    pub deleting: bool,
}

impl From<&Facts> for Mark {
    fn from(facts: &Facts) -> Self {
        Self { uid: facts.uid, main: facts.main, status: facts.status, deleting: facts.deleting }
    }
}

/// A pair that agreed: as long as neither side has moved from its mark there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The tenant's copy then.
    pub tenant: Option<Mark>,
    /// The super copy then.
    pub sup: Option<Mark>,
    /// The hash of what was last reported up, if a report was written or seen to be there.
    pub reported: Option<u64>,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The decision.
    pub outcome: Outcome,
    /// The objects that must go down with this one, if the tenant's body was at hand to say.
    pub references: Option<Vec<Reference>>,
    /// What is refused beside it and holds nothing else back: see [`Downward::additions`] and [`Downward::left_out`].
    pub refused: Option<Hold>,
}

/// The decision on a pair.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing to do until a side moves. Holds the last report, as [`Settled::reported`].
    Settled(Option<u64>),
    /// There is nothing on either side: forget the pair.
    Forget,
    /// These steps, in order. `reported` is the report's hash once they are done.
    Write {
        /// The steps.
        steps: Vec<Step>,
        /// As [`Settled::reported`].
        reported: Option<u64>,
        /// What is asked of the super copy is not written, and why; what became of it goes up all the same.
        held: Option<Hold>,
    },
    /// A body is needed, or an absence must be confirmed by a quorum read.
    Fetch(Want),
    /// Not now, and why.
    Hold(Hold),
}

/// Which side is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The tenant's copy.
    Tenant,
    /// The super copy.
    Super,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create the super copy, with record.
    CreateSuper {
        /// What to create; the record and [`keys::BUILT`] are in it.
        content: Content,
        /// What it mounts that its tenant's API server gives, to be asked for once it has a node.
        mounts: Mounts,
    },
    /// Replace the super copy, at the version that was read.
    UpdateSuper {
        /// The whole new content.
        content: Content,
        /// The UID of the copy that was read.
        uid: Uid,
        /// Its version.
        version: String,
    },
    /// Delete the super copy: this UID.
    DeleteSuper {
        /// The UID that must be met.
        uid: Uid,
        /// The grace period in seconds; `None` for the kind's own.
        grace_seconds: Option<u32>,
    },
    /// Add to the super copy by a subresource.
    AddToSuper {
        /// The UID that must be met.
        uid: Uid,
        /// What to add.
        addition: Addition,
    },
    /// Write the conditions of the tenant's readiness gates into the super copy's status.
    ConditionsDown {
        /// The UID that must be met.
        uid: Uid,
        /// The whole new list.
        conditions: Value,
    },
    /// Show the node to the tenant (a vNode), before anything is bound to it.
    ShowNode(String),
    /// Bind the tenant's copy to a node, marked as placed in the same write.
    Bind {
        /// The UID that must be met.
        uid: Uid,
        /// The node.
        node: String,
    },
    /// Mark the tenant's copy as placed (it named its node itself).
    MarkPlaced {
        /// The UID that must be met.
        uid: Uid,
        /// The node.
        node: String,
    },
    /// Replace the status of the tenant's copy.
    Report {
        /// The UID that must be met.
        uid: Uid,
        /// The version that must be met, where the report holds what the tenant wrote (conditions of its readiness gates).
        version: Option<String>,
        /// The whole new status.
        status: Value,
    },
    /// Let the tenant's copy say what the super cluster chose. What it becomes is planned on anew.
    Choose {
        /// The UID that must be met.
        uid: Uid,
        /// The version that must be met by the first patch.
        version: String,
        /// What [`Declined`] speaks of, if the API server does not take it.
        offer: u64,
        /// What is chosen.
        choice: Choice,
    },
    /// Delete the tenant's copy: this UID.
    DeleteTenant {
        /// The UID that must be met.
        uid: Uid,
        /// The grace period in seconds; `None` for the kind's own.
        grace_seconds: Option<u32>,
    },
}

/// References of one object that are followed: many times what a Pod that can be scheduled has. Beyond, it would wait for ever for what
/// nobody sends down, so it is refused.
pub const REFERENCES: usize = 512;

fn too_many(references: usize) -> Outcome {
    let message =
        format!("refers to {references} other objects, and more than {REFERENCES} are not followed; mount fewer, or put them together");
    Outcome::Hold(Hold::refuse("TooManyReferences", "", message))
}

/// Decides on a pair.
pub fn plan(kind: &dyn Downward, pair: &Pair, cx: &Cx<'_>) -> Plan {
    let mut references = match &pair.tenant {
        TenantSide::Here(Copy { body: Some(body), .. }) if !body_is_going(body) => Some(kind.references(body)),
        TenantSide::Here(_) | TenantSide::Absent(_) => None,
    };
    let outcome = match (&pair.tenant, &pair.sup) {
        (TenantSide::Absent(_), SuperSide::Absent(_) | SuperSide::Foreign) => Outcome::Forget,
        (TenantSide::Absent(Evidence::Inferred), SuperSide::Ours(..)) => Outcome::Fetch(Want::Tenant),
        (TenantSide::Absent(Evidence::Seen), SuperSide::Ours(sup, _)) => end_super(sup, None),
        (TenantSide::Here(tenant), SuperSide::Foreign) => foreign(kind, tenant, pair.wanted),
        (TenantSide::Here(_), SuperSide::Absent(_)) if references.as_ref().is_some_and(|all| all.len() > REFERENCES) => {
            let count = references.take().unwrap_or_default().len();
            return Plan { outcome: too_many(count), references: Some(Vec::new()), refused: None };
        }
        (TenantSide::Here(tenant), SuperSide::Absent(evidence)) => only_tenant(kind, tenant, *evidence, pair, cx),
        (TenantSide::Here(tenant), SuperSide::Ours(sup, owner)) if owner.uid != tenant.facts.uid => end_super(sup, None),
        (TenantSide::Here(tenant), SuperSide::Ours(sup, _)) => both(kind, tenant, sup, pair, cx),
    };
    if let Some(references) = &mut references {
        refer(references, kind, &outcome, &pair.sup);
    }
    let (outcome, refused) = with_additions(kind, outcome, pair, cx);
    let refused = refused.or_else(|| left_out(kind, &outcome, pair, cx));
    Plan { outcome, references, refused }
}

/// What is refused needs nothing below, and what it was before still needs what it needed.
fn refer(references: &mut Vec<Reference>, kind: &dyn Downward, outcome: &Outcome, sup: &SuperSide) {
    match (outcome, sup) {
        (Outcome::Hold(Hold::Refused(_) | Hold::Malformed(_)), SuperSide::Absent(_) | SuperSide::Foreign) => references.clear(),
        (Outcome::Hold(_) | Outcome::Write { held: Some(_), .. }, SuperSide::Ours(Copy { body: Some(sup), .. }, _)) => {
            references.extend(kind.references_below(sup));
            references.sort();
            references.dedup();
        }
        _ => {}
    }
}

/// What the tenant's copy asks for and the super copy will be without, where it goes down all the same and its body is at hand.
fn left_out(kind: &dyn Downward, outcome: &Outcome, pair: &Pair, cx: &Cx<'_>) -> Option<Hold> {
    let TenantSide::Here(tenant) = &pair.tenant else { return None };
    let goes_down = matches!(outcome, Outcome::Settled(_) | Outcome::Write { .. }) && !tenant.facts.deleting;
    // One that is to be changed does not say yet what it will lack.
    let sup = if let (SuperSide::Ours(sup, _), Outcome::Settled(_)) = (&pair.sup, outcome) { sup.body.as_ref() } else { None };
    kind.left_out(tenant.body.as_ref().filter(|_| goes_down)?, sup, cx)
}

/// Adds what the super copy takes only by a subresource, and what of that is refused. Where the tenant's copy did not move there is no body
/// of it, and nothing new.
fn with_additions(kind: &dyn Downward, outcome: Outcome, pair: &Pair, cx: &Cx<'_>) -> (Outcome, Option<Hold>) {
    let (TenantSide::Here(tenant), SuperSide::Ours(sup, _)) = (&pair.tenant, &pair.sup) else { return (outcome, None) };
    let adds = |body: &InTenant<Object>| !tenant.facts.deleting && !sup.facts.deleting && kind.adds(body);
    let Some(body) = tenant.body.as_ref().filter(|body| adds(body)) else { return (outcome, None) };
    let (mut steps, reported, held) = match outcome {
        Outcome::Settled(reported) => (Vec::new(), reported, None),
        Outcome::Write { steps, reported, held } if !steps.iter().any(|step| matches!(step, Step::DeleteSuper { .. })) => {
            (steps, reported, held)
        }
        Outcome::Write { .. } | Outcome::Forget | Outcome::Fetch(_) | Outcome::Hold(_) => return (outcome, None),
    };
    let Some(current) = &sup.body else {
        return (Outcome::Fetch(Want::Super), None);
    };
    let (additions, refused) = kind.additions(body, current, cx);
    steps.extend(additions.into_iter().map(|addition| Step::AddToSuper { uid: sup.facts.uid, addition }));
    (if steps.is_empty() { Outcome::Settled(reported) } else { Outcome::Write { steps, reported, held } }, refused)
}

fn body_is_going(body: &Object) -> bool {
    body.meta.deletion.is_some()
}

/// Deletes the super copy, or waits where that has begun.
fn end_super(sup: &SuperCopy, grace_seconds: Option<u32>) -> Outcome {
    if sup.facts.deleting {
        return Outcome::Hold(Hold::Until(Missing::SuperGone));
    }
    write(Step::DeleteSuper { uid: sup.facts.uid, grace_seconds })
}

fn write(step: Step) -> Outcome {
    Outcome::Write { steps: vec![step], reported: None, held: None }
}

fn foreign(kind: &dyn Downward, tenant: &TenantCopy, wanted: bool) -> Outcome {
    if kind.demand() == Demand::Referenced && !wanted {
        return Outcome::Settled(None);
    }
    if tenant.facts.deleting {
        return ended(kind, tenant);
    }
    Outcome::Hold(Hold::refuse(
        "NameTaken",
        "metadata.name",
        "an object that is not this tenant's has this name in the super cluster; rename the object, or ask the administrator to remove the other",
    ))
}

/// Whether nothing is left to be done about the tenant's copy: one that was deleted without grace waits for its finalizers alone.
fn has_ended(tenant: &TenantCopy) -> bool {
    tenant.facts.deleting && tenant.facts.grace_seconds == Some(0)
}

/// The super copy of an object that is being deleted is gone.
fn ended(kind: &dyn Downward, tenant: &TenantCopy) -> Outcome {
    if kind.graceful() && !has_ended(tenant) { end_tenant(tenant, Some(0)) } else { Outcome::Settled(None) }
}

fn end_tenant(tenant: &TenantCopy, grace_seconds: Option<u32>) -> Outcome {
    write(Step::DeleteTenant { uid: tenant.facts.uid, grace_seconds })
}

fn only_tenant(kind: &dyn Downward, tenant: &TenantCopy, evidence: Evidence, pair: &Pair, cx: &Cx<'_>) -> Outcome {
    let facts = &tenant.facts;
    match kind.demand() {
        Demand::Contents => return Outcome::Settled(None),
        Demand::Referenced if !pair.wanted => return Outcome::Settled(None),
        Demand::Referenced | Demand::Always => {}
    }
    let ran = kind.graceful() && (facts.placed || pair.ran);
    if ran && evidence == Evidence::Inferred && !has_ended(tenant) {
        return Outcome::Fetch(Want::Super);
    }
    if facts.deleting {
        return ended(kind, tenant);
    }
    let Some(body) = &tenant.body else {
        return Outcome::Fetch(Want::Tenant);
    };
    // What has finished is the tenant's to keep: the super cluster collects finished Pods by their number, over all tenants.
    if kind.graceful() && matches!(body.text("/status/phase"), Some("Succeeded" | "Failed")) {
        return Outcome::Settled(None);
    }
    let asked = kind.down(body, cx);
    // One that somebody else bound, where we run nothing, did not end here.
    if ran && !(bound_by_another(facts) && asked.is_err()) {
        return end_tenant(tenant, None);
    }
    match asked {
        Err(Hold::Stays) => Outcome::Settled(None),
        Err(hold) => Outcome::Hold(hold),
        Ok(InSuper(asked)) => write(Step::CreateSuper { content: recorded(asked, body, facts, cx), mounts: kind.mounts(body) }),
    }
}

/// Adds the record and the hash of what was asked.
pub fn recorded(asked: Content, tenant: &Object, facts: &Facts, cx: &Cx<'_>) -> Content {
    let built = Built { version: facts.version, hash: asked.hash() };
    stamped(asked, tenant, built, cx.tenant)
}

fn stamped(mut asked: Content, tenant: &Object, built: Built, id: &TenantId) -> Content {
    if let Some(owner) = owner_of(tenant, id) {
        owner.write(id, &mut asked.labels, &mut asked.annotations);
    }
    asked.annotations.insert(keys::BUILT.to_owned(), built.to_string());
    asked
}

fn owner_of(tenant: &Object, id: &TenantId) -> Option<Owner> {
    Some(Owner {
        tenant: id.uid(),
        namespace: tenant.meta.namespace.as_deref().map(common::Namespace::parse).transpose().ok()?,
        name: common::Name::parse(&tenant.meta.name).ok()?,
        uid: tenant.meta.uid,
    })
}

fn both(kind: &dyn Downward, tenant: &TenantCopy, sup: &SuperCopy, pair: &Pair, cx: &Cx<'_>) -> Outcome {
    if kind.demand() == Demand::Referenced && !pair.wanted {
        return end_super(sup, None);
    }
    let against = match misplaced(kind, tenant, sup, cx) {
        Ok(against) => against,
        Err(outcome) => return *outcome,
    };
    match (tenant.facts.deleting, sup.facts.deleting) {
        // Whose hand bound it is no matter of ours: what we run for it ends, the tenant's Pod is left alone.
        (false, false) if against.is_some() => {
            let end = Step::DeleteSuper { uid: sup.facts.uid, grace_seconds: None };
            return Outcome::Write { steps: vec![end], reported: None, held: against };
        }
        (false, true) if against.is_some() => return against.map_or(Outcome::Settled(None), Outcome::Hold),
        (true, false) if kind.graceful() => return end_super(sup, grace_down(tenant, cx)),
        (true, true) if kind.graceful() && is_shorter(grace_down(tenant, cx), sup.facts.grace_seconds) => {
            return write(Step::DeleteSuper { uid: sup.facts.uid, grace_seconds: grace_down(tenant, cx) });
        }
        (false, true) if kind.graceful() => return end_tenant(tenant, sup.facts.grace_seconds),
        (false, true) => return Outcome::Hold(Hold::Until(Missing::SuperGone)),
        (true, false) => return Outcome::Settled(pair.settled.and_then(|s| s.reported)),
        (true, true) | (false, false) => {}
    }
    let down = if tenant.facts.deleting { Ok(None) } else { difference_down(kind, tenant, sup, pair, cx) };
    let (step_down, refused) = match down {
        Ok(step) => (step, None),
        // What is refused now does not end what runs already, nor does its tenant lose sight of it.
        Err(outcome) => match *outcome {
            Outcome::Hold(hold) => (None, Some(hold)),
            outcome @ (Outcome::Settled(_) | Outcome::Forget | Outcome::Write { .. } | Outcome::Fetch(_)) => return outcome,
        },
    };
    let Chosen { step, conditions, hold } = match chosen(kind, tenant, sup, pair, step_down.is_none(), cx) {
        Ok(chosen) => chosen,
        Err(outcome) => return *outcome,
    };
    let refused = refused.or(hold);
    match difference_up(kind, tenant, sup, pair, conditions, cx) {
        Err(outcome) => *outcome,
        Ok((reports, reported)) => {
            let steps: Vec<Step> = step.into_iter().chain(reports).chain(step_down).collect();
            match refused {
                Some(hold) if steps.is_empty() => Outcome::Hold(hold),
                None if steps.is_empty() => Outcome::Settled(reported),
                refused => Outcome::Write { steps, reported, held: refused },
            }
        }
    }
}

/// How long the super copy may take to end: as long as the tenant says, within what is allowed.
fn grace_down(tenant: &TenantCopy, cx: &Cx<'_>) -> Option<u32> {
    tenant.facts.grace_seconds.map(|seconds| seconds.min(cx.policy.max_grace_seconds))
}

fn is_shorter(asked: Option<u32>, under_way: Option<u32>) -> bool {
    asked.zip(under_way).is_some_and(|(asked, under_way)| asked < under_way)
}

type Early<T> = Result<T, Box<Outcome>>;

fn early<T>(outcome: Outcome) -> Early<T> {
    Err(Box::new(outcome))
}

/// What must change in the super copy, if a main part moved.
fn difference_down(kind: &dyn Downward, tenant: &TenantCopy, sup: &SuperCopy, pair: &Pair, cx: &Cx<'_>) -> Early<Option<Step>> {
    let moved = |now: &Facts, then: Option<Mark>| then.is_none_or(|mark| mark.uid != now.uid || mark.main != now.main);
    let tenant_moved = moved(&tenant.facts, pair.settled.and_then(|s| s.tenant));
    let sup_moved = moved(&sup.facts, pair.settled.and_then(|s| s.sup));
    if !tenant_moved && !sup_moved {
        return Ok(None);
    }
    let Some(body) = &tenant.body else {
        return early(Outcome::Fetch(Want::Tenant));
    };
    let InSuper(asked) = match kind.down(body, cx) {
        Ok(asked) => asked,
        Err(Hold::Stays) => return early(end_super(sup, None)),
        Err(hold) => return early(refused(kind, sup, hold, cx)),
    };
    let hash = asked.hash();
    let as_built = sup.facts.built.is_some_and(|built| built.hash == hash);
    // On the first look after a start the hash is trusted; drift made while no syncer ran is found by the deep patrol.
    if as_built && (pair.settled.is_none() || !sup_moved) {
        return Ok(None);
    }
    let Some(current) = &sup.body else {
        return early(Outcome::Fetch(Want::Super));
    };
    let asked = stamped(asked, body, Built { version: tenant.facts.version, hash }, cx.tenant);
    let InSuper(mut amended) = kind.amend(InSuper(asked), current, cx);
    if covered(&amended, current) {
        return Ok(None);
    }
    amended.body.remove("status");
    amended.kept = current.meta.kept.clone();
    Ok(Some(Step::UpdateSuper { content: amended, uid: sup.facts.uid, version: current.meta.version.clone() }))
}

/// What is asked now is refused: what went down before stays, unless what it has is the tenant's no longer.
fn refused(kind: &dyn Downward, sup: &SuperCopy, hold: Hold, cx: &Cx<'_>) -> Outcome {
    if kind.depends_on().is_none() {
        return Outcome::Hold(hold);
    }
    let Some(current) = &sup.body else { return Outcome::Fetch(Want::Super) };
    if kind.may_stay(current, cx) {
        return Outcome::Hold(hold);
    }
    let end = Step::DeleteSuper { uid: sup.facts.uid, grace_seconds: None };
    Outcome::Write { steps: vec![end], reported: None, held: Some(hold) }
}

/// What stands against the super copy where somebody else bound the tenant's: a node that its API server or its user chose, and that the
/// super copy was not made for. The node is no part of what moves, so this is looked at whenever it shows.
fn misplaced(kind: &dyn Downward, tenant: &TenantCopy, sup: &SuperCopy, cx: &Cx<'_>) -> Early<Option<Hold>> {
    if !kind.graceful() || tenant.facts.deleting || !bound_by_another(&tenant.facts) || tenant.facts.node == sup.facts.node {
        return Ok(None);
    }
    let Some(body) = &tenant.body else {
        return early(Outcome::Fetch(Want::Tenant));
    };
    Ok(match kind.down(body, cx) {
        Err(hold) => Some(hold),
        Ok(InSuper(asked)) if sup.facts.built.is_some_and(|built| built.hash == asked.hash()) => None,
        Ok(_) => Some(Hold::Until(Missing::SuperGone)),
    })
}

/// Whether the tenant's copy names a node that we did not bind it to.
fn bound_by_another(tenant: &Facts) -> bool {
    tenant.node.is_some() && !tenant.placed
}

/// Whether the current super copy already is what `amended` says, status and the version in [`keys::BUILT`] aside.
fn covered(amended: &Content, current: &Object) -> bool {
    fn without(annotations: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
        annotations.iter().filter(|(key, _)| *key != keys::BUILT).map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }
    fn rest(body: &Map<String, Value>) -> BTreeMap<&str, &Value> {
        body.iter().filter(|(key, _)| *key != "status").map(|(k, v)| (k.as_str(), v)).collect()
    }
    amended.labels == current.meta.labels
        && without(&amended.annotations) == without(&current.meta.annotations)
        && rest(&amended.body) == rest(&current.body)
}

/// The hash of a JSON value; object keys are sorted.
pub fn value_hash(value: &Value) -> u64 {
    xxh3_64(value.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
