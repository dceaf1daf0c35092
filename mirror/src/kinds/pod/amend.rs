//! What of a running Pod can still change. Everything else stays as it is in the super cluster, so that nothing is written in vain.

use std::collections::BTreeMap;

use common::keys;
use serde_json::Value;

use super::{CONTAINER_LISTS, Fields, ephemeral, object, object_mut, objects, objects_mut, text};
use crate::cx::Policy;
use crate::metadata::merge;
use crate::object::{Content, Object};

/// The current Pod with what the tenant changed of labels, annotations, images, the deadline and tolerations.
///
/// *Sources*: `ValidatePodUpdate` in Kubernetes `pkg/apis/core/validation`.
pub(super) fn amend(asked: Content, current: &Object, policy: &Policy) -> Content {
    let mut body = current.body.clone();
    if let (Some(wanted), Some(spec)) = (object(&asked.body, "spec"), object_mut(&mut body, "spec")) {
        images(wanted, spec, &ephemeral::listed(current));
        deadline(wanted, spec);
        tolerations(wanted, spec);
    }
    let mut merged = merge(asked, &current.meta, policy);
    keep_listed(&mut merged.annotations, &current.meta.annotations);
    Content { body, ..merged }
}

/// What the super cluster put into the Pod since is not the tenant's for its asking, and no container that a Pod begins with is ever added:
/// the list stays what it is, even where there is none.
fn keep_listed(annotations: &mut BTreeMap<String, String>, current: &BTreeMap<String, String>) {
    match current.get(keys::CONTAINERS) {
        Some(names) => annotations.insert(keys::CONTAINERS.to_owned(), names.clone()),
        None => annotations.remove(keys::CONTAINERS),
    };
}

/// Only the tenant's own, by the list.
fn images(wanted: &Fields, spec: &mut Fields, listed: &[&str]) {
    for list in CONTAINER_LISTS {
        for container in objects_mut(spec, list) {
            let Some(name) = text(container, "name").filter(|name| listed.contains(name)) else { continue };
            let asked = objects(wanted, list).find(|asked| text(asked, "name") == Some(name));
            if let Some(image) = asked.and_then(|asked| text(asked, "image")) {
                container.insert("image".to_owned(), Value::String(image.to_owned()));
            }
        }
    }
}

/// A deadline can be set or shortened.
fn deadline(wanted: &Fields, spec: &mut Fields) {
    const KEY: &str = "activeDeadlineSeconds";
    let seconds = |fields: &Fields| fields.get(KEY).and_then(Value::as_i64);
    if let Some(asked) = seconds(wanted)
        && seconds(spec).is_none_or(|current| asked < current)
    {
        spec.insert(KEY.to_owned(), Value::from(asked));
    }
}

/// Tolerations can be added. The super cluster's own stay.
fn tolerations(wanted: &Fields, spec: &mut Fields) {
    const KEY: &str = "tolerations";
    let missing: Vec<Value> = objects(wanted, KEY)
        .filter(|asked| objects(spec, KEY).all(|there| !same_toleration(asked, there)))
        .cloned()
        .map(Value::Object)
        .collect();
    if missing.is_empty() {
        return;
    }
    if let Value::Array(all) = spec.entry(KEY).or_insert_with(|| Value::Array(Vec::new())) {
        all.extend(missing);
    }
}

/// API servers leave `Equal` and empty fields as they were written, so these are compared by meaning.
fn same_toleration(one: &Fields, other: &Fields) -> bool {
    let of = |fields: &Fields| {
        let field = |key| text(fields, key).unwrap_or_default().to_owned();
        let operator = text(fields, "operator").unwrap_or("Equal").to_owned();
        (field("key"), operator, field("value"), field("effect"), fields.get("tolerationSeconds").and_then(Value::as_i64))
    };
    of(one) == of(other)
}
