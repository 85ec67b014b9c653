//! Blocks of service addresses: what of them may be given out, and in which order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of one family, its base at the start of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceCidr {
    base: IpAddr,
    prefix_bits: u8,
}

/// `--service-cluster-ip-range`: one block, or one of each family. The first one's family is that of Services which name none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCidrs {
    pub first: ServiceCidr,
    pub second: Option<ServiceCidr>,
}

#[derive(Debug, thiserror::Error)]
pub enum BadCidr {
    #[error("{0:?} is not a block of addresses like 10.43.0.0/16 (8 to 30 bits) or 2001:db8:43::/112 (64 to 126 bits)")]
    NoBlock(String),
    #[error("{0:?} must be one block of addresses, or two of different IP families")]
    NotOneOfEach(String),
}

/// The low end of a block is left to addresses that people choose (KEP-3070).
const RESERVED_MIN: u128 = 16;
const RESERVED_MAX: u128 = 256;
/// One in so many addresses.
const RESERVED_PART: u128 = 16;
/// Upstream's allocator takes no larger IPv6 block.
const IPV6_BITS_MIN: u8 = 64;

impl ServiceCidr {
    pub const fn v4(a: u8, b: u8, prefix_bits: u8) -> ServiceCidr {
        ServiceCidr { base: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), prefix_bits }
    }
    /// Any block, of any size.
    pub fn parse(text: &str) -> Option<ServiceCidr> {
        let (base, bits) = text.split_once('/')?;
        let (base, prefix_bits): (IpAddr, u8) = (base.parse().ok()?, bits.parse().ok()?);
        let whole = ServiceCidr { base, prefix_bits };
        let host_bits = whole.width().checked_sub(prefix_bits)?;
        let mask = 1u128.checked_shl(host_bits.into()).map_or(u128::MAX, |n| n - 1);
        Some(ServiceCidr { base: whole.ip(whole.number(base) & !mask), prefix_bits })
    }
    fn width(&self) -> u8 {
        if self.base.is_ipv4() { 32 } else { 128 }
    }
    fn number(&self, ip: IpAddr) -> u128 {
        match ip {
            IpAddr::V4(v) => u128::from(u32::from(v)),
            IpAddr::V6(v) => u128::from(v),
        }
    }
    fn ip(&self, n: u128) -> IpAddr {
        if self.base.is_ipv4() { IpAddr::V4(Ipv4Addr::from(n as u32)) } else { IpAddr::V6(Ipv6Addr::from(n)) }
    }
    /// All addresses of the block.
    fn size(&self) -> u128 {
        1u128.checked_shl((self.width() - self.prefix_bits).into()).unwrap_or(u128::MAX)
    }
    /// As the API writes it.
    pub fn family(&self) -> &'static str {
        family(self.base)
    }
    /// The address of the block itself, which nobody gets.
    pub fn network(&self) -> IpAddr {
        self.base
    }
    /// How many addresses may be given out: all but the first, and of IPv4 the last (the broadcast address).
    pub fn usable(&self) -> u128 {
        if !self.base.is_ipv4() && self.prefix_bits < IPV6_BITS_MIN {
            return 0;
        }
        self.size().saturating_sub(if self.base.is_ipv4() { 2 } else { 1 })
    }
    /// The n-th usable address, from 0; the first one of the first block belongs to the `kubernetes` Service.
    pub fn address(&self, n: u128) -> IpAddr {
        self.ip(self.number(self.base) + 1 + n)
    }
    /// Whether it is one of the usable addresses.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let offset = self.number(ip).wrapping_sub(self.number(self.base));
        ip.is_ipv4() == self.base.is_ipv4() && (1..=self.usable()).contains(&offset)
    }
    /// How many of the first usable addresses are given out last, when the others are taken.
    pub fn reserved(&self) -> u128 {
        if self.size() <= RESERVED_MIN { 0 } else { (self.size() / RESERVED_PART).clamp(RESERVED_MIN, RESERVED_MAX).min(self.usable()) }
    }
}

/// As the API writes it.
pub fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

impl FromStr for ServiceCidr {
    type Err = BadCidr;
    fn from_str(s: &str) -> Result<Self, BadCidr> {
        let fits = |c: &ServiceCidr| if c.base.is_ipv4() { (8..=30).contains(&c.prefix_bits) } else { (IPV6_BITS_MIN..=126).contains(&c.prefix_bits) };
        ServiceCidr::parse(s).filter(fits).ok_or_else(|| BadCidr::NoBlock(s.into()))
    }
}

impl std::fmt::Display for ServiceCidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

impl ServiceCidrs {
    pub const fn one(first: ServiceCidr) -> ServiceCidrs {
        ServiceCidrs { first, second: None }
    }
    pub fn all(&self) -> impl Iterator<Item = ServiceCidr> {
        std::iter::once(self.first).chain(self.second)
    }
    /// The families that Services may have, that of Services which name none first.
    pub fn families(&self) -> Vec<&'static str> {
        self.all().map(|c| c.family()).collect()
    }
    /// The block of a family.
    pub fn of(&self, family: &str) -> Option<ServiceCidr> {
        self.all().find(|c| c.family() == family)
    }
    /// As the ServiceCIDR object has them.
    pub fn texts(&self) -> Vec<String> {
        self.all().map(|c| c.to_string()).collect()
    }
}

impl FromStr for ServiceCidrs {
    type Err = BadCidr;
    fn from_str(s: &str) -> Result<Self, BadCidr> {
        let all: Vec<ServiceCidr> = s.split(',').map(|p| p.trim().parse()).collect::<Result<_, _>>()?;
        match all[..] {
            [first] => Ok(ServiceCidrs::one(first)),
            [first, second] if first.family() != second.family() => Ok(ServiceCidrs { first, second: Some(second) }),
            _ => Err(BadCidr::NotOneOfEach(s.into())),
        }
    }
}

impl std::fmt::Display for ServiceCidrs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(s: &str) -> ServiceCidr {
        ServiceCidr::parse(s).unwrap()
    }

    #[test]
    fn a_block_gives_its_addresses_but_not_its_ends() {
        let c: ServiceCidr = "10.43.7.9/24".parse().unwrap();
        assert_eq!(c.to_string(), "10.43.7.0/24");
        assert_eq!(c.address(0), IpAddr::from([10, 43, 7, 1]));
        assert!(c.contains(c.address(c.usable() - 1)) && !c.contains(c.network()) && !c.contains([10, 43, 7, 255].into()));
        let six: ServiceCidr = "2001:db8:43::1/112".parse().unwrap();
        assert_eq!((six.to_string(), six.address(0).to_string(), six.usable()), ("2001:db8:43::/112".into(), "2001:db8:43::1".into(), 65535));
        assert!(six.contains("2001:db8:43::ffff".parse().unwrap()) && !six.contains([10, 43, 7, 1].into()), "the last address of IPv6 is one like the others");
        for bad in ["10.0.0.0/31", "x/16", "10.0.0.0/33", "2001:db8::/48", "10.0.0.0"] {
            assert!(bad.parse::<ServiceCidr>().is_err(), "{bad}");
        }
    }

    /// The examples of KEP-3070.
    #[test]
    fn the_band_of_chosen_addresses_is_a_sixteenth_between_16_and_256() {
        for (block, band) in [("10.96.0.0/28", 0), ("10.96.0.0/27", 16), ("10.96.0.0/24", 16), ("10.96.0.0/20", 256), ("10.96.0.0/16", 256), ("2001:db8::/64", 256)] {
            assert_eq!(cidr(block).reserved(), band, "{block}");
        }
        assert_eq!((cidr("192.0.2.1/32").usable(), cidr("192.0.2.0/31").usable(), cidr("2001:db8::/48").usable()), (0, 0, 0));
    }

    #[test]
    fn a_range_is_one_block_or_one_of_each_family() {
        let both: ServiceCidrs = "10.43.0.0/16,2001:db8:43::/112".parse().unwrap();
        assert_eq!((both.families(), both.to_string().as_str()), (vec!["IPv4", "IPv6"], "10.43.0.0/16,2001:db8:43::/112"));
        assert_eq!("2001:db8:43::/112,10.43.0.0/16".parse::<ServiceCidrs>().unwrap().families(), ["IPv6", "IPv4"]);
        for bad in ["", "10.43.0.0/16,10.44.0.0/16", "10.43.0.0/16,2001:db8::/112,10.44.0.0/16"] {
            assert!(bad.parse::<ServiceCidrs>().is_err(), "{bad}");
        }
    }
}
