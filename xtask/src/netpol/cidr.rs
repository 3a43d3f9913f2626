//! Blocks of IPv4 addresses, and one block without others.

use std::fmt;
use std::net::Ipv4Addr;

/// Normalized: the bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cidr {
    address: u32,
    prefix: u8,
}

impl Cidr {
    pub(super) const ALL: Self = Self { address: 0, prefix: 0 };

    /// Nothing for IPv6, which this cluster does not have, and for what is no block.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some(Self { address: address & mask(prefix), prefix })
    }

    fn contains(self, other: Self) -> bool {
        self.prefix <= other.prefix && other.address & mask(self.prefix) == self.address
    }

    /// What is left of this block without the others, as blocks in order.
    pub(super) fn without(self, others: &[Self]) -> Vec<Self> {
        if others.iter().any(|other| other.contains(self)) {
            return Vec::new();
        }
        if !others.iter().any(|other| self.contains(*other)) {
            return vec![self];
        }
        let prefix = self.prefix + 1;
        let upper = self.address | 1 << (32 - prefix);
        let halves = [self.address, upper].map(|address| Self { address, prefix });
        halves.iter().flat_map(|half| half.without(others)).collect()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    fn without(block: &str, others: &[&str]) -> Vec<String> {
        let others: Vec<Cidr> = others.iter().filter_map(|other| Cidr::parse(other)).collect();
        Cidr::parse(block).unwrap().without(&others).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_block_without_its_parts() {
        assert_eq!(without("10.0.0.0/30", &["10.0.0.2/32"]), ["10.0.0.0/31", "10.0.0.3/32"]);
        assert_eq!(without("10.0.0.0/8", &["11.0.0.0/8"]), ["10.0.0.0/8"]);
        assert_eq!(without("10.0.0.0/8", &["0.0.0.0/0"]), Vec::<String>::new());
        assert_eq!(without("0.0.0.0/0", &["128.0.0.0/1", "0.0.0.0/2"]), ["64.0.0.0/2"]);
    }

    #[test]
    fn bits_behind_the_prefix_do_not_count() {
        assert_eq!(Cidr::parse("10.1.2.3/16").unwrap().to_string(), "10.1.0.0/16");
        assert_eq!(Cidr::parse("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert!(Cidr::parse("fd00::/8").is_none() && Cidr::parse("10.0.0.0/33").is_none());
    }
}
