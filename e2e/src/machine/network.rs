//! The network of one bed: a bridge, addresses of the machines on it, and all that has a name on the real machine.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use super::cgroup::{self, patiently};

/// How many machines a network holds.
pub const MACHINES: u8 = 4;

/// How many networks a machine holds: several beds run side by side.
const NETWORKS: u8 = 32;

/// A claim on one of the networks of this machine. Its bridge, its machines' control groups and the images and volumes on them are removed
/// when it is dropped, after its machines.
///
/// # Guarantees
/// No other process has the same network: the claim is a locked file, and the lock ends with the process. In it stands which folders go with
/// the network, for whoever claims it next.
#[derive(Debug)]
pub struct Network {
    number: u8,
    claim: File,
}

impl Network {
    /// Claims a network, removes what ended processes left of theirs, and makes the bridge.
    pub fn claim() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join("virtualcluster-networks");
        make_own(&dir)?;
        let mut claimed = None;
        for number in 0..NETWORKS {
            let Some(claim) = try_claim(&dir.join(number.to_string()))? else { continue };
            let network = Self { number, claim };
            network.clean()?;
            // The others are let go of, clean.
            claimed.get_or_insert(network);
        }
        let network = claimed.with_context(|| format!("all {NETWORKS} networks are taken"))?;
        let (bridge, address) = (network.name(), format!("{}/24", network.address()));
        ip(&["link", "add", "name", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(network)
    }

    /// The address of the real machine on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 1)
    }

    /// The addresses of machine `i` and its Pods begin where no Service, fake node or fake Pod of a bed is.
    pub(super) fn machine(&self, i: u8) -> anyhow::Result<Ipv4Addr> {
        anyhow::ensure!(i < MACHINES, "a network holds {MACHINES} machines");
        Ok(Ipv4Addr::new(10, 244, self.number, 10 + i))
    }

    /// The range of the addresses of machine `i`'s Pods.
    pub(super) fn pods(&self, i: u8) -> anyhow::Result<(Ipv4Addr, u8)> {
        anyhow::ensure!(i < MACHINES, "a network holds {MACHINES} machines");
        Ok((Ipv4Addr::new(10, 245, self.number * MACHINES + i, 0), 24))
    }

    /// The name of machine `i`'s control group.
    pub(super) fn cgroup(&self, i: u8) -> String {
        format!("{}m{i}", self.name())
    }

    /// Connects the machine of that process to the bridge, as its `eth0`, and finds its Pods behind it.
    pub(super) fn plug(&self, i: u8, pid: u32) -> anyhow::Result<()> {
        let (link, pid) = (format!("{}v{i}", self.name()), pid.to_string());
        ip(&["link", "add", "name", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        ip(&["link", "set", &link, "master", &self.name(), "up"])?;
        let pods = self.pods(i)?;
        ip(&["route", "replace", &format!("{}/{}", pods.0, pods.1), "via", &self.machine(i)?.to_string()])
    }

    /// Notes a folder that goes with the network.
    pub(super) fn keep(&self, folder: &Path) -> anyhow::Result<()> {
        writeln!(&self.claim, "{}", folder.display()).context("could not note a folder of a machine")
    }

    /// How the names of all that it has on the real machine begin. That of the bridge is no longer.
    pub fn name(&self) -> String {
        // With an end, so that no network's names begin as another's do.
        format!("vcbed{}-", self.number)
    }

    /// Removes everything that has a name of this network, and the folders that were noted; routes go with the bridge.
    fn clean(&self) -> anyhow::Result<()> {
        let links = (0..MACHINES).map(|i| format!("{}v{i}", self.name())).chain([self.name()]);
        for link in links {
            let place = Path::new("/sys/class/net").join(&link);
            // One whose other end was in a machine goes by itself, perhaps just now.
            if place.exists()
                && let Err(error) = ip(&["link", "del", &link])
                && place.exists()
            {
                return Err(error);
            }
        }
        (0..MACHINES).try_for_each(|i| cgroup::remove(&self.cgroup(i)))?;
        let mut noted = String::new();
        (&self.claim).seek(SeekFrom::Start(0)).and_then(|_| (&self.claim).read_to_string(&mut noted)).context("could not read a claim")?;
        for folder in noted.lines() {
            // Processes that were killed just now may still write there.
            patiently(|| remove_tree(Path::new(folder))).with_context(|| format!("could not remove {folder}"))?;
        }
        self.claim.set_len(0).context("could not empty a claim")
    }
}

/// Makes the folder of claims. What stands there is deleted by root: nobody else may write it.
fn make_own(dir: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("could not make {}", dir.display()));
        }
        _ => {}
    }
    let (found, own) = (fs::symlink_metadata(dir).context("could not look at the claims")?, fs::metadata("/proc/self")?);
    ensure!(found.is_dir() && found.uid() == own.uid() && found.mode() & 0o002 == 0, "{} is not a folder of ours alone", dir.display());
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The next claim cleans what could not be removed now.
        if let Err(error) = self.clean() {
            eprintln!("could not remove {}: {error:#}", self.name());
        }
    }
}

fn try_claim(path: &Path) -> anyhow::Result<Option<File>> {
    let claim = File::options().create(true).read(true).append(true).open(path);
    let claim = claim.with_context(|| format!("could not open {}", path.display()))?;
    match claim.try_lock() {
        Ok(()) => Ok(Some(claim)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("could not lock a network"),
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().context("could not run ip; install iproute2")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
