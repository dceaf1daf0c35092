//! `VolumeAttributesClass`: those that the administrator publishes, for the claims of every tenant.
//!
//! Which driver it is for is told, what it is to do there is not, as with a [`StorageClass`](super::storage_class::StorageClass): a volume is changed in
//! the super cluster, by the class there. API servers want at least one parameter, which then says that the class is published and nothing else.
//!
//! *Sources*: served since Kubernetes 1.34 unless it is switched off; driver and parameters cannot change (`pkg/apis/storage/validation`).

use common::{InSuper, InTenant, keys};
use serde_json::json;

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object};
use crate::shown;

/// The kind.
pub struct VolumeAttributesClass;

const FIELDS: [&str; 1] = ["driverName"];

impl Upward for VolumeAttributesClass {
    fn resource(&self) -> Resource {
        Resource {
            group: "storage.k8s.io",
            version: "v1",
            api_version: "storage.k8s.io/v1",
            kind: "VolumeAttributesClass",
            plural: "volumeattributesclasses",
            namespaced: false,
            status: false,
        }
    }

    fn shows(&self) -> &'static str {
        "Every tenant gets those that are published, without parameters. Its claims may name them, and no others."
    }

    fn mark(&self) -> Option<&'static str> {
        Some(keys::PUBLIC)
    }

    fn is_optional(&self) -> bool {
        true
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        shown::audience(sup)
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _about: Option<&About<'_>>, _cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        let mut content = shown::content(sup, &FIELDS);
        content.body.insert("parameters".to_owned(), json!({ keys::PUBLIC: "true" }));
        Ok(InTenant((sup.meta.name.clone(), content)))
    }
}
