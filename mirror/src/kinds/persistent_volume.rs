//! `PersistentVolume`: the one that a tenant's claim got in the super cluster, as the tenant's own controllers need it to bind the claim.
//!
//! What the volume is made of, where it can be mounted and which Secrets open it stays in the super cluster: nobody mounts the tenant's copy. Its
//! name is the one that a provisioner of the tenant's own would give it.
//!
//! *Guarantees*: only what a claim of the tenant's is bound to is shown; a volume that is released, and kept by the administrator, is shown to nobody.
//!
//! *Sources*: `pkg/controller/volume/persistentvolume` of Kubernetes (a volume that names a claim by its UID is bound to that one and no other).

use std::collections::BTreeMap;

use common::{InSuper, InTenant, keys};
use serde_json::{Map, Value, json};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object};
use crate::shown;

/// The kind.
pub struct PersistentVolume;

/// What of the spec the tenant is told.
const SPEC: [&str; 7] = [
    "accessModes",
    "capacity",
    "mountOptions",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The annotation by which a controller knows that deleting the volume is another's business.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

impl Upward for PersistentVolume {
    fn resource(&self) -> Resource {
        Resource {
            group: "",
            version: "v1",
            api_version: "v1",
            kind: "PersistentVolume",
            plural: "persistentvolumes",
            namespaced: false,
            status: false,
        }
    }

    fn shows(&self) -> &'static str {
        "A tenant gets those that its claims are bound to: size, access modes, mode, classes and reclaim policy. What they are made of is not told."
    }

    fn mark(&self) -> Option<&'static str> {
        Some(keys::VIRTUAL_VOLUME)
    }

    fn is_right(&self, wanted: &Content, seen: &Object) -> bool {
        wanted.body.get("spec").zip(seen.body.get("spec")).is_some_and(|(wanted, seen)| shown::says(wanted, seen))
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        let claim = |field: &str| sup.text(&format!("/spec/claimRef/{field}")).map(str::to_owned);
        let bound = sup.text("/status/phase") == Some("Bound");
        let (Some(namespace), Some(name), Some(uid), true) = (claim("namespace"), claim("name"), claim("uid"), bound) else {
            return Audience::Nobody;
        };
        Audience::OwnerOf { kind: "PersistentVolumeClaim".to_owned(), namespace, name, uid }
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, about: Option<&About<'_>>, _cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        let claim = about.ok_or(Hold::Malformed("a volume is shown to the owner of its claim alone".into()))?;
        let name = format!("pvc-{}", claim.uid);
        let driver = sup.text("/spec/csi/driver").unwrap_or(keys::GROUP);
        let told = SPEC.iter().filter_map(|field| Some(((*field).to_owned(), sup.at(&format!("/spec/{field}"))?.clone())));
        let mut spec: Map<String, Value> = told.collect();
        spec.insert("claimRef".to_owned(), json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace, "name": claim.name, "uid": claim.uid}));
        spec.insert("csi".to_owned(), json!({"driver": driver, "volumeHandle": name}));
        let content = Content {
            labels: BTreeMap::from([(keys::VIRTUAL_VOLUME.to_owned(), "true".to_owned())]),
            annotations: BTreeMap::from([(PROVISIONED_BY.to_owned(), driver.to_owned())]),
            body: Map::from_iter([("spec".to_owned(), Value::Object(spec))]),
            ..Content::default()
        };
        Ok(InTenant((name, content)))
    }
}
