//! IPv4 ranges such as `10.42.0.0/24`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.42.0.0/16")]
pub struct CidrError(String);

impl Cidr {
    pub fn base(self) -> Ipv4Addr {
        self.base.into()
    }
    pub fn prefix(self) -> u8 {
        self.prefix
    }
    pub fn mask(self) -> Ipv4Addr {
        mask(self.prefix).into()
    }
    /// How many addresses the range spans, network and broadcast included.
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }
    /// The `n`th address, absent past the end.
    pub fn nth(self, n: u64) -> Option<Ipv4Addr> {
        (n < self.size()).then(|| Ipv4Addr::from(self.base + n as u32))
    }
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & mask(self.prefix) == self.base
    }
    /// The first sub-range of `prefix` bits: a node's share of the cluster's range.
    pub fn first(self, prefix: u8) -> Cidr {
        Cidr { base: self.base, prefix: prefix.max(self.prefix) }
    }
}

fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - u32::from(prefix)) }
}

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(s: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (ip, prefix) = s.split_once('/')?;
            let (ip, prefix): (Ipv4Addr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
            (prefix <= 32).then(|| Cidr { base: u32::from(ip) & mask(prefix), prefix })
        };
        parse().ok_or_else(|| CidrError(s.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_counts_and_contains_its_addresses() {
        let c: Cidr = "10.42.3.7/24".parse().expect("a valid range");
        assert_eq!(c.to_string(), "10.42.3.0/24");
        assert_eq!(c.nth(1), Some(Ipv4Addr::new(10, 42, 3, 1)));
        assert_eq!(c.nth(256), None);
        assert!(c.contains(Ipv4Addr::new(10, 42, 3, 255)) && !c.contains(Ipv4Addr::new(10, 42, 4, 0)));
        assert!("10.42.0.0".parse::<Cidr>().is_err() && "10.42.0.0/33".parse::<Cidr>().is_err());
    }
}
