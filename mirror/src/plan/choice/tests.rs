//! Choices, on a kind whose tenants' copies say the super cluster's `spec.n`.

use std::collections::BTreeSet;

use common::{InSuper, Name, Namespace, Owner, TenantId, Uid};
use serde_json::Map;

use super::super::{Built, Settled, SuperSide, TenantSide, plan};
use super::*;
use crate::cx::{Policy, Profile};
use crate::facts::Seen;
use crate::kind::{Report, Resource};
use crate::object::Content;

struct Numbered;

impl Downward for Numbered {
    fn resource(&self) -> Resource {
        Resource { group: "", version: "v1", api_version: "v1", kind: "Thing", plural: "things", namespaced: true, status: true }
    }
    fn down(&self, tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let spec = json!({"x": tenant.at("/spec/x")});
        Ok(InSuper(Content { body: Map::from_iter([("spec".to_owned(), spec)]), ..Content::default() }))
    }
    fn amend(&self, InSuper(mut asked): InSuper<Content>, current: &InSuper<Object>, _cx: &Cx<'_>) -> InSuper<Content> {
        asked.body["spec"]["n"] = current.at("/spec/n").cloned().unwrap_or_default();
        InSuper(asked)
    }
    fn up(&self, sup: &InSuper<Object>, _tenant: Option<&InTenant<Object>>, _cx: &Cx<'_>) -> Result<Option<InTenant<Report>>, Hold> {
        Ok(Some(InTenant(Report { node: None, status: sup.at("/status").cloned().unwrap_or_default() })))
    }
    fn chooses(&self) -> bool {
        true
    }
    fn choices(&self, tenant: &InTenant<Object>, sup: &InSuper<Object>, _cx: &Cx<'_>) -> Vec<InTenant<Choice>> {
        let number = sup.at("/spec/n").filter(|number| tenant.at("/spec/n") != Some(*number));
        number.map(choice).map(InTenant).into_iter().collect()
    }
}

fn choice(number: &Value) -> Choice {
    let patches = vec![json!([{"op": "add", "path": "/spec/n", "value": number}])];
    Choice {
        condition: keys::NODE_PORTS,
        reason: "NumberRefused",
        field: "spec.n",
        said: format!("n is {number}"),
        addresses: Vec::new(),
        patches,
    }
}

const TENANT: Uid = Uid::from_bits(1);

fn object(uid: Uid, spec: &Value, status: &Value, built: &str) -> Copy<Object> {
    let text = json!({
        "metadata": {"name": "a", "namespace": "default", "uid": uid.to_string(), "resourceVersion": "5", "annotations": {keys::BUILT: built}},
        "spec": spec, "status": status,
    })
    .to_string();
    Copy { facts: Seen::of(text.as_bytes()).unwrap().facts, body: Some(Object::parse(text.as_bytes()).unwrap()) }
}

fn tenant(spec: &Value, status: &Value) -> TenantSide {
    let Copy { facts, body } = object(TENANT, spec, status, "");
    TenantSide::Here(Copy { facts, body: body.map(InTenant) })
}

/// A pair whose super copy is as asked of `{"x": 1}` and has the number 7.
fn pair(tenant: TenantSide, settled: Option<Settled>, declined: Vec<Declined>) -> Pair {
    let hash = Content { body: Map::from_iter([("spec".to_owned(), json!({"x": 1}))]), ..Content::default() }.hash();
    let built = Built { version: 5, hash }.to_string();
    let Copy { facts, body } = object(Uid::from_bits(2), &json!({"x": 1, "n": 7}), &json!({"is": "well"}), &built);
    let name = Name::parse("a").unwrap();
    let owner = Owner { tenant: Uid::from_bits(9), namespace: Namespace::parse("default").ok(), name, uid: TENANT };
    let sup = SuperSide::Ours(Copy { facts, body: body.map(InSuper) }, owner);
    Pair { tenant, sup, settled, wanted: true, ran: false, declined }
}

fn decide(pair: &Pair) -> Outcome {
    let (id, policy, profile, nodes) = (TenantId::new(Uid::from_bits(9), "acme"), Policy::default(), Profile::default(), BTreeSet::new());
    plan(&Numbered, pair, &Cx::of_default(&id, &policy, &profile, &nodes)).outcome
}

fn steps(outcome: Outcome) -> (Vec<Step>, Option<Hold>) {
    let Outcome::Write { steps, held, .. } = outcome else { panic!("expected steps, got {outcome:?}") };
    (steps, held)
}

fn agreed(pair: &Pair) -> Settled {
    let (TenantSide::Here(tenant), SuperSide::Ours(sup, _)) = (&pair.tenant, &pair.sup) else { panic!("a copy is missing") };
    Settled { tenant: Some(Mark::from(&tenant.facts)), sup: Some(Mark::from(&sup.facts)), reported: None }
}

fn offer_of(pair: &Pair) -> u64 {
    let TenantSide::Here(tenant) = &pair.tenant else { panic!("a copy is missing") };
    offer(&choice(&json!(7)), tenant)
}

fn no() -> Declined {
    let offer = offer_of(&pair(tenant(&json!({"x": 1, "n": 3}), &json!({})), None, Vec::new()));
    Declined { offer, message: "7 is taken".to_owned(), at: "2026-01-01T00:00:00Z".to_owned() }
}

#[test]
fn the_tenants_copy_is_to_say_what_the_super_cluster_chose() {
    let asked = pair(tenant(&json!({"x": 1, "n": 3}), &json!({"is": "well"})), None, Vec::new());
    let step = Step::Choose { uid: TENANT, version: "5".to_owned(), offer: offer_of(&asked), choice: choice(&json!(7)) };
    assert_eq!(steps(decide(&asked)), (vec![step.clone()], None));
    let said = pair(tenant(&json!({"x": 1, "n": 7}), &json!({"is": "well"})), None, Vec::new());
    assert!(matches!(decide(&said), Outcome::Settled(_)));
    // A tenant that changes it is told again; who has not moved is not asked for.
    let moved = Pair { settled: Some(agreed(&said)), ..asked.clone() };
    assert_eq!(steps(decide(&moved)), (vec![step], None));
    assert!(matches!(decide(&Pair { settled: Some(agreed(&moved)), ..moved.clone() }), Outcome::Settled(_)));
}

#[test]
fn the_super_copy_is_first_as_it_is_asked_to_be() {
    let changed = pair(tenant(&json!({"x": 2, "n": 3}), &json!({"is": "well"})), None, Vec::new());
    let (steps, _) = steps(decide(&changed));
    assert!(matches!(steps.as_slice(), [Step::UpdateSuper { .. }]), "{steps:?}");
}

#[test]
fn a_choice_that_is_not_taken_stands_in_a_condition_while_all_else_goes_on() {
    let asked = pair(tenant(&json!({"x": 1, "n": 3}), &json!({})), None, vec![no()]);
    let (steps, held) = steps(decide(&asked));
    let [Step::Report { status, .. }] = steps.as_slice() else { panic!("{steps:?}") };
    let message = "n is 7, and this API server does not take it: 7 is taken";
    let condition = json!({"type": keys::NODE_PORTS, "status": "False", "reason": "Refused", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(*status, json!({"is": "well", "conditions": [condition]}));
    assert_eq!(held, Some(Hold::refuse("NumberRefused", "spec.n", message)));
    // Who has changed it since is asked again.
    let relabeled = pair(tenant(&json!({"x": 1, "n": 3, "y": 1}), &json!({})), None, vec![no()]);
    assert!(matches!(self::steps(decide(&relabeled)).0.first(), Some(Step::Choose { .. })));
    // What stands there is not written again, whenever it was; and it goes with its cause.
    let mut later = no();
    later.at = "2026-02-02T00:00:00Z".to_owned();
    let told = pair(tenant(&json!({"x": 1, "n": 3}), status), None, vec![later]);
    assert_eq!(decide(&told), Outcome::Hold(Hold::refuse("NumberRefused", "spec.n", message)));
    let mended = tenant(&json!({"x": 1, "n": 7}), status);
    for settled in [None, Some(agreed(&asked))] {
        let (steps, held) = self::steps(decide(&pair(mended.clone(), settled, vec![no()])));
        assert_eq!((steps, held), (vec![Step::Report { uid: TENANT, version: None, status: json!({"is": "well"}) }], None));
    }
}

#[test]
fn both_bodies_are_looked_at_once_a_side_has_moved() {
    let mut asked = pair(tenant(&json!({"x": 1, "n": 3}), &json!({})), None, Vec::new());
    asked.settled = Some(Settled { tenant: None, ..agreed(&asked) });
    if let SuperSide::Ours(sup, _) = &mut asked.sup {
        sup.body = None;
    }
    assert_eq!(decide(&asked), Outcome::Fetch(Want::Super));
}
