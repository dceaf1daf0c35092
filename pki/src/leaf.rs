//! What a leaf says: whom it names, and what it is for.

use std::net::IpAddr;

use common::Uid;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use crate::authority::PkiError;

/// A leaf to be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A tenant's API server at vn-agent.
    Tenant(Uid),
    /// A tenant's metrics-server at vn-agent.
    TenantMetrics(Uid),
    /// vn-agent on a node, as its callers see it.
    Agent {
        /// The node's name.
        node: String,
        /// Addresses that callers dial: the node's `InternalIP`.
        addresses: Vec<IpAddr>,
    },
    /// vn-agent at the kubelet of a node.
    KubeletClient {
        /// The node's name.
        node: String,
    },
    /// A kubelet, as vn-agent sees it; for clusters whose kubelets have none that can be verified.
    KubeletServer {
        /// The node's name.
        node: String,
        /// Addresses that vn-agent dials.
        addresses: Vec<IpAddr>,
    },
}

/// The user that vn-agent is at a node's kubelet: what the `ClusterRoleBinding` of that node names.
pub fn kubelet_user(node: &str) -> String {
    format!("vn-agent:{node}")
}

impl Leaf {
    pub(crate) fn params(&self) -> Result<CertificateParams, PkiError> {
        let (name, names, usage) = match self {
            Self::Tenant(uid) => (uid.to_string(), vec![uri(&format!("vc://{uid}"))?], ExtendedKeyUsagePurpose::ClientAuth),
            Self::TenantMetrics(uid) => {
                (format!("{uid} metrics"), vec![uri(&format!("vc://{uid}/metrics"))?], ExtendedKeyUsagePurpose::ClientAuth)
            }
            Self::Agent { node, addresses } | Self::KubeletServer { node, addresses } => {
                (node.clone(), host(node, addresses)?, ExtendedKeyUsagePurpose::ServerAuth)
            }
            Self::KubeletClient { node } => (kubelet_user(node), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        // Nobody reads it at vn-agent; a kubelet takes it for the user's name.
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

fn uri(text: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(text.try_into().map_err(PkiError::Name)?))
}

fn host(node: &str, addresses: &[IpAddr]) -> Result<Vec<SanType>, PkiError> {
    let name = SanType::DnsName(node.try_into().map_err(PkiError::Name)?);
    Ok([name].into_iter().chain(addresses.iter().map(|address| SanType::IpAddress(*address))).collect())
}
