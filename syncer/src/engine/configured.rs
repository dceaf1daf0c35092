//! Kinds of custom resources that `SyncedResource`s configure: in which version each tenant and the super cluster meet, and who follows them.
//!
//! ```text
//! SyncedResource ──► its definition in the super cluster ──► followed: a kind, and the versions served there
//!                                                              │ in each tenant: its own definition
//!                                                              ▼
//!                         the highest version that both serve: a row ──► informer in the tenant, and one in the super cluster
//! ```
//!
//! From there on everything is as for kinds of the table. A kind that is configured no more, or that a tenant serves in no version of ours any more, is
//! not followed: nothing is written for it, and what is below stays. Only a tenant that has no definition any more has no objects either.

mod each;
mod standing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::api::{SyncedResource, SyncedResourceSpec, SyncedResourceStatus};
use common::{Side, Super, TenantId};
use kube::ResourceExt;
use mirror::kind::KindId;
use mirror::kinds::synced::{Flaw, Synced};
use mirror::served::{Served, UNDEFINED};
use parking_lot::Mutex;
use runtime::log::Chain;
use runtime::task::Tasks;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::each::{AtEnd, Set, each};
use super::intake::{chain, whole};
use super::{Engine, Watchfulness, until_stopped};
use crate::informer::{Source, Told, run};
use crate::tenant::{Attached, Tenant};

/// What is configured, and what came of it.
#[derive(Default)]
pub(crate) struct Configured {
    asked: watch::Sender<Set<Asked>>,
    followed: watch::Sender<Set<Followed>>,
    rows: watch::Sender<Set<Row>>,
    /// What the objects say of themselves, as they were last seen.
    said: Mutex<BTreeMap<String, SyncedResourceStatus>>,
    /// There may be something else to say.
    moved: Notify,
}

/// A `SyncedResource`, as it was written.
struct Asked {
    name: String,
    generation: Option<i64>,
    spec: SyncedResourceSpec,
    way: Mutex<Way>,
}

/// How far a kind is on its way to be followed.
#[derive(Default)]
enum Way {
    /// Nothing is known yet.
    #[default]
    Asked,
    /// It cannot be meant.
    Flawed(Flaw),
    /// The super cluster does not serve it.
    NotServed(&'static str),
    /// It is followed in tenants.
    Followed,
}

/// A kind that the super cluster serves.
struct Followed {
    asked: Arc<Asked>,
    served: Served,
    /// Where each attached tenant stands that has the kind.
    tenants: Mutex<BTreeMap<String, Met>>,
}

/// How a tenant and the super cluster meet.
enum Met {
    /// In this version.
    In(String),
    /// In none: who it is, and what it serves.
    Nowhere(String, Vec<String>),
}

/// A kind in one version, from when a tenant first meets the super cluster there.
struct Row {
    of: Arc<Followed>,
    kind: KindId,
    /// Why it cannot be read in the super cluster, if so.
    failed: Mutex<Option<String>>,
}

/// The longest time that a tenant's definition that changes again and again is not looked at; it begins with a second.
const LONGEST: Duration = Duration::from_mins(1);

/// So long it must have stayed the same to be looked at at once.
const QUIET: Duration = Duration::from_mins(5);

/// Where definitions are.
pub(super) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Where what is configured is.
const CONFIGURED: &str = "/apis/tenancy.x-k8s.io/v1alpha1/syncedresources";

impl Engine {
    /// Follows what is configured, for ever.
    pub(super) async fn follow_configured(&self) {
        let source = whole(CONFIGURED, "SyncedResource");
        let mut listed: Option<BTreeMap<String, Arc<Asked>>> = None;
        let configured = run(self.sup().clone(), source, |told| self.configured_told(told, &mut listed));
        let definitions = each(self.0.configured.asked.subscribe(), |asked| self.follow_definition(asked));
        let rows = each(self.0.configured.rows.subscribe(), |row| self.follow_row(row));
        tokio::join!(configured, definitions, rows, self.tell_configured());
    }

    /// Starts what follows in a tenant what is configured.
    pub(super) fn watch_configured(&self, tenant: &Arc<Tenant>, attached: &Arc<Attached>, seen: &Arc<Watchfulness>, tasks: &Tasks) {
        let (engine, tenant, attached, seen) = (self.clone(), tenant.clone(), attached.clone(), seen.clone());
        until_stopped(tasks, "tenant-configured", async move {
            let kinds = each(engine.0.configured.followed.subscribe(), |kind| engine.follow_in(kind, &tenant, &attached, &seen));
            let _ = attached.cancel.run_until_cancelled(kinds).await;
        });
    }

    /// What is said of `SyncedResource`s; `listed` is what a list has named so far, while it runs.
    fn configured_told(&self, told: Told, listed: &mut Option<BTreeMap<String, Arc<Asked>>>) {
        self.note(Super::NAME, "SyncedResource", &self.0.noted, &told);
        let configured = &self.0.configured;
        match told {
            Told::ListBegins => *listed = Some(BTreeMap::new()),
            Told::Object(bytes) => {
                let Ok(object) = serde_json::from_slice::<SyncedResource>(&bytes).inspect_err(|error| {
                    tracing::warn!(error = %Chain(error), "a SyncedResource cannot be read");
                }) else {
                    return;
                };
                let asked = configured.asked(object);
                match listed {
                    Some(listed) => drop(listed.insert(asked.name.clone(), asked)),
                    None => configured.replace(&asked.name.clone(), Some(asked)),
                }
            }
            Told::Gone(bytes) => {
                if let Ok(object) = serde_json::from_slice::<SyncedResource>(&bytes) {
                    if let Some(listed) = listed {
                        listed.remove(&object.name_any());
                    }
                    configured.replace(&object.name_any(), None);
                }
            }
            Told::ListEnds(_) => {
                if let Some(listed) = listed.take() {
                    let listed: Vec<_> = listed.into_values().collect();
                    configured.said.lock().retain(|name, _| listed.iter().any(|asked| asked.name == *name));
                    configured.asked.send_replace(Arc::new(listed));
                }
            }
            Told::Failed(error) => tracing::warn!(kind = "SyncedResource", error = %chain(&error), "super informer failed"),
            Told::Opened | Told::Unreadable(_) | Told::Unserved => {}
        }
    }

    /// Follows the definition of a kind in the super cluster; the kind is followed while this runs.
    async fn follow_definition(&self, asked: Arc<Asked>) {
        let configured = &self.0.configured;
        if let Err(flaw) = Synced::check(&asked.spec) {
            configured.is_at(&asked, Way::Flawed(flaw));
            return std::future::pending().await;
        }
        let _ends = AtEnd(|| configured.unfollow(&asked));
        let (tell, mut served) = watch::channel(None);
        let mut found = None;
        let definition = run(self.sup().clone(), definition_of(&asked), |told| served_told(told, &asked.spec, &mut found, &tell));
        let follow = async {
            while served.changed().await.is_ok() {
                configured.unfollow(&asked);
                match served.borrow_and_update().clone() {
                    None => {}
                    Some(Served::Not(why)) => configured.is_at(&asked, Way::NotServed(why)),
                    Some(versions) => {
                        let kind = Arc::new(Followed { asked: asked.clone(), served: versions, tenants: Mutex::default() });
                        configured.followed.send_modify(|all| *all = Arc::new(all.iter().cloned().chain([kind]).collect()));
                        configured.is_at(&asked, Way::Followed);
                    }
                }
            }
        };
        tokio::join!(definition, follow);
    }

    /// Follows the copies of a kind in the super cluster, in one version.
    async fn follow_row(&self, row: Arc<Row>) {
        let resource = row.kind.kind().resource();
        tracing::info!(group = resource.group, kind = resource.kind, version = resource.version, "a kind of custom resources is followed");
        let _ends = AtEnd(|| {
            self.0.super_synced.remove(&row.kind);
            for tenant in self.0.tenants.all() {
                tenant.index.lock().end_kind(row.kind);
                tenant.counts.lock().end_kind(row.kind);
            }
            tracing::info!(group = resource.group, kind = resource.kind, version = resource.version, "a kind of custom resources is left");
        });
        let sink = |told: Told| {
            match &told {
                Told::Failed(error) => self.0.configured.failed(&row, Some(chain(error))),
                Told::ListEnds(_) => self.0.configured.failed(&row, None),
                Told::Opened | Told::ListBegins | Told::Object(_) | Told::Gone(_) | Told::Unreadable(_) | Told::Unserved => {}
            }
            self.super_told(row.kind, told);
        };
        run(self.sup().clone(), self.super_source(row.kind), sink).await;
    }

    /// Follows a kind in a tenant: its definition, and in the version that this leads to its objects.
    async fn follow_in(&self, kind: Arc<Followed>, tenant: &Tenant, attached: &Attached, seen: &Watchfulness) {
        let _ends = AtEnd(|| self.0.configured.met(&kind, attached.id.as_str(), None));
        let (tell, mut served) = watch::channel(None);
        let mut found = None;
        let sink = |told| served_told(told, &kind.asked.spec, &mut found, &tell);
        let definition = run(attached.remote.clone(), definition_of(&kind.asked), sink);
        let objects = async {
            let mut row: Option<Arc<Row>> = None;
            let (mut wait, mut changed_at) = (Duration::ZERO, Instant::now());
            loop {
                let now = served.borrow_and_update().clone();
                let next = now.as_ref().and_then(|now| self.meet(&kind, attached, now));
                if let Some(row) = row.filter(|row| next.as_ref().is_none_or(|next| next.kind != row.kind)) {
                    tenant.index.lock().reset_kind(row.kind);
                }
                row = next;
                let objects = async {
                    match &row {
                        Some(row) if now.as_ref() == Some(&UNDEFINED) => self.has_none(tenant, row.kind),
                        Some(row) => self.inform(tenant, attached, seen, row.kind).await,
                        None => {}
                    }
                    std::future::pending::<()>().await;
                };
                let changed = async {
                    let is_over = served.changed().await.is_err();
                    if changed_at.elapsed() > QUIET {
                        wait = Duration::ZERO;
                    }
                    tokio::time::sleep(wait).await;
                    (wait, changed_at) = ((wait * 2).clamp(Duration::from_secs(1), LONGEST), Instant::now());
                    is_over
                };
                tokio::select! {
                    () = objects => {}
                    is_over = changed => if is_over { return },
                }
            }
        };
        tokio::join!(definition, objects);
    }

    /// The row in whose version a tenant and the super cluster meet, if there is one. A tenant without a definition may have had one, and what went
    /// down then is found in any version.
    fn meet(&self, kind: &Arc<Followed>, attached: &Attached, served: &Served) -> Option<Arc<Row>> {
        let configured = &self.0.configured;
        let with_status = !kind.asked.spec.returns.is_empty();
        let version = kind.served.common(served, with_status);
        let met = match (version, served) {
            (Some(version), _) => Some(Met::In(version.to_owned())),
            // It does not have the kind.
            (None, served) if *served == UNDEFINED => None,
            (None, served) => Some(Met::Nowhere(who(&attached.id), served.names().into_iter().map(str::to_owned).collect())),
        };
        configured.met(kind, attached.id.as_str(), met);
        let any = || kind.served.common(&kind.served, with_status).filter(|_| *served == UNDEFINED);
        configured.row(kind, version.or_else(any)?)
    }

    /// A tenant has no definition of a kind, and so no objects: as after a list, each that is below is looked for before it is deleted.
    fn has_none(&self, tenant: &Tenant, kind: KindId) {
        let mut index = tenant.index.lock();
        index.list_begins(kind, true);
        let _ = index.list_ends(kind, true);
        let keys = index.of_kind(kind);
        drop(index);
        self.0.work.push_each(&tenant.lane, keys);
    }
}

impl Configured {
    /// What is asked, the same as before unless the object was written anew.
    fn asked(&self, object: SyncedResource) -> Arc<Asked> {
        let name = object.name_any();
        let generation = object.metadata.generation;
        self.said.lock().insert(name.clone(), object.status.unwrap_or_default());
        self.moved.notify_one();
        let known = self.asked.borrow().iter().find(|asked| asked.name == name).cloned();
        let is_same = |asked: &Arc<Asked>| asked.generation == generation && asked.spec == object.spec;
        known.filter(is_same).unwrap_or_else(|| Arc::new(Asked { name, generation, spec: object.spec, way: Mutex::default() }))
    }

    /// Puts one in the place of the one of that name.
    fn replace(&self, name: &str, asked: Option<Arc<Asked>>) {
        if asked.is_none() {
            self.said.lock().remove(name);
        }
        self.asked.send_if_modified(|all| {
            let is_there = |new: &Arc<Asked>| all.iter().any(|asked| Arc::ptr_eq(asked, new));
            if asked.as_ref().is_some_and(is_there) {
                return false;
            }
            *all = Arc::new(all.iter().filter(|asked| asked.name != name).cloned().chain(asked).collect());
            true
        });
    }

    fn is_at(&self, asked: &Asked, way: Way) {
        *asked.way.lock() = way;
        self.moved.notify_one();
    }

    /// A kind is followed no more: neither in tenants nor in the super cluster.
    fn unfollow(&self, asked: &Arc<Asked>) {
        let is_of = |kind: &Arc<Followed>| Arc::ptr_eq(&kind.asked, asked);
        self.followed.send_if_modified(|all| retain(all, |kind| !is_of(kind)));
        self.rows.send_if_modified(|all| retain(all, |row| !is_of(&row.of)));
    }

    /// The row of a version that is followed; none if the kind is followed no more.
    fn row(&self, kind: &Arc<Followed>, version: &str) -> Option<Arc<Row>> {
        let is_it = |row: &&Arc<Row>| Arc::ptr_eq(&row.of, kind) && row.kind.kind().resource().version == version;
        let is_followed = || self.followed.borrow().iter().any(|followed| Arc::ptr_eq(followed, kind));
        let mut found = None;
        self.rows.send_if_modified(|all| {
            found = all.iter().find(is_it).cloned();
            if found.is_some() || !is_followed() {
                return false;
            }
            // It was looked through before it was followed.
            let Ok(row) = Synced::of(&kind.asked.spec, version) else { return false };
            let row = Arc::new(Row { of: kind.clone(), kind: KindId::made(row), failed: Mutex::default() });
            *all = Arc::new(all.iter().cloned().chain([row.clone()]).collect());
            found = Some(row);
            true
        });
        found
    }

    fn met(&self, kind: &Followed, tenant: &str, met: Option<Met>) {
        let mut tenants = kind.tenants.lock();
        match met {
            Some(met) => drop(tenants.insert(tenant.to_owned(), met)),
            None => drop(tenants.remove(tenant)),
        }
        drop(tenants);
        self.moved.notify_one();
    }

    fn failed(&self, row: &Row, why: Option<String>) {
        *row.failed.lock() = why;
        self.moved.notify_one();
    }
}

/// Keeps some; true if any went.
fn retain<T>(all: &mut Set<T>, keep: impl Fn(&Arc<T>) -> bool) -> bool {
    let kept: Vec<_> = all.iter().filter(|item| keep(item)).cloned().collect();
    let is_less = kept.len() < all.len();
    if is_less {
        *all = Arc::new(kept);
    }
    is_less
}

/// A tenant, as people know it.
fn who(id: &TenantId) -> String {
    format!("{} ({})", id.hint(), id.as_str())
}

/// The definition of a kind, on either side.
fn definition_of(asked: &Asked) -> Source {
    let name = Some(format!("{}.{}", asked.spec.plural, asked.spec.group));
    Source { name, ..whole(DEFINITIONS, "CustomResourceDefinition") }
}

/// What is said of a definition: what is served by it. `found` is what a list has named so far, while it runs.
fn served_told(told: Told, spec: &SyncedResourceSpec, found: &mut Option<Served>, tell: &watch::Sender<Option<Served>>) {
    let is_now = |served: Served| {
        tell.send_if_modified(|before| {
            let is_news = before.as_ref() != Some(&served);
            *before = Some(served);
            is_news
        });
    };
    match told {
        Told::ListBegins => *found = Some(UNDEFINED),
        Told::Object(bytes) => {
            let served = Served::of(&bytes, spec).unwrap_or(Served::Not("the definition cannot be read"));
            match found {
                Some(found) => *found = served,
                None => is_now(served),
            }
        }
        Told::Gone(_) => match found {
            Some(found) => *found = UNDEFINED,
            None => is_now(UNDEFINED),
        },
        Told::ListEnds(_) => found.take().into_iter().for_each(is_now),
        Told::Failed(error) => tracing::debug!(kind = spec.kind, error = %chain(&error), "a definition cannot be followed"),
        Told::Opened | Told::Unreadable(_) | Told::Unserved => {}
    }
}
