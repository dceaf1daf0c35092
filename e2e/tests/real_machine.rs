//! Machines for real nodes: what they are, and that nothing of them stays.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail so, and one says to another that it has begun")]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use e2e::{
    env, machine,
    machine::{Machine, Network},
    wait::{Seen, eventually},
};

/// Where the run that is killed puts its machine; a run without it has nothing to do there.
const DOOMED: &str = "E2E_DOOMED_MACHINE";
/// What a process of its machine can be told by.
const MARK: &str = "1000.4711";

/// Everything on this machine whose name begins as those of `network` do.
fn named(prefix: &str) -> Vec<String> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut found = Vec::new();
    for place in hierarchies.chain(["/sys/fs/cgroup".into(), "/sys/class/net".into()]) {
        let entries = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path().display().to_string());
        found.extend(entries.filter(|path| path.rsplit('/').next().unwrap_or_default().starts_with(prefix)));
    }
    found
}

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
    assert!(!named(&prefix).is_empty());
    assert!(!std::fs::read_to_string("/proc/self/mounts").unwrap().contains("/run/mine"));
    drop((one, two));
    drop(network);
    assert_eq!(named(&prefix), Vec::<String>::new());
}

/// Everything on this machine that a run's machine is made of: names of the network, processes in it, mounts, routes to its Pods.
fn left(prefix: &str, dir: &Path) -> Vec<String> {
    let mut found = named(prefix);
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let commands = processes.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    found.extend(commands.filter(|line| line.contains(MARK) || line.contains(&format!("sh {}", dir.display()))));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&dir.display().to_string())).map(str::to_owned));
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    found.extend(routes.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned));
    found
}

/// The run that is killed, in a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed() {
    let Some(dir) = std::env::var_os(DOOMED).map(PathBuf::from) else { return };
    let network = Network::claim().unwrap();
    let machine = Machine::start("one", 0, &network, &dir).await.unwrap();
    machine.run(Path::new("sh"), &["-c", &format!("setsid sleep {MARK} >&- 2>&- <&- &")]).await.unwrap();
    println!("up {}", network.name());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_that_was_killed_has_left_the_next_one_removes() {
    if machine::skipped() {
        return;
    }
    let dir = env::workspace().join("target/e2e/doomed-machine");
    std::fs::create_dir_all(&dir).unwrap();
    let mut run = Command::new(std::env::current_exe().unwrap());
    run.args(["--exact", "a_run_that_is_killed", "--nocapture"]).env(DOOMED, &dir).stdout(Stdio::piped());
    let mut run = run.spawn().unwrap();
    let lines = BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok);
    let up = lines.into_iter().find_map(|line| line.split_once("up vcbed").map(|(_, name)| format!("vcbed{name}")));
    let held = up.as_ref().map(|prefix| left(prefix, &dir));
    run.kill().unwrap();
    run.wait().unwrap();
    let (prefix, held) = (up.expect("it began"), held.unwrap());
    for part in [MARK, "/sys/fs/cgroup", "/sys/class/net"] {
        assert!(held.iter().any(|one| one.contains(part)), "{part} is not among {held:?}");
    }
    // Processes go by themselves, and with them what is in the machine's own namespaces.
    eventually("its processes have ended", Duration::from_secs(20), async || {
        let left = left(&prefix, &dir);
        Ok(Seen::when(!left.iter().any(|one| one.contains(MARK)), left))
    })
    .await
    .unwrap();
    drop(Network::claim().unwrap());
    assert_eq!(left(&prefix, &dir), Vec::<String>::new());
}
