//! Which addresses count as one client.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses that count as one client: one IPv4 address, or an IPv6 network of 64 bits, because each subscriber has
/// one of these and can use any address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientNetwork(IpAddr);

impl ClientNetwork {
    /// The network of an address.
    pub(crate) fn of(address: IpAddr) -> ClientNetwork {
        ClientNetwork(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        let [one, other] = [one, other].map(|address| ClientNetwork::of(address.parse().unwrap()));
        one == other
    }

    #[test]
    fn ipv6_addresses_of_one_network_of_64_bits_are_one_client() {
        assert!(same("2001:db8:0:7::1", "2001:db8:0:7:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:0:7::1", "2001:db8:0:8::1"));
    }

    #[test]
    fn each_ipv4_address_is_a_client_however_it_is_written() {
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("::ffff:192.0.2.1", "::ffff:192.0.2.2"));
    }
}
