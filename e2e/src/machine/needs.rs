//! What real nodes need of a machine beside the toolchains, and what to tell whoever lacks it.

use std::{
    fmt,
    fs::read,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::bail;

use crate::{env, images::BUSYBOX, oci::needs_nothing, programs::NodePrograms};

/// Set where no real node may be left out, as in CI.
const REQUIRED: &str = "VIRTUALCLUSTER_REAL_NODES";

/// What a machine, its programs or its images are made with.
#[derive(Clone, Copy, Debug)]
struct Need {
    /// What it is called.
    name: &'static str,
    /// The Debian package that brings it.
    package: &'static str,
}

/// Whenever a node runs.
const TO_RUN: [Need; 3] = [
    Need { name: "ip", package: "iproute2" },
    Need { name: "iptables", package: "iptables" },
    Need { name: "a static busybox", package: "busybox-static" },
];

/// Where runc must be built.
const TO_BUILD: [Need; 3] = [
    Need { name: "gcc", package: "gcc" },
    Need { name: "pkg-config", package: "pkg-config" },
    Need { name: "libseccomp", package: "libseccomp-dev" },
];

/// Why no real node can run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// This process is not root's, or the system is not Linux.
    Root,
    /// Root may not make kernel namespaces here, as in most containers.
    Namespaces,
    /// Programs and libraries, and the packages that bring them.
    Programs(Vec<&'static str>, Vec<&'static str>),
}

impl Lacking {
    /// What is said once of what is left out, in place of running it.
    pub fn skipped(&self, what: &str) -> String {
        match self.install() {
            Some(install) => format!("skipped: {}: {what}; {install}", self.needs()),
            None => format!("skipped: {}: {what}", self.needs()),
        }
    }

    fn needs(&self) -> String {
        match self {
            Self::Root => "needs root".to_owned(),
            Self::Namespaces => "needs a root that may make kernel namespaces, which this one may not".to_owned(),
            Self::Programs(names, _) => format!("real nodes need {}", names.join(", ")),
        }
    }

    fn install(&self) -> Option<String> {
        match self {
            Self::Root | Self::Namespaces => None,
            Self::Programs(_, packages) => Some(format!("install: apt-get install {}", packages.join(" "))),
        }
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.install() {
            Some(install) => write!(out, "{}; {install}", self.needs()),
            None => write!(out, "{}; real nodes are made of kernel namespaces, a bridge and control groups", self.needs()),
        }
    }
}

/// Why no real node can run here; nothing where they can.
pub fn lacking() -> Option<Lacking> {
    let builds = || !NodePrograms::has_runc();
    judged(is_root(), may_unshare, builds, is_there)
}

/// Why real nodes are left out, if they are.
///
/// # Errors
/// Where they must not be, as in CI.
pub fn left_out() -> anyhow::Result<Option<Lacking>> {
    allowed(lacking(), env::var(REQUIRED).is_some())
}

fn allowed(lacking: Option<Lacking>, required: bool) -> anyhow::Result<Option<Lacking>> {
    match lacking {
        Some(lacking) if required => bail!("{REQUIRED} is set, and {lacking}"),
        lacking => Ok(lacking),
    }
}

fn judged(is_root: bool, may_unshare: impl Fn() -> bool, builds: impl Fn() -> bool, is_there: impl Fn(&str) -> bool) -> Option<Lacking> {
    if !is_root {
        return Some(Lacking::Root);
    }
    if !may_unshare() {
        return Some(Lacking::Namespaces);
    }
    let needs = TO_RUN.iter().chain(TO_BUILD.iter().filter(|_| builds()));
    let (names, packages): (Vec<_>, Vec<_>) = needs.filter(|need| !is_there(need.name)).map(|need| (need.name, need.package)).unzip();
    (!names.is_empty()).then_some(Lacking::Programs(names, packages))
}

fn is_root() -> bool {
    cfg!(target_os = "linux") && std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Where `unshare` itself is missing, whoever starts a machine says so.
fn may_unshare() -> bool {
    succeeds("unshare", &["--net", "--mount", "--pid", "--fork", "true"]).unwrap_or(true)
}

/// Whether a program ends well; nothing if it cannot be started.
fn succeeds(program: &str, args: &[&str]) -> Option<bool> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().ok().map(|status| status.success())
}

fn is_there(name: &str) -> bool {
    match name {
        "a static busybox" => read(BUSYBOX).is_ok_and(|program| needs_nothing(&program).is_ok()),
        "libseccomp" => succeeds("pkg-config", &["--exists", "libseccomp"]).unwrap_or(false),
        program => found(program).is_some(),
    }
}

/// The program of that name, where a shell finds it.
fn found(program: &str) -> Option<PathBuf> {
    found_in(&env::var("PATH")?, program)
}

fn found_in(path: &str, program: &str) -> Option<PathBuf> {
    let runs = |file: &PathBuf| file.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0);
    path.split(':').map(|folder| Path::new(folder).join(program)).find(runs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn root_alone_is_asked_for_where_it_is_missing() {
        let lacking = judged(false, || true, || true, |_| false).unwrap();
        assert_eq!(lacking.skipped("12 tests"), "skipped: needs root: 12 tests");
        assert!(lacking.to_string().starts_with("needs root; real nodes are made of kernel namespaces"), "{lacking}");
    }

    #[test]
    fn a_root_without_rights_is_not_told_to_be_root() {
        let lacking = judged(true, || false, || true, |_| false).unwrap();
        let expected = "skipped: needs a root that may make kernel namespaces, which this one may not: 12 tests";
        assert_eq!(lacking.skipped("12 tests"), expected);
    }

    #[test]
    fn root_without_a_program_is_told_what_to_install() {
        let lacking = judged(true, || true, || false, |name| name == "ip").unwrap();
        let expected = "skipped: real nodes need iptables, a static busybox: 12 tests; install: apt-get install iptables busybox-static";
        assert_eq!(lacking.skipped("12 tests"), expected);
        assert_eq!(lacking.to_string(), "real nodes need iptables, a static busybox; install: apt-get install iptables busybox-static");
    }

    #[test]
    fn a_compiler_is_asked_for_where_runc_must_be_built() {
        let runs = |name: &str| TO_RUN.iter().any(|need| need.name == name);
        assert_eq!(judged(true, || true, || false, runs), None);
        let lacking = judged(true, || true, || true, runs).unwrap();
        assert_eq!(lacking, Lacking::Programs(vec!["gcc", "pkg-config", "libseccomp"], vec!["gcc", "pkg-config", "libseccomp-dev"]));
    }

    #[test]
    fn what_is_not_on_the_path_is_not_there() {
        assert!(is_there("sh") && !is_there("no-such-program"));
    }

    #[test]
    fn a_file_that_nobody_may_run_is_no_program() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = format!("{}:{}", first.path().display(), second.path().display());
        for (folder, mode) in [(&first, 0o644), (&second, 0o755)] {
            let file = folder.path().join("ip");
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(found_in(&path, "ip"), Some(second.path().join("ip")));
    }

    #[test]
    fn real_nodes_are_left_out_unless_they_must_not_be() {
        let lacking = Some(Lacking::Programs(vec!["ip"], vec!["iproute2"]));
        assert_eq!(allowed(lacking.clone(), false).unwrap(), lacking);
        assert_eq!(allowed(None, true).unwrap(), None);
        let error = allowed(lacking, true).unwrap_err().to_string();
        assert_eq!(error, "VIRTUALCLUSTER_REAL_NODES is set, and real nodes need ip; install: apt-get install iproute2");
    }
}
