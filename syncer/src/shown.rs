//! What the super cluster shows of itself, in tenants: one engine for all kinds whose copies bear a mark. Those are published classes, for every
//! tenant, and what belongs to an object of one tenant's (the volume of its claim).
//!
//! ```text
//! super informers ──► shelf ──► keeper: for each tenant, once anything of its own moved, and on patrol: list its copies ──► write what differs
//! ```
//!
//! Tenants' copies are not watched: a tenant that changes one deceives itself alone, until the patrol comes by.

mod shelf;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{InSuper, InTenant, Namespace, Uid};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use mirror::cx::Policy;
use mirror::kind::{About, Audience, KindId, Resource, Upward};
use mirror::object::{Content, Object};
use mirror::shown::{Change, changes};
use runtime::log::{Chain, Escaped};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::{Instant, interval};

use self::shelf::Shelf;
use crate::index::{Index, Slot};
use crate::informer::Told;
use crate::metrics::SyncMetrics;
use crate::remote::{CallError, ListMeta};
use crate::tenant::{Attached, Tenant, Tenants};
use crate::work::Lane;

/// How often tenants are looked for that have not what they should.
const LOOK: Duration = Duration::from_secs(1);
/// How long a tenant rests of whose copies not all could be written.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How many times as long as the engine's the pace of this patrol is: nobody but the tenant itself is concerned.
const PATROLS: u32 = 10;
/// Tenants that are worked on at once.
const AT_ONCE: usize = 16;
/// How long a tenant rests of whose objects in the super cluster not all are known.
const UNSURE: Duration = Duration::from_secs(5);
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
    /// When it is looked at again.
    next: Instant,
}

impl Given {
    /// What is to be done now.
    fn errand(&self, attached: &Attached, edition: u64, is_touched: bool) -> Option<Errand> {
        if self.since != attached.since || self.edition != edition {
            return Some(Errand::Give);
        }
        let is_time = Instant::now() >= self.next;
        match self.outcome {
            Outcome::Well | Outcome::Unsure if is_touched => Some(Errand::GiveOwned),
            Outcome::Well => is_time.then_some(Errand::Patrol),
            Outcome::Unsure => is_time.then_some(Errand::GiveOwned),
            Outcome::Badly => is_time.then_some(Errand::Give),
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
    /// Something could not be written.
    Badly,
}

/// Why a tenant is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
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
            Told::Opened => false,
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
        let error = match Object::parse(bytes) {
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
            for tenant in tenants.all() {
                if is_any_of(&tenant, &within) {
                    touched.insert(tenant.lane.clone());
                }
            }
            for tenant in tenants.all() {
                if under_way.len() >= AT_ONCE {
                    break;
                }
                let Some(attached) = tenant.attached().filter(|attached| may_write(attached)) else { continue };
                let errand = match given.get(&tenant.lane) {
                    None => Some(Errand::Give),
                    // Under way.
                    Some(None) => None,
                    Some(Some(last)) => last.errand(&attached, edition, touched.contains(&tenant.lane)),
                };
                if let Some(errand) = errand {
                    touched.remove(&tenant.lane);
                    given.insert(tenant.lane.clone(), None);
                    under_way.push(self.give_guarded(tenant, attached, edition, errand));
                }
            }
        }
    }

    async fn give_guarded(&self, tenant: Arc<Tenant>, attached: Arc<Attached>, edition: u64, errand: Errand) -> (Lane, Given) {
        let work = AssertUnwindSafe(Box::pin(self.give(&tenant, &attached, errand))).catch_unwind();
        let outcome = attached.cancel.run_until_cancelled(work).await.and_then(Result::ok).unwrap_or(Outcome::Badly);
        let rest = match outcome {
            Outcome::Well => self.patrol,
            Outcome::Unsure => UNSURE,
            Outcome::Badly => AFTER_FAILURE,
        };
        (tenant.lane.clone(), Given { since: attached.since, edition, outcome, next: Instant::now() + rest })
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
            if !wanted.is_all {
                outcome = outcome.max(Outcome::Unsure);
            }
            if let Err(error) = self.give_kind(row, wanted, attached).await {
                tracing::debug!(tenant = %tenant.lane, kind = row.resource().kind, error = %Chain(&error), "what is shown could not be written");
                outcome = Outcome::Badly;
            }
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

    async fn give_kind(&self, row: &dyn Upward, wanted: Wanted, attached: &Attached) -> Result<(), CallError> {
        let resource = &row.resource();
        for change in changes(row, wanted.copies, self.copies(row, attached).await?) {
            match change {
                // It may belong to what is not known.
                Change::Delete { .. } if !wanted.is_all => {}
                Change::Create { name, content } => self.create(resource, &name, &content, attached).await?,
                Change::Delete { seen } => self.delete(resource, &seen, attached).await?,
                Change::Replace { seen, content } => match self.replace(resource, &seen, &content, attached).await {
                    // Some fields can be set once only.
                    Err(error) if error.code() == Some(422) => {
                        self.delete(resource, &seen, attached).await?;
                        self.create(resource, &seen.meta.name, &content, attached).await?;
                    }
                    outcome => outcome?,
                },
            }
        }
        Ok(())
    }

    /// What a tenant has of a kind that bears the mark. What of it cannot be read is counted, and left as it is.
    async fn copies(&self, row: &dyn Upward, attached: &Attached) -> Result<Vec<Object>, CallError> {
        let resource = row.resource();
        let selector = format!("{}%3Dtrue", row.mark().unwrap_or_default().replace('/', "%2F"));
        let first = format!("{}?labelSelector={selector}&limit={PAGE}", resource.collection(None));
        let (mut copies, mut room, mut next) = (Vec::new(), MOST_BYTES, Some(first.clone()));
        for _ in 0..PAGES {
            let Some(path) = next.take() else { break };
            let bytes = attached.remote.list(path, None).await?;
            let page: Page<'_> = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: "tenant", source })?;
            for item in page.items.unwrap_or_default().into_iter().take(PAGE) {
                match Object::parse(item.get().as_bytes()) {
                    Ok(object) => copies.push(object),
                    Err(error) => {
                        self.metrics.unreadable("tenant", resource.kind);
                        tracing::debug!(tenant = %attached.id, kind = resource.kind, error = %Chain(&error), "a copy of what is shown cannot be read");
                    }
                }
            }
            room = room.saturating_sub(bytes.len());
            let token = page.metadata.unwrap_or_default().next;
            next = (!token.is_empty() && room > 0).then(|| format!("{first}&continue={token}"));
        }
        Ok(copies)
    }

    async fn replace(&self, resource: &Resource, seen: &Object, content: &Content, attached: &Attached) -> Result<(), CallError> {
        let path = resource.path(None, &seen.meta.name);
        let body = content.to_update(resource, None, &seen.meta.name, seen.meta.uid, &seen.meta.version);
        self.write(resource, "update", attached, attached.remote.replace(&path, body, None)).await
    }

    async fn delete(&self, resource: &Resource, seen: &Object, attached: &Attached) -> Result<(), CallError> {
        let path = resource.path(None, &seen.meta.name);
        match self.write(resource, "delete", attached, attached.remote.delete(&path, seen.meta.uid, None, None)).await {
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
        if !may_write(attached) {
            return Err(CallError::Fenced);
        }
        let outcome = call.await;
        self.metrics.wrote("tenant", resource.kind, step, outcome.is_ok());
        outcome.map(drop)
    }
}

fn may_write(attached: &Attached) -> bool {
    !attached.is_halted() && attached.breaker.lock().wait(Instant::now()).is_none()
}

/// What a tenant should have of a kind.
struct Wanted {
    copies: BTreeMap<String, Content>,
    /// Whether there is no more that is not known yet.
    is_all: bool,
}

/// Whose an object of the super cluster is.
enum Owner {
    /// This tenant's object.
    Is { name: String, uid: Uid },
    /// An object that is gone.
    Nobody,
    /// One that the super cluster or the tenant has not told of yet, or has just replaced.
    NotKnown,
}

/// The object of the tenant's in that namespace of its that something of the super cluster belongs to; nothing while the tenant's are being listed.
fn owner(index: &Index, audience: &Audience, namespace: &str) -> Option<Owner> {
    let Audience::OwnerOf { kind, name, uid, .. } = audience else { return Some(Owner::Nobody) };
    let (Some(kind), Ok(namespace), Ok(uid)) = (KindId::named(kind), Namespace::parse(namespace), Uid::parse(uid)) else {
        return Some(Owner::Nobody);
    };
    if !index.synced(kind, false) {
        return None;
    }
    let Some(key) = index.by_super_name(kind, &namespace, name) else { return Some(Owner::Nobody) };
    let Some(entry) = index.get(&key) else { return Some(Owner::Nobody) };
    Some(match (&entry.sup, &entry.tenant) {
        (_, Slot::Absent(_)) => Owner::Nobody,
        (Slot::Here(sup, _), Slot::Here(own, ())) if sup.uid == uid => Owner::Is { name: key.name.as_str().to_owned(), uid: own.uid },
        _ => Owner::NotKnown,
    })
}

fn is_any_of(tenant: &Tenant, super_namespaces: &HashSet<String>) -> bool {
    if super_namespaces.is_empty() {
        return false;
    }
    let known = tenant.namespaces.lock();
    super_namespaces.iter().any(|name| known.contains_key(name.as_str()))
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: Option<ListMeta>,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}
