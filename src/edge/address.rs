//! Whose address a request comes from: the socket's, unless a trusted proxy says another.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use http::{Extensions, HeaderMap};

/// The other end of the socket. The listener puts it into each request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A range of addresses, like `10.0.0.0/8` or `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    mask: u128,
}

/// Not an address or a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an IP address nor a range like 10.0.0.0/8")]
pub struct CidrError(String);

impl Cidr {
    /// Is the address inside?
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.network
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().map_err(|_| error())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let (width, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = length.unwrap_or(width);
        if length > width {
            return Err(error());
        }
        let mask = u128::MAX.checked_shl(128 - offset - length).unwrap_or(0);
        Ok(Self { network: bits(address) & mask, mask })
    }
}

/// IPv4 addresses are compared in their IPv6-mapped form, which a dual-stack socket reports for them.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The client's address. `X-Forwarded-For` is read from the right, one step for each trusted proxy: what stands left
/// of the first untrusted address may be written by anybody.
pub(crate) fn client(trusted: &[Cidr], headers: &HeaderMap, extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    if trusted.is_empty() {
        return peer.to_canonical();
    }
    let mut address = peer.to_canonical();
    let steps = headers.get_all("x-forwarded-for").into_iter().rev();
    for step in steps.flat_map(|value| value.to_str().unwrap_or_default().rsplit(',')) {
        if !trusted.iter().any(|range| range.contains(address)) {
            break;
        }
        let Ok(before) = step.trim().parse::<IpAddr>() else { break };
        address = before.to_canonical();
    }
    address
}

/// Those who count as one: an IPv4 address, or the /64 of an IPv6 address, which one household has.
pub(crate) fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}
