//! Verdict tables: what happens to each field of a tenant's object on its way down. A field that no table names is refused.
//!
//! A table is data, so a test can hold it against the schema of the Kubernetes version we build for: a new field upstream shows
//! up as a failing test, not as a hole or as a field lost in silence.

use serde_json::{Map, Value};

use crate::hold::Hold;
use crate::object::Object;

/// The verdict on one field.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Carried as it is: a scalar, a list of scalars, a map of the user's own keys, or a quantity.
    Copy,
    /// Carried here and rewritten by the kind's own code afterwards; the text says to what.
    Rewrite(&'static str),
    /// Left out without a word, since the kind sets it itself or the tenant's server filled it in; the text says why.
    Force(&'static str),
    /// Not allowed unless it has a value that asks for nothing (`false`, `0`, `""`, empty); the text says what to do instead.
    Refuse(&'static str),
    /// An object with fields of its own.
    Object(&'static Table),
    /// A list of objects with fields of their own.
    List(&'static Table),
}

/// The fields of one object type with their verdicts.
pub type Table = [(&'static str, Verdict)];

/// Passes the fields of a whole object beside its metadata through `table`.
pub fn carry_body(body: &Map<String, Value>, table: &Table, pass_unknown: bool) -> Result<Map<String, Value>, Hold> {
    carry_fields(body, table, "", pass_unknown)
}

/// Passes the spec of a tenant's object through `table`.
pub fn carry_spec(tenant: &Object, table: &Table, pass_unknown: bool) -> Result<Map<String, Value>, Hold> {
    let spec = tenant.body.get("spec").ok_or(Hold::Malformed("spec is missing".into()))?;
    let fields = spec.as_object().ok_or(Hold::Malformed("spec is no object".into()))?;
    carry_fields(fields, table, "spec", pass_unknown)
}

/// Passes `value` through `table`.
///
/// *Shapes*: `value` is a JSON object; the result holds only named fields. `path` is where the value stands, for the message.
///
/// *Errors*: the first field that is refused or unknown, or is of another type than the table says.
pub fn carry(value: &Value, table: &Table, path: &str, pass_unknown: bool) -> Result<Value, Hold> {
    let Some(fields) = value.as_object() else {
        return Err(Hold::Malformed(format!("{path} is no object").into()));
    };
    carry_fields(fields, table, path, pass_unknown).map(Value::Object)
}

fn carry_fields(fields: &Map<String, Value>, table: &Table, path: &str, pass_unknown: bool) -> Result<Map<String, Value>, Hold> {
    let mut out = Map::new();
    for (key, value) in fields {
        if value.is_null() {
            continue;
        }
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match table.iter().find(|(name, _)| name == key).map(|(_, verdict)| verdict) {
            Some(Verdict::Copy | Verdict::Rewrite(_)) => {
                out.insert(key.clone(), value.clone());
            }
            Some(Verdict::Force(_)) => {}
            Some(Verdict::Refuse(instead)) => {
                if !asks_for_nothing(value) {
                    return Err(Hold::refuse("NotSupported", at, *instead));
                }
            }
            Some(Verdict::Object(table)) => {
                out.insert(key.clone(), carry(value, table, &at, pass_unknown)?);
            }
            Some(Verdict::List(table)) => {
                let Some(items) = value.as_array() else {
                    return Err(Hold::Malformed(format!("{at} is no list").into()));
                };
                let items: Result<Vec<Value>, Hold> =
                    items.iter().enumerate().map(|(i, item)| carry(item, table, &format!("{at}[{i}]"), pass_unknown)).collect();
                out.insert(key.clone(), Value::Array(items?));
            }
            None if pass_unknown => {
                out.insert(key.clone(), value.clone());
            }
            None => {
                return Err(Hold::refuse(
                    "UnknownField",
                    at,
                    "this field is not known to the syncer; remove it, or ask the administrator for a newer one",
                ));
            }
        }
    }
    Ok(out)
}

/// Whether a value is as good as none: `false`, `0`, `""`, empty.
pub(crate) fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
