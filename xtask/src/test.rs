//! `cargo xtask test`: every check and every test, one step after the other, each with its time.

mod step;
mod summary;

use anyhow::bail;
use clap::Args;
use tokio::time::Instant;

pub(crate) use step::{Failure, Step, cargo, on_beds, say_and_run};
pub(crate) use summary::Tests;

use step::STEPS;
use summary::{Outcome, Row};

/// How to run the tests.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only these steps, by name.
    #[arg(long, value_delimiter = ',', value_parser = step_names())]
    only: Vec<String>,
    /// Leave these steps out.
    #[arg(long, value_delimiter = ',', value_parser = step_names())]
    skip: Vec<String>,
    /// End at the first step that fails.
    #[arg(long)]
    fail_fast: bool,
    /// A filter for the names of the tests (the steps `unit` and `e2e`), as nextest takes them.
    filter: Vec<String>,
}

/// Runs the steps, prints what each took, and fails if one of them did.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let steps: Vec<&Step> = STEPS.iter().filter(|step| options.wants(step.name)).collect();
    take(&steps, "test --only ", &options.filter, options.fail_fast)
}

/// Takes steps, prints what each took, and fails if one of them did. `again` is what comes between `cargo xtask` and the name of a step, to
/// take that one alone.
pub(crate) fn take(steps: &[&Step], again: &str, filter: &[String], fail_fast: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut rows = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        println!("==> {} of {}: {}: {}", at + 1, steps.len(), step.name, step.about);
        let row = run_one(step, again, filter);
        let failed = row.outcome == Outcome::Failed;
        rows.push(row);
        if failed && fail_fast {
            break;
        }
    }
    rows.extend(steps.iter().skip(rows.len()).map(|step| Row::not_run(step.name)));
    print!("{}", summary::table(&rows, started.elapsed()));
    let failed: Vec<_> = rows.iter().filter(|row| row.outcome == Outcome::Failed).map(|row| row.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|one| one == name);
        (self.only.is_empty() || named(&self.only)) && !named(&self.skip)
    }
}

fn step_names() -> clap::builder::PossibleValuesParser {
    STEPS.iter().map(|step| step.name).collect::<Vec<_>>().into()
}

fn run_one(step: &Step, again: &str, filter: &[String]) -> Row {
    let started = Instant::now();
    let result = (step.run)(filter);
    let took = started.elapsed();
    match result {
        Ok(tests) => {
            println!("    {}: ok in {} s\n", step.name, took.as_secs());
            Row { name: step.name, outcome: Outcome::Passed, tests, took }
        }
        Err(failure) => {
            println!("    {}: FAILED after {} s: {:#}", step.name, took.as_secs(), failure.error);
            println!("    again, alone: cargo xtask {again}{}\n", step.name);
            Row { name: step.name, outcome: Outcome::Failed, tests: failure.tests, took }
        }
    }
}
