//! Ephemeral containers: added to a running Pod by a subresource of their own, under the same rules as the containers it began with.
//!
//! API servers let none be changed or taken away, so a refused one would hold back its Pod for good if it were refused with the rest of
//! the spec: they are looked at apart.

use std::collections::BTreeMap;

use common::{InSuper, InTenant};
use serde_json::{Map, Value, json};

use super::{Fields, Own, env, names, objects, policy, text, verdicts};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::Addition;
use crate::object::Object;
use crate::shape::{Table, Verdict, carry};

/// The field, and in lower case the subresource.
pub(super) const LIST: &str = "ephemeralContainers";

const ONLY: &Table = &[(LIST, Verdict::List(verdicts::EPHEMERAL_CONTAINER))];

/// The tenant's ephemeral containers that the super copy does not have yet, and the first of them that is refused: one holds back no other.
pub(super) fn missing(tenant: &InTenant<Object>, sup: &InSuper<Object>, cx: &Cx<'_>) -> (Option<Addition>, Option<Hold>) {
    let there = names_of(sup);
    let (mut missing, mut refused) = (Vec::new(), None);
    for (i, name) in names_of(tenant).into_iter().enumerate() {
        if there.contains(&name) {
            continue;
        }
        match one(i, tenant, cx) {
            Ok(container) => missing.push(container),
            Err(hold) => refused = refused.or(Some(hold)),
        }
    }
    let spec = Map::from_iter([(LIST.to_owned(), Value::Array(missing))]);
    let is_empty = objects(&spec, LIST).next().is_none();
    ((!is_empty).then_some(Addition { subresource: "ephemeralcontainers", spec }), refused)
}

/// What one of them asks for. The others stand in for their places, so that a refusal names the right one.
fn one(i: usize, tenant: &InTenant<Object>, cx: &Cx<'_>) -> Result<Value, Hold> {
    let asked = tenant.at(&format!("/spec/{LIST}/{i}")).cloned().unwrap_or_default();
    let list: Vec<Value> = std::iter::repeat_n(json!({}), i).chain([asked]).collect();
    let Value::Object(mut spec) = carry(&json!({ LIST: list }), ONLY, "spec", cx.policy.pass_unknown_fields)? else {
        return Err(Hold::Malformed("spec is no object".into()));
    };
    policy::containers(&mut spec, cx)?;
    names::down(&mut spec)?;
    env::apply(&mut spec, &Own::of(tenant, cx)?, cx);
    policy::cap_size(&spec, &BTreeMap::new())?;
    let container = objects(&spec, LIST).nth(i).cloned();
    container.map(Value::Object).ok_or(Hold::Malformed("an ephemeral container is no object".into()))
}

fn names_of(pod: &Object) -> Vec<Option<&str>> {
    let spec: Option<&Fields> = pod.body.get("spec").and_then(Value::as_object);
    spec.into_iter().flat_map(|spec| objects(spec, LIST)).map(|container| text(container, "name")).collect()
}
