//! The table of kinds: a file and a row each.

pub mod config_map;
pub mod endpoint_slice;
pub mod event;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod pod_disruption_budget;
pub mod priority_class;
pub mod runtime_class;
pub mod secret;
pub mod service;

use crate::kind::Kind;

/// Every kind that is kept consistent. Adding one is a file here, a `mod` line, a row, and a fixture.
pub const KINDS: &[Kind] = &[
    Kind::Down(&namespace::Namespace),
    Kind::Down(&config_map::ConfigMap),
    Kind::Down(&secret::Secret),
    Kind::Down(&service::Service),
    Kind::Down(&endpoint_slice::EndpointSlice),
    Kind::Down(&pod::Pod),
    Kind::Down(&pod_disruption_budget::PodDisruptionBudget),
    Kind::Up(&node::Node),
    Kind::Up(&event::Event),
    Kind::Up(&priority_class::PriorityClass),
    Kind::Up(&runtime_class::RuntimeClass),
];
