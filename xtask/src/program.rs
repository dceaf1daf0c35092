//! Builds the programs that demo, bench and image show, measure and pack.

use std::{path::PathBuf, process::ExitStatus};

use anyhow::{Context as _, ensure};
use e2e::{
    env, errand,
    shipped::{self, Shipped},
};

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
    if how == Build::Static {
        // What is shipped has nothing in it that only tests need.
        cargo.args(shipped::ALL.iter().flat_map(|one| ["--package", one.package]));
    }
    if how != Build::Debug {
        cargo.arg("--release");
    }
    if how == Build::Static {
        // With an explicit `--target` the flags are not applied to build scripts and macros, which cannot be static.
        let remapped = format!("--remap-path-prefix={}=/src", env::workspace().display());
        cargo.args(["--target", &triple()]).env("CARGO_ENCODED_RUSTFLAGS", format!("-Ctarget-feature=+crt-static\x1f{remapped}"));
    }
    let ended = errand::run(cargo).await.context("could not run cargo")?;
    judged(what, ended.status)?;
    // Cargo builds into the folder that we lie in, whatever it is called; `debug` is ours.
    let own = env::build_dir()?;
    Ok(own.parent().unwrap_or(&own).join(folder).join(name))
}

/// What cargo's end means. It has said the rest itself.
fn judged(what: &Shipped, status: ExitStatus) -> anyhow::Result<()> {
    let (name, variable) = (what.program, what.variable);
    ensure!(
        status.success(),
        "{name} could not be built: cargo ended with {status}; its reason stands above. Mend that and run this again, or name a {name} that \
         was built elsewhere in {variable}"
    );
    Ok(())
}

/// The kind of machine that this runs on, as compilers call it.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_program_that_is_not_built_is_told_with_how_cargo_ended_and_what_to_do() {
        assert!(judged(&e2e::shipped::SYNCER, ExitStatus::from_raw(0)).is_ok());
        let said = judged(&e2e::shipped::SYNCER, ExitStatus::from_raw(101 << 8)).unwrap_err().to_string();
        assert!(said.starts_with("vc-syncer could not be built: cargo ended with exit status: 101; its reason stands above."), "{said}");
        assert!(said.ends_with("name a vc-syncer that was built elsewhere in VC_SYNCER"), "{said}");
    }
}
