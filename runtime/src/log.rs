//! Logging: flags, set-up, and the wrappers through which foreign text enters a log.
//!
//! Text that a tenant wrote goes through [`Escaped`]; an error goes through [`Chain`]. Independent of that, no field of
//! a line can hold a control character or more than [`FIELD_LIMIT_BYTES`]. Panics are logged with their place; a
//! message that was put together at run time is withheld, since it may quote an object.

mod escape;
mod format;
mod json;

use std::{io::IsTerminal, panic, str::FromStr};

use clap::ValueEnum;
use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, Layer, filter, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{
    escape::{Chain, Escaped, LIMIT_BYTES},
    format::FIELD_LIMIT_BYTES,
};

/// Flags of logging.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// What is logged at least: off, error, warn, info, debug, trace
    #[arg(long, env = "VC_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LevelFilter,

    /// Levels by target, such as `syncer=debug,runtime::lease=trace`; wins over --log-level
    #[arg(long, env = "VC_LOG", value_name = "DIRECTIVES")]
    pub log_filter: Option<Directives>,

    /// One line of text or one JSON object an event, on standard error
    #[arg(long, env = "VC_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; in color on a terminal.
    Text,
    /// For collectors.
    Json,
}

/// Directives in the syntax of [`EnvFilter`], known to be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives(String);

impl FromStr for Directives {
    type Err = filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::builder().parse(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// Logging is set up already.
#[derive(Debug, thiserror::Error)]
#[error("could not set up logging")]
pub struct LogError(#[from] tracing_subscriber::util::TryInitError);

/// Sets up logging and the panic hook for the whole process; call it once, first.
pub fn init(args: &LogArgs) -> Result<(), LogError> {
    let lines = match args.log_format {
        LogFormat::Text => format::text(std::io::stderr, std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => format::json(std::io::stderr).boxed(),
    };
    let caps = filter::filter_fn(is_within_caps);
    tracing_subscriber::registry().with(env_filter(args)).with(lines.with_filter(caps)).try_init()?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The level first: of two directives for the same target, the later one holds.
fn env_filter(args: &LogArgs) -> EnvFilter {
    let level = args.log_level.to_string();
    let directives = args.log_filter.as_ref().map(|directives| directives.0.clone());
    let all: Vec<String> = [level].into_iter().chain(directives).collect();
    EnvFilter::builder().parse_lossy(all.join(","))
}

/// The most that a library may say, whatever the flags: bodies, headers and URLs of requests stay out of the log.
/// kube-client logs a body it could not decode at `warn` and every URL at `debug`.
const CAPS: [(&str, LevelFilter); 5] = [
    ("kube_client", LevelFilter::ERROR),
    ("h2", LevelFilter::DEBUG),
    ("hyper", LevelFilter::DEBUG),
    ("hyper_util", LevelFilter::DEBUG),
    ("rustls", LevelFilter::DEBUG),
];

fn is_within_caps(metadata: &Metadata<'_>) -> bool {
    let crate_name = metadata.target().split("::").next().unwrap_or_default();
    CAPS.iter().all(|(capped, most)| *capped != crate_name || metadata.level() <= most)
}

/// Logs where a panic happened, inside the span of its task. A literal message is text of this program; any other may
/// quote bytes of a Secret.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let message = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("(message withheld)");
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(location, reason = message, "panic");
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use clap::Parser;
    use parking_lot::Mutex;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        log: LogArgs,
    }

    fn args(flags: &[&str]) -> Result<LogArgs, clap::Error> {
        let flags = ["program"].into_iter().chain(flags.iter().copied());
        Program::try_parse_from(flags).map(|program| program.log)
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(args: &LogArgs, events: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let writer = move || writer.clone();
        let lines = match args.log_format {
            LogFormat::Text => format::text(writer, false).boxed(),
            LogFormat::Json => format::json(writer).boxed(),
        };
        let lines = lines.with_filter(filter::filter_fn(is_within_caps));
        let subscriber = tracing_subscriber::registry().with(env_filter(args)).with(lines);
        tracing::subscriber::with_default(subscriber, events);
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).expect("log lines are UTF-8")
    }

    #[test]
    fn the_level_holds_where_no_directive_does() {
        let args = args(&["--log-level=warn", "--log-filter=chatty=trace"]).unwrap();
        let log = logged(&args, || {
            tracing::info!("hidden");
            tracing::warn!("shown");
            tracing::trace!(target: "chatty::deep", "also");
        });
        assert!(!log.contains("hidden") && log.contains("shown") && log.contains("also"), "{log}");
    }

    #[test]
    fn kube_client_says_only_errors_whatever_the_flags() {
        let args = args(&["--log-level=trace", "--log-filter=kube_client::client=trace,hyper=trace"]).unwrap();
        let log = logged(&args, || {
            tracing::warn!(target: "kube_client::client", "body of a secret");
            tracing::trace!(target: "hyper::proto", "bytes of a secret");
            tracing::error!(target: "kube_client", "shown");
            tracing::trace!(target: "kube_client_lookalike", "shown too");
        });
        assert!(!log.contains("secret"), "{log}");
        assert!(log.contains("shown\n") && log.contains("shown too"), "{log}");
    }

    #[test]
    fn a_hostile_field_stays_on_its_line_and_within_its_limit() {
        let hostile = format!("a\nFAKE line \u{1b}[31mred \u{202e}{}", "x".repeat(5000));
        for format in ["--log-format=text", "--log-format=json"] {
            let args = args(&[format]).unwrap();
            let log = logged(&args, || {
                let _span = tracing::info_span!("plan", reason = hostile).entered();
                tracing::info!(object = %hostile, tenant = hostile, "seen");
            });
            assert_eq!(log.lines().count(), 1, "{log}");
            assert!(!log.contains('\u{1b}') && !log.contains('\u{202e}'), "{log}");
            assert!(log.len() < 3 * FIELD_LIMIT_BYTES + 300, "{}", log.len());
        }
    }

    #[test]
    fn a_json_line_is_one_object_with_its_spans() {
        let args = args(&["--log-format=json"]).unwrap();
        let log = logged(&args, || {
            let span = tracing::info_span!("plan", tenant = "blue", step = tracing::field::Empty).entered();
            span.record("step", "create");
            tracing::info!(object = "a\nb", count = 3, "written");
        });
        let mut line: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
        assert!(line["timestamp"].take().as_str().unwrap().ends_with('Z'));
        let expected = serde_json::json!({
            "timestamp": null, "level": "INFO", "target": "runtime::log::tests", "message": "written",
            "object": "a\\nb", "count": 3, "spans": [{"span": "plan", "tenant": "blue", "step": "create"}],
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn bad_directives_are_an_error_of_the_command_line() {
        let error = args(&["--log-filter=syncer=loud"]).unwrap_err().to_string();
        assert!(error.contains("--log-filter"), "{error}");
    }

    #[test]
    fn only_a_literal_panic_message_is_logged() {
        let args = args(&[]).unwrap();
        let secret = "hunter2";
        let before = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        let log = logged(&args, || {
            let _ = panic::catch_unwind(|| panic!("the password is {secret}"));
            let _ = panic::catch_unwind(|| panic!("a literal"));
        });
        panic::set_hook(before);
        assert!(log.contains("log.rs:") && log.contains("a literal"), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}
