//! What goes up: the binding, the status, and what the tenant's own gates say on their way down.

use common::{InSuper, InTenant};
use serde_json::{Map, Value};

use super::choice::tells_of_choices;
use super::{Early, Mark, Outcome, Pair, Step, SuperCopy, TenantCopy, Want, early, value_hash};
use crate::cx::Cx;
use crate::facts::Facts;
use crate::kind::Downward;

/// What must be reported to the tenant, if a status moved.
pub(super) fn difference_up(
    kind: &dyn Downward,
    tenant: &TenantCopy,
    sup: &SuperCopy,
    pair: &Pair,
    conditions: Vec<Value>,
    cx: &Cx<'_>,
) -> Early<(Vec<Step>, Option<u64>)> {
    let reported = pair.settled.and_then(|s| s.reported);
    if !kind.resource().status {
        return Ok((Vec::new(), None));
    }
    let moved = |now: &Facts, then: Option<Mark>| then.is_none_or(|mark| mark.uid != now.uid || mark.status != now.status);
    let sup_moved = moved(&sup.facts, pair.settled.and_then(|s| s.sup)) || sup.facts.node.is_some() && tenant.facts.node.is_none();
    let tenant_moved = moved(&tenant.facts, pair.settled.and_then(|s| s.tenant));
    let follows = tenant.body.as_ref().is_some_and(|body| kind.report_follows(body));
    let tells = kind.chooses() && (!conditions.is_empty() || tenant.body.as_ref().is_some_and(|body| tells_of_choices(body)));
    if !sup_moved && !tells && !(tenant_moved && (follows || reported.is_some())) {
        return Ok((Vec::new(), reported));
    }
    let Some(sup_body) = &sup.body else {
        return early(Outcome::Fetch(Want::Super));
    };
    let needs_tenant = kind.report_needs_tenant(sup_body) || pair.settled.is_none() || (tenant_moved && !sup_moved);
    if needs_tenant && tenant.body.is_none() {
        return early(Outcome::Fetch(Want::Tenant));
    }
    let tenant_body = tenant.body.as_ref();
    let mut steps = Vec::new();
    if let Some(tenant_body) = tenant_body
        && let Some(InSuper(conditions)) = kind.conditions_down(tenant_body, sup_body)
    {
        steps.push(Step::ConditionsDown { uid: sup.facts.uid, conditions });
    }
    let report = match kind.up(sup_body, tenant_body, cx) {
        Ok(Some(InTenant(report))) => report.with_conditions(conditions),
        Ok(None) => return Ok((steps, reported)),
        Err(hold) => return early(Outcome::Hold(hold)),
    };
    let uid = tenant.facts.uid;
    let hash = value_hash(&report.status);
    let mut only_bound = false;
    if let Some(node) = report.node {
        if !tenant.facts.deleting && tenant.facts.node.is_none() {
            if !cx.nodes.contains(&node) {
                steps.push(Step::ShowNode(node.clone()));
            }
            steps.push(Step::Bind { uid, node });
            // The tenant's API server sets PodScheduled itself; nothing else has happened yet.
            only_bound = !has_started(&report.status);
        } else if !tenant.facts.placed && tenant.facts.node.as_deref() == Some(&node) {
            steps.push(Step::MarkPlaced { uid, node });
        }
    }
    if only_bound {
        return Ok((steps, None));
    }
    // Without a settled pair before, the tenant's body is compared. With one, the report is compared with the last report; and with the body, if
    // that is at hand: the report may have been written by a pass that failed afterwards.
    let says_so = tenant_body.map(|body| *body.at("/status").unwrap_or(&Value::Null) == report.status);
    let was_reported = reported == Some(hash);
    let there = if needs_tenant || reported.is_none() { says_so.unwrap_or(was_reported) } else { was_reported || says_so == Some(true) };
    let says_nothing = is_blank(&report.status) || (reported.is_none() && is_initial(&report.status));
    if !there && !says_nothing {
        let version = tenant_body.filter(|_| kind.report_needs_tenant(sup_body)).map(|body| body.meta.version.clone());
        steps.push(Step::Report { uid, version, status: report.status });
    }
    Ok((steps, Some(hash)))
}

fn has_started(status: &Value) -> bool {
    ["containerStatuses", "initContainerStatuses", "podIP", "startTime"].iter().any(|key| status.get(key).is_some())
        || status.get("phase").and_then(Value::as_str).is_some_and(|phase| phase != "Pending")
}

/// What an API server itself says of an object that is new.
fn is_initial(status: &Value) -> bool {
    let is_initial = |(key, value): (&String, &Value)| key == "qosClass" || (key == "phase" && value == "Pending");
    status.as_object().is_some_and(|fields| fields.iter().all(is_initial))
}

fn is_blank(status: &Value) -> bool {
    status.as_object().is_none_or(Map::is_empty)
}
