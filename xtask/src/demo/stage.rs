//! What the story plays on: control planes, nodes, and the syncer.

use std::time::Duration;

use anyhow::Context as _;
use e2e::{
    agents::{self, AgentOptions, AgentProcess},
    audit::Mark,
    bed::{Bed, BedOptions},
    images::{METRICS_SERVER, TOOLS},
    kubectl::Kubectl,
    manifests,
    nodes::{FakeNodes, NodeOptions},
    plane::ControlPlane,
    programs::{NodePrograms, Programs},
    real_nodes::{self, RealNode, RealNodeOptions},
    shipped,
    story::{Actor, Standing},
    syncer::{SyncerOptions, SyncerProcess},
};
use futures::future::try_join_all;
use indicatif::MultiProgress;
use kube::{Api, Resource, core::NamespaceResourceScope};
use tokio::time::Instant;

use super::tell;
use crate::program::{self, Build};

/// The namespace in which tenants work.
pub(super) const NAMESPACE: &str = "default";

/// Everything that runs. Dropping it ends all.
pub(super) struct Stage {
    agent: Option<AgentProcess>,
    pub(super) syncer: SyncerProcess,
    pub(super) tenants: Vec<Tenant>,
    _node: Option<RealNode>,
    _fake: Option<FakeNodes>,
    pub(super) bed: Bed,
    /// The super cluster's audit log, before the tenants were registered.
    pub(super) mark: Mark,
    /// How long any single thing may take.
    pub(super) patience: Duration,
}

/// One tenant, as registered.
pub(super) struct Tenant {
    pub(super) name: String,
    pub(super) actor: Actor,
    pub(super) index: usize,
    /// What the tenant's namespace is called in the super cluster.
    pub(super) below: String,
    pub(super) mark: Mark,
}

impl Stage {
    /// Builds, starts, installs and registers.
    pub(super) async fn set(tenants: usize, real: bool, patience: Duration) -> anyhow::Result<Self> {
        tell::line(
            "VirtualCluster gives every tenant a Kubernetes control plane of its own and runs the Pods of all on one super cluster.",
        );
        tell::scene("Setting the stage");
        Programs::locate_or_build(&MultiProgress::new()).await?;
        let program = program::build(&shipped::SYNCER, Build::Debug).await?;
        if real {
            NodePrograms::locate_or_build(&MultiProgress::new()).await?;
            program::build(&shipped::AGENT, Build::Debug).await?;
        }
        let begin = Instant::now();
        let options = BedOptions { network: real, ..BedOptions::new(if real { "demo-node" } else { "demo" }, tenants) };
        let bed = Bed::start(options).await?;
        let them = if tenants == 1 { "a tenant".to_owned() } else { format!("{tenants} tenants, each") };
        tell::so(&format!(
            "a super cluster, and {them} with a kube-apiserver and kube-controller-manager of its own, real ones ({:.1} s)",
            begin.elapsed().as_secs_f64()
        ));
        let fake = if real { None } else { Some(fake_nodes(&bed).await?) };
        let node = if real { Some(real_node(&bed).await?) } else { None };
        let mark = bed.sup.audit().mark();
        manifests::install(&bed.sup.client()).await?;
        let tenants = register(&bed).await?;
        if real {
            introduce(&tenants, &bed).await?;
        }
        let syncer = SyncerProcess::start_installed(&bed, SyncerOptions { program: Some(program), ..SyncerOptions::default() }).await?;
        syncer.process.while_running(syncer.wait_ready(patience)).await?;
        tell::so("manifests/ installed, and vc-syncer running under the identity that they give it");
        are_ready(&tenants, &bed, patience).await?;
        let names: Vec<_> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        tell::so(&format!("{} registered as VirtualCluster objects, all Ready", names.join(", ")));
        let agent = match &node {
            Some(node) => Some(agent(node, &bed).await?),
            None => None,
        };
        Ok(Self { agent, syncer, tenants, _node: node, _fake: fake, bed, mark, patience })
    }

    /// vn-agent, where containers run.
    pub(super) fn agent(&self) -> Option<&AgentProcess> {
        self.agent.as_ref()
    }

    /// An image that the nodes know; fake ones know them all.
    pub(super) fn image(&self) -> &'static str {
        self.agent().map_or("web", |_| TOOLS)
    }

    /// kubectl of a tenant, with every right in it.
    pub(super) fn kubectl(&self, tenant: &Tenant) -> anyhow::Result<Kubectl> {
        Ok(self.plane(tenant)?.kubectl(self.bed.programs()))
    }

    /// The control plane of a tenant.
    pub(super) fn plane(&self, tenant: &Tenant) -> anyhow::Result<&ControlPlane> {
        self.bed.tenant(tenant.index)
    }

    /// Objects as the tenant sees them.
    pub(super) fn above<K>(&self, tenant: &Tenant) -> anyhow::Result<Api<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Ok(Api::namespaced(self.plane(tenant)?.client(), NAMESPACE))
    }

    /// The same objects, as the super cluster holds them.
    pub(super) fn below<K>(&self, tenant: &Tenant) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.bed.sup.client(), &tenant.below)
    }
}

async fn fake_nodes(bed: &Bed) -> anyhow::Result<FakeNodes> {
    let nodes = FakeNodes::start(bed.sup.client(), NodeOptions::new(2)).await?;
    tell::so(&format!("{} nodes in the super cluster (no kubelet: Pods become Running, nothing is executed)", nodes.names().len()));
    Ok(nodes)
}

async fn real_node(bed: &Bed) -> anyhow::Result<RealNode> {
    let begin = Instant::now();
    let mut options = RealNodeOptions::new(1);
    options.images.push(METRICS_SERVER);
    let node = real_nodes::start(bed, &options).await?.pop().context("no node was started")?;
    let took = begin.elapsed().as_secs_f64();
    tell::so(&format!(
        "a real node, {}: kubelet, containerd, runc and kube-proxy, in kernel namespaces of its own ({took:.1} s)",
        node.name()
    ));
    Ok(node)
}

/// Each tenant's API server gets what it shows vn-agent.
async fn introduce(tenants: &[Tenant], bed: &Bed) -> anyhow::Result<()> {
    try_join_all(tenants.iter().map(|tenant| agents::introduce(bed, tenant.index, tenant.actor.id.uid()))).await.map(drop)
}

async fn agent(node: &RealNode, bed: &Bed) -> anyhow::Result<AgentProcess> {
    let agent = AgentProcess::start(bed, node, &AgentOptions::default()).await?;
    tell::so("vn-agent on that node: tenants' API servers dial it as if it were the kubelet, with certificates that name the tenant");
    Ok(agent)
}

async fn register(bed: &Bed) -> anyhow::Result<Vec<Tenant>> {
    let mut tenants = Vec::new();
    for (index, plane) in bed.tenants.iter().enumerate() {
        let mark = plane.audit().mark();
        let actor = Actor::register(bed, index).await?;
        tenants.push(Tenant { below: actor.namespace_below(NAMESPACE), name: actor.name.clone(), actor, index, mark });
    }
    Ok(tenants)
}

async fn are_ready(tenants: &[Tenant], bed: &Bed, patience: Duration) -> anyhow::Result<()> {
    for tenant in tenants {
        Standing::of(&tenant.name, &tenant.name, bed.sup.client()).says_within("Ready", "True", "", patience).await?;
    }
    Ok(())
}
