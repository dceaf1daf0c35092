//! The network of one bed: a bridge, addresses of the machines on it, and all that has a name on the real machine.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use super::cgroup::{self, patiently};

/// How many machines a network holds.
pub const MACHINES: u8 = 4;

/// How many networks a machine holds: several beds run side by side.
const NETWORKS: u8 = 32;

/// The file beside the claims that is locked while somebody looks for a network and cleans those that nobody has.
const SWEEP: &str = "sweep";

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
        let (number, claim) = sweep(&dir, clean)?.with_context(|| format!("all {NETWORKS} networks are taken"))?;
        let network = Self { number, claim };
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
        cgroup(self.number, i)
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
        note(&self.claim, folder).with_context(|| format!("could not note {}", folder.display()))
    }

    /// How the names of all that it has on the real machine begin. That of the bridge is no longer.
    pub fn name(&self) -> String {
        name(self.number)
    }
}

fn name(number: u8) -> String {
    // With an end, so that no network's names begin as another's do.
    format!("vcbed{number}-")
}

fn cgroup(number: u8, i: u8) -> String {
    format!("{}m{i}", name(number))
}

/// Claims every network that nobody has, cleans it, and gives the first that is clean. One that is not is left out.
///
/// Whoever claims waits for a sweep that runs: else it could remove a folder of a run that was killed while the same bed, started again, fills it.
fn sweep(dir: &Path, clean: impl Fn(u8, &File) -> anyhow::Result<()>) -> anyhow::Result<Option<(u8, File)>> {
    let alone = open(&dir.join(SWEEP))?;
    alone.lock().context("could not wait for a sweep of the networks")?;
    let mut claimed = None;
    for number in 0..NETWORKS {
        let Some(claim) = try_claim(&dir.join(number.to_string()))? else { continue };
        match clean(number, &claim) {
            // The others are let go of, clean.
            Ok(()) => {
                claimed.get_or_insert((number, claim));
            }
            Err(error) => eprintln!("could not remove {}: {error:#}", name(number)),
        }
    }
    Ok(claimed)
}

/// Removes everything that has a name of a network, and the folders that were noted; routes go with the bridge.
fn clean(number: u8, claim: &File) -> anyhow::Result<()> {
    let named = remove_named(number);
    for folder in noted(claim)? {
        // Processes that were killed just now may still write there. What then is left is for the bed of that name, which empties its folder
        // when it is started again: a note that outlives the sweep would have the next one remove what that bed runs on.
        if let Err(error) = patiently(|| remove_tree(&folder)) {
            eprintln!("could not remove {}: {error}", folder.display());
        }
    }
    claim.set_len(0).context("could not empty a claim")?;
    named
}

fn remove_named(number: u8) -> anyhow::Result<()> {
    let links = (0..MACHINES).map(|i| format!("{}v{i}", name(number))).chain([name(number)]);
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
    (0..MACHINES).try_for_each(|i| cgroup::remove(&cgroup(number, i)))
}

/// Notes a folder, one a line.
fn note(mut claim: &File, folder: &Path) -> anyhow::Result<()> {
    let text = folder.to_str().filter(|text| folder.is_absolute() && !text.contains('\n'));
    let text = text.context("it is not the absolute path of a folder, in one line")?;
    claim.write_all(format!("{text}\n").as_bytes()).context("could not write a claim")
}

/// The folders that were noted. A line without an end was not written to its end.
fn noted(mut claim: &File) -> anyhow::Result<Vec<PathBuf>> {
    let mut noted = String::new();
    claim.seek(SeekFrom::Start(0)).and_then(|_| claim.read_to_string(&mut noted)).context("could not read a claim")?;
    Ok(noted.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(PathBuf::from).collect())
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
    ensure!(found.is_dir() && found.uid() == own.uid() && found.mode() & 0o022 == 0, "{} is not a folder of ours alone", dir.display());
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
        // The next claim removes the links and control groups that could not be removed now.
        if let Err(error) = clean(self.number, &self.claim) {
            eprintln!("could not remove {}: {error:#}", self.name());
        }
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let file = File::options().create(true).read(true).append(true).open(path);
    file.with_context(|| format!("could not open {}", path.display()))
}

fn try_claim(path: &Path) -> anyhow::Result<Option<File>> {
    let claim = open(path)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nobody_else_sweeps_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let clean = |_, _: &File| {
            let other = open(&dir.path().join(SWEEP)).unwrap();
            ensure!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)), "another may begin");
            Ok(())
        };
        assert_eq!(sweep(dir.path(), clean).unwrap().unwrap().0, 0);
        open(&dir.path().join(SWEEP)).unwrap().try_lock().unwrap();
    }

    #[test]
    fn a_network_that_cannot_be_cleaned_stops_no_claim_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let odd = |number, _: &File| {
            ensure!(number % 2 == 1, "busy");
            Ok(())
        };
        let held = sweep(dir.path(), odd).unwrap().unwrap();
        assert_eq!(held.0, 1);
        assert_eq!(sweep(dir.path(), odd).unwrap().unwrap().0, 3);
        assert!(sweep(dir.path(), |_, _| bail!("busy")).unwrap().is_none());
    }

    #[test]
    fn only_whole_absolute_paths_are_noted() {
        let claim = tempfile::tempfile().unwrap();
        for folder in ["lib", "/beds/x\n/beds", ""] {
            assert!(note(&claim, Path::new(folder)).is_err(), "{folder:?}");
        }
        note(&claim, Path::new("/beds/x/lib")).unwrap();
        (&claim).write_all(b"/beds").unwrap();
        assert_eq!(noted(&claim).unwrap(), [Path::new("/beds/x/lib")]);
    }

    #[test]
    fn claims_lie_where_nobody_else_writes() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("claims");
        make_own(&claims).unwrap();
        for (mode, is_ours) in [(0o755, true), (0o775, false), (0o757, false)] {
            fs::set_permissions(&claims, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(make_own(&claims).is_ok(), is_ours, "{mode:o}");
        }
    }
}
