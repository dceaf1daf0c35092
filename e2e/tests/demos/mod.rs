//! `cargo xtask demo` as people run it, and how it ends.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use e2e::{env, shipped};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// For what the demo shows, and for its end.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A demo that runs; killed when dropped.
pub(crate) struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Demo {
    pub(crate) fn start(args: &[&str], syncer: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(env::program("XTASK", "xtask")?);
        command.arg("demo").args(args).current_dir(env::workspace());
        // Built already: it need not look whether they are.
        command.env(shipped::SYNCER.variable, syncer).env(shipped::AGENT.variable, shipped::AGENT.located()?);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("could not run xtask")?;
        let lines = BufReader::new(child.stdout.take().context("it has no output")?).lines();
        Ok(Self { child, lines })
    }

    /// Waits for a line that says this.
    pub(crate) async fn shows(&mut self, text: &str) -> anyhow::Result<()> {
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

    /// Sends the signal, if there is one, and waits for the end: how it ended, and what it complained of.
    pub(crate) async fn ends(mut self, signal: Option<Signal>) -> anyhow::Result<(ExitStatus, String)> {
        if let Some(signal) = signal {
            let pid = self.child.id().context("it has ended")?;
            kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        }
        let rest = async {
            while let Some(line) = self.lines.next_line().await? {
                eprintln!("    {line}");
            }
            let mut said = String::new();
            self.child.stderr.take().context("it has no standard error")?.read_to_string(&mut said).await?;
            eprintln!("{said}");
            Ok((self.child.wait().await?, said))
        };
        timeout(PATIENCE, rest).await.context("it does not end")?
    }
}
