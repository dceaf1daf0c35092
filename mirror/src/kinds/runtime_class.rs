//! `RuntimeClass`: those that the administrator publishes, for Pods of every tenant.
//!
//! On which nodes a class runs is not told: the super cluster's API server adds that to the Pods there.

use common::{InSuper, InTenant, keys};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object};
use crate::shown;

/// The kind.
pub struct RuntimeClass;

const FIELDS: [&str; 2] = ["handler", "overhead"];

impl Upward for RuntimeClass {
    fn resource(&self) -> Resource {
        Resource {
            group: "node.k8s.io",
            version: "v1",
            api_version: "node.k8s.io/v1",
            kind: "RuntimeClass",
            plural: "runtimeclasses",
            namespaced: false,
            status: false,
        }
    }

    fn shows(&self) -> &'static str {
        "Every tenant gets those that are published: handler and overhead. Its Pods may name them, or classes of its own that have the handler of one of \
         them, unless the syncer runs with `--runtime-class`."
    }

    fn mark(&self) -> Option<&'static str> {
        Some(keys::PUBLIC)
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        shown::audience(sup)
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _about: Option<&About<'_>>, _cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        Ok(InTenant((sup.meta.name.clone(), shown::content(sup, &FIELDS))))
    }
}
