//! `StorageClass`: those that the administrator publishes, for the claims of every tenant.
//!
//! What is the provisioner's own affair (parameters, which may name Secrets, and where volumes can be) is not told: volumes are made in the
//! super cluster, by the class there.
//!
//! *Caveats*: the super cluster's default is told as one when the copy is made; which class is the default afterwards is for the tenant to say.

use common::{InSuper, InTenant, keys};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object};
use crate::shown;

/// The kind.
pub struct StorageClass;

const FIELDS: [&str; 5] = ["allowVolumeExpansion", "mountOptions", "provisioner", "reclaimPolicy", "volumeBindingMode"];

/// The annotation by which a class is the default.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

impl Upward for StorageClass {
    fn resource(&self) -> Resource {
        Resource {
            group: "storage.k8s.io",
            version: "v1",
            api_version: "storage.k8s.io/v1",
            kind: "StorageClass",
            plural: "storageclasses",
            namespaced: false,
            status: false,
        }
    }

    fn shows(&self) -> &'static str {
        "Every tenant gets those that are published, without parameters and topologies. Its claims may name them, and no others. The super cluster's \
         default is the tenant's too, until it chooses another."
    }

    fn mark(&self) -> Option<&'static str> {
        Some(keys::PUBLIC)
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        shown::audience(sup)
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _about: Option<&About<'_>>, _cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        let mut content = shown::content(sup, &FIELDS);
        content.annotations.extend(shown::default(sup, DEFAULT));
        Ok(InTenant((sup.meta.name.clone(), content)))
    }
}
