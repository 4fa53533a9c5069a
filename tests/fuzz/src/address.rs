//! The client's address behind proxies.

use std::net::{IpAddr, SocketAddr};

use hyper::{HeaderMap, header::HeaderValue};
use ipnet::IpNet;
use ws_edge::{config::AddressHeader, http::client_address::client_address};

const PROXY: &str = "10.0.0.1";
const PROXIES: &str = "10.0.0.0/8";
/// What a client may write before everything that the proxies write.
const FORGED: &str = "192.0.2.66";

/// The first byte chooses the header, each further line is one line of it.
pub(crate) fn run(input: &[u8]) -> bool {
    let Some((choice, text)) = input.split_first() else { return false };
    let header = if choice & 1 == 0 { AddressHeader::XForwardedFor } else { AddressHeader::Forwarded };
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let Some(address) = address(header, &lines) else { return false };

    // Nothing that stands before an address changes it, unless all that follow are proxies.
    let forged = if header == AddressHeader::Forwarded { format!("for={FORGED}") } else { FORGED.to_owned() };
    let with_forged = [&[forged.as_bytes()], &lines[..]].concat();
    let other = self::address(header, &with_forged).unwrap();
    assert!(other == address || (is_proxy(address) && other.to_string() == FORGED), "{address} or {other}");

    if header == AddressHeader::XForwardedFor {
        assert_eq!(address, expected(&lines));
    }
    address.to_string() != PROXY
}

fn address(header: AddressHeader, lines: &[&[u8]]) -> Option<IpAddr> {
    let name = if header == AddressHeader::Forwarded { "forwarded" } else { "x-forwarded-for" };
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line).ok()?);
    }
    Some(client_address(PROXY.parse().unwrap(), &headers, header, &[PROXIES.parse().unwrap()]))
}

fn is_proxy(address: IpAddr) -> bool {
    PROXIES.parse::<IpNet>().unwrap().contains(&address)
}

/// The lines are one list. The last address that no proxy has counts, or the proxy before which something is unreadable.
fn expected(lines: &[&[u8]]) -> IpAddr {
    let mut address = PROXY.parse().unwrap();
    for element in lines.join(&b',').rsplit(|byte| *byte == b',') {
        let read = std::str::from_utf8(element).ok().and_then(|element| read(element.trim()));
        match read {
            Some(before) if is_proxy(address) => address = before,
            _ => break,
        }
    }
    address
}

fn read(text: &str) -> Option<IpAddr> {
    let plain = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    plain.ok().or_else(|| inside?.parse().ok()).map(|address| address.to_canonical())
}
