//! What a run with real nodes has on this machine: there while it runs, and gone afterwards, whatever ended it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use e2e::wait::{Seen, eventually};
use serde_json::Value;

/// How long the kernel may take to end what was killed.
const SOON: Duration = Duration::from_secs(20);

/// What a run is made of, each by a word that its line begins with: see [`Run::left`].
const PARTS: [&str; 12] = [
    "link ",
    "route ",
    "group ",
    "files ",
    "process etcd ",
    "process kube-apiserver ",
    "process kubelet ",
    "process kube-proxy ",
    "process containerd ",
    "process containerd-shim ",
    "process busybox ",
    "filters ",
];

/// The groups and the mounts of containers, and what the kubelet mounts for their volumes, told by a part of the line.
const WITHIN: [&str; 3] = ["/kubepods/", "mount overlay / at /run/containerd/", "at /var/lib/kubelet/pods/"];

/// A run that had one real node at least.
pub(crate) struct Run {
    /// The bed's folder.
    dir: PathBuf,
    /// How the names of its network begin.
    prefix: String,
    /// The kernel namespaces that its processes had when it was looked at.
    namespaces: BTreeSet<String>,
    /// Packet filters of the machine itself before.
    filters: BTreeSet<String>,
}

impl Run {
    /// Looks at what runs in the folder of a bed. `before` are the machine's own filters before it began.
    ///
    /// # Errors
    /// If a part is not there that the end is to take away: this would look in the wrong places.
    pub(crate) fn running(dir: &Path, before: BTreeSet<String>) -> anyhow::Result<Self> {
        let settings = std::fs::read_to_string(dir.join("machine-0/kubelet.json")).context("no kubelet was started")?;
        let settings: Value = serde_json::from_str(&settings)?;
        let group = settings.get("cgroupRoot").and_then(Value::as_str).context("the kubelet has no control group")?;
        let prefix = group.trim_start_matches('/').trim_end_matches("m0").to_owned();
        let mut run = Self { dir: dir.to_owned(), prefix, namespaces: BTreeSet::new(), filters: before };
        // What its processes are in leads to further processes.
        run.namespaces = run.processes()?.iter().flat_map(|process| namespaces(process)).collect();
        for own in namespaces(Path::new("/proc/self")) {
            run.namespaces.remove(&own);
        }
        let held = run.left()?;
        for part in PARTS {
            ensure!(held.iter().any(|one| one.starts_with(part)), "nothing begins with {part:?} among {held:#?}");
        }
        for part in WITHIN {
            ensure!(held.iter().any(|one| one.contains(part)), "nothing contains {part:?} among {held:#?}");
        }
        Ok(run)
    }

    /// Waits until no process of it is left.
    pub(crate) async fn ends(&self) -> anyhow::Result<()> {
        eventually("its processes have ended", SOON, async || {
            let processes = self.processes()?;
            Ok(Seen::when(processes.is_empty(), processes.iter().map(|process| line_of(process)).collect::<Vec<_>>()))
        })
        .await
        .map(drop)
    }

    /// All that there is of it: what has a name of its network, its processes and what they have mounted, its packet filters, its nodes' images
    /// and volumes.
    pub(crate) fn left(&self) -> anyhow::Result<Vec<String>> {
        let mut found = named(&self.prefix)?;
        let routes = std::fs::read_to_string("/proc/net/route")?;
        found.extend(routes.lines().filter(|line| line.starts_with(&self.prefix)).map(|line| format!("route {line}")));
        let (mut mounts, mut filters) = (mounts_of(Path::new("/proc/self")), own_filters()?.difference(&self.filters).count());
        mounts.retain(|mount| mount.contains(&self.dir.display().to_string()));
        let mut networks: BTreeSet<_> = std::fs::read_link("/proc/self/ns/net").into_iter().collect();
        for process in self.processes()? {
            found.push(format!("process {}", line_of(&process)));
            mounts.extend(mounts_of(&process));
            if let Ok(network) = std::fs::read_link(process.join("ns/net"))
                && networks.insert(network)
            {
                let network = format!("--net={}", process.join("ns/net").display());
                // A process that has just ended has no network any more.
                filters += filters_of(Command::new("nsenter").args([&network, "iptables-save"]))?.map_or(0, |filters| filters.len());
            }
        }
        found.extend(mounts.into_iter().map(|mount| format!("mount {mount}")));
        found.extend((filters > 0).then(|| format!("filters {filters}")));
        for entry in std::fs::read_dir(&self.dir)? {
            let lib = entry?.path().join("lib");
            found.extend(lib.exists().then(|| format!("files {}", lib.display())));
        }
        Ok(found)
    }

    /// Those that name a file of the bed, those in a control group of its machines, and those that share a namespace with them.
    fn processes(&self) -> anyhow::Result<Vec<PathBuf>> {
        let dir = format!("{}/", self.dir.display());
        let is_own = |process: &PathBuf| {
            let of = |file: &str| String::from_utf8_lossy(&std::fs::read(process.join(file)).unwrap_or_default()).into_owned();
            // One that has ended and that its parent has not asked about is gone.
            let is_over = of("stat").rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'));
            let is_within = || namespaces(process).iter().any(|namespace| self.namespaces.contains(namespace));
            !is_over && (of("cmdline").contains(&dir) || of("cgroup").contains(&format!("/{}", self.prefix)) || is_within())
        };
        let all = std::fs::read_dir("/proc").context("could not list processes")?.flatten().map(|entry| entry.path());
        Ok(all
            .filter(|path| path.join("ns").exists() && !path.ends_with("self") && !path.ends_with("thread-self"))
            .filter(is_own)
            .collect())
    }
}

/// Everything on this machine whose name begins so.
pub(crate) fn named(prefix: &str) -> anyhow::Result<Vec<String>> {
    let mut found = below(Path::new("/sys/class/net"), 0, prefix)?.iter().map(|path| format!("link {path}")).collect::<Vec<_>>();
    found.extend(below(Path::new("/sys/fs/cgroup"), 1, prefix)?.iter().map(|path| format!("group {path}")));
    Ok(found)
}

/// What begins so in a folder and in folders below it down to a depth; all that is below what does.
fn below(folder: &Path, depth: u8, prefix: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    // It may go meanwhile.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, is_folder) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let begins = entry.file_name().to_string_lossy().starts_with(prefix);
        if begins && (is_folder || depth == 0) {
            found.push(path.display().to_string());
        }
        if is_folder && begins {
            found.extend(below(&path, 0, "")?.into_iter().filter(|path| Path::new(path).is_dir()));
        } else if is_folder && depth > 0 {
            found.extend(below(&path, depth - 1, prefix)?);
        }
    }
    Ok(found)
}

/// A name to tell it by, and its command line.
fn line_of(process: &Path) -> String {
    let line = String::from_utf8_lossy(&std::fs::read(process.join("cmdline")).unwrap_or_default()).replace('\0', " ");
    let name = std::fs::read_link(process.join("exe")).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    format!("{} {}: {line}", name.unwrap_or_default().replace("-runc-v2", ""), process.display())
}

fn namespaces(process: &Path) -> Vec<String> {
    let of = |kind: &&str| std::fs::read_link(process.join("ns").join(kind)).ok();
    ["net", "mnt", "pid"].iter().filter_map(of).map(|link| link.display().to_string()).collect()
}

/// What is mounted where a process is: the kind and the places.
fn mounts_of(process: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    let mount = |line: &str| {
        let (places, kind) = line.split_once(" - ")?;
        let places: Vec<_> = places.split(' ').skip(3).take(2).collect();
        Some(format!("{} {}", kind.split(' ').next()?, places.join(" at ")))
    };
    text.lines().filter_map(mount).collect()
}

/// Of the machine itself: what nodes make in their own.
pub(crate) fn own_filters() -> anyhow::Result<BTreeSet<String>> {
    filters_of(&mut Command::new("iptables-save"))?.context("iptables-save failed: what it does not list may still be there")
}

/// Nothing if they cannot be listed.
fn filters_of(save: &mut Command) -> anyhow::Result<Option<BTreeSet<String>>> {
    let output = save.output().context("could not list packet filters")?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_nodes = |line: &&str| ["KUBE-", "CNI-", "vcbed"].iter().any(|part| line.contains(part));
    Ok(Some(text.lines().filter(of_nodes).map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()))
}
