//! What holds for all Pods. What comes of certain ones stands in `tests/kinds/pods`.

use std::collections::BTreeSet;

use common::{Namespace, TenantId, Uid};
use serde_json::json;

use super::*;
use crate::cx::{NoPods, Policy, Profile};
use crate::shape::Verdict;

fn down(pod: &Value, policy: &Policy) -> Result<Content, Hold> {
    with_cx(policy, |cx| Pod.down(&InTenant(object(pod)), cx).map(|asked| asked.0))
}

fn object(pod: &Value) -> Object {
    Object::parse(&serde_json::to_vec(pod).unwrap()).unwrap()
}

fn with_cx<T>(policy: &Policy, ask: impl FnOnce(&Cx<'_>) -> T) -> T {
    let tenant = TenantId::new(Uid::parse("00000000-0000-4000-8000-000000000001").unwrap(), "acme");
    let namespace = tenant.namespace(&Namespace::parse("default").unwrap());
    ask(&Cx {
        tenant: &tenant,
        policy,
        profile: &Profile::default(),
        namespace: Some("default"),
        super_namespace: Some(&namespace),
        nodes: &BTreeSet::from(["n1".to_owned()]),
        super_nodes: &BTreeSet::new(),
        pods: &NoPods,
        published: &crate::cx::NothingPublished,
        handlers: &crate::cx::NoHandlers,
    })
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "a", "namespace": "default", "uid": "00000000-0000-4000-8000-000000000002", "resourceVersion": "1", "generation": 1},
        "spec": {
            "containers": [{"name": "a", "env": [{"name": "P", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['tenancy.x-k8s.io/placed']"}}}]}],
            "volumes": [{"name": "a", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.annotations"}}]}}],
        },
    })
}

#[test]
fn our_binding_and_every_status_leave_what_is_asked_as_it_was() {
    let policy = Policy { annotations_down: ["tenancy.x-k8s.io/".to_owned()].into(), ..Policy::default() };
    let before = down(&pod(), &policy).unwrap();
    let mut bound = pod();
    bound["metadata"]["annotations"] = json!({keys::PLACED: "n7"});
    bound["metadata"]["resourceVersion"] = json!("2");
    bound["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    bound["spec"]["nodeName"] = json!("n7");
    bound["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let after = down(&bound, &policy).unwrap();
    assert_eq!(before, after);
    assert_eq!(before.hash(), after.hash());
}

#[test]
fn a_pod_that_somebody_else_bound_is_refused() {
    let mut bound = pod();
    bound["spec"]["nodeName"] = json!("n7");
    assert!(matches!(down(&bound, &Policy::default()), Err(Hold::Refused(refusal)) if refusal.field == "spec.nodeName"));
}

#[test]
fn every_volume_source_but_seven_is_refused() {
    let Some((_, Verdict::List(volume))) = verdicts::SPEC.iter().find(|(name, _)| *name == "volumes") else {
        panic!("volumes are a list");
    };
    let (mut allowed, mut claims) = (Vec::new(), Vec::new());
    for (source, _) in volume.iter().filter(|(name, _)| *name != "name") {
        let mut pod = pod();
        // A field of tomorrow makes the source ask for something, whatever its type.
        pod["spec"]["volumes"] = json!([{"name": "v", *source: {"tomorrow": 1}}]);
        match down(&pod, &Policy::default()) {
            Err(Hold::Refused(refusal)) if refusal.reason == "UnknownField" => allowed.push(*source),
            Err(Hold::Refused(refusal)) => assert_eq!(refusal.field, format!("spec.volumes[0].{source}")),
            // What it says of the claim is for the tenant's own controller.
            Ok(asked) if asked.body["spec"]["volumes"] == json!([{"name": "v", "persistentVolumeClaim": {"claimName": "a-v"}}]) => {
                claims.push(*source);
            }
            other => panic!("{source}: {other:?}"),
        }
    }
    assert_eq!(allowed, ["configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"]);
    assert_eq!(claims, ["ephemeral"]);
}

#[test]
fn garbage_is_held_and_never_panics() {
    let garbage = [json!(null), json!(7), json!("x"), json!([]), json!([[]]), json!([7]), json!({}), json!([{"name": 7}])];
    let Value::Object(spec) = pod()["spec"].clone() else { panic!("a spec") };
    let lists = ["initContainers", "volumes", "tolerations", "affinity", "dnsConfig", "imagePullSecrets", "topologySpreadConstraints"];
    for key in spec.keys().map(String::as_str).chain(lists).chain(["dnsPolicy", "terminationGracePeriodSeconds", "securityContext"]) {
        for value in &garbage {
            let mut pod = pod();
            pod["spec"][key] = value.clone();
            let _ = down(&pod, &Policy::default());
            let object = InTenant(Object::parse(&serde_json::to_vec(&pod).unwrap()).unwrap());
            let (_, _) = (Pod.references(&object), Pod.mounts(&object));
        }
    }
    for spec in garbage {
        let mut pod = pod();
        pod["spec"] = spec;
        let _ = down(&pod, &Policy::default());
    }
}

#[test]
fn what_the_super_cluster_could_not_store_is_refused() {
    let mut large = pod();
    large["spec"]["containers"][0]["args"] = json!(["x".repeat(800 * 1024)]);
    assert!(matches!(down(&large, &Policy::default()), Err(Hold::Refused(refusal)) if refusal.reason == "TooLarge"));
    let mut annotated = pod();
    annotated["metadata"]["annotations"] = json!({"example.com/a": "x".repeat(260 * 1024)});
    assert!(matches!(down(&annotated, &Policy::default()), Err(Hold::Refused(refusal)) if refusal.field == "metadata.annotations"));
}

/// A running super copy whose annotation lists `listed`, as the tenant's `asked` amends it: the list, and each container with its image.
fn amended(listed: Option<&str>, spec: Value, asked: Value) -> (Option<String>, Vec<String>) {
    let mut tenant = pod();
    tenant["spec"] = asked;
    let mut sup = pod();
    sup["metadata"]["annotations"] = listed.map_or(json!({}), |names| json!({keys::CONTAINERS: names}));
    sup["spec"] = spec;
    let policy = Policy::default();
    let InSuper(content) = with_cx(&policy, |cx| {
        let asked = Pod.down(&InTenant(object(&tenant)), cx).unwrap();
        Pod.amend(asked, &InSuper(object(&sup)), cx)
    });
    let spec = content.body["spec"].as_object().unwrap();
    let containers = CONTAINER_LISTS.iter().flat_map(|list| objects(spec, list));
    let images = containers.map(|c| format!("{}={}", text(c, "name").unwrap(), text(c, "image").unwrap())).collect();
    (content.annotations.get(keys::CONTAINERS).cloned(), images)
}

#[test]
fn a_container_that_the_super_cluster_put_there_never_becomes_the_tenants() {
    let injected = |list: &str| {
        let mut spec = json!({"containers": [{"name": "app", "image": "app:1"}]});
        let more = json!({"name": "agent", "image": "agent:1"});
        match list {
            "containers" => spec[list].as_array_mut().unwrap().push(more),
            _ => spec[list] = json!([more]),
        }
        spec
    };
    for there in CONTAINER_LISTS {
        for claimed in FIRST_LISTS {
            let mut asked = injected(claimed);
            asked["containers"][0]["image"] = json!("app:2");
            let last = asked[claimed].as_array().unwrap().len() - 1;
            asked[claimed][last]["image"] = json!("evil");
            let (listed, images) = amended(Some("app"), injected(there), asked.clone());
            assert_eq!(listed.as_deref(), Some("app"), "claimed in {claimed}, there in {there}");
            assert!(images.contains(&"agent=agent:1".to_owned()), "claimed in {claimed}, there in {there}: {images:?}");
            assert!(images.contains(&"app=app:2".to_owned()), "an image of the tenant's own goes through: {images:?}");
            // Without a list nothing is known to be the tenant's.
            let (listed, images) = amended(None, injected(there), asked);
            assert!(listed.is_none() && images.contains(&"app=app:1".to_owned()) && images.contains(&"agent=agent:1".to_owned()));
        }
    }
}

#[test]
fn what_was_added_later_stays_listed() {
    let spec = json!({"containers": [{"name": "app", "image": "app:1"}], "ephemeralContainers": [{"name": "debug", "image": "tools"}]});
    let (listed, images) = amended(Some("app,debug"), spec, json!({"containers": [{"name": "app", "image": "app:2"}]}));
    assert_eq!((listed.as_deref(), images), (Some("app,debug"), vec!["app=app:2".to_owned(), "debug=tools".to_owned()]));
}

/// Names that API servers refuse, and that a hostile one may give all the same.
fn no_names() -> Vec<Value> {
    let long = "a".repeat(64);
    let mut names: Vec<Value> = ["x,agent", ",", "agent,", "a b", "A", "-a", "a.b", "a/b", "", long.as_str()].map(Value::from).into();
    names.extend([json!(7), json!(null), json!(["a"])]);
    names
}

#[test]
fn a_container_that_is_not_named_by_a_label_is_refused() {
    for list in FIRST_LISTS {
        for name in no_names() {
            let mut pod = pod();
            pod["spec"][list] = json!([{"name": "fine"}, {"name": name}]);
            let field = format!("spec.{list}[1].name");
            let asked = down(&pod, &Policy::default());
            assert!(matches!(&asked, Err(Hold::Refused(refusal)) if refusal.field == field), "{name} in {list}: {asked:?}");
        }
    }
}

#[test]
fn an_ephemeral_container_that_is_not_named_by_a_label_is_refused_and_holds_back_no_other() {
    let mut sup = pod();
    sup["metadata"]["annotations"] = json!({keys::CONTAINERS: "a"});
    sup["spec"] = json!({"containers": [{"name": "a"}, {"name": "agent"}]});
    let sup = InSuper(object(&sup));
    for name in no_names() {
        let mut tenant = pod();
        tenant["spec"][ephemeral::LIST] = json!([{"name": name, "image": "evil"}, {"name": "agent"}, {"name": "debug", "image": "tools"}]);
        let (additions, refused) = with_cx(&Policy::default(), |cx| Pod.additions(&InTenant(object(&tenant)), &sup, cx));
        assert!(matches!(&refused, Some(Hold::Refused(r)) if r.field == "spec.ephemeralContainers[0].name"), "{name}: {refused:?}");
        let addition = additions.into_iter().next().unwrap();
        assert_eq!(addition.annotations[keys::CONTAINERS], "a,debug", "{name}");
        assert_eq!(Value::Object(addition.spec), json!({ephemeral::LIST: [{"name": "debug", "image": "tools"}]}), "{name}");
    }
}

#[test]
fn s61_ephemeral_containers_count_together_so_that_no_pod_grows_without_end() {
    // A good third of what may be, as API servers print it.
    let large = |name: &str| json!({"name": name, "image": "tools", "args": ["<".repeat(50_000)]});
    let mut sup = pod();
    sup["metadata"]["annotations"] = json!({keys::CONTAINERS: "a,first"});
    sup["spec"] = json!({"containers": [{"name": "a"}], ephemeral::LIST: [large("first")]});
    let sup = InSuper(object(&sup));
    let mut tenant = pod();
    tenant["spec"][ephemeral::LIST] = json!([large("first"), large("second"), large("third"), {"name": "small", "image": "tools"}]);
    let (additions, refused) = with_cx(&Policy::default(), |cx| Pod.additions(&InTenant(object(&tenant)), &sup, cx));
    assert!(
        matches!(&refused, Some(Hold::Refused(r)) if r.reason == "TooLarge" && r.field == "spec.ephemeralContainers[2]"),
        "{refused:.300?}"
    );
    assert_eq!(additions.into_iter().next().unwrap().annotations[keys::CONTAINERS], "a,first,second,small", "it holds back no other");
}

#[test]
fn s61_of_thousands_of_ephemeral_containers_a_few_hundred_are_looked_at() {
    let mut sup = pod();
    sup["metadata"]["annotations"] = json!({keys::CONTAINERS: "a"});
    sup["spec"] = json!({"containers": [{"name": "a"}]});
    let mut tenant = pod();
    tenant["spec"][ephemeral::LIST] = (0..3000).map(|i| json!({"name": format!("c{i}"), "image": "x"})).collect();
    let sup = InSuper(object(&sup));
    let (additions, refused) = with_cx(&Policy::default(), |cx| Pod.additions(&InTenant(object(&tenant)), &sup, cx));
    assert!(matches!(&refused, Some(Hold::Refused(r)) if r.reason == "TooMany"), "{refused:?}");
    let addition = additions.into_iter().next().unwrap();
    assert_eq!(addition.spec[ephemeral::LIST].as_array().unwrap().len(), 256);

    // One that is refused is named by its own place.
    tenant["spec"][ephemeral::LIST] = json!([{"name": "b"}, {"name": "c", "securityContext": {"privileged": true}}]);
    let (_, refused) = with_cx(&Policy::default(), |cx| Pod.additions(&InTenant(object(&tenant)), &sup, cx));
    assert!(
        matches!(&refused, Some(Hold::Refused(r)) if r.field == "spec.ephemeralContainers[1].securityContext.privileged"),
        "{refused:?}"
    );
}
