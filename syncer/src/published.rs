//! What the administrator of the super cluster publishes, in every tenant: one engine for all kinds of that sort.
//!
//! ```text
//! super informers (by label) ──► shelf ──► keeper: for each tenant, once anything moved, and on patrol: list its copies ──► write what differs
//! ```
//!
//! Tenants' copies are not watched: a tenant that changes one deceives itself alone, until the patrol comes by.

mod shelf;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::{InSuper, InTenant};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use mirror::cx::Policy;
use mirror::kind::{KindId, Resource};
use mirror::object::{Content, Object};
use mirror::published::{Change, changes};
use runtime::log::{Chain, Escaped};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::{Instant, interval};

use self::shelf::Shelf;
use crate::informer::Told;
use crate::metrics::SyncMetrics;
use crate::remote::CallError;
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
/// Copies of one kind that are looked at in one tenant. Nobody publishes as many; a tenant may put the label on its own.
const MOST: usize = 500;

/// What is published, and who has it. Shared by `Arc`.
pub struct Published {
    shelf: Shelf,
    policy: Arc<Policy>,
    /// How often a tenant's copies are looked at though nothing moved.
    patrol: Duration,
    moved: Notify,
    metrics: Arc<SyncMetrics>,
}

impl mirror::cx::Published for Published {
    fn is_published(&self, kind: &str, name: &str) -> bool {
        self.shelf.has(kind, name)
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is published")
    }
}

/// The kinds that are published.
pub fn published_kinds() -> impl Iterator<Item = KindId> {
    KindId::all().filter(|id| id.kind().published().is_some())
}

/// What a tenant was given.
struct Given {
    /// Which attachment it was.
    since: Instant,
    /// What was on the shelf.
    edition: u64,
    /// Whether all went well.
    is_right: bool,
    /// When it is looked at again.
    next: Instant,
}

impl Given {
    /// What is to be done now.
    fn errand(&self, attached: &Attached, edition: u64) -> Option<Errand> {
        if self.since != attached.since || self.edition != edition {
            return Some(Errand::Give);
        }
        (Instant::now() >= self.next).then_some(if self.is_right { Errand::Patrol } else { Errand::Give })
    }
}

/// Why a tenant is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Errand {
    /// It may lack something, or have too much.
    Give,
    /// It may have changed what it was given: of kinds of which nothing is published there is nothing to be looked for.
    Patrol,
}

impl Published {
    /// Nothing yet; `patrol` is the engine's.
    pub fn new(policy: Arc<Policy>, patrol: Duration, metrics: Arc<SyncMetrics>) -> Self {
        let patrol = patrol.saturating_mul(PATROLS);
        Self { shelf: Shelf::default(), policy, patrol, moved: Notify::new(), metrics }
    }

    /// Takes what the informer of one of the kinds tells.
    pub fn super_told(&self, kind: KindId, told: Told) {
        let Some(row) = kind.kind().published() else { return };
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
        tracing::warn!(kind = kind_name, error = %Chain(&error), "something that is published cannot be read, and stays as it was");
        self.shelf.is_unread(kind);
        None
    }

    /// Gives all tenants what is published, for ever.
    pub async fn run(&self, tenants: Tenants) {
        let mut given: HashMap<Lane, Option<Given>> = HashMap::new();
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
            let edition = self.shelf.edition();
            for tenant in tenants.all() {
                if under_way.len() >= AT_ONCE {
                    break;
                }
                let Some(attached) = tenant.attached().filter(|attached| may_write(attached)) else { continue };
                let errand = match given.get(&tenant.lane) {
                    None => Some(Errand::Give),
                    // Under way.
                    Some(None) => None,
                    Some(Some(last)) => last.errand(&attached, edition),
                };
                if let Some(errand) = errand {
                    given.insert(tenant.lane.clone(), None);
                    under_way.push(self.give_guarded(tenant, attached, edition, errand));
                }
            }
        }
    }

    async fn give_guarded(&self, tenant: Arc<Tenant>, attached: Arc<Attached>, edition: u64, errand: Errand) -> (Lane, Given) {
        let work = AssertUnwindSafe(Box::pin(self.give(&tenant, &attached, errand))).catch_unwind();
        let is_right = attached.cancel.run_until_cancelled(work).await.is_some_and(|outcome| outcome.unwrap_or(false));
        let rest = if is_right { self.patrol } else { AFTER_FAILURE };
        (tenant.lane.clone(), Given { since: attached.since, edition, is_right, next: Instant::now() + rest })
    }

    /// Writes what differs in one tenant. False if not all went well.
    async fn give(&self, tenant: &Tenant, attached: &Attached, errand: Errand) -> bool {
        let mut went_well = true;
        for kind in published_kinds() {
            let Some(objects) = self.shelf.of(kind) else { continue };
            if objects.is_empty() && errand == Errand::Patrol {
                continue;
            }
            let wanted = objects.iter().filter_map(|object| self.copy(kind, object, attached)).collect();
            if let Err(error) = self.give_kind(&kind.kind().resource(), wanted, attached).await {
                tracing::debug!(tenant = %tenant.lane, kind = kind.kind().resource().kind, error = %Chain(&error), "what is published could not be written");
                went_well = false;
            }
        }
        went_well
    }

    fn copy(&self, kind: KindId, object: &InSuper<Object>, attached: &Attached) -> Option<(String, Content)> {
        let row = kind.kind().published()?;
        match attached.with_cx(&self.policy, |cx| row.up(object, None, &cx)) {
            Ok(InTenant(named)) => Some(named),
            Err(hold) => {
                tracing::warn!(kind = row.resource().kind, name = object.meta.name, reason = %hold, "what is published is not shown");
                None
            }
        }
    }

    async fn give_kind(&self, resource: &Resource, wanted: BTreeMap<String, Content>, attached: &Attached) -> Result<(), CallError> {
        for change in changes(wanted, self.copies(resource, attached).await?) {
            match change {
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

    /// What a tenant has of a kind that bears the label. What of it cannot be read is counted, and left as it is.
    async fn copies(&self, resource: &Resource, attached: &Attached) -> Result<Vec<Object>, CallError> {
        let selector = format!("{}%3Dtrue", common::keys::PUBLIC.replace('/', "%2F"));
        let path = format!("{}?labelSelector={selector}&limit={MOST}", resource.collection(None));
        let bytes = attached.remote.list(path, None).await?;
        let page: Page<'_> = serde_json::from_slice(&bytes).map_err(|source| CallError::Unreadable { side: "tenant", source })?;
        let mut copies = Vec::new();
        for item in page.items.unwrap_or_default().into_iter().take(MOST) {
            match Object::parse(item.get().as_bytes()) {
                Ok(object) => copies.push(object),
                Err(error) => {
                    self.metrics.unreadable("tenant", resource.kind);
                    tracing::debug!(tenant = %attached.id, kind = resource.kind, error = %Chain(&error), "a copy of what is published cannot be read");
                }
            }
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
                tracing::debug!(kind = resource.kind, name = %Escaped(name), "a tenant has one of its own of a name that is published");
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

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}
