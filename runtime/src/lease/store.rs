//! Where the Lease is kept: an API server, or memory in tests.

use std::{error::Error, future::Future};

use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::PostParams};

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was faster: the object exists already, or has another resourceVersion by now.
    #[error("the lease was changed by somebody else")]
    Conflict,
    /// There is no such object to replace.
    #[error("the lease does not exist")]
    Missing,
    /// Anything else: the call may or may not have had an effect.
    #[error("the call for the lease failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// The three calls that leader election makes, each with optimistic locking.
pub trait LeaseStore: Send + Sync + 'static {
    /// The object, if there is one; from a quorum, not a cache.
    fn get(&self, name: &str) -> impl Future<Output = Result<Option<Lease>, StoreError>> + Send;

    /// Makes the object; [`StoreError::Conflict`] if it exists.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Replaces the object if its resourceVersion is still the one in `lease`, else [`StoreError::Conflict`].
    fn replace(&self, name: &str, lease: &Lease) -> impl Future<Output = Result<Lease, StoreError>> + Send;
}

impl LeaseStore for Api<Lease> {
    async fn get(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        Ok(self.get_opt(name).await?)
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, StoreError> {
        Ok(Self::create(self, &PostParams::default(), lease).await?)
    }

    async fn replace(&self, name: &str, lease: &Lease) -> Result<Lease, StoreError> {
        Ok(Self::replace(self, name, &PostParams::default(), lease).await?)
    }
}

impl From<kube::Error> for StoreError {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error {
            match StatusCode::from_u16(status.code) {
                Ok(StatusCode::CONFLICT) => return Self::Conflict,
                Ok(StatusCode::NOT_FOUND) => return Self::Missing,
                _ => {}
            }
        }
        Self::Failed(Box::new(error))
    }
}
