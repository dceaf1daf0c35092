//! Who really answers: the node's kubelet, or the super cluster's API server.

pub mod dial;
pub mod kubelet;
pub mod sup;

use http::{Response, StatusCode};
use hyper::body::Incoming;

use self::kubelet::Kubelet;
use self::sup::Super;
use crate::answer::{Failure, Hop};
use crate::headers::Upgrade;
use crate::pods::SuperPod;
use crate::route::{Container, PodRef, Route};

/// A back end.
pub enum Backend {
    /// The node's own kubelet.
    Kubelet(Kubelet),
    /// The super cluster's API server.
    Super(Super),
}

/// The tenant that a request is for.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The UID of its `VirtualCluster`.
    pub uid: common::Uid,
    /// The name of it.
    pub name: std::sync::Arc<str>,
}

impl Backend {
    /// Whose answers these are.
    pub const fn hop(&self) -> Hop {
        match self {
            Self::Kubelet(_) => Hop::Kubelet,
            Self::Super(_) => Hop::ApiServer,
        }
    }

    /// The tenant's Pod of that name on this node. It may be one of a moment ago, but not one that had no such container.
    pub async fn find(&self, tenant: &Tenant, pod: &PodRef, container: Option<&Container>) -> Result<SuperPod, Failure> {
        match self {
            Self::Kubelet(kubelet) => kubelet.find(tenant.uid, pod, container).await,
            Self::Super(sup) => sup.find(tenant, pod).await,
        }
    }

    /// Sends a request about a Pod and gives the head of the answer, whatever its status.
    pub async fn exchange(&self, route: &Route, pod: &SuperPod, upgrade: Option<&Upgrade>) -> Result<Response<Incoming>, Failure> {
        match self {
            Self::Kubelet(kubelet) => kubelet.exchange(route, pod, upgrade).await,
            Self::Super(sup) => sup.exchange(route, pod, upgrade).await,
        }
    }

    /// That this very Pod still has its name.
    pub async fn confirm(&self, pod: &SuperPod) -> Result<(), Failure> {
        match self {
            Self::Kubelet(kubelet) => kubelet.confirm(pod).await,
            Self::Super(sup) => sup.confirm(pod).await,
        }
    }
}

/// What an answer of this status means where none such belongs.
pub(crate) fn unexpected(hop: Hop, status: StatusCode) -> Failure {
    let who = match hop {
        Hop::ApiServer => "the super cluster's API server",
        Hop::Kubelet | Hop::Agent | Hop::Request => "the kubelet",
    };
    let why = match status {
        StatusCode::UNAUTHORIZED => "does not know vn-agent's credential",
        StatusCode::FORBIDDEN => "does not let vn-agent do this",
        status if status.is_redirection() => "answered with a redirect, which is not followed",
        _ => "answered what does not belong here",
    };
    Failure::new(StatusCode::BAD_GATEWAY, hop, format!("{who} {why} (status {})", status.as_u16()))
}

/// The Pod is not the one that was looked up.
fn replaced(pod: &SuperPod) -> Failure {
    let name = format!("{}/{}", pod.tenant_namespace, pod.owner.name);
    Failure::refused(StatusCode::NOT_FOUND, format!("pod {name}: it was replaced or deleted while the request was on its way"))
}
