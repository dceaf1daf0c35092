//! Issues the certificates that vn-agent, its callers and kubelets know each other by.
//!
//! ```text
//! agent CA ──► vc://<VirtualCluster UID>           client: the tenant's API server
//!          ──► vc://<VirtualCluster UID>/metrics   client: the tenant's metrics-server
//!          ──► the node's name and addresses       server: vn-agent on that node
//! CA that the kubelets believe ──► vn-agent:<node>  client: vn-agent at that node's kubelet
//! ```
//!
//! Beside those: the keys and requests of the certificates that Pods mount, which their tenants' own signers issue.
//!
//! *Guarantees*: each leaf is for one use, client or server, and signs nothing. The agent CA signs for agents and their callers alone.

mod authority;
mod leaf;
mod request;

pub use authority::{Authority, PkiError};
pub use leaf::{Leaf, kubelet_user};
pub use request::StubRequest;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}
