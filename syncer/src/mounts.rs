//! What a Pod mounts that its tenant's API server gives: tokens, trust bundles and certificates, and the Secret of the super Pod that they stand in.

pub mod certificates;
pub mod secret;
pub mod tokens;
pub mod trust_bundles;

use common::Uid;

/// The Pod that it is for.
#[derive(Clone, Copy, Debug)]
pub struct PodOf<'a> {
    /// Its tenant namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID in the tenant.
    pub uid: Uid,
    /// The node that it is bound to.
    pub node: &'a str,
}
