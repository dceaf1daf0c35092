//! What a tenant sees of a node's pages: its own Pods under its own names, and nothing of anybody else.
//!
//! Built, not copied: a field or a label passes because it is named here. What is not known is left out.

pub mod pods;
pub mod prometheus;
pub mod stats;

use std::sync::Arc;

use common::Uid;

use crate::pods::{Pods, SuperPod};

/// The Pods of a node as one tenant may see them.
#[derive(Clone)]
pub struct View {
    pods: Arc<Pods>,
    tenant: Uid,
}

impl View {
    /// Of this tenant.
    pub fn new(pods: Arc<Pods>, tenant: Uid) -> Self {
        Self { pods, tenant }
    }

    /// The Pod at a place of the super cluster, if it is the tenant's.
    pub fn at(&self, namespace: &str, name: &str) -> Option<&SuperPod> {
        self.pods.at(self.tenant, namespace, name)
    }
}

/// A text that holds no name of the super cluster any more: the Pod's UID and namespace become the tenant's.
///
/// Also in the form that systemd's cgroups have, where `-` is `_`.
pub fn renamed(text: &str, pod: &SuperPod) -> String {
    let (sup, tenant) = (pod.uid.to_string(), pod.owner.uid.to_string());
    let text = text.replace(&pod.namespace, pod.tenant_namespace.as_str());
    let text = if pod.name == pod.owner.name.as_str() { text } else { text.replace(&pod.name, pod.owner.name.as_str()) };
    text.replace(&sup, &tenant).replace(&sup.replace('-', "_"), &tenant.replace('-', "_"))
}
