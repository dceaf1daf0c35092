//! The life of the process: stand by, lead, drain.
//!
//! ```text
//! connect ──► stand by (ready) ──► lease ──► engine and controller ──► SIGTERM: drain, give the lease back ──► end
//!                                                                  └──► lease lost: nothing is written any more, end with an error
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::keys;
use kube::Client;
use runtime::kubeconfig::Kubeconfig;
use runtime::lease::{Candidate, Held, LeaseLost};
use runtime::metrics::{Build, Registry};
use runtime::serve::{Condition, Health, Server};
use runtime::task::{TaskMetrics, Tasks};
use runtime::transport::{Gate, Transport, TransportConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args::Args;
use crate::engine::{Engine, EngineParts};
use crate::events::{Copier, Recorder};
use crate::metrics::SyncMetrics;
use crate::nodes::{Nodes, NodesOptions};
use crate::remote::Remote;
use crate::shown::Showing;
use crate::tenant::Tenants;
use crate::virtual_cluster::{Controller, Options};
use crate::work::Work;
use crate::writer::Fence;

/// How the program calls itself, and its Lease.
pub const NAME: &str = "vc-syncer";

/// How the program calls itself towards API servers.
const USER_AGENT: &str = concat!("vc-syncer/", env!("CARGO_PKG_VERSION"));

/// After so long without the lease the process counts as standing by, and is ready as such.
const STAND_BY: Duration = Duration::from_secs(3);

/// How long the controller may be silent before the process is held dead.
const SILENCE: Duration = Duration::from_mins(3);

/// Where a Pod learns its namespace.
const POD_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Runs until `stop`, or until the lease is lost.
pub async fn run(args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::new(Build { program: NAME, version: env!("CARGO_PKG_VERSION") });
    let task_metrics = TaskMetrics::register(registry.component());
    let metrics = Arc::new(SyncMetrics::register(registry.component()));
    let health = Health::default();
    let ready = health.condition("synced");
    let gate = Gate::default();
    let transport = super_transport(args, gate.clone())?;
    // Not behind the gate: the lease is given back when nothing may be written any more. Its own versions keep a stale call from counting.
    let leases = super_transport(args, Gate::default())?;

    // Probes are answered to the end, also while the rest drains.
    let probes = Tasks::new(&task_metrics);
    let server = Server::bind(&args.serve, health.clone(), registry).await.context("could not take the port of probes and metrics")?;
    drop(probes.spawn("serve", server.run(probes.stop().clone())));

    let life = Life { args, stop, task_metrics, metrics, health, ready: Arc::new(ready), transport, leases, gate };
    let result = life.live().await;
    probes.shutdown(Duration::from_secs(1)).await;
    result
}

fn super_transport(args: &Args, gate: Gate) -> anyhow::Result<Transport> {
    let kubeconfig = match &args.sup.super_kubeconfig {
        Some(path) => {
            Kubeconfig::trusted(path).with_context(|| format!("the kubeconfig of the super cluster, {}, cannot be used", path.display()))?
        }
        None => Kubeconfig::in_cluster().context("not in a Pod: name the super cluster's kubeconfig with --super-kubeconfig")?,
    };
    Transport::new(TransportConfig { gate, ..TransportConfig::trusted(kubeconfig, USER_AGENT) })
        .context("the credentials of the super cluster cannot be used")
}

/// What the whole life of the process needs.
struct Life<'a> {
    args: &'a Args,
    stop: CancellationToken,
    task_metrics: TaskMetrics,
    metrics: Arc<SyncMetrics>,
    health: Health,
    ready: Arc<Condition>,
    transport: Transport,
    leases: Transport,
    gate: Gate,
}

impl Life<'_> {
    async fn live(&self) -> anyhow::Result<()> {
        let namespace = self.namespace();
        let client = self.transport.client(&namespace);
        if !self.args.lease.leader_elect {
            let tasks = Tasks::new(&self.task_metrics);
            let (held, _) = watch::channel(Some(Held::always()));
            return self.lead(&client, &held, tasks, std::future::pending()).await;
        }
        let mut lease = self.args.lease.clone();
        let leases = self.leases.client(&namespace);
        lease.lease_namespace.get_or_insert(namespace);
        let candidate = Candidate::new(lease.api(leases), lease.config(NAME)?);
        info!("standing by for the lease");
        let Some(term) = self.stand_by(candidate.acquire()).await else { return Ok(()) };

        self.gate.bind(term.held());
        let (held, _) = watch::channel(Some(term.held()));
        let tasks = Tasks::new(&self.task_metrics);
        // The lease outlives the work: it is given back only after the last write.
        let keeper = Tasks::new(&self.task_metrics);
        let kept = keeper.spawn("lease", term.keep(keeper.stop().clone()));
        let lost = async { kept.await.map_or_else(anyhow::Error::new, lost) };
        let mut lost = Box::pin(lost);
        let result = self.lead(&client, &held, tasks, &mut lost).await;
        if result.is_ok() {
            keeper.stop().cancel();
            let _ = tokio::time::timeout(Duration::from_secs(5), lost).await;
        }
        result
    }

    /// Waits for the lease; ready meanwhile, since a standby is as it should be. `None` when asked to stop.
    async fn stand_by<T>(&self, acquire: impl Future<Output = T>) -> Option<T> {
        let mut acquire = std::pin::pin!(acquire);
        tokio::select! {
            term = &mut acquire => return Some(term),
            () = self.stop.cancelled() => return None,
            () = tokio::time::sleep(STAND_BY) => self.ready.set_ready(),
        }
        tokio::select! {
            term = &mut acquire => Some(term),
            () = self.stop.cancelled() => None,
        }
    }

    /// Works until asked to stop, then drains; or until the lease is `lost`, and then at once no more.
    async fn lead(
        &self,
        client: &Client,
        held: &watch::Sender<Option<Held>>,
        tasks: Tasks,
        lost: impl Future<Output = anyhow::Error>,
    ) -> anyhow::Result<()> {
        self.ready.set_not_ready("the super cluster and the VirtualClusters have not been listed yet");
        let tasks = Arc::new(tasks);
        self.start(client, held.subscribe(), &tasks);
        tokio::select! {
            () = self.stop.cancelled() => {
                self.drain(&tasks).await;
                held.send_replace(None);
                Ok(())
            }
            error = lost => {
                held.send_replace(None);
                self.ready.set_not_ready("the lease is lost");
                tasks.stop().cancel();
                Err(error.context("another replica may lead now; this one writes nothing any more and ends"))
            }
        }
    }

    /// Starts everything that works.
    fn start(&self, client: &Client, held: watch::Receiver<Option<Held>>, tasks: &Arc<Tasks>) {
        let args = self.args;
        let (work, clock) = Work::new(args.engine.workers_per_tenant.get());
        let stop = tasks.stop().clone();
        drop(tasks.spawn("clock", async move { stop.run_until_cancelled_owned(clock).await }));
        let tenants = Tenants::default();
        let fence = Fence::new(held.clone());
        let policy = Arc::new(args.policy.policy());
        let sup = Remote::new(self.transport.clone());
        let options = NodesOptions { policy: policy.clone(), ..NodesOptions::default() };
        let nodes = Arc::new(Nodes::new(fence.clone(), options, self.metrics.clone()));
        let showing = Arc::new(Showing::new(policy.clone(), args.engine.patrol_interval, self.metrics.clone()));
        let parts = EngineParts {
            sup,
            tenants: tenants.clone(),
            work: work.clone(),
            policy: policy.clone(),
            options: args.engine.options(),
            held,
            metrics: self.metrics.clone(),
            nodes: nodes.clone(),
            showing,
            recorder: Arc::new(Recorder::new(fence.clone(), self.metrics.clone())),
            copier: Arc::new(Copier::new(tenants, fence, policy, nodes, self.metrics.clone())),
        };
        let engine = Engine::new(parts);
        engine.start(tasks);
        let options = Options {
            allow_annotation: args.tenants.allow_kubeconfig_annotation,
            kubeconfig_interval: args.tenants.kubeconfig_interval,
            limits: args.tenants.limits(),
            addresses: args.tenants.addresses.policy(),
            user_agent: USER_AGENT.to_owned(),
            gate: self.gate.clone(),
            agent_port: args.engine.agent_port,
        };
        let controller = Controller::new(engine, client.clone(), work, self.metrics.clone(), options);
        let (ready, heartbeat) = (self.ready.clone(), self.health.heartbeat("controller", SILENCE));
        drop(tasks.spawn("controller", controller.run(tasks.clone(), heartbeat, move || ready.set_ready())));
    }

    /// Ends the intake and gives what is under way the time to end.
    async fn drain(&self, tasks: &Tasks) {
        info!("draining");
        tasks.stop().cancel();
        let end = tokio::time::Instant::now() + self.args.shutdown.drain_timeout.mul_f64(0.7);
        while !tasks.is_empty() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if !tasks.is_empty() {
            warn!("work under way did not end in time");
        }
    }

    /// The namespace of this Pod, where its Lease is.
    fn namespace(&self) -> String {
        let of_pod = self.args.sup.super_kubeconfig.is_none().then(|| std::fs::read_to_string(POD_NAMESPACE).ok()).flatten();
        of_pod.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).unwrap_or_else(|| keys::SYSTEM_NAMESPACE.to_owned())
    }
}

/// The end of the lease while it was needed.
fn lost(kept: Result<(), LeaseLost>) -> anyhow::Error {
    kept.err().map_or_else(|| anyhow::anyhow!("the lease was given back"), anyhow::Error::new)
}
