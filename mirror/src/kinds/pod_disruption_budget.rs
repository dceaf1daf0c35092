//! `PodDisruptionBudget`: goes down with its selector mapped, so that a drain of a super cluster's node waits for the tenant's Pods too.
//!
//! In the super cluster a Pod has no controller, so the disruption controller there knows no scale: of a budget that is a share, or says
//! how many may be missing, it makes that none may go, for ever. Only the number of Pods that must stay means the same in both clusters.
//!
//! *Caveats*: nothing is reported up, since the tenant's own disruption controller writes the status of its copy. A tenant may ask that none
//! of its Pods be evicted; a drain that does not wait for it deletes them (`kubectl drain --disable-eviction`).

use common::{InSuper, InTenant};
use serde_json::Value;

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Downward, Hearsay, Resource};
use crate::metadata;
use crate::object::{Content, Object};
use crate::shape::{Table, Verdict, carry_spec};

/// The kind.
pub struct PodDisruptionBudget;

/// The fields of the spec.
const SPEC: &Table = &[
    ("maxUnavailable", Verdict::Rewrite("refused")),
    ("minAvailable", Verdict::Rewrite("a number; a share is refused")),
    ("selector", Verdict::Rewrite("keys as labels have them in the super cluster")),
    ("unhealthyPodEvictionPolicy", Verdict::Copy),
];

/// What to do about a budget that does not go down.
const NUMBER: &str = "the super cluster does not know how many Pods your controllers want; say how many must stay, as a number in \
                      spec.minAvailable (in your own cluster the budget holds as it is)";

impl Downward for PodDisruptionBudget {
    fn resource(&self) -> Resource {
        Resource {
            group: "policy",
            version: "v1",
            api_version: "policy/v1",
            kind: "PodDisruptionBudget",
            plural: "poddisruptionbudgets",
            namespaced: true,
            status: false,
        }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", SPEC)]
    }

    fn hearsay(&self) -> Hearsay {
        Hearsay::Message
    }

    fn returns(&self) -> &'static str {
        "Nothing: the tenant's own disruption controller writes the status."
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let mut spec = carry_spec(tenant, SPEC, cx.policy.pass_unknown_fields)?;
        if spec.contains_key("maxUnavailable") {
            return Err(Hold::refuse("NotSupported", "spec.maxUnavailable", NUMBER));
        }
        if !spec.get("minAvailable").is_some_and(Value::is_u64) {
            return Err(Hold::refuse("NotSupported", "spec.minAvailable", NUMBER));
        }
        if let Some(selector) = spec.get_mut("selector") {
            *selector = metadata::selector_down(selector, cx.policy);
        }
        metadata::down_with_spec(&tenant.meta, spec, cx.policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        every_leaf_has_a_verdict::<k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec>(SPEC, &["selector"]);
    }
}
