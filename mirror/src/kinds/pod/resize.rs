//! Resources of a running Pod, which API servers let be changed only by a subresource of their own.

use std::collections::BTreeMap;

use common::{InSuper, InTenant};
use serde_json::{Map, Value, json};

use super::{FIRST_LISTS, Fields, Pod, ephemeral, object, objects, text};
use crate::cx::Cx;
use crate::kind::{Addition, Downward};
use crate::object::Object;

/// The subresource.
const RESIZE: &str = "resize";

const RESOURCES: &str = "resources";

/// Whether the tenant's Pod may ask for other resources than it was made with: its generation counts the changes of its spec.
pub(super) fn is_possible(tenant: &Object) -> bool {
    tenant.meta.generation > 1
}

/// What the tenant's containers ask for otherwise than the super copy says, each quantity that they name. Those that only the super copy
/// has are the super cluster's own, such as its defaults; API servers let none be taken away from a running Pod.
///
/// *Sources*: `ValidatePodResize` in Kubernetes `pkg/apis/core/validation`.
pub(super) fn asked(tenant: &InTenant<Object>, sup: &InSuper<Object>, cx: &Cx<'_>) -> Option<Addition> {
    // What is refused holds back the whole Pod, and is told there.
    let InSuper(asked) = Pod.down(tenant, cx).ok()?;
    let (asked, current) = (object(&asked.body, "spec")?, object(&sup.body, "spec")?);
    let listed = ephemeral::listed(sup);
    let mut spec = Map::new();
    if let Some(resources) = changed(asked, current) {
        spec.insert(RESOURCES.to_owned(), resources);
    }
    for list in FIRST_LISTS {
        let mut containers = Vec::new();
        for there in objects(current, list) {
            let Some(name) = text(there, "name").filter(|name| listed.contains(name)) else { continue };
            let wanted = objects(asked, list).find(|wanted| text(wanted, "name") == Some(name));
            if let Some(resources) = wanted.and_then(|wanted| changed(wanted, there)) {
                containers.push(json!({"name": name, RESOURCES: resources}));
            }
        }
        if !containers.is_empty() {
            spec.insert(list.to_owned(), Value::Array(containers));
        }
    }
    (!spec.is_empty()).then(|| Addition { subresource: RESIZE, spec, annotations: BTreeMap::new() })
}

/// The quantities of one that the other says otherwise or not at all.
fn changed(asked: &Fields, current: &Fields) -> Option<Value> {
    let mut changed = Map::new();
    for kind in ["limits", "requests"] {
        let of = |fields| object(fields, RESOURCES).and_then(|resources| object(resources, kind));
        let (Some(asked), current) = (of(asked), of(current)) else { continue };
        let other = |name: &String, value: &Value| current.and_then(|current| current.get(name)) != Some(value);
        let quantities: Fields =
            asked.iter().filter(|(name, value)| other(name, value)).map(|(name, value)| (name.clone(), value.clone())).collect();
        if !quantities.is_empty() {
            changed.insert(kind.to_owned(), Value::Object(quantities));
        }
    }
    (!changed.is_empty()).then_some(Value::Object(changed))
}
