//! What a Pod mounts that its tenant's API server gives, or says: it stands in one Secret, which lives and dies with the super Pod.

use std::collections::BTreeMap;

/// The types of keys that are made for Pods. RSA keys cost seconds of CPU, which are not the tenant's.
pub const KEY_TYPES: [&str; 4] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

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
    /// The bytes of what may be long in it.
    pub fn bytes(&self) -> usize {
        let bundle = |ask: &BundleAsk| {
            let of = match &ask.of {
                Bundles::Named(name) => name.len(),
                Bundles::Signed { signer, selector } => signer.len() + selector.as_ref().map_or(0, String::len),
            };
            of + ask.key.len() + ask.field.len()
        };
        let certificate = |ask: &CertificateAsk| {
            let told: usize = ask.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
            told + ask.signer.len() + ask.service_account.len() + ask.field.len()
        };
        let token = |ask: &TokenAsk| ask.key.len() + ask.service_account.len() + ask.audience.as_ref().map_or(0, String::len);
        self.bundles.iter().map(bundle).sum::<usize>()
            + self.certificates.iter().map(certificate).sum::<usize>()
            + self.tokens.iter().map(token).sum::<usize>()
    }

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
        /// The selector, as it stands in the Pod: JSON.
        selector: Option<String>,
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
    /// The type of the key, one of [`KEY_TYPES`].
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
