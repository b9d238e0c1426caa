//! Which addresses may be connected to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Ranges that are nobody's place on the public internet, from IANA's registries of special-purpose addresses
/// ([IPv4](https://www.iana.org/assignments/iana-ipv4-special-registry),
/// [IPv6](https://www.iana.org/assignments/iana-ipv6-special-registry)). IPv6 forms that stand for an IPv4 address are
/// held against the IPv4 ranges too; see [`AddressPolicy::permits`].
pub const DENIED_BY_DEFAULT: [&str; 26] = [
    "0.0.0.0/8",       // this network; 0.0.0.0 connects to the machine itself
    "10.0.0.0/8",      // private
    "100.64.0.0/10",   // shared by a carrier's customers
    "127.0.0.0/8",     // loopback
    "169.254.0.0/16",  // link-local, and cloud providers' metadata
    "172.16.0.0/12",   // private
    "192.0.0.0/24",    // protocol assignments
    "192.0.2.0/24",    // documentation
    "192.88.99.0/24",  // 6to4 relays
    "192.168.0.0/16",  // private
    "198.18.0.0/15",   // benchmarks
    "198.51.100.0/24", // documentation
    "203.0.113.0/24",  // documentation
    "224.0.0.0/4",     // multicast
    "240.0.0.0/4",     // reserved, broadcast
    "::/96",           // unspecified, loopback, IPv4-compatible
    "64:ff9b:1::/48",  // a network's own NAT64
    "100::/64",        // discarded
    "2001::/23",       // protocol assignments, Teredo, benchmarks
    "2001:db8::/32",   // documentation
    "3fff::/20",       // documentation
    "5f00::/16",       // segment routing
    "fc00::/7",        // private
    "fe80::/10",       // link-local
    "fec0::/10",       // link-local's former sibling, site-local
    "ff00::/8",        // multicast
];

/// A range of addresses, like `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange(IpNet);

/// Not an address or a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an IP address nor a range like 10.0.0.0/8")]
pub struct AddressRangeError(String);

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse()).map(Self).map_err(|_| AddressRangeError(text.to_owned()))
    }
}

/// What the operator allows. An address in both lists is allowed.
#[derive(Clone, Debug)]
pub struct AddressPolicy {
    denied: Vec<AddressRange>,
    allowed: Vec<AddressRange>,
}

impl AddressPolicy {
    /// Denies what is in `denied`, unless it is in `allowed` too.
    pub fn new(denied: Vec<AddressRange>, allowed: Vec<AddressRange>) -> Self {
        Self { denied, allowed }
    }

    /// May a connection be made to this address? An IPv6 address that stands for an IPv4 address (mapped, translated,
    /// 6to4, NAT64's well-known prefix) is permitted only if both of its forms are.
    pub fn permits(&self, address: IpAddr) -> bool {
        self.permits_form(address) && embedded(address).is_none_or(|address| self.permits_form(address.into()))
    }

    fn permits_form(&self, address: IpAddr) -> bool {
        let within = |ranges: &[AddressRange]| ranges.iter().any(|range| range.0.contains(&address));
        within(&self.allowed) || !within(&self.denied)
    }
}

impl Default for AddressPolicy {
    /// Denies [`DENIED_BY_DEFAULT`].
    fn default() -> Self {
        let parse = |range: &&str| range.parse().expect("our own list is well-formed");
        Self::new(DENIED_BY_DEFAULT.iter().map(parse).collect(), Vec::new())
    }
}

/// The IPv4 address that a router or the system itself would turn this one into.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let address: Ipv6Addr = address;
    let (high, low) = match address.segments() {
        // RFC 4291 2.5.5.2, IPv4-mapped; RFC 2765 2.1, IPv4-translated; RFC 6052 2.1, NAT64's well-known prefix.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        // RFC 3056 2, 6to4.
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &AddressPolicy, permitted: &[&str], denied: &[&str]) {
        for address in permitted {
            assert!(policy.permits(address.parse().unwrap()), "{address} is denied");
        }
        for address in denied {
            assert!(!policy.permits(address.parse().unwrap()), "{address} is permitted");
        }
    }

    fn ranges(ranges: &[&str]) -> Vec<AddressRange> {
        ranges.iter().map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn only_the_public_internet_by_default() {
        let permitted =
            ["1.1.1.1", "100.63.0.1", "100.128.0.1", "172.32.0.1", "198.20.0.1", "2606:4700::1111", "2a00::1"];
        let denied = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.2.7",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "64:ff9b:1::1",
        ];
        check(&AddressPolicy::default(), &permitted, &denied);
    }

    #[test]
    fn an_address_in_disguise_is_seen_through() {
        let permitted = ["::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1", "::ffff:0:1.1.1.1"];
        let denied = [
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::192.168.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:c0a8:101::5",
        ];
        check(&AddressPolicy::default(), &permitted, &denied);
    }

    #[test]
    fn what_is_allowed_wins() {
        let policy = AddressPolicy::new(AddressPolicy::default().denied, ranges(&["10.1.0.0/16", "::1"]));
        check(&policy, &["10.1.2.3", "::1", "::ffff:10.1.2.3"], &["10.2.0.1", "127.0.0.1", "64:ff9b::10.2.0.1"]);
        // Allowing the wrapping does not allow what is inside.
        let policy = AddressPolicy::new(AddressPolicy::default().denied, ranges(&["::/0"]));
        check(&policy, &["fd00::1"], &["::ffff:10.0.0.1", "2002:a00:1::1"]);
    }

    #[test]
    fn the_list_is_the_operators() {
        check(&AddressPolicy::new(ranges(&["1.1.1.1"]), Vec::new()), &["127.0.0.1", "1.1.1.2"], &["1.1.1.1"]);
        for text in ["", "10.0.0.0/33", "::/129", "example.org", "10.0.0.0/", "10.0/8"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
