//! How a story on the real bed begins: control planes, nodes, the syncer as installed, and tenants that are Ready.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use e2e::story::Story;
//! let story = Story::begin("example", 2).await?;
//! let acme = story.tenant(0)?;
//! acme.apply(&serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } })).await?;
//! # Ok(()) }
//! ```

mod actor;
mod credentials;
mod crowd;
mod everything;
mod inventory;
mod ledger;
mod platform;
mod standing;
mod witness;

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use futures::future::{LocalBoxFuture, join_all, try_join_all};
use tokio::time::Instant;

pub use actor::{Actor, condition, is_running, owner_of, pod, uid_of, within};
pub use credentials::{Collector, Credentials};
pub use crowd::{Crowd, time_to_run};
pub use everything::{everything, hides, reveals_nothing};
pub use inventory::{Holdings, Inventory, difference};
pub use ledger::{Entries, Ledger, quiet};
pub use platform::{OF_THE_PLATFORM, platform, platform_pod};
pub use standing::Standing;
pub use witness::Witness;

use crate::{
    agents::{self, AgentOptions, AgentProcess},
    bed::{Bed, BedOptions},
    kubectl::Kubectl,
    manifests,
    nodes::{FakeNodes, NodeOptions},
    real_nodes::{self, RealNode, RealNodeOptions},
    syncer::{SyncerOptions, SyncerProcess},
};

/// How long any single thing may take: well under a second here, more where other tests run at once.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A flag that keeps the patrol away for as long as a story lasts, so that it does not make up for a change that was missed.
pub const NO_PATROL: &str = "--patrol-interval=10m";

/// What a story plays on.
pub struct Plot {
    /// The control planes.
    pub bed: BedOptions,
    /// The fake nodes of the super cluster.
    pub nodes: NodeOptions,
    /// Its real nodes, if it has any.
    pub real: Option<RealNodeOptions>,
    /// vn-agent on each of them, if it is to run.
    pub agents: Option<AgentOptions>,
    /// The folder of the manifests that are installed.
    pub manifests: PathBuf,
    /// The syncer.
    pub syncer: SyncerOptions,
}

impl Plot {
    /// A bed of that name, two nodes, and a syncer with the default flags that logs each step.
    pub fn new(name: &str, tenants: usize) -> Self {
        Self {
            bed: BedOptions::new(name, tenants),
            nodes: NodeOptions::new(2),
            real: None,
            agents: None,
            manifests: manifests::folder(),
            syncer: Self::syncer("vc-syncer"),
        }
    }

    /// A syncer of that name with the default flags that logs each step.
    pub fn syncer(name: &str) -> SyncerOptions {
        SyncerOptions { name: name.to_owned(), log: Some("info,syncer=debug,vc_syncer=debug".to_owned()), ..SyncerOptions::default() }
    }

    /// As [`Plot::new`], with that many real nodes and no fake one. Not everywhere: see [`machine::lacking`](crate::machine::lacking).
    pub fn real(name: &str, tenants: usize, count: u8) -> Self {
        let plot = Self::new(name, tenants);
        Self {
            bed: BedOptions { network: true, ..plot.bed.clone() },
            nodes: NodeOptions::new(0),
            real: Some(RealNodeOptions::new(count)),
            ..plot
        }
    }

    /// As [`Plot::real`], with vn-agent on each node.
    pub fn with_agents(name: &str, tenants: usize, count: u8) -> Self {
        Self { agents: Some(AgentOptions::default()), ..Self::real(name, tenants, count) }
    }

    /// With one more flag of the syncer.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.syncer.args.push(flag.to_owned());
        self
    }
}

/// Everything that runs; ended when dropped, the syncer first.
pub struct Story {
    /// vn-agent on each real node.
    pub agents: Vec<AgentProcess>,
    /// The syncer.
    pub syncer: SyncerProcess,
    /// The tenants, as registered.
    pub tenants: Vec<Actor>,
    /// The fake nodes of the super cluster.
    pub nodes: FakeNodes,
    /// Its real nodes.
    pub real: Vec<RealNode>,
    /// The control planes.
    pub bed: Bed,
}

impl Story {
    /// A story with the usual plot: see [`Plot::new`].
    pub async fn begin(name: &str, tenants: usize) -> anyhow::Result<Self> {
        Self::play(Plot::new(name, tenants)).await
    }

    /// Starts everything, registers all tenants, and waits until they are Ready.
    pub async fn play(plot: Plot) -> anyhow::Result<Self> {
        let bed = Bed::start(plot.bed).await?;
        let real = match &plot.real {
            Some(options) => real_nodes::start(&bed, options).await?,
            None => Vec::new(),
        };
        let nodes = FakeNodes::start(bed.sup.client(), plot.nodes).await?;
        manifests::install_from(&plot.manifests, &bed.sup.client()).await?;
        let tenants = try_join_all((0..bed.tenants.len()).map(|i| Actor::register(&bed, i))).await?;
        let mut agents = Vec::new();
        if let Some(options) = &plot.agents {
            try_join_all(tenants.iter().enumerate().map(|(i, tenant)| agents::introduce(&bed, i, tenant.id.uid()))).await?;
            agents = try_join_all(real.iter().map(|node| AgentProcess::start(&bed, node, options))).await?;
        }
        let syncer = SyncerProcess::start_installed(&bed, plot.syncer).await?;
        syncer.wait_ready(PATIENCE).await?;
        let story = Self { agents, syncer, tenants, nodes, real, bed };
        let ready = try_join_all(story.tenants.iter().map(|tenant| story.ready(tenant))).await;
        ready.with_context(|| story.tail())?;
        Ok(story)
    }

    /// A tenant, from 0.
    pub fn tenant(&self, i: usize) -> anyhow::Result<&Actor> {
        self.tenants.get(i).with_context(|| format!("the story has no tenant {i}"))
    }

    /// kubectl of tenant `i`, with every right in it.
    pub fn kubectl(&self, i: usize) -> anyhow::Result<Kubectl> {
        Ok(self.bed.tenant(i)?.kubectl(self.bed.programs()))
    }

    /// vn-agent on real node `i`, from 0.
    pub fn agent(&self, i: usize) -> anyhow::Result<&AgentProcess> {
        self.agents.get(i).with_context(|| format!("the story has no vn-agent {i}"))
    }

    /// What the `VirtualCluster` of tenant `i` says.
    pub fn standing(&self, i: usize) -> anyhow::Result<Standing> {
        let tenant = self.tenant(i)?;
        Ok(Standing::of(&tenant.name, &tenant.name, self.bed.sup.client()))
    }

    /// Waits until the tenant's `VirtualCluster` is Ready and its namespace `default` takes Pods.
    async fn ready(&self, tenant: &Actor) -> anyhow::Result<()> {
        Standing::of(&tenant.name, &tenant.name, self.bed.sup.client()).is_ready().await?;
        tenant.takes_pods("default").await
    }

    /// Tells chapters that do not disturb each other at the same time.
    ///
    /// # Errors
    /// After the last has ended, with all that failed and the end of the syncer's log.
    pub async fn tell(&self, chapters: Vec<Chapter<'_>>) -> anyhow::Result<()> {
        let ended = join_all(chapters.into_iter().map(|Chapter { title, body }| async move {
            let begin = Instant::now();
            let result = body.await;
            eprintln!("    {title}: {} ({:.1} s)", if result.is_ok() { "so it was" } else { "NO" }, begin.elapsed().as_secs_f64());
            (title, result)
        }))
        .await;
        let mut failures = String::new();
        for (title, result) in ended {
            if let Err(error) = result {
                let _ = write!(failures, "\n* {title}:\n  {error:#}");
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        bail!("{failures}\n{}", self.tail())
    }

    /// As [`Story::tell`], while somebody starts the syncer again whenever it ends: on a busy machine it may lose its lease.
    pub async fn tell_alive(&self, chapters: Vec<Chapter<'_>>) -> anyhow::Result<()> {
        self.syncer.kept_alive(self.tell(chapters)).await
    }

    fn tail(&self) -> String {
        format!("the logs are in {}; the end of the syncer's:\n{}", self.bed.dir().display(), self.syncer.process.log_tail(12))
    }
}

/// A part of a story with a title: a sentence that is then true.
pub struct Chapter<'a> {
    title: &'static str,
    body: LocalBoxFuture<'a, anyhow::Result<()>>,
}

/// Names a part of a story.
pub fn chapter<'a>(title: &'static str, body: impl Future<Output = anyhow::Result<()>> + 'a) -> Chapter<'a> {
    Chapter { title, body: Box::pin(body) }
}
