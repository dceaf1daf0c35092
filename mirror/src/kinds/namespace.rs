//! Namespace: made in the super cluster when the first object goes down into it; its metadata there is ours alone.
//!
//! *Caveats*: the super name is [`common::TenantId::namespace`] of the tenant's name, which [`Downward::rename`] cannot say: whoever plans
//! for a kind of [`Demand::Contents`] takes it from there.

use std::collections::BTreeMap;

use common::{InSuper, InTenant};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Demand, Downward, Resource};
use crate::metadata;
use crate::object::{Content, Object};

/// The kind.
pub struct Namespace;

/// The label by which the super API server itself holds the Pods of a namespace to a Pod Security Standard.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

impl Downward for Namespace {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Namespace", plural: "namespaces", namespaced: false, status: false }
    }

    fn returns(&self) -> &'static str {
        "Nothing. Of the tenant's Namespace nothing goes down but that it is there: labels and annotations of the super namespace are the syncer's."
    }

    /// Nothing of the tenant's: labels of a namespace switch policies and injection on and off in the super cluster.
    fn down(&self, _tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let labels = if cx.policy.allow_privileged { BTreeMap::new() } else { [(ENFORCE.to_owned(), "baseline".to_owned())].into() };
        Ok(InSuper(Content { labels, ..Content::default() }))
    }

    fn amend(&self, InSuper(asked): InSuper<Content>, InSuper(current): &InSuper<Object>, cx: &Cx<'_>) -> InSuper<Content> {
        let mut content = metadata::merge(asked, &current.meta, cx.policy);
        content.body.clone_from(&current.body);
        content.body.remove("status");
        InSuper(content)
    }

    fn demand(&self) -> Demand {
        Demand::Contents
    }
}
