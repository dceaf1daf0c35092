//! The two sides as types, so that mixing them does not compile.

use std::fmt;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Tenant {}
    impl Sealed for super::Super {}
}

/// One of the two sides an object can live on.
pub trait Side: sealed::Sealed + Copy + Eq + Ord + std::hash::Hash + fmt::Debug + Send + Sync + 'static {
    /// How the side is called in logs and metrics.
    const NAME: &'static str;
}

/// A tenant's own control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tenant {}

/// The super cluster, which runs all tenants' Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Super {}

impl Side for Tenant {
    const NAME: &'static str = "tenant";
}

impl Side for Super {
    const NAME: &'static str = "super";
}

/// A value as it is, or is to be, in a tenant's control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTenant<T>(pub T);

/// A value as it is, or is to be, in the super cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InSuper<T>(pub T);

impl<T> std::ops::Deref for InTenant<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::ops::Deref for InSuper<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
