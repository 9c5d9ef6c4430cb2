//! Which addresses are public: the IANA special-purpose address registries (RFC 6890), as of 2025. Every row is refused,
//! also those that are marked as globally reachable: they are anycast services and protocol assignments, which answer
//! from the network that one happens to be in. What is added to the registries is added here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// IPv4 that is not for everybody, each with its name in the registry and its source.
const SPECIAL_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this network (RFC 791 §3.2), with this host on this network (RFC 1122 §3.2.1.3)"),
    (v4(10, 0, 0, 0, 8), "private use (RFC 1918)"),
    (v4(100, 64, 0, 0, 10), "shared address space: carrier-grade NAT (RFC 6598)"),
    (v4(127, 0, 0, 0, 8), "loopback (RFC 1122 §3.2.1.3)"),
    (v4(169, 254, 0, 0, 16), "link-local, with the metadata services of clouds (RFC 3927)"),
    (v4(172, 16, 0, 0, 12), "private use (RFC 1918)"),
    (
        v4(192, 0, 0, 0, 24),
        "IETF protocol assignments (RFC 6890 §2.1): DS-Lite (RFC 7335), dummy address (RFC 7600), port control \
         anycast (RFC 7723), TURN anycast (RFC 8155), NAT64 discovery (RFC 8880, RFC 7050)",
    ),
    (v4(192, 0, 2, 0, 24), "documentation, TEST-NET-1 (RFC 5737)"),
    (v4(192, 31, 196, 0, 24), "AS112-v4 (RFC 7535)"),
    (v4(192, 52, 193, 0, 24), "AMT (RFC 7450)"),
    (v4(192, 88, 99, 0, 24), "6to4 relay anycast, deprecated (RFC 7526), with 6a44 (RFC 6751)"),
    (v4(192, 168, 0, 0, 16), "private use (RFC 1918)"),
    (v4(192, 175, 48, 0, 24), "direct delegation AS112 (RFC 7534)"),
    (v4(198, 18, 0, 0, 15), "benchmarking (RFC 2544)"),
    (v4(198, 51, 100, 0, 24), "documentation, TEST-NET-2 (RFC 5737)"),
    (v4(203, 0, 113, 0, 24), "documentation, TEST-NET-3 (RFC 5737)"),
    (v4(224, 0, 0, 0, 4), "multicast (RFC 5771)"),
    (v4(240, 0, 0, 0, 4), "reserved (RFC 1112 §4), with limited broadcast (RFC 8190, RFC 919 §7)"),
];

/// What IANA gives out as global unicast in IPv6 (RFC 4291 §2.4). Outside of it are, among others: unspecified `::`,
/// loopback `::1` and IPv4-compatible `::/96` (RFC 4291), local-use translation `64:ff9b:1::/48` (RFC 8215), discard-only
/// `100::/64` (RFC 6666), dummy `100:0:0:1::/64` (RFC 9780), SRv6 SIDs `5f00::/16` (RFC 9602), unique local `fc00::/7`
/// (RFC 4193), link-local `fe80::/10` (RFC 4291), site-local `fec0::/10` (RFC 3879), multicast `ff00::/8` (RFC 4291).
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// IPv6 within [`GLOBAL_UNICAST_V6`] that is not for everybody.
const SPECIAL_V6: &[(Ipv6Net, &str)] = &[
    (
        v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
        "IETF protocol assignments (RFC 2928): Teredo 2001::/32 (RFC 4380), which embeds IPv4 addresses; port control \
         anycast (RFC 7723), TURN anycast (RFC 8155), DNS-SD SRP anycast (RFC 9665), benchmarking 2001:2::/48 (RFC 5180), \
         AMT 2001:3::/32 (RFC 7450), AS112-v6 2001:4:112::/48 (RFC 7535), ORCHID 2001:10::/28 (RFC 4843), ORCHIDv2 \
         2001:20::/28 (RFC 7343), DRIP 2001:30::/28 (RFC 9374)",
    ),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation (RFC 3849)"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "direct delegation AS112 (RFC 7534)"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation (RFC 9637)"),
];

/// IPv4 translated for hosts that have only IPv6 (RFC 6052 §2.1). Whoever resolves names through DNS64 gets every
/// IPv4 host so.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// 6to4 (RFC 3056 §2): the IPv4 address of the router follows the first 16 bits.
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

/// Whether an address is globally routable unicast. An IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4)
/// is if that is; the local-use NAT64 prefix, IPv4-compatible and Teredo addresses never are.
pub fn is_global_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => is_global_v4(inner),
            None => {
                GLOBAL_UNICAST_V6.contains(&address)
                    && !SPECIAL_V6.iter().any(|(network, _)| network.contains(&address))
            }
        },
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|(network, _)| network.contains(&address))
}

/// The IPv4 address that packets to this one end at.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    if SIX_TO_FOUR.contains(&address) {
        // The cast keeps the 32 bits that are meant.
        #[expect(clippy::cast_possible_truncation, reason = "bits 16 to 48")]
        return Some(Ipv4Addr::from_bits((bits >> 80) as u32));
    }
    if NAT64.contains(&address) {
        #[expect(clippy::cast_possible_truncation, reason = "the last 32 bits")]
        return Some(Ipv4Addr::from_bits(bits as u32));
    }
    address.to_ipv4_mapped()
}
