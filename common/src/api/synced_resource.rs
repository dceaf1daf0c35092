//! `SyncedResource`: a kind of custom resources that goes down, as the administrator of the super cluster configures it.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;

/// What is asked of a kind of custom resources.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tenancy.x-k8s.io",
    version = "v1alpha1",
    kind = "SyncedResource",
    plural = "syncedresources",
    status = "SyncedResourceStatus",
    derive = "PartialEq",
    doc = "SyncedResource is a kind of custom resources that tenants' objects of go down to this cluster, field by field. It is named <plural>.<group>, as the definition of the kind is.",
    validation = Rule::new("self.metadata.name == self.spec.plural + '.' + self.spec.group").message("it is named <plural>.<group>"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SyncedResourceSpec {
    /// The API group. Kinds that are built in are none of these.
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+$"))]
    pub group: String,

    /// The kind, as objects say it: `Certificate`.
    #[schemars(length(max = 63), regex(pattern = "^[A-Z][A-Za-z0-9]*$"))]
    pub kind: String,

    /// The plural, as paths say it: `certificates`.
    #[schemars(length(max = 63), regex(pattern = "^[a-z][a-z0-9]*$"))]
    pub plural: String,

    /// Which way objects go.
    #[serde(default)]
    pub direction: Direction,

    /// Only those of a tenant's objects that have these labels go down; without any, all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub match_labels: BTreeMap<String, String>,

    /// What becomes of each field of a tenant's object. One that stands nowhere here holds the object back, and an Event names it.
    #[schemars(length(min = 1, max = 500), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub fields: Vec<Field>,

    /// How many of one tenant's objects there are in this cluster at most; the others wait, and an Event says so.
    #[serde(default = "default_most")]
    #[schemars(with = "i32", range(min = 1, max = 100_000))]
    pub most: u32,

    /// What comes back: `status`, or fields of it. Names of this cluster do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(length(max = 500), regex(pattern = r"^status(\.[A-Za-z][-A-Za-z0-9_]*)*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub returns: Vec<String>,
}

/// Far more than one has who does not mean harm.
const fn default_most() -> u32 {
    1000
}

/// Which way objects go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// Tenants make them, the super cluster's controllers work on them.
    #[default]
    Down,
}

/// One field of a tenant's object, with all that is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.values) || !has(self.verdict) || self.verdict in ['Copy', 'CopyOrKeep']",
     "message": "values need the verdict Copy or CopyOrKeep"},
    {"rule": "!(self.path.split('.')[0].split('[')[0] in ['apiVersion', 'kind', 'metadata', 'status'])",
     "message": "apiVersion, kind, metadata and status do not go down by a field"},
]))]
pub struct Field {
    /// Where it stands, from the top: `spec.secretName`; in the objects of a list, `spec.sources[].name`.
    #[schemars(length(max = 500), regex(pattern = r"^[A-Za-z][-A-Za-z0-9_]*(\[\])?(\.[A-Za-z][-A-Za-z0-9_]*(\[\])?)*$"))]
    pub path: String,

    /// What becomes of it.
    #[serde(default)]
    pub verdict: FieldVerdict,

    /// With `Copy` and `CopyOrKeep`: the texts that it may have. Others hold the object back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 253)))]
    pub values: Vec<String>,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FieldVerdict {
    /// It is carried as it is, with all that is in it. What would lead out of the tenant's namespace, run something or claim to be the
    /// syncer's is carried only where a field of its own says so.
    #[default]
    Copy,
    /// As `Copy`; where the tenant's object has none, what this cluster has chosen stays.
    CopyOrKeep,
    /// A label selector: its keys are those that labels have in the super cluster.
    Selector,
    /// Labels, of an object that is made or to be matched: as they are in the super cluster.
    Labels,
    /// The name of the namespace that the object is in; any other is refused.
    Namespace,
    /// It is left out without a word.
    LeaveOut,
    /// It holds the object back.
    Refuse,
}

/// What was made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncedResourceStatus {
    /// The versions that are followed, and in how many tenants each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub versions: Vec<FollowedVersion>,

    /// What holds now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub conditions: Vec<Condition>,
}

/// A version that is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FollowedVersion {
    /// The version: `v1`.
    #[serde(default)]
    pub version: String,
    /// In how many tenants it is the highest that both sides serve.
    #[serde(default)]
    pub tenants: i32,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_least_that_is_said_is_read() {
        let read: SyncedResource = serde_json::from_value(json!({
            "apiVersion": "tenancy.x-k8s.io/v1alpha1",
            "kind": "SyncedResource",
            "metadata": {"name": "certificates.cert-manager.io"},
            "spec": {"group": "cert-manager.io", "kind": "Certificate", "plural": "certificates", "fields": [{"path": "spec"}]},
        }))
        .unwrap();
        assert_eq!((read.spec.direction, read.spec.fields[0].verdict, read.spec.most), (Direction::Down, FieldVerdict::Copy, 1000));
    }

    #[test]
    fn the_definition_is_of_the_cluster_and_has_a_status() {
        let crd = serde_json::to_value(SyncedResource::crd()).unwrap();
        let version = &crd["spec"]["versions"][0];
        assert_eq!((&crd["spec"]["scope"], &version["subresources"]), (&json!("Cluster"), &json!({"status": {}})));
        let schema = &version["schema"]["openAPIV3Schema"];
        assert_eq!(schema["required"], json!(["spec"]));
        assert!(schema["x-kubernetes-validations"].as_array().is_some_and(|rules| rules.len() == 1), "{schema}");
        assert_eq!(schema["properties"]["status"]["required"], Value::Null);
    }
}
