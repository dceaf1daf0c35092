//! Machines for real nodes: what they are, and that nothing of them stays.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a test may fail so, and one says to another that it has begun"
)]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::remains::{Run, named, own_filters};
use e2e::{
    env,
    images::TOOLS,
    machine,
    machine::{Machine, Network},
    story::{Plot, Story, is_running, pod},
};
use serde_json::json;

/// Set for the run of a test within it: how it is to end.
const DOOMED: &str = "E2E_DOOMED";

#[tokio::test(flavor = "multi_thread")]
async fn machines_reach_each_other_and_leave_nothing_behind() {
    if machine::skipped() {
        return;
    }
    let dir = env::workspace().join("target/e2e/machine");
    std::fs::create_dir_all(&dir).unwrap();
    let network = Network::claim().unwrap();
    let prefix = network.name();
    let (one, two) = tokio::try_join!(Machine::start("one", 0, &network, &dir), Machine::start("two", 1, &network, &dir)).unwrap();
    for (from, to) in [(&one, &two), (&two, &one)] {
        from.run(Path::new("busybox"), &["ping", "-c", "1", "-W", "5", &to.address().to_string()]).await.unwrap();
    }
    // A process that outlives whoever started it, as a container does.
    one.run(Path::new("sh"), &["-c", "setsid sleep 1000 >&- 2>&- <&- & mkdir /run/mine && mount -t tmpfs mine /run/mine"]).await.unwrap();
    assert_eq!(one.run(Path::new("cat"), &["/proc/1/comm"]).await.unwrap().trim(), "sh");
    assert!(!named(&prefix).unwrap().is_empty());
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains("/run/mine"));
    drop((one, two));
    drop(network);
    assert_eq!(named(&prefix).unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_that_was_killed_has_left_the_next_one_removes() {
    if machine::skipped() || doomed().await {
        return;
    }
    let (run, mut child) = begun("real_machine::what_a_run_that_was_killed_has_left_the_next_one_removes", "killed");
    child.kill().unwrap();
    child.wait().unwrap();
    // Processes go by themselves, and with them what is in the machine's own namespaces.
    run.ends().await.unwrap();
    drop(Network::claim().unwrap());
    assert_eq!(run.left().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_panics_leaves_nothing() {
    if machine::skipped() || doomed().await {
        return;
    }
    let (run, mut child) = begun("real_machine::a_run_that_panics_leaves_nothing", "panics");
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    run.ends().await.unwrap();
    assert_eq!(run.left().unwrap(), Vec::<String>::new());
}

fn folder(end: &str) -> PathBuf {
    env::workspace().join("target/e2e").join(format!("doomed-{end}"))
}

/// Starts a test once more, as a run of its own with a real node on which a Pod runs; looks at all that it is made of.
fn begun(test: &str, end: &str) -> (Run, Child) {
    let before = own_filters().unwrap();
    let mut run = Command::new(std::env::current_exe().unwrap());
    run.args(["--exact", test, "--nocapture"]).env(DOOMED, end).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = run.spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("the Pod runs")), "it ended before its Pod ran");
    match Run::running(&folder(end), before) {
        Ok(found) => (found, run),
        Err(error) => {
            run.kill().unwrap();
            panic!("{error:#}");
        }
    }
}

/// The run that is ended before its time, if this is it: it panics when its input ends, unless it is killed first.
async fn doomed() -> bool {
    let Some(end) = env::var(DOOMED) else { return false };
    let name = folder(&end).file_name().unwrap().to_str().unwrap().to_owned();
    let mut plot = Plot::real(&name, 1, 1);
    plot.real.as_mut().unwrap().images.clear();
    let story = Story::play(plot).await.unwrap();
    let tenant = story.tenant(0).unwrap();
    let spec = json!({
        "containers": [{ "name": "main", "image": TOOLS, "volumeMounts": [{ "name": "own", "mountPath": "/own" }] }],
        "volumes": [{ "name": "own", "emptyDir": { "medium": "Memory" } }],
    });
    tenant.apply(&pod("runs", &json!({}), &spec)).await.unwrap();
    tenant.sees("it runs", "default", "runs", is_running).await.unwrap();
    println!("the Pod runs");
    let ended = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await.unwrap().unwrap();
    panic!("as asked {ended}");
}
