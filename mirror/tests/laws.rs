//! What holds for every kind: each row of the table has fixtures, each fixture a snapshot, and all of them keep these laws.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests are tests"
)]

use std::path::PathBuf;

use common::{InSuper, InTenant, Namespace, keys};
use mirror::kind::{About, Audience, Demand, Observe};
use mirror::kinds::synced::Synced;
use mirror::{Content, Cx, Downward, KINDS, Kind, KindId, Object, Upward};
use serde_json::{Value, json};

#[path = "support/fixture.rs"]
mod fixture;
#[path = "laws/planner.rs"]
mod planner;

use fixture::{SUPER_UID, Surroundings, TENANT_UID};

/// The keys that are ours, each of which a tenant may try to set.
const OURS: [&str; 10] = [
    keys::TENANT,
    keys::OWNER,
    keys::BUILT,
    keys::CONTAINERS,
    keys::INCARNATION,
    keys::PLACED,
    keys::TOKEN_EXPIRES,
    keys::NODE_BUILT,
    "tenancy.x-k8s.io/anything",
    "t.tenancy.x-k8s.io/aaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// A value that no fixture has.
const HOSTILE: &str = "hostile";

/// The YAML fixtures of a row, name and text.
fn fixtures(kind: &Kind) -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kinds").join(kind.resource().plural);
    let files = std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let found: Vec<(String, String)> = yaml.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect();
    assert!(!found.is_empty(), "{kind:?} has no fixture: add one in {}", folder.display());
    found
}

/// Every row of the table, and those that the sample of configured ones makes.
fn rows() -> Vec<Kind> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples/synced-resources.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
    let specs = documents.into_iter().filter(|document| document["kind"] == "SyncedResource");
    let made = specs.map(|mut document| {
        let spec = serde_json::from_value(document["spec"].take()).unwrap();
        KindId::made(Synced::of(&spec, "v1").unwrap()).kind()
    });
    KINDS.iter().copied().chain(made).collect()
}

fn each(mut law: impl FnMut(&Kind, &str, &Value)) {
    for row in &rows() {
        for (name, text) in fixtures(row) {
            law(row, &name, &serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}")));
        }
    }
}

fn each_downward(mut law: impl FnMut(&'static dyn Downward, &str, &Value)) {
    each(|row, name, fixture| match row {
        Kind::Down(kind) => law(*kind, name, fixture),
        Kind::Up(_) => {}
    });
}

fn each_upward(mut law: impl FnMut(&dyn Upward, &str, &Value)) {
    each(|row, name, fixture| match row {
        Kind::Up(kind) => law(*kind, name, fixture),
        Kind::Down(_) => {}
    });
}

/// What the kind asks for, if it does not hold.
fn down(kind: &dyn Downward, tenant: &Value, cx: &Cx<'_>) -> Option<Content> {
    kind.down(&InTenant(fixture::object(tenant)), cx).ok().map(|InSuper(asked)| asked)
}

fn plain(sup: &Object) -> Content {
    let mut body = sup.body.clone();
    body.remove("status");
    Content { labels: sup.meta.labels.clone(), annotations: sup.meta.annotations.clone(), body, ..Content::default() }
}

fn amended(kind: &dyn Downward, asked: &Content, sup: &Value, cx: &Cx<'_>) -> Content {
    let InSuper(mut content) = kind.amend(InSuper(asked.clone()), &InSuper(fixture::object(sup)), cx);
    content.body.remove("status");
    content
}

/// The JSON text of the object with the fields of each object in the opposite order.
fn backwards(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().rev().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), backwards(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(backwards).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// The super object and the tenant's that an upward fixture speaks of.
fn up(kind: &dyn Upward, fixture: &Value, cx: &Cx<'_>) -> (Audience, Result<(String, Content), String>) {
    let mut whole = json!({"metadata": {"name": "n1", "uid": SUPER_UID, "resourceVersion": "9"}});
    fixture::patch(&mut whole, &fixture["super"]);
    fill_in(&mut whole, cx);
    let sup = InSuper(fixture::object(&whole));
    let text = |key: &str| fixture["about"][key].as_str().unwrap_or_default();
    let about = About { namespace: text("namespace"), name: text("name"), uid: text("uid"), node: None };
    let about = fixture.get("about").map(|_| &about);
    let content = kind.up(&sup, about, cx).map(|InTenant(named)| named).map_err(|hold| hold.to_string());
    (kind.audience(&sup), content)
}

/// Puts the name of the super namespace in place of `$NAMESPACE`.
fn fill_in(value: &mut Value, cx: &Cx<'_>) {
    let name = cx.super_namespace.map(ToString::to_string).unwrap_or_default();
    let text = serde_json::to_string(value).unwrap().replace("$NAMESPACE", &name);
    *value = serde_json::from_str(&text).unwrap();
}

fn upward_outcome(kind: &dyn Upward, text: &str) -> Value {
    let fixture: Value = serde_saphyr::from_str(text).expect("a fixture is YAML");
    let surroundings = Surroundings::of(&fixture["cx"]);
    match up(kind, &fixture, &surroundings.cx()) {
        (audience, Err(hold)) => json!({"audience": format!("{audience:?}"), "hold": hold}),
        (audience, Ok((name, content))) => json!({
            "audience": format!("{audience:?}"),
            "up": {"name": name, "labels": content.labels, "annotations": content.annotations, "body": content.body},
        }),
    }
}

#[test]
fn every_fixture_gives_what_its_snapshot_says() {
    for row in &rows() {
        let plural = row.resource().plural;
        fixtures(row);
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(format!("kinds/{plural}/snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| {
            insta::glob!("kinds", &format!("{plural}/*.yaml"), |path| {
                let text = std::fs::read_to_string(path).unwrap();
                let outcome = match row {
                    Kind::Down(kind) => fixture::outcome(*kind, &text),
                    Kind::Up(kind) => upward_outcome(*kind, &text),
                };
                insta::assert_yaml_snapshot!(plural, outcome);
            });
        });
    }
}

#[test]
fn kinds_have_names_of_their_own() {
    let mut names: Vec<&str> = KINDS.iter().map(|row| row.resource().kind).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), KINDS.len());
}

/// What an API server may lack is watched, or shown by its mark, and nothing stands in it: it is noticed to be lacking, and nothing else ends for it.
#[test]
fn what_may_not_be_served_is_noticed_to_be_so() {
    for row in KINDS.iter().filter(|row| row.is_optional()) {
        let is_noticed = match row {
            Kind::Down(kind) => kind.observe() == Observe::Watched && kind.demand() != Demand::Contents && !kind.graceful(),
            Kind::Up(kind) => kind.mark().is_some(),
        };
        assert!(is_noticed, "{row:?}");
    }
}

/// What no table names is refused, so a row without tables carries nothing; a Namespace carries nothing but its labels.
#[test]
fn every_row_names_its_fields() {
    for row in &rows() {
        if let Kind::Down(kind) = row {
            let carries = kind.demand() != Demand::Contents;
            assert_eq!(!kind.fields().is_empty(), carries, "{row:?}");
        }
    }
}

#[test]
fn the_same_object_asks_for_the_same_in_whatever_order_it_is_written() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let tenant = fixture::tenant_object(&fixture["tenant"]);
        let Some(asked) = down(kind, &tenant, &surroundings.cx()) else { return };
        let turned = Object::parse(backwards(&tenant).as_bytes()).unwrap();
        let InSuper(again) = kind.down(&InTenant(turned), &surroundings.cx()).unwrap();
        assert_eq!((asked.hash(), &asked), (again.hash(), &again), "{name}");
    });
}

#[test]
fn a_tenant_cannot_set_what_is_ours() {
    each_downward(|kind, name, fixture| {
        let mut surroundings = Surroundings::of(&fixture["cx"]);
        // Not even with a careless administrator.
        for allowed in ["tenancy.x-k8s.io/", "t.tenancy.x-k8s.io/"] {
            surroundings.policy.labels_down.insert(allowed.to_owned());
            surroundings.policy.annotations_down.insert(allowed.to_owned());
        }
        let mut tenant = fixture::tenant_object(&fixture["tenant"]);
        for key in OURS {
            fixture::patch(&mut tenant, &json!({"metadata": {"labels": {key: HOSTILE}, "annotations": {key: HOSTILE}}}));
        }
        let Some(asked) = down(kind, &tenant, &surroundings.cx()) else { return };
        for key in OURS {
            assert_ne!(asked.labels.get(key).map(String::as_str), Some(HOSTILE), "{name}: label {key}");
        }
        assert!(!asked.annotations.values().any(|value| value == HOSTILE), "{name}: {:?}", asked.annotations);
    });
}

#[test]
fn a_field_that_nobody_knows_does_not_go_down() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let tenant = fixture::tenant_object(&fixture["tenant"]);
        for place in places(&fixture["tenant"]) {
            let mut with = tenant.clone();
            with.pointer_mut(&place).and_then(Value::as_object_mut).unwrap().insert("fieldOfTomorrow".to_owned(), json!(HOSTILE));
            let Some(asked) = down(kind, &with, &surroundings.cx()) else { continue };
            let created = String::from_utf8(asked.to_create(&kind.resource(), Some("n"), "a")).unwrap();
            assert!(!created.contains(HOSTILE), "{name}: it went down in {place:?}: {created}");
        }
    });
}

/// Where an object could have one field more: the object itself, and its spec.
fn places(tenant: &Value) -> Vec<String> {
    ["", "/spec"].into_iter().filter(|place| tenant.pointer(place).is_some_and(Value::is_object)).map(str::to_owned).collect()
}

#[test]
fn finalizers_owners_and_status_do_not_go_down() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let mut tenant = fixture::tenant_object(&fixture["tenant"]);
        let extra = json!({
            "metadata": {"finalizers": [HOSTILE], "ownerReferences": [{"uid": HOSTILE}], "managedFields": [{"manager": HOSTILE}], "generateName": HOSTILE},
        });
        fixture::patch(&mut tenant, &extra);
        let Some(asked) = down(kind, &tenant, &surroundings.cx()) else { return };
        assert!(!asked.body.contains_key("status") && !asked.body.contains_key("metadata"), "{name}");
        let created = String::from_utf8(asked.to_create(&kind.resource(), Some("n"), "a")).unwrap();
        assert!(!created.contains(HOSTILE) && !created.contains("finalizers"), "{name}: {created}");
    });
}

#[test]
fn nothing_in_the_super_cluster_bears_the_uid_of_the_virtual_cluster() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let Some(asked) = down(kind, &fixture::tenant_object(&fixture["tenant"]), &cx) else { return };
        let created = String::from_utf8(asked.to_create(&kind.resource(), cx.super_namespace.map(Namespace::as_str), "a")).unwrap();
        assert!(!created.contains(TENANT_UID), "{name}: {created}");
    });
}

#[test]
fn what_was_just_created_needs_no_amending() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let tenant = fixture::tenant_object(&fixture["tenant"]);
        let Some(asked) = down(kind, &tenant, &cx) else { return };
        let sup = fixture::super_object(asked.clone(), &tenant, &cx);
        assert_eq!(amended(kind, &asked, &sup, &cx), plain(&fixture::object(&sup)), "{name}");
    });
}

#[test]
fn what_was_amended_needs_no_amending() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let mut tenant = fixture::tenant_object(&fixture["tenant"]);
        let Some(asked) = down(kind, &tenant, &cx) else { return };
        let mut sup = fixture::super_object(asked, &tenant, &cx);
        fixture::patch(&mut sup, &fixture["super"]);
        fixture::patch(&mut tenant, &fixture["later"]);
        let Some(asked) = down(kind, &tenant, &cx) else { return };
        let once = amended(kind, &asked, &sup, &cx);
        let meta = sup["metadata"].clone();
        let mut written = Value::Object(once.body.clone());
        written["metadata"] = meta;
        written["metadata"]["labels"] = json!(once.labels);
        written["metadata"]["annotations"] = json!(once.annotations);
        assert_eq!(amended(kind, &asked, &written, &cx), once, "{name}");
    });
}

#[test]
fn what_others_put_on_a_super_object_stays() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let tenant = fixture::tenant_object(&fixture["tenant"]);
        let Some(asked) = down(kind, &tenant, &cx) else { return };
        let mut sup = fixture::super_object(asked.clone(), &tenant, &cx);
        let foreign = json!({"mesh.example/injected": "yes"});
        fixture::patch(&mut sup, &json!({"metadata": {"labels": foreign, "annotations": foreign}}));
        let content = amended(kind, &asked, &sup, &cx);
        for map in [&content.labels, &content.annotations] {
            assert_eq!(map.get("mesh.example/injected").map(String::as_str), Some("yes"), "{name}");
        }
    });
}

#[test]
fn reports_name_nothing_of_the_super_cluster() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let tenant = fixture::tenant_object(&fixture["tenant"]);
        let Some(asked) = down(kind, &tenant, &cx) else { return };
        let mut sup = fixture::super_object(asked, &tenant, &cx);
        fixture::patch(&mut sup, &fixture["super"]);
        fill_in(&mut sup, &cx);
        let tenant = InTenant(fixture::object(&tenant));
        let report = kind.up(&InSuper(fixture::object(&sup)), Some(&tenant), &cx).unwrap();
        let text = report.map(|InTenant(report)| report.status.to_string()).unwrap_or_default();
        names_nothing(&text, name, &cx);
    });
}

#[test]
fn a_choice_that_was_taken_is_not_made_again_and_asks_for_nothing_new() {
    each_downward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let mut tenant = fixture::tenant_object(&fixture["tenant"]);
        let Some(asked) = down(kind, &tenant, &cx) else { return };
        let mut sup = fixture::super_object(asked, &tenant, &cx);
        fixture::patch(&mut sup, &fixture["super"]);
        fill_in(&mut sup, &cx);
        fixture::patch(&mut tenant, &fixture["later"]);
        let sup = InSuper(fixture::object(&sup));
        let choices = |tenant: &Value| kind.choices(&InTenant(fixture::object(tenant)), &sup, &cx);
        let made = choices(&tenant);
        if made.is_empty() {
            return;
        }
        assert!(kind.chooses(), "{name}: nobody asks for the choices");
        let before = down(kind, &tenant, &cx);
        for InTenant(choice) in &made {
            names_nothing(&format!("{choice:?}"), name, &cx);
            choice.patches.iter().for_each(|patch| fixture::json_patch(&mut tenant, patch));
        }
        assert_eq!(choices(&tenant), [], "{name}");
        let amend = |asked: Option<Content>| asked.map(|asked| kind.amend(InSuper(asked), &sup, &cx));
        assert_eq!(amend(down(kind, &tenant, &cx)), amend(before), "{name}");
    });
}

#[test]
fn what_goes_up_names_nothing_of_the_super_cluster() {
    each_upward(|kind, name, fixture| {
        let surroundings = Surroundings::of(&fixture["cx"]);
        let cx = surroundings.cx();
        let mut forged = fixture.clone();
        for key in OURS {
            fixture::patch(&mut forged, &json!({"super": {"metadata": {"labels": {key: HOSTILE}, "annotations": {key: HOSTILE}}}}));
        }
        let (_, honest) = up(kind, fixture, &cx);
        assert_eq!(up(kind, &forged, &cx).1, honest, "{name}: metadata of the super object came through");
        let Ok((shown, content)) = honest else { return };
        names_nothing(&shown, name, &cx);
        names_nothing(&String::from_utf8(content.to_create(&kind.resource(), None, &shown)).unwrap(), name, &cx);
    });
}

fn names_nothing(text: &str, name: &str, cx: &Cx<'_>) {
    for secret in [cx.super_namespace.unwrap().as_str(), SUPER_UID, TENANT_UID, cx.tenant.as_str()] {
        assert!(!text.contains(secret), "{name}: {secret} in {text}");
    }
}
