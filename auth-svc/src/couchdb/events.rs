//! Documents that KAZOO has told of over AMQP. The ingest passes these events on for clients anyway; here they say when a
//! signature secret is to be read again.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use blackhole_common::{tenant::Tenant, wire::Subjects};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::time::sleep;

use super::{
    documents::Revision,
    identities::{Identities, Identity},
    owned::Owned,
};

/// What can happen to a document.
const ACTIONS: [&str; 3] = ["doc_created", "doc_edited", "doc_deleted"];
/// The documents that have signature secrets.
const TYPES: [&str; 3] = ["account", "device", "user"];
/// Those that users own. A change of one may make it another user's.
const OWNED_TYPES: [&str; 3] = ["device", "faxbox", "vmbox"];
/// Documents that are read at once.
const CONCURRENT: usize = 16;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Reads again what KAZOO says has changed, without end; also what users own, if that is wanted.
pub async fn follow(
    client: Client,
    subjects: Subjects,
    identities: Arc<Identities>,
    owned: Option<Arc<Owned>>,
) {
    let prefix = subjects.event();
    let mut messages = stream::SelectAll::new();
    for action in ACTIONS {
        let owned_types = OWNED_TYPES.into_iter().filter(|kind| owned.is_some() && !TYPES.contains(kind));
        for kind in TYPES.into_iter().chain(owned_types) {
            let subject = format!("{prefix}.*.{action}.*.{kind}.*");
            let messages_of_kind = loop {
                match client.subscribe(subject.clone()).await {
                    Ok(messages) => break messages,
                    Err(error) => {
                        tracing::warn!(%error, subject, "cannot subscribe to changes, trying again");
                    }
                }
                sleep(RETRY_INTERVAL).await;
            };
            messages.push(messages_of_kind);
        }
    }
    messages
        .for_each_concurrent(CONCURRENT, |message| {
            let identities = Arc::clone(&identities);
            let changed = read(&prefix, &message.subject, &message.payload);
            let is_owned =
                message.subject.split('.').rev().nth(1).is_some_and(|kind| OWNED_TYPES.contains(&kind));
            let owned = owned.clone().filter(|_| is_owned);
            async move {
                if let Some((identity, revision)) = changed {
                    if let Some(owned) = owned {
                        owned.changed(&identity.account_id);
                    }
                    identities.changed(&identity, revision).await;
                }
            }
        })
        .await;
}

/// The document that an event tells of, and the revision that it has now, if the event says so.
pub fn read(prefix: &str, subject: &str, body: &[u8]) -> Option<(Identity, Revision)> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "Rev")]
        revision: Option<Revision>,
    }
    let words: Vec<&str> = subject.strip_prefix(prefix)?.strip_prefix('.')?.split('.').collect();
    let [_, _, database, _, id] = words.as_slice() else { return None };
    let Tenant::Account(account_id) = Tenant::of_database(database) else { return None };
    let revision = serde_json::from_slice::<Body>(body).ok().and_then(|body| body.revision);
    Some((Identity { account_id, id: (*id).to_owned() }, revision.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_in_accounts_own_databases_are_recognized() {
        let account = "4b31dd1d32ce6d249897c06332375d65";
        let subject = |database: &str| format!("bh.event.{account}.doc_edited.{database}.user.u1");
        let own = subject("account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65");
        let identity = Identity { account_id: account.into(), id: "u1".into() };
        for (body, revision) in [
            ("{\"Rev\":\"7-a\"}", "7-a"),
            ("{}", ""),
            ("{\"Rev\":7}", ""),
            ("x", ""),
            ("{\"Rev\":\"a\"}", ""),
        ] {
            let revision = Revision::of(revision);
            assert_eq!(read("bh.event", &own, body.as_bytes()), Some((identity.clone(), revision)));
        }
        for other in [subject("accounts"), "bh.event.a.b".into(), own.replace("bh.", "other.")] {
            assert_eq!(read("bh.event", &other, b"{}"), None, "{other}");
        }
    }
}
