//! `pods`: the tenant's Pods on this node, each built anew from what the tenant knows already.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::View;
use crate::pods::SuperPod;

/// What passes of a Pod's status, beside its containers.
const STATUS: [&str; 5] = ["phase", "podIP", "podIPs", "qosClass", "startTime"];

/// What passes of a container in a spec.
const CONTAINER: [&str; 5] = ["image", "imagePullPolicy", "name", "ports", "resources"];

/// The lists of containers in a spec, and of their statuses.
const LISTS: [&str; 3] = ["containers", "ephemeralContainers", "initContainers"];
const STATUS_LISTS: [&str; 3] = ["containerStatuses", "ephemeralContainerStatuses", "initContainerStatuses"];

/// What passes of a container's status.
const CONTAINER_STATUS: [&str; 8] = ["containerID", "image", "imageID", "name", "ready", "restartCount", "started", "state"];

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Option<Vec<Pod>>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Map<String, Value>,
    #[serde(default)]
    status: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    creation_timestamp: Option<String>,
}

/// The list as the tenant may see it.
pub fn filter(json: &[u8], view: &View) -> Result<Vec<u8>, serde_json::Error> {
    let list: List = serde_json::from_slice(json)?;
    let items: Vec<Value> = list.items.unwrap_or_default().into_iter().filter_map(|pod| passed(&pod, view)).collect();
    serde_json::to_vec(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn passed(pod: &Pod, view: &View) -> Option<Value> {
    let meta = &pod.metadata;
    let own = view.at(&meta.namespace, &meta.name).filter(|own| own.uid.to_string() == meta.uid)?;
    let mut metadata = Map::from_iter([
        ("name".to_owned(), Value::from(own.owner.name.as_str())),
        ("namespace".to_owned(), Value::from(own.tenant_namespace.as_str())),
        ("uid".to_owned(), Value::from(own.owner.uid.to_string())),
    ]);
    if let Some(time) = &meta.creation_timestamp {
        metadata.insert("creationTimestamp".to_owned(), Value::from(time.as_str()));
    }
    let mut spec = only(&pod.spec, &["nodeName"]);
    for list in LISTS {
        insert_own(&mut spec, list, &pod.spec, &CONTAINER, own);
    }
    let mut status = only(&pod.status, &STATUS);
    for list in STATUS_LISTS {
        insert_own(&mut status, list, &pod.status, &CONTAINER_STATUS, own);
    }
    Some(json!({"metadata": metadata, "spec": spec, "status": status}))
}

/// Puts in the entries of a list that are about the tenant's own containers.
fn insert_own(out: &mut Map<String, Value>, list: &str, from: &Map<String, Value>, fields: &[&str], pod: &SuperPod) {
    let Some(Value::Array(entries)) = from.get(list) else { return };
    let is_own = |entry: &&Map<String, Value>| entry.get("name").and_then(Value::as_str).is_some_and(|name| pod.containers.contains(name));
    let own: Vec<Value> =
        entries.iter().filter_map(Value::as_object).filter(is_own).map(|entry| Value::Object(only(entry, fields))).collect();
    if !own.is_empty() {
        out.insert(list.to_owned(), Value::Array(own));
    }
}

fn only(fields: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    fields.iter().filter(|(key, _)| names.contains(&key.as_str())).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::Uid;
    use proptest::prelude::*;

    use super::*;
    use crate::pods::tests::{pods, super_pod, tenant};

    #[test]
    fn s56_a_tenant_sees_its_own_pods_under_its_own_names() {
        let (a, b) = (tenant(1), tenant(2));
        let mut own = super_pod(&a, "default", "web", 7, "app");
        own["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        own["spec"] = json!({
            "nodeName": "n1", "serviceAccountName": "default", "volumes": [{"name": "v", "secret": {"secretName": "vc.token.x"}}],
            "containers": [{"name": "app", "image": "i", "env": [{"name": "A", "value": "secret"}]}, {"name": "istio-proxy", "image": "j"}],
        });
        own["status"] = json!({
            "phase": "Running", "podIP": "10.0.0.1", "hostIP": "192.0.2.1",
            "containerStatuses": [{"name": "app", "ready": true, "lastState": {}}, {"name": "istio-proxy", "ready": true}],
        });
        let items = [own, super_pod(&b, "default", "web", 8, "app"), json!({"metadata": {"name": "etcd", "namespace": "kube-system"}})];
        let list = json!({"kind": "PodList", "items": items});
        let view = View::new(Arc::new(pods(&items)), a.uid());
        let out: Value = serde_json::from_slice(&filter(list.to_string().as_bytes(), &view).unwrap()).unwrap();
        let expected = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": Uid::from_bits(1007).to_string(), "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": [{"name": "app", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "app", "ready": true}]},
        });
        assert_eq!(out["items"], json!([expected]));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_survived(bytes: Vec<u8>) {
            let view = View::new(Arc::new(pods(&[])), Uid::from_bits(1));
            let _ = filter(&bytes, &view);
        }
    }
}
