//! What the super cluster chose, on its way into the tenant's copy; and what is said where the tenant's API server does not take it.

use common::{InTenant, keys};
use serde_json::{Value, json};

use super::{Copy, Early, Mark, Outcome, Pair, Step, SuperCopy, TenantCopy, Want, early, value_hash};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::{Choice, Downward};
use crate::object::{Object, items};

/// A choice that the tenant's API server lately did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    /// [`Step::Choose`]'s `offer`.
    pub offer: u64,
    /// What the API server said.
    pub message: String,
    /// When, RFC 3339 in whole seconds.
    pub at: String,
}

/// What is to be done about choices, and to be said.
#[derive(Default)]
pub(super) struct Chosen {
    /// The next one that the tenant's copy is to say.
    pub(super) step: Option<Step>,
    /// Conditions about those that were not taken.
    pub(super) conditions: Vec<Value>,
    /// The first of them, for the tenant to read.
    pub(super) hold: Option<Hold>,
}

/// Tells one choice from another, for a copy as it is: whoever changed it is asked anew. Not so of an address: changing it and back moves the copy itself.
fn offer(choice: &Choice, tenant: &TenantCopy) -> u64 {
    let as_it_is = if choice.addresses.is_empty() { tenant.facts.main } else { 0 };
    value_hash(&json!([choice.condition, choice.patches.last(), as_it_is]))
}

/// Looks for choices that the tenant's copy does not say yet. `is_current`: the super copy is what it is asked to be; else it chooses anew
/// first.
pub(super) fn chosen(
    kind: &dyn Downward,
    tenant: &TenantCopy,
    sup: &SuperCopy,
    pair: &Pair,
    is_current: bool,
    cx: &Cx<'_>,
) -> Early<Chosen> {
    if !kind.chooses() || !is_current || tenant.facts.deleting || sup.facts.deleting || !has_moved(tenant, sup, pair) {
        return Ok(Chosen::default());
    }
    let Some(body) = &tenant.body else {
        return early(Outcome::Fetch(Want::Tenant));
    };
    let Some(current) = &sup.body else {
        return early(Outcome::Fetch(Want::Super));
    };
    let mut out = Chosen::default();
    for InTenant(choice) in kind.choices(body, current, cx) {
        let offer = offer(&choice, tenant);
        match pair.declined.iter().find(|declined| declined.offer == offer) {
            Some(declined) => {
                let message = format!("{}, and this API server does not take it: {}", choice.said, declined.message);
                out.conditions.push(condition(choice.condition, &message, &declined.at, body));
                out.hold.get_or_insert_with(|| Hold::refuse(choice.reason, choice.field, message));
            }
            None if out.step.is_none() => {
                out.step = Some(Step::Choose { uid: tenant.facts.uid, version: body.meta.version.clone(), offer, choice });
            }
            None => {}
        }
    }
    Ok(out)
}

fn has_moved(tenant: &TenantCopy, sup: &SuperCopy, pair: &Pair) -> bool {
    fn moved<B>(now: &Copy<B>, then: Option<Mark>) -> bool {
        then.is_none_or(|mark| mark.uid != now.facts.uid || mark.main != now.facts.main)
    }
    pair.settled.is_none_or(|settled| moved(tenant, settled.tenant) || moved(sup, settled.sup))
}

/// A condition as the API has it. The time of one that says the same already stays.
fn condition(kind: &str, message: &str, at: &str, tenant: &Object) -> Value {
    let before = conditions(tenant).find(|condition| text(condition, "type") == Some(kind) && text(condition, "status") == Some("False"));
    let at = before.and_then(|before| text(before, "lastTransitionTime")).unwrap_or(at);
    json!({"type": kind, "status": "False", "reason": "Refused", "message": message, "lastTransitionTime": at})
}

/// Whether the tenant's copy has a condition that says a choice was not taken.
pub(super) fn tells_of_choices(tenant: &Object) -> bool {
    conditions(tenant)
        .any(|condition| text(condition, "type").and_then(|kind| kind.strip_prefix(keys::GROUP)).is_some_and(|rest| rest.starts_with('/')))
}

fn conditions(tenant: &Object) -> impl Iterator<Item = &Value> {
    items(tenant.at("/status/conditions"))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
