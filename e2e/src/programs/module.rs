//! Building programs from Go modules of ours that hold no source: only versions, their hashes, and which tools are meant.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::{KUBERNETES, KUBERNETES_OLDER, Version};
use crate::{env, errand};

/// A Go module under `e2e/`. Programs whose requirements clash stand in modules of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its folder under `e2e/`.
    name: &'static str,
    /// The version of Kubernetes that its programs tell by flags of the linker, if they do.
    kubernetes: Option<Version>,
    /// Whether it needs a C compiler and libseccomp.
    seccomp: bool,
}

/// etcd, the servers of Kubernetes, kubelet and kube-proxy.
pub(super) const KUBERNETES_MODULE: Module = Module { name: "kubernetes", kubernetes: Some(KUBERNETES), seccomp: false };
/// The servers of Kubernetes one minor version earlier, and nothing else.
pub(super) const KUBERNETES_OLDER_MODULE: Module = Module { name: "kubernetes-older", kubernetes: Some(KUBERNETES_OLDER), seccomp: false };
/// containerd and the network plugins.
pub(super) const CONTAINERD: Module = Module { name: "containerd", kubernetes: None, seccomp: false };
/// runc.
pub(super) const RUNC: Module = Module { name: "runc", kubernetes: None, seccomp: true };
/// `CoreDNS`.
pub(super) const COREDNS: Module = Module { name: "coredns", kubernetes: None, seccomp: false };
/// Kubernetes' own end-to-end tests, what runs them, and what runs in their Pods.
pub(super) const CONFORMANCE_MODULE: Module = Module { name: "conformance", kubernetes: Some(KUBERNETES), seccomp: false };
/// local-path-provisioner, which makes volumes of folders of a node.
pub(super) const LOCAL_PATH_PROVISIONER: Module = Module { name: "local-path-provisioner", kubernetes: None, seccomp: false };
/// metrics-server.
pub(super) const METRICS_SERVER: Module = Module { name: "metrics-server", kubernetes: None, seccomp: false };

/// One program, its Go package, and how long it took to build, in the order of its list, on 2 cores with an empty cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) module: &'static Module,
    pub(super) package: &'static str,
    pub(super) took: Duration,
    /// Whether it is the package's tests, as a program.
    pub(super) tests: bool,
}

impl Module {
    fn dir(&self) -> PathBuf {
        env::workspace().join("e2e").join(self.name)
    }

    /// Our cache of the programs that exactly this module builds.
    pub(super) fn cache(&self) -> anyhow::Result<PathBuf> {
        let mut hash = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.dir().join(file);
            hash.update(std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?);
        }
        let mut name = format!("{}-", self.name);
        for byte in hash.finalize().iter().take(6) {
            write!(name, "{byte:02x}")?;
        }
        Ok(env::cache_dir()?.join(name))
    }

    /// Without the version, the servers of Kubernetes call themselves v0.0.0 and clients refuse them.
    fn linker_flags(&self) -> String {
        let Some((major, minor, patch)) = self.kubernetes else { return "-s -w".to_owned() };
        let version = "k8s.io/component-base/version";
        format!("-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}")
    }
}

/// The version of Go that Kubernetes asks for, as people name it: `1.26`.
fn go_version() -> anyhow::Result<String> {
    let path = KUBERNETES_MODULE.dir().join("go.mod");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("go ")).with_context(|| format!("{} names no Go", path.display()))?;
    Ok(version.trim().split('.').take(2).collect::<Vec<_>>().join("."))
}

/// Builds what is missing of a set of programs, each into its module's cache.
pub(super) async fn build(what: &str, set: &[Program], progress: &MultiProgress) -> anyhow::Result<()> {
    if !succeeds("go", &["version"]).await {
        let names: Vec<_> = set.iter().map(|program| program.name).collect();
        bail!(
            "{what} are missing, and there is no Go to build them with: install Go {} or newer (https://go.dev/dl), \
             or set VIRTUALCLUSTER_ASSETS to a folder with {}",
            go_version()?,
            names.join(", ")
        );
    }
    if set.iter().any(|program| program.module.seccomp) && !succeeds("pkg-config", &["--exists", "libseccomp"]).await {
        bail!("runc is built with a C compiler and libseccomp: install gcc, pkg-config and libseccomp-dev");
    }
    let minutes = set.iter().map(|program| program.took).sum::<Duration>().as_secs().div_ceil(60);
    let cache = env::cache_dir()?;
    let text = format!("Building {what} from the Go module proxy into {}, once: {minutes} minutes on 2 cores.", cache.display());
    note(&text, progress);
    let bars: Vec<_> = set.iter().map(|program| (program, progress.add(waiting_bar(program)))).collect();
    let mut locks = Vec::new();
    // In one order everywhere, so that two processes never wait for each other.
    for dir in set.iter().map(|program| program.module.cache()).collect::<anyhow::Result<BTreeSet<_>>>()? {
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        locks.push(lock(dir.join(".lock")).await?);
    }
    for (program, bar) in bars {
        build_one(program, &program.module.cache()?, &bar).await?;
        note(&format!("{}: {} after {} s", program.name, bar.message(), bar.elapsed().as_secs()), progress);
    }
    Ok(())
}

async fn succeeds(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    status.is_ok_and(|status| status.success())
}

/// Waits until no other process builds into the same folder: what it built is then already there.
async fn lock(path: PathBuf) -> anyhow::Result<File> {
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::create(path)?;
        file.lock()?;
        std::io::Result::Ok(file)
    });
    locked.await?.context("could not lock the cache of programs")
}

/// Says something above the bars, or where there is no terminal, in their place.
fn note(text: &str, progress: &MultiProgress) {
    if progress.is_hidden() {
        eprintln!("{text}");
    } else {
        // A terminal that can't be written to misses a remark.
        let _ = progress.println(text);
    }
}

fn waiting_bar(program: &Program) -> ProgressBar {
    let bar = ProgressBar::new(1);
    let style = ProgressStyle::with_template("{spinner} {prefix:24} {bar:30} {elapsed_precise} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(program.name);
    bar.set_message("waiting");
    bar
}

impl Program {
    /// `go` with these words, for this program's module and with its settings.
    fn go(&self, words: &[&str]) -> Command {
        let seccomp = self.module.seccomp;
        let mut go = errand::command("go");
        go.current_dir(self.module.dir())
            .env("CGO_ENABLED", if seccomp { "1" } else { "0" })
            .args(words)
            .args(["-mod=readonly", "-trimpath"])
            .args(seccomp.then_some("-tags=seccomp"));
        go
    }

    /// How many packages are not in Go's cache, if it can say. What is wrong with a module, its build says.
    async fn packages_to_build(&self) -> Option<u64> {
        let mut go = self.go(if self.tests { &["list", "-deps", "-test"] } else { &["list", "-deps"] });
        go.args(["-f", "{{if .Stale}}{{.ImportPath}}{{end}}"]).arg(self.package).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = errand::run(go).await.ok().filter(|output| output.status.success())?;
        u64::try_from(String::from_utf8_lossy(&output.stdout).lines().count()).ok().filter(|count| *count > 0)
    }
}

/// Whether a line that `go build -v` says names a package, as it does before it builds it; else it says what went wrong.
fn is_package(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#') && !line.contains([' ', ':', '\t'])
}

/// Builds one program beside its place and moves it there, so that a half-written one is never found.
async fn build_one(program: &Program, dir: &Path, bar: &ProgressBar) -> anyhow::Result<()> {
    let target = dir.join(program.name);
    if target.is_file() {
        bar.finish_with_message("already there");
        return Ok(());
    }
    bar.reset_elapsed();
    bar.set_message(format!("building (elsewhere: {} s)", program.took.as_secs()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.set_length(program.packages_to_build().await.unwrap_or(1));
    let unfinished = dir.join(format!(".{}.{}", program.name, std::process::id()));
    let mut go = program.go(if program.tests { &["test", "-c", "-v"] } else { &["build", "-v"] });
    go.args(["-ldflags", &program.module.linker_flags(), "-o"]).arg(&unfinished).arg(program.package).stdout(Stdio::null());
    let mut said = Vec::new();
    let status = errand::run_told(go, |line| if is_package(&line) { bar.inc(1) } else { said.push(line) });
    if !status.await.context("could not run go")?.success() {
        bar.abandon_with_message("failed");
        bail!("could not build {}:\n{}", program.name, said.join("\n"));
    }
    std::fs::rename(&unfinished, &target).with_context(|| format!("could not put {} in place", target.display()))?;
    bar.finish_with_message("built");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_from_what_went_wrong() {
        for package in ["internal/abi", "k8s.io/api/core/v1", "go.etcd.io/etcd/server/v3", "fmt"] {
            assert!(is_package(package), "{package}");
        }
        for other in ["", "# k8s.io/api/core/v1", "x.go:3:1: undefined: y", "go: downloading k8s.io/api v0.37.2", "\tgo get x"] {
            assert!(!is_package(other), "{other}");
        }
    }

    #[test]
    fn a_module_builds_the_version_that_its_programs_tell() {
        for module in [KUBERNETES_MODULE, KUBERNETES_OLDER_MODULE, CONFORMANCE_MODULE] {
            let text = std::fs::read_to_string(module.dir().join("go.mod")).unwrap();
            let (major, minor, patch) = module.kubernetes.unwrap();
            assert!(text.contains(&format!("\tk8s.io/kubernetes v{major}.{minor}.{patch} ")), "{}", module.name);
            assert!(text.contains(&format!("\tk8s.io/api => k8s.io/api v0.{minor}.{patch}\n")), "{}", module.name);
        }
    }

    #[test]
    fn the_readme_names_the_go_that_is_needed() {
        let readme = std::fs::read_to_string(env::workspace().join("README.md")).unwrap();
        let named = format!("[Go](https://go.dev/dl) {}", go_version().unwrap());
        assert!(readme.contains(&named), "README.md does not say {named:?}");
    }
}
