//! Control groups of machines, in every hierarchy of version 1 or the one of version 2.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

const ROOT: &str = "/sys/fs/cgroup";

/// How long processes may take to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a group at the top of each hierarchy, ready for groups below it.
pub(super) fn make(name: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        fs::create_dir_all(&group).with_context(|| format!("could not make {}", group.display()))?;
        // Version 1: a group without processors and memory nodes takes no processes, and does not inherit them.
        for file in ["cpuset.cpus", "cpuset.mems"].map(|file| (hierarchy.join(file), group.join(file))) {
            if hierarchy.ends_with("cpuset") {
                let given = fs::read_to_string(&file.0).with_context(|| format!("could not read {}", file.0.display()))?;
                fs::write(&file.1, given).with_context(|| format!("could not write {}", file.1.display()))?;
            }
        }
        // Version 2: controllers are handed down level by level.
        if hierarchy == Path::new(ROOT) {
            hand_down(&hierarchy)?;
        }
    }
    Ok(())
}

/// Removes a group and all below it, as soon as the processes in them are gone; nothing if it is not there.
pub(super) fn remove(name: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        patiently(|| remove_tree(&group)).with_context(|| format!("could not remove {}", group.display()))?;
    }
    Ok(())
}

/// Tries until it succeeds or the processes that keep it from that must have ended.
pub(super) fn patiently(mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let (mut waited, pause) = (Duration::ZERO, Duration::from_millis(20));
    while let Err(error) = work() {
        if waited >= PATIENCE {
            return Err(error);
        }
        std::thread::sleep(pause);
        waited += pause;
    }
    Ok(())
}

fn hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    if Path::new(ROOT).join("cgroup.procs").exists() {
        return Ok(vec![ROOT.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(ROOT).with_context(|| format!("could not read {ROOT}"))? {
        let entry = entry?;
        // Some names are links to a hierarchy of several controllers.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn hand_down(hierarchy: &Path) -> anyhow::Result<()> {
    let controllers = fs::read_to_string(hierarchy.join("cgroup.controllers")).context("could not read the controllers")?;
    let wanted: Vec<_> = controllers.split_whitespace().map(|controller| format!("+{controller}")).collect();
    fs::write(hierarchy.join("cgroup.subtree_control"), wanted.join(" ")).context("could not hand controllers down")
}

fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
