//! Commands that are run to their end, such as compilers, and that end before their time when we do, with all that they started.
//!
//! The kernel's death signal reaches a child but not what the child starts: `cargo` and `go` would be gone and their compilers would go on.
//! So each command is a process group with a watcher in it, who reads from a pipe that only we hold open. It says nothing and
//! closes when we let go of it or end, whatever ends us; then the watcher kills the group.

use std::{
    ffi::OsStr,
    io,
    process::{ExitStatus, Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// Starts the watcher, who knows our end by the end of its input, then becomes the program, which has no input. The watcher lets go of
/// the outputs, whose end whoever reads them waits for.
const WATCHED: &str = r#"exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 & exec 3<&- "$@""#;

/// A command to be given to [`run`], with its arguments, variables, folder and outputs still to be set.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", WATCHED, "sh"]).arg(program).stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
    command
}

/// Runs a command made by [`command`] to its end. Of its outputs those are returned that were set to be piped.
///
/// *Guarantees*: nothing that it started runs on after this has returned or was dropped, or after our end, also by SIGKILL.
pub async fn run(mut command: Command) -> io::Result<Output> {
    let mut child = command.spawn()?;
    // Waiting for a child closes its input first, which would be the sign to end.
    let _held = child.stdin.take();
    child.wait_with_output().await
}

/// Like [`run`], and tells each line of what goes to the standard error as it comes.
///
/// *Errors*: also a line that is not UTF-8.
pub async fn run_told(mut command: Command, mut tell: impl FnMut(String)) -> io::Result<ExitStatus> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let _held = child.stdin.take();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await? {
            tell(line);
        }
    }
    child.wait().await
}
