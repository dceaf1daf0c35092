//! One JSON object an event, its strings cleaned and cut like those of a text line.

use std::fmt::{self, Write};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::{LookupSpan, Scope},
};

use super::{escape::Cleaner, format::FIELD_LIMIT_BYTES};

/// Writes events, and the fields of spans, which are kept as JSON objects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json;

impl<'w> FormatFields<'w> for Json {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut object = Object::default();
        fields.record(&mut object);
        writer.write_str(&object.text()?)
    }

    fn add_fields(&self, current: &'w mut FormattedFields<Self>, fields: &tracing::span::Record<'_>) -> fmt::Result {
        let mut object = Object(serde_json::from_str(&current.fields).unwrap_or_default());
        fields.record(&mut object);
        current.fields = object.text()?;
        Ok(())
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, Json> for Json {
    fn format_event(&self, cx: &FmtContext<'_, S, Json>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut object = Object::default();
        event.record(&mut object);
        object.put("timestamp", Timestamp::now().to_string());
        object.put("level", event.metadata().level().as_str());
        object.put("target", event.metadata().target());
        let spans: Vec<Value> = cx
            .event_scope()
            .into_iter()
            .flat_map(Scope::from_root)
            .map(|span| {
                let mut fields = Object::default();
                if let Some(kept) = span.extensions().get::<FormattedFields<Json>>() {
                    fields.0 = serde_json::from_str(&kept.fields).unwrap_or_default();
                }
                fields.put("span", span.name());
                Value::Object(fields.0)
            })
            .collect();
        if !spans.is_empty() {
            object.put("spans", spans);
        }
        writeln!(writer, "{}", object.text()?)
    }
}

/// Fields by name.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn put_text(&mut self, field: &Field, value: impl fmt::Display) {
        let mut text = String::new();
        // Writing into a string fails only if `value` does; what it wrote until then is kept.
        let _ = write!(Cleaner::new(&mut text, FIELD_LIMIT_BYTES), "{value}");
        self.put(field.name(), text);
    }

    fn text(&self) -> Result<String, fmt::Error> {
        serde_json::to_string(&self.0).map_err(|_| fmt::Error)
    }
}

impl Visit for Object {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value);
    }
}
