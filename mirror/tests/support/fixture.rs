//! Fixtures of a downward kind: a tenant's object in YAML, and what comes of it as a snapshot.
//!
//! *Shapes* of a fixture: `tenant`, the tenant's object, where name, namespace and UID may be left out; `cx`, what differs from the usual
//! surroundings (`dns`, `kubernetes`, `server`, `endpoints`, `external`, `platform`, `hosts`, `takenHosts`, `addresses`, `takenAddresses`, `serviceCidr`, `nodes`, `superNodes`, `pods`, `published`, `handlers`, `allowPrivileged`, `runtimeClass`, `annotationsDown`, `tolerationsDown`, `labelsDown`); `later`, a patch on
//! the tenant's object before it is looked at again; `super`, a patch on what went down, to be looked at as the super copy.
//!
//! A patch is a JSON merge patch (RFC 7396).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests are tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use common::{InSuper, InTenant, Name, Namespace, Owner, Super, Tenant, TenantId, Uid};
use mirror::cx::{Policy, Profile};
use mirror::external::ExternalAddresses;
use mirror::host::{Host, Hosts};
use mirror::{Content, Cx, Downward, Hold, Object};
use serde_json::{Map, Value, json};

pub(crate) const TENANT_UID: &str = "00000000-0000-4000-8000-000000000001";
const OBJECT_UID: &str = "00000000-0000-4000-8000-000000000002";
pub(crate) const SUPER_UID: &str = "00000000-0000-4000-8000-000000000003";

/// Everything that the kind says of a fixture.
pub(crate) fn outcome(kind: &dyn Downward, text: &str) -> Value {
    let fixture: Value = serde_saphyr::from_str(text).expect("a fixture is YAML");
    let surroundings = Surroundings::of(&fixture["cx"]);
    let cx = surroundings.cx();
    let tenant = tenant_object(&fixture["tenant"]);
    let asked = match kind.down(&InTenant(object(&tenant)), &cx) {
        Err(hold) => return json!({ "hold": hold_text(&hold) }),
        Ok(InSuper(asked)) => asked,
    };
    let mut out = Map::new();
    let name = Name::<Tenant>::parse(tenant["metadata"]["name"].as_str().unwrap()).unwrap();
    if kind.rename(&name).as_str() != name.as_str() {
        out.insert("name".to_owned(), json!(kind.rename(&name).as_str()));
    }
    out.insert("down".to_owned(), content(&asked));
    let parsed = InTenant(object(&tenant));
    let references = kind.references(&parsed).into_iter().map(|r| json!(format!("{}/{}", r.kind, r.name))).collect();
    add(&mut out, "references", Value::Array(references));
    let mounts = kind.mounts(&parsed);
    let tokens = mounts
        .tokens
        .into_iter()
        .map(|t| json!({"key": t.key, "account": t.service_account, "audience": t.audience, "seconds": t.expiration_seconds}));
    add(&mut out, "tokens", Value::Array(tokens.collect()));
    let bundles = mounts.bundles.into_iter();
    let bundles = bundles.map(|b| json!({"key": b.key, "field": b.field, "of": format!("{:?}", b.of), "optional": b.optional}));
    add(&mut out, "bundles", Value::Array(bundles.collect()));
    let certificates = mounts.certificates.iter().map(|ask| Value::String(format!("{ask:?}")));
    add(&mut out, "certificates", Value::Array(certificates.collect()));
    if fixture.get("super").is_some() || fixture.get("later").is_some() {
        pair(kind, &fixture, &tenant, asked, &cx, &mut out);
    }
    Value::Object(out)
}

/// What comes of a pair: the super copy as it was made and patched, and the tenant's as it is later.
fn pair(kind: &dyn Downward, fixture: &Value, tenant: &Value, asked: Content, cx: &Cx<'_>, out: &mut Map<String, Value>) {
    let mut sup = super_object(asked, tenant, cx);
    patch(&mut sup, &fixture["super"]);
    let sup = InSuper(object(&sup));
    let mut later = tenant.clone();
    patch(&mut later, &fixture["later"]);
    let later = InTenant(object(&later));

    let amended = kind.down(&later, cx).map(|asked| kind.amend(asked, &sup, cx).0);
    let amended = match amended {
        Err(hold) => hold_text(&hold),
        Ok(amended) => changes(&content(&plain(&sup)), &content(&amended)).unwrap_or(json!("nothing to write")),
    };
    out.insert("amend".to_owned(), amended);
    if let Some(hold) = kind.left_out(&later, Some(&sup), cx) {
        out.insert("leftOut".to_owned(), hold_text(&hold));
    }
    if kind.adds(&later) {
        let (additions, refused) = kind.additions(&later, &sup, cx);
        let mut added: Vec<Value> = additions
            .into_iter()
            .map(|addition| json!({ addition.subresource: addition.spec, "annotations": addition.annotations }))
            .collect();
        let added = if added.len() > 1 { Value::Array(added) } else { added.pop().unwrap_or(json!("nothing to add")) };
        if let Some(hold) = refused {
            out.insert("addRefused".to_owned(), hold_text(&hold));
        }
        out.insert("add".to_owned(), added);
    }
    if let Ok(Some(InTenant(report))) = kind.up(&sup, Some(&later), cx) {
        out.insert("up".to_owned(), json!({"node": report.node, "status": report.status}));
        if !kind.report_needs_tenant(&sup) {
            let alone = kind.up(&sup, None, cx).expect("a report").expect("a report").0;
            assert_eq!(alone, report, "the report depends on the tenant's copy without saying so");
        }
    }
    let choices: Map<String, Value> = kind
        .choices(&later, &sup, cx)
        .into_iter()
        .map(|InTenant(choice)| (choice.condition.to_owned(), json!({"said": choice.said, "patches": choice.patches})))
        .collect();
    if !choices.is_empty() {
        out.insert("choices".to_owned(), Value::Object(choices));
    }
    if let Some(InSuper(conditions)) = kind.conditions_down(&later, &sup) {
        out.insert("conditionsDown".to_owned(), conditions);
    }
}

fn add(out: &mut Map<String, Value>, key: &str, list: Value) {
    if list.as_array().is_some_and(|list| !list.is_empty()) {
        out.insert(key.to_owned(), list);
    }
}

fn hold_text(hold: &Hold) -> Value {
    match hold {
        Hold::Refused(refusal) => json!(format!("{} ({hold})", refusal.reason)),
        Hold::Until(_) | Hold::Malformed(_) | Hold::Stays => json!(hold.to_string()),
    }
}

fn content(content: &Content) -> Value {
    let mut out = content.body.clone();
    out.remove("status");
    out.insert("labels".to_owned(), json!(content.labels));
    out.insert("annotations".to_owned(), json!(content.annotations));
    Value::Object(out)
}

fn plain(sup: &Object) -> Content {
    Content { labels: sup.meta.labels.clone(), annotations: sup.meta.annotations.clone(), body: sup.body.clone(), ..Content::default() }
}

/// What differs, as a merge patch; `None` if nothing does.
fn changes(before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let here = new.iter().filter_map(|(key, value)| {
                let changed = old.get(key).map_or_else(|| Some(value.clone()), |old| changes(old, value))?;
                Some((key.clone(), changed))
            });
            let all: Map<String, Value> = gone.chain(here).collect();
            (!all.is_empty()).then_some(Value::Object(all))
        }
        (before, after) => (before != after).then(|| after.clone()),
    }
}

pub(crate) fn patch(value: &mut Value, with: &Value) {
    match with {
        Value::Null => {}
        Value::Object(fields) => {
            if !value.is_object() {
                *value = json!({});
            }
            for (key, with) in fields {
                if with.is_null() {
                    value.as_object_mut().unwrap().remove(key);
                } else {
                    patch(&mut value[key], with);
                }
            }
        }
        other => *value = other.clone(),
    }
}

/// Applies a JSON patch (RFC 6902) of the operations that choices are made of.
pub(crate) fn json_patch(value: &mut Value, operations: &Value) {
    for operation in operations.as_array().unwrap() {
        let (parent, key) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let fields = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        match operation["op"].as_str().unwrap() {
            "remove" => drop(fields.remove(&key).expect("what is removed is there")),
            "replace" => drop(fields.insert(key, operation["value"].clone()).expect("what is replaced is there")),
            "add" => drop(fields.insert(key, operation["value"].clone())),
            other => panic!("no choice is made of {other}"),
        }
    }
}

pub(crate) fn tenant_object(given: &Value) -> Value {
    let mut whole =
        json!({"metadata": {"name": "web-0", "namespace": "default", "uid": OBJECT_UID, "resourceVersion": "7", "generation": 1}});
    patch(&mut whole, given);
    whole
}

pub(crate) fn super_object(asked: Content, tenant: &Value, cx: &Cx<'_>) -> Value {
    let mut asked = asked;
    let owner = Owner {
        tenant: cx.tenant.uid(),
        namespace: cx.namespace.map(|namespace| Namespace::parse(namespace).unwrap()),
        name: Name::<Tenant>::parse(tenant["metadata"]["name"].as_str().unwrap()).unwrap(),
        uid: Uid::parse(tenant["metadata"]["uid"].as_str().unwrap()).unwrap(),
    };
    owner.write(cx.tenant, &mut asked.labels, &mut asked.annotations);
    let mut whole = Value::Object(asked.body);
    whole["metadata"] = json!({
        "name": tenant["metadata"]["name"],
        "namespace": cx.super_namespace.map(Namespace::as_str),
        "uid": SUPER_UID,
        "resourceVersion": "9",
        "generation": 1,
        "labels": asked.labels,
        "annotations": asked.annotations,
    });
    whole
}

pub(crate) fn object(value: &Value) -> Object {
    Object::parse(&serde_json::to_vec(value).unwrap()).expect("a fixture holds objects")
}

/// What surrounds a fixture's object.
pub(crate) struct Surroundings {
    tenant: TenantId,
    pub(crate) policy: Policy,
    profile: Profile,
    namespace: Namespace<Super>,
    nodes: BTreeSet<String>,
    super_nodes: BTreeSet<String>,
    pods: BTreeSet<IpAddr>,
    published: BTreeSet<String>,
    handlers: BTreeMap<String, String>,
}

fn network(cidr: &str) -> (IpAddr, u8) {
    let (address, prefix) = cidr.split_once('/').expect("a network");
    (address.parse().unwrap(), prefix.parse().unwrap())
}

impl Surroundings {
    pub(crate) fn of(given: &Value) -> Self {
        let tenant = TenantId::new(Uid::parse(TENANT_UID).unwrap(), "acme");
        let namespace = tenant.namespace(&Namespace::parse("default").unwrap());
        let texts = |key: &str| -> BTreeSet<String> {
            given[key].as_array().into_iter().flatten().map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let ranges = |key: &str| -> Vec<(IpAddr, u8)> { texts(key).iter().map(|range| network(range)).collect() };
        let hosts = |key: &str| -> Vec<Host> { texts(key).iter().map(|host| host.parse().unwrap()).collect() };
        let policy = Policy {
            labels_down: texts("labelsDown"),
            annotations_down: texts("annotationsDown"),
            tolerations_down: texts("tolerationsDown"),
            allow_privileged: given["allowPrivileged"] == true,
            runtime_class: given["runtimeClass"].as_str().map(str::to_owned),
            api_server_endpoints: given["endpoints"].as_str().map(network).into_iter().collect(),
            external_endpoints: given["external"].as_str().map(network).into_iter().collect(),
            platform_ranges: ranges("platform"),
            ..Policy::default()
        };
        let profile = Profile {
            cluster_domain: "cluster.local".to_owned(),
            kubernetes: given["kubernetes"].as_str().map(|address| (address.parse().unwrap(), 443)),
            dns: given["dns"].as_str().map(|address| address.parse().unwrap()),
            service_slices: given["serviceCidr"].as_str().into_iter().flat_map(|ranges| ranges.split(',')).map(network).collect(),
            server: given["server"].as_str().map(|server| server.parse().unwrap()),
            agent_port: 10550,
            hosts: Arc::new(Hosts::new(hosts("hosts"), hosts("takenHosts"))),
            external: Arc::new(ExternalAddresses::new(ranges("addresses"), ranges("takenAddresses"))),
        };
        let mut nodes = texts("nodes");
        nodes.insert("n1".to_owned());
        let super_nodes = texts("superNodes");
        let pods = texts("pods").iter().map(|address| address.parse().unwrap()).collect();
        let published = texts("published");
        let handlers = given["handlers"].as_object().into_iter().flatten();
        let handlers = handlers.map(|(class, handler)| (class.clone(), handler.as_str().unwrap().to_owned())).collect();
        Self { tenant, policy, profile, namespace, nodes, super_nodes, pods, published, handlers }
    }

    pub(crate) fn cx(&self) -> Cx<'_> {
        Cx {
            tenant: &self.tenant,
            policy: &self.policy,
            profile: &self.profile,
            namespace: Some("default"),
            super_namespace: Some(&self.namespace),
            nodes: &self.nodes,
            super_nodes: &self.super_nodes,
            pods: &self.pods,
            published: &self.published,
            handlers: &self.handlers,
        }
    }
}
