//! kubectl as a person runs it: an unmodified program, a kubeconfig, nothing else.

mod running;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context as _, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

pub use running::Running;

/// What makes kubectl speak SPDY, as all versions before 1.31 did, and not WebSocket.
const OVER_SPDY: [(&str, &str); 2] = [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

/// kubectl with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    env: Vec<(&'static str, &'static str)>,
    namespace: Option<String>,
}

impl Kubectl {
    /// This program with this kubeconfig.
    pub fn new(program: PathBuf, kubeconfig: &Path) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned(), env: Vec::new(), namespace: None }
    }

    /// The same, with streams over SPDY and not WebSocket.
    #[must_use]
    pub fn over_spdy(&self) -> Self {
        Self { env: OVER_SPDY.to_vec(), ..self.clone() }
    }

    /// The same, in this namespace unless told otherwise.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// A command to be started: no input, outputs piped, ended when dropped.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).envs(self.env.iter().copied()).kill_on_drop(true);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(args);
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

    /// Starts it with an input that stays open.
    pub fn start(&self, args: &[&str]) -> anyhow::Result<Running> {
        Running::start(self.command(args))
    }

    /// Forwards a free port to this one of a target, and gives kubectl and which port it is once it is there.
    pub async fn forward(&self, target: &str, port: u16) -> anyhow::Result<(Running, u16)> {
        let mut forward = self.start(&["port-forward", "--address=127.0.0.1", target, &format!(":{port}")])?;
        forward.writes("Forwarding from 127.0.0.1:").await?;
        let line = forward.writes("\n").await?;
        let port = line.split_whitespace().next().and_then(|number| number.parse().ok());
        Ok((forward, port.with_context(|| format!("kubectl forwards from {line:?}"))?))
    }

    /// Starts it on a terminal of this many rows and columns.
    pub async fn on_terminal(&self, args: &[&str], size: (u16, u16)) -> anyhow::Result<Running> {
        Running::on_terminal(&self.command(args), size).await
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
