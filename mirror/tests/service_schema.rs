//! Every leaf of a Service's spec, a `ConfigMap` and a Secret, as the Kubernetes that we build for knows them, has its verdict.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceSpec};
use mirror::kinds::{config_map, secret, service};
use mirror::shape::{Table, Verdict};
use schemars::schema_for;

#[path = "support/schema.rs"]
mod schema;

#[test]
fn every_leaf_of_a_service_spec_has_a_verdict() {
    let differences = schema::differences(&schema_for!(ServiceSpec), service::SPEC, &[]);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn a_leaf_of_a_service_without_a_verdict_is_found() {
    let some: Vec<_> = service::SPEC.iter().copied().filter(|(name, _)| *name != "externalIPs").collect();
    assert_eq!(schema::differences(&schema_for!(ServiceSpec), &some, &[]), ["externalIPs: no verdict"]);
}

#[test]
fn every_field_of_a_config_map_has_a_verdict() {
    let differences = schema::differences(&schema_for!(ConfigMap), &whole(config_map::CONFIG_MAP), &["metadata"]);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn every_field_of_a_secret_has_a_verdict() {
    let differences = schema::differences(&schema_for!(Secret), &whole(secret::SECRET), &["metadata"]);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// A table of the fields beside the metadata, with those that are handled alike for all kinds.
fn whole(table: &Table) -> Vec<(&'static str, Verdict)> {
    let alike = ["apiVersion", "kind", "metadata"].map(|name| (name, Verdict::Rewrite("alike for all kinds")));
    table.iter().copied().chain(alike).collect()
}
