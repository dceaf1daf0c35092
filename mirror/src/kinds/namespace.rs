//! Namespace: made in the super cluster when the first object goes down into it; its metadata there is ours alone. The tenant's labels of it are
//! there under hashed keys, but for its name: selectors of namespaces select by them, and nothing else reads them.
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

/// Labels of one namespace that go down.
const MOST_LABELS: usize = 100;

impl Downward for Namespace {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Namespace", plural: "namespaces", namespaced: false, status: false }
    }

    fn returns(&self) -> &'static str {
        "Nothing. Of the tenant's Namespace nothing goes down but that it is there, and its labels under hashed keys, by which selectors of namespaces select: what else stands on the super namespace is the syncer's."
    }

    /// None of the tenant's labels under its own key: those of a namespace switch policies and injection on and off in the super cluster.
    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let few: BTreeMap<_, _> = tenant.meta.labels.iter().take(MOST_LABELS).map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut labels = metadata::namespace_labels_down(&few);
        if !cx.policy.allow_privileged {
            labels.insert(ENFORCE.to_owned(), "baseline".to_owned());
        }
        Ok(InSuper(Content { labels, ..Content::default() }))
    }

    fn left_out(&self, InTenant(tenant): &InTenant<Object>, _sup: Option<&InSuper<Object>>, _cx: &Cx<'_>) -> Option<Hold> {
        let count = tenant.meta.labels.len();
        let message =
            format!("{count} labels are more than the {MOST_LABELS} by which a namespace is selected; the last of them are left out");
        (count > MOST_LABELS).then(|| Hold::refuse("TooManyLabels", "metadata.labels", message))
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
