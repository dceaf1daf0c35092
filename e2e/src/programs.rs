//! Where the Kubernetes programs are: found, or built once from the Go module proxy.

use std::{
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

use crate::{env, errand};

/// The version that the module under `e2e/kubernetes` asks for; the servers call themselves so.
pub const KUBERNETES: (u32, u32, u32) = (1, 37, 2);

/// One program, its Go package, and how long it took to build, in this order, on 2 cores with an empty cache.
struct Program {
    name: &'static str,
    package: &'static str,
    took: Duration,
}

const PROGRAMS: [Program; 5] = [
    Program { name: "etcd", package: "go.etcd.io/etcd/server/v3", took: Duration::from_secs(45) },
    Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver", took: Duration::from_secs(280) },
    Program { name: "kube-controller-manager", package: "k8s.io/kubernetes/cmd/kube-controller-manager", took: Duration::from_secs(105) },
    Program { name: "kube-scheduler", package: "k8s.io/kubernetes/cmd/kube-scheduler", took: Duration::from_secs(12) },
    Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl", took: Duration::from_secs(25) },
];

/// The programs' files.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Finds the programs, or builds them into our cache.
    ///
    /// Looks into `$VIRTUALCLUSTER_ASSETS` (which must be complete if set), `$KUBEBUILDER_ASSETS` (which often lacks the
    /// controllers, and then is passed over), and our cache.
    pub async fn locate_or_build(progress: &MultiProgress) -> anyhow::Result<Self> {
        match Self::locate()? {
            Some(programs) => Ok(programs),
            None => Self::build(progress).await,
        }
    }

    /// Finds the programs; `None` if they must be built.
    pub fn locate() -> anyhow::Result<Option<Self>> {
        if let Some(dir) = env::var("VIRTUALCLUSTER_ASSETS").map(PathBuf::from) {
            if let Some(name) = first_missing(&dir) {
                bail!("VIRTUALCLUSTER_ASSETS is {}, and {name} is not there", dir.display());
            }
            return Ok(Some(Self { dir }));
        }
        let kubebuilder = env::var("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let candidates = kubebuilder.into_iter().chain([cache()?]);
        Ok(candidates.into_iter().find(|dir| first_missing(dir).is_none()).map(|dir| Self { dir }))
    }

    /// The folder that holds them.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// etcd.
    pub fn etcd(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    /// kube-apiserver.
    pub fn kube_apiserver(&self) -> PathBuf {
        self.dir.join("kube-apiserver")
    }

    /// kube-controller-manager.
    pub fn kube_controller_manager(&self) -> PathBuf {
        self.dir.join("kube-controller-manager")
    }

    /// kube-scheduler.
    pub fn kube_scheduler(&self) -> PathBuf {
        self.dir.join("kube-scheduler")
    }

    /// kubectl.
    pub fn kubectl(&self) -> PathBuf {
        self.dir.join("kubectl")
    }

    async fn build(progress: &MultiProgress) -> anyhow::Result<Self> {
        let go = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !go.is_ok_and(|status| status.success()) {
            bail!(
                "no Kubernetes programs and no Go to build them with: install Go {} or newer (https://go.dev/dl), \
                 or set VIRTUALCLUSTER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl",
                go_version()?
            );
        }
        let dir = cache()?;
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        let minutes = PROGRAMS.iter().map(|program| program.took).sum::<Duration>().as_secs().div_ceil(60);
        let where_to = dir.display();
        let text =
            format!("Building the Kubernetes programs from the Go module proxy into {where_to}, once: {minutes} minutes on 2 cores.");
        note(&text, progress);
        let bars: Vec<_> = PROGRAMS.iter().map(|program| (program, progress.add(waiting_bar(program)))).collect();
        let _alone = lock(dir.join(".lock")).await?;
        for (program, bar) in bars {
            build_one(program, &dir, &bar).await?;
            note(&format!("{}: {} after {} s", program.name, bar.message(), bar.elapsed().as_secs()), progress);
        }
        Ok(Self { dir })
    }
}

/// Waits until no other process builds into the same folder: what it built is then already there.
async fn lock(path: PathBuf) -> anyhow::Result<File> {
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::create(path)?;
        file.lock()?;
        std::io::Result::Ok(file)
    });
    locked.await?.context("could not lock the cache of the Kubernetes programs")
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

fn first_missing(dir: &Path) -> Option<&'static str> {
    PROGRAMS.iter().map(|program| program.name).find(|name| !dir.join(name).is_file())
}

fn module() -> PathBuf {
    env::workspace().join("e2e/kubernetes")
}

/// The version of Go that the module asks for, as people name it: `1.26`.
fn go_version() -> anyhow::Result<String> {
    let path = module().join("go.mod");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let version = text.lines().find_map(|line| line.strip_prefix("go ")).with_context(|| format!("{} names no Go", path.display()))?;
    Ok(version.trim().split('.').take(2).collect::<Vec<_>>().join("."))
}

/// Our cache of the programs that exactly this module builds.
fn cache() -> anyhow::Result<PathBuf> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum"] {
        let path = module().join(file);
        hash.update(std::fs::read(&path).with_context(|| format!("could not read {}", path.display()))?);
    }
    let mut name = "kubernetes-".to_owned();
    for byte in hash.finalize().iter().take(6) {
        write!(name, "{byte:02x}")?;
    }
    Ok(env::cache_dir()?.join(name))
}

fn waiting_bar(program: &Program) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {prefix:24} {elapsed_precise} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_prefix(program.name);
    bar.set_message("waiting");
    bar
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
    let unfinished = dir.join(format!(".{}.{}", program.name, std::process::id()));
    let mut go = errand::command("go");
    go.current_dir(module())
        .env("CGO_ENABLED", "0")
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags", &linker_flags(), "-o"])
        .arg(&unfinished)
        .arg(program.package)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = errand::run(go).await.context("could not run go")?;
    if !output.status.success() {
        bar.abandon_with_message("failed");
        bail!("could not build {}:\n{}", program.name, String::from_utf8_lossy(&output.stderr));
    }
    std::fs::rename(&unfinished, &target).with_context(|| format!("could not put {} in place", target.display()))?;
    bar.finish_with_message("built");
    Ok(())
}

/// Without the version, the servers call themselves v0.0.0 and clients refuse them.
fn linker_flags() -> String {
    let (major, minor, patch) = KUBERNETES;
    let version = "k8s.io/component-base/version";
    format!("-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_the_go_that_is_needed() {
        let readme = std::fs::read_to_string(env::workspace().join("README.md")).unwrap();
        let named = format!("[Go](https://go.dev/dl) {}", go_version().unwrap());
        assert!(readme.contains(&named), "README.md does not say {named:?}");
    }
}
