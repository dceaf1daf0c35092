//! `ConfigMap`: goes down, as it is, when an object that went down refers to it.

use common::{InSuper, InTenant, Name, Super, Tenant, keys};

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Demand, Downward, Resource};
use crate::metadata;
use crate::object::{Content, Object};
use crate::shape::{Table, Verdict, carry_body};
use crate::size;

/// The kind.
pub struct ConfigMap;

/// The fields of a `ConfigMap` beside its metadata.
const CONFIG_MAP: &Table = &[("binaryData", Verdict::Copy), ("data", Verdict::Copy), ("immutable", Verdict::Copy)];

impl Downward for ConfigMap {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "ConfigMap", plural: "configmaps", namespaced: true, status: false }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("", CONFIG_MAP)]
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let body = carry_body(&tenant.body, CONFIG_MAP, cx.policy.pass_unknown_fields)?;
        size::cap(Content { body, ..metadata::down(&tenant.meta, cx.policy) }, size::MOST_BYTES).map(InSuper)
    }

    /// The super cluster's own controller publishes its CA bundle under this name in each namespace, so the tenant's stands beside it.
    fn rename(&self, name: &Name<Tenant>) -> Name<Super> {
        if name.as_str() == keys::ROOT_CA_CONFIG_MAP { name.reserved() } else { name.same() }
    }

    fn demand(&self) -> Demand {
        Demand::Referenced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_field_has_a_verdict;

    #[test]
    fn every_field_has_its_verdict() {
        every_field_has_a_verdict::<k8s_openapi::api::core::v1::ConfigMap>(CONFIG_MAP);
    }
}
