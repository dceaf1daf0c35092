//! `cargo xtask conformance`: Kubernetes' own conformance tests on the two-node bed, natively and inside a tenant, and where they differ.
//!
//! ```text
//! e2e.test --dry-run ─► plan: which tests, by their full names
//! ginkgo e2e.test, super cluster ─► report ─┐
//! ginkgo e2e.test, tenant        ─► report ─┴► outcomes kept a side ─► judge, with conformance/exceptions.yaml ─► table, docs/conformance.md
//! ```
//!
//! Each side runs the tests that are not serial first, several at once, then the serial ones. Reports and logs are kept under
//! `target/conformance`, with the last outcome of each test on each side: a run of one side is compared with what the other did last.

mod exceptions;
mod judge;
mod page;
mod plan;
mod record;
mod report;
mod run;
mod stage;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use e2e::{images, machine, programs::ConformancePrograms};
use indicatif::MultiProgress;
use tokio::signal::unix::{SignalKind, signal};

use self::{exceptions::Exceptions, plan::Plan, record::Record, stage::Stage};

/// What to run.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Options {
    /// Only tests whose names this matches, as Go's regular expressions do.
    #[arg(long, value_name = "RE")]
    focus: Option<String>,
    /// Only a few of each area, for every change: some minutes.
    #[arg(long, conflicts_with_all = ["focus", "skip"])]
    quick: bool,
    /// No tests whose names this matches.
    #[arg(long, value_name = "RE")]
    skip: Option<String>,
    /// One side only; compared with what the other did last.
    #[arg(long)]
    only: Option<Side>,
    /// How many tests run at once, serial ones apart. They mostly wait.
    #[arg(long, default_value_t = 10)]
    procs: u8,
    /// Fail for differences that are known and not mended yet, too.
    #[arg(long)]
    strict: bool,
    /// Run nothing: judge the last outcome of each test, and write the page.
    #[arg(long, conflicts_with_all = ["only", "keep"])]
    judge: bool,
    /// Leave the servers up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// What `--quick` runs: what depends most on vc-syncer and vn-agent, without what takes a minute or more.
const QUICK: &str = concat!(
    "Pods should (be submitted|contain env|support remote|support retrieving)|Downward API should provide pod|Variable Expansion should allow",
    "|InitContainer should invoke|Container Lifecycle Hook|Ephemeral Containers|liveness probe should",
    "|Secrets should be consumable from pods in (env|volume \\[)|Projected (combined|downwardAPI should update)|ConfigMap should be consumable",
    "|ServiceAccounts|ReplicaSet should|RollingUpdateDeployment|Job should (delete|adopt|create pods)|scale subresource",
    "|Services should (serve|.*session affinity)|DNS should provide DNS|EndpointSlice should (create|support creating)|Mirroring|Kubectl (client|logs)|sig-instrumentation"
);

/// Where the tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Side {
    /// On the super cluster, as if there were no tenants.
    Native,
    /// In a tenant.
    Tenant,
}

impl Side {
    const ALL: [Self; 2] = [Self::Native, Self::Tenant];

    /// Names its files.
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Tenant => "tenant",
        }
    }
}

/// Runs the tests until they are done or Ctrl-C.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whatever ends this, the stage is dropped, and with it every server.
    tokio::select! {
        done = whole(options) => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
}

async fn whole(options: &Options) -> anyhow::Result<()> {
    if let Some(lacking) = machine::lacking().filter(|_| !options.judge) {
        bail!("{lacking}");
    }
    if !options.judge {
        images::conformance::tools_are_here()?;
    }
    let exceptions = Exceptions::read(&crate::root().join("conformance/exceptions.yaml"))?;
    let programs = ConformancePrograms::locate_or_build(&MultiProgress::new()).await?;
    let dir = folder()?;
    let all = Plan::make(&programs, &dir, None, None).await?;
    exceptions.only_names(all.names())?;
    let focus = if options.quick { Some(QUICK) } else { options.focus.as_deref() };
    let plan = Plan::make(&programs, &dir, focus, options.skip.as_deref()).await?;
    ensure!(!plan.is_empty(), "no conformance test is called like that");
    let mut records = BTreeMap::new();
    for side in Side::ALL {
        records.insert(side, Record::read(&dir, side)?);
    }
    let mut stage = None;
    if !options.judge {
        let sides = options.only.map_or(Side::ALL.to_vec(), |side| vec![side]);
        let plan = plan.without(exceptions.not_here());
        println!("{} conformance tests of {}, {}", plan.len(), all.len(), if sides.len() == 2 { "on each side" } else { "on one side" });
        let stage = stage.insert(Stage::set(&programs, options.only).await?);
        for side in sides {
            let record = records.entry(side).or_default();
            stage.kept_alive(run::side(side, &plan, stage, options, &programs, &dir, record)).await?;
        }
    }
    let judgement = judge::judge(&plan, &records, &exceptions);
    print!("{}", page::summary(&judgement));
    if focus.is_none() && options.skip.is_none() {
        let path = crate::root().join("docs/conformance.md");
        std::fs::write(&path, page::page(&judgement, &records)).with_context(|| format!("could not write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    if options.keep
        && let Some(stage) = &stage
    {
        println!("The servers stay up until you press Ctrl-C; their kubeconfigs and logs are in {}", stage.dir().display());
        std::future::pending::<()>().await;
    }
    judgement.verdict(options.strict, options.only.is_none())
}

/// Where reports, logs and outcomes are kept.
fn folder() -> anyhow::Result<PathBuf> {
    let dir = crate::root().join("target/conformance");
    std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    Ok(dir)
}
