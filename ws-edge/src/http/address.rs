//! Where clients come from, and how many may come from one address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use hyper::{HeaderMap, StatusCode, header};
use ipnet::IpNet;
use parking_lot::Mutex;

use super::Refusal;

/// Counts sessions, in all and by address.
#[derive(Debug)]
pub struct Places {
    most: usize,
    most_per_address: Option<usize>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One session's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// Room for `most` sessions, `most_per_address` from one address.
    pub fn new(most: usize, most_per_address: Option<usize>) -> Places {
        Places { most, most_per_address, taken: Arc::default() }
    }

    pub(super) fn take(&self, address: IpAddr) -> Result<Place, Refusal> {
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            let text = "this server has as many sessions as it may, come back later";
            return Err(
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "full", text).with(header::RETRY_AFTER, "5")
            );
        }
        let own = taken.by_address.entry(address).or_default();
        if self.most_per_address.is_some_and(|most| *own >= most) {
            let text = "too many connections from your address";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "per_address", text)
                .with(header::RETRY_AFTER, "5"));
        }
        *own += 1;
        taken.all += 1;
        Ok(Place { address, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        if let Entry::Occupied(mut own) = taken.by_address.entry(self.address) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// The client's address: the peer's, or, if that is a trusted proxy, the last one in `X-Forwarded-For` that is
/// none. What stands before that a client may have written itself.
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
            Ok(before) => address = before.to_canonical(),
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
    fn only_trusted_proxies_are_believed() {
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

    #[test]
    fn places_are_given_back() {
        let places = Places::new(3, Some(2));
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = [places.take(one).ok().unwrap(), places.take(one).ok().unwrap()];
        assert_eq!(places.take(one).err().unwrap().status, StatusCode::TOO_MANY_REQUESTS);
        let _third = places.take(other).ok().unwrap();
        assert_eq!(places.take(other).err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        assert!(places.take(one).is_ok());
        assert_eq!(places.taken.lock().by_address.len(), 1);
    }
}
