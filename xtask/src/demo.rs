//! `cargo xtask demo`: the syncer at its main job, told as a short story.
//!
//! With `--node` the super cluster has a real node, the Pods run in containers, and vn-agent has a part too. Every sentence with a check
//! mark was looked up first; one that is not true ends the story.

mod act;
mod cost;
mod inside;
mod stage;
mod tell;

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use e2e::machine;
use futures::future::LocalBoxFuture;
use tokio::signal::unix::{SignalKind, signal};

use self::stage::Stage;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many tenants to start.
    #[arg(long, default_value_t = 2)]
    tenants: usize,
    /// Run the Pods in real containers on a real node, with vn-agent on it: logs, exec, attach, port-forward, cp, debug, top. Needs root.
    #[arg(long)]
    node: bool,
    /// End by itself, with exit status 0 only if everything shown was true.
    #[arg(long)]
    once: bool,
    /// How many seconds any single thing may take: a few here, more on a machine that does other things too.
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

/// Runs the demo until Ctrl-C or, with `--once`, until all is shown.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    ensure!((1..=50).contains(&options.tenants), "--tenants takes 1 to 50");
    if let Some(lacking) = machine::lacking().filter(|_| options.node) {
        bail!("--node: {lacking}");
    }
    let once = options.once;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whatever ends this, the stage is dropped, and with it every server; where we have no time to, the kernel does it.
    tokio::select! {
        told = story(options) => told,
        _ = interrupt.recv() => goodbye(once),
        _ = terminate.recv() => goodbye(once),
    }
}

async fn story(options: &Options) -> anyhow::Result<()> {
    let once = options.once;
    let stage = Stage::set(options.tenants, options.node, Duration::from_secs(options.patience)).await?;
    let told = scenes(&stage, once).await;
    match told {
        Ok(()) if once => {
            tell::line("Everything shown was true. The servers end now.");
            return Ok(());
        }
        Ok(()) => tell::line("All of this stays up until you press Ctrl-C."),
        Err(error) if once => {
            bail!("{}", failure(&stage, &error));
        }
        Err(error) => {
            tell::line(&failure(&stage, &error));
            tell::line("The servers stay up for you to look, until you press Ctrl-C.");
        }
    }
    std::future::pending().await
}

async fn scenes(stage: &Stage, once: bool) -> anyhow::Result<()> {
    scene("every tenant's Pods run", stage, act::apply_the_same(stage)).await?;
    scene("tenants see an ordinary cluster", stage, act::what_tenants_see(stage)).await?;
    scene("the super cluster holds what the tenants wrote", stage, act::what_the_super_cluster_holds(stage)).await?;
    scene("tenants do not meet", stage, act::they_do_not_meet(stage)).await?;
    if let Some(agent) = stage.agent() {
        scene("tenants reach their containers", stage, inside::tell(agent, stage)).await?;
    }
    scene("a tenant sees what is deleted below", stage, act::a_pod_is_deleted_below(stage)).await?;
    scene("it costs what is shown", stage, cost::show(stage)).await?;
    tell::by_hand(stage, once).await
}

/// Tells a part of the story, which is not true without a syncer that runs all the while; `what` says what was to be shown.
fn scene<'a>(
    what: &'static str,
    stage: &'a Stage,
    told: impl Future<Output = anyhow::Result<()>> + 'a,
) -> LocalBoxFuture<'a, anyhow::Result<()>> {
    let told = Box::pin(told);
    Box::pin(async move { stage.syncer.process.while_running(told).await.context(what) })
}

fn failure(stage: &Stage, error: &anyhow::Error) -> String {
    format!("This did not come true: {error:#}\nState and logs: {}", stage.bed.dir().display())
}

/// A story that was to be told to its end and was not is no success.
fn goodbye(once: bool) -> anyhow::Result<()> {
    tell::line("\nEnding the servers.");
    ensure!(!once, "interrupted before everything was shown");
    Ok(())
}
