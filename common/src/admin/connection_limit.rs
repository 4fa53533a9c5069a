//! The limit of connections. When it is reached, a new connection displaces another one, so connections
//! that are held open lock out nobody.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The limit of connections.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    next_id: u64,
    /// The oldest first.
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    client: IpAddr,
    displaced: CancellationToken,
}

/// A connection counts until this is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    id: u64,
    displaced: CancellationToken,
    taken: Arc<Mutex<Taken>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionLimit {
    /// This many.
    pub(super) fn new(count: usize) -> ConnectionLimit {
        ConnectionLimit { free: Arc::new(Semaphore::new(count)), taken: Arc::default() }
    }

    /// A permit for a connection from this address. If none is free, the client with the most connections loses its
    /// oldest one; so a client that opens many displaces only its own. Ends when there is room.
    pub(super) async fn take(&self, address: IpAddr) -> ConnectionPermit {
        let client = client(address);
        let displaced = CancellationToken::new();
        let id = {
            let mut taken = self.taken.lock();
            if self.free.available_permits() == 0 {
                taken.displace_for(client);
            }
            let id = taken.next_id;
            taken.next_id += 1;
            taken.connections.push(Connection { id, client, displaced: displaced.clone() });
            id
        };
        let mut permit = ConnectionPermit { id, displaced, taken: Arc::clone(&self.taken), _permit: None };
        // The semaphore is never closed.
        permit._permit = Arc::clone(&self.free).acquire_owned().await.ok();
        permit
    }
}

impl Taken {
    fn displace_for(&mut self, new: IpAddr) {
        let count = |client: IpAddr| {
            let own = self.connections.iter().filter(|connection| connection.client == client).count();
            own + usize::from(client == new)
        };
        let most = self.connections.iter().map(|connection| count(connection.client)).max();
        let oldest = self.connections.iter().find(|connection| Some(count(connection.client)) == most);
        if let Some(connection) = oldest {
            connection.displaced.cancel();
        }
    }
}

impl ConnectionPermit {
    /// Ends when another connection needs the permit.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.taken.lock().connections.retain(|connection| connection.id != self.id);
    }
}

/// Whose connection it is: an IPv6 client usually has a whole /64 network.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_displaced(permit: &ConnectionPermit) -> bool {
        permit.displaced.is_cancelled()
    }

    #[tokio::test]
    async fn a_client_with_many_connections_displaces_only_its_own() {
        let limit = Arc::new(ConnectionLimit::new(3));
        let (probe, flood) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let probes = limit.take(probe).await;
        let mut floods = vec![limit.take(flood).await, limit.take(flood).await];
        for number in 0..9 {
            let next = tokio::spawn({
                let limit = Arc::clone(&limit);
                // Another address of the same network.
                let address = IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + number));
                async move { limit.take(address).await }
            });
            floods[0].displaced().await;
            assert!(!is_displaced(&floods[1]) && !is_displaced(&probes));
            assert!(!next.is_finished(), "it waits until there is room");
            floods.remove(0);
            floods.push(next.await.unwrap());
        }
        drop((probes, floods));
        assert_eq!(limit.free.available_permits(), 3);
        assert!(limit.taken.lock().connections.is_empty());
    }

    #[tokio::test]
    async fn of_clients_with_equally_many_the_oldest_connection_is_displaced() {
        let limit = ConnectionLimit::new(2);
        let [one, other, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| ip.parse().unwrap());
        let (first, second) = (limit.take(one).await, limit.take(other).await);
        let (_, ()) = tokio::join!(limit.take(third), async {
            first.displaced().await;
            drop(first);
        });
        assert!(!is_displaced(&second));
    }
}
