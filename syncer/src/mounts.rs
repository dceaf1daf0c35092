//! What a Pod mounts that its tenant's API server gives: tokens, trust bundles and certificates, and the Secret of the super Pod that they stand in.

pub mod certificates;
pub mod secret;
pub mod tokens;
pub mod trust_bundles;

use common::{Name, Tenant, Uid};

use crate::remote::CallError;

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

/// A name that stands in what a tenant's API server says, to be put into a path.
///
/// *Errors*: status 422, for the tenant to read.
fn named(what: &str, name: &str) -> Result<Name<Tenant>, CallError> {
    Name::parse(name).map_err(|_| CallError::Status {
        side: "tenant",
        code: 422,
        reason: "InvalidName".into(),
        message: format!("what this Pod names as its {what} is no name"),
        retry_after: None,
    })
}

/// Certificates as PEM, one after the other.
fn encode(certificates: impl IntoIterator<Item = Vec<u8>>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    certificates.into_iter().map(|contents| pem::encode_config(&pem::Pem::new("CERTIFICATE", contents), config)).collect()
}
