//! The table of kinds: a file and a row each.

pub mod config_map;
pub mod endpoint_slice;
pub mod event;
pub mod ingress;
pub mod ingress_class;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_disruption_budget;
pub mod priority_class;
pub mod runtime_class;
pub mod secret;
pub mod service;
pub mod storage_class;
pub mod synced;
pub mod volume_attributes_class;

use crate::kind::Kind;

/// Every kind that is kept consistent whatever is configured. Adding one is a file here, a `mod` line, a row, and a fixture.
pub static KINDS: &[Kind] = &[
    Kind::Down(&namespace::Namespace),
    Kind::Down(&config_map::ConfigMap),
    Kind::Down(&secret::Secret),
    Kind::Down(&service::Service),
    Kind::Down(&endpoint_slice::EndpointSlice),
    Kind::Down(&pod::Pod),
    Kind::Down(&network_policy::NetworkPolicy),
    Kind::Down(&ingress::Ingress),
    Kind::Down(&persistent_volume_claim::PersistentVolumeClaim),
    Kind::Down(&pod_disruption_budget::PodDisruptionBudget),
    Kind::Up(&node::Node),
    Kind::Up(&event::Event),
    Kind::Up(&priority_class::PriorityClass),
    Kind::Up(&runtime_class::RuntimeClass),
    Kind::Up(&storage_class::StorageClass),
    Kind::Up(&volume_attributes_class::VolumeAttributesClass),
    Kind::Up(&ingress_class::IngressClass),
    Kind::Up(&persistent_volume::PersistentVolume),
];
