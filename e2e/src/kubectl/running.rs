//! A kubectl that runs: what it has written so far, and what it is told meanwhile.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{errand, story::PATIENCE};

/// Says which terminal it has, gives that its size, and becomes the program.
const ON_TERMINAL: &str = "tty; stty rows";

/// One that was started; killed when dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    /// Written, and not yet looked for.
    unread: Vec<u8>,
    /// The device of its terminal, if it has one.
    terminal: Option<String>,
}

impl Running {
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let what = line(&command);
        let mut child = command.stdin(Stdio::piped()).spawn().with_context(|| format!("could not run {what}"))?;
        let output = child.stdout.take().context("kubectl has no output")?;
        Ok(Self { what, input: child.stdin.take(), child, output, unread: Vec::new(), terminal: None })
    }

    /// `script`, of util-linux as `setpriv` is, makes the terminal and stands between it and us.
    pub(super) async fn on_terminal(command: &Command, (rows, columns): (u16, u16)) -> anyhow::Result<Self> {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--flush", "--command"]);
        script.arg(format!("{ON_TERMINAL} {rows} cols {columns}; exec {}", line(command))).arg("/dev/null");
        let env = command.as_std().get_envs().filter_map(|(name, value)| Some((name, value?)));
        script.envs(env).env("SHELL", "/bin/sh").stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut running = Self::start(script)?;
        running.terminal = Some(running.writes("\n").await?.trim().to_owned());
        Ok(running)
    }

    /// Waits until it has written this, and gives all that it wrote before and with it.
    pub async fn writes(&mut self, text: &str) -> anyhow::Result<String> {
        loop {
            let found = self.unread.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                return Ok(String::from_utf8_lossy(&self.unread.drain(..at + text.len()).collect::<Vec<_>>()).into_owned());
            }
            let read = timeout(PATIENCE, self.output.read_buf(&mut self.unread)).await;
            let seen = String::from_utf8_lossy(&self.unread);
            let read = read.with_context(|| format!("{} does not write {text:?}; it wrote {seen:?}", self.what))??;
            ensure!(read > 0, "{} ended without writing {text:?}; it wrote {seen:?}", self.what);
        }
    }

    /// Gives it this as input.
    pub async fn types(&mut self, text: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("the input was closed")?;
        input.write_all(text.as_bytes()).await.with_context(|| format!("{} reads nothing more", self.what))?;
        input.flush().await.context("could not flush")
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Gives its terminal another size, as a window that is resized does.
    pub async fn resize(&self, (rows, columns): (u16, u16)) -> anyhow::Result<()> {
        let terminal = self.terminal.as_deref().context("it has no terminal")?;
        let mut command = errand::command("stty");
        command.args(["-F", terminal, "rows", &rows.to_string(), "cols", &columns.to_string()]);
        let output = errand::run(command).await.context("could not run stty")?;
        ensure!(output.status.success(), "could not resize {terminal}");
        Ok(())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().context("could not wait for kubectl")?.is_some())
    }

    /// As [`Running::ends`], but kills it if it has not ended.
    pub async fn killed(mut self) -> anyhow::Result<(ExitStatus, String, String)> {
        self.child.start_kill().context("could not end kubectl")?;
        self.ends().await
    }

    /// Waits for its end; gives how it ended, and the rest of what it wrote, on standard error too.
    pub async fn ends(mut self) -> anyhow::Result<(ExitStatus, String, String)> {
        let mut errors = self.child.stderr.take().context("kubectl has no standard error")?;
        let mut said = Vec::new();
        let all = async {
            tokio::try_join!(self.output.read_to_end(&mut self.unread), errors.read_to_end(&mut said))?;
            self.child.wait().await
        };
        let status = timeout(PATIENCE, all).await.with_context(|| format!("{} does not end", self.what))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((status, text(&self.unread), text(&said)))
    }
}

/// The command as a shell reads it.
fn line(command: &Command) -> String {
    let command = command.as_std();
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ")
}
