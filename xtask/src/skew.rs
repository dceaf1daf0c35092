//! `cargo xtask skew`: end-to-end tests where the super cluster is one minor version newer than the tenants, and the other way round.

use clap::Args;
use e2e::env::{SUPER_RELEASE, TENANT_RELEASE};
use e2e::left_out;
use e2e::programs::{Programs, Release};
use indicatif::MultiProgress;

use crate::test::{self, Failure, Step, Tests};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only with tenants of the older version.
    #[arg(long)]
    super_newer: bool,
    /// Only with a super cluster of the older version.
    #[arg(long, conflicts_with = "super_newer")]
    tenant_newer: bool,
    /// Without the tests of two minutes and more, for every change.
    #[arg(long)]
    quick: bool,
    /// A filter for the names of the tests, as nextest takes them.
    filter: Vec<String>,
}

/// The files of `e2e/tests` that run in both directions: what vc-syncer asks of either API server, each verb, kind and policy once. Left out
/// is what stands on one side alone (real nodes and vn-agent, the lease, kubeconfigs), and what mostly waits.
const QUICK: &str = "apart|workloads|services|labels|refusals|tokens|classes|volumes|admission|deletion|writers";

/// Those of two minutes and more.
const LONG: &str = "restart|lifecycle|drift";

/// Runs one direction or both; fails if a test did.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let super_newer = Step {
        name: "super-newer",
        about: "end-to-end tests where the tenants are one minor version older than the super cluster",
        run: if options.quick { |filter| super_newer(QUICK, filter) } else { |filter| super_newer(&all(), filter) },
    };
    let tenant_newer = Step {
        name: "tenant-newer",
        about: "end-to-end tests where the super cluster is one minor version older than the tenants",
        run: if options.quick { |filter| tenant_newer(QUICK, filter) } else { |filter| tenant_newer(&all(), filter) },
    };
    let steps = match (options.super_newer, options.tenant_newer) {
        (true, _) => vec![&super_newer],
        (_, true) => vec![&tenant_newer],
        (false, false) => vec![&super_newer, &tenant_newer],
    };
    test::take(&steps, "skew --", &options.filter, false)
}

fn all() -> String {
    format!("{QUICK}|{LONG}")
}

fn super_newer(files: &str, filter: &[String]) -> Result<Tests, Failure> {
    direction(files, "super_newer", TENANT_RELEASE, filter)
}

fn tenant_newer(files: &str, filter: &[String]) -> Result<Tests, Failure> {
    direction(files, "tenant_newer", SUPER_RELEASE, filter)
}

/// `own` is what the names of the tests of this direction in `e2e/tests/skew.rs` begin with; `older` is the variable that makes a side older.
fn direction(files: &str, own: &str, older: &str, filter: &[String]) -> Result<Tests, Failure> {
    let release = Release::Older;
    crate::wait(async {
        let progress = MultiProgress::new();
        Programs::locate_or_build(&progress).await?.of(release, &progress).await
    })?;
    // What an earlier run left out is not this one's.
    left_out::take()?;
    let ran = test::on_beds(&format!("& test(/^(({files})::|skew::{own})/)"), &[(older, release.minor())], filter);
    let parts = left_out::take()?;
    println!("    left out: {} parts of tests", parts.len());
    for part in parts {
        println!("      {part}");
    }
    ran
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_that_is_named_is_there() {
        for name in all().split('|') {
            let path = crate::root().join("e2e/tests").join(format!("{name}.rs"));
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}
