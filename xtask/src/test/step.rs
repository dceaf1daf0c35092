//! The steps of `cargo xtask test`: what each is for, and the command that it is.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use e2e::machine;
use e2e::programs::{NodePrograms, Programs};
use indicatif::MultiProgress;

use super::summary::Tests;
use crate::{root, tool};

/// The end-to-end tests of control planes of two versions, and of an earlier vc-syncer: `cargo xtask skew` and `cargo xtask upgrade` run them.
const APART: &str = "test(/^(skew|upgrade)::/)";

/// The end-to-end tests that start real nodes, which not every machine can.
const REAL: &str = "test(/^(agent|real_)/)";

/// What the names of their files begin with, as [`REAL`] says.
#[cfg(test)]
const REAL_NAMES: [&str; 2] = ["agent", "real_"];

/// As many as the groups in `.config/nextest.toml` let run at once: two of `bed`, two of `patient`, and the one of `long`. Two cores do for
/// five because three are idle most of the time: those of `patient` mostly wait, the one of `long` only watches. The two of `bed` are busy,
/// with two thirds of a core each.
const E2E_THREADS: [&str; 2] = ["--test-threads", "5"];

/// One step.
pub(crate) struct Step {
    /// What `--only` takes.
    pub(crate) name: &'static str,
    /// What it does, for the reader of the output.
    pub(crate) about: &'static str,
    /// Does it, with the filter for tests; says which tests ran.
    pub(crate) run: fn(&[String]) -> Result<Tests, Failure>,
}

/// A step that failed, and the tests that ran all the same.
pub(crate) struct Failure {
    /// Why.
    pub(crate) error: anyhow::Error,
    /// What ran.
    pub(crate) tests: Tests,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, tests: Tests::default() }
    }
}

/// All steps, the quick ones first.
pub(super) const STEPS: &[Step] = &[
    Step { name: "format", about: "the code is formatted", run: format },
    Step { name: "tidy", about: "the habits that no compiler knows", run: |_| Ok(crate::tidy::run().map(none)?) },
    Step {
        name: "manifests",
        about: "manifests/ and docs/kinds.md are what the code says",
        run: |_| Ok(crate::manifests::run(true).map(none)?),
    },
    Step { name: "deny", about: "dependencies: bans, licenses, sources; advisories only warn", run: deny },
    Step { name: "clippy", about: "lints, warnings are errors", run: clippy },
    Step { name: "unit", about: "unit tests, snapshots and laws", run: unit },
    Step { name: "doctest", about: "the examples in the documentation", run: doctest },
    Step { name: "docs", about: "the documentation builds, private items too", run: docs },
    Step { name: "demo", about: "the demo comes true, told to its end", run: demo },
    Step { name: "demo-node", about: "with containers on a real node and vn-agent too, where one can run", run: demo_node },
    Step {
        name: "e2e",
        about: "end-to-end tests on real Kubernetes API servers and nodes, two beds at a time beside those that mostly wait",
        run: e2e,
    },
];

fn format(_: &[String]) -> Result<Tests, Failure> {
    Ok(say_and_run(cargo().args(["fmt", "--all", "--check"])).map(none)?)
}

fn clippy(_: &[String]) -> Result<Tests, Failure> {
    let mut command = cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--locked", "--keep-going", "--", "-D", "warnings"]);
    Ok(say_and_run(&mut command).map(none)?)
}

fn docs(_: &[String]) -> Result<Tests, Failure> {
    let mut command = cargo();
    command.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]).env("RUSTDOCFLAGS", "-D warnings");
    Ok(say_and_run(&mut command).map(none)?)
}

fn deny(_: &[String]) -> Result<Tests, Failure> {
    let program = tool::DENY.ensure()?;
    let check = |what: &[&str]| say_and_run(Command::new(&program).arg("check").args(what).current_dir(root()));
    if let Err(error) = check(&["advisories"]) {
        println!("    warning, blocks nothing: advisories were not checked, or there are some (above): {error:#}");
    }
    Ok(check(&["bans", "licenses", "sources"]).map(none)?)
}

fn unit(filter: &[String]) -> Result<Tests, Failure> {
    nextest("not (package(e2e) & kind(test))", &[], &[], filter)
}

fn doctest(_: &[String]) -> Result<Tests, Failure> {
    Ok(say_and_run(cargo().args(["test", "--doc", "--workspace", "--locked", "--quiet"])).map(none)?)
}

/// Its exit status is what counts: success only if everything shown was true.
fn demo(_: &[String]) -> Result<Tests, Failure> {
    Ok(say_and_run(cargo().args(["xtask", "demo", "--once"])).map(none)?)
}

fn demo_node(_: &[String]) -> Result<Tests, Failure> {
    if let Some(lacking) = machine::left_out()? {
        println!("    {}", lacking.skipped("cargo xtask demo --node"));
        return Ok(Tests::default());
    }
    Ok(say_and_run(cargo().args(["xtask", "demo", "--node", "--once"])).map(none)?)
}

fn e2e(filter: &[String]) -> Result<Tests, Failure> {
    let Some(lacking) = machine::left_out()? else {
        return on_beds(&format!("- {APART}"), &[], filter);
    };
    let count = count(&format!("package(e2e) & kind(test) & {REAL}"), filter)?;
    println!("    {}", lacking.skipped(&format!("{count} tests")));
    on_beds(&format!("- {APART} - {REAL}"), &[], filter)
}

/// Runs end-to-end tests with these variables: all of them but what `narrower`, the rest of a filter, leaves out. Builds what they start first.
pub(crate) fn on_beds(narrower: &str, variables: &[(&str, String)], filter: &[String]) -> Result<Tests, Failure> {
    kubernetes()?;
    // The tests start `vc-syncer` as a program; nothing else builds it. The whole workspace, so that features are the same
    // as for the tests and no dependency is built twice.
    say_and_run(cargo().args(["build", "--workspace", "--bins", "--locked"]))?;
    nextest(&format!("package(e2e) & kind(test) {narrower}"), &E2E_THREADS, variables, filter)
}

/// Finds the programs of Kubernetes and, where nodes can be started, those of a node, or builds them.
fn kubernetes() -> anyhow::Result<()> {
    let progress = MultiProgress::new();
    let programs = crate::wait(Programs::locate_or_build(&progress))?;
    println!("    Kubernetes programs: {}", programs.dir().display());
    if machine::lacking().is_none() {
        let programs = crate::wait(NodePrograms::locate_or_build(&progress))?;
        println!("    containerd: {}", programs.containerd.display());
    }
    Ok(())
}

/// How many tests a set has.
fn count(set: &str, filter: &[String]) -> anyhow::Result<usize> {
    let mut command = Command::new(tool::NEXTEST.ensure()?);
    command.args(["nextest", "list", "--workspace", "--locked", "--message-format", "oneline", "-E", set]).args(filter);
    let output = command.current_dir(root()).stderr(Stdio::inherit()).output().context("could not run cargo-nextest")?;
    ensure!(output.status.success(), "cargo-nextest ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.trim().is_empty()).count())
}

fn nextest(set: &str, options: &[&str], variables: &[(&str, String)], filter: &[String]) -> Result<Tests, Failure> {
    let program = tool::NEXTEST.ensure()?;
    let report = root().join("target/nextest/default/junit.xml");
    forget(&report)?;
    let mut command = Command::new(program);
    command.args(["nextest", "run", "--workspace", "--locked", "-E", set]).args(options).args(filter).current_dir(root());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let ran = say_and_run(&mut command);
    let tests = std::fs::read_to_string(&report).ok().and_then(|text| Tests::of_junit(&text)).unwrap_or_default();
    match ran {
        Ok(()) => Ok(tests),
        Err(error) => Err(Failure { error, tests }),
    }
}

/// An earlier run's report must not be taken for this one's.
fn forget(report: &Path) -> anyhow::Result<()> {
    if report.exists() {
        std::fs::remove_file(report).with_context(|| format!("could not remove {}", report.display()))?;
    }
    Ok(())
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root());
    command
}

/// Shows a command as one would type it, then runs it with our output.
pub(crate) fn say_and_run(command: &mut Command) -> anyhow::Result<()> {
    println!("    $ {}", typed(command));
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("could not run {name}"))?;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let variables = command.get_envs().filter_map(|(name, value)| Some(format!("{}='{}' ", name.display(), value?.display())));
    let args = command.get_args().map(|arg| {
        let arg = arg.to_string_lossy();
        if arg.contains([' ', '(']) { format!(" '{arg}'") } else { format!(" {arg}") }
    });
    variables.chain([program]).chain(args).collect()
}

/// A check that is no test.
fn none((): ()) -> Tests {
    Tests::default()
}

#[cfg(test)]
mod tests {
    use e2e::files::files;

    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("/cache/bin/cargo-nextest");
        command.args(["run", "-E", "package(e2e) & kind(test)"]).env("A", "b c");
        assert_eq!(typed(&command), "A='b c' cargo-nextest run -E 'package(e2e) & kind(test)'");
    }

    #[test]
    fn tests_that_need_real_nodes_are_those_that_are_counted_where_there_are_none() {
        assert_eq!(REAL, format!("test(/^({})/)", REAL_NAMES.join("|")));
        let all = std::fs::read_to_string(root().join("e2e/tests/main.rs")).unwrap();
        for path in files(&root().join("e2e/tests"), ".rs").unwrap() {
            let (name, text) = (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap());
            let tests = text.matches("#[test]").count() + text.matches("#[tokio::test").count();
            let counted = REAL_NAMES.iter().any(|begin| name.starts_with(begin));
            assert_eq!(text.matches("machine::skipped()").count(), if counted { tests } else { 0 }, "{name}");
            // A filter goes by the file's name, which a test in a folder does not begin with.
            let is_own = path.parent().unwrap().ends_with("tests");
            assert!(is_own || tests == 0, "{} is no test by itself", path.display());
            assert!(!is_own || name == "main" || all.contains(&format!("mod {name};\n")), "e2e/tests/main.rs does not name {name}");
        }
    }

    #[test]
    fn a_command_that_fails_says_how() {
        let error = say_and_run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh ended with exit status: 3");
    }
}
