//! Every leaf of the spec of a Pod, as the Kubernetes that we build for knows it, has its verdict.

use k8s_openapi::api::core::v1::{PodSpec, PodStatus};
use mirror::kinds::pod::verdicts;

#[path = "support/schema.rs"]
mod schema;

/// Rewritten as a whole by the kind: a token source becomes a Secret's, a selector of namespaces is `{}` or refused.
const OPAQUE: [&str; 5] = [
    "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector",
    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.namespaceSelector",
    "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].namespaceSelector",
    "volumes[].projected.sources[].serviceAccountToken",
];

#[test]
fn every_leaf_of_a_pod_spec_has_a_verdict() {
    let differences = schema::differences(&schemars::schema_for!(PodSpec), verdicts::SPEC, &OPAQUE);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn every_field_of_a_pod_status_has_a_verdict() {
    let schema = schemars::schema_for!(PodStatus);
    let known: Vec<&str> = schema.get("properties").and_then(|p| p.as_object()).unwrap().keys().map(String::as_str).collect();
    let named: Vec<&str> = verdicts::STATUS.iter().map(|(name, _)| *name).collect();
    assert_eq!(known, named);
}

#[test]
fn a_leaf_without_a_verdict_is_found() {
    let some = verdicts::SPEC.iter().copied().filter(|(name, _)| *name != "hostPID").collect::<Vec<_>>();
    let differences = schema::differences(&schemars::schema_for!(PodSpec), &some, &OPAQUE);
    assert_eq!(differences, ["hostPID: no verdict"]);
}
