//! What may pass: the closed table of routes. A request is parsed once into a value; what is sent on is built from that value.
//!
//! ```text
//! GET            containerLogs/{namespace}/{pod}/{container}
//! GET, POST      exec|attach/{namespace}/{pod}[/{uid}]/{container}
//! GET, POST      portForward/{namespace}/{pod}[/{uid}]
//! GET            stats/summary, metrics/resource, metrics/cadvisor, metrics/probes, pods
//! ```
//!
//! *Guarantees*: no byte of a path or a query passes that did not go through a grammar of its own. What is not in the table is not there.
//!
//! *Sources*: `pkg/kubelet/server/server.go` and `pkg/registry/core/pod/strategy.go` of Kubernetes; rows S55 and S56 of the threat matrix.

mod options;
pub mod query;

use std::fmt;

use common::{Name, Namespace, Tenant, Uid};
use http::Method;

pub use self::options::{LogOptions, LogStream, ProcessOptions, Streams};
use self::query::{Query, QueryError};

/// A request that may pass, if the Pod is the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The log of a container.
    Logs {
        /// Of which Pod.
        pod: PodRef,
        /// Of which container.
        container: Container,
        /// Which part.
        options: LogOptions,
    },
    /// A new process in a container.
    Exec {
        /// In which Pod.
        pod: PodRef,
        /// In which container.
        container: Container,
        /// Which command.
        options: ProcessOptions,
    },
    /// The process of a container.
    Attach {
        /// Of which Pod.
        pod: PodRef,
        /// Of which container.
        container: Container,
        /// Which streams.
        options: ProcessOptions,
    },
    /// Ports of a Pod.
    PortForward {
        /// Of which Pod.
        pod: PodRef,
        /// Which ports; over SPDY they are named later, inside the stream.
        ports: Vec<u16>,
    },
    /// A page about the node, filtered.
    Page(Page),
}

/// A page about the node, of which a caller sees its own Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// `stats/summary`.
    Summary {
        /// Leave out what is dear to measure.
        only_cpu_and_memory: bool,
    },
    /// `metrics/resource`.
    Resource,
    /// `metrics/cadvisor`.
    Cadvisor,
    /// `metrics/probes`.
    Probes,
    /// `pods`.
    Pods,
}

/// A Pod as the tenant names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace in the tenant.
    pub namespace: Namespace<Tenant>,
    /// Its name in the tenant.
    pub name: Name<Tenant>,
    /// Its UID in the tenant, where the caller names it.
    pub uid: Option<Uid>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The name of a container: an RFC 1123 label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container(String);

impl Container {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The grammar of a namespace's name is the same.
        Namespace::<Tenant>::parse(text).ok().map(|_| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a Pod is in the super cluster, as its record says.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its namespace there.
    pub namespace: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// Its UID there.
    pub uid: Uid,
}

/// Why a request does not pass, whoever sends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No route has this path.
    #[error("vn-agent serves no such path")]
    NotFound,
    /// The route has other methods.
    #[error("this path is not served for this method")]
    Method,
    /// The query cannot be sent on.
    #[error("vn-agent does not pass this query on")]
    Query(#[from] QueryError),
}

impl Route {
    /// Parses a request line: method, path as it came, query as it came.
    pub fn parse(method: &Method, path: &str, query: &str) -> Result<Self, RouteError> {
        let route = Self::of_path(path, query)?;
        if method == Method::GET || (route.is_stream() && method == Method::POST) { Ok(route) } else { Err(RouteError::Method) }
    }

    fn of_path(path: &str, query: &str) -> Result<Self, RouteError> {
        let path = path.strip_prefix('/').ok_or(RouteError::NotFound)?;
        // One more than the longest route has: what lies beyond is in the last piece and fits no grammar.
        let segments: Vec<&str> = path.splitn(6, '/').collect();
        match segments.as_slice() {
            ["containerLogs", namespace, pod, container] => {
                let (pod, container) = (pod_ref(namespace, pod, None)?, container_of(container)?);
                Ok(Self::Logs { pod, container, options: LogOptions::parse(query)? })
            }
            ["exec", namespace, pod, container] => exec(pod_ref(namespace, pod, None)?, container, query),
            ["exec", namespace, pod, uid, container] => exec(pod_ref(namespace, pod, Some(uid))?, container, query),
            ["attach", namespace, pod, container] => attach(pod_ref(namespace, pod, None)?, container, query),
            ["attach", namespace, pod, uid, container] => attach(pod_ref(namespace, pod, Some(uid))?, container, query),
            ["portForward", namespace, pod] => Ok(Self::PortForward { pod: pod_ref(namespace, pod, None)?, ports: options::ports(query)? }),
            ["portForward", namespace, pod, uid] => {
                Ok(Self::PortForward { pod: pod_ref(namespace, pod, Some(uid))?, ports: options::ports(query)? })
            }
            ["stats", "summary"] => Ok(Self::Page(Page::Summary { only_cpu_and_memory: options::only_cpu_and_memory(query)? })),
            ["metrics", "resource"] => page(Page::Resource, query),
            ["metrics", "cadvisor"] => page(Page::Cadvisor, query),
            ["metrics", "probes"] => page(Page::Probes, query),
            ["pods"] => page(Page::Pods, query),
            _ => Err(RouteError::NotFound),
        }
    }

    /// The Pod, if it is about one.
    pub fn pod(&self) -> Option<&PodRef> {
        match self {
            Self::Logs { pod, .. } | Self::Exec { pod, .. } | Self::Attach { pod, .. } | Self::PortForward { pod, .. } => Some(pod),
            Self::Page(_) => None,
        }
    }

    /// The container, if it is about one.
    pub fn container(&self) -> Option<&Container> {
        match self {
            Self::Logs { container, .. } | Self::Exec { container, .. } | Self::Attach { container, .. } => Some(container),
            Self::PortForward { .. } | Self::Page(_) => None,
        }
    }

    /// Whether it becomes a stream both ways.
    pub const fn is_stream(&self) -> bool {
        matches!(self, Self::Exec { .. } | Self::Attach { .. } | Self::PortForward { .. })
    }

    /// Whether the answer may begin late, when there is something to say.
    pub fn follows(&self) -> bool {
        matches!(self, Self::Logs { options: LogOptions { follow: true, .. }, .. })
    }

    /// One word, for logs and metrics.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Logs { .. } => "logs",
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
            Self::Page(Page::Summary { .. }) => "stats/summary",
            Self::Page(Page::Resource) => "metrics/resource",
            Self::Page(Page::Cadvisor) => "metrics/cadvisor",
            Self::Page(Page::Probes) => "metrics/probes",
            Self::Page(Page::Pods) => "pods",
        }
    }

    /// Path and query for the kubelet, about the Pod at `place`.
    pub fn at_kubelet(&self, Place { namespace, name, uid }: Place<'_>) -> String {
        let mut query = Query::default();
        let path = match self {
            Self::Logs { container, options, .. } => {
                options.write(&mut query);
                format!("/containerLogs/{namespace}/{name}/{}", container.as_str())
            }
            Self::Exec { container, options, .. } => {
                options.write(&mut query, &options::KUBELET);
                format!("/exec/{namespace}/{name}/{uid}/{}", container.as_str())
            }
            Self::Attach { container, options, .. } => {
                options.write(&mut query, &options::KUBELET);
                format!("/attach/{namespace}/{name}/{uid}/{}", container.as_str())
            }
            Self::PortForward { ports, .. } => {
                let list: Vec<String> = ports.iter().map(u16::to_string).collect();
                query.push_some("port", Some(list.join(",")).filter(|list| !list.is_empty()));
                format!("/portForward/{namespace}/{name}/{uid}")
            }
            Self::Page(page) => return page.at_kubelet(),
        };
        query.after(&path)
    }

    /// Path and query for the super cluster's API server, about the Pod at `place`; nothing for pages, which it does not have.
    pub fn at_api_server(&self, Place { namespace, name, .. }: Place<'_>) -> Option<String> {
        let mut query = Query::default();
        let subresource = match self {
            Self::Logs { container, options, .. } => {
                query.push("container", container.as_str().as_bytes());
                options.write(&mut query);
                "log"
            }
            Self::Exec { container, options, .. } => {
                query.push("container", container.as_str().as_bytes());
                options.write(&mut query, &options::API_SERVER);
                "exec"
            }
            Self::Attach { container, options, .. } => {
                query.push("container", container.as_str().as_bytes());
                options.write(&mut query, &options::API_SERVER);
                "attach"
            }
            Self::PortForward { ports, .. } => {
                for port in ports {
                    query.push_some("ports", Some(port));
                }
                "portforward"
            }
            Self::Page(_) => return None,
        };
        Some(query.after(&format!("/api/v1/namespaces/{namespace}/pods/{name}/{subresource}")))
    }
}

impl Page {
    /// Path and query for the kubelet.
    pub fn at_kubelet(self) -> String {
        match self {
            Self::Summary { only_cpu_and_memory: false } => "/stats/summary",
            Self::Summary { only_cpu_and_memory: true } => "/stats/summary?only_cpu_and_memory=true",
            Self::Resource => "/metrics/resource",
            Self::Cadvisor => "/metrics/cadvisor",
            Self::Probes => "/metrics/probes",
            Self::Pods => "/pods",
        }
        .to_owned()
    }

    /// Whether a certificate for metrics alone reaches it.
    pub const fn is_metrics(self) -> bool {
        match self {
            Self::Summary { .. } | Self::Resource | Self::Cadvisor | Self::Probes => true,
            Self::Pods => false,
        }
    }
}

fn pod_ref(namespace: &str, name: &str, uid: Option<&str>) -> Result<PodRef, RouteError> {
    let uid = uid.map(Uid::parse).transpose();
    match (Namespace::parse(namespace), Name::parse(name), uid) {
        (Ok(namespace), Ok(name), Ok(uid)) => Ok(PodRef { namespace, name, uid }),
        (..) => Err(RouteError::NotFound),
    }
}

fn container_of(text: &str) -> Result<Container, RouteError> {
    Container::parse(text).ok_or(RouteError::NotFound)
}

fn exec(pod: PodRef, container: &str, query: &str) -> Result<Route, RouteError> {
    Ok(Route::Exec { pod, container: container_of(container)?, options: ProcessOptions::parse(query, true)? })
}

fn attach(pod: PodRef, container: &str, query: &str) -> Result<Route, RouteError> {
    Ok(Route::Attach { pod, container: container_of(container)?, options: ProcessOptions::parse(query, false)? })
}

fn page(page: Page, query: &str) -> Result<Route, RouteError> {
    options::none(query)?;
    Ok(Route::Page(page))
}

#[cfg(test)]
mod tests;
