//! The one place where the test bed reads the environment.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Names the minor version of every bed's super cluster, `1.37` or `1.36`; the former if it is not set.
pub const SUPER_RELEASE: &str = "VIRTUALCLUSTER_SUPER";

/// Names the minor version of every bed's tenants, in the same way.
pub const TENANT_RELEASE: &str = "VIRTUALCLUSTER_TENANTS";

/// Names a folder with `vc-syncer` and the `manifests/` of an earlier commit, which `cargo xtask upgrade` makes.
pub const EARLIER: &str = "VIRTUALCLUSTER_EARLIER";

/// The value of an environment variable, if it is set, not empty, and text.
#[expect(clippy::disallowed_methods, reason = "tests have no command line; this is the one place")]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder for things that outlive a checkout: `virtualcluster` under `$XDG_CACHE_HOME` or `~/.cache`.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let base = match var("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(var("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    Ok(base.join("virtualcluster"))
}

/// The root of this workspace.
pub fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The folder that cargo builds into: where the running program lies, without `deps`.
pub fn build_dir() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("could not find the running program")?;
    let dir = own.parent().context("the running program has no folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}

/// A program of ours: what the environment names, or what cargo built beside the running program.
pub fn program(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = var(variable) {
        return Ok(path.into());
    }
    let path = build_dir()?.join(name);
    anyhow::ensure!(path.is_file(), "{} is missing; build it with `cargo build --workspace --bins`", path.display());
    Ok(path)
}
