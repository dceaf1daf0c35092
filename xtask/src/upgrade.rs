//! `cargo xtask upgrade`: vc-syncer of an earlier commit and this one, in each other's place while Pods run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;
use e2e::{env, shipped};

use crate::root;
use crate::test::{self, Step, cargo, on_beds, say_and_run};

/// From where.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The earlier commit.
    #[arg(long, default_value = EARLIER, value_name = "COMMIT")]
    from: String,
}

/// The commit that this version must be able to take the place of, and give way to: in place of the last release until there is one. Moved
/// on when what was before need not be upgraded from any more, and never to mend a test.
const EARLIER: &str = "577b2d5";

/// Builds the earlier vc-syncer, then runs the test of both.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let earlier = earlier(&options.from)?;
    println!("    earlier: {} of {}", earlier.display(), options.from);
    let step = Step {
        name: "upgrade",
        about: "an earlier vc-syncer, this one, and the earlier one again, while Pods run",
        run: |folder| on_beds("& test(/^upgrade::/)", &[(env::EARLIER, folder.concat())], &[]),
    };
    test::take(&[&step], "", &[earlier.display().to_string()], false)
}

/// The folder of that commit's manifests and vc-syncer, made if they are not there yet.
fn earlier(commit: &str) -> anyhow::Result<PathBuf> {
    let said =
        Command::new("git").args(["rev-parse", "--verify", "--short=12", &format!("{commit}^{{commit}}")]).current_dir(root()).output();
    let said = said.context("could not run git")?;
    ensure!(said.status.success(), "there is no commit {commit} here; a clone must not be shallow, or `--from` names another");
    let id = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let folder = root().join("target/upgrade").join(&id);
    let program = folder.join(shipped::SYNCER.program);
    if program.is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    unpack(&id, &folder)?;
    let target = folder.join("target");
    // What both commits have in common is built once: what lies between is where it lies for this one, the program is not.
    let between = env::build_dir()?;
    let between = between.parent().context("the folder of builds has none above it")?;
    let mut build = cargo();
    build.args(["build", "--locked", "--bin", shipped::SYNCER.program]).current_dir(&folder);
    say_and_run(build.env("CARGO_TARGET_DIR", &target).env("CARGO_BUILD_BUILD_DIR", between))?;
    fs::copy(target.join("debug").join(shipped::SYNCER.program), &program).context("could not put the earlier vc-syncer in place")?;
    Ok(folder)
}

/// Writes the files of a commit. They bear its time, so that what was built of them holds.
fn unpack(id: &str, folder: &Path) -> anyhow::Result<()> {
    let archive = folder.with_extension("tar");
    say_and_run(Command::new("git").args(["archive", "--format=tar", "--output"]).arg(&archive).arg(id).current_dir(root()))?;
    let file = fs::File::open(&archive).context("could not open the archive")?;
    tar::Archive::new(file).unpack(folder).with_context(|| format!("could not unpack {}", archive.display()))?;
    fs::remove_file(&archive).context("could not remove the archive")
}
