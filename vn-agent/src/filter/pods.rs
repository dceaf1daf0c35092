//! `pods`: the tenant's Pods on this node, each built anew from what the tenant knows already.

use serde::Deserialize;

use super::elements::{Elements, Part};
use super::fields::{Field, Fields, Object, of_own_containers, only, text};
use super::{Passed, Unreadable, View};
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
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Fields<'a>,
    #[serde(borrow, default)]
    spec: Fields<'a>,
    #[serde(borrow, default)]
    status: Fields<'a>,
}

/// Filters a list as it comes.
pub struct Filter {
    view: View,
    elements: Elements,
    has_begun: bool,
}

impl Filter {
    /// For one tenant.
    pub fn new(view: View) -> Self {
        Self { view, elements: Elements::new("items", ""), has_begun: false }
    }

    /// Takes the next bytes of the list and adds what passes to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Passed) -> Result<(), Unreadable> {
        if !std::mem::replace(&mut self.has_begun, true) {
            out.plain("{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[");
        }
        let view = &self.view;
        self.elements.push(bytes, |part| match part {
            Part::Element(json) => pod(json, view, out).map_err(|_| Unreadable),
            Part::Field(_) => Ok(()),
        })
    }

    /// The list has ended.
    pub fn finish(&mut self, out: &mut Passed) -> Result<(), Unreadable> {
        self.elements.finish()?;
        out.plain("]}");
        Ok(())
    }
}

/// Adds a Pod, if it is the tenant's.
fn pod(json: &[u8], view: &View, out: &mut Passed) -> serde_json::Result<()> {
    let pod: Pod<'_> = serde_json::from_slice(json)?;
    let [namespace, name, uid] = ["namespace", "name", "uid"].map(|key| text(&pod.metadata, key).unwrap_or_default());
    let Some(own) = view.at(&namespace, &name).filter(|own| own.uid.to_string() == uid) else { return Ok(()) };
    let mut metadata = only(&pod.metadata, &["creationTimestamp"]);
    metadata.insert("name", Field::Text(own.owner.name.to_string()));
    metadata.insert("namespace", Field::Text(own.tenant_namespace.to_string()));
    metadata.insert("uid", Field::Text(own.owner.uid.to_string()));
    let spec = of(&pod.spec, &["nodeName"], (&LISTS, &CONTAINER), own)?;
    let status = of(&pod.status, &STATUS, (&STATUS_LISTS, &CONTAINER_STATUS), own)?;
    let passed = Object::from([("metadata", Field::Object(metadata)), ("spec", Field::Object(spec)), ("status", Field::Object(status))]);
    out.about(own.uid, &serde_json::to_string(&passed)?);
    Ok(())
}

/// The fields with these names, and of each of these lists what is about the tenant's own containers.
fn of<'a>(
    fields: &Fields<'a>,
    names: &[&'a str],
    (lists, of_each): (&[&'static str], &[&'a str]),
    own: &SuperPod,
) -> serde_json::Result<Object<'a>> {
    let mut out = only(fields, names);
    for list in lists {
        let Some(entries) = fields.get(*list) else { continue };
        let entries = of_own_containers(entries, of_each, own)?;
        if !entries.is_empty() {
            out.insert(list, Field::List(entries));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::Uid;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::tests::{pods, super_pod, tenant};

    fn filter(json: &[u8], view: View) -> Result<Vec<u8>, Unreadable> {
        super::super::Filter::Pods(Filter::new(view)).whole(json)
    }

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
        let out: Value = serde_json::from_slice(&filter(list.to_string().as_bytes(), view).unwrap()).unwrap();
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
            let _ = filter(&bytes, view);
        }
    }
}
