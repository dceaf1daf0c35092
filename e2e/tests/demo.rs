//! `cargo xtask demo`, ended as people end it: its exit status says whether all that it showed was true, and nothing of it is left.

use std::{path::Path, time::Duration};

use crate::demos::{Demo, PATIENCE};
use anyhow::Context as _;
use e2e::{
    env, shipped,
    wait::{Seen, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

#[tokio::test]
async fn the_demo_ends_as_it_is_asked_to_and_leaves_nothing() {
    let syncer = shipped::SYNCER.located().unwrap();
    // Its state lies in one place: one at a time.
    interrupted(&syncer).await.unwrap();
    terminated(&syncer).await.unwrap();
    untrue().await.unwrap();
    untold(&syncer).await.unwrap();
    hanging(&syncer).await.unwrap();
}

async fn interrupted(syncer: &Path) -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--tenants", "1"], syncer)?;
    demo.shows("tenant-0 registered").await?;
    demo.shows("All of this stays up until you press Ctrl-C").await?;
    anyhow::ensure!(!runs()?.is_empty(), "nothing runs: this test looks in the wrong place");
    let (status, _) = demo.ends(Some(Signal::SIGINT)).await?;
    anyhow::ensure!(status.success(), "Ctrl-C is how it ends: {status}");
    nothing_is_left().await
}

async fn terminated(syncer: &Path) -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--tenants", "3", "--once"], syncer)?;
    demo.shows("tenant-0, tenant-1, tenant-2 registered").await?;
    let (status, _) = demo.ends(Some(Signal::SIGTERM)).await?;
    anyhow::ensure!(status.code() == Some(1), "it was not told to its end: {status}");
    nothing_is_left().await
}

/// A syncer that does nothing: what is to be shown does not come true.
async fn untrue() -> anyhow::Result<()> {
    let demo = Demo::start(&["--tenants", "1", "--once"], Path::new("/bin/true"))?;
    let (status, said) = demo.ends(None).await?;
    anyhow::ensure!(status.code() == Some(1) && said.contains("vc-syncer ended"), "nothing of it was true: {status}: {said}");
    nothing_is_left().await
}

/// A syncer that sets the stage and is gone before the first scene: that is what is not true.
async fn untold(syncer: &Path) -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--tenants", "1", "--once"], syncer)?;
    demo.shows("tenant-0 registered").await?;
    kill(runs_syncer()?, Signal::SIGKILL)?;
    let (status, said) = demo.ends(None).await?;
    let names = said.contains("This did not come true: every tenant's Pods run: vc-syncer ended (signal: 9");
    anyhow::ensure!(status.code() == Some(1) && names, "one scene was not true: {status}: {said}");
    nothing_is_left().await
}

/// A syncer that sets the stage and then stands still: the first scene has its time, and no more.
async fn hanging(syncer: &Path) -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--tenants", "1", "--once", "--patience", "15"], syncer)?;
    demo.shows("tenant-0 registered").await?;
    kill(runs_syncer()?, Signal::SIGSTOP)?;
    let begin = Instant::now();
    let (status, said) = demo.ends(None).await?;
    let names = said.contains("This did not come true: every tenant's Pods run: ");
    anyhow::ensure!(status.code() == Some(1) && names, "one scene was not true: {status}: {said}");
    anyhow::ensure!(begin.elapsed() < Duration::from_secs(45), "it took {:?}", begin.elapsed());
    nothing_is_left().await
}

/// The demo's syncer.
fn runs_syncer() -> anyhow::Result<Pid> {
    let syncer = runs()?.into_iter().find(|(_, line)| line.contains("/vc-syncer.kubeconfig")).context("no syncer runs")?;
    Ok(Pid::from_raw(syncer.0))
}

/// The processes whose command line names a place in the demo's folder: their ids and their command lines.
fn runs() -> anyhow::Result<Vec<(i32, String)>> {
    let place = env::workspace().join("target/e2e/demo/").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        // It may be gone meanwhile.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && line.contains(&place)
        {
            found.push((id, line));
        }
    }
    Ok(found)
}

async fn nothing_is_left() -> anyhow::Result<()> {
    let gone = eventually("nothing of the demo runs", PATIENCE, async || {
        let left = runs()?;
        Ok(Seen::when(left.is_empty(), left))
    });
    gone.await.map(drop)
}
