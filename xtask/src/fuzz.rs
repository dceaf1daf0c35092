//! `cargo xtask fuzz`: the fuzz targets of vn-agent, each for a bounded time, from the corpus that is kept.
//!
//! The compiler is the pinned stable one: coverage is a matter of its backend. What is looked for are broken laws, panics, hangs and too much memory; the
//! sanitizers need another compiler, and there is no `unsafe` of ours to watch. What is found goes to `target/fuzz`; who keeps it copies it to `vn-agent/fuzz/corpus`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::{root, tool};

/// What to fuzz.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Targets; all of them if none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each runs, in seconds, once it is built.
    #[arg(long, default_value_t = 60, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// The most that a target may hold, in MiB. The filters hold one element of a page at a time.
const MOST_MEMORY: u64 = 1024;

/// Runs the targets one after the other; fails at the first that breaks a law, hangs or takes too much memory.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let folder = root().join("vn-agent/fuzz");
    let known = names(&folder.join("fuzz_targets"))?;
    let unknown: Vec<_> = options.targets.iter().filter(|name| !known.contains(name)).collect();
    ensure!(unknown.is_empty(), "there is no fuzz target {unknown:?}; there are {}", known.join(", "));
    let program = tool::FUZZ.ensure()?;
    for target in known.iter().filter(|name| options.targets.is_empty() || options.targets.contains(name)) {
        println!("==> {target}: {} s", options.seconds);
        let out = root().join("target/fuzz");
        let (found, artifacts) = (out.join("corpus").join(target), out.join("artifacts").join(target));
        for path in [&found, &artifacts] {
            std::fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))?;
        }
        let status = Command::new(&program)
            .args(["fuzz", "run", "--dev", "--sanitizer", "none", "--fuzz-dir"])
            .arg(&folder)
            .arg("--target-dir")
            .arg(&out)
            .arg(target)
            // What is new goes to the first.
            .args([&found, &folder.join("corpus").join(target)])
            .arg("--")
            .args([format!("-max_total_time={}", options.seconds), format!("-rss_limit_mb={MOST_MEMORY}")])
            .args(["-timeout=10".to_owned(), "-print_final_stats=1".to_owned(), format!("-artifact_prefix={}/", artifacts.display())])
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(root())
            .status()
            .context("could not run cargo-fuzz")?;
        if !status.success() {
            bail!("{target} broke a law or ran out of bounds ({status}); what it was given lies in {}", artifacts.display());
        }
    }
    Ok(())
}

/// The targets, by the names of their files.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
