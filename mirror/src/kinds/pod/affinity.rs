//! Affinity between Pods and spreading: selectors select the same Pods as in the tenant, and never another tenant's.

use common::{Namespace, Tenant, keys};
use serde_json::{Value, json};

use super::{Fields, Own, object_mut, objects, objects_mut, placed_mut, text};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::metadata::{namespace_selector_down, selector_down};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Rewrites every selector over Pods.
pub(super) fn apply(spec: &mut Fields, own: &Own<'_>, cx: &Cx<'_>) -> Result<(), Hold> {
    for constraint in objects_mut(spec, "topologySpreadConstraints") {
        merge_label_keys(constraint, "matchLabelKeys", "In", own);
        if let Some(selector) = constraint.get_mut("labelSelector") {
            *selector = selector_down(selector, cx.policy);
        }
    }
    let Some(affinity) = object_mut(spec, "affinity") else {
        return Ok(());
    };
    for side in ["podAffinity", "podAntiAffinity"] {
        let Some(rules) = object_mut(affinity, side) else {
            continue;
        };
        let at = format!("spec.affinity.{side}");
        for (at, rule) in placed_mut(rules, REQUIRED, &at) {
            term(rule, &at, own, cx)?;
        }
        for (at, rule) in placed_mut(rules, PREFERRED, &at) {
            if let Some(rule) = object_mut(rule, "podAffinityTerm") {
                term(rule, &format!("{at}.podAffinityTerm"), own, cx)?;
            }
        }
    }
    Ok(())
}

fn term(term: &mut Fields, at: &str, own: &Own<'_>, cx: &Cx<'_>) -> Result<(), Hold> {
    merge_label_keys(term, "matchLabelKeys", "In", own);
    merge_label_keys(term, "mismatchLabelKeys", "NotIn", own);
    let tenant = || (keys::TENANT.to_owned(), json!(cx.tenant.as_str()));
    // No selector at all selects no Pod; it stays so.
    if let Some(selector) = term.get_mut("labelSelector") {
        *selector = selector_down(selector, cx.policy);
        if let Some(Value::Object(labels)) = selector.as_object_mut().map(|s| s.entry("matchLabels").or_insert_with(|| json!({}))) {
            labels.extend([tenant()]);
        }
    }
    if let Some(selector) = term.get_mut("namespaceSelector")
        && let Some(namespaces) = selector.as_object()
    {
        *selector = namespace_selector_down(namespaces, cx.tenant);
    }
    for name in term.get_mut("namespaces").and_then(Value::as_array_mut).into_iter().flatten() {
        let namespace = Namespace::<Tenant>::parse(name.as_str().unwrap_or_default())
            .map_err(|error| Hold::refuse("InvalidName", format!("{at}.namespaces"), error.to_string()))?;
        *name = json!(cx.tenant.namespace(&namespace).as_str());
    }
    Ok(())
}

/// Takes a list of label keys away. API servers merge it into the selector and refuse both together; where the tenant's has not merged
/// it (before 1.31, for spreading 1.34), it is merged here.
fn merge_label_keys(term: &mut Fields, field: &str, operator: &str, own: &Own<'_>) {
    let Some(Value::Array(wanted)) = term.remove(field) else {
        return;
    };
    let Some(selector) = object_mut(term, "labelSelector") else {
        return;
    };
    for key in wanted.iter().filter_map(Value::as_str) {
        let merged = objects(selector, "matchExpressions").any(|e| text(e, "key") == Some(key) && text(e, "operator") == Some(operator));
        let Some(value) = own.labels.get(key).filter(|_| !merged) else {
            continue;
        };
        let expression = json!({"key": key, "operator": operator, "values": [value]});
        if let Value::Array(expressions) = selector.entry("matchExpressions").or_insert_with(|| json!([])) {
            expressions.push(expression);
        }
    }
}
