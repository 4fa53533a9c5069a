//! The edge's sessions for listings: their accounts, clients and bindings.
//!
//! A session adds itself by [`Registry::enter`], updates its [`RegistryEntry`], and is removed when that is dropped.
//! Entries are small and never contain a token. A listing locks the table only while it copies pointers, and an entry only
//! while it copies that entry.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use blackhole_common::{
    chance,
    wire::{SessionInfo, SessionsRequest},
};
use parking_lot::Mutex;

use crate::{clock::unix_now, protocol::request::ClientInfo};

/// Sessions that a listing copies before it yields.
const LIST_BATCH: usize = 256;

/// All sessions of the edge.
#[derive(Debug)]
pub(crate) struct Registry {
    host: Box<str>,
    sessions: Mutex<HashMap<SessionId, Arc<Entry>>>,
}

/// A session's id, unique among all edges. It is random, so that it cannot be guessed.
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
    details: Mutex<Details>,
}

/// What may change during a session.
#[derive(Debug, Default)]
struct Details {
    account_id: Option<Box<str>>,
    /// The session's own texts.
    bindings: Box<[Arc<str>]>,
    name: Option<Box<str>>,
    /// As JSON text: parsed values take several times the memory.
    metadata: Option<Box<str>>,
}

/// A session in the registry, until this is dropped.
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

/// What the log says of a session at its end.
#[derive(Debug)]
pub(crate) struct SessionLog(Arc<Entry>);

impl SessionLog {
    /// Logs the end of the session, after so many requests. One that never had a token is logged for debugging only.
    pub(crate) fn ended(&self, reason: &'static str, requests: u64) {
        let SessionLog(entry) = self;
        let details = entry.details.lock();
        let (bindings, seconds) = (details.bindings.len(), unix_now().saturating_sub(entry.since));
        match details.account_id.as_deref() {
            Some(account_id) => tracing::info!(
                session_id = %entry.id, account_id, source = %entry.source, reason, seconds, requests, bindings,
                "a session has ended"
            ),
            None => tracing::debug!(
                session_id = %entry.id, source = %entry.source, reason, seconds, requests,
                "a session without a token has ended"
            ),
        }
    }
}

impl RegistryEntry {
    /// For the log at the session's end.
    pub(crate) fn log(&self) -> SessionLog {
        SessionLog(Arc::clone(&self.entry))
    }

    /// Sets the session's account and bindings.
    pub(crate) fn update<'a>(
        &self,
        account_id: Option<&str>,
        bindings: impl Iterator<Item = &'a Arc<str>> + Clone,
    ) {
        let mut details = self.entry.details.lock();
        if details.account_id.as_deref() != account_id {
            details.account_id = account_id.map(Into::into);
        }
        if !details.bindings.iter().eq(bindings.clone()) {
            details.bindings = bindings.cloned().collect();
        }
    }

    /// Sets the name and metadata, if the client gave them.
    pub(crate) fn describe(&self, client: ClientInfo) {
        let mut details = self.entry.details.lock();
        if let Some(name) = client.name {
            details.name = Some(name.into());
        }
        if let Some(metadata) = client.metadata {
            details.metadata = Some(metadata.to_string().into());
        }
    }
}

impl Registry {
    /// An empty registry of the edge on `host`.
    pub(crate) fn new(host: &str) -> Registry {
        Registry { host: host.into(), sessions: Mutex::default() }
    }

    /// Adds a new session of a client at `source`.
    pub(crate) fn enter(self: &Arc<Self>, source: IpAddr) -> RegistryEntry {
        let entry = Arc::new(Entry {
            id: SessionId(chance::random()),
            since: unix_now(),
            source,
            details: Mutex::default(),
        });
        self.sessions.lock().insert(entry.id, Arc::clone(&entry));
        RegistryEntry { registry: Arc::clone(self), entry }
    }

    /// How many sessions there are.
    pub(crate) fn count(&self) -> usize {
        self.sessions.lock().len()
    }

    /// The sessions that match `filter`, oldest first.
    pub(crate) async fn list(&self, filter: &SessionsRequest) -> Vec<SessionInfo> {
        let mut entries: Vec<Arc<Entry>> = match &filter.session_id {
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
        for entries in entries.chunks(LIST_BATCH) {
            sessions
                .extend(entries.iter().filter_map(|entry| self.info(entry, filter.account_id.as_deref())));
            tokio::task::yield_now().await;
        }
        sessions
    }

    /// The session as it is listed, if it belongs to that account.
    fn info(&self, entry: &Entry, account_id: Option<&str>) -> Option<SessionInfo> {
        let details = entry.details.lock();
        if account_id.is_some_and(|wanted| details.account_id.as_deref() != Some(wanted)) {
            return None;
        }
        Some(SessionInfo {
            session_id: entry.id.to_string(),
            account_id: details.account_id.as_deref().map(str::to_owned),
            bindings: details.bindings.iter().map(|binding| binding.to_string()).collect(),
            since: entry.since,
            name: details.name.as_deref().map(str::to_owned),
            metadata: details.metadata.as_deref().and_then(|json| serde_json::from_str(json).ok()),
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
    async fn a_session_is_listed_with_its_details_until_it_ends() {
        let registry = registry();
        let listed = enter(&registry);
        assert_eq!(all(&registry).await.len(), 1, "before its first request");
        listed.update(Some("acc"), ["call.*.*", "fax.status.*"].map(Arc::from).iter());
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
        listed.update(Some("acc"), ["fax.status.*"].map(Arc::from).iter());
        assert_eq!(all(&registry).await[0].bindings, ["fax.status.*"]);
        drop(listed);
        assert_eq!(all(&registry).await, []);
    }

    #[tokio::test]
    async fn sessions_are_listed_by_account_and_by_id() {
        let registry = registry();
        let listed: Vec<RegistryEntry> = (0..600).map(|_| enter(&registry)).collect();
        for (index, listed) in listed.iter().enumerate() {
            listed.update(Some(if index < 400 { "a" } else { "b" }), std::iter::empty());
        }
        let list = async |account: Option<&str>, session: Option<&str>| {
            let filter = SessionsRequest {
                account_id: account.map(str::to_owned),
                session_id: session.map(str::to_owned),
            };
            registry.list(&filter).await
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
