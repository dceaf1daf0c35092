//! What we start ends with us, whatever ends us.
//!
//! Each case runs this test program once more, as the parent that is ended; the outer test looks whether its child is left, or what
//! a command started that it was running.
#![expect(clippy::unwrap_used, reason = "a test may fail so, its helpers too")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{
    env, errand,
    process::{Process, Spec},
    wait::{Seen, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SOON: Duration = Duration::from_secs(10);

/// Tells the inner run where to write its child's process id.
const INNER: &str = "E2E_PROCESS_TEST_FILE";

#[tokio::test]
async fn inner() {
    let Some(file) = env::var(INNER) else { return };
    let file = PathBuf::from(file);
    let dir = file.parent().unwrap();
    if let Some(case) = file.file_name().unwrap().to_str().unwrap().strip_prefix("errand-") {
        let meanwhile = async {
            eventually("the command started another", SOON, async || Ok(Seen::Done(std::fs::read_to_string(&file)?))).await.unwrap();
            assert_ne!(case, "panic", "as asked");
        };
        let (ended, ()) = tokio::join!(errand::run(compiling(&file)), meanwhile);
        ended.unwrap();
        return;
    }
    let child = Process::start(Spec::new("sleep", Path::new("/bin/sleep"), ["300".to_owned()], dir)).unwrap();
    eventually("the child runs", SOON, async || Ok(Seen::when(name(child.pid().unwrap()) == "sleep", ()))).await.unwrap();
    e2e::pki::write(&file, &child.pid().unwrap().to_string()).unwrap();
    assert!(!file.ends_with("panic"), "as asked");
    tokio::time::sleep(Duration::from_mins(5)).await;
}

#[tokio::test]
async fn a_child_ends_when_its_parent_is_killed() {
    ends_by("kill", Some(Signal::SIGKILL)).await;
}

#[tokio::test]
async fn a_child_ends_when_its_parent_is_terminated() {
    ends_by("terminate", Some(Signal::SIGTERM)).await;
}

#[tokio::test]
async fn a_child_ends_when_its_parent_is_interrupted() {
    ends_by("interrupt", Some(Signal::SIGINT)).await;
}

#[tokio::test]
async fn a_child_ends_when_its_parent_panics() {
    ends_by("panic", None).await;
}

#[tokio::test]
async fn what_a_command_started_ends_when_its_parent_is_killed() {
    ends_by("errand-kill", Some(Signal::SIGKILL)).await;
}

#[tokio::test]
async fn what_a_command_started_ends_when_its_parent_is_terminated() {
    ends_by("errand-terminate", Some(Signal::SIGTERM)).await;
}

#[tokio::test]
async fn what_a_command_started_ends_when_its_parent_is_interrupted() {
    ends_by("errand-interrupt", Some(Signal::SIGINT)).await;
}

#[tokio::test]
async fn what_a_command_started_ends_when_its_parent_panics() {
    ends_by("errand-panic", None).await;
}

#[tokio::test]
async fn what_a_command_started_ends_when_nobody_waits_for_it_any_more() {
    let file = dir().join("errand-dropped");
    let _ = std::fs::remove_file(&file);
    let started = async || Ok(Seen::Done(std::fs::read_to_string(&file)?.trim().parse()?));
    let child: u32 = tokio::select! {
        ended = errand::run(compiling(&file)) => panic!("it ended: {ended:?}"),
        child = eventually("the command started another", SOON, started) => child.unwrap(),
    };
    gone(child).await;
}

#[tokio::test]
async fn a_command_says_how_it_ended_and_what_it_wrote() {
    let mut command = errand::command("sh");
    command.args(["-c", "cat; echo out; echo err >&2; exit 3"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = errand::run(command).await.unwrap();
    assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(3), &b"out\n"[..], &b"err\n"[..]));
}

/// A command that starts another, as `cargo` and `go` start compilers, and writes its process id.
fn compiling(file: &Path) -> tokio::process::Command {
    let mut command = errand::command("sh");
    command.args(["-c", r#"sleep 300 & echo $! >"$0.new" && mv "$0.new" "$0"; wait"#]).arg(file);
    command
}

#[tokio::test]
async fn a_child_can_be_paused_and_started_again() {
    let dir = dir();
    let process = Process::start(Spec::new("pause", Path::new("/bin/sleep"), ["300".to_owned()], &dir)).unwrap();
    let first = process.pid().unwrap();
    process.pause().unwrap();
    eventually("it is stopped", SOON, async || Ok(Seen::when(state(first) == Some('T'), ()))).await.unwrap();
    process.stop().await.unwrap();
    assert!(!process.is_running() && process.check_running().is_err());
    process.start_again().unwrap();
    assert!(process.is_running() && process.pid() != Some(first));
}

async fn ends_by(case: &str, signal: Option<Signal>) {
    let file = dir().join(case);
    let _ = std::fs::remove_file(&file);
    let own = std::env::current_exe().unwrap();
    let mut parent = Command::new(own)
        .args(["process::inner", "--exact", "--nocapture"])
        .env(INNER, &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child: u32 =
        eventually("the inner run started its child", SOON, async || Ok(Seen::Done(std::fs::read_to_string(&file)?.trim().parse()?)))
            .await
            .unwrap();
    if let Some(signal) = signal {
        assert_eq!(name(child), "sleep");
        kill(Pid::from_raw(i32::try_from(parent.id()).unwrap()), signal).unwrap();
    }
    reaped(&mut parent).await;
    gone(child).await;
}

async fn gone(child: u32) {
    eventually("the child is gone", SOON, async || Ok(Seen::when(matches!(state(child), None | Some('Z')), state(child)))).await.unwrap();
}

async fn reaped(parent: &mut Child) {
    eventually("the parent ended", SOON, async || Ok(Seen::when(parent.try_wait()?.is_some(), ()))).await.unwrap();
}

fn dir() -> PathBuf {
    let dir = env::workspace().join("target/e2e/process");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
