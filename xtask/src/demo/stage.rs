//! What the story plays on: control planes, nodes, and the syncer.

use std::time::Duration;

use e2e::{
    audit::Mark,
    bed::{Bed, BedOptions},
    nodes::{FakeNodes, NodeOptions},
    plane::ControlPlane,
    programs::Programs,
    shipped,
    story::{Actor, Standing},
    syncer::{SyncerOptions, SyncerProcess},
};
use indicatif::MultiProgress;
use kube::{Api, Resource, core::NamespaceResourceScope};
use tokio::time::Instant;

use super::tell;
use crate::program::{self, Build};

/// The namespace in which tenants work.
pub(super) const NAMESPACE: &str = "default";

/// How long any single thing may take: seconds here, more on a machine that does other things too.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// Everything that runs. Dropping it ends all.
pub(super) struct Stage {
    pub(super) syncer: SyncerProcess,
    pub(super) tenants: Vec<Tenant>,
    _nodes: FakeNodes,
    pub(super) bed: Bed,
    /// The super cluster's audit log, before the tenants were registered.
    pub(super) mark: Mark,
}

/// One tenant, as registered.
pub(super) struct Tenant {
    pub(super) name: String,
    pub(super) index: usize,
    /// What the tenant's namespace is called in the super cluster.
    pub(super) below: String,
    pub(super) mark: Mark,
}

impl Stage {
    /// Builds, starts, installs and registers.
    pub(super) async fn set(tenants: usize) -> anyhow::Result<Self> {
        tell::line(
            "VirtualCluster gives every tenant a Kubernetes control plane of its own and runs the Pods of all on one super cluster.",
        );
        tell::scene("Setting the stage");
        Programs::locate_or_build(&MultiProgress::new()).await?;
        let program = program::build(&shipped::SYNCER, Build::Debug).await?;
        let begin = Instant::now();
        let bed = Bed::start(BedOptions::new("demo", tenants)).await?;
        let plural = if tenants == 1 { "a tenant" } else { "tenants, each" };
        tell::so(&format!(
            "a super cluster, and {tenants} {plural} with a kube-apiserver and kube-controller-manager of its own, real ones ({:.1} s)",
            begin.elapsed().as_secs_f64()
        ));
        let nodes = FakeNodes::start(bed.sup.client(), NodeOptions::new(2)).await?;
        tell::so(&format!("{} nodes in the super cluster (no kubelet: Pods become Running, nothing is executed)", nodes.names().len()));
        let mark = bed.sup.audit().mark();
        let syncer = SyncerProcess::start(&bed, SyncerOptions { program: Some(program), ..SyncerOptions::default() }).await?;
        syncer.wait_ready(PATIENCE).await?;
        tell::so("manifests/ installed, and vc-syncer running under the identity that they give it");
        let tenants = register(&bed).await?;
        let names: Vec<_> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        tell::so(&format!("{} registered as VirtualCluster objects, all Ready", names.join(", ")));
        Ok(Self { syncer, tenants, _nodes: nodes, bed, mark })
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

async fn register(bed: &Bed) -> anyhow::Result<Vec<Tenant>> {
    let mut tenants = Vec::new();
    for (index, plane) in bed.tenants.iter().enumerate() {
        let mark = plane.audit().mark();
        let actor = Actor::register(bed, index).await?;
        tenants.push(Tenant { below: actor.namespace_below(NAMESPACE), name: actor.name, index, mark });
    }
    for tenant in &tenants {
        Standing::of(&tenant.name, &tenant.name, bed.sup.client()).says_within("Ready", "True", "", PATIENCE).await?;
    }
    Ok(tenants)
}
