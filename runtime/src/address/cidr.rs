//! A range of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses of one family, such as `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

/// Text that is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of addresses: write one like 10.96.0.0/12 or fd00::/8, without host bits; one address is 192.0.2.7/32")]
pub struct InvalidCidr;

impl Cidr {
    /// The network address and the prefix length.
    pub fn parts(self) -> (IpAddr, u8) {
        (self.network, self.prefix_bits)
    }

    /// Whether `address` lies in the range; an address of the other family never does.
    pub fn contains(self, address: IpAddr) -> bool {
        masked(address, self.prefix_bits) == self.network
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, prefix) = text.split_once('/').ok_or(InvalidCidr)?;
        let network: IpAddr = network.parse().map_err(|_| InvalidCidr)?;
        let prefix_bits: u8 = prefix.parse().map_err(|_| InvalidCidr)?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        if prefix_bits > longest || masked(network, prefix_bits) != network {
            return Err(InvalidCidr);
        }
        Ok(Self { network, prefix_bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

/// The first `bits` of an address, the others zero.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_first_and_last_address_and_not_the_next() {
        let range: Cidr = "10.96.0.0/12".parse().unwrap();
        for (address, within) in [("10.96.0.0", true), ("10.111.255.255", true), ("10.112.0.0", false), ("10.95.255.255", false)] {
            assert_eq!(range.contains(address.parse().unwrap()), within, "{address}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("::/0".parse::<Cidr>().unwrap().contains("fd00::1".parse().unwrap()));
        assert!("::1/128".parse::<Cidr>().unwrap().contains("::1".parse().unwrap()));
    }

    #[test]
    fn text_that_is_no_range_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "::/129", "a/8", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr), "{text}");
        }
    }
}
