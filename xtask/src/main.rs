//! The project's own tasks: `cargo xtask demo`, `test`, `fuzz`, `conformance`, `skew`, `upgrade`, `programs`,
//! `bench`, `image`, `manifests` and `tidy`.
#![allow(clippy::print_stdout, reason = "a task tells a person at a terminal what it does")]

mod bench;
mod conformance;
mod demo;
mod fuzz;
mod image;
mod kinds;
mod manifests;
mod program;
mod programs;
mod skew;
mod test;
mod tidy;
mod tool;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What can be done with this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

/// One task.
#[derive(Debug, Subcommand)]
enum Task {
    /// Show the syncer at its main job: a super cluster and tenants on real Kubernetes API servers.
    Demo(demo::Options),
    /// Check and test everything: format, lints, documentation, dependencies, unit tests and end-to-end tests.
    Test(test::Options),
    /// Look for input that breaks vn-agent's parser of paths, its filters or its reading of certificates.
    Fuzz(fuzz::Options),
    /// Run Kubernetes' own conformance tests natively and inside a tenant, and compare. Needs root.
    Conformance(conformance::Options),
    /// Build the programs of other projects that the other tasks run, once.
    Programs,
    /// Run end-to-end tests with control planes of two minor versions, each side the older one once.
    Skew(skew::Options),
    /// Put this vc-syncer in the place of an earlier one, and that back, while Pods run.
    Upgrade(upgrade::Options),
    /// Measure.
    Bench {
        #[command(subcommand)]
        what: Measure,
    },
    /// Write the generated parts of `manifests/`, and `docs/kinds.md`.
    Manifests {
        /// Write nothing; fail if a file is not what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Write the images of vc-syncer and vn-agent as OCI archives.
    Image(image::Options),
    /// Check the habits of this repository that no compiler knows.
    Tidy,
}

/// What to measure.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Measure {
    /// What a Pod costs vc-syncer, on real Kubernetes API servers.
    Real,
    /// What vn-agent adds to a session, on a real node. Needs root.
    Agent,
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Demo(options) => wait(demo::run(&options)),
        Task::Test(options) => test::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Conformance(options) => wait(conformance::run(&options)),
        Task::Programs => wait(programs::run()),
        Task::Skew(options) => skew::run(&options),
        Task::Upgrade(options) => upgrade::run(&options),
        Task::Bench { what: Measure::Real } => wait(bench::real::run()),
        Task::Bench { what: Measure::Agent } => wait(bench::agent::run()),
        Task::Manifests { check } => manifests::run(check),
        Task::Image(options) => wait(image::run(&options)),
        Task::Tidy => tidy::run(),
    }
}

/// Runs a task that awaits something; the others need no runtime.
fn wait<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(task)
}

/// The root of the repository.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}
