//! `EndpointSlice`: only the one behind the tenant's Service `default/kubernetes` goes down, so that Pods reach their own API server.
//!
//! All other slices in the super cluster are computed there from the Pods that run there. This one names an address that no Pod has, and
//! an address that a tenant chooses freely would draw or send traffic where the tenant must not reach. So it goes down if it says where the
//! tenant's API server is known to be, or may be by the administrator's word.
//!
//! *Sources*: CVE-2021-25740; the endpoint reconcilers of kube-apiserver, which write this slice.

use std::net::{IpAddr, SocketAddr};

use common::{InSuper, InTenant};
use serde_json::Value;

use crate::cx::{Cx, lies_in};
use crate::hold::Hold;
use crate::kind::{Downward, Resource};
use crate::metadata;
use crate::object::{Content, Object};
use crate::shape::{Table, Verdict, carry_body};
use crate::size;

/// The kind.
pub struct EndpointSlice;

/// The namespace and the name of the one slice that goes down, and of the Service that it belongs to.
pub const KUBERNETES: (&str, &str) = ("default", "kubernetes");

/// The label by which a slice belongs to its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The label that keeps other controllers' hands off a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The fields beside the metadata.
const ENDPOINT_SLICE: &Table =
    &[("addressType", Verdict::Rewrite("FQDN is refused")), ("endpoints", Verdict::List(ENDPOINT)), ("ports", Verdict::List(PORT))];

const ENDPOINT: &Table = &[
    ("addresses", Verdict::Rewrite("those of the tenant's API server only")),
    ("conditions", Verdict::Object(&[("ready", Verdict::Copy), ("serving", Verdict::Copy), ("terminating", Verdict::Copy)])),
    ("deprecatedTopology", Verdict::Force("says where in the tenant's cluster it is")),
    ("hints", Verdict::Force("says where in the tenant's cluster it is")),
    ("hostname", Verdict::Force("a name that nobody resolves")),
    ("nodeName", Verdict::Force("no node of the super cluster's")),
    ("targetRef", Verdict::Force("no Pod of the super cluster's")),
    ("zone", Verdict::Force("says where in the tenant's cluster it is")),
];

const PORT: &Table = &[("appProtocol", Verdict::Copy), ("name", Verdict::Copy), ("port", Verdict::Copy), ("protocol", Verdict::Copy)];

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

    fn only(&self) -> Option<(&'static str, &'static str)> {
        Some(KUBERNETES)
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        if (cx.namespace, tenant.meta.name.as_str()) != (Some(KUBERNETES.0), KUBERNETES.1) {
            return Err(Hold::Malformed("only the slice of the API server goes down".into()));
        }
        let mut body = carry_body(&tenant.body, ENDPOINT_SLICE, cx.policy.pass_unknown_fields)?;
        if !matches!(body.get("addressType").and_then(Value::as_str), Some("IPv4" | "IPv6")) {
            return Err(Hold::refuse("NotSupported", "addressType", "only IPv4 and IPv6 are allowed"));
        }
        let ports: Vec<u16> = items(&body, "ports").filter_map(|port| u16::try_from(port.get("port")?.as_u64()?).ok()).collect();
        for (i, endpoint) in items(&body, "endpoints").enumerate() {
            for (j, address) in items_of(endpoint.get("addresses")).enumerate() {
                let address: Option<IpAddr> = address.as_str().and_then(|text| text.parse().ok());
                if !address.is_some_and(|address| is_the_api_server(address, &ports, cx)) {
                    return Err(Hold::refuse(
                        "AddressNotAllowed",
                        format!("endpoints[{i}].addresses[{j}]"),
                        "this is not where the API server is by the kubeconfig that the super cluster has of it; the administrator can allow the range (--api-server-endpoints)",
                    ));
                }
            }
        }
        // An absent list of ports means all of them.
        body.entry("ports").or_insert_with(|| Value::Array(Vec::new()));
        let mut content = Content { body, ..metadata::down(&tenant.meta, cx.policy) };
        content.labels.insert(SERVICE.to_owned(), KUBERNETES.1.to_owned());
        content.labels.insert(MANAGED_BY.to_owned(), common::keys::SYNCER.to_owned());
        size::cap(content, size::MOST_BYTES).map(InSuper)
    }
}

/// Whether all those ports of that address are what the registered kubeconfig leads to, or the address is allowed.
fn is_the_api_server(address: IpAddr, ports: &[u16], cx: &Cx<'_>) -> bool {
    let own = |server: SocketAddr| server.ip() == address && ports.iter().all(|port| *port == server.port());
    cx.profile.server.is_some_and(own) || cx.policy.api_server_endpoints.iter().any(|range| lies_in(address, *range))
}

fn items<'a>(body: &'a serde_json::Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    items_of(body.get(key))
}

fn items_of(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
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
