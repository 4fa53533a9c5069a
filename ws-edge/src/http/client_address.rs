//! The client's address, also behind proxies.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use ipnet::IpNet;

use crate::config::AddressHeader;

/// The client's address: the peer's, or, if the peer is a trusted proxy, the last address in `header` that is not one: a
/// client may have forged the addresses before it. An address that cannot be read is nobody's: the proxy after it counts.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, header: AddressHeader, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    let lines: Vec<_> = headers.get_all(header.name()).iter().collect();
    for line in lines.into_iter().rev() {
        // Not as text: a client's bytes before a proxy's address must not make that unreadable.
        for element in line.as_bytes().split(|byte| *byte == b',').rev() {
            if !is_trusted(address, trusted) {
                return address;
            }
            let element = std::str::from_utf8(element).ok();
            let node = match header {
                AddressHeader::XForwardedFor => element,
                AddressHeader::Forwarded => element.and_then(forwarded_for),
            };
            match node.and_then(parse) {
                Some(previous) => address = previous.to_canonical(),
                None => return address,
            }
        }
    }
    address
}

/// Whether this is a proxy that names the client's address.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The parameter `for` of an element of `Forwarded` (RFC 7239).
fn forwarded_for(element: &str) -> Option<&str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    Some(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
}

/// Reads an address, perhaps in brackets, perhaps with a port.
fn parse(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    let bracketed = || node.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    node.parse().ok().or_else(bracketed).or_else(|| Some(node.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn address(header: AddressHeader, peer: &str, lines: &[&[u8]], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_bytes(line).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, header, &trusted).to_string()
    }

    fn behind_proxy(lines: &[&[u8]]) -> String {
        address(AddressHeader::XForwardedFor, "10.0.0.1", lines, &["10.0.0.0/8"])
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let header = AddressHeader::XForwardedFor;
        assert_eq!(address(header, "192.0.2.1", &[b"198.51.100.7"], &[]), "192.0.2.1");
        assert_eq!(address(header, "::ffff:10.0.0.1", &[b"198.51.100.7"], &["10.0.0.0/8"]), "198.51.100.7");
        assert_eq!(behind_proxy(&[]), "10.0.0.1");
        assert_eq!(behind_proxy(&[b"198.51.100.7"]), "198.51.100.7");
        assert_eq!(behind_proxy(&[b"6.6.6.6, 198.51.100.7", b"10.0.0.2"]), "198.51.100.7");
    }

    #[test]
    fn an_unreadable_address_is_not_replaced_by_an_earlier_one() {
        for unreadable in [&b"nonsense"[..], b"\xff", b"", b"198.51.100.7, ", b"unknown", b"1.2.3.4:port"] {
            assert_eq!(behind_proxy(&[b"6.6.6.6", unreadable]), "10.0.0.1", "{unreadable:?}");
        }
    }

    #[test]
    fn bytes_of_a_client_do_not_make_a_proxys_address_unreadable() {
        assert_eq!(behind_proxy(&[b"\xff, 198.51.100.7"]), "198.51.100.7");
    }

    #[test]
    fn ports_and_brackets_are_read() {
        for (text, expected) in [
            (&b"198.51.100.7:4711"[..], "198.51.100.7"),
            (b"2001:db8::7", "2001:db8::7"),
            (b"[2001:db8::7]", "2001:db8::7"),
            (b"[2001:db8::7]:4711", "2001:db8::7"),
            (b" ::ffff:198.51.100.7 ", "198.51.100.7"),
        ] {
            assert_eq!(behind_proxy(&[text]), expected);
        }
    }

    #[test]
    fn forwarded_is_read_only_where_it_is_configured() {
        let forwarded = |line: &[u8]| address(AddressHeader::Forwarded, "10.0.0.1", &[line], &["10.0.0.0/8"]);
        assert_eq!(
            forwarded(b"for=6.6.6.6, proto=https;For=\"[2001:db8::7]:4711\";by=10.0.0.2"),
            "2001:db8::7"
        );
        assert_eq!(forwarded(b"for=198.51.100.7"), "198.51.100.7");
        for hidden in
            [&b"for=6.6.6.6, for=_hidden"[..], b"for=6.6.6.6, for=unknown", b"for=6.6.6.6, by=1.2.3.4"]
        {
            assert_eq!(forwarded(hidden), "10.0.0.1");
        }
    }
}
