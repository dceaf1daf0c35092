//! `PriorityClass`: those that the administrator publishes, for Pods of every tenant.
//!
//! The super cluster's default is not told as one: an API server takes one default alone, and it may be the tenant's own.

use common::{InSuper, InTenant, keys};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object};
use crate::shown;

/// The kind.
pub struct PriorityClass;

const FIELDS: [&str; 3] = ["description", "preemptionPolicy", "value"];

/// What begins so, every API server has of its own, and no tenant uses.
const OF_THE_SYSTEM: &str = "system-";

impl Upward for PriorityClass {
    fn resource(&self) -> Resource {
        Resource {
            group: "scheduling.k8s.io",
            version: "v1",
            api_version: "scheduling.k8s.io/v1",
            kind: "PriorityClass",
            plural: "priorityclasses",
            namespaced: false,
            status: false,
        }
    }

    fn shows(&self) -> &'static str {
        "Every tenant gets those that are published, but for the system's: value, preemption policy and description. Its Pods may name them. A tenant's own \
         classes mean nothing among tenants."
    }

    fn mark(&self) -> Option<&'static str> {
        Some(keys::PUBLIC)
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        if sup.meta.name.starts_with(OF_THE_SYSTEM) { Audience::Nobody } else { shown::audience(sup) }
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _about: Option<&About<'_>>, _cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        Ok(InTenant((sup.meta.name.clone(), shown::content(sup, &FIELDS))))
    }
}
