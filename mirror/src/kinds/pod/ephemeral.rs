//! Ephemeral containers: added to a running Pod by a subresource of their own, under the same rules as the containers it began with.
//!
//! API servers let none be changed or taken away, so a refused one would hold back its Pod for good if it were refused with the rest of
//! the spec: they are looked at apart.

use std::collections::BTreeMap;

use common::{InSuper, InTenant, keys};
use serde_json::{Map, Value, json};

use super::{CONTAINER_LISTS, Own, container_names, env, names, objects, own_name, policy, verdicts};
use crate::cx::Cx;
use crate::hold::Hold;
use crate::kind::Addition;
use crate::object::Object;
use crate::shape::{Table, Verdict, carry};
use crate::size::printed_bytes;

/// The field, and in lower case the subresource.
pub(super) const LIST: &str = "ephemeralContainers";

/// How many of a Pod's are looked at: people add a few. API servers take thousands, and none can be taken away again.
const MOST: usize = 256;

const ONLY: &Table = &[(LIST, Verdict::List(verdicts::EPHEMERAL_CONTAINER))];

/// The tenant's ephemeral containers that the super copy does not have yet, and the first of them that is refused: one holds back no other.
///
/// *Guarantees*: a name that somebody else gave to a container below is never listed as the tenant's, who could else enter that container.
///
/// *Caveats*: the list is written right before the container is added. An administrator who adds one of the very same name in between lends it
/// to the tenant.
pub(super) fn missing(tenant: &InTenant<Object>, sup: &InSuper<Object>, cx: &Cx<'_>) -> (Option<Addition>, Option<Hold>) {
    let (listed, there) = (listed(sup), container_names(sup, &CONTAINER_LISTS));
    let (mut missing, mut all, mut refused) = (Vec::new(), listed.clone(), None);
    let mut bytes = sup.at("/spec/ephemeralContainers").map_or(0, printed_bytes);
    let asked = tenant.at("/spec/ephemeralContainers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if asked.is_empty() {
        return (None, None);
    }
    let own = match Own::of(tenant, cx) {
        Ok(own) => own,
        Err(hold) => return (None, Some(hold)),
    };
    for (i, asked) in asked.iter().take(MOST).enumerate() {
        let asked = match named(asked, i) {
            Ok(name) if there.contains(&name) && listed.contains(&name) => continue,
            Ok(name) if there.contains(&name) => Err(taken(i)),
            Ok(name) => one(asked, i, &own, cx).and_then(|container| {
                let more = bytes + printed_bytes(&container);
                policy::cap_ephemeral(more, i)?;
                bytes = more;
                Ok((name, container))
            }),
            Err(hold) => Err(hold),
        };
        match asked {
            Ok((name, container)) => {
                missing.push(container);
                if !all.contains(&name) {
                    all.push(name);
                }
            }
            Err(hold) => refused = refused.or(Some(hold)),
        }
    }
    if asked.len() > MOST {
        let field = format!("spec.{LIST}[{MOST}]");
        let message = format!("a Pod has {MOST} ephemeral containers at most in the super cluster; make the Pod anew");
        refused = refused.or(Some(Hold::refuse("TooMany", field, message)));
    }
    if missing.is_empty() {
        return (None, refused);
    }
    let spec = Map::from_iter([(LIST.to_owned(), Value::Array(missing))]);
    let annotations = BTreeMap::from([(keys::CONTAINERS.to_owned(), all.join(","))]);
    (Some(Addition { subresource: "ephemeralcontainers", spec, annotations }), refused)
}

fn named(container: &Value, i: usize) -> Result<&str, Hold> {
    let container = container.as_object().ok_or(Hold::Malformed("an ephemeral container is no object".into()))?;
    own_name(container, LIST, i)
}

fn taken(i: usize) -> Hold {
    let field = format!("spec.{LIST}[{i}].name");
    Hold::refuse("NameTaken", field, "the super cluster has put a container of this name into the Pod; choose another name")
}

/// The containers of a super copy that are its tenant's.
pub(super) fn listed(sup: &Object) -> Vec<&str> {
    let names = sup.meta.annotations.get(keys::CONTAINERS).map(|names| names.split(',').collect());
    names.unwrap_or_default()
}

/// What the one in place `i` asks for.
fn one(asked: &Value, i: usize, own: &Own<'_>, cx: &Cx<'_>) -> Result<Value, Hold> {
    let container = alone(asked, own, cx).map_err(|mut hold| {
        if let Hold::Refused(refusal) = &mut hold {
            refusal.field = refusal.field.replacen(&format!("{LIST}[0]"), &format!("{LIST}[{i}]"), 1);
        }
        hold
    })?;
    container.ok_or(Hold::Malformed("an ephemeral container is no object".into()))
}

/// The same, as if it were the only one.
fn alone(asked: &Value, own: &Own<'_>, cx: &Cx<'_>) -> Result<Option<Value>, Hold> {
    let Value::Object(mut spec) = carry(&json!({ LIST: [asked] }), ONLY, "spec", cx.policy.pass_unknown_fields)? else {
        return Err(Hold::Malformed("spec is no object".into()));
    };
    policy::containers(&mut spec, cx)?;
    names::down(&mut spec)?;
    // It starts once, and the annotations are there already.
    env::apply(&mut spec, own, None, cx);
    let container = objects(&spec, LIST).next().cloned();
    Ok(container.map(Value::Object))
}
