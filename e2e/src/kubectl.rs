//! kubectl as a person runs it: an unmodified program, a kubeconfig, nothing else.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context as _, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// kubectl with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// This program with this kubeconfig.
    pub fn new(program: PathBuf, kubeconfig: &Path) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned() }
    }

    /// A command to be started: no input, outputs piped, ended when dropped.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, whatever that is.
    pub async fn output(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.command(args).output().await.context("could not run kubectl")
    }

    /// Runs it to its end with this as its input.
    pub async fn fed(&self, args: &[&str], input: &[u8]) -> anyhow::Result<Output> {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().context("could not run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        let feed = async {
            // One that ends without reading all is told by what it answers.
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output.context("could not wait for kubectl")
    }

    /// What it writes.
    ///
    /// # Errors
    /// If it fails: with what it said.
    pub async fn says(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.output(args).await?;
        if !output.status.success() {
            bail!("kubectl {}: {}: {}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What it complains of, having failed.
    ///
    /// # Errors
    /// If it succeeds.
    pub async fn fails(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.output(args).await?;
        if output.status.success() {
            bail!("kubectl {} works: {}", args.join(" "), String::from_utf8_lossy(&output.stdout).trim());
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
