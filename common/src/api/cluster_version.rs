//! `ClusterVersion`: a template of tenant control planes.

use std::{borrow::Cow, collections::BTreeMap};

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The parts of a control plane: whole `StatefulSet`s and `Service`s, under `etcd`, `apiServer` and `controllerManager`.
///
/// *Caveats*: the definition is an open object, as the original's is, because its manifests carry whatever a `StatefulSet`
/// may hold. The syncer does not read it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tenancy.x-k8s.io",
    version = "v1alpha1",
    kind = "ClusterVersion",
    plural = "clusterversions",
    shortname = "cv",
    derive = "PartialEq",
    schema = "manual",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ClusterVersionSpec {
    /// Everything, as it was written.
    #[serde(flatten)]
    pub components: BTreeMap<String, Value>,
}

impl JsonSchema for ClusterVersion {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("ClusterVersion")
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "ClusterVersion is a template of tenant control planes.",
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_template_survives() {
        let text = serde_json::json!({
            "apiVersion": "tenancy.x-k8s.io/v1alpha1",
            "kind": "ClusterVersion",
            "metadata": {"name": "cv-sample-np"},
            "spec": {"etcd": {"metadata": {"name": "etcd"}, "statefulset": {"spec": {"replicas": 1}}}, "other": [1, 2]},
        });
        let read: ClusterVersion = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), text);
    }
}
