//! Machines for real nodes: what they are, and that nothing of them stays.
#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::path::Path;

use e2e::{
    env, machine,
    machine::{Machine, Network},
};

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
