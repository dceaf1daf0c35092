//! Work on one key: look, decide, write, until there is nothing to do or nothing can be done.

mod choose;
mod failure;
mod kept;
mod mount;
mod read;
mod write;

use std::error::Error as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{InSuper, InTenant, Name, Namespace, Super};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use mirror::cx::Profile;
use mirror::hold::Hold;
use mirror::kind::{Demand, Downward, Observe, Registered};
use mirror::object::Object;
use mirror::plan::{Copy, Evidence, Mark, Outcome, Pair, Settled, SuperSide, TenantSide, Want, plan};
use mirror::{Cx, Facts};
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::patrol::has_patrolled;
use crate::index::{Body, Key, Mounted, Slot};
use crate::remote::CallError;
use crate::tenant::{Attached, Tenant};
use crate::work::Lane;

/// How work on a key ended.
#[derive(Debug)]
enum End {
    /// Nothing to do until a side moves.
    Rest,
    /// Try again after a back-off, at least this long.
    Retry(Duration),
    /// Look again at this time (a token to renew).
    At(Instant),
}

impl End {
    /// This end, or the other if that is a time which comes first.
    fn or(self, other: Self) -> Self {
        let least = match &self {
            Self::Rest => None,
            Self::Retry(least) => Some(Instant::now() + *least),
            Self::At(when) => Some(*when),
        };
        match other {
            Self::At(when) if least.is_none_or(|least| when < least) => other,
            Self::Rest | Self::Retry(_) | Self::At(_) => self,
        }
    }
}

/// Reads and plans a key takes at most before it goes back into the queue.
const ROUNDS: usize = 8;
/// The longest back-off.
const LONGEST: Duration = Duration::from_mins(1);
/// How long after a refusal the pair is looked at again, if neither side moves: a quota or a policy may have.
const REFUSED: Duration = Duration::from_mins(5);
/// Tries in vain after which the tenant is told that another has what it asks for: some seconds.
const CONTESTED: u32 = 5;

/// A worker that waits so long for a key takes up others beside it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Keys that one worker has put aside at most.
const ASIDE: usize = 64;

/// How long the first Pods of a tenant wait for the address of their API server.
const ADDRESS: Duration = Duration::from_secs(30);

/// One key with everything around it.
struct Job<'a> {
    engine: &'a Engine,
    tenant: &'a Arc<Tenant>,
    attached: &'a Arc<Attached>,
    key: &'a Key,
    kind: &'static dyn Downward,
    namespace: Option<Namespace<Super>>,
    name: Name<Super>,
    /// How often the addresses of the tenant's Pods had moved when this began.
    moves: u64,
    /// What was known of the tenant then.
    profile: Arc<Profile>,
}

/// The part of a list that says how new it is, and whether there is anything in it.
#[derive(serde::Deserialize)]
struct Standing {
    #[serde(default)]
    metadata: crate::remote::ListMeta,
    #[serde(default)]
    items: Option<Vec<serde::de::IgnoredAny>>,
}

/// What steps have shown of the two copies.
#[derive(Default)]
struct Shown {
    tenant: Option<Facts>,
    sup: Option<Facts>,
    /// What was asked of the super cluster, and its API server did not keep.
    lost: Vec<String>,
}

impl Shown {
    /// The versions of the two copies, as planned on or as shown since.
    fn versions(&self, pair: &Pair) -> [Option<u64>; 2] {
        let tenant = if let TenantSide::Here(copy) = &pair.tenant { Some(&copy.facts) } else { None };
        let sup = if let SuperSide::Ours(copy, _) = &pair.sup { Some(&copy.facts) } else { None };
        [self.tenant.as_ref().or(tenant), self.sup.as_ref().or(sup)].map(|facts| facts.map(|facts| facts.version))
    }
}

impl Engine {
    /// Works on keys by turn, until asked to stop; a key that was begun is ended. One that takes long is put aside, so that an API server
    /// that answers late, or not at all, keeps no worker from the keys of others; its own tenant has only so many under way.
    pub(super) async fn work_until(&self, stop: &CancellationToken) {
        let mut aside = FuturesUnordered::new();
        loop {
            let (lane, key) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = aside.next() => continue,
                item = self.0.work.pop(), if aside.len() < ASIDE => item,
            };
            let mut job = Box::pin(self.work_guarded(lane, key));
            let patience = tokio::time::sleep(PATIENCE);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    () = &mut job => break,
                    Some(()) = aside.next() => {}
                    () = &mut patience => {
                        aside.push(job);
                        break;
                    }
                }
            }
        }
        while aside.next().await.is_some() {}
    }

    /// Works on one key. A panic stops here.
    async fn work_guarded(&self, lane: Lane, key: Key) {
        if let Some(tenant) = self.0.tenants.get(&lane)
            && AssertUnwindSafe(self.work_on(&tenant, &key)).catch_unwind().await.is_err()
        {
            tracing::error!(tenant = %lane, object = %key, "work on a key panicked");
            self.0.metrics.failed(key.kind.kind().resource().kind, "panicked");
            self.0.work.push_after(&lane, key.clone(), REFUSED);
        }
        self.0.work.done(&lane, &key);
    }

    async fn work_on(&self, tenant: &Arc<Tenant>, key: &Key) {
        let (Some(attached), Some(kind)) = (tenant.attached(), key.kind.downward()) else { return };
        let namespace = key.namespace.as_ref().map(|ns| attached.id.namespace(ns));
        if attached.is_halted() || self.is_excluded(key) || !self.may_look(tenant, key, kind, namespace.as_ref()) {
            return;
        }
        let silent = attached.breaker.lock().wait(Instant::now());
        if let Some(wait) = silent {
            self.0.work.push_after(&tenant.lane, key.clone(), wait.mul_f64(rand::rng().random_range(1.0..2.0)));
            return;
        }
        let name = match kind.demand() {
            Demand::Contents => Name::of_namespace(&attached.id, &key.name),
            Demand::Always | Demand::Referenced => kind.rename(&key.name),
        };
        let job = Job {
            engine: self,
            tenant,
            attached: &attached,
            key,
            kind,
            namespace,
            name,
            moves: tenant.pods.moves(),
            profile: attached.profile(),
        };
        let end = job.run().await;
        tenant.index.lock().make_room(key);
        match end {
            End::Rest => {}
            End::Retry(least) => {
                let failures = {
                    let mut index = tenant.index.lock();
                    let Some(entry) = index.get_mut(key) else { return };
                    entry.failures = entry.failures.saturating_add(1);
                    entry.failures
                };
                self.0.work.push_after(&tenant.lane, key.clone(), backoff(failures).max(least.min(LONGEST * 5)));
            }
            End::At(when) => self.0.work.push_after(&tenant.lane, key.clone(), when.saturating_duration_since(Instant::now())),
        }
    }

    /// Whether both sides of a kind have been listed, so that absence counts; for Pods that of their tokens too.
    fn may_look(&self, tenant: &Tenant, key: &Key, kind: &dyn Downward, namespace: Option<&Namespace<Super>>) -> bool {
        let waits = || namespace.is_some_and(|namespace| tenant.turn.lock().waits(namespace.as_str()));
        let listed = match kind.observe() {
            Observe::Watched if kind.graceful() => self.super_synced() && has_patrolled(tenant) && !waits(),
            Observe::Watched => self.super_synced() && self.0.super_synced.contains(&key.kind),
            Observe::Patrolled => self.super_synced() && tenant.index.lock().synced(key.kind, true) && !waits(),
        };
        listed && tenant.index.lock().synced(key.kind, false)
    }
}

/// Full jitter over a doubling cap.
pub(super) fn backoff(failures: u32) -> Duration {
    let cap = Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(LONGEST);
    cap.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl Job<'_> {
    async fn run(&self) -> End {
        if let Some(end) = self.unserved() {
            return end;
        }
        // Nobody tells us when an object that is not ours goes away.
        let is_foreign = self.tenant.index.lock().get(self.key).is_some_and(|entry| matches!(entry.sup, Slot::Foreign));
        if is_foreign && let Err(error) = self.fetch(Want::Super).await {
            return self.failed(&error, false).await;
        }
        for _ in 0..ROUNDS {
            let (pair, mounted) = self.pair();
            let profile = self.attached.profile();
            match self.read_before(&pair, &profile).await {
                Ok(()) => {}
                Err(error) => return self.failed(&error, false).await,
            }
            if let Some((uid, version, choice)) = self.unfinished(&pair) {
                match self.choose(uid, version, choice).await {
                    Ok(()) => continue,
                    Err(error) => return self.failed(&error, false).await,
                }
            }
            let planned = self.plan(&pair, &profile);
            if let Some(references) = planned.references {
                let references = if self.engine.0.options.sync_unreferenced { Vec::new() } else { references };
                let borne = self.tenant.index.lock().hold(self.key, &references);
                match borne {
                    Ok(moved) => self.engine.0.work.push_each(&self.tenant.lane, moved),
                    Err(hold) if is_kept_out(&pair) => return self.hold(&pair, &hold),
                    // It is told, and served as before: while it does not count as asked, nothing below counts as unwanted.
                    Err(hold) => drop(self.hold(&pair, &hold)),
                }
            }
            if let Some(refused) = &planned.refused {
                // The rest goes on; a change of the object comes here again.
                let _ = self.hold(&pair, refused);
            }
            self.engine.0.metrics.planned(self.kind.resource().kind, outcome_name(&planned.outcome));
            match planned.outcome {
                Outcome::Settled(reported) => match self.mount(&pair, mounted).await {
                    Ok(end) => {
                        self.settle(&pair, &Shown::default(), reported);
                        return end;
                    }
                    Err(error) => return self.failed(&error, false).await,
                },
                Outcome::Forget => {
                    let unwanted = self.tenant.index.lock().forget(self.key);
                    self.engine.0.work.push_each(&self.tenant.lane, unwanted);
                    return End::Rest;
                }
                Outcome::Hold(hold) => {
                    let end = self.hold(&pair, &hold);
                    return match self.mount(&pair, mounted).await {
                        Ok(renewal) => end.or(renewal),
                        Err(error) => self.failed(&error, false).await,
                    };
                }
                Outcome::Fetch(want) => {
                    if let Some(hold) = self.malformed(want) {
                        return self.hold(&pair, &hold);
                    }
                    if let Err(error) = self.fetch(want).await {
                        return self.failed(&error, false).await;
                    }
                }
                Outcome::Write { steps, reported, held } => {
                    if let Some(end) = self.write(&pair, steps, reported, held).await {
                        return end;
                    }
                }
            }
        }
        End::Retry(Duration::ZERO)
    }

    /// What the super cluster does not serve waits until it does, and the tenant hears of it: what cannot be found then is not gone.
    fn unserved(&self) -> Option<End> {
        if !self.engine.0.super_unserved.contains(&self.key.kind) {
            return None;
        }
        let (pair, _) = self.pair();
        let is_nothing = matches!((&pair.tenant, &pair.sup), (TenantSide::Absent(_), SuperSide::Absent(_)));
        let hold = Hold::refuse("NotServed", "", "the super cluster does not serve this kind");
        (!is_nothing).then(|| self.hold(&pair, &hold))
    }

    /// Reads what the decision depends on beside the pair, if that is not known.
    async fn read_before(&self, pair: &Pair, profile: &Profile) -> Result<(), CallError> {
        let TenantSide::Here(Copy { body: Some(body), facts }) = &pair.tenant else { return Ok(()) };
        if facts.deleting {
            return Ok(());
        }
        let nodes = self.attached.nodes();
        let Some(reference) = self.kind.unread(body, &self.cx(profile, &nodes)) else { return Ok(()) };
        self.attached.handlers.read(&self.attached.remote, &reference.name).await
    }

    fn plan(&self, pair: &Pair, profile: &Profile) -> mirror::plan::Plan {
        let nodes = self.attached.nodes();
        plan(self.kind, pair, &self.cx(profile, &nodes))
    }

    fn cx<'a>(&'a self, profile: &'a Profile, nodes: &'a std::collections::BTreeSet<String>) -> Cx<'a> {
        Cx {
            tenant: &self.attached.id,
            policy: &self.engine.0.policy,
            profile,
            namespace: self.key.namespace.as_ref().map(Namespace::as_str),
            super_namespace: self.namespace.as_ref(),
            nodes,
            super_nodes: &*self.engine.0.nodes,
            pods: &self.tenant.pods,
            published: &*self.engine.0.showing,
            handlers: &self.attached.handlers,
        }
    }

    /// The pair as the planner sees it.
    fn pair(&self) -> (Pair, Mounted) {
        let mut index = self.tenant.index.lock();
        // Until every holder has been asked, what is there stays.
        let there = index.get(self.key).is_some_and(|entry| matches!(entry.sup, Slot::Here(..)));
        let wanted = self.engine.0.options.sync_unreferenced || index.wanted(self.key) || (there && !index.holders_known());
        let Some(entry) = index.get(self.key) else {
            let (tenant, sup) = (TenantSide::Absent(Evidence::Seen), SuperSide::Absent(Evidence::Seen));
            return (Pair { tenant, sup, settled: None, wanted, ran: false, declined: Vec::new() }, Mounted::None);
        };
        let (tenant, sup) = (entry.tenant.clone(), entry.sup.clone());
        let bytes = |body: &Option<Body>| body.as_ref().map(|body| body.bytes().clone());
        let (tenant_body, super_body) = (bytes(&entry.tenant_body), bytes(&entry.sup_body));
        let (settled, mounted, declined) = (entry.settled, entry.mounted, entry.declined(Instant::now()));
        let ran = matches!(&tenant, Slot::Here(facts, ()) if entry.ran(facts.uid));
        drop(index);
        let parse = |bytes: Option<Bytes>| bytes.and_then(|bytes| Object::parse(&bytes).ok());
        let tenant = match tenant {
            Slot::Here(facts, ()) => TenantSide::Here(Copy { facts, body: parse(tenant_body).map(InTenant) }),
            Slot::Absent(evidence) => TenantSide::Absent(evidence),
            Slot::Unknown | Slot::Foreign => TenantSide::Absent(Evidence::Inferred),
        };
        let sup = match sup {
            Slot::Here(facts, place) if *place.name == *self.name.as_str() && *place.namespace == *self.namespace_text() => {
                SuperSide::Ours(Copy { facts, body: parse(super_body).map(InSuper) }, place.owner)
            }
            // Our record, but not in the place where it would be: nobody's.
            Slot::Here(..) | Slot::Foreign => SuperSide::Foreign,
            Slot::Absent(evidence) => SuperSide::Absent(evidence),
            Slot::Unknown => SuperSide::Absent(Evidence::Inferred),
        };
        (Pair { tenant, sup, settled, wanted, ran, declined }, mounted)
    }

    /// What is wrong with the tenant's body, if that is at hand and yet was no use: to read it once more would not help.
    fn malformed(&self, want: Want) -> Option<Hold> {
        let index = self.tenant.index.lock();
        let body = index.get(self.key).filter(|_| want == Want::Tenant)?.tenant_body.as_ref()?.bytes().clone();
        drop(index);
        let error = Object::parse(&body).err()?;
        Some(Hold::Malformed(error.source().map(ToString::to_string).unwrap_or_default().into()))
    }

    fn namespace_text(&self) -> &str {
        self.namespace.as_ref().map(Namespace::as_str).unwrap_or_default()
    }

    fn super_path(&self) -> String {
        self.kind.resource().path(self.namespace.as_ref().map(Namespace::as_str), self.name.as_str())
    }

    fn tenant_path(&self) -> String {
        self.kind.resource().path(self.key.namespace.as_ref().map(Namespace::as_str), self.key.name.as_str())
    }

    /// What became of the super copy has gone up, though what is asked of it is held.
    fn reported(&self, pair: &Pair, shown: &Shown, reported: Option<u64>) {
        let mut index = self.tenant.index.lock();
        let Some(settled) = index.get_mut(self.key).and_then(|entry| entry.settled.as_mut()) else { return };
        settled.reported = reported;
        if let (Some(mark), TenantSide::Here(copy)) = (&mut settled.tenant, &pair.tenant) {
            mark.status = mark_after(&copy.facts, shown.tenant.as_ref()).status;
        }
        if let (Some(mark), SuperSide::Ours(copy, _)) = (&mut settled.sup, &pair.sup) {
            mark.status = copy.facts.status;
        }
    }

    /// The pair agrees, at what was planned on or what the steps have shown. What moved meanwhile comes again.
    fn settle(&self, pair: &Pair, shown: &Shown, reported: Option<u64>) {
        let tenant = match &pair.tenant {
            TenantSide::Here(copy) => Some(mark_after(&copy.facts, shown.tenant.as_ref())),
            TenantSide::Absent(_) => None,
        };
        let sup = match (&shown.sup, &pair.sup) {
            (Some(facts), _) => Some(Mark::from(facts)),
            (None, SuperSide::Ours(copy, _)) => Some(Mark::from(&copy.facts)),
            (None, SuperSide::Foreign | SuperSide::Absent(_)) => None,
        };
        let mut index = self.tenant.index.lock();
        let Some(entry) = index.get_mut(self.key) else { return };
        // What an attachment that has ended decides on is looked at again by the next.
        entry.settled = (!self.attached.cancel.is_cancelled()).then_some(Settled { tenant, sup, reported });
        entry.failures = 0;
        entry.told = None;
        if let Some(moved) = entry.moved.take() {
            self.engine.0.metrics.agreed(self.kind.resource().kind, moved.elapsed());
        }
        let now = |facts: &Facts, then| Some(Mark::from(facts)) == then;
        let tenant_stays = matches!(&entry.tenant, Slot::Here(facts, ()) if now(facts, tenant));
        let sup_stays = matches!(&entry.sup, Slot::Here(facts, _) if now(facts, sup));
        if tenant_stays {
            entry.tenant_body = None;
        }
        if sup_stays {
            entry.sup_body = None;
        }
        // An answer may have shown a change before the watch did, which then has no news.
        let mut moved = (!tenant_stays && matches!(entry.tenant, Slot::Here(..))) || (!sup_stays && matches!(entry.sup, Slot::Here(..)));
        let pods_moved = self.kind.depends_on_pods() && self.tenant.pods.moves() != self.moves;
        let other = |registered: Registered| registered.moved(&self.profile, &self.attached.profile());
        if pods_moved || self.kind.depends_on().is_some_and(other) {
            // What was decided on is not so any more, and whoever said so may not have known yet that this depends on it.
            entry.settled = None;
            moved = true;
        }
        drop(index);
        if moved {
            self.engine.0.work.push(&self.tenant.lane, self.key.clone());
        }
    }
}

/// Whether an object whose references are too many is kept out: only while nothing of it is below. What runs is served as before.
fn is_kept_out(pair: &Pair) -> bool {
    matches!(pair.sup, SuperSide::Absent(_))
}

/// The tenant's copy as it was planned on, with the status that we wrote since. The rest of what our write was answered with may be
/// somebody else's change between the two, which nobody has planned on yet.
fn mark_after(planned: &Facts, written: Option<&Facts>) -> Mark {
    Mark { status: written.map_or(planned.status, |facts| facts.status), ..Mark::from(planned) }
}

fn end_for(mounted: Mounted) -> End {
    mounted.next().map_or(End::Rest, End::At)
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Settled(_) => "settled",
        Outcome::Forget => "forget",
        Outcome::Write { .. } => "write",
        Outcome::Fetch(_) => "fetch",
        Outcome::Hold(_) => "hold",
    }
}

#[cfg(test)]
mod tests {
    use mirror::facts::Seen;

    use super::*;

    #[test]
    fn a_token_is_renewed_in_time_though_its_pod_is_held() {
        let soon = Instant::now() + Duration::from_secs(1);
        let late = soon + REFUSED * 2;
        assert!(matches!(End::Retry(REFUSED).or(End::At(soon)), End::At(when) if when == soon));
        assert!(matches!(End::Retry(REFUSED).or(End::At(late)), End::Retry(REFUSED)));
        assert!(matches!(End::Rest.or(End::At(late)), End::At(when) if when == late));
        assert!(matches!(End::Rest.or(End::Rest), End::Rest));
    }

    /// Nothing is given up: the distance grows to its longest and stays there.
    #[test]
    fn there_is_another_try_after_any_number_of_failures() {
        for failures in (0..100).chain([1000, u32::MAX]) {
            let wait = backoff(failures);
            assert!(wait >= Duration::from_millis(50) && wait <= LONGEST, "{failures}: {wait:?}");
        }
        assert!(backoff(u32::MAX) >= LONGEST / 2);
    }

    #[test]
    fn an_object_that_runs_is_served_although_its_references_are_too_many() {
        let facts =
            Seen::of(br#"{"metadata":{"name":"a","uid":"00000000-0000-4000-8000-000000000001","resourceVersion":"1"}}"#).unwrap().facts;
        let owner = common::Owner { tenant: facts.uid, namespace: None, name: Name::parse("a").unwrap(), uid: facts.uid };
        let with = |sup| Pair {
            tenant: TenantSide::Here(Copy { facts: facts.clone(), body: None }),
            sup,
            settled: None,
            wanted: true,
            ran: false,
            declined: Vec::new(),
        };
        assert!(is_kept_out(&with(SuperSide::Absent(Evidence::Seen))) && is_kept_out(&with(SuperSide::Absent(Evidence::Inferred))));
        assert!(!is_kept_out(&with(SuperSide::Ours(Copy { facts: facts.clone(), body: None }, owner))));
        assert!(!is_kept_out(&with(SuperSide::Foreign)), "that is told instead");
    }

    #[test]
    fn a_change_that_came_between_a_plan_and_its_write_is_still_to_be_planned_on() {
        let of = |labels: &str, phase: &str| {
            let json = format!(
                r#"{{"metadata":{{"name":"a","uid":"00000000-0000-4000-8000-000000000001","resourceVersion":"1","labels":{labels}}},"status":{{"phase":"{phase}"}}}}"#
            );
            Seen::of(json.as_bytes()).unwrap().facts
        };
        let planned = of(r#"{"app":"old"}"#, "Pending");
        let answered = of(r#"{"app":"new"}"#, "Running");
        let mark = mark_after(&planned, Some(&answered));
        assert_eq!((mark.main, mark.status), (planned.main, answered.status));
        assert_ne!(mark.main, answered.main);
        assert_eq!(mark_after(&planned, None), Mark::from(&planned));
    }
}
