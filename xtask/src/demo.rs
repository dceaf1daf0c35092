//! `cargo xtask demo`: the syncer at its main job, told as a short story.
//!
//! Every sentence with a check mark was looked up on the API servers first; one that is not true ends the story.

mod act;
mod cost;
mod stage;
mod tell;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use self::stage::Stage;

/// Runs the demo with so many tenants, until Ctrl-C or, with `once`, until all is shown.
pub(crate) async fn run(tenants: usize, once: bool) -> anyhow::Result<()> {
    anyhow::ensure!((1..=50).contains(&tenants), "--tenants takes 1 to 50");
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whatever ends this, the stage is dropped, and with it every server; where we have no time to, the kernel does it.
    tokio::select! {
        told = story(tenants, once) => told,
        _ = interrupt.recv() => goodbye(once),
        _ = terminate.recv() => goodbye(once),
    }
}

async fn story(tenants: usize, once: bool) -> anyhow::Result<()> {
    let stage = Stage::set(tenants).await?;
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
    act::apply_the_same(stage).await?;
    act::what_tenants_see(stage).await?;
    act::what_the_super_cluster_holds(stage).await?;
    act::they_do_not_meet(stage).await?;
    act::a_pod_is_deleted_below(stage).await?;
    cost::show(stage).await?;
    tell::by_hand(stage, once).await
}

fn failure(stage: &Stage, error: &anyhow::Error) -> String {
    format!("This did not come true: {error:#}\nState and logs: {}", stage.bed.dir().display())
}

/// A story that was to be told to its end and was not is no success.
fn goodbye(once: bool) -> anyhow::Result<()> {
    tell::line("\nEnding the servers.");
    anyhow::ensure!(!once, "interrupted before everything was shown");
    Ok(())
}
