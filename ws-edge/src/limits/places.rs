//! Places of connections: per client, with and without an accepted token, and of sessions in total.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;

use super::client_network::ClientNetwork;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The edge has as many sessions as it may.
    Edge,
    /// The client has as many connections as it may.
    Client,
    /// The client has as many connections without an accepted token as it may.
    Tokenless,
}

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
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

/// The place of a client's connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    client: ClientNetwork,
    is_tokenless: bool,
    taken: Arc<Mutex<Taken>>,
}

/// The place of a session among all sessions of the edge, until it is dropped.
#[derive(Debug)]
pub(crate) struct SessionPlace {
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// At most `max_sessions` in total; of one client at most `max_per_client` connections, of which at most
    /// `max_tokenless` have no accepted token.
    pub(crate) fn new(max_sessions: usize, max_per_client: usize, max_tokenless: usize) -> Places {
        Places { max_sessions, max_per_client, max_tokenless, taken: Arc::default() }
    }

    /// A place for a client's connection, which has no accepted token yet.
    pub(crate) fn connection(&self, client: ClientNetwork) -> Result<Place, NoPlace> {
        let mut taken = self.taken.lock();
        if let Some(own) = taken.by_client.get(&client) {
            if own.all >= self.max_per_client {
                return Err(NoPlace::Client);
            }
            if own.tokenless >= self.max_tokenless {
                return Err(NoPlace::Tokenless);
            }
        }
        let own = taken.by_client.entry(client).or_default();
        own.all += 1;
        own.tokenless += 1;
        Ok(Place { client, is_tokenless: true, taken: Arc::clone(&self.taken) })
    }

    /// A place for a session.
    pub(crate) fn session(&self) -> Result<SessionPlace, NoPlace> {
        let mut taken = self.taken.lock();
        if taken.sessions >= self.max_sessions {
            return Err(NoPlace::Edge);
        }
        taken.sessions += 1;
        Ok(SessionPlace { taken: Arc::clone(&self.taken) })
    }
}

impl Place {
    /// The connection's token was accepted: it no longer counts among the client's connections without one.
    pub(crate) fn token_accepted(&mut self) {
        if std::mem::take(&mut self.is_tokenless)
            && let Some(own) = self.taken.lock().by_client.get_mut(&self.client)
        {
            own.tokenless -= 1;
        }
    }
}

impl Drop for Place {
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

impl Drop for SessionPlace {
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
        let places = Places::new(9, 2, 9);
        let held = [(); 2].map(|()| places.connection(client(1)).unwrap());
        assert_eq!(places.connection(client(1)).unwrap_err(), NoPlace::Client);
        let other = places.connection(client(2)).unwrap();
        drop(held);
        assert!(places.connection(client(1)).is_ok());
        drop(other);
        assert!(places.taken.lock().by_client.is_empty(), "clients without connections are forgotten");
    }

    #[test]
    fn an_accepted_token_makes_room_for_a_connection_without_one() {
        let places = Places::new(9, 3, 1);
        let mut first = places.connection(client(1)).unwrap();
        assert_eq!(places.connection(client(1)).unwrap_err(), NoPlace::Tokenless);
        first.token_accepted();
        first.token_accepted();
        let second = places.connection(client(1)).unwrap();
        assert_eq!(places.connection(client(1)).unwrap_err(), NoPlace::Tokenless, "it counts once");
        drop(first);
        assert_eq!(places.connection(client(1)).unwrap_err(), NoPlace::Tokenless, "it had a token");
        drop(second);
        assert!(places.connection(client(1)).is_ok());
    }

    #[test]
    fn sessions_are_limited_in_total() {
        let places = Places::new(1, 9, 9);
        let session = places.session().unwrap();
        assert_eq!(places.session().unwrap_err(), NoPlace::Edge);
        drop(session);
        assert!(places.session().is_ok());
    }
}
