//! Which addresses a tenant's server may have: judged on the resolved address, at the moment of connecting.
//!
//! A kubeconfig names a host; what that name means is the tenant's to say, at any time anew. So the name is resolved once,
//! each answer is judged, and the connection goes to an address that was judged: there is no second look-up to lie to.

mod cidr;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::future::BoxFuture;

pub use self::cidr::{Cidr, InvalidCidr};

/// Ranges that no tenant's server can have.
///
/// Loopback, unspecified, link-local (which holds the metadata services), multicast, reserved, and the metadata addresses
/// that clouds put elsewhere. Sources: IANA special-purpose registries; the documentation of each cloud.
const DENIED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, metadata"),
    ("192.0.0.192/32", "metadata of Oracle Cloud"),
    ("100.100.100.200/32", "metadata of Alibaba Cloud"),
    ("168.63.129.16/32", "wire server of Azure"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved, broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("fd00:ec2::254/128", "metadata of AWS"),
    ("fd20:ce::254/128", "metadata of Google Cloud"),
    ("ff00::/8", "multicast"),
];

/// The ranges that are closed whatever flags say, unless one opens them.
pub fn denied() -> impl Iterator<Item = Cidr> {
    DENIED.iter().filter_map(|(range, _)| range.parse().ok())
}

/// Flags of the address policy towards tenants.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AddressArgs {
    /// Ranges in which no tenant's API server may be, beside loopback, link-local, metadata and multicast: name here the
    /// Service range, the API server and the node ranges of the super cluster that tenants must not reach through us.
    #[arg(long, env = "VC_DENY_ADDRESSES", value_delimiter = ',', value_name = "CIDR")]
    pub deny_addresses: Vec<Cidr>,

    /// Ranges in which a tenant's API server may be although they are denied: wins over every denial.
    #[arg(long, env = "VC_ALLOW_ADDRESSES", value_delimiter = ',', value_name = "CIDR")]
    pub allow_addresses: Vec<Cidr>,
}

impl AddressArgs {
    /// The policy that the flags ask for.
    pub fn policy(&self) -> AddressPolicy {
        AddressPolicy::tenant(self.deny_addresses.clone(), self.allow_addresses.clone())
    }
}

/// Which addresses may be connected to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AddressPolicy(Arc<Rules>);

#[derive(Debug)]
enum Rules {
    Open,
    Listed { deny: Vec<Cidr>, allow: Vec<Cidr> },
}

impl AddressPolicy {
    /// Every address: for a server that the operator of the program named.
    pub fn open() -> Self {
        Self(Arc::new(Rules::Open))
    }

    /// What a tenant may name: not the built-in ranges, not `deny`, unless in `allow`.
    pub fn tenant(deny: Vec<Cidr>, allow: Vec<Cidr>) -> Self {
        Self(Arc::new(Rules::Listed { deny: denied().chain(deny).collect(), allow }))
    }

    /// Whether `address` may be connected to, in whichever form it is written.
    pub fn allows(&self, address: IpAddr) -> bool {
        match &*self.0 {
            Rules::Open => true,
            Rules::Listed { deny, allow } => {
                let forms = [Some(address), inner(address).map(IpAddr::V4)];
                let within = |ranges: &[Cidr]| forms.iter().flatten().any(|form| ranges.iter().any(|range| range.contains(*form)));
                within(allow) || !within(deny)
            }
        }
    }
}

impl Default for AddressPolicy {
    /// As for tenants, without additions.
    fn default() -> Self {
        Self::tenant(Vec::new(), Vec::new())
    }
}

/// The IPv4 address that an IPv6 one leads to: mapped, compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn inner(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            (address != Ipv6Addr::LOCALHOST).then(|| joined(high, low))
        }
        _ => None,
    }
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

/// Turns a host name into addresses; tests put a lying one in.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// The addresses of `host`, each with `port`.
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(policy: &AddressPolicy, address: &str) -> bool {
        !policy.allows(address.parse().unwrap())
    }

    #[test]
    fn s47_every_built_in_range_is_a_range() {
        for (range, _) in DENIED {
            range.parse::<Cidr>().unwrap();
        }
    }

    #[test]
    fn s47_loopback_metadata_multicast_and_unspecified_are_denied_in_every_spelling() {
        let policy = AddressPolicy::default();
        for address in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            assert!(denied(&policy, address), "{address}");
        }
    }

    #[test]
    fn ordinary_addresses_are_allowed() {
        let policy = AddressPolicy::default();
        for address in ["10.0.0.1", "192.168.1.1", "203.0.113.9", "fd12::1", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(!denied(&policy, address), "{address}");
        }
    }

    #[test]
    fn s47_the_virtual_ip_of_the_super_cluster_is_denied_when_named() {
        let policy = AddressPolicy::tenant(vec!["10.96.0.0/12".parse().unwrap()], Vec::new());
        assert!(denied(&policy, "10.96.0.1"));
        assert!(denied(&policy, "::ffff:10.96.0.1"));
        assert!(!denied(&policy, "10.112.0.1"));
    }

    #[test]
    fn an_allowed_range_wins_over_a_denied_one() {
        let policy = AddressPolicy::tenant(Vec::new(), vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(!denied(&policy, "127.0.0.1"));
        assert!(denied(&policy, "::1"));
        assert!(denied(&policy, "169.254.169.254"));
    }

    #[test]
    fn the_open_policy_allows_loopback() {
        assert!(AddressPolicy::open().allows("127.0.0.1".parse().unwrap()));
    }
}
