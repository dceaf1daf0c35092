//! What the super cluster shows of itself, in tenants: one engine for all kinds whose copies bear a mark. Those are published classes, for every
//! tenant, and what belongs to an object of one tenant's (the volume of its claim).
//!
//! ```text
//! super informers ──► shelf ──► keeper: for each tenant, once anything of its own moved, and on patrol: list its copies ──► write what differs
//! ```
//!
//! Tenants' copies are not watched: a tenant that changes one deceives itself alone, until the patrol comes by.

mod owner;
mod shelf;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{InSuper, InTenant, Uid};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use mirror::cx::Policy;
use mirror::kind::{About, KindId, Resource, Upward};
use mirror::object::{Content, Object};
use mirror::shown::{Change, Comparison};
use runtime::log::{Chain, Escaped};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::{Instant, interval, timeout};

use self::owner::{Owner, owner};
use self::shelf::Shelf;
use crate::informer::{Told, page};
use crate::metrics::SyncMetrics;
use crate::remote::CallError;
use crate::tenant::{Attached, Tenant, Tenants};
use crate::work::Lane;

/// How often tenants are looked for that have not what they should.
const LOOK: Duration = Duration::from_secs(1);
/// How long a tenant rests at first of whose copies not all could be written.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How many times as long as the engine's the pace of this patrol is: nobody but the tenant itself is concerned.
const PATROLS: u32 = 10;
/// Tenants that are worked on at once.
const AT_ONCE: usize = 16;
/// How long a tenant rests at first of whose objects in the super cluster not all are known.
const UNSURE: Duration = Duration::from_secs(5);
/// How long one tenant may take at a time: as many as are worked on at once keep the others waiting.
const GIVE: Duration = Duration::from_mins(1);
/// Writes of one kind in one tenant at a time.
const WRITES: usize = 200;
/// Copies that are listed at once.
const PAGE: usize = 500;
/// Pages of one kind that are looked at in one tenant, and what they may have in bytes: few have as many, but a tenant may put the mark on
/// objects of its own.
const PAGES: usize = 20;
const MOST_BYTES: usize = 32 << 20;

/// What is shown, and who has it. Shared by `Arc`.
pub struct Showing {
    shelf: Shelf,
    /// Whether all super namespaces and all that tenants have in them have been listed once.
    owners_are_known: AtomicBool,
    policy: Arc<Policy>,
    /// How often a tenant's copies are looked at though nothing moved.
    patrol: Duration,
    moved: Notify,
    metrics: Arc<SyncMetrics>,
}

impl mirror::cx::Published for Showing {
    fn is_published(&self, kind: &str, name: &str) -> bool {
        self.shelf.has(kind, name)
    }

    fn published_with(&self, kind: &str, field: &str, text: &str) -> Option<String> {
        self.shelf.with(kind, field, text)
    }
}

impl fmt::Debug for Showing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is shown")
    }
}

/// The kinds whose copies bear a mark.
pub fn shown_kinds() -> impl Iterator<Item = KindId> {
    KindId::all().filter(|id| id.kind().marked().is_some())
}

/// What a tenant was given.
struct Given {
    /// Which attachment it was.
    since: Instant,
    /// What was on the shelf.
    edition: u64,
    /// How that went.
    outcome: Outcome,
    /// How often in a row it did not go well.
    failures: u32,
    /// When it is looked at again.
    next: Instant,
}

impl Given {
    /// What is to be done now.
    fn errand(&self, since: Instant, edition: u64, is_touched: bool) -> Option<Errand> {
        if self.since != since || self.edition != edition {
            return Some(Errand::Give);
        }
        let is_time = Instant::now() >= self.next;
        match self.outcome {
            Outcome::Well | Outcome::Unsure | Outcome::Refused if is_touched => Some(Errand::GiveOwned),
            Outcome::Well => is_time.then_some(Errand::Patrol),
            Outcome::Unsure => is_time.then_some(Errand::GiveOwned),
            Outcome::Refused | Outcome::Badly => is_time.then_some(Errand::Give),
        }
    }
}

/// How it went with one tenant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It has what it should.
    Well,
    /// As far as is known: not everything that belongs to it is.
    Unsure,
    /// Its API server does not take something, which keeps nothing else from it.
    Refused,
    /// Its API server gives no answer, or not in time.
    Badly,
}

/// Why a tenant is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// It may lack something, or have too much.
    Give,
    /// The same, of what belongs to its own objects alone.
    GiveOwned,
    /// It may have changed what it was given: of kinds of which nothing is published there is nothing to be looked for.
    Patrol,
}

impl Showing {
    /// Nothing yet; `patrol` is the engine's.
    pub fn new(policy: Arc<Policy>, patrol: Duration, metrics: Arc<SyncMetrics>) -> Self {
        let patrol = patrol.saturating_mul(PATROLS);
        Self { shelf: Shelf::default(), owners_are_known: AtomicBool::new(false), policy, patrol, moved: Notify::new(), metrics }
    }

    /// All super namespaces, and all that tenants have in them, have been listed once: what belongs to whom can be told.
    pub fn owners_are_known(&self) {
        if !self.owners_are_known.swap(true, Ordering::Relaxed) {
            self.shelf.turn_over();
            self.moved.notify_one();
        }
    }

    /// Takes what the informer of one of the kinds tells.
    pub fn super_told(&self, kind: KindId, told: Told) {
        let Some(row) = kind.kind().marked() else { return };
        let has_moved = match told {
            // What is not served may be there all the same: what was published stays so, and where nothing is known nothing is taken away.
            Told::Opened | Told::Unserved => false,
            Told::Unreadable(_) => {
                self.shelf.is_unread(kind);
                false
            }
            Told::ListBegins => {
                self.shelf.list_begins(kind);
                false
            }
            Told::Object(bytes) => self.read(kind, &bytes).is_some_and(|object| self.shelf.seen(kind, row, object)),
            Told::Gone(bytes) => self.read(kind, &bytes).is_some_and(|object| self.shelf.remove(kind, &object.meta.name)),
            Told::ListEnds(_) => self.shelf.list_ends(kind),
            Told::Failed(error) => {
                tracing::warn!(kind = row.resource().kind, error = %Chain(&error), "super informer failed");
                false
            }
        };
        if has_moved {
            self.moved.notify_one();
        }
    }

    fn read(&self, kind: KindId, bytes: &[u8]) -> Option<Object> {
        let error = match Object::of_resource(bytes, &kind.kind().resource()) {
            Ok(object) => return Some(object),
            Err(error) => error,
        };
        let kind_name = kind.kind().resource().kind;
        self.metrics.unreadable("super", kind_name);
        tracing::warn!(kind = kind_name, error = %Chain(&error), "something that is shown cannot be read, and stays as it was");
        self.shelf.is_unread(kind);
        None
    }

    /// Gives all tenants what is theirs, for ever.
    pub async fn run(&self, tenants: Tenants) {
        let mut given: HashMap<Lane, Option<Given>> = HashMap::new();
        let mut touched: HashSet<Lane> = HashSet::new();
        let mut under_way = FuturesUnordered::new();
        let mut clock = interval(LOOK);
        let mut turn: usize = 0;
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = self.moved.notified() => {}
                Some((lane, outcome)) = under_way.next() => {
                    given.insert(lane, Some(outcome));
                }
            }
            given.retain(|lane, _| tenants.get(lane).is_some());
            touched.retain(|lane| tenants.get(lane).is_some());
            let (edition, within) = (self.shelf.edition(), self.shelf.take_touched());
            let mut all = tenants.all();
            for tenant in &all {
                if is_any_of(tenant, &within) {
                    touched.insert(tenant.lane.clone());
                }
            }
            // Another one is the first each time, so that those who always want something keep nobody waiting.
            let len = all.len().max(1);
            all.rotate_left(turn % len);
            turn = turn.wrapping_add(1);
            let now = Instant::now();
            for tenant in all {
                if under_way.len() >= AT_ONCE {
                    break;
                }
                let is_silent = |attached: &Attached| attached.breaker.lock().is_open(now);
                let Some(attached) = tenant.attached().filter(|attached| !attached.is_halted() && !is_silent(attached)) else { continue };
                let errand = match given.get(&tenant.lane) {
                    None => Some(Errand::Give),
                    // Under way.
                    Some(None) => None,
                    Some(Some(last)) => last.errand(attached.since, edition, touched.contains(&tenant.lane)),
                };
                let Some(errand) = errand else { continue };
                if attached.breaker.lock().wait(now).is_some() {
                    continue;
                }
                touched.remove(&tenant.lane);
                let before = given.insert(tenant.lane.clone(), None).flatten();
                let failures = before.map_or(0, |before| before.failures);
                under_way.push(self.give_guarded(tenant, attached, edition, errand, failures));
            }
        }
    }

    async fn give_guarded(
        &self,
        tenant: Arc<Tenant>,
        attached: Arc<Attached>,
        edition: u64,
        errand: Errand,
        failures: u32,
    ) -> (Lane, Given) {
        let work = timeout(GIVE, Box::pin(self.give(&tenant, &attached, errand)));
        let work = AssertUnwindSafe(work.map(|given| given.unwrap_or(Outcome::Badly))).catch_unwind();
        let outcome = attached.cancel.run_until_cancelled(work).await.and_then(Result::ok).unwrap_or(Outcome::Badly);
        let failures = if outcome == Outcome::Well { 0 } else { failures.saturating_add(1) };
        let rest = self.rest(outcome, failures);
        (tenant.lane.clone(), Given { since: attached.since, edition, outcome, failures, next: Instant::now() + rest })
    }

    /// How long a tenant rests: ever longer while it goes wrong.
    fn rest(&self, outcome: Outcome, failures: u32) -> Duration {
        let first = match outcome {
            Outcome::Well => return self.patrol,
            Outcome::Unsure => UNSURE,
            Outcome::Refused | Outcome::Badly => AFTER_FAILURE,
        };
        first.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(self.patrol.max(first))
    }

    /// Writes what differs in one tenant.
    async fn give(&self, tenant: &Tenant, attached: &Attached, errand: Errand) -> Outcome {
        let mut outcome = Outcome::Well;
        for kind in shown_kinds() {
            let Some(row) = kind.kind().marked() else { continue };
            if row.is_published() && errand == Errand::GiveOwned {
                continue;
            }
            let wanted =
                if row.is_published() { self.for_everybody(kind, row, attached) } else { self.for_owner(kind, row, tenant, attached) };
            let wanted = match wanted {
                Some(wanted) => wanted,
                // What is published is given once it has been listed, which turns everything over.
                None if row.is_published() => continue,
                None => {
                    outcome = outcome.max(Outcome::Unsure);
                    continue;
                }
            };
            if wanted.copies.is_empty() && wanted.is_all && errand == Errand::Patrol {
                continue;
            }
            outcome = outcome.max(self.give_kind(row, wanted, attached).await);
        }
        outcome
    }

    /// What is published; nothing before that is known.
    fn for_everybody(&self, kind: KindId, row: &dyn Upward, attached: &Attached) -> Option<Wanted> {
        let copies = self.shelf.of(kind)?.iter().filter_map(|object| self.copy(row, object, None, attached)).collect();
        Some(Wanted { copies, is_all: true })
    }

    /// What belongs to a tenant's own objects; nothing before those are known.
    fn for_owner(&self, kind: KindId, row: &dyn Upward, tenant: &Tenant, attached: &Attached) -> Option<Wanted> {
        if !self.owners_are_known.load(Ordering::Relaxed) {
            return None;
        }
        let mut wanted = Wanted { copies: BTreeMap::new(), is_all: true };
        let namespaces: Vec<(Arc<str>, Arc<str>)> =
            tenant.namespaces.lock().iter().map(|(name, known)| (name.clone(), known.tenant_namespace.clone())).collect();
        for (within, namespace) in namespaces {
            for object in self.shelf.owned(kind, &within)? {
                match owner(&tenant.index.lock(), &row.audience(&object), &namespace)? {
                    Owner::Nobody => {}
                    Owner::NotKnown => wanted.is_all = false,
                    Owner::Is { name, uid } => {
                        let uid = uid.to_string();
                        let about = About { namespace: &namespace, name: &name, uid: &uid, node: None };
                        wanted.copies.extend(self.copy(row, &object, Some(&about), attached));
                    }
                }
            }
        }
        Some(wanted)
    }

    fn copy(
        &self,
        row: &dyn Upward,
        object: &InSuper<Object>,
        about: Option<&About<'_>>,
        attached: &Attached,
    ) -> Option<(String, Content)> {
        match attached.with_cx(&self.policy, |cx| row.up(object, about, &cx)) {
            Ok(InTenant(named)) => Some(named),
            Err(hold) => {
                tracing::warn!(kind = row.resource().kind, name = object.meta.name, reason = %hold, "what would be shown is not");
                None
            }
        }
    }

    /// Writes what differs of one kind; one that cannot be written keeps no other waiting.
    async fn give_kind(&self, row: &dyn Upward, wanted: Wanted, attached: &Attached) -> Outcome {
        let is_all = wanted.is_all;
        let changes = match self.compare(row, wanted.copies, attached).await {
            Ok(changes) => changes,
            // Its API server does not serve the kind, and is asked again on patrol.
            Err(error) if error.is_not_found() && row.is_optional() => {
                self.metrics.unserved("tenant", row.resource().kind);
                return Outcome::Well;
            }
            Err(error) => return failed(&error, row, attached),
        };
        let mut outcome = if is_all { Outcome::Well } else { Outcome::Unsure };
        // Of what is not known something may be there.
        let changes = changes.into_iter().filter(|change| is_all || !matches!(change, Change::Delete { .. }));
        for (n, change) in changes.enumerate() {
            if n == WRITES {
                return outcome.max(Outcome::Unsure);
            }
            let Err(error) = self.make(row, change, attached).await else { continue };
            outcome = outcome.max(failed(&error, row, attached));
            if error.code().is_none() {
                break;
            }
        }
        outcome
    }

    async fn make(&self, row: &dyn Upward, change: Change, attached: &Attached) -> Result<(), CallError> {
        let resource = &row.resource();
        match change {
            Change::Create { name, content } => self.create(resource, &name, &content, attached).await,
            Change::Delete { name, uid } => self.delete(resource, &name, uid, attached).await,
            Change::Replace { name, uid, version, content } => {
                let (path, body) = (resource.path(None, &name), content.to_update(resource, None, &name, uid, &version));
                match self.write(resource, "update", attached, attached.remote.replace(&path, body, None)).await {
                    // Some fields can be set once only. What is bound to an object of the tenant's stays all the same.
                    Err(error) if error.code() == Some(422) && row.is_published() => {
                        self.delete(resource, &name, uid, attached).await?;
                        self.create(resource, &name, &content, attached).await
                    }
                    outcome => outcome,
                }
            }
        }
    }

    /// What is to be written of a kind; copies are read one after the other and none is kept. What of them cannot be read is counted, and left
    /// as it is.
    async fn compare(&self, row: &dyn Upward, wanted: BTreeMap<String, Content>, attached: &Attached) -> Result<Vec<Change>, CallError> {
        let resource = row.resource();
        let selector = format!("{}%3Dtrue", row.mark().unwrap_or_default().replace('/', "%2F"));
        let first = format!("{}?labelSelector={selector}&limit={PAGE}", resource.collection(None));
        let mut comparison = Comparison::new(row, wanted);
        let (mut room, mut next) = (MOST_BYTES, Some(first.clone()));
        for _ in 0..PAGES {
            let Some(path) = next.take() else { break };
            let answer = attached.remote.list(path, None).await;
            attached.note_answer(answer.as_ref().err());
            let bytes = answer?;
            let tell = |item: &RawValue| match Object::of_resource(item.get().as_bytes(), &resource) {
                Ok(object) => comparison.seen(&object),
                Err(error) => {
                    self.metrics.unreadable("tenant", resource.kind);
                    tracing::debug!(tenant = %attached.id, kind = resource.kind, error = %Chain(&error), "a copy of what is shown cannot be read");
                }
            };
            let (meta, _) = page::read(&bytes, resource.kind, tell).map_err(|source| CallError::Unreadable { side: "tenant", source })?;
            room = room.saturating_sub(bytes.len());
            next = (!meta.next.is_empty() && room > 0).then(|| format!("{first}&continue={}", meta.next));
            tokio::task::yield_now().await;
        }
        Ok(comparison.done())
    }

    async fn delete(&self, resource: &Resource, name: &str, uid: Uid, attached: &Attached) -> Result<(), CallError> {
        let path = resource.path(None, name);
        match self.write(resource, "delete", attached, attached.remote.delete(&path, uid, None, None)).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }

    async fn create(&self, resource: &Resource, name: &str, content: &Content, attached: &Attached) -> Result<(), CallError> {
        let (path, body) = (resource.collection(None), content.to_create(resource, None, name));
        match self.write(resource, "create", attached, attached.remote.create(&path, body, None)).await {
            Err(error) if error.is_already_exists() => {
                tracing::debug!(kind = resource.kind, name = %Escaped(name), "a tenant has one of its own of a name that is shown");
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn write<T>(
        &self,
        resource: &Resource,
        step: &'static str,
        attached: &Attached,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<(), CallError> {
        if attached.is_halted() {
            return Err(CallError::Fenced);
        }
        let outcome = call.await;
        attached.note_answer(outcome.as_ref().err());
        self.metrics.wrote("tenant", resource.kind, step, outcome.is_ok());
        outcome.map(drop)
    }
}

/// What a failed call means for the next one.
fn failed(error: &CallError, row: &dyn Upward, attached: &Attached) -> Outcome {
    tracing::debug!(tenant = %attached.id, kind = row.resource().kind, error = %Chain(error), "what is shown could not be written");
    match error.code() {
        // Somebody else wrote in between.
        Some(404 | 409) => Outcome::Unsure,
        Some(400 | 403 | 405 | 413 | 422) => Outcome::Refused,
        _ => Outcome::Badly,
    }
}

/// What a tenant should have of a kind.
struct Wanted {
    copies: BTreeMap<String, Content>,
    /// Whether there is no more that is not known yet.
    is_all: bool,
}

fn is_any_of(tenant: &Tenant, super_namespaces: &HashSet<String>) -> bool {
    if super_namespaces.is_empty() {
        return false;
    }
    let known = tenant.namespaces.lock();
    super_namespaces.iter().any(|name| known.contains_key(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_keeps_nothing_else_from_a_tenant_and_silence_does() {
        let since = Instant::now();
        let errand = |outcome, rests: bool, is_touched| {
            let next = if rests { since + Duration::from_hours(1) } else { since };
            Given { since, edition: 1, outcome, failures: 1, next }.errand(since, 1, is_touched)
        };
        for outcome in [Outcome::Well, Outcome::Unsure, Outcome::Refused] {
            assert_eq!((errand(outcome, true, true), errand(outcome, true, false)), (Some(Errand::GiveOwned), None));
        }
        assert_eq!((errand(Outcome::Badly, true, true), errand(Outcome::Badly, false, true)), (None, Some(Errand::Give)));
        assert_eq!(
            (errand(Outcome::Well, false, false), errand(Outcome::Refused, false, false)),
            (Some(Errand::Patrol), Some(Errand::Give))
        );
        let before = Given { since, edition: 0, outcome: Outcome::Badly, failures: 1, next: since + Duration::from_hours(1) };
        assert_eq!(before.errand(since, 1, false), Some(Errand::Give), "what is published has moved");
    }
}
