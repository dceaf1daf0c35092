//! `cargo xtask test`: every check and every test, one step after the other.

use clap::Args;

/// How to run the tests.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only these steps.
    #[arg(long)]
    only: Vec<String>,
}

/// Runs all steps.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::bail!("not built yet: {options:?}")
}
