//! Addresses that nobody but the operator opens.
//!
//! IPv6 addresses that embed an IPv4 address in a known place (mapped, compatible,
//! NAT64's `64:ff9b::/96`, 6to4) are judged by that one. In `64:ff9b:1::/48` the
//! place depends on the operator's prefix, so all of it is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// What kind of address it is, if it is one that nobody but the operator opens.
pub(crate) fn forbidden(address: IpAddr) -> Option<&'static str> {
    match judged(address) {
        IpAddr::V4(address) => {
            FORBIDDEN_V4.iter().find_map(|(range, name)| range.contains(&address).then_some(*name))
        }
        IpAddr::V6(address) => {
            FORBIDDEN_V6.iter().find_map(|(range, name)| range.contains(&address).then_some(*name))
        }
    }
}

/// The IPv4 address that an IPv6 address stands for, else the address itself.
pub(crate) fn judged(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(outer) => embedded(outer).map_or(address, IpAddr::V4),
    }
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, ..] = address.segments();
    let [.., w, x, y, z] = address.octets();
    let last = Ipv4Addr::new(w, x, y, z);
    match [a, b, c, d, e, f] {
        // `::` and `::1` are of the same block and have a meaning of their own.
        [0, 0, 0, 0, 0, 0] if address.is_unspecified() || address.is_loopback() => None,
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(last),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(start: [u16; 8], bits: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), bits)
}

/// From IANA's registry of special addresses (RFC 6890 and its successors) and the
/// clouds' documents; the first match gives the name.
const FORBIDDEN_V4: [(Ipv4Net, &str); 18] = [
    (v4(0, 0, 0, 0, 8), "an address of this network (0.0.0.0/8)"),
    (v4(10, 0, 0, 0, 8), PRIVATE),
    (v4(172, 16, 0, 0, 12), PRIVATE),
    (v4(192, 168, 0, 0, 16), PRIVATE),
    (v4(100, 64, 0, 0, 10), "a provider's shared address (100.64.0.0/10)"),
    (v4(127, 0, 0, 0, 8), LOOPBACK),
    (v4(169, 254, 169, 254, 32), METADATA),
    // Azure's platform services, in the midst of public addresses.
    (v4(168, 63, 129, 16, 32), METADATA),
    (v4(169, 254, 0, 0, 16), LINK_LOCAL),
    (v4(192, 0, 0, 0, 24), "an address of a protocol's own (192.0.0.0/24)"),
    (v4(192, 0, 2, 0, 24), DOCUMENTATION),
    (v4(198, 51, 100, 0, 24), DOCUMENTATION),
    (v4(203, 0, 113, 0, 24), DOCUMENTATION),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay's address (192.88.99.0/24)"),
    (v4(198, 18, 0, 0, 15), "a benchmark's address (198.18.0.0/15)"),
    (v4(224, 0, 0, 0, 4), MULTICAST),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address (240.0.0.0/4)"),
];

/// Behind the named ones come the three that leave `2000::/3`, all that is public.
const FORBIDDEN_V6: [(Ipv6Net, &str); 17] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "the unspecified address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), LOOPBACK),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "an address translated inside the network (64:ff9b:1::/48)"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "an address whose packets are discarded (100::/64)"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "a Teredo address (2001::/32)"),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), ORCHID),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), ORCHID),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "an address of a protocol's own (2001::/23)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), DOCUMENTATION),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), DOCUMENTATION),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), PRIVATE),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), LINK_LOCAL),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), MULTICAST),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 3), NOT_PUBLIC),
    (v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2), NOT_PUBLIC),
    // Site-local addresses (fec0::/10) are among these.
    (v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1), NOT_PUBLIC),
];

pub(crate) const DOCUMENTATION: &str = "an address for documents";
pub(crate) const LINK_LOCAL: &str = "a link-local address";
pub(crate) const LOOPBACK: &str = "a loopback address";
pub(crate) const METADATA: &str = "a cloud's metadata service";
pub(crate) const MULTICAST: &str = "a multicast address";
pub(crate) const NOT_PUBLIC: &str = "an address that is not public (outside 2000::/3)";
pub(crate) const ORCHID: &str = "an ORCHID, which is no address (2001:10::/28, 2001:20::/28)";
pub(crate) const PRIVATE: &str = "a private address";
