//! What the planner keeps for every kind, whatever its two copies are: nothing ends without evidence, nothing that is not ours is touched,
//! every request names the UID that was decided on, and every fixture's pair comes to rest, at every turn of its life.

use common::{InSuper, InTenant, Owner, Uid};
use mirror::facts::Seen;
use mirror::plan::{Copy, Evidence, Mark, Outcome, Pair, Settled, Step, SuperCopy, SuperSide, TenantCopy, TenantSide, Want, plan};
use mirror::{Content, Downward, KINDS};
use serde_json::{Value, json};

use crate::each_downward;
use crate::fixture::{self, SUPER_UID, Surroundings};

const OLDER_UID: &str = "00000000-0000-4000-8000-00000000000a";

/// Far more turns than any pair needs to come to rest.
const TURNS: usize = 12;

/// Every fixture of every row that goes down, where what it asks for is not refused.
fn each_accepted(mut law: impl FnMut(&'static dyn Downward, &str, &Value)) {
    let mut looked_at = 0;
    each_downward(|kind, name, fixture| {
        let tenant = InTenant(fixture::object(&fixture::tenant_object(&fixture["tenant"])));
        if kind.down(&tenant, &Surroundings::of(&fixture["cx"]).cx()).is_ok() {
            looked_at += 1;
            law(kind, name, fixture);
        }
    });
    assert!(looked_at > KINDS.len(), "only {looked_at} fixtures were looked at");
}

/// The two copies of one object, and two API servers that do what they are asked.
struct World<'a> {
    kind: &'static dyn Downward,
    surroundings: &'a Surroundings,
    tenant: Option<Value>,
    sup: Option<Value>,
    settled: Option<Settled>,
    clock: u64,
}

impl<'a> World<'a> {
    fn of(kind: &'static dyn Downward, tenant: Value, surroundings: &'a Surroundings) -> Self {
        Self { kind, surroundings, tenant: Some(tenant), sup: None, settled: None, clock: 100 }
    }

    /// Plans until nothing is left to do, and answers with the steps that were taken.
    fn rest(&mut self, when: &str) -> Vec<Step> {
        let mut taken = Vec::new();
        for _ in 0..TURNS {
            match self.planned() {
                Outcome::Settled(reported) => {
                    self.settle(reported);
                    return taken;
                }
                Outcome::Forget => return taken,
                Outcome::Write { steps, reported, held } => {
                    assert_eq!(held, None, "{when}");
                    for step in &steps {
                        self.take(step);
                    }
                    // Ends, choices that were taken, and what may have chosen anew are planned on once more.
                    let again = |step: &Step| match step {
                        Step::Choose { .. } | Step::DeleteSuper { .. } | Step::DeleteTenant { .. } => true,
                        Step::CreateSuper { .. } | Step::UpdateSuper { .. } => self.kind.chooses(),
                        _ => false,
                    };
                    if !steps.iter().any(again) {
                        self.settle(reported);
                    }
                    taken.extend(steps);
                }
                Outcome::Hold(hold) => panic!("{when}: it is held: {hold}"),
                Outcome::Fetch(want) => panic!("{when}: {want:?} is asked for again, and was given"),
            }
        }
        panic!("{when}: it does not come to rest: {:#?}", &taken[taken.len().saturating_sub(3)..]);
    }

    /// API servers show an empty status of the kind's own form from the first.
    fn fill_in(&mut self) {
        let (Some(tenant), Some(sup)) = (&mut self.tenant, &self.sup) else { return };
        if tenant.get("status").is_none() {
            let copies = (InSuper(fixture::object(sup)), InTenant(fixture::object(tenant)));
            if let Some(InTenant(report)) = self.kind.up(&copies.0, Some(&copies.1), &self.surroundings.cx()).unwrap() {
                tenant["status"] = report.status;
            }
        }
    }

    fn settle(&mut self, reported: Option<u64>) {
        let mark = |value: &Value| Mark::from(&seen(value));
        self.settled = Some(Settled { tenant: self.tenant.as_ref().map(mark), sup: self.sup.as_ref().map(mark), reported });
    }

    /// What is decided, with each body only if it is asked for.
    fn planned(&self) -> Outcome {
        let (mut tenant_body, mut super_body) = (false, false);
        loop {
            let pair = self.pair(tenant_body, super_body);
            match plan(self.kind, &pair, &self.surroundings.cx()).outcome {
                Outcome::Fetch(Want::Tenant) if !tenant_body => tenant_body = true,
                Outcome::Fetch(Want::Super) if !super_body => super_body = true,
                outcome => return outcome,
            }
        }
    }

    fn pair(&self, tenant_body: bool, super_body: bool) -> Pair {
        let tenant = self.tenant.as_ref().map_or(TenantSide::Absent(Evidence::Seen), |value| {
            TenantSide::Here(Copy { facts: seen(value), body: tenant_body.then(|| InTenant(fixture::object(value))) })
        });
        let sup = self.sup.as_ref().map_or(SuperSide::Absent(Evidence::Seen), |value| {
            SuperSide::Ours(
                Copy { facts: seen(value), body: super_body.then(|| InSuper(fixture::object(value))) },
                owner(value).expect("it has our record"),
            )
        });
        Pair { tenant, sup, settled: self.settled, wanted: true, ran: false, declined: Vec::new() }
    }

    /// Does what an API server does.
    fn take(&mut self, step: &Step) {
        match step {
            Step::CreateSuper { content, .. } => {
                assert_eq!(self.sup, None, "created twice");
                self.sup = Some(self.written(content, SUPER_UID, None));
            }
            Step::UpdateSuper { content, uid, version } => {
                let old = self.met(Side::Super, *uid).clone();
                assert_eq!(Some(version.as_str()), old["metadata"]["resourceVersion"].as_str(), "the version that was read");
                let mut new = self.written(content, &uid.to_string(), old.get("status"));
                // Its controllers have not seen a newer one: they say nothing else meanwhile.
                if let Some(generation) = old["metadata"].get("generation") {
                    new["metadata"]["generation"] = generation.clone();
                }
                self.sup = Some(new);
            }
            Step::DeleteSuper { uid, .. } => {
                self.met(Side::Super, *uid);
                self.sup = None;
            }
            Step::AddToSuper { uid, addition } => {
                let value = self.met(Side::Super, *uid);
                addition.spec.iter().for_each(|(field, more)| merge_by_name(&mut value["spec"][field], more));
                fixture::patch(value, &json!({"metadata": {"annotations": addition.annotations}}));
            }
            Step::ConditionsDown { uid, conditions } => self.met(Side::Super, *uid)["status"]["conditions"] = conditions.clone(),
            Step::ShowNode(_) => {}
            Step::Bind { uid, node } => {
                let value = self.met(Side::Tenant, *uid);
                fixture::patch(value, &json!({"spec": {"nodeName": node}, "metadata": {"annotations": {common::keys::PLACED: "1"}}}));
            }
            Step::MarkPlaced { uid, .. } => {
                fixture::patch(self.met(Side::Tenant, *uid), &json!({"metadata": {"annotations": {common::keys::PLACED: "1"}}}));
            }
            Step::Report { uid, version, status } => {
                let value = self.met(Side::Tenant, *uid);
                let read = value["metadata"]["resourceVersion"].as_str();
                assert!(version.is_none() || version.as_deref() == read, "the version that was read");
                value["status"] = status.clone();
            }
            Step::Choose { uid, version, choice, .. } => {
                let value = self.met(Side::Tenant, *uid);
                assert_eq!(Some(version.as_str()), value["metadata"]["resourceVersion"].as_str(), "the version that was read");
                choice.patches.iter().for_each(|patch| fixture::json_patch(value, patch));
            }
            Step::DeleteTenant { uid, .. } => {
                self.met(Side::Tenant, *uid);
                self.tenant = None;
            }
        }
        self.clock += 1;
        let version = json!(self.clock.to_string());
        let written = match side(step) {
            Some(Side::Tenant) => self.tenant.as_mut(),
            Some(Side::Super) => self.sup.as_mut(),
            None => None,
        };
        if let Some(value) = written {
            value["metadata"]["resourceVersion"] = version;
        }
    }

    fn written(&self, content: &Content, uid: &str, status: Option<&Value>) -> Value {
        let cx = self.surroundings.cx();
        let name = self.tenant.as_ref().and_then(|tenant| tenant["metadata"]["name"].as_str()).unwrap();
        let bytes = content.to_create(&self.kind.resource(), cx.super_namespace.map(common::Namespace::as_str), name);
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        value["metadata"]["uid"] = json!(uid);
        if let Some(status) = status {
            value["status"] = status.clone();
        }
        value
    }

    /// The copy, if it has this UID.
    fn met(&mut self, side: Side, uid: Uid) -> &mut Value {
        let copy = match side {
            Side::Tenant => self.tenant.as_mut(),
            Side::Super => self.sup.as_mut(),
        };
        let value = copy.unwrap_or_else(|| panic!("there is nothing on the side {side:?}"));
        assert_eq!(value["metadata"]["uid"], json!(uid.to_string()), "the UID that was decided on");
        value
    }
}

/// As a strategic merge patch does it to lists of containers.
fn merge_by_name(list: &mut Value, more: &Value) {
    if !list.is_array() {
        *list = json!([]);
    }
    let list = list.as_array_mut().unwrap();
    for item in more.as_array().into_iter().flatten() {
        match list.iter_mut().find(|there| there["name"] == item["name"]) {
            Some(there) => fixture::patch(there, item),
            None => list.push(item.clone()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Tenant,
    Super,
}

/// Where a step writes to an object that is there.
fn side(step: &Step) -> Option<Side> {
    match step {
        Step::ShowNode(_) => None,
        Step::CreateSuper { .. }
        | Step::UpdateSuper { .. }
        | Step::DeleteSuper { .. }
        | Step::AddToSuper { .. }
        | Step::ConditionsDown { .. } => Some(Side::Super),
        Step::Bind { .. } | Step::MarkPlaced { .. } | Step::Report { .. } | Step::Choose { .. } | Step::DeleteTenant { .. } => {
            Some(Side::Tenant)
        }
    }
}

/// The UID that a step asks for.
fn asked_uid(step: &Step) -> Option<Uid> {
    match step {
        Step::CreateSuper { .. } | Step::ShowNode(_) => None,
        Step::UpdateSuper { uid, .. }
        | Step::DeleteSuper { uid, .. }
        | Step::AddToSuper { uid, .. }
        | Step::ConditionsDown { uid, .. }
        | Step::Bind { uid, .. }
        | Step::MarkPlaced { uid, .. }
        | Step::Report { uid, .. }
        | Step::Choose { uid, .. }
        | Step::DeleteTenant { uid, .. } => Some(*uid),
    }
}

fn seen(value: &Value) -> mirror::facts::Facts {
    Seen::of(value.to_string().as_bytes()).unwrap().facts
}

fn owner(value: &Value) -> Option<Owner> {
    Seen::of(value.to_string().as_bytes()).unwrap().owner.ok()
}

fn going(value: &Value, seconds: u32) -> Value {
    let mut going = value.clone();
    fixture::patch(&mut going, &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": seconds}}));
    going
}

/// What a tenant's side can be, by what one calls it.
fn tenant_sides(live: &Value, later: &Value) -> Vec<(&'static str, TenantSide)> {
    let here = |value: &Value, body: bool| {
        TenantSide::Here(TenantCopy { facts: seen(value), body: body.then(|| InTenant(fixture::object(value))) })
    };
    let mut placed = live.clone();
    fixture::patch(&mut placed, &json!({"metadata": {"annotations": {common::keys::PLACED: "1"}}, "spec": {"nodeName": "n1"}}));
    vec![
        ("seen to go", TenantSide::Absent(Evidence::Seen)),
        ("not in a list", TenantSide::Absent(Evidence::Inferred)),
        ("here", here(live, true)),
        ("here, no body", here(live, false)),
        ("changed", here(later, true)),
        ("placed", here(&placed, true)),
        ("going", here(&going(live, 30), true)),
        ("going, no body", here(&going(live, 0), false)),
        ("placed and going", here(&going(&placed, 30), true)),
    ]
}

fn super_sides(made: &Value, told: &Value) -> Vec<(&'static str, SuperSide)> {
    let ours = |value: &Value, body: bool, owner: Owner| {
        SuperSide::Ours(SuperCopy { facts: seen(value), body: body.then(|| InSuper(fixture::object(value))) }, owner)
    };
    let record = || owner(made).unwrap();
    let older = || Owner { uid: Uid::parse(OLDER_UID).unwrap(), ..record() };
    vec![
        ("seen to go", SuperSide::Absent(Evidence::Seen)),
        ("not in a list", SuperSide::Absent(Evidence::Inferred)),
        ("not ours", SuperSide::Foreign),
        ("as made", ours(made, true, record())),
        ("as made, no body", ours(made, false, record())),
        ("with a status", ours(told, true, record())),
        ("going", ours(&going(told, 30), true, record())),
        ("of an older UID", ours(told, true, older())),
        ("of an older UID, going", ours(&going(told, 30), true, older())),
    ]
}

/// Every state that the two copies of every fixture can be in, with what is decided on it.
fn each_state(mut law: impl FnMut(&str, &dyn Downward, &Pair, &[Step])) {
    each_accepted(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let live = fixture::tenant_object(&fixture["tenant"]);
        let mut later = live.clone();
        fixture::patch(&mut later, &fixture["later"]);
        fixture::patch(&mut later, &json!({"metadata": {"resourceVersion": "8", "labels": {"later": "yes"}}}));
        let InSuper(asked) = kind.down(&InTenant(fixture::object(&live)), &surroundings.cx()).unwrap();
        let made = fixture::super_object(asked, &live, &surroundings.cx());
        let mut told = made.clone();
        fixture::patch(&mut told, &fixture["super"]);
        for (tenant_is, tenant) in tenant_sides(&live, &later) {
            for (super_is, sup) in super_sides(&made, &told) {
                for (wanted, ran) in [(true, false), (true, true), (false, false)] {
                    let (tenant, sup) = (tenant.clone(), sup.clone());
                    let pair = Pair { tenant, sup, settled: None, wanted, ran, declined: Vec::new() };
                    let outcome = plan(kind, &pair, &surroundings.cx()).outcome;
                    let steps = if let Outcome::Write { steps, .. } = outcome { steps } else { Vec::new() };
                    let state = format!("{name}: tenant's {tenant_is}, super {super_is}, wanted {wanted}, ran {ran}");
                    law(&state, kind, &pair, &steps);
                }
            }
        }
    });
}

#[test]
fn absence_is_acted_on_only_with_evidence() {
    each_state(|state, kind, pair, steps| {
        if matches!(pair.tenant, TenantSide::Absent(Evidence::Inferred)) {
            assert_eq!(steps, [], "{state}");
        }
        let TenantSide::Here(tenant) = &pair.tenant else { return };
        if matches!(pair.sup, SuperSide::Absent(Evidence::Inferred)) && kind.graceful() && (tenant.facts.placed || pair.ran) {
            assert_eq!(steps, [], "{state}: it may be running still");
        }
    });
}

#[test]
fn what_is_not_ours_is_neither_changed_nor_reported() {
    each_state(|state, _, pair, steps| {
        let is_ours = match (&pair.tenant, &pair.sup) {
            (_, SuperSide::Foreign) => false,
            (TenantSide::Here(tenant), SuperSide::Ours(_, owner)) => owner.uid == tenant.facts.uid,
            _ => return,
        };
        for step in steps.iter().filter(|_| !is_ours) {
            let is_an_end = matches!((step, &pair.sup), (Step::DeleteSuper { .. }, SuperSide::Ours(..)));
            // What is being deleted, and has nothing in the super cluster, ends.
            let is_done = matches!((step, &pair.tenant), (Step::DeleteTenant { .. }, TenantSide::Here(copy)) if copy.facts.deleting);
            assert!(is_an_end || is_done, "{state}: {step:?}");
        }
    });
}

#[test]
fn every_step_names_the_uid_that_was_decided_on() {
    each_state(|state, _, pair, steps| {
        let tenant = if let TenantSide::Here(copy) = &pair.tenant { Some(copy.facts.uid) } else { None };
        let sup = if let SuperSide::Ours(copy, _) = &pair.sup { Some(copy.facts.uid) } else { None };
        for step in steps {
            match (step, side(step)) {
                (Step::CreateSuper { .. }, _) => assert_eq!(sup, None, "{state}: {step:?}"),
                (_, Some(Side::Tenant)) => assert_eq!(asked_uid(step), tenant, "{state}: {step:?}"),
                (_, Some(Side::Super)) => assert_eq!(asked_uid(step), sup, "{state}: {step:?}"),
                (_, None) => {}
            }
        }
    });
}

#[test]
fn nothing_new_is_made_for_what_is_going_or_unwanted() {
    each_state(|state, kind, pair, steps| {
        let TenantSide::Here(tenant) = &pair.tenant else { return };
        let unwanted = kind.demand() == mirror::kind::Demand::Referenced && !pair.wanted;
        if tenant.facts.deleting || unwanted {
            let makes = |step: &Step| matches!(step, Step::CreateSuper { .. } | Step::UpdateSuper { .. } | Step::AddToSuper { .. });
            assert!(!steps.iter().any(makes), "{state}: {steps:?}");
        }
    });
}

#[test]
fn every_pair_comes_to_rest_at_every_turn_of_its_life() {
    each_accepted(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        // As it was before it was placed.
        let mut tenant = fixture::tenant_object(&fixture["tenant"]);
        fixture::patch(&mut tenant, &json!({"metadata": {"annotations": {common::keys::PLACED: null}}}));
        if let Some(spec) = tenant.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("nodeName");
        }
        let mut world = World::of(kind, tenant, &surroundings);
        let at_rest = |world: &mut World<'_>, when: &str| {
            let taken = world.rest(&format!("{name}, {when}"));
            assert_eq!(world.rest(name), [], "{name}, {when}: more to do though nothing moved");
            // As after a start of the syncer.
            world.settled = None;
            assert_eq!(world.rest(name), [], "{name}, {when}: more to do after a start");
            taken
        };
        let taken = world.rest(&format!("{name}, new"));
        world.fill_in();
        at_rest(&mut world, "made");
        let is_made = taken.iter().any(|step| matches!(step, Step::CreateSuper { .. }));
        assert_eq!(is_made, kind.demand() != mirror::kind::Demand::Contents, "{name}: {taken:?}");
        let Some(sup) = world.sup.as_mut() else { return };

        fixture::patch(sup, &fixture["super"]);
        fixture::patch(sup, &json!({"metadata": {"resourceVersion": "200"}}));
        at_rest(&mut world, "with what the super cluster says");

        let tenant = world.tenant.as_mut().unwrap();
        fixture::patch(tenant, &fixture["later"]);
        fixture::patch(tenant, &json!({"metadata": {"resourceVersion": "201"}}));
        at_rest(&mut world, "changed");

        let tenant = world.tenant.take().unwrap();
        if kind.graceful() {
            world.tenant = Some(going(&tenant, 30));
        }
        at_rest(&mut world, "deleted");
        assert_eq!((&world.tenant, &world.sup), (&None, &None), "{name}: something is left");
    });
}
