//! `VirtualCluster` objects: one task for each, and what no task does, clearing up after those that went while nobody watched.

mod addresses;
mod claim;
mod connect;
mod decide;
mod hosts;
mod kubeconfig;
mod machine;
mod note;
mod pace;
mod status;
mod vanished;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::api::{DeletionPolicy, VirtualCluster};
use common::{TenantId, Uid};
use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use mirror::cx::Profile;
use mirror::facts::Seen;
use parking_lot::Mutex;
use runtime::address::AddressPolicy;
use runtime::log::Chain;
use runtime::serve::Heartbeat;
use runtime::task::{TaskError, Tasks};
use runtime::transport::{Gate, Limits};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use self::addresses::Ranges;
use self::claim::{Planes, Slices, parse_slices};
use self::connect::Template;
use self::hosts::Registrations;
use self::machine::{Machine, Presence, clear_up, created, label};
use self::vanished::{SECOND_LOOK, Vanished};
use crate::engine::{Engine, Undecided};
use crate::metrics::SyncMetrics;
use crate::remote::CallError;
use crate::work::Work;

/// How tenants are found and reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a kubeconfig may stand in an annotation.
    pub allow_annotation: bool,
    /// How often kubeconfigs are read again.
    pub kubeconfig_interval: Duration,
    /// What a tenant's API server may do.
    pub limits: Limits,
    /// Where it may be.
    pub addresses: AddressPolicy,
    /// How we call ourselves towards it.
    pub user_agent: String,
    /// Lets writes out while this process leads.
    pub gate: Gate,
    /// The port on which a vNode's agent listens.
    pub agent_port: u16,
}

/// What every tenant's task has.
pub(crate) struct Shared {
    engine: Engine,
    client: Client,
    metrics: Arc<SyncMetrics>,
    /// The UID of the super cluster's `kube-system`, once it was asked for.
    own: OnceCell<Uid>,
    planes: Planes,
    slices: Slices,
    hosts: Registrations,
    addresses: Ranges,
    template: Template,
    allow_annotation: bool,
    kubeconfig_interval: Duration,
    agent_port: u16,
}

impl Shared {
    /// What is registered for a tenant; nothing is known before all VirtualClusters have been seen.
    fn registered(&self, tenant: Uid) -> Option<Profile> {
        let (hosts, external) = (self.hosts.of(tenant)?.hosts, self.addresses.of(tenant)?.addresses);
        Some(Profile { hosts, external, ..Profile::default() })
    }

    /// Which life of a control plane the super cluster is.
    async fn own_incarnation(&self) -> Result<Uid, CallError> {
        let ask = async || {
            let system = self.engine.sup().get("/api/v1/namespaces/kube-system", None).await?;
            Seen::of(&system).map(|seen| seen.facts.uid).map_err(|source| CallError::Unreadable { side: "super", source })
        };
        self.own.get_or_try_init(ask).await.copied()
    }
}

/// Follows VirtualClusters and keeps a task for each.
pub struct Controller {
    shared: Arc<Shared>,
    work: Work,
    /// Tenants with a task, by the UID of their VirtualCluster.
    tenants: HashMap<Uid, watch::Sender<Presence>>,
    /// What a list has named so far, while it runs.
    listing: Option<HashSet<Uid>>,
    listed: bool,
    /// Tenants with a task whose VirtualCluster was not there.
    vanished: Vanished,
    /// Tenants without one of which something is left.
    missing: Vanished,
    /// Tenants that are being cleared up after, with or without a task of their own.
    clearing: Arc<Mutex<HashSet<Uid>>>,
    next_sweep: Instant,
}

/// Time between two looks at heartbeat and load.
const TICK: Duration = Duration::from_secs(2);

/// Time between two searches for what tenants left that are no more.
const SWEEP: Duration = Duration::from_mins(5);

/// Time between two looks for what was taken from a tenant.
const WITHDRAW: Duration = Duration::from_secs(3);

/// How long a tenant's task that panicked rests.
const REST: Duration = Duration::from_secs(10);

impl Controller {
    /// A controller that follows nothing yet.
    pub fn new(engine: Engine, client: Client, work: Work, metrics: Arc<SyncMetrics>, options: Options) -> Self {
        let template =
            Template { limits: options.limits, addresses: options.addresses, user_agent: options.user_agent, gate: options.gate };
        let platform = engine.policy().platform_ranges.clone();
        let shared = Shared {
            engine,
            client,
            metrics,
            own: OnceCell::new(),
            planes: Planes::new(),
            slices: Slices::default(),
            hosts: Registrations::default(),
            addresses: Ranges::new(platform),
            template,
            allow_annotation: options.allow_annotation,
            kubeconfig_interval: options.kubeconfig_interval,
            agent_port: options.agent_port,
        };
        Self {
            shared: Arc::new(shared),
            work,
            tenants: HashMap::new(),
            listing: None,
            listed: false,
            vanished: Vanished::default(),
            missing: Vanished::default(),
            clearing: Arc::default(),
            next_sweep: Instant::now(),
        }
    }

    /// Follows VirtualClusters until `tasks` are asked to stop. `synced` is told once both they and the super cluster have been listed.
    pub async fn run(mut self, tasks: Arc<Tasks>, heartbeat: Heartbeat, synced: impl Fn()) {
        let api: Api<VirtualCluster> = Api::all(self.shared.client.clone());
        let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        let stop = tasks.stop().clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = events.next() => match event {
                    Ok(event) => self.follow(event, &tasks).await,
                    Err(error) => warn!(error = %Chain(&error), "watch of VirtualClusters failed"),
                },
                _ = tick.tick() => {
                    heartbeat.touch();
                    self.tick(&tasks, &synced).await;
                }
            }
        }
        heartbeat.retire();
    }

    async fn follow(&mut self, event: Event<VirtualCluster>, tasks: &Arc<Tasks>) {
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::InitApply(vc) | Event::Apply(vc) => {
                if let (Some(listing), Some(uid)) = (&mut self.listing, uid(&vc)) {
                    listing.insert(uid);
                }
                self.there(Arc::new(vc), tasks);
            }
            Event::InitDone => {
                let named = self.listing.take().unwrap_or_default();
                self.listed = true;
                self.shared.hosts.listed();
                self.shared.addresses.listed();
                if self.tenants.keys().any(|uid| !named.contains(uid)) {
                    self.look_for_gone().await;
                }
            }
            Event::Delete(vc) => {
                debug!(virtual_cluster = label(&vc), "VirtualCluster deleted");
                self.look_for_gone().await;
            }
        }
    }

    /// A VirtualCluster is there: its task hears of it, or is started.
    fn there(&mut self, vc: Arc<VirtualCluster>, tasks: &Arc<Tasks>) {
        let Some(uid) = uid(&vc) else { return };
        // One that is going has what it had, until it has gone.
        if vc.metadata.deletion_timestamp.is_none() || !self.tenants.contains_key(&uid) {
            let (namespace, name) = (vc.namespace().unwrap_or_default(), vc.name_any());
            self.shared.hosts.register(uid, created(&vc), (&namespace, &name), &vc.spec.ingress_hosts);
            self.shared.addresses.register(uid, created(&vc), (&namespace, &name), &vc.spec.external_addresses);
        }
        if let Some(tenant) = self.tenants.get(&uid) {
            tenant.send_replace(Presence::There(vc));
            return;
        }
        info!(virtual_cluster = label(&vc), uid = %uid, "VirtualCluster found");
        self.shared.planes.expect(created(&vc), uid);
        if let Some(slices) = vc.status.as_ref().and_then(|status| status.service_cidr.as_deref()).and_then(parse_slices) {
            // What was allotted before comes before what is asked for now.
            let _ = self.shared.slices.allot(uid, &label(&vc), &slices);
        }
        let (sender, receiver) = watch::channel(Presence::There(vc));
        self.tenants.insert(uid, sender);
        let (shared, tenant_tasks) = (self.shared.clone(), Arc::new(tasks.child()));
        let clearing = self.clearing.clone();
        drop(tasks.spawn("virtual-cluster", async move {
            watch_over(shared, tenant_tasks, uid, receiver).await;
            clearing.lock().remove(&uid);
        }));
    }

    /// Some VirtualClusters seem to be gone.
    async fn look_for_gone(&mut self) {
        if !self.confirm_gone().await {
            self.next_sweep = self.next_sweep.min(Instant::now() + SECOND_LOOK);
        }
    }

    /// Ends those that a quorum read does not find any more. False if they are so many that a second look is wanted.
    async fn confirm_gone(&mut self) -> bool {
        let there = match self.list().await {
            Ok(there) => there,
            Err(error) => {
                warn!(error = %Chain(&error), "could not confirm that a VirtualCluster is gone");
                self.next_sweep = Instant::now();
                return true;
            }
        };
        let gone: HashSet<Uid> = self.tenants.keys().filter(|uid| !there.contains_key(uid)).copied().collect();
        let certain = self.vanished.certain(&gone, Instant::now());
        let is_certain = certain.len() == gone.len();
        if !is_certain {
            error!(tenants = gone.len(), "many VirtualClusters are gone at once; looking again before clearing up");
        }
        for uid in certain {
            if let Some(tenant) = self.tenants.remove(&uid) {
                // Its task clears up by the last policy that it saw; nobody else does meanwhile.
                if !tenant.is_closed() {
                    self.clearing.lock().insert(uid);
                }
                tenant.send_modify(|presence| {
                    if let Presence::There(vc) = presence {
                        *presence = Presence::Gone(vc.clone());
                    }
                });
            }
        }
        is_certain
    }

    /// All VirtualClusters by UID, by a quorum read.
    async fn list(&self) -> Result<BTreeMap<Uid, VirtualCluster>, kube::Error> {
        let list = Api::<VirtualCluster>::all(self.shared.client.clone()).list(&ListParams::default()).await?;
        Ok(list.items.into_iter().filter_map(|vc| Some((uid(&vc)?, vc))).collect())
    }

    async fn tick(&mut self, tasks: &Arc<Tasks>, synced: &impl Fn()) {
        let (mut pairs, mut left_out) = (0, 0);
        for tenant in self.shared.engine.tenants().all() {
            let index = tenant.index.lock();
            pairs += index.len();
            left_out += index.left_out();
        }
        self.shared.metrics.show_load(self.work.len(), pairs, left_out);
        if !self.listed || !self.shared.engine.super_synced() {
            return;
        }
        synced();
        if Instant::now() >= self.next_sweep {
            match self.sweep(tasks).await {
                Ok(next) => self.next_sweep = Instant::now() + next,
                Err(error) => {
                    warn!(error = %Chain(&*error), "search for what tenants left failed");
                    self.next_sweep = Instant::now() + Duration::from_secs(10);
                }
            }
        }
    }

    /// Clears up after tenants that have no VirtualCluster any more. Returns when to look again.
    async fn sweep(&mut self, tasks: &Arc<Tasks>) -> Result<Duration, Box<dyn std::error::Error + Send + Sync>> {
        let next = if self.confirm_gone().await { SWEEP } else { SECOND_LOOK };
        let owned = self.shared.engine.owned_namespaces(None).await?;
        let writers = self.shared.engine.writers().await?;
        // Read last: a VirtualCluster whose namespaces were just seen is in this list, or was deleted in between.
        let there = self.list().await?;
        let left: HashSet<Uid> = owned.iter().filter(|owned| !owned.orphan).map(|owned| owned.tenant).collect();
        let is_known =
            |tenant: &Uid| there.contains_key(tenant) || self.tenants.contains_key(tenant) || self.clearing.lock().contains(tenant);
        let gone: HashSet<Uid> = left.into_iter().filter(|tenant| !is_known(tenant)).collect();
        let certain = self.missing.certain(&gone, Instant::now());
        if certain.len() < gone.len() {
            error!(tenants = gone.len(), "many VirtualClusters are gone at once; looking again before clearing up");
            return Ok(SECOND_LOOK);
        }
        for tenant in certain {
            self.clear(tenant, tasks);
        }
        self.sweep_writers(&writers, &owned, &there).await?;
        self.sweep_marks(&owned, &there).await?;
        Ok(next)
    }

    fn clear(&self, tenant: Uid, tasks: &Arc<Tasks>) {
        if !self.clearing.lock().insert(tenant) {
            return;
        }
        // The name is only a hint in names to be made; here none is made.
        let id = TenantId::new(tenant, "");
        info!(tenant = %id, uid = %tenant, "VirtualCluster was deleted while nobody watched, clearing up");
        let (shared, clearing) = (self.shared.clone(), self.clearing.clone());
        drop(tasks.spawn("clear-up", async move {
            clear_up(&shared, &id, false).await;
            clearing.lock().remove(&tenant);
            info!(tenant = %id, "cleared up");
        }));
    }

    /// Writers of tenants that have neither a VirtualCluster nor anything that is to go.
    async fn sweep_writers(
        &self,
        writers: &[String],
        owned: &[crate::gc::Owned],
        there: &BTreeMap<Uid, VirtualCluster>,
    ) -> Result<(), crate::remote::CallError> {
        let ids = there.keys().chain(owned.iter().filter(|owned| !owned.orphan).map(|owned| &owned.tenant)).chain(self.tenants.keys());
        let kept: HashSet<String> = ids.map(|uid| TenantId::new(*uid, "").as_str().to_owned()).collect();
        for id in writers.iter().filter(|id| !kept.contains(*id)) {
            self.shared.engine.remove_stray_writer(id).await?;
        }
        Ok(())
    }

    /// Marks of an earlier policy, changed while nobody watched.
    async fn sweep_marks(&self, owned: &[crate::gc::Owned], there: &BTreeMap<Uid, VirtualCluster>) -> Result<(), crate::remote::CallError> {
        let is_left = |uid: &Uid| there.get(uid).is_some_and(|vc| vc.spec.deletion_policy == DeletionPolicy::Delete);
        let marked: HashSet<Uid> = owned.iter().filter(|owned| owned.orphan && is_left(&owned.tenant)).map(|owned| owned.tenant).collect();
        for tenant in marked {
            self.shared.engine.mark_orphan(tenant, TenantId::new(tenant, "").as_str(), false).await?;
        }
        Ok(())
    }
}

/// Keeps a tenant's task going: a panic over one tenant is that tenant's alone, and it gets another try.
async fn watch_over(shared: Arc<Shared>, tasks: Arc<Tasks>, uid: Uid, presence: watch::Receiver<Presence>) {
    loop {
        let machine = Machine::new(shared.clone(), tasks.clone(), uid, presence.clone());
        let withdrawing = withdraw(shared.clone(), machine.id().clone());
        let task = async move {
            tokio::select! {
                () = machine.run() => {}
                () = withdrawing => {}
            }
        };
        match tasks.spawn("tenant", task).await {
            Ok(()) | Err(TaskError::Cut { .. }) => return,
            Err(TaskError::Panicked { .. }) => {
                warn!(uid = %uid, "tenant's task panicked, starting it again");
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    () = tasks.stop().cancelled() => return,
                }
            }
        }
    }
}

/// Ends what was taken from a tenant and is still there, for ever: at its own pace, whatever its control plane keeps its task waiting with.
async fn withdraw(shared: Arc<Shared>, id: TenantId) {
    let mut undecided = Undecided::default();
    loop {
        tokio::time::sleep(WITHDRAW).await;
        if let Err(error) = shared.engine.withdraw(&id, || shared.registered(id.uid()), &mut undecided).await {
            warn!(tenant = %id, error = %Chain(&error), "what was taken from a tenant could not be ended yet");
        }
    }
}

fn uid(vc: &VirtualCluster) -> Option<Uid> {
    vc.uid().and_then(|text| Uid::parse(&text).ok())
}
