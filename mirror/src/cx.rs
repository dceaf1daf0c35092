//! Everything that a kind may read beside its own object: small records, taken out of passing events.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::{Namespace, Super, TenantId};

use crate::external::ExternalAddresses;
use crate::host::Hosts;

/// The complete list of what a decision can depend on.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// What the administrator allows.
    pub policy: &'a Policy,
    /// What is known of the tenant's control plane.
    pub profile: &'a Profile,
    /// The tenant namespace of the object, if it has one.
    pub namespace: Option<&'a str>,
    /// Its super namespace.
    pub super_namespace: Option<&'a Namespace<Super>>,
    /// The nodes that the tenant sees (its vNodes).
    pub nodes: &'a BTreeSet<String>,
    /// All nodes of the super cluster, so that the others are not told of.
    pub super_nodes: &'a dyn NodeNames,
    /// The addresses that the tenant's Pods have in the super cluster now.
    pub pods: &'a dyn PodAddresses,
    /// What the administrator lets every tenant use.
    pub published: &'a dyn Published,
    /// What the tenant's own `RuntimeClass`es stand for.
    pub handlers: &'a dyn RuntimeHandlers,
}

#[cfg(test)]
impl<'a> Cx<'a> {
    /// In tests of one decision: the namespace `default`, and no nodes but those that the tenant sees.
    pub(crate) fn of_default(tenant: &'a TenantId, policy: &'a Policy, profile: &'a Profile, nodes: &'a BTreeSet<String>) -> Self {
        Self {
            tenant,
            policy,
            profile,
            namespace: Some("default"),
            super_namespace: None,
            nodes,
            super_nodes: nodes,
            pods: &NoPods,
            published: &NothingPublished,
            handlers: &NoHandlers,
        }
    }
}

/// The names of nodes.
pub trait NodeNames: fmt::Debug + Sync {
    /// Whether a node has this name.
    fn is_node(&self, name: &str) -> bool;
}

impl NodeNames for BTreeSet<String> {
    fn is_node(&self, name: &str) -> bool {
        self.contains(name)
    }
}

/// Addresses of the Pods of one tenant.
pub trait PodAddresses: fmt::Debug + Sync {
    /// Whether one of them has this address now.
    fn has(&self, address: IpAddr) -> bool;
}

impl PodAddresses for BTreeSet<IpAddr> {
    fn has(&self, address: IpAddr) -> bool {
        self.contains(&address)
    }
}

/// Where no decision depends on them.
#[derive(Clone, Copy, Debug)]
pub struct NoPods;

impl PodAddresses for NoPods {
    fn has(&self, _: IpAddr) -> bool {
        false
    }
}

/// Objects of the super cluster, by kind and name, that every tenant may use.
pub trait Published: fmt::Debug + Sync {
    /// Whether this one is.
    fn is_published(&self, kind: &str, name: &str) -> bool;

    /// The name of the first of a kind that has this text in this field.
    fn published_with(&self, kind: &str, field: &str, text: &str) -> Option<String>;
}

/// By `Kind/name`, and `Kind/name?field=text` for what can be found by a field.
impl Published for BTreeSet<String> {
    fn is_published(&self, kind: &str, name: &str) -> bool {
        self.contains(&format!("{kind}/{name}"))
    }

    fn published_with(&self, kind: &str, field: &str, text: &str) -> Option<String> {
        let name =
            |entry: &String| entry.strip_prefix(kind)?.strip_prefix('/')?.strip_suffix(&format!("?{field}={text}")).map(str::to_owned);
        self.iter().find_map(name)
    }
}

/// Where no decision depends on it.
#[derive(Clone, Copy, Debug)]
pub struct NothingPublished;

impl Published for NothingPublished {
    fn is_published(&self, _: &str, _: &str) -> bool {
        false
    }

    fn published_with(&self, _: &str, _: &str, _: &str) -> Option<String> {
        None
    }
}

/// What a `RuntimeClass` of the tenant's own stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// It was not looked at, or too long ago: [`crate::kind::Downward::unread`].
    Unread,
    /// There is no such class.
    Missing,
    /// Its `handler`.
    Named(String),
}

/// The handlers of the tenant's own `RuntimeClass`es.
pub trait RuntimeHandlers: fmt::Debug + Sync {
    /// That of the class of this name.
    fn handler(&self, class: &str) -> Handler;
}

/// All of them.
impl RuntimeHandlers for BTreeMap<String, String> {
    fn handler(&self, class: &str) -> Handler {
        self.get(class).map_or(Handler::Missing, |handler| Handler::Named(handler.clone()))
    }
}

/// Where no decision depends on them.
#[derive(Clone, Copy, Debug)]
pub struct NoHandlers;

impl RuntimeHandlers for NoHandlers {
    fn handler(&self, _: &str) -> Handler {
        Handler::Missing
    }
}

/// What the administrator of the super cluster allows all tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Label keys with a domain that pass downward unhashed, beside `app.kubernetes.io/`: whole keys, or prefixes ending in `/`.
    pub labels_down: BTreeSet<String>,
    /// Annotation keys that pass downward: whole keys, or prefixes ending in `/`.
    pub annotations_down: BTreeSet<String>,
    /// Taints that Pods may tolerate, beside nodes that are not ready or not reached: whole keys, or prefixes ending in `/`.
    pub tolerations_down: BTreeSet<String>,
    /// A leaf that no table names is carried instead of refused.
    pub pass_unknown_fields: bool,
    /// The longest `terminationGracePeriodSeconds` that goes down, in seconds.
    pub max_grace_seconds: u32,
    /// Always force this runtime class, if set.
    pub runtime_class: Option<String>,
    /// Container fields that only `privileged` tenants use (privileged, capabilities beyond the baseline, host ports) are refused
    /// unless this is set. Pod Security "baseline" is the default.
    pub allow_privileged: bool,
    /// Ranges in which the endpoints of a tenant's `default/kubernetes` may lie, beside where its kubeconfig leads, as (network
    /// address, prefix length).
    pub api_server_endpoints: Vec<(IpAddr, u8)>,
    /// Ranges outside the cluster where a tenant's Service without a selector may lead, beside the tenant's own Pods.
    pub external_endpoints: Vec<(IpAddr, u8)>,
    /// Ranges that no `NetworkPolicy` of a tenant opens: those of Pods, nodes and Services, and what else is the platform's. The tenant's own Pods are
    /// selected, not named by address.
    pub platform_ranges: Vec<(IpAddr, u8)>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            labels_down: BTreeSet::new(),
            annotations_down: BTreeSet::new(),
            tolerations_down: BTreeSet::new(),
            pass_unknown_fields: false,
            max_grace_seconds: 3600,
            runtime_class: None,
            allow_privileged: false,
            api_server_endpoints: Vec::new(),
            external_endpoints: Vec::new(),
            platform_ranges: Vec::new(),
        }
    }
}

/// What is known of one tenant's control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The DNS domain of the tenant, `cluster.local` unless the VirtualCluster says otherwise.
    pub cluster_domain: String,
    /// The slices of service addresses recorded for the tenant, one a family at most, as (network address, prefix length).
    pub service_slices: Vec<(IpAddr, u8)>,
    /// Where the registered kubeconfig leads, if it names an address and no host.
    pub server: Option<SocketAddr>,
    /// The address and port, in the super cluster, of the tenant's `default/kubernetes` Service.
    pub kubernetes: Option<(IpAddr, u16)>,
    /// The address, in the super cluster, of the tenant's name server (`kube-system/kube-dns`).
    pub dns: Option<IpAddr>,
    /// The port on which a vNode's agent listens.
    pub agent_port: u16,
    /// The hosts that its Ingresses may publish under.
    pub hosts: Arc<Hosts>,
    /// The addresses from outside that its Services may claim.
    pub external: Arc<ExternalAddresses>,
}

/// Whether the address belongs to the network. Families are never mixed: an IPv4 address in an IPv6 form is an IPv6 address.
pub(crate) fn lies_in(address: IpAddr, (network, prefix): (IpAddr, u8)) -> bool {
    let (difference, bits) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits() ^ n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let host_bits = u32::saturating_sub(bits, u32::from(prefix));
    difference.checked_shr(host_bits).is_none_or(|rest| rest == 0)
}
