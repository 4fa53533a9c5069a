//! The limit of open sessions, in total and per client address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use hyper::{StatusCode, header};
use parking_lot::Mutex;

use super::refusal::Refusal;

/// Limits open sessions, in total and per address.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    max: usize,
    max_per_address: Option<usize>,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Counts a session as open until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    address: IpAddr,
    open: Arc<Mutex<Open>>,
}

impl ConnectionLimit {
    /// At most `max` sessions in total, and `max_per_address` from one address.
    pub(super) fn new(max: usize, max_per_address: Option<usize>) -> ConnectionLimit {
        ConnectionLimit { max, max_per_address, open: Arc::default() }
    }

    pub(super) fn acquire(&self, address: IpAddr) -> Result<ConnectionPermit, Refusal> {
        let mut open = self.open.lock();
        if open.total >= self.max {
            let text = "this server has as many sessions as it may, come back later";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "full", text)
                .with_header(header::RETRY_AFTER, "5"));
        }
        let own = open.by_address.entry(address).or_default();
        if self.max_per_address.is_some_and(|max| *own >= max) {
            let text = "too many connections from your address";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "per_address", text)
                .with_header(header::RETRY_AFTER, "5"));
        }
        *own += 1;
        open.total += 1;
        Ok(ConnectionPermit { address, open: Arc::clone(&self.open) })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.total -= 1;
        if let Entry::Occupied(mut own) = open.by_address.entry(self.address) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_permits_are_released() {
        let limit = ConnectionLimit::new(3, Some(2));
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = [limit.acquire(one).ok().unwrap(), limit.acquire(one).ok().unwrap()];
        assert_eq!(limit.acquire(one).err().unwrap().status, StatusCode::TOO_MANY_REQUESTS);
        let _third = limit.acquire(other).ok().unwrap();
        assert_eq!(limit.acquire(other).err().unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        drop(held);
        assert!(limit.acquire(one).is_ok());
        assert_eq!(limit.open.lock().by_address.len(), 1);
    }
}
