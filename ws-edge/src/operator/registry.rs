//! The edge's sessions as they are listed: who they are and what they have bound.
//!
//! A session puts itself in by [`Registry::enter`], tells what has changed, and goes out when its [`RegistryEntry`] is
//! dropped. What is held beside the session's own state is little, and never a token. A listing holds the lock on
//! the table for as long as it takes to copy pointers, and each entry's for as long as it takes to copy that one.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use blackhole_common::wire::{SessionInfo, SessionsRequest};
use parking_lot::Mutex;

use crate::{clock::unix_now, protocol::request::ClientInfo};

/// Sessions that are copied before other tasks have their turn.
const AT_ONCE: usize = 256;

/// All sessions of the edge.
#[derive(Debug)]
pub(crate) struct Registry {
    host: Box<str>,
    sessions: Mutex<HashMap<SessionId, Arc<Entry>>>,
}

/// Identifies a session among those of all edges. It is random: nobody guesses another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct SessionId(u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug)]
struct Entry {
    id: SessionId,
    /// In Unix seconds.
    since: u64,
    source: IpAddr,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    account_id: Option<Box<str>>,
    bindings: Box<[Box<str>]>,
    name: Option<Box<str>>,
    /// As JSON: its values take several times the room.
    metadata: Option<Box<str>>,
}

/// A session's place in the registry; it is free when this is dropped.
#[derive(Debug)]
pub(crate) struct RegistryEntry {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        self.registry.sessions.lock().remove(&self.entry.id);
    }
}

impl RegistryEntry {
    /// Tells whose the session is and what it has bound now.
    pub(crate) fn update<'a>(
        &self,
        account_id: Option<&str>,
        bindings: impl Iterator<Item = &'a str> + Clone,
    ) {
        let mut shown = self.entry.shown.lock();
        if shown.account_id.as_deref() != account_id {
            shown.account_id = account_id.map(Into::into);
        }
        if !shown.bindings.iter().map(|binding| &**binding).eq(bindings.clone()) {
            shown.bindings = bindings.map(Into::into).collect();
        }
    }

    /// Takes over what the client calls the session, as far as it says.
    pub(crate) fn describe(&self, client: ClientInfo) {
        let mut shown = self.entry.shown.lock();
        if let Some(name) = client.name {
            shown.name = Some(name.into());
        }
        if let Some(metadata) = client.metadata {
            shown.metadata = Some(metadata.to_string().into());
        }
    }
}

impl Registry {
    /// Without sessions, on the machine called `host`.
    pub(crate) fn new(host: &str) -> Registry {
        Registry { host: host.into(), sessions: Mutex::default() }
    }

    /// Puts a new session of a client at `source` in.
    pub(crate) fn enter(self: &Arc<Self>, source: IpAddr) -> RegistryEntry {
        let entry = Arc::new(Entry {
            id: SessionId(rand::random()),
            since: unix_now(),
            source,
            shown: Mutex::default(),
        });
        self.sessions.lock().insert(entry.id, Arc::clone(&entry));
        RegistryEntry { registry: Arc::clone(self), entry }
    }

    /// The sessions that `wanted` asks for, oldest first.
    pub(crate) async fn list(&self, wanted: &SessionsRequest) -> Vec<SessionInfo> {
        let mut entries: Vec<Arc<Entry>> = match &wanted.session_id {
            Some(id) => u128::from_str_radix(id, 16)
                .ok()
                .and_then(|id| self.sessions.lock().get(&SessionId(id)).cloned())
                .filter(|entry| entry.id.to_string() == *id)
                .into_iter()
                .collect(),
            None => self.sessions.lock().values().cloned().collect(),
        };
        entries.sort_unstable_by_key(|entry| (entry.since, entry.id.0));
        let mut sessions = Vec::new();
        for entries in entries.chunks(AT_ONCE) {
            sessions
                .extend(entries.iter().filter_map(|entry| self.show(entry, wanted.account_id.as_deref())));
            tokio::task::yield_now().await;
        }
        sessions
    }

    /// The session as it is listed, if it is of that account.
    fn show(&self, entry: &Entry, account_id: Option<&str>) -> Option<SessionInfo> {
        let shown = entry.shown.lock();
        if account_id.is_some_and(|wanted| shown.account_id.as_deref() != Some(wanted)) {
            return None;
        }
        Some(SessionInfo {
            session_id: entry.id.to_string(),
            account_id: shown.account_id.as_deref().map(str::to_owned),
            bindings: shown.bindings.iter().map(|binding| binding.to_string()).collect(),
            since: entry.since,
            name: shown.name.as_deref().map(str::to_owned),
            metadata: shown.metadata.as_deref().and_then(|json| serde_json::from_str(json).ok()),
            source: entry.source.to_string(),
            destination: self.host.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::new("edge1.example.com"))
    }

    fn enter(registry: &Arc<Registry>) -> RegistryEntry {
        registry.enter(Ipv4Addr::new(192, 0, 2, 7).into())
    }

    async fn all(registry: &Registry) -> Vec<SessionInfo> {
        registry.list(&SessionsRequest::default()).await
    }

    #[tokio::test]
    async fn a_session_is_listed_with_what_it_told_until_it_ends() {
        let registry = registry();
        let listed = enter(&registry);
        assert_eq!(all(&registry).await.len(), 1, "before it has told anything");
        listed.update(Some("acc"), ["call.*.*", "fax.status.*"].into_iter());
        listed.describe(ClientInfo { name: Some("desk".into()), metadata: Some(json!({ "room": 4 })) });
        listed.describe(ClientInfo { name: Some("front desk".into()), metadata: None });
        let sessions = all(&registry).await;
        let [session] = sessions.as_slice() else { panic!("{sessions:?}") };
        assert_eq!(session.session_id.len(), 32);
        assert!(unix_now() - session.since < 10);
        assert_eq!(
            serde_json::to_value(session).unwrap(),
            json!({
                "session_id": session.session_id, "account_id": "acc", "since": session.since,
                "bindings": ["call.*.*", "fax.status.*"], "name": "front desk", "metadata": { "room": 4 },
                "source": "192.0.2.7", "destination": "edge1.example.com",
            })
        );
        listed.update(Some("acc"), ["fax.status.*"].into_iter());
        assert_eq!(all(&registry).await[0].bindings, ["fax.status.*"]);
        drop(listed);
        assert_eq!(all(&registry).await, []);
    }

    #[tokio::test]
    async fn a_listing_is_of_one_account_or_of_one_session() {
        let registry = registry();
        let listed: Vec<RegistryEntry> = (0..600).map(|_| enter(&registry)).collect();
        for (index, listed) in listed.iter().enumerate() {
            listed.update(Some(if index < 400 { "a" } else { "b" }), std::iter::empty());
        }
        let list = async |account: Option<&str>, session: Option<&str>| {
            let wanted = SessionsRequest {
                account_id: account.map(str::to_owned),
                session_id: session.map(str::to_owned),
            };
            registry.list(&wanted).await
        };
        assert_eq!(list(None, None).await.len(), 600);
        let of_a = list(Some("a"), None).await;
        assert_eq!(of_a.len(), 400);
        let id = of_a[0].session_id.clone();
        assert_eq!(list(None, Some(&id)).await, of_a[..1]);
        assert_eq!(list(Some("a"), Some(&id)).await, of_a[..1]);
        assert_eq!(list(Some("b"), Some(&id)).await, [], "another account's");
        for unknown in ["", "nonsense", &id[1..], &format!("0{id}"), &id.to_uppercase().replace('0', "+")] {
            assert_eq!(list(None, Some(unknown)).await, [], "{unknown}");
        }
    }
}
