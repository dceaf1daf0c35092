//! Holds verdict tables against the schemas of the Kubernetes that we build for. Each kind's file does so with its own.

use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, schema_for};
use serde_json::{Map, Value};

use crate::shape::{Table, Verdict};

/// Asserts that each leaf of the type has its verdict; `opaque` as for [`differences`].
pub(crate) fn every_leaf_has_a_verdict<T: JsonSchema>(table: &Table, opaque: &[&str]) {
    let found = differences(&schema_for!(T), table, opaque);
    assert!(found.is_empty(), "{found:#?}");
}

/// The same for a whole object: of `table` are the fields beside what is handled alike for all kinds.
pub(crate) fn every_field_has_a_verdict<T: JsonSchema>(table: &Table) {
    let alike = ["apiVersion", "kind", "metadata"].map(|name| (name, Verdict::Rewrite("alike for all kinds")));
    let whole: Vec<_> = table.iter().copied().chain(alike).collect();
    every_leaf_has_a_verdict::<T>(&whole, &["metadata"]);
}

/// What a table and a schema disagree on, a line each. `opaque` are the paths of objects with fields of their own that a kind handles
/// whole (carried or rewritten without a table), as `volumes[].projected`.
pub(crate) fn differences(schema: &Schema, table: &Table, opaque: &[&str]) -> Vec<String> {
    let root = schema.as_value();
    let mut walk = Walk { definitions: root, opaque, used: BTreeSet::new(), found: Vec::new() };
    walk.object(root, table, "");
    let unused = opaque.iter().filter(|path| !walk.used.contains(**path)).map(|path| format!("{path}: listed as opaque, and is not"));
    walk.found.extend(unused);
    walk.found
}

struct Walk<'a> {
    definitions: &'a Value,
    opaque: &'a [&'a str],
    used: BTreeSet<&'a str>,
    found: Vec<String>,
}

impl<'a> Walk<'a> {
    fn object(&mut self, schema: &'a Value, table: &Table, path: &str) {
        let Some(properties) = self.properties(schema) else {
            self.found.push(format!("{path}: the table says it is an object, the schema does not"));
            return;
        };
        for (name, property) in properties {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let rows: Vec<_> = table.iter().filter(|(row, _)| row == name).collect();
            match rows.as_slice() {
                [(_, verdict)] => self.field(property, *verdict, &at),
                [] => self.found.push(format!("{at}: no verdict")),
                _ => self.found.push(format!("{at}: more than one verdict")),
            }
        }
        for (row, _) in table {
            if !properties.contains_key(*row) {
                self.found.push(format!("{path}.{row}: the schema has no such field"));
            }
        }
    }

    fn field(&mut self, schema: &'a Value, verdict: Verdict, at: &str) {
        let item = self.item(schema);
        match verdict {
            Verdict::Force(_) | Verdict::Refuse(_) => {}
            Verdict::Copy | Verdict::Rewrite(_) => {
                if self.properties(item.unwrap_or(schema)).is_none() {
                    return;
                }
                match self.opaque.iter().find(|path| **path == at) {
                    Some(path) => {
                        self.used.insert(path);
                    }
                    None => self.found.push(format!("{at}: has fields of its own and is carried whole")),
                }
            }
            Verdict::Object(table) => self.object(schema, table, at),
            Verdict::List(table) => match item {
                Some(item) => self.object(item, table, &format!("{at}[]")),
                None => self.found.push(format!("{at}: the table says it is a list, the schema does not")),
            },
        }
    }

    /// Follows references to definitions.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("references stay in the document");
            schema = self.definitions.pointer(pointer).expect("references lead somewhere");
        }
        schema
    }

    fn properties(&self, schema: &'a Value) -> Option<&'a Map<String, Value>> {
        self.resolved(schema).get("properties").and_then(Value::as_object).filter(|properties| !properties.is_empty())
    }

    fn item(&self, schema: &'a Value) -> Option<&'a Value> {
        self.resolved(schema).get("items")
    }
}

#[test]
fn a_leaf_without_a_verdict_is_found() {
    use crate::kinds::pod::verdicts;
    let some: Vec<_> = verdicts::SPEC.iter().copied().filter(|(name, _)| *name != "hostPID").collect();
    let found = differences(&schema_for!(k8s_openapi::api::core::v1::PodSpec), &some, &verdicts::OPAQUE);
    assert_eq!(found, ["hostPID: no verdict"]);
}
