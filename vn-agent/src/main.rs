//! `vn-agent`: parse, init, run.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use runtime::log::Chain;
use runtime::shutdown::Shutdown;
use vn_agent::args::{AgentArgs, Args, Command};
use vn_agent::{issue, program};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let (result, is_server) = match Args::parse().command {
        Command::Serve(args) => (serve(&args), true),
        Command::Issue(args) => (issue::run(&args), false),
    };
    match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(error) if is_server => tracing::error!(error = %Chain(error.as_ref()), "vn-agent ends"),
        // A command answers the person who typed it.
        Err(error) => eprintln!("error: {}", Chain(error.as_ref())),
    }
    ExitCode::FAILURE
}

fn serve(args: &AgentArgs) -> anyhow::Result<()> {
    runtime::log::init(&args.log)?;
    match runtime::limit::raise_descriptors() {
        Ok(most) => tracing::debug!(most, "descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of descriptors stays as it is"),
    }
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads.get()).enable_all().build();
    threads.context("could not start threads")?.block_on(async {
        let shutdown = Shutdown::new(&args.shutdown).context("could not catch signals")?;
        let stop = shutdown.token();
        match shutdown.run(Box::pin(program::run(args, stop))).await {
            Ok(result) => result,
            Err(cut) => cut.exit(),
        }
    })
}
