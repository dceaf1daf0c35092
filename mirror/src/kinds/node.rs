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
use crate::object::{Content, Object};
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

fn status_up(sup: &Object, cx: &Cx<'_>) -> Value {
    let mut status = Map::new();
    for key in ["allocatable", "capacity"] {
        if let Some(amounts) = sup.body.get("status").and_then(|status| status.get(key)) {
            status.insert(key.to_owned(), amounts.clone());
        }
    }
    let addresses: Vec<Value> = list(sup, "/status/addresses").filter(|address| is(address, "type", "InternalIP")).cloned().collect();
    status.insert("addresses".to_owned(), Value::Array(addresses));
    let conditions: Vec<Value> = list(sup, "/status/conditions").filter_map(|condition| condition_up(condition, cx)).collect();
    status.insert("conditions".to_owned(), Value::Array(conditions));
    status.insert("daemonEndpoints".to_owned(), json!({"kubeletEndpoint": {"Port": cx.profile.agent_port}}));
    let features: Vec<Value> =
        list(sup, "/status/declaredFeatures").filter(|one| one.as_str().is_some_and(|one| FEATURES.contains(&one))).cloned().collect();
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

fn list<'a>(object: &'a Object, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.at(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn is(value: &Value, key: &str, text: &str) -> bool {
    value.get(key).and_then(Value::as_str) == Some(text)
}
