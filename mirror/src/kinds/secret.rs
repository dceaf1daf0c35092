//! Secret: goes down when an object that went down refers to it, and never as a type that makes a controller of the super cluster act.

use common::{InSuper, InTenant};
use serde_json::Value;

use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Demand, Downward, Observe, Resource};
use crate::metadata;
use crate::object::{Content, Object};
use crate::shape::{Table, Verdict, carry_body};
use crate::size;

/// The kind.
pub struct Secret;

/// The fields of a Secret beside its metadata.
const SECRET: &Table = &[
    ("data", Verdict::Copy),
    ("immutable", Verdict::Copy),
    ("stringData", Verdict::Force("write-only: an API server hands out what it made of it, in data")),
    ("type", Verdict::Rewrite("built-in types that controllers act on become Opaque")),
];

/// Types under `kubernetes.io/` that say what the data looks like and do nothing: kubelets and ingresses read them.
const PLAIN_TYPES: [&str; 5] = [
    "kubernetes.io/basic-auth",
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/ssh-auth",
    "kubernetes.io/tls",
];

/// The type that asks for nothing, and the default.
const OPAQUE: &str = "Opaque";

impl Downward for Secret {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Secret", plural: "secrets", namespaced: true, status: false }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("", SECRET)]
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let mut body = carry_body(&tenant.body, SECRET, cx.policy.pass_unknown_fields)?;
        let kind = type_down(tenant.text("/type").unwrap_or(OPAQUE))?;
        body.insert("type".to_owned(), Value::from(kind));
        size::cap(Content { body, ..metadata::down(&tenant.meta, cx.policy) }, size::MOST_BYTES).map(InSuper)
    }

    fn demand(&self) -> Demand {
        Demand::Referenced
    }

    fn observe(&self) -> Observe {
        Observe::Patrolled
    }
}

/// The type in the super cluster. A `kubernetes.io/service-account-token` there would be filled with a token of the super cluster, so it
/// goes down as plain bytes; so does any built-in type that is not known to be harmless.
fn type_down(kind: &str) -> Result<&str, Hold> {
    let domain = kind.split_once('/').map_or("", |(domain, _)| domain);
    if domain == "bootstrap.kubernetes.io" || domain == "helm.sh" {
        return Err(Hold::refuse(
            "SecretTypeNotAllowed",
            "type",
            "Secrets of this type do not go to the super cluster; use the type Opaque if a Pod is to mount it",
        ));
    }
    let built_in = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    Ok(if built_in && !PLAIN_TYPES.contains(&kind) { OPAQUE } else { kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_field_has_a_verdict;

    #[test]
    fn every_field_has_its_verdict() {
        every_field_has_a_verdict::<k8s_openapi::api::core::v1::Secret>(SECRET);
    }

    #[test]
    fn types_that_controllers_act_on_do_not_go_down() {
        for kind in ["kubernetes.io/service-account-token", "kubernetes.io/anything-new", "x.kubernetes.io/y", OPAQUE] {
            assert_eq!(type_down(kind), Ok(OPAQUE), "{kind}");
        }
        for kind in ["kubernetes.io/tls", "kubernetes.io/dockerconfigjson", "team.example/key", "plain"] {
            assert_eq!(type_down(kind), Ok(kind));
        }
        for kind in ["bootstrap.kubernetes.io/token", "helm.sh/release.v1"] {
            assert!(matches!(type_down(kind), Err(Hold::Refused(_))), "{kind}");
        }
    }
}
