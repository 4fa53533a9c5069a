//! The client's address, also behind proxies.

use std::net::IpAddr;

use hyper::HeaderMap;
use ipnet::IpNet;

/// The client's address: the peer's, or, if the peer is a trusted proxy, the last address in `X-Forwarded-For` that is
/// not one: a client may have forged the addresses before it.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let forwarded: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for text in forwarded.into_iter().rev() {
        if !is_trusted(&address) {
            break;
        }
        match text.trim().parse::<IpAddr>() {
            Ok(previous) => address = previous.to_canonical(),
            Err(_) => break,
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        assert_eq!(address("192.0.2.1", &["198.51.100.7"], &[]), "192.0.2.1");
        assert_eq!(address("10.0.0.1", &["198.51.100.7"], &["10.0.0.0/8"]), "198.51.100.7");
        assert_eq!(address("::ffff:10.0.0.1", &["198.51.100.7"], &["10.0.0.0/8"]), "198.51.100.7");
        assert_eq!(
            address("10.0.0.1", &["6.6.6.6, 198.51.100.7", "10.0.0.2"], &["10.0.0.0/8"]),
            "198.51.100.7"
        );
        assert_eq!(address("10.0.0.1", &["nonsense"], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(address("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
    }
}
