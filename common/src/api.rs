//! The custom resources of `tenancy.x-k8s.io/v1alpha1`: what people write to get a tenant, and what we report back.
//!
//! Group, kinds, field names and places are the original's, so that its manifests apply unchanged; what we added is optional.
//! `cargo xtask manifests` writes the definitions to `manifests/crds/`.

pub mod cluster_version;
pub mod condition;
pub mod synced_resource;
pub mod virtual_cluster;

pub use cluster_version::{ClusterVersion, ClusterVersionSpec};
pub use condition::{Condition, ConditionStatus, ConditionType, condition, set_condition};
pub use synced_resource::{Direction, Field, FieldVerdict, FollowedVersion, SyncedResource, SyncedResourceSpec, SyncedResourceStatus};
pub use virtual_cluster::{DeletionPolicy, NodeMode, Nodes, VirtualCluster, VirtualClusterSpec, VirtualClusterStatus};
