//! Programs that the tasks need beside the toolchain: pinned, built once from their released sources, cached outside the tree.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

/// A program from the crate registry.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Its crate and its binary.
    name: &'static str,
    /// The exact version; its own lock file decides the rest.
    version: &'static str,
    /// What `cargo install` is told beside name and version.
    args: &'static [&'static str],
    /// How long it took to build on 2 cores, in seconds.
    took_seconds: u64,
}

/// Runs tests, each in a process of its own. Without its self-update, which would bring a TLS stack along.
pub(crate) const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.151",
    args: &["--no-default-features", "--features", "default-no-update"],
    took_seconds: 210,
};

/// Checks dependencies against `deny.toml`.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", args: &[], took_seconds: 90 };

/// Builds fuzz targets with coverage and runs them.
pub(crate) const FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2", args: &[], took_seconds: 40 };

impl Tool {
    /// The program, built first if it is not in the cache.
    pub(crate) fn ensure(&self) -> anyhow::Result<PathBuf> {
        let folder = e2e::env::cache_dir()?.join("tools").join(format!("{}-{}", self.name, self.version));
        let program = folder.join("bin").join(self.name);
        if !program.is_file() {
            self.install(&folder)?;
        }
        Ok(program)
    }

    /// Builds without optimization, which takes a third of the time; the tools wait for other programs anyway.
    fn install(&self, folder: &PathBuf) -> anyhow::Result<()> {
        println!("    building {} {} into {}, once: {} s on 2 cores", self.name, self.version, folder.display(), self.took_seconds);
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        let started = Instant::now();
        let status = Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--debug", "--version", self.version, self.name])
            .args(self.args)
            .arg("--root")
            .arg(folder)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "0")
            .current_dir(folder)
            .status()
            .context("could not run cargo")?;
        if !status.success() {
            bail!("could not build {} {} ({status})", self.name, self.version);
        }
        println!("    built in {} s", started.elapsed().as_secs());
        Ok(())
    }
}
