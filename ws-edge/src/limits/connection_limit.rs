//! ConnectionLimit of connections: per client, with and without an accepted token, and of sessions in total.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;

use super::client_network::ClientNetwork;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The edge has as many sessions as it may.
    Edge,
    /// The client has as many connections as it may.
    Client,
    /// The client has as many connections without an accepted token as it may.
    Tokenless,
}

/// The limits, and what is open.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    max_sessions: usize,
    max_per_client: usize,
    max_tokenless: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    sessions: usize,
    /// Clients that have connections, so there are at most as many as connections.
    by_client: HashMap<ClientNetwork, Own>,
}

/// The connections of one client.
#[derive(Debug, Default)]
struct Own {
    all: usize,
    tokenless: usize,
}

/// A client's connection counts until this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    client: ClientNetwork,
    is_tokenless: bool,
    taken: Arc<Mutex<Taken>>,
}

/// A session counts among all of the edge until this is dropped.
#[derive(Debug)]
pub(crate) struct SessionPermit {
    taken: Arc<Mutex<Taken>>,
}

impl ConnectionLimit {
    /// At most `max_sessions` in total; of one client at most `max_per_client` connections, of which at most
    /// `max_tokenless` have no accepted token.
    pub(crate) fn new(max_sessions: usize, max_per_client: usize, max_tokenless: usize) -> ConnectionLimit {
        ConnectionLimit { max_sessions, max_per_client, max_tokenless, taken: Arc::default() }
    }

    /// A permit for a client's connection, which has no accepted token yet.
    pub(crate) fn connection(&self, client: ClientNetwork) -> Result<ConnectionPermit, LimitReached> {
        let mut taken = self.taken.lock();
        if let Some(own) = taken.by_client.get(&client) {
            if own.all >= self.max_per_client {
                return Err(LimitReached::Client);
            }
            if own.tokenless >= self.max_tokenless {
                return Err(LimitReached::Tokenless);
            }
        }
        let own = taken.by_client.entry(client).or_default();
        own.all += 1;
        own.tokenless += 1;
        Ok(ConnectionPermit { client, is_tokenless: true, taken: Arc::clone(&self.taken) })
    }

    /// A permit for a session.
    pub(crate) fn session(&self) -> Result<SessionPermit, LimitReached> {
        let mut taken = self.taken.lock();
        if taken.sessions >= self.max_sessions {
            return Err(LimitReached::Edge);
        }
        taken.sessions += 1;
        Ok(SessionPermit { taken: Arc::clone(&self.taken) })
    }
}

impl ConnectionPermit {
    /// The connection's token was accepted: it no longer counts among the client's connections without one.
    pub(crate) fn token_accepted(&mut self) {
        if std::mem::take(&mut self.is_tokenless)
            && let Some(own) = self.taken.lock().by_client.get_mut(&self.client)
        {
            own.tokenless -= 1;
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.token_accepted();
        if let Entry::Occupied(mut own) = self.taken.lock().by_client.entry(self.client) {
            own.get_mut().all -= 1;
            if own.get().all == 0 {
                own.remove();
            }
        }
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.taken.lock().sessions -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> ClientNetwork {
        ClientNetwork::of([192, 0, 2, last].into())
    }

    #[test]
    fn a_client_leaves_places_for_others_and_gets_its_own_back() {
        let limit = ConnectionLimit::new(9, 2, 9);
        let held = [(); 2].map(|()| limit.connection(client(1)).unwrap());
        assert_eq!(limit.connection(client(1)).unwrap_err(), LimitReached::Client);
        let other = limit.connection(client(2)).unwrap();
        drop(held);
        assert!(limit.connection(client(1)).is_ok());
        drop(other);
        assert!(limit.taken.lock().by_client.is_empty(), "clients without connections are forgotten");
    }

    #[test]
    fn an_accepted_token_makes_room_for_a_connection_without_one() {
        let limit = ConnectionLimit::new(9, 3, 1);
        let mut first = limit.connection(client(1)).unwrap();
        assert_eq!(limit.connection(client(1)).unwrap_err(), LimitReached::Tokenless);
        first.token_accepted();
        first.token_accepted();
        let second = limit.connection(client(1)).unwrap();
        assert_eq!(limit.connection(client(1)).unwrap_err(), LimitReached::Tokenless, "it counts once");
        drop(first);
        assert_eq!(limit.connection(client(1)).unwrap_err(), LimitReached::Tokenless, "it had a token");
        drop(second);
        assert!(limit.connection(client(1)).is_ok());
    }

    #[test]
    fn sessions_are_limited_in_total() {
        let limit = ConnectionLimit::new(1, 9, 9);
        let session = limit.session().unwrap();
        assert_eq!(limit.session().unwrap_err(), LimitReached::Edge);
        drop(session);
        assert!(limit.session().is_ok());
    }
}
