//! `stats/summary`: the tenant's Pods, its containers in them, and of the node its name alone.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::View;
use crate::pods::SuperPod;

/// What passes of a Pod's statistics beside its reference, containers and volumes: numbers of its own.
const POD: [&str; 7] = ["cpu", "ephemeral-storage", "io", "memory", "network", "process_stats", "startTime"];

/// What passes of a container's.
const CONTAINER: [&str; 9] = ["cpu", "io", "logs", "memory", "name", "process_stats", "rootfs", "startTime", "swap"];

/// What passes of a volume's; a claim is not named, since it has another name in the tenant.
const VOLUME: [&str; 9] =
    ["availableBytes", "capacityBytes", "inodes", "inodesFree", "inodesUsed", "name", "time", "usedBytes", "volumeHealthStats"];

#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    node: Node,
    #[serde(default)]
    pods: Option<Vec<Pod>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    node_name: String,
    start_time: Option<String>,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(rename = "podRef")]
    reference: PodRef,
    #[serde(default)]
    containers: Option<Vec<Map<String, Value>>>,
    #[serde(default, rename = "volume")]
    volumes: Option<Vec<Map<String, Value>>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
    uid: String,
}

/// The summary as the tenant may see it.
pub fn filter(json: &[u8], view: &View) -> Result<Vec<u8>, serde_json::Error> {
    let summary: Summary = serde_json::from_slice(json)?;
    let pods: Vec<Value> = summary.pods.unwrap_or_default().into_iter().filter_map(|pod| passed(pod, view)).collect();
    let mut node = Map::from_iter([("nodeName".to_owned(), Value::from(summary.node.node_name))]);
    if let Some(start) = summary.node.start_time {
        node.insert("startTime".to_owned(), Value::from(start));
    }
    serde_json::to_vec(&json!({"node": node, "pods": pods}))
}

fn passed(pod: Pod, view: &View) -> Option<Value> {
    let own = view.at(&pod.reference.namespace, &pod.reference.name).filter(|own| own.uid.to_string() == pod.reference.uid)?;
    let mut out = only(pod.rest, &POD);
    let reference = json!({"name": own.owner.name.as_str(), "namespace": own.tenant_namespace.as_str(), "uid": own.owner.uid.to_string()});
    out.insert("podRef".to_owned(), reference);
    let containers = pod.containers.unwrap_or_default().into_iter().filter(|container| is_own(container, own));
    out.insert("containers".to_owned(), containers.map(|container| Value::Object(only(container, &CONTAINER))).collect());
    if let Some(volumes) = pod.volumes {
        out.insert("volume".to_owned(), volumes.into_iter().map(|volume| Value::Object(only(volume, &VOLUME))).collect());
    }
    Some(Value::Object(out))
}

fn is_own(container: &Map<String, Value>, pod: &SuperPod) -> bool {
    container.get("name").and_then(Value::as_str).is_some_and(|name| pod.containers.contains(name))
}

fn only(fields: Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    fields.into_iter().filter(|(key, _)| names.contains(&key.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::{Namespace, Uid};
    use proptest::prelude::*;

    use super::*;
    use crate::pods::tests::{pods, super_pod, tenant};

    fn view() -> View {
        let (a, b) = (tenant(1), tenant(2));
        View::new(Arc::new(pods(&[super_pod(&a, "default", "web", 7, "app"), super_pod(&b, "default", "web", 8, "app")])), a.uid())
    }

    fn stats(tenant_number: u128, uid: u128) -> Value {
        let namespace = tenant(tenant_number).namespace(&Namespace::parse("default").unwrap()).to_string();
        json!({
            "podRef": {"name": "web", "namespace": namespace, "uid": Uid::from_bits(uid).to_string()},
            "startTime": "2026-01-01T00:00:00Z",
            "containers": [{"name": "app", "cpu": {"usageNanoCores": 5}, "secret": 1}, {"name": "istio-proxy", "cpu": {}}],
            "cpu": {"usageNanoCores": 6},
            "volume": [{"name": "data", "usedBytes": 7, "pvcRef": {"name": "x", "namespace": namespace}}],
            "swap": {}, "unknown": 8,
        })
    }

    #[test]
    fn s56_a_tenant_sees_its_own_pods_and_its_own_containers() {
        let summary = json!({
            "node": {"nodeName": "n1", "startTime": "2026-01-01T00:00:00Z", "cpu": {"usageNanoCores": 9}, "systemContainers": [{"name": "kubelet"}]},
            "pods": [stats(1, 7), stats(2, 8), stats(1, 9)],
        });
        let out: Value = serde_json::from_slice(&filter(summary.to_string().as_bytes(), &view()).unwrap()).unwrap();
        let expected = json!({
            "node": {"nodeName": "n1", "startTime": "2026-01-01T00:00:00Z"},
            "pods": [{
                "podRef": {"name": "web", "namespace": "default", "uid": Uid::from_bits(1007).to_string()},
                "startTime": "2026-01-01T00:00:00Z",
                "containers": [{"name": "app", "cpu": {"usageNanoCores": 5}}],
                "cpu": {"usageNanoCores": 6},
                "volume": [{"name": "data", "usedBytes": 7}],
            }],
        });
        assert_eq!(out, expected);
    }

    #[test]
    fn what_is_no_summary_is_an_error_and_an_empty_one_is_empty() {
        assert!(filter(b"<html>", &view()).is_err());
        assert_eq!(filter(b"{}", &view()).unwrap(), br#"{"node":{"nodeName":""},"pods":[]}"#);
        assert_eq!(filter(br#"{"node":{},"pods":null}"#, &view()).unwrap(), br#"{"node":{"nodeName":""},"pods":[]}"#);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_survived(bytes: Vec<u8>) {
            let _ = filter(&bytes, &view());
        }
    }
}
