//! What holds for all Pods. What comes of certain ones stands in `tests/kinds/pods`.

use std::collections::BTreeSet;

use common::{Namespace, TenantId, Uid};
use serde_json::json;

use super::*;
use crate::cx::{Policy, Profile};
use crate::shape::Verdict;

fn down(pod: &Value, policy: &Policy) -> Result<Content, Hold> {
    let tenant = TenantId::new(Uid::parse("00000000-0000-4000-8000-000000000001").unwrap(), "acme");
    let namespace = tenant.namespace(&Namespace::parse("default").unwrap());
    let cx = Cx {
        tenant: &tenant,
        policy,
        profile: &Profile::default(),
        namespace: Some("default"),
        super_namespace: Some(&namespace),
        nodes: &BTreeSet::from(["n1".to_owned()]),
        super_nodes: &BTreeSet::new(),
    };
    let object = Object::parse(&serde_json::to_vec(pod).unwrap()).unwrap();
    Pod.down(&InTenant(object), &cx).map(|asked| asked.0)
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
fn every_volume_source_but_five_is_refused() {
    let Some((_, Verdict::List(volume))) = verdicts::SPEC.iter().find(|(name, _)| *name == "volumes") else {
        panic!("volumes are a list");
    };
    let mut allowed = Vec::new();
    for (source, _) in volume.iter().filter(|(name, _)| *name != "name") {
        let mut pod = pod();
        // A field of tomorrow makes the source ask for something, whatever its type.
        pod["spec"]["volumes"] = json!([{"name": "v", *source: {"tomorrow": 1}}]);
        match down(&pod, &Policy::default()) {
            Err(Hold::Refused(refusal)) if refusal.reason == "UnknownField" => allowed.push(*source),
            Err(Hold::Refused(refusal)) => assert_eq!(refusal.field, format!("spec.volumes[0].{source}")),
            other => panic!("{source}: {other:?}"),
        }
    }
    assert_eq!(allowed, ["configMap", "downwardAPI", "emptyDir", "projected", "secret"]);
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
            let (_, _) = (Pod.references(&object), Pod.tokens(&object));
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
