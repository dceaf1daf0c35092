//! `cargo xtask demo`, ended as people end it: its exit status says whether all that it showed was true, and nothing of it is left.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use e2e::{
    env, shipped,
    wait::{Seen, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// For what the demo shows, and for its end.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn the_demo_ends_as_it_is_asked_to_and_leaves_nothing() {
    let syncer = shipped::SYNCER.located().unwrap();
    // Its state lies in one place: one at a time.
    interrupted(&syncer).await.unwrap();
    terminated(&syncer).await.unwrap();
    untrue().await.unwrap();
}

async fn interrupted(syncer: &Path) -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--tenants", "1"], syncer)?;
    demo.shows("tenant-0 registered").await?;
    demo.shows("All of this stays up until you press Ctrl-C").await?;
    anyhow::ensure!(!left()?.is_empty(), "nothing runs: this test looks in the wrong place");
    let status = demo.ends(Some(Signal::SIGINT)).await?;
    anyhow::ensure!(status.success(), "Ctrl-C is how it ends: {status}");
    nothing_is_left().await
}

async fn terminated(syncer: &Path) -> anyhow::Result<()> {
    let mut demo = Demo::start(&["--tenants", "3", "--once"], syncer)?;
    demo.shows("tenant-0, tenant-1, tenant-2 registered").await?;
    let status = demo.ends(Some(Signal::SIGTERM)).await?;
    anyhow::ensure!(status.code() == Some(1), "it was not told to its end: {status}");
    nothing_is_left().await
}

/// A syncer that does nothing: what is to be shown does not come true.
async fn untrue() -> anyhow::Result<()> {
    let demo = Demo::start(&["--tenants", "1", "--once"], Path::new("/bin/true"))?;
    let status = demo.ends(None).await?;
    anyhow::ensure!(status.code() == Some(1), "nothing of it was true: {status}");
    nothing_is_left().await
}

struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Demo {
    fn start(args: &[&str], syncer: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(env::program("XTASK", "xtask")?);
        command.arg("demo").args(args).env(shipped::SYNCER.variable, syncer).current_dir(env::workspace());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().context("could not run xtask")?;
        let lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        Ok(Self { child, lines })
    }

    /// Waits for a line that says this.
    async fn shows(&mut self, text: &str) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        let look = async {
            while let Some(line) = self.lines.next_line().await? {
                if line.contains(text) {
                    return Ok(());
                }
                seen.push(line);
            }
            anyhow::bail!("it ended")
        };
        let result = timeout(PATIENCE, look).await.unwrap_or_else(|_| Err(anyhow::anyhow!("nothing more came")));
        result.with_context(|| format!("it does not show {text:?} but:\n{}", seen.join("\n")))
    }

    /// Sends the signal, if there is one, and waits for the end.
    async fn ends(mut self, signal: Option<Signal>) -> anyhow::Result<ExitStatus> {
        if let Some(signal) = signal {
            let pid = self.child.id().context("it has ended")?;
            kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        }
        let rest = async {
            while let Some(line) = self.lines.next_line().await? {
                eprintln!("    {line}");
            }
            Ok(self.child.wait().await?)
        };
        timeout(PATIENCE, rest).await.context("it does not end")?
    }
}

/// The processes whose command line names a place in the demo's folder.
fn left() -> anyhow::Result<Vec<String>> {
    let place = env::workspace().join("target/e2e/demo/").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // It may be gone meanwhile.
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&place) {
            found.push(line);
        }
    }
    Ok(found)
}

async fn nothing_is_left() -> anyhow::Result<()> {
    let gone = eventually("nothing of the demo runs", PATIENCE, async || {
        let left = left()?;
        Ok(Seen::when(left.is_empty(), left))
    });
    gone.await.map(drop)
}
