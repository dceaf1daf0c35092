//! The end of a process: the first SIGTERM or SIGINT asks it to drain, the second ends it at once.
//!
//! ```no_run
//! # async fn program(_: tokio_util::sync::CancellationToken) {}
//! # async fn example(args: runtime::shutdown::ShutdownArgs) -> std::io::Result<()> {
//! use runtime::shutdown::Shutdown;
//! let shutdown = Shutdown::new(&args)?;
//! let token = shutdown.token();
//! if let Err(cut) = shutdown.run(program(token)).await {
//!     cut.exit();
//! }
//! # Ok(()) }
//! ```

use std::{io, time::Duration};

use futures::{Stream, StreamExt};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args;

/// Flags of the end of a process.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Shutdown")]
pub struct ShutdownArgs {
    /// How long work under way may take to end after SIGTERM; less than the Pod's grace period
    #[arg(long, env = "VC_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "20s", value_parser = args::duration)]
    pub drain_timeout: Duration,
}

/// Watches for signals while the program runs.
#[derive(Debug)]
pub struct Shutdown {
    signals: Signals,
    token: CancellationToken,
    drain_timeout: Duration,
}

/// Why the program was not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// A second signal came.
    #[error("ended by a second signal")]
    SecondSignal,
    /// Draining took too long.
    #[error("draining took longer than --drain-timeout")]
    DrainTimeout,
}

impl Cut {
    /// Ends the process without waiting for anything: the runtime would wait for blocking calls.
    pub fn exit(self) -> ! {
        warn!(reason = %self, "exiting without having drained");
        std::process::exit(match self {
            // As a shell reports a process that SIGINT ended.
            Self::SecondSignal => 130,
            Self::DrainTimeout => 1,
        })
    }
}

impl Shutdown {
    /// Starts to catch the signals; from here on they no longer end the process by themselves.
    pub fn new(args: &ShutdownArgs) -> io::Result<Self> {
        Ok(Self {
            signals: Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? },
            token: CancellationToken::new(),
            drain_timeout: args.drain_timeout,
        })
    }

    /// Cancelled by the first signal. Cancelling it drains the program likewise.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs the program to its end, which it comes to once the token is cancelled.
    ///
    /// # Errors
    /// [`Cut`] if a second signal came or draining took too long; the program was dropped where it stood.
    pub async fn run<P: Future>(self, program: P) -> Result<P::Output, Cut> {
        let signals = futures::stream::unfold(self.signals, |mut signals| async {
            signals.next().await;
            Some(((), signals))
        });
        drive(program, std::pin::pin!(signals), self.token, self.drain_timeout).await
    }
}

/// The decision, apart from where signals come from.
async fn drive<P: Future>(
    program: P,
    mut signals: impl Stream<Item = ()> + Unpin,
    token: CancellationToken,
    drain_timeout: Duration,
) -> Result<P::Output, Cut> {
    let watch = async {
        tokio::select! {
            Some(()) = signals.next() => info!("signal received, draining"),
            () = token.cancelled() => {}
        }
        token.cancel();
        tokio::select! {
            Some(()) = signals.next() => Cut::SecondSignal,
            () = sleep(drain_timeout) => Cut::DrainTimeout,
        }
    };
    tokio::select! {
        biased;
        output = program => Ok(output),
        cut = watch => Err(cut),
    }
}

#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::stream;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Signals at these seconds, then none.
    fn at(seconds: &'static [u32]) -> impl Stream<Item = ()> + Unpin {
        let start = tokio::time::Instant::now();
        let signals = stream::iter(seconds).then(move |second| tokio::time::sleep_until(start + *second * SECOND)).chain(stream::pending());
        Box::pin(signals)
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_ends_by_itself_is_not_disturbed() {
        let token = CancellationToken::new();
        assert_eq!(drive(async { 7 }, at(&[]), token.clone(), SECOND).await, Ok(7));
        assert!(!token.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_drains() {
        let token = CancellationToken::new();
        let stop = token.clone();
        let program = async move {
            stop.cancelled().await;
            tokio::time::sleep(5 * SECOND).await;
            "drained"
        };
        assert_eq!(drive(program, at(&[10]), token, 20 * SECOND).await, Ok("drained"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_signal_ends_at_once() {
        let start = tokio::time::Instant::now();
        let outcome = drive(pending::<()>(), at(&[10, 12]), CancellationToken::new(), 20 * SECOND).await;
        assert_eq!(outcome, Err(Cut::SecondSignal));
        assert_eq!(start.elapsed().as_secs(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_that_takes_too_long_is_cut_also_without_a_signal() {
        let token = CancellationToken::new();
        token.cancel();
        let start = tokio::time::Instant::now();
        assert_eq!(drive(pending::<()>(), at(&[]), token, 20 * SECOND).await, Err(Cut::DrainTimeout));
        assert_eq!(start.elapsed().as_secs(), 20);
    }
}
