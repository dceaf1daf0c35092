//! `IngressClass`: those that the administrator publishes, for the Ingresses of every tenant.
//!
//! Parameters are not told: they name objects of the super cluster.
//!
//! *Caveats*: the super cluster's default is told as one when the copy is made; which class is the default afterwards is for the tenant to say.

use common::{InSuper, InTenant, keys};
use serde_json::{Map, Value};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{About, Audience, Resource, Upward};
use crate::object::{Content, Object};
use crate::shown;

/// The kind.
pub struct IngressClass;

/// The annotation by which a class is the default.
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

impl Upward for IngressClass {
    fn resource(&self) -> Resource {
        Resource {
            group: "networking.k8s.io",
            version: "v1",
            api_version: "networking.k8s.io/v1",
            kind: "IngressClass",
            plural: "ingressclasses",
            namespaced: false,
            status: false,
        }
    }

    fn shows(&self) -> &'static str {
        "Every tenant gets those that are published, without parameters. Its Ingresses name one of them, and no other. The super cluster's default is \
         the tenant's too, until it chooses another."
    }

    fn mark(&self) -> Option<&'static str> {
        Some(keys::PUBLIC)
    }

    fn audience(&self, InSuper(sup): &InSuper<Object>) -> Audience {
        shown::audience(sup)
    }

    fn up(&self, InSuper(sup): &InSuper<Object>, _about: Option<&About<'_>>, _cx: &Cx<'_>) -> Result<InTenant<(String, Content)>, Hold> {
        let mut content = shown::content(sup, &[]);
        let controller = sup.at("/spec/controller").cloned();
        let spec: Map<String, Value> = controller.into_iter().map(|controller| ("controller".to_owned(), controller)).collect();
        content.body.insert("spec".to_owned(), Value::Object(spec));
        content.annotations.extend(shown::default(sup, DEFAULT));
        Ok(InTenant((sup.meta.name.clone(), content)))
    }
}
