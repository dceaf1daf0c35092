//! The engine: attaches tenants, lets informers fill the index, and works on keys by turn.

mod configured;
mod intake;
mod patrol;
mod process;
#[cfg(test)]
mod tests;
mod withdraw;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Super, Tenant as TenantSide, TenantId, Uid};
use dashmap::{DashMap, DashSet};
use kube::core::Selector;
use mirror::cx::{Policy, Profile};
use mirror::external::ExternalAddresses;
use mirror::host::Hosts;
use mirror::kind::{Downward, Kind, KindId, Observe};
use parking_lot::{Mutex, RwLock};
use runtime::lease::Held;
use runtime::task::Tasks;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::configured::Configured;
pub(crate) use self::withdraw::Undecided;
use crate::events::{Copier, Recorder};
use crate::handlers::Handlers;
use crate::index::{Key, Slot};
use crate::metrics::SyncMetrics;
use crate::mounts::trust_bundles::Reader;
use crate::nodes::Nodes;
use crate::remote::Remote;
use crate::shown::{Showing, shown_kinds};
use crate::tenant::{Attached, Tenant, Tenants};
use crate::work::Work;
use crate::writer::{Fence, Writer};

/// How the engine is set.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Keys worked on at once.
    pub workers: usize,
    /// Time between two patrols.
    pub patrol_interval: Duration,
    /// The share of a token's life after which it is renewed.
    pub renew_share: f64,
    /// Send all Secrets and ConfigMaps, not only those that Pods refer to.
    pub sync_unreferenced: bool,
    /// Tenant namespaces that never go down.
    pub exclude_namespaces: BTreeSet<String>,
}

/// A tenant to be attached.
pub struct AttachSpec {
    /// The identity that names are made from.
    pub id: TenantId,
    /// Its API server.
    pub remote: Remote<TenantSide>,
    /// The UID of its `kube-system`.
    pub incarnation: Uid,
    /// What kinds may know of it.
    pub profile: Profile,
    /// Its share of attention, 1–100.
    pub weight: u8,
    /// Whether nothing is to be written for it yet (`spec.paused`).
    pub paused: bool,
}

/// How a tenant is doing.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is something else that is the case or not")]
pub struct TenantHealth {
    /// Whether all its informers have listed once, or know that their kind is not served.
    pub synced: bool,
    /// What is wrong with its API server, if anything.
    pub unreachable: Option<String>,
    /// Its Pods in the super cluster.
    pub pods: u32,
    /// Its API server showed a state older than what super copies were built from: the version it was at, and the version built from.
    pub regression: Option<(u64, u64)>,
    /// A read was answered by another control plane than the one that is attached.
    pub other_life: bool,
    /// Its API server did not take our credentials.
    pub unauthorized: bool,
    /// A super namespace that its writer may not write into, and what the super API server said.
    pub denied: Option<(Arc<str>, String)>,
    /// Whether deletions that follow from absence wait for a second look.
    pub deletions_paused: bool,
    /// Objects that are not followed because there are too many.
    pub left_out: usize,
}

/// What is seen of a tenant's health while it is attached.
#[derive(Debug, Default)]
pub(crate) struct Watchfulness {
    pub(crate) unreachable: Mutex<Option<String>>,
    pub(crate) unauthorized: AtomicBool,
    pub(crate) regression: Mutex<Option<(u64, u64)>>,
    pub(crate) other_life: AtomicBool,
    pub(crate) synced: DashSet<KindId>,
    /// The kinds that its API server does not serve.
    pub(crate) unserved: DashSet<KindId>,
    pub(crate) noted: Noted,
}

impl Watchfulness {
    /// The tenant's API server does not take our credentials: whoever reads kubeconfigs hears of it at once, and once. A late answer to
    /// an attachment that has ended says nothing of the credentials that came after.
    pub(crate) fn note_unauthorized(&self, attached: &Attached) {
        if !attached.cancel.is_cancelled() && !self.unauthorized.swap(true, Ordering::Relaxed) {
            attached.alarm.notify_one();
        }
    }
}

/// Whose API server says what cannot be read, and when that was last written to the log.
#[derive(Debug, Default)]
pub(crate) struct Noted(pub(crate) String, Mutex<Option<Instant>>);

/// What may come with every line is written to the log this often.
const NOTED: Duration = Duration::from_mins(1);

impl Noted {
    fn of(tenant: &str) -> Self {
        Self(tenant.to_owned(), Mutex::default())
    }

    /// Whether it is time to write to the log again.
    pub(crate) fn is_time(&self) -> bool {
        let mut last = self.1.lock();
        let is_time = last.is_none_or(|last| last.elapsed() >= NOTED);
        if is_time {
            *last = Some(Instant::now());
        }
        is_time
    }
}

pub(crate) struct Shared {
    pub(crate) writer: Writer,
    pub(crate) tenants: Tenants,
    pub(crate) work: Work,
    pub(crate) policy: Arc<Policy>,
    pub(crate) options: EngineOptions,
    pub(crate) metrics: Arc<SyncMetrics>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) showing: Arc<Showing>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) copier: Arc<Copier>,
    pub(crate) trust_bundles: Reader,
    pub(crate) super_synced: DashSet<KindId>,
    /// The kinds that the super cluster does not serve.
    pub(crate) super_unserved: DashSet<KindId>,
    pub(crate) configured: Configured,
    pub(crate) health: DashMap<Arc<str>, Arc<Watchfulness>>,
    pub(crate) noted: Noted,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Shared>);

/// What the engine is made of.
pub struct EngineParts {
    /// The super API server.
    pub sup: Remote<Super>,
    /// All tenants.
    pub tenants: Tenants,
    /// The queue.
    pub work: Work,
    /// What the administrator allows.
    pub policy: Arc<Policy>,
    /// How the engine is set.
    pub options: EngineOptions,
    /// What leader election says.
    pub held: watch::Receiver<Option<Held>>,
    /// Where it counts.
    pub metrics: Arc<SyncMetrics>,
    /// vNodes.
    pub nodes: Arc<Nodes>,
    /// What the super cluster shows of itself.
    pub showing: Arc<Showing>,
    /// Events for tenants, of our own.
    pub recorder: Arc<Recorder>,
    /// Events for tenants, from the super cluster.
    pub copier: Arc<Copier>,
}

impl Engine {
    /// An engine that does nothing yet.
    pub fn new(parts: EngineParts) -> Self {
        let writer = Writer::new(parts.sup, Fence::new(parts.held), parts.policy.clone());
        Self(Arc::new(Shared {
            writer,
            tenants: parts.tenants,
            work: parts.work,
            policy: parts.policy,
            options: parts.options,
            metrics: parts.metrics,
            nodes: parts.nodes,
            showing: parts.showing,
            recorder: parts.recorder,
            copier: parts.copier,
            trust_bundles: Reader::default(),
            super_synced: DashSet::new(),
            super_unserved: DashSet::new(),
            configured: Configured::default(),
            health: DashMap::new(),
            noted: Noted::default(),
        }))
    }

    /// Starts what is there once: the super cluster's informers, the workers, the patrol, nodes and events. All end with `tasks`;
    /// what a worker has begun it ends first.
    pub fn start(&self, tasks: &Arc<Tasks>) {
        self.watch_super(tasks);
        for _ in 0..self.0.options.workers {
            let (engine, stop) = (self.clone(), tasks.stop().clone());
            tasks.spawn("worker", async move { engine.work_until(&stop).await });
        }
        let engine = self.clone();
        until_stopped(tasks, "configured", async move { engine.follow_configured().await });
        let engine = self.clone();
        until_stopped(tasks, "patrol", async move { engine.patrol_for_ever().await });
        let (nodes, tenants) = (self.0.nodes.clone(), self.0.tenants.clone());
        until_stopped(tasks, "nodes", async move { nodes.run(tenants).await });
        let (showing, tenants) = (self.0.showing.clone(), self.0.tenants.clone());
        until_stopped(tasks, "showing", async move { showing.run(tenants).await });
        let recorder = self.0.recorder.clone();
        until_stopped(tasks, "recorder", async move { recorder.run().await });
        let copier = self.0.copier.clone();
        until_stopped(tasks, "copier", async move { copier.run().await });
    }

    /// Whether every kind of the super cluster has been listed once, or is known not to be served.
    pub fn super_synced(&self) -> bool {
        watched_kinds().chain(shown_kinds()).all(|kind| self.0.super_synced.contains(&kind))
    }

    /// All tenants that anything is known of.
    pub fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    /// The right to write.
    pub fn fence(&self) -> &Fence {
        self.0.writer.fence()
    }

    /// The super API server.
    pub fn sup(&self) -> &Remote<Super> {
        self.0.writer.sup()
    }

    /// Attaches a tenant and starts its informers. An earlier attachment ends; what is known of the super side stays.
    pub fn attach(&self, spec: AttachSpec, tasks: &Tasks) -> Arc<Attached> {
        let tenant = self.0.tenants.entry(spec.id.as_str());
        let before = tenant.attached();
        let same_life = before.as_ref().is_some_and(|before| before.incarnation == spec.incarnation);
        let attached = Arc::new(Attached {
            id: spec.id,
            remote: spec.remote.fenced(self.fence().clone()),
            incarnation: spec.incarnation,
            profile: RwLock::new(Arc::new(spec.profile)),
            nodes: RwLock::new(Arc::new(BTreeSet::new())),
            halted: AtomicBool::new(false),
            paused: AtomicBool::new(spec.paused),
            writer: tokio::sync::Mutex::new(None),
            cancel: CancellationToken::new(),
            tenant_namespaces: DashMap::new(),
            since: Instant::now(),
            breaker: Mutex::default(),
            alarm: Notify::new(),
            relist: Notify::new(),
            handlers: Handlers::default(),
            reading_bundles: tokio::sync::Mutex::new(()),
            denied: Mutex::default(),
            accepted: AtomicU64::default(),
            making_namespace: tokio::sync::Mutex::new(()),
        });
        if let Some(before) = &before {
            before.cancel.cancel();
        }
        if !same_life {
            tenant.index.lock().reset_tenant();
        }
        self.0.health.insert(tenant.lane.clone(), Arc::new(Watchfulness { noted: Noted::of(&tenant.lane), ..Watchfulness::default() }));
        self.0.work.weigh(&tenant.lane, spec.weight);
        tenant.attached.store(Some(attached.clone()));
        if let Some(before) = before.filter(|_| same_life) {
            self.decide_registered(&tenant, &before.profile(), &attached.profile());
        }
        let addresses = *tenant.addresses.lock();
        attached.learn(|profile| (profile.kubernetes, profile.dns) = (addresses.kubernetes, addresses.dns));
        self.watch_tenant(&tenant, &attached, tasks);
        attached
    }

    /// Ends a tenant's attachment. Nothing is deleted.
    pub fn detach(&self, id: &str) {
        if let Some(tenant) = self.0.tenants.get(id) {
            if let Some(attached) = tenant.attached.swap(None) {
                attached.cancel.cancel();
            }
            tenant.index.lock().reset_tenant();
            tenant.taken.lock().clear();
            self.0.work.remove(&tenant.lane);
            self.0.health.remove(&tenant.lane);
        }
    }

    /// Nothing is written for a tenant until [`Engine::go_on`].
    pub fn halt(&self, id: &str) {
        if let Some(attached) = self.0.tenants.get(id).and_then(|tenant| tenant.attached()) {
            attached.halted.store(true, Ordering::Relaxed);
        }
    }

    /// Lets a tenant go on that was halted or paused, unless it is paused now.
    pub fn go_on(&self, id: &str, paused: bool) {
        let Some(tenant) = self.0.tenants.get(id) else { return };
        let Some(attached) = tenant.attached() else { return };
        let was_halted = attached.halted.swap(false, Ordering::Relaxed);
        let was_paused = attached.paused.swap(paused, Ordering::Relaxed);
        if (was_halted || was_paused) && !paused {
            if let Some(health) = self.0.health.get(&tenant.lane) {
                *health.regression.lock() = None;
            }
            let keys: Vec<_> = tenant.index.lock().iter().map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.0.work.push(&tenant.lane, key);
            }
        }
    }

    /// A tenant's API server shows a state older than what was seen before: nothing is written for it until a person decides.
    pub(crate) fn regressed(&self, tenant: &Tenant, attached: &Attached, version: u64, built: u64) {
        attached.halted.store(true, Ordering::Relaxed);
        if let Some(health) = self.0.health.get(&tenant.lane) {
            *health.regression.lock() = Some((version, built));
        }
    }

    /// A tenant's API server has taken the credentials that it is attached with.
    pub fn known_again(&self, id: &str) {
        if let Some(seen) = self.0.health.get(id) {
            seen.unauthorized.store(false, Ordering::Relaxed);
        }
    }

    /// Another control plane answered for a tenant: nothing is written for it until it has been asked who it is.
    pub(crate) fn replaced(&self, tenant: &Tenant, attached: &Attached) {
        attached.halted.store(true, Ordering::Relaxed);
        if let Some(health) = self.0.health.get(&tenant.lane) {
            health.other_life.store(true, Ordering::Relaxed);
        }
        attached.alarm.notify_one();
    }

    /// A tenant's control plane was asked who it is, and is the one that is attached.
    pub(crate) fn recognized(&self, id: &str) {
        if let Some(health) = self.0.health.get(id) {
            health.other_life.store(false, Ordering::Relaxed);
        }
    }

    /// Says which nodes a tenant sees whether its Pods run there or not; with none, only where they run.
    pub fn mirror_nodes(&self, attached: &Attached, selector: Option<Selector>) {
        self.0.nodes.mirror(attached, selector);
    }

    /// What the administrator allows all tenants.
    pub(crate) fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// Says under which hosts a tenant may publish, and which addresses from outside it may claim. Where they moved, what depends on them is looked
    /// at again, whether its pair has agreed or not.
    pub fn register(&self, attached: &Attached, hosts: &Arc<Hosts>, external: &Arc<ExternalAddresses>) {
        let before = attached.profile();
        let moved = attached.learn(|profile| (profile.hosts, profile.external) = (hosts.clone(), external.clone()));
        if let Some(tenant) = self.0.tenants.get(attached.id.as_str()).filter(|_| moved) {
            self.decide_registered(&tenant, &before, &attached.profile());
        }
    }

    /// Looks again at pairs that depend on what is registered, if that moved.
    fn decide_registered(&self, tenant: &Tenant, before: &Profile, now: &Profile) {
        let depends = |key: &&Key| {
            let registered = key.kind.downward().and_then(Downward::depends_on);
            registered.is_some_and(|registered| registered.moved(before, now))
        };
        let keys: Vec<Key> = tenant.index.lock().iter().map(|(key, _)| key).filter(depends).cloned().collect();
        self.decide_again(tenant, keys);
    }

    /// Looks at pairs again, whether they have agreed or not: what was decided on besides the two copies has moved.
    fn decide_again(&self, tenant: &Tenant, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        let mut index = tenant.index.lock();
        for key in &keys {
            if let Some(entry) = index.get_mut(key) {
                entry.settled = None;
            }
        }
        drop(index);
        if tenant.attached().is_some() {
            self.0.work.push_each(&tenant.lane, keys);
        }
    }

    /// Changes a tenant's share of attention.
    pub fn weigh(&self, id: &str, weight: u8) {
        if let Some(tenant) = self.0.tenants.get(id) {
            self.0.work.weigh(&tenant.lane, weight);
        }
    }

    /// How a tenant is doing; `None` if it is not attached.
    pub fn health(&self, id: &str) -> Option<TenantHealth> {
        let tenant = self.0.tenants.get(id)?;
        let attached = tenant.attached()?;
        let seen = self.0.health.get(id).map(|entry| entry.value().clone())?;
        let pod = KindId::named("Pod");
        let (pods, left_out) = {
            let index = tenant.index.lock();
            let pods = index.iter().filter(|(key, entry)| Some(key.kind) == pod && matches!(entry.sup, Slot::Here(..))).count();
            (pods, index.left_out())
        };
        let deletions_paused = tenant.brake.lock().is_pulled(Instant::now());
        let regression = *seen.regression.lock();
        let unreachable = seen.unreachable.lock().clone();
        Some(TenantHealth {
            synced: downward_kinds().all(|kind| seen.synced.contains(&kind)),
            unreachable,
            pods: u32::try_from(pods).unwrap_or(u32::MAX),
            regression,
            other_life: seen.other_life.load(Ordering::Relaxed),
            unauthorized: seen.unauthorized.load(Ordering::Relaxed),
            denied: attached.denied.lock().lasting(Instant::now()),
            deletions_paused,
            left_out,
        })
    }
}

/// Runs something that has no end of its own, until the tasks are asked to stop.
pub(crate) fn until_stopped(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let stop = tasks.stop().clone();
    tasks.spawn(name, async move { stop.run_until_cancelled(work).await });
}

/// The kinds that tenants create.
pub(crate) fn downward_kinds() -> impl Iterator<Item = KindId> {
    KindId::all().filter(|id| matches!(id.kind(), Kind::Down(_)))
}

/// The kinds whose super copies are watched.
pub(crate) fn watched_kinds() -> impl Iterator<Item = KindId> {
    KindId::all().filter(|id| id.downward().is_some_and(|kind| kind.observe() == Observe::Watched))
}
