//! Builds the programs that demo, bench and image show, measure and pack.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use e2e::{env, errand, shipped::Shipped};

/// How to build it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// As `cargo build` does, and as the tests have it.
    Debug,
    /// With optimizations.
    Release,
    /// With optimizations and linked statically: glibc's resolver needs no files of its own since 2.34.
    Static,
}

/// Builds a program, or takes the one that its variable names where it need not be static; says so first, since it may take minutes.
pub(crate) async fn build(what: &Shipped, how: Build) -> anyhow::Result<PathBuf> {
    let name = what.program;
    if how != Build::Static
        && let Some(given) = env::var(what.variable)
    {
        return Ok(given.into());
    }
    let (about, folder) = match how {
        Build::Debug => ("without optimizations, as `cargo build` does", "debug".to_owned()),
        Build::Release => ("with optimizations", "release".to_owned()),
        Build::Static => ("with optimizations and without libraries", format!("{}/release", triple())),
    };
    println!("Building {name} {about}; the first time takes minutes.");
    let mut cargo = errand::command(env::var("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    // By the program's name, not the package's: features are then those of the whole workspace, and no large crate is built twice.
    cargo.current_dir(env::workspace()).args(["build", "--locked", "--bin", name]);
    if how != Build::Debug {
        cargo.arg("--release");
    }
    if how == Build::Static {
        // With an explicit `--target` the flags are not applied to build scripts and macros, which cannot be static.
        let remapped = format!("--remap-path-prefix={}=/src", env::workspace().display());
        cargo.args(["--target", &triple()]).env("CARGO_ENCODED_RUSTFLAGS", format!("-Ctarget-feature=+crt-static\x1f{remapped}"));
    }
    let ended = errand::run(cargo).await.context("could not run cargo")?;
    ensure!(ended.status.success(), "{name} could not be built");
    // Cargo builds into the folder that we lie in, whatever it is called; `debug` is ours.
    let own = env::build_dir()?;
    Ok(own.parent().unwrap_or(&own).join(folder).join(name))
}

/// The kind of machine that this runs on, as compilers call it.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
