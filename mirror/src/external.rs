//! Addresses from outside the cluster that a tenant's Services claim: those that are registered for it, and no others.
//!
//! Whoever claims an address on the nodes takes its traffic, for every Pod of the cluster too (CVE-2020-8554).

use std::net::IpAddr;

use crate::cx::lies_in;
use crate::host::Denied;

/// The addresses that a tenant's Services may claim, as ranges: network address and prefix length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalAddresses {
    /// Those that are registered for it.
    own: Vec<(IpAddr, u8)>,
    /// What an older registration of another's has.
    taken: Vec<(IpAddr, u8)>,
}

impl ExternalAddresses {
    /// What is registered for a tenant, and what others have registered before that may be a part of it.
    pub fn new(own: Vec<(IpAddr, u8)>, taken: Vec<(IpAddr, u8)>) -> Self {
        Self { own, taken }
    }

    /// Whether the tenant may claim an address. An IPv4 address in an IPv6 form is nobody's: proxies would take it for the IPv4 address.
    pub fn ask(&self, address: IpAddr) -> Result<(), Denied> {
        let within = |ranges: &[(IpAddr, u8)]| ranges.iter().any(|range| lies_in(address, *range));
        let is_disguised = matches!(address, IpAddr::V6(address) if address.to_ipv4().is_some());
        if self.own.is_empty() {
            Err(Denied::NothingRegistered)
        } else if is_disguised || !within(&self.own) {
            Err(Denied::NotRegistered)
        } else if within(&self.taken) {
            Err(Denied::Taken)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[(&str, u8)]) -> Vec<(IpAddr, u8)> {
        texts.iter().map(|(network, prefix)| (network.parse().unwrap(), *prefix)).collect()
    }

    #[test]
    fn s19_an_address_is_claimed_only_where_it_is_registered_for_this_tenant_and_no_older_one() {
        let addresses = ExternalAddresses::new(ranges(&[("192.0.2.0", 24), ("::", 0)]), ranges(&[("192.0.2.64", 28)]));
        for (address, answer) in [
            ("192.0.2.0", Ok(())),
            ("192.0.2.63", Ok(())),
            ("192.0.2.64", Err(Denied::Taken)),
            ("192.0.2.79", Err(Denied::Taken)),
            ("192.0.2.80", Ok(())),
            ("192.0.3.0", Err(Denied::NotRegistered)),
            ("2001:db8::1", Ok(())),
            ("::ffff:8.8.8.8", Err(Denied::NotRegistered)),
            ("::8.8.8.8", Err(Denied::NotRegistered)),
        ] {
            assert_eq!(addresses.ask(address.parse().unwrap()), answer, "{address}");
        }
        assert_eq!(ExternalAddresses::default().ask("192.0.2.1".parse().unwrap()), Err(Denied::NothingRegistered));
    }
}
