//! `vc-syncer`: parse, init, run.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use runtime::log::Chain;
use runtime::shutdown::Shutdown;
use syncer::args::Args;
use syncer::program;

// Many small, long-lived allocations of many tenants: the system's allocator keeps a multiple of them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(error.as_ref()), "vc-syncer ends");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
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
