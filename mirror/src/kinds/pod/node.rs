//! Which nodes a Pod may and must run on: node names, selectors, affinity and tolerations.

use common::{InTenant, keys};
use serde_json::{Map, Value, json};

use super::{Fields, object, objects, objects_mut, text};
use crate::cx::{Cx, Policy};
use crate::hold::Hold;
use crate::metadata;
use crate::object::Object;

/// Labels and taints of this prefix tell the nodes that run the super cluster itself.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// Tolerations that every Pod may have: of what befalls a node, which admission adds to all of them. Of the others of this prefix some let
/// a Pod onto nodes that are being emptied.
const ALWAYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Applies the rules to the spec.
pub(super) fn apply(spec: &mut Fields, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<(), Hold> {
    selector(spec)?;
    if let Some(affinity) = object(spec, "affinity").and_then(|affinity| object(affinity, "nodeAffinity")) {
        node_affinity(affinity)?;
    }
    tolerations(spec, cx.policy);
    node_name(spec, tenant, cx)
}

fn selector(spec: &Fields) -> Result<(), Hold> {
    let mut keys = object(spec, "nodeSelector").into_iter().flat_map(Map::keys);
    keys.try_for_each(|key| role(key, "spec.nodeSelector"))
}

fn role(key: &str, at: &str) -> Result<(), Hold> {
    if is_role(key) {
        return Err(Hold::refuse("NotSupported", at, format!("nodes cannot be chosen by {ROLE_PREFIX}; remove that key")));
    }
    Ok(())
}

fn is_role(key: &str) -> bool {
    key.starts_with(ROLE_PREFIX) || key == ROLE_PREFIX.trim_end_matches('/')
}

fn node_affinity(affinity: &Fields) -> Result<(), Hold> {
    let required = object(affinity, REQUIRED).into_iter().flat_map(|selector| objects(selector, "nodeSelectorTerms"));
    let preferred = objects(affinity, PREFERRED).filter_map(|term| object(term, "preference"));
    for expression in required.chain(preferred).flat_map(|term| objects(term, "matchExpressions")) {
        // Keeping away from such nodes is fine.
        if matches!(text(expression, "operator"), Some("NotIn" | "DoesNotExist")) {
            continue;
        }
        role(text(expression, "key").unwrap_or_default(), "spec.affinity.nodeAffinity")?;
    }
    Ok(())
}

/// Keeps the tolerations that the administrator allows. A taint keeps a node for somebody, or empty, so all others are left out: in
/// silence, since controllers of the tenant's add some to each Pod, as those of a DaemonSet.
fn tolerations(spec: &mut Fields, policy: &Policy) {
    if let Some(Value::Array(tolerations)) = spec.get_mut("tolerations") {
        tolerations.retain(|toleration| {
            let key = toleration.get("key").and_then(Value::as_str).unwrap_or_default();
            !is_role(key) && (ALWAYS.contains(&key) || metadata::listed(key, &policy.tolerations_down))
        });
    }
}

/// A tenant that names a node of its own gets it by affinity, so that the super cluster's scheduler still decides whether it fits.
/// The name that our binding wrote is no wish.
fn node_name(spec: &mut Fields, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<(), Hold> {
    let Some(node) = tenant.text("/spec/nodeName").filter(|_| !tenant.meta.annotations.contains_key(keys::PLACED)) else {
        return Ok(());
    };
    if !cx.nodes.contains(node) {
        return Err(Hold::refuse(
            "NotSupported",
            "spec.nodeName",
            "the super cluster's scheduler places Pods; leave the field out, or name one of the nodes that exist here",
        ));
    }
    require_node(spec, node);
    Ok(())
}

/// Adds the node to every required term: the terms are alternatives.
fn require_node(spec: &mut Fields, node: &str) {
    let requirement = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let mut at = spec;
    for key in ["affinity", "nodeAffinity", REQUIRED] {
        let Some(below) = at.entry(key).or_insert_with(|| Value::Object(Map::new())).as_object_mut() else {
            return;
        };
        at = below;
    }
    if objects(at, "nodeSelectorTerms").next().is_none() {
        at.insert("nodeSelectorTerms".to_owned(), json!([{}]));
    }
    for term in objects_mut(at, "nodeSelectorTerms") {
        if let Value::Array(fields) = term.entry("matchFields").or_insert_with(|| json!([])) {
            fields.push(requirement.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: &Value) -> Fields {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn a_required_node_is_added_to_each_alternative() {
        let mut spec = fields(&json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}, {"matchFields": [{"key": "a"}]}]}}}}));
        require_node(&mut spec, "n1");
        let wanted = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
        let terms = &spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"], json!([wanted]));
        assert_eq!(terms[1]["matchFields"], json!([{"key": "a"}, wanted]));

        let mut bare = Fields::new();
        require_node(&mut bare, "n1");
        assert_eq!(bare["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"], json!([{"matchFields": [wanted]}]));
    }

    #[test]
    fn s05_tolerations_of_everything_of_roles_and_of_others_taints_are_left_out() {
        let kept = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let all = json!({"tolerations": [
            {"operator": "Exists"}, {"key": "", "operator": "Exists"}, {"key": "node-role.kubernetes.io/control-plane"},
            {"key": "node-role.kubernetes.io"}, {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}, {"key": "dedicated"},
            {"key": "example.com/pool"}, kept]});
        let left = |allowed: &[&str]| {
            let tolerations_down = allowed.iter().map(|key| (*key).to_owned()).collect();
            let mut spec = fields(&all);
            tolerations(&mut spec, &Policy { tolerations_down, ..Policy::default() });
            spec["tolerations"].clone()
        };
        assert_eq!(left(&[]), json!([kept]));
        assert_eq!(left(&["dedicated", "node-role.kubernetes.io/"]), json!([{"key": "dedicated"}, kept]));
        assert_eq!(left(&["example.com/"]), json!([{"key": "example.com/pool"}, kept]));
    }

    #[test]
    fn nodes_cannot_be_chosen_by_role_but_can_be_avoided() {
        let of = |operator: &str| {
            let expression = json!({"key": "node-role.kubernetes.io/control-plane", "operator": operator});
            node_affinity(&fields(&json!({PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [expression]}}]})))
        };
        assert!(of("Exists").is_err() && of("In").is_err());
        assert!(of("DoesNotExist").is_ok() && of("NotIn").is_ok());
        for role in ["node-role.kubernetes.io/master", "node-role.kubernetes.io"] {
            assert!(selector(&fields(&json!({"nodeSelector": {role: ""}}))).is_err());
        }
        assert!(selector(&fields(&json!({"nodeSelector": {"kubernetes.io/arch": "amd64"}}))).is_ok());
    }
}
