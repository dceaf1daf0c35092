//! `EndpointSlice`: those that a tenant or a controller of its own writes, for Services without a selector; and the one behind
//! `default/kubernetes`, so that Pods reach their own API server.
//!
//! The slices of Services with a selector are computed in the super cluster from the Pods that run there. These name addresses, and an address
//! that a tenant chooses freely would draw or send traffic where the tenant must not reach. So of each slice go down the addresses that the
//! tenant's own Pods have now, and those that the administrator allows; of the API server's, where that is known to be.
//!
//! *Guarantees*: an address that no Pod of the tenant has any more is taken out of the super copy.
//!
//! *Sources*: CVE-2021-25740; the endpoint reconcilers of kube-apiserver; KEP-0752.

use std::net::{IpAddr, SocketAddr};

use common::{InSuper, InTenant, Name, Tenant};
use serde_json::Value;

use crate::bound::{Bound, Takes};
use crate::cx::{Cx, lies_in};
use crate::hold::Hold;
use crate::kind::{Downward, Resource};
use crate::metadata;
use crate::object::{Content, Object, items};
use crate::shape::{Table, Verdict, carry_body};
use crate::size;

/// The kind.
pub struct EndpointSlice;

/// The namespace and the name of the slice of the API server, and of the Service that it belongs to.
pub const KUBERNETES: (&str, &str) = ("default", "kubernetes");

/// The label by which a slice belongs to its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The label that keeps other controllers' hands off a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// All slices of a tenant but those that its own controller makes for Services with a selector.
const NOT_COMPUTED: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";
/// All copies of ours: slices that are computed bear the label of the tenant, too.
const OURS: &str = "endpointslice.kubernetes.io/managed-by=vc-syncer";

/// The fields beside the metadata.
const ENDPOINT_SLICE: &Table =
    &[("addressType", Verdict::Rewrite("FQDN is refused")), ("endpoints", Verdict::List(ENDPOINT)), ("ports", Verdict::List(PORT))];

const ENDPOINT: &Table = &[
    (
        "addresses",
        Verdict::Rewrite(
            "of the tenant's own Pods, or allowed by the administrator; an endpoint with another is left out, and an Event names it",
        ),
    ),
    ("conditions", Verdict::Object(&[("ready", Verdict::Copy), ("serving", Verdict::Copy), ("terminating", Verdict::Copy)])),
    ("deprecatedTopology", Verdict::Force("says where in the tenant's cluster it is")),
    ("hints", Verdict::Force("says where in the tenant's cluster it is")),
    ("hostname", Verdict::Force("a name that nobody resolves")),
    ("nodeName", Verdict::Force("no node of the super cluster's")),
    ("targetRef", Verdict::Force("no Pod of the super cluster's")),
    ("zone", Verdict::Force("says where in the tenant's cluster it is")),
];

const PORT: &Table = &[("appProtocol", Verdict::Copy), ("name", Verdict::Copy), ("port", Verdict::Copy), ("protocol", Verdict::Copy)];

/// Each is looked at again whenever the address of a Pod of the tenant moves.
const SLICES: Bound =
    Bound { reason: "TooManyEndpointSlices", what: "EndpointSlices of Services without a selector", most: 1000, takes: Takes::One };

impl Downward for EndpointSlice {
    fn resource(&self) -> Resource {
        Resource {
            group: "discovery.k8s.io",
            version: "v1",
            api_version: "discovery.k8s.io/v1",
            kind: "EndpointSlice",
            plural: "endpointslices",
            namespaced: true,
            status: false,
        }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("", ENDPOINT_SLICE)]
    }

    fn tenant_selector(&self) -> Option<&'static str> {
        Some(NOT_COMPUTED)
    }

    fn super_selector(&self) -> Option<&'static str> {
        Some(OURS)
    }

    fn bounds(&self) -> &'static [Bound] {
        &[SLICES]
    }

    fn depends_on_pods(&self) -> bool {
        true
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let mut body = carry_body(&tenant.body, ENDPOINT_SLICE, cx.policy.pass_unknown_fields)?;
        if !matches!(body.get("addressType").and_then(Value::as_str), Some("IPv4" | "IPv6")) {
            return Err(Hold::refuse("NotSupported", "addressType", "only IPv4 and IPv6 are allowed"));
        }
        let service = if is_api_servers(tenant, cx) {
            if let Some((at, _)) = forbidden(tenant, cx) {
                return Err(Hold::refuse("AddressNotAllowed", at, NOT_THE_API_SERVER));
            }
            KUBERNETES.1
        } else {
            keep_allowed(&mut body, cx);
            service(tenant)?
        };
        // An absent list of ports means all of them.
        body.entry("ports").or_insert_with(|| Value::Array(Vec::new()));
        let mut content = Content { body, ..metadata::down(&tenant.meta, cx.policy) };
        content.labels.insert(SERVICE.to_owned(), service.to_owned());
        content.labels.insert(MANAGED_BY.to_owned(), common::keys::SYNCER.to_owned());
        size::cap(content, size::MOST_BYTES).map(InSuper)
    }

    fn left_out(&self, InTenant(tenant): &InTenant<Object>, _sup: Option<&InSuper<Object>>, cx: &Cx<'_>) -> Option<Hold> {
        // Of the API server's all goes down, or nothing.
        forbidden(tenant, cx).filter(|_| !is_api_servers(tenant, cx)).map(|(at, address)| {
            let message = format!(
                "no Pod of yours has the address {address} now, so this endpoint is left out; the administrator can allow its range (--external-endpoints)"
            );
            Hold::refuse("AddressNotAllowed", at, message)
        })
    }
}

/// Why the slice of an API server does not go down.
const NOT_THE_API_SERVER: &str = "this is not where the API server is by the kubeconfig that the super cluster has of it; the administrator can \
                                  allow the range (--api-server-endpoints)";

fn is_api_servers(tenant: &Object, cx: &Cx<'_>) -> bool {
    (cx.namespace, tenant.meta.name.as_str()) == (Some(KUBERNETES.0), KUBERNETES.1)
}

/// The Service that a slice belongs to.
fn service(tenant: &Object) -> Result<&str, Hold> {
    let named = tenant.meta.labels.get(SERVICE).filter(|name| Name::<Tenant>::parse(name).is_ok());
    named.map(String::as_str).ok_or_else(|| {
        Hold::refuse("NoService", format!("metadata.labels[{SERVICE}]"), "a slice goes down for the Service that this label names; set it")
    })
}

/// The first address that may not go down, and where it stands.
fn forbidden(tenant: &Object, cx: &Cx<'_>) -> Option<(String, String)> {
    let ports: Vec<u16> = items(tenant.body.get("ports")).filter_map(|port| u16::try_from(port.get("port")?.as_u64()?).ok()).collect();
    let is_api_servers = is_api_servers(tenant, cx);
    let allowed = |address: IpAddr| if is_api_servers { is_the_api_server(address, &ports, cx) } else { is_allowed(address, cx) };
    items(tenant.body.get("endpoints")).enumerate().find_map(|(i, endpoint)| {
        let addresses = items(endpoint.get("addresses")).map(|address| address.as_str().unwrap_or_default());
        let (j, text) = addresses.enumerate().find(|(_, text)| !text.parse().is_ok_and(allowed))?;
        Some((format!("endpoints[{i}].addresses[{j}]"), text.escape_default().take(64).collect()))
    })
}

/// Leaves the endpoints out of which an address may not go down.
fn keep_allowed(body: &mut serde_json::Map<String, Value>, cx: &Cx<'_>) {
    let allowed = |address: &Value| address.as_str().and_then(|text| text.parse().ok()).is_some_and(|address| is_allowed(address, cx));
    if let Some(endpoints) = body.get_mut("endpoints").and_then(Value::as_array_mut) {
        endpoints.retain(|endpoint| items(endpoint.get("addresses")).all(allowed));
    }
}

/// Whether a Service of the tenant may lead there.
fn is_allowed(address: IpAddr, cx: &Cx<'_>) -> bool {
    cx.pods.has(address) || cx.policy.external_endpoints.iter().any(|range| lies_in(address, *range))
}

/// Whether all those ports of that address are what the registered kubeconfig leads to, or the address is allowed.
fn is_the_api_server(address: IpAddr, ports: &[u16], cx: &Cx<'_>) -> bool {
    let own = |server: SocketAddr| server.ip() == address && ports.iter().all(|port| *port == server.port());
    cx.profile.server.is_some_and(own) || cx.policy.api_server_endpoints.iter().any(|range| lies_in(address, *range))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use common::{TenantId, Uid};

    use super::*;
    use crate::cx::{Policy, Profile};
    use crate::schema::every_field_has_a_verdict;

    #[test]
    fn every_field_has_its_verdict() {
        every_field_has_a_verdict::<k8s_openapi::api::discovery::v1::EndpointSlice>(ENDPOINT_SLICE);
    }

    #[test]
    fn copies_are_found_by_the_label_that_they_are_given() {
        assert_eq!(OURS, format!("{MANAGED_BY}={}", common::keys::SYNCER));
    }

    #[test]
    fn s22_a_service_leads_to_own_pods_and_to_what_is_allowed() {
        let (tenant, nodes, profile) = (TenantId::new(Uid::default(), "acme"), BTreeSet::new(), Profile::default());
        let policy = Policy { external_endpoints: vec![("198.51.100.0".parse().unwrap(), 24)], ..Policy::default() };
        let pods = BTreeSet::from(["10.244.0.9".parse::<IpAddr>().unwrap()]);
        let cx = Cx { pods: &pods, ..Cx::of_default(&tenant, &policy, &profile, &nodes) };
        for (address, may) in [
            ("10.244.0.9", true),
            ("198.51.100.200", true),
            ("10.244.0.10", false),
            ("169.254.169.254", false),
            ("127.0.0.1", false),
            ("10.96.0.1", false),
            ("::ffff:10.244.0.9", false),
        ] {
            assert_eq!(is_allowed(address.parse().unwrap(), &cx), may, "{address}");
        }
    }

    #[test]
    fn s22_endpoints_lead_to_the_api_server_alone() {
        let (tenant, nodes) = (TenantId::new(Uid::default(), "acme"), BTreeSet::new());
        let policy = Policy { api_server_endpoints: vec![("198.51.100.0".parse().unwrap(), 24)], ..Policy::default() };
        let profile = Profile { server: Some("192.0.2.7:6443".parse().unwrap()), ..Profile::default() };
        let cx = Cx::of_default(&tenant, &policy, &profile, &nodes);
        let leads = |address: &str, ports: &[u16]| is_the_api_server(address.parse().unwrap(), ports, &cx);
        assert!(leads("192.0.2.7", &[6443]) && leads("198.51.100.1", &[443, 6443]));
        for (address, ports) in
            [("192.0.2.7", 443), ("10.244.0.9", 6443), ("169.254.169.254", 6443), ("::ffff:192.0.2.7", 6443), ("127.0.0.1", 6443)]
        {
            assert!(!leads(address, &[ports]), "{address}:{ports}");
        }
        assert!(!leads("192.0.2.7", &[6443, 10250]));
    }
}
