//! What Pods mount of their tenant beside tokens.

pub(crate) mod bundles;
pub(crate) mod certificates;
