//! `cargo xtask demo --node`, ended before its time: nothing of its node is left.

use std::path::Path;

use crate::demos::Demo;
use crate::remains::{Run, own_filters};
use e2e::{env, machine, shipped};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_on_a_real_node_ends_as_it_is_asked_to_and_leaves_nothing() {
    if machine::skipped() {
        return;
    }
    let syncer = shipped::SYNCER.located().unwrap();
    // Its state lies in one place: one at a time.
    ended(&syncer, Signal::SIGTERM).await.unwrap();
    ended(&syncer, Signal::SIGINT).await.unwrap();
}

/// Sends the signal while Pods run and before everything was shown.
async fn ended(syncer: &Path, signal: Signal) -> anyhow::Result<()> {
    let before = own_filters()?;
    let mut demo = Demo::start(&["--node", "--tenants", "1", "--once"], syncer)?;
    demo.shows("Pods are Running and Ready in their tenants").await?;
    let run = Run::running(&env::workspace().join("target/e2e/demo-node"), before)?;
    let (status, said) = demo.ends(Some(signal)).await?;
    anyhow::ensure!(status.code() == Some(1) && said.contains("interrupted"), "{signal}: {status}: {said}");
    run.ends().await?;
    let left = run.left()?;
    anyhow::ensure!(left.is_empty(), "{signal} leaves {left:#?}");
    Ok(())
}
