//! The two forms of a log line.

use std::fmt::{self, Write};

use tracing::{Subscriber, field::Field};
use tracing_subscriber::{
    Layer,
    field::MakeExt,
    fmt::{MakeWriter, format},
    registry::LookupSpan,
};

use super::{escape::Cleaner, json::Json};

/// How long a field may be: a chain of errors, each within its own limit, fits.
pub const FIELD_LIMIT_BYTES: usize = 2048;

/// Lines for people: every field passes through the escaping, whoever logged it.
pub(super) fn text<S, W>(writer: W, color: bool) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let fields = format::debug_fn(write_field).delimited(" ");
    tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(color).fmt_fields(fields)
}

fn write_field(out: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(out, "{field}=")?;
    }
    write!(Cleaner::new(out, FIELD_LIMIT_BYTES), "{value:?}")
}

/// Lines for collectors: the same care, in JSON.
pub(super) fn json<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().fmt_fields(Json).event_format(Json).with_writer(writer)
}
