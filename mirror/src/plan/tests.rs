//! The planner's table, row by row, on a kind of the simplest sort.

use std::collections::BTreeSet;

use common::{InSuper, InTenant, Name, Namespace, TenantId};
use serde_json::json;

use super::*;
use crate::cx::{Policy, Profile};
use crate::kind::{Registered, Report, Resource};

const POD: Uid = uid(1);
const SUPER: Uid = uid(2);

const fn uid(low: u8) -> Uid {
    Uid::from_bits(low as u128)
}

/// A graceful kind that asks for `spec.x` and reports all of status.
struct Graceful;

/// The same, not graceful, and only when referred to.
struct Quiet;

const RESOURCE: Resource =
    Resource { group: "", version: "v1", api_version: "v1", kind: "Thing", plural: "things", namespaced: true, status: true };

fn asked(tenant: &Object) -> Result<InSuper<Content>, Hold> {
    if tenant.at("/spec/own").is_some() {
        return Err(Hold::Stays);
    }
    if tenant.at("/spec/bad").is_some() {
        return Err(Hold::refuse("NotSupported", "spec.bad", "remove it"));
    }
    let body = json!({"spec": {"x": tenant.at("/spec/x")}});
    Ok(InSuper(Content { body: body.as_object().cloned().unwrap_or_default(), ..Content::default() }))
}

impl Downward for Graceful {
    fn resource(&self) -> Resource {
        RESOURCE
    }
    fn down(&self, tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        asked(tenant)
    }
    fn up(&self, sup: &InSuper<Object>, _tenant: Option<&InTenant<Object>>, _cx: &Cx<'_>) -> Result<Option<InTenant<Report>>, Hold> {
        let status = sup.at("/status").cloned().unwrap_or_default();
        Ok(Some(InTenant(Report { node: sup.text("/spec/nodeName").map(str::to_owned), status })))
    }
    fn graceful(&self) -> bool {
        true
    }
}

impl Downward for Quiet {
    fn resource(&self) -> Resource {
        Resource { status: false, ..RESOURCE }
    }
    fn down(&self, tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        asked(tenant)
    }
    fn demand(&self) -> Demand {
        Demand::Referenced
    }
}

/// A kind whose `spec.x` may be taken from the tenant: more than 1 is no longer its own. It refers to a Secret called as `spec.x`.
struct Lent;

impl Downward for Lent {
    fn resource(&self) -> Resource {
        RESOURCE
    }
    fn down(&self, tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        asked(tenant)
    }
    fn depends_on(&self) -> Option<Registered> {
        Some(Registered::Hosts)
    }
    fn may_stay(&self, sup: &InSuper<Object>, _cx: &Cx<'_>) -> bool {
        sup.at("/spec/x").and_then(Value::as_u64) <= Some(1)
    }
    fn references(&self, tenant: &InTenant<Object>) -> Vec<Reference> {
        tenant.at("/spec/x").map(|x| Reference { kind: "Secret", name: x.to_string() }).into_iter().collect()
    }
    fn references_below(&self, sup: &InSuper<Object>) -> Vec<Reference> {
        self.references(&InTenant(sup.0.clone()))
    }
}

fn copy(of: Uid, metadata: &Value, spec: &Value, status: &Value) -> Copy<Object> {
    let mut object = json!({"metadata": {"name": "a", "namespace": "default", "uid": of.to_string(), "resourceVersion": "5"}, "spec": spec, "status": status});
    if let (Some(into), Some(from)) = (object.pointer_mut("/metadata").and_then(Value::as_object_mut), metadata.as_object()) {
        into.extend(from.clone());
    }
    let bytes = object.to_string();
    Copy { facts: crate::facts::Seen::of(bytes.as_bytes()).unwrap().facts, body: Some(Object::parse(bytes.as_bytes()).unwrap()) }
}

fn tenant(metadata: &Value, spec: &Value, status: &Value) -> TenantSide {
    let Copy { facts, body } = copy(POD, metadata, spec, status);
    TenantSide::Here(Copy { facts, body: body.map(InTenant) })
}

fn live() -> TenantSide {
    tenant(&json!({}), &json!({"x": 1}), &json!({}))
}

fn id() -> TenantId {
    TenantId::new(Uid::parse("d64ea0c0-91f8-46f5-8643-c0cab32ab0cd").unwrap(), "acme")
}

fn owner(of: Uid) -> Owner {
    Owner { tenant: id().uid(), namespace: Some(Namespace::parse("default").unwrap()), name: Name::parse("a").unwrap(), uid: of }
}

fn ours(Copy { facts, body }: Copy<Object>, of: Uid) -> SuperSide {
    SuperSide::Ours(Copy { facts, body: body.map(InSuper) }, owner(of))
}

/// A super copy as we would have made it of [`live`].
fn made(metadata: &Value, spec: &Value, status: &Value) -> SuperSide {
    let hash = asked(copy(POD, &json!({}), &json!({"x": 1}), &json!({})).body.as_ref().unwrap()).unwrap().hash();
    let mut metadata = metadata.clone();
    metadata.as_object_mut().unwrap().insert("annotations".into(), json!({keys::BUILT: Built { version: 5, hash }.to_string()}));
    ours(copy(SUPER, &metadata, spec, status), POD)
}

fn decide(kind: &dyn Downward, tenant: TenantSide, sup: SuperSide) -> Outcome {
    decide_after(kind, tenant, sup, None)
}

fn decide_after(kind: &dyn Downward, tenant: TenantSide, sup: SuperSide, settled: Option<Settled>) -> Outcome {
    let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::from(["n1".to_owned()]));
    let cx = Cx::of_default(&id, &policy, &profile, &nodes);
    plan(kind, &Pair { tenant, sup, settled, wanted: true, ran: false, declined: Vec::new() }, &cx).outcome
}

fn steps(outcome: Outcome) -> Vec<Step> {
    let Outcome::Write { steps, .. } = outcome else { panic!("expected steps, got {outcome:?}") };
    steps
}

fn agreed(tenant: &TenantSide, sup: &SuperSide) -> Settled {
    let tenant = if let TenantSide::Here(copy) = tenant { Some(Mark::from(&copy.facts)) } else { None };
    let sup = if let SuperSide::Ours(copy, _) = sup { Some(Mark::from(&copy.facts)) } else { None };
    Settled { tenant, sup, reported: None }
}

const GONE: TenantSide = TenantSide::Absent(Evidence::Seen);
const NONE: SuperSide = SuperSide::Absent(Evidence::Seen);

#[test]
fn a_live_object_without_a_super_copy_is_created_with_its_record() {
    let steps = steps(decide(&Graceful, live(), NONE));
    let [Step::CreateSuper { content, mounts }] = steps.as_slice() else { panic!("{steps:?}") };
    assert!(mounts.is_empty());
    assert_eq!(content.labels.get(keys::TENANT).map(String::as_str), Some(id().as_str()));
    assert_eq!(content.annotations.get(keys::OWNER), Some(&owner(POD).annotation()));
    assert!(content.annotations.contains_key(keys::BUILT));
}

#[test]
fn what_is_gone_from_the_tenant_is_deleted_by_uid_only_on_evidence() {
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    assert_eq!(decide(&Graceful, TenantSide::Absent(Evidence::Inferred), sup.clone()), Outcome::Fetch(Want::Tenant));
    assert_eq!(steps(decide(&Graceful, GONE, sup)), [Step::DeleteSuper { uid: SUPER, grace_seconds: None }]);
    assert_eq!(decide(&Graceful, GONE, NONE), Outcome::Forget);
}

#[test]
fn a_foreign_object_of_the_name_is_never_touched() {
    let Outcome::Hold(Hold::Refused(refusal)) = decide(&Graceful, live(), SuperSide::Foreign) else { panic!("not refused") };
    assert_eq!(refusal.reason, "NameTaken");
    assert_eq!(decide(&Graceful, GONE, SuperSide::Foreign), Outcome::Forget);
}

#[test]
fn a_copy_of_an_older_uid_goes_before_a_new_one_comes() {
    let older = ours(copy(SUPER, &json!({}), &json!({}), &json!({})), uid(9));
    assert_eq!(steps(decide(&Graceful, live(), older)), [Step::DeleteSuper { uid: SUPER, grace_seconds: None }]);
}

#[test]
fn a_terminating_tenant_copy_keeps_its_grace_period() {
    let going =
        tenant(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 42}), &json!({"x": 1}), &json!({}));
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    assert_eq!(steps(decide(&Graceful, going.clone(), sup)), [Step::DeleteSuper { uid: SUPER, grace_seconds: Some(42) }]);
    assert_eq!(steps(decide(&Graceful, going, NONE)), [Step::DeleteTenant { uid: POD, grace_seconds: Some(0) }]);
}

/// A tenant's copy that is being deleted with this grace period.
fn going(grace_seconds: &Value) -> TenantSide {
    let metadata = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace_seconds});
    tenant(&metadata, &json!({"x": 1}), &json!({}))
}

#[test]
fn s33_a_grace_period_without_end_is_cut_to_what_is_allowed() {
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    let end = |grace_seconds| [Step::DeleteSuper { uid: SUPER, grace_seconds: Some(grace_seconds) }];
    let most = Policy::default().max_grace_seconds;
    assert_eq!(steps(decide(&Graceful, going(&json!(i64::MAX)), sup.clone())), end(most));
    assert_eq!(steps(decide(&Graceful, going(&json!(-7)), sup)), end(0));
}

#[test]
fn a_deletion_under_way_is_written_again_only_to_make_it_shorter() {
    let ending = |seconds: u32| {
        made(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": seconds}), &json!({"x": 1}), &json!({}))
    };
    assert_eq!(steps(decide(&Graceful, going(&json!(5)), ending(30))), [Step::DeleteSuper { uid: SUPER, grace_seconds: Some(5) }]);
    for other in [json!(30), json!(60), json!(i64::MAX), Value::Null] {
        let outcome = decide(&Graceful, going(&other), ending(30));
        let deletes = matches!(&outcome, Outcome::Write { steps, .. } if steps.iter().any(|step| matches!(step, Step::DeleteSuper { .. })));
        assert!(!deletes, "{other}: {outcome:?}");
    }
}

#[test]
fn r28_a_tenant_copy_that_only_a_finalizer_keeps_is_not_deleted_again_and_again() {
    assert_eq!(decide(&Graceful, going(&json!(0)), NONE), Outcome::Settled(None));
    assert_eq!(decide(&Graceful, going(&json!(0)), SuperSide::Foreign), Outcome::Settled(None));
}

#[test]
fn an_eviction_in_the_super_cluster_shows_in_the_tenant() {
    let sup = made(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 7}), &json!({"x": 1}), &json!({}));
    assert_eq!(steps(decide(&Graceful, live(), sup)), [Step::DeleteTenant { uid: POD, grace_seconds: Some(7) }]);
}

#[test]
fn a_placed_pod_whose_super_copy_is_gone_ends_and_never_runs_again() {
    let placed = tenant(&json!({"annotations": {keys::PLACED: "n1"}}), &json!({"x": 1, "nodeName": "n1"}), &json!({}));
    assert_eq!(decide(&Graceful, placed.clone(), SuperSide::Absent(Evidence::Inferred)), Outcome::Fetch(Want::Super));
    assert_eq!(steps(decide(&Graceful, placed, NONE)), [Step::DeleteTenant { uid: POD, grace_seconds: None }]);
}

#[test]
fn r37_a_pod_that_ran_before_its_tenant_heard_of_it_never_runs_again() {
    let ran = |sup| {
        let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::new());
        let cx = Cx::of_default(&id, &policy, &profile, &nodes);
        plan(&Graceful, &Pair { tenant: live(), sup, settled: None, wanted: true, ran: true, declined: Vec::new() }, &cx).outcome
    };
    assert_eq!(ran(SuperSide::Absent(Evidence::Inferred)), Outcome::Fetch(Want::Super));
    assert_eq!(steps(ran(NONE)), [Step::DeleteTenant { uid: POD, grace_seconds: None }]);
}

#[test]
fn a_finished_pod_without_a_super_copy_is_not_run_again() {
    let done = tenant(&json!({}), &json!({"x": 1}), &json!({"phase": "Succeeded"}));
    assert_eq!(decide(&Graceful, done, NONE), Outcome::Settled(None));
}

#[test]
fn a_finished_pod_stays_its_tenants_when_the_super_cluster_collects_its_copy() {
    let placed =
        |phase| tenant(&json!({"annotations": {keys::PLACED: "n1"}}), &json!({"x": 1, "nodeName": "n1"}), &json!({"phase": phase}));
    for phase in ["Succeeded", "Failed"] {
        let TenantSide::Here(mut passed) = placed(phase) else { unreachable!() };
        passed.body = None;
        assert_eq!(decide(&Graceful, TenantSide::Here(passed), NONE), Outcome::Fetch(Want::Tenant));
        assert_eq!(decide(&Graceful, placed(phase), NONE), Outcome::Settled(None));
    }
    assert_eq!(steps(decide(&Graceful, placed("Running"), NONE)), [Step::DeleteTenant { uid: POD, grace_seconds: None }]);
}

#[test]
fn a_refused_field_is_held_and_nothing_is_written() {
    let bad = tenant(&json!({}), &json!({"bad": true}), &json!({}));
    assert!(matches!(decide(&Graceful, bad, NONE), Outcome::Hold(Hold::Refused(_))));
}

#[test]
fn s33_what_refers_to_more_than_is_followed_is_refused_and_brings_nothing_along() {
    for (count, is_refused) in [(REFERENCES, false), (REFERENCES + 1, true)] {
        let references: Vec<_> = (0..count).map(|n| json!({"secretRef": {"name": format!("s{n}")}})).collect();
        let spec = json!({"containers": [{"name": "a", "image": "i", "envFrom": references}]});
        let pair = Pair {
            tenant: tenant(&json!({}), &spec, &json!({})),
            sup: NONE,
            settled: None,
            wanted: true,
            ran: false,
            declined: Vec::new(),
        };
        let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::new());
        let cx = Cx::of_default(&id, &policy, &profile, &nodes);
        let plan = plan(crate::kind::KindId::named("Pod").unwrap().downward().unwrap(), &pair, &cx);
        let refused = matches!(&plan.outcome, Outcome::Hold(Hold::Refused(refusal)) if refusal.reason == "TooManyReferences");
        assert_eq!((refused, plan.references.unwrap().is_empty()), (is_refused, is_refused));
    }
}

#[test]
fn r42_a_refusal_of_what_runs_keeps_nothing_of_it_from_its_tenant() {
    let status = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let bad = |status: &Value| tenant(&json!({"annotations": {keys::PLACED: "n1"}}), &json!({"bad": true, "nodeName": "n1"}), status);
    let sup = made(&json!({}), &json!({"x": 1, "nodeName": "n1"}), &status);
    let Outcome::Write { steps, held: Some(Hold::Refused(_)), .. } = decide(&Graceful, bad(&json!({})), sup.clone()) else {
        panic!("not reported, or not held")
    };
    assert_eq!(steps, [Step::Report { uid: POD, version: None, status: status.clone() }]);
    assert!(matches!(decide(&Graceful, bad(&status), sup), Outcome::Hold(Hold::Refused(_))));
}

#[test]
fn s23_what_was_taken_from_a_tenant_ends_and_what_was_not_goes_on() {
    let refused = |body: Option<()>| {
        let TenantSide::Here(Copy { facts, body: whole }) = tenant(&json!({}), &json!({"bad": true, "x": 7}), &json!({})) else { panic!() };
        TenantSide::Here(Copy { facts, body: whole.filter(|_| body.is_some()) })
    };
    let below = |x: u8| made(&json!({}), &json!({"x": x}), &json!({}));
    assert!(matches!(decide(&Lent, refused(Some(())), below(1)), Outcome::Hold(Hold::Refused(_))));
    let Outcome::Write { steps, held: Some(Hold::Refused(_)), .. } = decide(&Lent, refused(Some(())), below(2)) else {
        panic!("it goes on")
    };
    assert_eq!(steps, [Step::DeleteSuper { uid: SUPER, grace_seconds: None }]);
    let SuperSide::Ours(Copy { facts, .. }, owner) = below(2) else { panic!() };
    let unread = SuperSide::Ours(Copy { facts, body: None }, owner);
    assert_eq!(decide(&Lent, refused(Some(())), unread), Outcome::Fetch(Want::Super), "it is looked at first");
    assert!(matches!(decide(&Graceful, refused(Some(())), below(2)), Outcome::Hold(_)), "other kinds stay");
}

#[test]
fn what_asks_nothing_of_the_super_cluster_is_not_there_any_more_and_nobody_is_told() {
    let own = || tenant(&json!({}), &json!({"own": true}), &json!({}));
    assert_eq!(decide(&Graceful, own(), NONE), Outcome::Settled(None));
    let below = made(&json!({}), &json!({"x": 1}), &json!({}));
    assert_eq!(decide(&Graceful, own(), below), write(Step::DeleteSuper { uid: SUPER, grace_seconds: None }));
    let ending = made(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), &json!({"x": 1}), &json!({}));
    assert_eq!(decide(&Quiet, own(), ending), Outcome::Hold(Hold::Until(Missing::SuperGone)));
}

#[test]
fn what_is_refused_needs_nothing_below_and_what_it_was_before_keeps_what_it_needs() {
    let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::new());
    let cx = Cx::of_default(&id, &policy, &profile, &nodes);
    let named = |spec: Value, sup: SuperSide| {
        let pair =
            Pair { tenant: tenant(&json!({}), &spec, &json!({})), sup, settled: None, wanted: true, ran: false, declined: Vec::new() };
        let references = plan(&Lent, &pair, &cx).references.unwrap();
        references.into_iter().map(|reference| reference.name).collect::<Vec<_>>()
    };
    let bad = || json!({"bad": true, "x": 7});
    assert_eq!(named(json!({"x": 7}), NONE), ["7"]);
    assert_eq!(named(bad(), NONE), [""; 0]);
    assert_eq!(named(bad(), made(&json!({}), &json!({"x": 1}), &json!({}))), ["1", "7"]);
    assert_eq!(named(json!({"x": 1}), made(&json!({}), &json!({"x": 1}), &json!({}))), ["1"]);
}

#[test]
fn after_a_start_the_hash_is_trusted_and_nothing_is_written() {
    let sup = made(&json!({}), &json!({"x": 1, "defaulted": true}), &json!({}));
    assert!(matches!(decide(&Graceful, live(), sup), Outcome::Settled(_)));
}

#[test]
fn drift_in_the_super_copy_is_repaired_at_the_version_that_was_read() {
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    let then = agreed(&live(), &sup);
    let drifted = made(&json!({}), &json!({"x": 2}), &json!({}));
    let steps = steps(decide_after(&Graceful, live(), drifted, Some(then)));
    let [Step::UpdateSuper { content, uid, version }] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!((content.body.get("spec"), *uid, version.as_str()), (Some(&json!({"x": 1})), SUPER, "5"));
}

#[test]
fn a_settled_pair_is_left_alone() {
    let sup = made(&json!({}), &json!({"x": 1}), &json!({"phase": "Pending"}));
    let then = agreed(&live(), &sup);
    assert_eq!(decide_after(&Graceful, live(), sup, Some(then)), Outcome::Settled(None));
}

#[test]
fn the_binding_comes_before_the_status_and_is_not_followed_by_an_empty_one() {
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    let then = agreed(&live(), &sup);
    let scheduled = made(&json!({}), &json!({"x": 1, "nodeName": "n1"}), &json!({"phase": "Pending"}));
    let first = steps(decide_after(&Graceful, live(), scheduled, Some(then)));
    assert_eq!(first.first(), Some(&Step::Bind { uid: POD, node: "n1".into() }));
    assert!(!first.iter().any(|step| matches!(step, Step::Report { .. })), "{first:?}");
    let status = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let running = made(&json!({}), &json!({"x": 1, "nodeName": "n2"}), &status);
    let both = steps(decide_after(&Graceful, live(), running, Some(then)));
    assert_eq!(both[0], Step::ShowNode("n2".into()));
    assert_eq!(both[1], Step::Bind { uid: POD, node: "n2".into() });
    assert_eq!(both[2], Step::Report { uid: POD, version: None, status });
}

#[test]
fn what_every_api_server_says_of_a_new_object_is_not_reported() {
    let then = agreed(&live(), &made(&json!({}), &json!({"x": 1}), &json!({})));
    let said = json!({"phase": "Pending", "qosClass": "BestEffort"});
    let nominated = || made(&json!({"resourceVersion": "6"}), &json!({"x": 1}), &said);
    assert_eq!(decide_after(&Graceful, live(), nominated(), Some(then)), Outcome::Settled(Some(value_hash(&said))));
    let then = Settled { reported: Some(7), ..then };
    let back = steps(decide_after(&Graceful, live(), nominated(), Some(then)));
    assert!(matches!(back.as_slice(), [Step::Report { .. }]), "what was said before is taken back: {back:?}");
}

/// Both sides moved; the report was written, and then the super copy could not be, since it was another meanwhile.
#[test]
fn a_report_that_was_written_before_what_failed_is_not_written_again() {
    let (before, now) = (json!({"load": 1}), json!({"load": 2}));
    let placed = json!({"annotations": {(keys::PLACED): "n1"}});
    let (up, below) = (tenant(&placed, &json!({"x": 1}), &before), made(&json!({}), &json!({"x": 1}), &before));
    let settled = Settled { reported: Some(value_hash(&before)), ..agreed(&up, &below) };
    let up = tenant(&placed, &json!({"x": 2}), &now);
    let below = made(&json!({"resourceVersion": "6"}), &json!({"x": 1}), &now);
    let steps = steps(decide_after(&Graceful, up, below, Some(settled)));
    assert!(matches!(steps.as_slice(), [Step::UpdateSuper { .. }]), "{steps:?}");
}

#[test]
fn a_report_that_is_there_already_is_not_written() {
    let status = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let placed = tenant(&json!({"annotations": {keys::PLACED: "n1"}}), &json!({"x": 1, "nodeName": "n1"}), &status);
    let sup = made(&json!({}), &json!({"x": 1, "nodeName": "n1"}), &status);
    assert_eq!(decide(&Graceful, placed, sup), Outcome::Settled(Some(value_hash(&status))));
}

#[test]
fn a_pod_that_somebody_else_bound_loses_its_super_copy_and_is_not_deleted() {
    let bound = tenant(&json!({}), &json!({"x": 3, "nodeName": "elsewhere"}), &json!({}));
    let sup = made(&json!({}), &json!({"x": 1, "nodeName": "n1"}), &json!({}));
    assert_eq!(steps(decide(&Graceful, bound, sup)), [Step::DeleteSuper { uid: SUPER, grace_seconds: None }]);
}

#[test]
fn a_binding_by_somebody_else_is_seen_though_nothing_else_moved() {
    let sup = made(&json!({}), &json!({"x": 1, "nodeName": "n1"}), &json!({}));
    let bound = tenant(&json!({}), &json!({"x": 1, "nodeName": "elsewhere", "bad": null}), &json!({}));
    let then = agreed(&bound, &sup);
    let Outcome::Write { steps, held, .. } = decide_after(&Graceful, bound, sup, Some(then)) else { unreachable!() };
    assert_eq!(steps, [Step::DeleteSuper { uid: SUPER, grace_seconds: None }]);
    assert!(matches!(held, Some(Hold::Refused(_))), "its tenant is told: {held:?}");
}

#[test]
fn a_binding_that_came_after_the_super_copy_does_not_cost_the_tenant_its_pod() {
    let refused = || tenant(&json!({}), &json!({"x": 1, "nodeName": "elsewhere", "bad": null}), &json!({}));
    let ending = made(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), &json!({"x": 1, "nodeName": "n1"}), &json!({}));
    assert!(matches!(decide(&Graceful, refused(), ending.clone()), Outcome::Hold(Hold::Refused(_))));
    let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::new());
    let cx = Cx::of_default(&id, &policy, &profile, &nodes);
    let gone = Pair { tenant: refused(), sup: NONE, settled: None, wanted: true, ran: true, declined: Vec::new() };
    let outcome = plan(&Graceful, &gone, &cx).outcome;
    assert!(matches!(outcome, Outcome::Hold(Hold::Refused(_))), "{outcome:?}");
    // A node that may be named: made for it anew, once the other is gone.
    let elsewhere = tenant(&json!({}), &json!({"x": 3, "nodeName": "n2"}), &json!({}));
    assert_eq!(decide(&Graceful, elsewhere, ending), Outcome::Hold(Hold::Until(Missing::SuperGone)));
}

#[test]
fn what_nobody_refers_to_does_not_go_down_and_goes_when_the_last_reference_does() {
    let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::new());
    let cx = Cx::of_default(&id, &policy, &profile, &nodes);
    let unwanted =
        |sup| plan(&Quiet, &Pair { tenant: live(), sup, settled: None, wanted: false, ran: false, declined: Vec::new() }, &cx).outcome;
    assert_eq!(unwanted(NONE), Outcome::Settled(None));
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    assert_eq!(steps(unwanted(sup)), [Step::DeleteSuper { uid: SUPER, grace_seconds: None }]);
}

#[test]
fn a_body_that_has_passed_is_fetched_when_it_is_needed() {
    let TenantSide::Here(mut passed) = live() else { unreachable!() };
    passed.body = None;
    assert_eq!(decide(&Graceful, TenantSide::Here(passed), NONE), Outcome::Fetch(Want::Tenant));
}

/// Asks for nothing of its own, and adds `spec.more` by a subresource unless that is bad.
struct Growing;

impl Downward for Growing {
    fn resource(&self) -> Resource {
        RESOURCE
    }
    fn down(&self, tenant: &InTenant<Object>, _cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        asked(tenant)
    }
    fn adds(&self, tenant: &InTenant<Object>) -> bool {
        tenant.at("/spec/more").is_some()
    }
    fn additions(&self, tenant: &InTenant<Object>, sup: &InSuper<Object>, _cx: &Cx<'_>) -> (Vec<Addition>, Option<Hold>) {
        match (tenant.text("/spec/more"), sup.text("/spec/more")) {
            (Some("bad"), _) => (Vec::new(), Some(Hold::refuse("NotSupported", "spec.more", "remove it"))),
            (Some(more), there) if there != Some(more) => (
                vec![Addition {
                    subresource: "more",
                    spec: Map::from_iter([("more".to_owned(), json!(more))]),
                    annotations: BTreeMap::new(),
                }],
                None,
            ),
            _ => (Vec::new(), None),
        }
    }
}

#[test]
fn what_is_added_goes_with_the_rest_and_is_refused_without_it() {
    let (id, policy, profile, nodes) = (id(), Policy::default(), Profile::default(), BTreeSet::new());
    let cx = Cx::of_default(&id, &policy, &profile, &nodes);
    let sup = made(&json!({}), &json!({"x": 1}), &json!({}));
    let planned = |spec: Value, sup: &SuperSide| {
        plan(
            &Growing,
            &Pair {
                tenant: tenant(&json!({}), &spec, &json!({})),
                sup: sup.clone(),
                settled: None,
                wanted: true,
                ran: false,
                declined: Vec::new(),
            },
            &cx,
        )
    };
    let names = |plan: &Plan| -> Vec<&str> {
        let Outcome::Write { steps, .. } = &plan.outcome else { return Vec::new() };
        steps.iter().map(|step| if matches!(step, Step::AddToSuper { .. }) { "add" } else { "other" }).collect()
    };
    let both = planned(json!({"x": 2, "more": "a"}), &sup);
    assert_eq!((names(&both), both.refused.is_none()), (vec!["other", "add"], true));
    let bad = planned(json!({"x": 2, "more": "bad"}), &sup);
    assert_eq!((names(&bad), bad.refused.is_some()), (vec!["other"], true));
    let there = planned(json!({"x": 1, "more": "a"}), &made(&json!({}), &json!({"x": 1, "more": "a"}), &json!({})));
    assert!(!names(&there).contains(&"add") && there.refused.is_none(), "{there:?}");
    let ending =
        planned(json!({"x": 1, "more": "a"}), &made(&json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), &json!({"x": 1}), &json!({})));
    assert!(!names(&ending).contains(&"add"), "{ending:?}");
}
