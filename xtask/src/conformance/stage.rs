//! What the tests run on: the two-node bed with `CoreDNS` on both sides, and for tenants the syncer and vn-agent.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use common::keys;
use e2e::{
    agents::AgentOptions,
    bed::{BedOptions, SUPER_SERVICES, apply},
    dns, errand,
    images::{COREDNS, conformance},
    programs::{ConformancePrograms, KUBERNETES, NodePrograms, Programs},
    real_nodes::RealNodeOptions,
    shipped,
    story::{PATIENCE, Plot, Story},
    syncer::SyncerOptions,
    wait::{Seen, eventually},
};
use indicatif::MultiProgress;
use k8s_openapi::api::{core::v1::Node, node::v1::RuntimeClass};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use super::Side;
use crate::program::{self, Build};

/// As many as the tests ask for: some place a Pod on each of two.
const NODES: u8 = 2;

/// The handler that the tests take to be configured on all nodes (`PreconfiguredRuntimeClassHandler`).
const TESTED_HANDLER: &str = "test-handler";

/// Everything that runs; ended when dropped.
pub(super) struct Stage {
    story: Story,
}

impl Stage {
    /// Starts everything; a stage for one side is a bed of its own, so that two may run side by side.
    pub(super) async fn set(programs: &ConformancePrograms, only: Option<Side>) -> anyhow::Result<Self> {
        let kubernetes = Programs::locate_or_build(&MultiProgress::new()).await?;
        NodePrograms::locate_or_build(&MultiProgress::new()).await?;
        let syncer = program::build(&shipped::SYNCER, Build::Debug).await?;
        let agent = program::build(&shipped::AGENT, Build::Debug).await?;
        println!("starting the bed: a super cluster, a tenant, two real nodes");
        let archives = conformance::archives(&image_names(programs).await?, &kubernetes, programs).await?;
        let name = only.map_or("conformance".to_owned(), |side| format!("conformance-{}", side.name()));
        let plot = Plot::with_agents(&name, 1, NODES);
        let story = Story::play(Plot {
            // Tests ask for hundreds of Services at once.
            bed: BedOptions { range_bits: 20, ..plot.bed.clone() },
            real: Some(RealNodeOptions {
                images: vec![COREDNS],
                archives,
                name_server: Some(dns::address(SUPER_SERVICES)?),
                ..RealNodeOptions::new(NODES)
            }),
            agents: Some(AgentOptions { program: Some(agent), ..AgentOptions::default() }),
            syncer: SyncerOptions { program: Some(syncer), ..SyncerOptions::default() },
            ..plot
        })
        .await?;
        let stage = Self { story };
        stage.kept_alive(stage.furnish()).await.with_context(|| format!("the logs are in {}", stage.dir().display()))?;
        Ok(stage)
    }

    /// Shows the tenant all nodes, as a cluster of its own would, and installs the same name server on both sides.
    async fn furnish(&self) -> anyhow::Result<()> {
        self.story.standing(0)?.change(&json!({ "spec": { "nodes": { "mode": "mirrored" } } })).await?;
        let nodes: Api<Node> = Api::all(self.story.bed.tenant(0)?.client());
        eventually("the tenant sees all nodes", PATIENCE, async || {
            let names: Vec<_> = nodes.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
            Ok(Seen::when(names.len() == usize::from(NODES), names))
        })
        .await?;
        let (sup, tenant) = (&self.story.bed.sup, self.story.bed.tenant(0)?);
        // Tests make classes of their own for this handler, which an administrator has to publish.
        let class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": TESTED_HANDLER,
            "metadata": { "name": TESTED_HANDLER, "labels": { keys::PUBLIC: "true" } },
        });
        apply(&Api::<RuntimeClass>::all(sup.client()), TESTED_HANDLER, &class).await?;
        for plane in [sup, tenant] {
            let installed = dns::install_spread(&plane.client(), plane.service_cidr(), i32::from(NODES)).await;
            installed.with_context(|| format!("no name server in {}", plane.name()))?;
        }
        Ok(())
    }

    /// Does `work` while the syncer is started again whenever it ends, as a kubelet does.
    pub(super) async fn kept_alive<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.story.syncer.kept_alive(work).await
    }

    /// With every right.
    pub(super) fn kubeconfig(&self, side: Side) -> anyhow::Result<&Path> {
        Ok(match side {
            Side::Native => self.story.bed.sup.kubeconfig(),
            Side::Tenant => self.story.bed.tenant(0)?.kubeconfig(),
        })
    }

    pub(super) fn kubectl(&self) -> PathBuf {
        self.story.bed.programs().kubectl()
    }

    /// Where its logs and kubeconfigs are.
    pub(super) fn dir(&self) -> &Path {
        self.story.bed.dir()
    }

    /// What a side is, for the page.
    pub(super) fn about(side: Side) -> String {
        let (major, minor, patch) = KUBERNETES;
        let version = format!("Kubernetes {major}.{minor}.{patch}");
        match side {
            Side::Native => format!("{version}, all controllers and a scheduler, {NODES} nodes of containerd and runc, CoreDNS"),
            Side::Tenant => format!(
                "{version}, the controllers that care for no Nodes, vc-syncer and vn-agent with their default flags and policy, all nodes mirrored \
                 as vNodes without taints, a RuntimeClass for the tests' handler published, CoreDNS of its own"
            ),
        }
    }
}

/// The names of all images that the tests may ask for.
async fn image_names(programs: &ConformancePrograms) -> anyhow::Result<Vec<String>> {
    let mut command = errand::command(&programs.e2e_test);
    command.arg("--list-images").stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = errand::run(command).await.context("could not run e2e.test")?;
    ensure!(output.status.success(), "e2e.test does not say which images it asks for");
    let mut names: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).filter(|name| !name.is_empty()).collect();
    // They come in any order, and what is made of them is found by it.
    names.sort();
    Ok(names)
}
