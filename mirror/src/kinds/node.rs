//! Node: a node of the super cluster as a tenant with a Pod there sees it (a vNode), made from what may be seen and nothing else.
//!
//! It has the node's own name, its internal address and the port of the agent there, and no Hostname address, so that an unmodified API
//! server dials the address.

use std::collections::BTreeMap;

use common::{InSuper, InTenant, keys};
use serde_json::{Map, Value, json};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object, items};
use crate::plan::value_hash;
use crate::scrub::Scrub;

/// The kind.
pub struct Node;

/// Labels that a tenant may read. Not the `beta.` ones: a running node-lifecycle controller adds those, which shows that it runs.
const LABELS: [&str; 6] = [
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Conditions that a tenant may read: the kubelet's own.
const CONDITIONS: [&str; 5] = ["DiskPressure", "MemoryPressure", "NetworkUnavailable", "PIDPressure", "Ready"];

/// A condition that a network plug-in of the tenant's own may set too.
const NETWORK: &str = "NetworkUnavailable";

/// Facts about the machine that a tenant may read. What identifies it must be there and is left blank.
const NODE_INFO: [&str; 6] = ["architecture", "containerRuntimeVersion", "kernelVersion", "kubeletVersion", "operatingSystem", "osImage"];

/// What [`NODE_INFO`] leaves blank; the API server wants the fields to be there.
const BLANK_INFO: [&str; 4] = ["bootID", "kubeProxyVersion", "machineID", "systemUUID"];

/// Features of the kubelet that concern who dials it. Of a node without this one API servers ask for SPDY and translate: of a stream that
/// breaks off their clients then hear that it ended well.
const FEATURES: [&str; 1] = ["ExtendWebSocketsToKubelet"];

impl Upward for Node {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Node", plural: "nodes", namespaced: false, status: true }
    }

    fn shows(&self) -> &'static str {
        "A tenant sees the nodes that its Pods run on, and those that its VirtualCluster picks (`spec.nodes`), as vNodes that are built from named \
         fields: name, some labels, internal address, the port of vn-agent, capacity, conditions, whether it takes new Pods. No taints, \
         no identity of the machine."
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        Audience::OnNode(sup.meta.name.clone())
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _about: Option<&About<'_>>, cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        let labels = LABELS.iter().filter_map(|key| sup.meta.labels.get_key_value(*key)).map(|(key, value)| (key.clone(), value.clone()));
        let labels: BTreeMap<String, String> = labels.chain([(keys::VIRTUAL_NODE.to_owned(), "true".to_owned())]).collect();
        let mut spec = Map::new();
        if sup.at("/spec/unschedulable") == Some(&Value::Bool(true)) {
            spec.insert("unschedulable".to_owned(), Value::Bool(true));
        }
        let body = Map::from_iter([("spec".to_owned(), Value::Object(spec)), ("status".to_owned(), status_up(sup, cx))]);
        Ok(InTenant((sup.meta.name.clone(), Content { labels, body, ..Content::default() })))
    }
}

/// The hash of what a vNode tells of its node, alike of what is written and of what an API server shows of it later: another one means
/// that somebody has changed it. Left out is what may be the tenant's own (labels, taints, conditions of its making), what an
/// older API server drops, and when something was last heard of.
pub fn shown(labels: &BTreeMap<String, String>, body: &Map<String, Value>) -> u64 {
    let status = body.get("status");
    let part = |key: &str| status.and_then(|status| status.get(key));
    let labels: Vec<_> = LABELS.iter().filter_map(|key| labels.get_key_value(*key)).collect();
    let amounts = ["allocatable", "capacity", "daemonEndpoints"].map(part);
    let addresses = items(part("addresses"));
    let addresses: Vec<_> = addresses.map(|address| (address.get("type"), address.get("address"))).collect();
    let conditions = items(part("conditions"));
    let mut conditions: Vec<_> = conditions
        .map(|condition| (condition.get("type").and_then(Value::as_str), condition.get("status").and_then(Value::as_str)))
        .filter(|(kind, _)| kind.is_some_and(|kind| kind != NETWORK && CONDITIONS.contains(&kind)))
        .collect();
    conditions.sort_unstable();
    let info: Vec<_> = NODE_INFO.iter().map(|key| part("nodeInfo").and_then(|info| info.get(*key))).collect();
    value_hash(&json!([labels, amounts, addresses, conditions, info]))
}

fn status_up(sup: &Object, cx: &Cx<'_>) -> Value {
    let mut status = Map::new();
    for key in ["allocatable", "capacity"] {
        if let Some(amounts) = sup.body.get("status").and_then(|status| status.get(key)) {
            status.insert(key.to_owned(), amounts.clone());
        }
    }
    let addresses: Vec<Value> = items(sup.at("/status/addresses")).filter(|address| is(address, "type", "InternalIP")).cloned().collect();
    status.insert("addresses".to_owned(), Value::Array(addresses));
    let conditions: Vec<Value> = items(sup.at("/status/conditions")).filter_map(|condition| condition_up(condition, cx)).collect();
    status.insert("conditions".to_owned(), Value::Array(conditions));
    status.insert("daemonEndpoints".to_owned(), json!({"kubeletEndpoint": {"Port": cx.profile.agent_port}}));
    let features: Vec<Value> =
        items(sup.at("/status/declaredFeatures")).filter(|one| one.as_str().is_some_and(|one| FEATURES.contains(&one))).cloned().collect();
    if !features.is_empty() {
        status.insert("declaredFeatures".to_owned(), Value::Array(features));
    }
    let mut info: Map<String, Value> = BLANK_INFO.iter().map(|key| ((*key).to_owned(), Value::from(""))).collect();
    for key in NODE_INFO {
        let text = sup.at("/status/nodeInfo").and_then(|info| info.get(key)).and_then(Value::as_str).unwrap_or_default();
        info.insert(key.to_owned(), Value::from(text));
    }
    status.insert("nodeInfo".to_owned(), Value::Object(info));
    Value::Object(status)
}

/// A condition without its heartbeat: a beat is no news.
fn condition_up(condition: &Value, cx: &Cx<'_>) -> Option<Value> {
    let kind = condition.get("type")?.as_str().filter(|kind| CONDITIONS.contains(kind))?;
    let mut out = Map::from_iter([("type".to_owned(), Value::from(kind))]);
    for key in ["lastTransitionTime", "reason", "status"] {
        if let Some(value) = condition.get(key) {
            out.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(message) = condition.get("message").and_then(Value::as_str) {
        out.insert("message".to_owned(), Value::String(Scrub::new(cx).line(message)));
    }
    Some(Value::Object(out))
}

fn is(value: &Value, key: &str, text: &str) -> bool {
    value.get(key).and_then(Value::as_str) == Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vnode() -> Value {
        json!({
            "metadata": {"name": "n1", "uid": "00000000-0000-4000-8000-000000000001", "labels": {"kubernetes.io/os": "linux"}},
            "status": {
                "capacity": {"cpu": "4"}, "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "nodeInfo": {"architecture": "amd64", "bootID": ""},
            },
        })
    }

    fn shown_of(vnode: &Value) -> u64 {
        let object = Object::parse(vnode.to_string().as_bytes()).unwrap();
        shown(&object.meta.labels, &object.body)
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut changed = vnode();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    }

    #[test]
    fn what_a_tenant_changes_of_what_a_vnode_tells_is_seen() {
        for (pointer, value) in [
            ("/metadata/labels", json!({})),
            ("/status/capacity/cpu", json!("400")),
            ("/status/addresses/0/address", json!("198.51.100.1")),
            ("/status/conditions/0/status", json!("False")),
            ("/status/nodeInfo/architecture", json!("arm64")),
        ] {
            assert_ne!(shown_of(&with(pointer, value)), shown_of(&vnode()), "{pointer}");
        }
    }

    #[test]
    fn what_is_the_tenants_own_or_written_by_the_api_server_is_no_change() {
        let conditions = json!([
            {"type": "Own", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"},
            {"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": "2026-01-01T00:00:01Z"},
        ]);
        for (pointer, value) in [
            ("/metadata/labels", json!({"kubernetes.io/os": "linux", "tier": "own", "beta.kubernetes.io/os": "linux"})),
            ("/status/conditions", conditions),
            ("/status/nodeInfo/bootID", json!("b")),
        ] {
            assert_eq!(shown_of(&with(pointer, value)), shown_of(&vnode()), "{pointer}");
        }
    }
}
