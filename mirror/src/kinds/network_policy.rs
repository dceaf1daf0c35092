//! `NetworkPolicy`: goes down with its selectors mapped, and never lets in or out more than what is the tenant's own or outside the platform.
//!
//! Policies add up: what one allows no other takes away. So where a tenant allows everything, or a block of addresses, the ranges that the
//! administrator keeps from tenants (`--platform-ranges`) are taken out of it, and other namespaces are the tenant's own.
//!
//! *Guarantees*: a rule of which nothing is left is left out: an empty list of peers would mean everybody. The way to its own API server, that port
//! alone, stays open where a tenant opens it with what was taken out.
//!
//! *Caveats*: what enforces policies is the super cluster's network.
//!
//! *Sources*: KEP-2091 for what no policy of a namespace can widen; `docs/threats.md`, S25.

use std::net::IpAddr;

use common::{InSuper, InTenant};
use serde_json::{Map, Value, json};

use crate::cx::{Cx, lies_in};
use crate::hold::Hold;
use crate::kind::{Downward, Resource};
use crate::metadata;
use crate::object::{Content, Object, items};
use crate::shape::{Table, Verdict, carry_spec};

/// The kind.
pub struct NetworkPolicy;

const SPEC: &Table = &[
    ("egress", Verdict::List(&[("ports", Verdict::List(PORT)), ("to", Verdict::List(PEER))])),
    ("ingress", Verdict::List(&[("from", Verdict::List(PEER)), ("ports", Verdict::List(PORT))])),
    ("podSelector", Verdict::Rewrite("keys as labels have them in the super cluster")),
    ("policyTypes", Verdict::Copy),
];

const PEER: &Table = &[
    ("ipBlock", Verdict::Rewrite("without the ranges of `--platform-ranges`; an Event names a block of which nothing is left")),
    (
        "namespaceSelector",
        Verdict::Rewrite("the tenant's own namespaces alone; keys as labels of namespaces have them in the super cluster"),
    ),
    ("podSelector", Verdict::Rewrite("keys as labels have them in the super cluster")),
];

const PORT: &Table = &[("endPort", Verdict::Copy), ("port", Verdict::Copy), ("protocol", Verdict::Copy)];

/// Rules and peers of one policy that go down. Each may become several.
const MOST: usize = 500;

/// The directions, and what the peers of one are called.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

impl Downward for NetworkPolicy {
    fn resource(&self) -> Resource {
        Resource {
            group: "networking.k8s.io",
            version: "v1",
            api_version: "networking.k8s.io/v1",
            kind: "NetworkPolicy",
            plural: "networkpolicies",
            namespaced: true,
            status: false,
        }
    }

    fn fields(&self) -> &'static [(&'static str, &'static Table)] {
        &[("spec", SPEC)]
    }

    fn down(&self, InTenant(tenant): &InTenant<Object>, cx: &Cx<'_>) -> Result<InSuper<Content>, Hold> {
        let mut spec = carry_spec(tenant, SPEC, cx.policy.pass_unknown_fields)?;
        let rules = || DIRECTIONS.into_iter().flat_map(|(direction, peers)| items(spec.get(direction)).map(move |rule| (rule, peers)));
        if rules().map(|(rule, peers)| 1 + items(rule.get(peers)).count()).sum::<usize>() > MOST {
            let message = format!("at most {MOST} rules and peers of one policy go down; make several policies of it, which add up");
            return Err(Hold::refuse("TooLarge", "spec", message));
        }
        if let Some(selector) = spec.get_mut("podSelector") {
            *selector = metadata::selector_down(selector, cx.policy);
        }
        for (direction, peers) in DIRECTIONS {
            if let Some(Value::Array(rules)) = spec.get_mut(direction) {
                let mut kept = Vec::new();
                for (i, rule) in rules.drain(..).enumerate() {
                    kept.extend(rule_down(rule, peers, &format!("spec.{direction}[{i}]"), cx)?);
                }
                *rules = kept;
            }
        }
        metadata::down_with_spec(&tenant.meta, spec, cx.policy)
    }

    fn left_out(&self, InTenant(tenant): &InTenant<Object>, _sup: Option<&InSuper<Object>>, cx: &Cx<'_>) -> Option<Hold> {
        let rules = |(direction, peers): (&'static str, &'static str)| {
            items(tenant.at(&format!("/spec/{direction}"))).enumerate().flat_map(move |(i, rule)| {
                items(rule.get(peers))
                    .enumerate()
                    .map(move |(j, peer)| (format!("spec.{direction}[{i}].{peers}[{j}].ipBlock"), peer, peers))
            })
        };
        DIRECTIONS.into_iter().flat_map(rules).find_map(|(at, peer, peers)| {
            let cidr = peer.get("ipBlock")?.get("cidr")?.as_str()?;
            let is_left = left_of(peer.get("ipBlock")?, cx).is_some() || (peers == "to" && opens_server(peer.get("ipBlock")?, cx));
            let message = format!("{cidr:.64} is not for tenants to allow, and is left out; select Pods in its place, or ask the administrator (--platform-ranges)");
            (!is_left).then(|| Hold::refuse("AddressNotAllowed", at, message))
        })
    }
}

/// A rule as it is below: none if no peer of it is left; two if it opens the way to the tenant's API server too.
fn rule_down(rule: Value, peers: &str, at: &str, cx: &Cx<'_>) -> Result<Vec<Value>, Hold> {
    let Value::Object(mut rule) = rule else { return Err(Hold::Malformed(format!("{at} is no object").into())) };
    let mut named: Vec<Value> = items(rule.get(peers)).cloned().collect();
    if named.is_empty() {
        if cx.policy.platform_ranges.is_empty() {
            return Ok(vec![Value::Object(rule)]);
        }
        // Everybody.
        let all = ["0.0.0.0/0", "::/0"].map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
        named = [json!({"namespaceSelector": {}})].into_iter().chain(all).collect();
    }
    let (mut kept, mut opens) = (Vec::new(), false);
    for peer in &named {
        match peer.get("ipBlock") {
            Some(block) => {
                kept.extend(left_of(block, cx).map(|left| json!({"ipBlock": left})));
                opens |= peers == "to" && opens_server(block, cx);
            }
            None => kept.push(selected_down(peer, cx)),
        }
    }
    let server = cx.profile.server.filter(|server| opens && opens_port(&rule, server.port()));
    let mut rules = Vec::new();
    if !kept.is_empty() {
        rule.insert(peers.to_owned(), Value::Array(kept));
        rules.push(Value::Object(rule));
    }
    if let Some(server) = server {
        let bits = if server.is_ipv4() { 32 } else { 128 };
        let to = json!([{"ipBlock": {"cidr": format!("{}/{bits}", server.ip())}}]);
        rules.push(json!({"to": to, "ports": [{"protocol": "TCP", "port": server.port()}]}));
    }
    Ok(rules)
}

/// Whether a rule opens this port of TCP. A port by name is one of a Pod's.
fn opens_port(rule: &Map<String, Value>, port: u16) -> bool {
    let number = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_u64);
    let opens = |entry: &Value| {
        let is_tcp = entry.get("protocol").is_none_or(|protocol| protocol == "TCP");
        let first = number(entry, "port");
        let last = number(entry, "endPort").or(first);
        is_tcp && (entry.get("port").is_none() || first.zip(last).is_some_and(|(first, last)| (first..=last).contains(&u64::from(port))))
    };
    let mut ports = items(rule.get("ports")).peekable();
    ports.peek().is_none() || ports.any(opens)
}

/// A peer that selects Pods, in the namespace of the policy or in others.
fn selected_down(peer: &Value, cx: &Cx<'_>) -> Value {
    let mut out = Map::new();
    if let Some(pods) = peer.get("podSelector") {
        out.insert("podSelector".to_owned(), metadata::selector_down(pods, cx.policy));
    }
    if let Some(namespaces) = peer.get("namespaceSelector").and_then(Value::as_object) {
        out.insert("namespaceSelector".to_owned(), metadata::namespace_selector_down(namespaces, cx.tenant));
    }
    Value::Object(out)
}

/// What is left of a block of addresses.
fn left_of(block: &Value, cx: &Cx<'_>) -> Option<Value> {
    let network = block.get("cidr").and_then(Value::as_str).and_then(parsed)?;
    let inside = |inner: (IpAddr, u8), outer: (IpAddr, u8)| inner.1 >= outer.1 && lies_in(inner.0, outer);
    if cx.policy.platform_ranges.iter().any(|range| inside(network, *range)) {
        return None;
    }
    let mut except: Vec<Value> = items(block.get("except")).cloned().collect();
    for range in cx.policy.platform_ranges.iter().filter(|range| inside(**range, network)) {
        let text = Value::from(format!("{}/{}", range.0, range.1));
        if !except.contains(&text) {
            except.push(text);
        }
    }
    let mut left = Map::from_iter([("cidr".to_owned(), Value::from(format!("{}/{}", network.0, network.1)))]);
    if !except.is_empty() {
        left.insert("except".to_owned(), Value::Array(except));
    }
    Some(Value::Object(left))
}

/// Whether a block holds the tenant's API server, and that was taken out of it.
fn opens_server(block: &Value, cx: &Cx<'_>) -> bool {
    let Some(server) = cx.profile.server.map(|server| server.ip()) else { return false };
    let holds = |cidr: &Value| cidr.as_str().and_then(parsed).is_some_and(|network| lies_in(server, network));
    let is_taken = cx.policy.platform_ranges.iter().any(|range| lies_in(server, *range));
    is_taken && block.get("cidr").is_some_and(holds) && !items(block.get("except")).any(holds)
}

/// A network in its own family: what has an IPv4 address in an IPv6 form is taken for the IPv4 one by some, of which no range would be taken out.
fn parsed(cidr: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = cidr.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let is_mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    if is_mapped { None } else { Some((address, prefix.parse().ok()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::every_leaf_has_a_verdict;

    #[test]
    fn every_leaf_of_the_spec_has_a_verdict() {
        let peers = ["ingress[].from[]", "egress[].to[]"];
        let opaque: Vec<String> =
            peers.iter().flat_map(|at| ["ipBlock", "namespaceSelector", "podSelector"].map(|field| format!("{at}.{field}"))).collect();
        let opaque: Vec<&str> = opaque.iter().map(String::as_str).chain(["podSelector"]).collect();
        every_leaf_has_a_verdict::<k8s_openapi::api::networking::v1::NetworkPolicySpec>(SPEC, &opaque);
    }

    #[test]
    fn s33_rules_without_end_are_refused() {
        let tenant = common::TenantId::new(common::Uid::default(), "acme");
        let (nodes, profile) = (std::collections::BTreeSet::new(), crate::cx::Profile::default());
        let policy = crate::cx::Policy { platform_ranges: vec![("10.0.0.0".parse().unwrap(), 8)], ..crate::cx::Policy::default() };
        let cx = Cx::of_default(&tenant, &policy, &profile, &nodes);
        let with = |rules: usize| {
            let text = json!({"metadata": {"name": "a", "uid": "00000000-0000-4000-8000-000000000001"}, "spec": {"ingress": vec![json!({}); rules]}}).to_string();
            NetworkPolicy.down(&InTenant(Object::parse(text.as_bytes()).unwrap()), &cx)
        };
        assert!(with(MOST).is_ok());
        assert!(matches!(with(MOST + 1), Err(Hold::Refused(refusal)) if refusal.reason == "TooLarge"));
    }
}
