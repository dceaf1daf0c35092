//! `stats/summary`: the tenant's Pods, its containers in them, and of the node its name alone.

use serde::Deserialize;

use super::elements::{Elements, Part};
use super::fields::{Field, Fields, Object, of_own_containers, only};
use super::{Passed, Unreadable, View};

/// What passes of a Pod's statistics beside its reference, containers and volumes: numbers of its own.
const POD: [&str; 8] = ["cpu", "ephemeral-storage", "io", "memory", "network", "process_stats", "startTime", "swap"];

/// What passes of a container's.
const CONTAINER: [&str; 9] = ["cpu", "io", "logs", "memory", "name", "process_stats", "rootfs", "startTime", "swap"];

/// What passes of a volume's; a claim is not named, since it has another name in the tenant.
const VOLUME: [&str; 9] =
    ["availableBytes", "capacityBytes", "inodes", "inodesFree", "inodesUsed", "name", "time", "usedBytes", "volumeHealthStats"];

/// What passes of the node.
const NODE: [&str; 2] = ["nodeName", "startTime"];

#[derive(Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
    uid: String,
}

/// Filters a page as it comes.
pub struct Filter {
    view: View,
    elements: Elements,
    /// What is said of the node, at the end.
    node: String,
    has_begun: bool,
}

impl Filter {
    /// For one tenant.
    pub fn new(view: View) -> Self {
        Self { view, elements: Elements::new("pods", "node"), node: "{}".to_owned(), has_begun: false }
    }

    /// Takes the next bytes of the page and adds what passes to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Passed) -> Result<(), Unreadable> {
        if !std::mem::replace(&mut self.has_begun, true) {
            out.plain("{\"pods\":[");
        }
        let (view, node) = (&self.view, &mut self.node);
        self.elements.push(bytes, |part| match part {
            Part::Element(json) => pod(json, view, out).map_err(|_| Unreadable),
            Part::Field(json) => {
                *node = of_node(json).map_err(|_| Unreadable)?;
                Ok(())
            }
        })
    }

    /// The page has ended.
    pub fn finish(&mut self, out: &mut Passed) -> Result<(), Unreadable> {
        self.elements.finish()?;
        out.plain(&format!("],\"node\":{}}}", self.node));
        Ok(())
    }
}

fn of_node(json: &[u8]) -> serde_json::Result<String> {
    let fields: Option<Fields<'_>> = serde_json::from_slice(json)?;
    serde_json::to_string(&only(&fields.unwrap_or_default(), &NODE))
}

/// Adds a Pod's statistics, if it is the tenant's.
fn pod(json: &[u8], view: &View, out: &mut Passed) -> serde_json::Result<()> {
    let fields: Fields<'_> = serde_json::from_slice(json)?;
    let Some(reference) = fields.get("podRef") else { return Ok(()) };
    let reference: PodRef = serde_json::from_str(reference.get())?;
    let Some(own) = view.at(&reference.namespace, &reference.name).filter(|own| own.uid.to_string() == reference.uid) else {
        return Ok(());
    };
    let mut passed = only(&fields, &POD);
    let reference = Object::from([
        ("name", Field::Text(own.owner.name.to_string())),
        ("namespace", Field::Text(own.tenant_namespace.to_string())),
        ("uid", Field::Text(own.owner.uid.to_string())),
    ]);
    passed.insert("podRef", Field::Object(reference));
    let containers = fields.get("containers").map(|list| of_own_containers(list, &CONTAINER, own)).transpose()?;
    passed.insert("containers", Field::List(containers.unwrap_or_default()));
    if let Some(list) = fields.get("volume") {
        let volumes: Option<Vec<Fields<'_>>> = serde_json::from_str(list.get())?;
        let volumes = volumes.unwrap_or_default().iter().map(|volume| only(volume, &VOLUME)).collect();
        passed.insert("volume", Field::List(volumes));
    }
    out.about(own.uid, &serde_json::to_string(&passed)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::{Namespace, Uid};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::tests::{pods, super_pod, tenant};

    fn view() -> View {
        let (a, b) = (tenant(1), tenant(2));
        View::new(Arc::new(pods(&[super_pod(&a, "default", "web", 7, "app"), super_pod(&b, "default", "web", 8, "app")])), a.uid())
    }

    fn filter(json: &[u8]) -> Result<Vec<u8>, Unreadable> {
        super::super::Filter::Summary(Filter::new(view())).whole(json)
    }

    fn stats(tenant_number: u128, uid: u128) -> Value {
        let namespace = tenant(tenant_number).namespace(&Namespace::parse("default").unwrap()).to_string();
        json!({
            "podRef": {"name": "web", "namespace": namespace, "uid": Uid::from_bits(uid).to_string()},
            "startTime": "2026-01-01T00:00:00Z",
            "containers": [{"name": "app", "cpu": {"usageNanoCores": 5}, "secret": 1}, {"name": "istio-proxy", "cpu": {}}],
            "cpu": {"usageNanoCores": 6},
            "volume": [{"name": "data", "usedBytes": 7, "pvcRef": {"name": "x", "namespace": namespace}}],
            "swap": {"swapUsageBytes": 8}, "unknown": 8,
        })
    }

    #[test]
    fn s56_a_tenant_sees_its_own_pods_and_its_own_containers() {
        let summary = json!({
            "node": {"nodeName": "n1", "startTime": "2026-01-01T00:00:00Z", "cpu": {"usageNanoCores": 9}, "systemContainers": [{"name": "kubelet"}]},
            "pods": [stats(1, 7), stats(2, 8), stats(1, 9)],
        });
        let out: Value = serde_json::from_slice(&filter(summary.to_string().as_bytes()).unwrap()).unwrap();
        let expected = json!({
            "node": {"nodeName": "n1", "startTime": "2026-01-01T00:00:00Z"},
            "pods": [{
                "podRef": {"name": "web", "namespace": "default", "uid": Uid::from_bits(1007).to_string()},
                "startTime": "2026-01-01T00:00:00Z",
                "containers": [{"name": "app", "cpu": {"usageNanoCores": 5}}],
                "cpu": {"usageNanoCores": 6}, "swap": {"swapUsageBytes": 8},
                "volume": [{"name": "data", "usedBytes": 7}],
            }],
        });
        assert_eq!(out, expected);
    }

    #[test]
    fn what_is_no_summary_is_an_error_and_an_empty_one_is_empty() {
        assert!(filter(b"<html>").is_err());
        assert_eq!(filter(b"{}").unwrap(), br#"{"pods":[],"node":{}}"#);
        assert_eq!(filter(br#"{"node":{},"pods":null}"#).unwrap(), br#"{"pods":[],"node":{}}"#);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_survived(bytes: Vec<u8>) {
            let _ = filter(&bytes);
        }
    }
}
