//! What a Pod mounts that its tenant's API server gives, or says: it stands in one Secret, which lives and dies with the super Pod.

use std::collections::BTreeMap;

use serde_json::Value;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mounts {
    /// Tokens of its `ServiceAccount`.
    pub tokens: Vec<TokenAsk>,
    /// Trust anchors of `ClusterTrustBundle`s.
    pub bundles: Vec<BundleAsk>,
    /// Certificates of the Pod itself.
    pub certificates: Vec<CertificateAsk>,
}

impl Mounts {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.bundles.is_empty() && self.certificates.is_empty()
    }
}

/// One `ServiceAccount` token that a Pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAsk {
    /// The data key in the Pod's Secret.
    pub key: String,
    /// The `ServiceAccount`, in the Pod's namespace of the tenant.
    pub service_account: String,
    /// The audience asked for; `None` means the API server's own.
    pub audience: Option<String>,
    /// The lifetime asked for, in seconds, within what an API server accepts (at least 600).
    pub expiration_seconds: u32,
}

/// The trust anchors of one file that a Pod mounts.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleAsk {
    /// The data key in the Pod's Secret.
    pub key: String,
    /// The field that asks, for people.
    pub field: String,
    /// Which bundles.
    pub of: Bundles,
    /// Whether the Pod starts without any; the file is empty then.
    pub optional: bool,
}

/// Which `ClusterTrustBundle`s of the tenant a file holds.
///
/// *Sources*: KEP-3257; `ClusterTrustBundleProjection` of core/v1.
#[derive(Clone, Debug, PartialEq)]
pub enum Bundles {
    /// The one of this name.
    Named(String),
    /// Those of a signer that a label selector picks: all by an empty one, none without.
    Signed {
        /// The signer.
        signer: String,
        /// The selector, as it stands in the Pod.
        selector: Option<Value>,
    },
}

/// A certificate of the Pod's own, which a signer of its tenant issues.
///
/// *Sources*: KEP-4317; `PodCertificateProjection` of core/v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateAsk {
    /// The data keys in the Pod's Secret.
    pub keys: CertificateKeys,
    /// The field that asks, for people.
    pub field: String,
    /// The `ServiceAccount`, in the Pod's namespace of the tenant.
    pub service_account: String,
    /// The signer.
    pub signer: String,
    /// The type of the key, as the API names it.
    pub key_type: String,
    /// The longest life asked for, in seconds.
    pub max_expiration_seconds: u64,
    /// What the Pod tells its signer beside, unverified.
    pub annotations: BTreeMap<String, String>,
}

/// The data keys of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateKeys {
    /// Of the private key with the chain after it.
    pub bundle: String,
    /// Of the private key.
    pub key: String,
    /// Of the chain.
    pub chain: String,
}

impl CertificateKeys {
    /// Those of the certificate that is asked for as number `i`.
    pub fn new(i: usize) -> Self {
        Self { bundle: format!("certificate-{i}"), key: format!("certificate-{i}.key"), chain: format!("certificate-{i}.chain") }
    }
}

/// What is read of a `ClusterTrustBundle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its signer, if it has one.
    pub signer: Option<String>,
    /// Its certificates, as PEM.
    pub pem: String,
}
