//! What is read off a vNode as the tenant's API server shows it.

use common::{Uid, keys};
use mirror::kind::Upward;
use mirror::kinds::node::{Node, shown};
use mirror::object::{Object, ObjectError};
use serde_json::Value;

/// The taint that the API server's admission puts on every new Node, and that nobody else removes.
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The label that a running node-lifecycle controller adds within a second: it shows that one runs.
const LIFECYCLE_LABEL: &str = "beta.kubernetes.io/os";

/// A vNode in few words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that is read off the object, in any combination")]
pub(super) struct Seen {
    /// The UID.
    pub(super) uid: Uid,
    /// `resourceVersion` as a number.
    pub(super) version: u64,
    /// What [`keys::NODE_BUILT`] says was written.
    pub(super) built: Option<String>,
    /// Whether it carries our label: one without is the tenant's own Node.
    pub(super) ours: bool,
    /// Whether it is being deleted.
    pub(super) deleting: bool,
    /// Whether it has any annotation.
    pub(super) annotated: bool,
    /// Where the not-ready taint stands among the taints.
    pub(super) not_ready: Option<usize>,
    /// Whether its Ready condition is Unknown.
    pub(super) unknown: bool,
    /// Whether a node-lifecycle controller has labeled it.
    pub(super) lifecycle: bool,
    /// The hash of what it tells of its node.
    pub(super) shown: u64,
    /// Whether it takes no new Pods.
    pub(super) cordoned: bool,
}

impl Seen {
    /// Reads the name and the few words off the JSON of a Node.
    pub(super) fn of(bytes: &[u8]) -> Result<(String, Self), ObjectError> {
        let object = Object::of_resource(bytes, &Node.resource())?;
        let seen = Self {
            uid: object.meta.uid,
            version: object.meta.version.parse().unwrap_or(0),
            built: object.meta.annotations.get(keys::NODE_BUILT).cloned(),
            ours: object.meta.labels.get(keys::VIRTUAL_NODE).is_some_and(|value| value == "true"),
            deleting: object.meta.deletion.is_some(),
            annotated: !object.meta.annotations.is_empty(),
            not_ready: not_ready(&object),
            unknown: ready(&object) == Ready::Unknown,
            lifecycle: object.meta.labels.contains_key(LIFECYCLE_LABEL),
            shown: shown(&object.meta.labels, &object.body),
            cordoned: object.at("/spec/unschedulable") == Some(&Value::Bool(true)),
        };
        Ok((object.meta.name, seen))
    }
}

fn not_ready(object: &Object) -> Option<usize> {
    let text = |taint: &Value, key: &str| taint.get(key).and_then(Value::as_str).map(str::to_owned);
    let taints = object.at("/spec/taints").and_then(Value::as_array)?;
    taints
        .iter()
        .position(|taint| text(taint, "key").as_deref() == Some(NOT_READY) && text(taint, "effect").as_deref() == Some("NoSchedule"))
}

/// What a Node's Ready condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// It is ready.
    True,
    /// It is not, or says nothing of it.
    False,
    /// Nobody has heard of its kubelet.
    Unknown,
}

/// The Ready condition of a Node.
pub(super) fn ready(object: &Object) -> Ready {
    let conditions = object.at("/status/conditions").and_then(Value::as_array);
    let status = conditions
        .and_then(|all| all.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some("Ready")))
        .and_then(|condition| condition.get("status"))
        .and_then(Value::as_str);
    match status {
        Some("True") => Ready::True,
        Some("Unknown") => Ready::Unknown,
        Some(_) | None => Ready::False,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_new_vnode_shows_its_taint_and_its_hash() {
        let node = json!({
            "metadata": {"name": "n1", "uid": "00000000-0000-4000-8000-000000000001", "resourceVersion": "7",
                "labels": {keys::VIRTUAL_NODE: "true"}, "annotations": {keys::NODE_BUILT: "abc"}},
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let (name, seen) = Seen::of(node.to_string().as_bytes()).unwrap();
        let expected = Seen {
            uid: Uid::parse("00000000-0000-4000-8000-000000000001").unwrap(),
            version: 7,
            built: Some("abc".into()),
            ours: true,
            deleting: false,
            annotated: true,
            not_ready: Some(1),
            unknown: false,
            lifecycle: false,
            shown: seen.shown,
            cordoned: false,
        };
        assert_eq!((name.as_str(), seen), ("n1", expected));
    }

    #[test]
    fn s42_what_says_that_it_is_something_else_is_no_vnode() {
        let said = |api_version: &str, kind: &str| {
            let metadata = json!({"name": "n1", "uid": "00000000-0000-4000-8000-000000000001"});
            Seen::of(json!({"metadata": metadata, "apiVersion": api_version, "kind": kind}).to_string().as_bytes())
        };
        assert!(said("v1", "Node").is_ok() && said("v1", "Pod").is_err() && said("v2", "Node").is_err());
    }

    #[test]
    fn a_node_lifecycle_controller_is_noticed() {
        let node = json!({
            "metadata": {"name": "n1", "uid": "00000000-0000-4000-8000-000000000001", "labels": {LIFECYCLE_LABEL: "linux"}},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        });
        let (_, seen) = Seen::of(node.to_string().as_bytes()).unwrap();
        assert!(seen.lifecycle && seen.unknown && !seen.ours);
    }
}
